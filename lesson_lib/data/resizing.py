"""How pictures of any size become the input of a network: squares, letterboxes, or the shorter side
brought to one length.

    resizing = Resizing(800, "shorter")                COCO's 480 x 640 -> 800 x 1066 in 800 x 1088
    wide = resizing.apply(sample)
    boxes = resizing.restore(found["boxes"], sample.size)
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lesson_lib.data.augment import MEAN_COLOUR
from lesson_lib.data.samples import Sample, resize

WAYS = ("square", "letterbox", "shorter")
#: Both sides of a canvas are multiples of it, as torchvision pads (its size_divisible).
MULTIPLE = 32
#: Longer : shorter side of the canvases of "shorter", beside the widest: 640 x 480, 640 x 427, ...
SHAPES = (1.0, 4 / 3, 3 / 2)


@dataclass(frozen=True)
class Resizing:
    """One of three ways, in pixels.

    size     "square": pictures become size x size, aspect not kept
             "letterbox": aspect kept, the longer side becomes `size`, the rest of size x size is
             filled up
             "shorter": aspect kept, the shorter side becomes `size` (the "scale" of FL,
             arXiv:1708.02002, section 4.1), unless the longer one would pass `longest`; filled up
             to the smallest of `canvases()` that holds the picture
    longest  of "shorter"; 0: 5/3 of size, which is Detectron's 1000 for 600 and 1333 for 800
    The picture lies at the upper left, what is filled up has ImageNet's mean colour: near 0 once it
    is normalised, where torchvision pads with 0 itself.
    "shorter" samples like torchvision and the authors' Detectron, bilinearly without antialiasing,
    which matters where pictures shrink; the other two with it.
    """

    size: int
    how: str = "square"
    longest: int = 0

    def __post_init__(self) -> None:
        if self.how not in WAYS:
            raise ValueError(f"resize is {self.how!r}; choose {', '.join(WAYS)}.")
        if self.size < 1 or self.longest and self.longest < self.size:
            raise ValueError(
                f"size is {self.size} and longest {self.longest} pixels: give 1 or more, and at "
                "least as much for the longest side (or 0)."
            )

    @property
    def keeps_aspect(self) -> bool:
        """Whether the input has a part that shows no picture."""
        return self.how != "square"

    @property
    def antialias(self) -> bool:
        """Whether pictures are shrunk with antialiasing."""
        return self.how != "shorter"

    def canvases(self) -> tuple[tuple[int, int], ...]:
        """All (height, width) that an input may have. Few, so that a GPU meets few shapes."""
        if self.how != "shorter":
            return ((self.size, self.size),)
        longest = self._longest()
        longer = {min(math.ceil(shape * self.size), longest) for shape in SHAPES} | {longest}
        short, *rest = sorted({-(-side // MULTIPLE) * MULTIPLE for side in longer})
        wide, high = ((short, side) for side in rest), ((side, short) for side in rest)
        return (short, short), *wide, *high

    def largest(self) -> tuple[int, int]:
        """The canvas of most pixels."""
        return max(self.canvases(), key=math.prod)

    def canvas(self, picture: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the input for a picture of (height, width) pixels."""
        height, width = self.inner(picture)
        fitting = (c for c in self.canvases() if height <= c[0] and width <= c[1])
        return min(fitting, key=math.prod)

    def inner(
        self, picture: tuple[int, int], canvas: tuple[int, int] | None = None
    ) -> tuple[int, int]:
        """(height, width) that the picture gets, at the upper left of its own canvas or of another.

        On one that is too small for it, it is shrunk further.
        """
        height, width = picture
        if self.how == "square":
            return self.size, self.size
        if self.how == "letterbox":
            longer = max(picture)
            high, wide = (round(self.size * side / longer) for side in picture)
            return max(1, high), max(1, wide)
        scale = min(self.size / min(picture), self._longest() / max(picture))
        high, wide = max(1, int(height * scale)), max(1, int(width * scale))
        if canvas is not None and (high > canvas[0] or wide > canvas[1]):
            scale = min(canvas[0] / height, canvas[1] / width)
            high, wide = max(1, int(height * scale)), max(1, int(width * scale))
        return high, wide

    def apply(self, sample: Sample, canvas: tuple[int, int] | None = None) -> Sample:
        """The sample as input, its boxes moved with it; canvas: another than its own."""
        if self.how == "square":
            return resize(sample, self.size)
        height, width = canvas or self.canvas(sample.size)
        inner = self.inner(sample.size, canvas)
        if self.how == "shorter":
            small = _without_antialiasing(sample, inner)
        else:
            small = resize(sample, inner)
        fill = torch.tensor(MEAN_COLOUR, dtype=torch.uint8)[:, None, None]
        image = fill.repeat(1, height, width)
        image[:, : inner[0], : inner[1]] = small.image
        return replace(small, image=image)

    def restore(self, boxes: Tensor, picture: tuple[int, int]) -> Tensor:
        """Boxes (N, 4) xyxy on the picture's own canvas -> in pixels of the picture
        (height, width).
        """
        (height, width), (y, x) = picture, self.inner(picture)
        return boxes * boxes.new_tensor([width / x, height / y, width / x, height / y])

    def _longest(self) -> int:
        return self.longest or self.size * 5 // 3


def as_resizing(size: int | Resizing) -> Resizing:
    """A Resizing; a number stands for squares."""
    return size if isinstance(size, Resizing) else Resizing(size)


def picture_sizes(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """(height, width) of all pictures, none of which is decoded where the data set knows them."""
    known = getattr(samples, "sizes", None)
    return known() if known else [sample.size for sample in samples]


def like_shapes(
    numbers: Sequence[int], canvases: Sequence[tuple[int, int]], batch: int
) -> list[tuple[list[int], tuple[int, int]]]:
    """Batches of pictures of one canvas each, in the order of `numbers`, with their canvas.

    canvases: of every picture. What is left over of each canvas is put together, neighbours in
    shape: such a batch has the canvas of most of its pictures. The last ones of `numbers`, if they
    fill no batch, stay out: whatever their shape, so that a rare one has its turn as well.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    batches = []
    for number in numbers[: len(numbers) // batch * batch]:
        group = groups.setdefault(canvases[number], [])
        group.append(number)
        if len(group) == batch:
            batches.append((group, canvases[number]))
            groups[canvases[number]] = []
    left = [n for group in groups.values() for n in group]  # a multiple of batch
    left.sort(key=lambda n: canvases[n][1] / canvases[n][0])
    for start in range(0, len(left), batch):
        part = left[start : start + batch]
        batches.append((part, Counter(canvases[n] for n in part).most_common(1)[0][0]))
    return batches


def _without_antialiasing(sample: Sample, size: tuple[int, int]) -> Sample:
    """The sample at size (height, width), rounded to whole levels once."""
    picture = F.interpolate(sample.image[None].float(), size, mode="bilinear")[0]
    y, x = size[0] / sample.size[0], size[1] / sample.size[1]
    return replace(
        sample,
        image=picture.round_().to(torch.uint8),
        boxes=sample.boxes * torch.tensor([x, y, x, y]),
        area=None if sample.area is None else sample.area * (x * y),
    )
