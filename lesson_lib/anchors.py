"""Anchors: the fixed boxes that a one-stage detector starts from. SSD calls them default boxes.

Nothing here is learned, predicted or read off a picture: a specification always gives the same
boxes. They are xyxy float32 pixels in the order level, row, column, anchor: all anchors of a
position, then the next position of the row, then the next row, then the next (coarser) feature map.
Heads must flatten in the same order.

Both specifications, SSD's `DefaultBoxes` and RetinaNet's `PyramidAnchors`, answer the same
questions: `per_position`, and for a picture size `grids_for(size)`, `counts(size)`, `total(size)`
and `make(size)`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

Size = int | tuple[int, int]  # (height, width), or one number for a square


def as_pair(size: Size) -> tuple[int, int]:
    """(height, width) of a size that may be one number, for a square."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def _place(ys: Tensor, xs: Tensor, sizes: Tensor) -> Tensor:
    """k boxes at each of H x W centres: ys (H,), xs (W,), sizes (k, 2) w,
    h -> (H * W * k, 4) xyxy.
    """
    cy, cx = torch.meshgrid(ys, xs, indexing="ij")
    centres = torch.stack((cx, cy), -1)[:, :, None]  # (H, W, 1, 2)
    boxes = torch.cat((centres - sizes / 2, centres + sizes / 2), -1)  # (H, W, k, 4)
    return boxes.reshape(-1, 4)


def level_slices(counts: "Sequence[int] | DefaultBoxes") -> list[slice]:
    """Where each level lies among all anchors: `[anchors[s] for s in level_slices(counts)]` parts
    (A, 4).
    """
    counts = counts.counts() if isinstance(counts, DefaultBoxes) else counts
    return [slice(end - count, end) for count, end in zip(counts, accumulate(counts))]


def anchor_address(
    index: int, grids: Sequence[Size], per_position: Sequence[int]
) -> tuple[int, int, int, int]:
    """(level, row, column, anchor) of row `index` of all anchors. IndexError beyond the last."""
    rest = index
    for level, ((height, width), k) in enumerate(zip(map(as_pair, grids), per_position)):
        if 0 <= rest < height * width * k:
            return level, rest // (width * k), rest // k % width, rest % k
        rest -= height * width * k
    raise IndexError(f"anchor {index} does not exist: there are {index - rest}, counted from 0.")


def ssd_scales(m: int, s_min: float = 0.2, s_max: float = 0.9) -> tuple[float, ...]:
    """Sizes of the default boxes of m feature maps, fractions of the picture
    (SSD, arXiv:1512.02325, eq. 4).

        s_k = s_min + (s_max - s_min) / (m - 1) * (k - 1),   k = 1 .. m + 1

    Returns m + 1 numbers: the last map's extra box needs s_m+1, which the paper leaves undefined.
    Here it continues the step (1.04 for m = 6), as in the authors' release; torchvision's default
    is 1.
    """
    if m < 2:
        raise ValueError(f"m is {m}; the formula divides by m - 1: give at least 2 feature maps.")
    return tuple(s_min + (s_max - s_min) * k / (m - 1) for k in range(m + 1))


def release_scales(m: int = 6, low: int = 20, high: int = 90, first: int = 10) -> tuple[float, ...]:
    """The scales of SSD's released Caffe code, worked out in whole percents.

    conv4_3 is set apart (`first`), the other m - 1 maps climb in steps of
    floor((high - low) / (m - 2)):

        VOC   floor(70 / 4) = 17:   10 | 20 37 54 71 88 | 105 %
                   of 300 px:       30 | 60 111 162 213 264 | 315
        COCO  floor(75 / 4) = 18:    7 | 15 33 51 69 87 | 105 %    low=15, first=7; torchvision's

    The step is rounded down, so the largest scale is 88 % or 87 %, not the 90 % that were asked
    for.
    """
    step = (high - low) // (m - 2)
    return (first / 100,) + tuple((low + step * k) / 100 for k in range(m))


@dataclass(frozen=True)
class DefaultBoxes:
    """A specification of SSD's default boxes (SSD section 2.2).

    image_size     pixels, (height, width) or one number for a square
    grids          positions of each feature map, finest first: (height, width) or one number
    scales         fractions of the picture, one more than there are maps
    aspect_ratios  w / h for each map: (2,) gives the ratios 1, 1 (extra), 2, 1/2; (2, 3) also 3,
                   1/3
    strides        None: the positions share the picture evenly, the paper's (i + .5) / |f_k|.
                   Numbers: pixels between centres, the release's (i + .5) * stride. Of SSD300's 8,
                   16, 32, 64, 100, 300 the first two sit on the receptive fields and the last two
                   are even shares; the last of ten strides of 32 has its centre at 304, outside
                   the picture.
    clip           limit widths and heights (not corners) to the picture's, as torchvision does
    """

    image_size: Size
    grids: tuple[Size, ...]
    scales: tuple[float, ...]
    aspect_ratios: tuple[tuple[float, ...], ...]
    strides: tuple[float, ...] | None = None
    clip: bool = False

    def __post_init__(self) -> None:
        maps = len(self.grids)
        if len(self.scales) != maps + 1:
            raise ValueError(
                f"{maps} grids need {maps + 1} scales (the last s_m+1), not {len(self.scales)}."
            )
        if len(self.aspect_ratios) != maps or (
            self.strides is not None and len(self.strides) != maps
        ):
            raise ValueError(
                f"aspect_ratios and strides must have one entry for each of the {maps} grids."
            )
        numbers = [
            *as_pair(self.image_size),
            *(n for grid in self.grids for n in as_pair(grid)),
            *self.scales,
            *(ratio for ratios in self.aspect_ratios for ratio in ratios),
            *(self.strides or ()),
        ]
        if not all(0 < n < math.inf for n in numbers):
            raise ValueError(
                "image_size, grids, scales, aspect_ratios and strides must be positive numbers."
            )

    @property
    def per_position(self) -> tuple[int, ...]:
        """Boxes at a position of each map: two of ratio 1, and two for each further ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    def grids_for(self, image_size: Size | None = None) -> tuple[tuple[int, int], ...]:
        """Positions (height, width) of each map, for pictures of `image_size`.

        They belong to one picture size, as only the network knows how its maps grow: ValueError for
        another.
        """
        if image_size is not None and as_pair(image_size) != as_pair(self.image_size):
            raise ValueError(
                f"These default boxes are laid out for pictures of {self.image_size}, not "
                f"{image_size}: ask the model, `model.anchor_spec(size)` lays them out anew."
            )
        return tuple(as_pair(grid) for grid in self.grids)

    def counts(self, image_size: Size | None = None) -> tuple[int, ...]:
        """Boxes of each map."""
        grids = self.grids_for(image_size)
        return tuple(rows * columns * k for (rows, columns), k in zip(grids, self.per_position))

    def total(self, image_size: Size | None = None) -> int:
        """Boxes of all maps: 8732 for SSD300."""
        return sum(self.counts(image_size))

    def make(
        self, image_size: Size | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """`default_boxes` of this specification -> (A, 4) xyxy, pixels."""
        self.grids_for(image_size)  # another size is told here
        return default_boxes(self, device)


def default_boxes(spec: DefaultBoxes, device: torch.device | str | None = None) -> Tensor:
    """All default boxes of a specification -> (A, 4) xyxy, pixels; they may reach beyond the
    picture.

        w = s_k sqrt(r),  h = s_k / sqrt(r)   and one extra square box of scale sqrt(s_k s_k+1)

    At a position: ratio 1, the extra box, then r and 1 / r of each further ratio. w is a fraction
    of the picture's width, h of its height. Computed in float64: torchvision's differ by a
    float32's rounding.
    """
    height, width = as_pair(spec.image_size)
    levels = []
    for level, (grid, scale, ratios) in enumerate(zip(spec.grids, spec.scales, spec.aspect_ratios)):
        rows, columns = as_pair(grid)
        extra = math.sqrt(scale * spec.scales[level + 1])
        shapes = [(scale, scale), (extra, extra)]
        for root in map(math.sqrt, ratios):
            shapes += [(scale * root, scale / root), (scale / root, scale * root)]
        sizes = torch.tensor(shapes, dtype=torch.float64)  # (k, 2), fractions
        sizes = (sizes.clamp(max=1) if spec.clip else sizes) * torch.tensor((width, height))
        stride_y, stride_x = height / rows, width / columns
        if spec.strides:
            stride_y = stride_x = spec.strides[level]
        ys = (torch.arange(rows, dtype=torch.float64) + 0.5) * stride_y
        xs = (torch.arange(columns, dtype=torch.float64) + 0.5) * stride_x
        levels.append(_place(ys, xs, sizes))
    return torch.cat(levels).to(device, torch.float32)


# Equation 4 as printed, m = 6: .2 .34 .48 .62 .76 .9 (1.04)
_EQUATION_4 = DefaultBoxes(
    image_size=300,
    grids=(38, 19, 10, 5, 3, 1),
    scales=ssd_scales(6),
    aspect_ratios=((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
)
# The authors' release for VOC: 30 60 111 162 213 264 (315) px
_RELEASE = replace(_EQUATION_4, scales=release_scales(), strides=(8, 16, 32, 64, 100, 300))

SSD300_SCALES = {  # as published in four places: 8732 boxes each, no two sets alike
    "paper-eq4": _EQUATION_4,
    # Section 3.1: conv4_3 at .1; equation 4 with m = 5 for the others: .2 .375 .55 .725 .9 (1.075)
    "paper-conv4_3": replace(_EQUATION_4, scales=(0.1,) + ssd_scales(5)),
    "caffe-voc": _RELEASE,
    # torchvision's ssd300_vgg16: the release's numbers for COCO: 21 45 99 153 207 261 (315) px
    "torchvision-coco": replace(_RELEASE, scales=release_scales(low=15, first=7), clip=True),
}

#: SSD512 (section 3.3): one more map, s_min .15, conv4_3 at .07: 24,564 boxes. The strides divide
#: 512 evenly.
SSD512 = DefaultBoxes(
    image_size=512,
    grids=(64, 32, 16, 8, 4, 2, 1),
    scales=(0.07,) + ssd_scales(6, 0.15),
    aspect_ratios=((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
)
#: For COCO, whose objects are smaller (section 3.4): SSD300 s_min .15, conv4_3 .07; SSD512 .1, .04.
SSD300_COCO = replace(_EQUATION_4, scales=(0.07,) + ssd_scales(5, 0.15))
SSD512_COCO = replace(SSD512, scales=(0.04,) + ssd_scales(6, 0.1))


@dataclass(frozen=True)
class PyramidAnchors:
    """A specification of RetinaNet's anchors on P3 .. P7 (FL, arXiv:1708.02002, section 4): 9 at a
    position.

    strides        pixels between the positions of each level
    sizes          side of each level's square anchor, pixels
    scales         factors on `sizes`; the paper's three fill the octave up to the next level
    aspect_ratios  w / h at equal area
    centre         "half": (i + .5) * stride; "corner": torchvision's i * (size // positions)
                   (where the stride does not divide the picture, another one: at 608 px, P7's is
                   121)
    rounded        torchvision's whole numbers: 32 * 2^(1/3) is 40, and half widths and heights are
                   rounded, so the 1:2 anchor of 32 is 22 x 46 with ratio .478. The paper rounds
                   nothing.
    torchvision's ratios are h / w: its (.5, 1, 2) are (2, 1, .5) here, and then the order is the
    same too.
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    scales: tuple[float, ...] = (1, 2 ** (1 / 3), 2 ** (2 / 3))
    aspect_ratios: tuple[float, ...] = (0.5, 1, 2)
    centre: str = "half"
    rounded: bool = False

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.sizes):
            raise ValueError(
                f"{len(self.strides)} strides, {len(self.sizes)} sizes; give as many of each."
            )
        if not all(
            0 < n < math.inf for n in self.strides + self.sizes + self.scales + self.aspect_ratios
        ):
            raise ValueError(
                "strides, sizes, scales and aspect_ratios must all be positive numbers."
            )
        if self.centre not in ("half", "corner"):
            raise ValueError(f"centre is {self.centre!r}; choose 'half' or 'corner'.")

    @property
    def per_position(self) -> tuple[int, ...]:
        """Anchors at a position of each level: the same number on all."""
        return (len(self.scales) * len(self.aspect_ratios),) * len(self.strides)

    def grids_for(self, image_size: Size) -> tuple[tuple[int, int], ...]:
        """Positions (height, width) of each level: picture / stride, rounded up, as strided
        convolutions do.
        """
        height, width = as_pair(image_size)
        return tuple((-(-height // stride), -(-width // stride)) for stride in self.strides)

    def counts(self, image_size: Size) -> tuple[int, ...]:
        """Anchors of each level."""
        grids = self.grids_for(image_size)
        return tuple(rows * columns * k for (rows, columns), k in zip(grids, self.per_position))

    def total(self, image_size: Size) -> int:
        """Anchors of all levels: 67,995 at 600 x 600."""
        return sum(self.counts(image_size))

    def levels_of(self, anchors: Tensor) -> Tensor:
        """Which positions each level has: anchors (A, 4) of `make` -> (L, A / per_position) bool.

        Told by their widths, and no value is looked at: sizes must rise from level to level.
        """
        first = anchors[:: self.per_position[0]]
        width = first[:, 2] - first[:, 0]
        factor = self.scales[0] * math.sqrt(self.aspect_ratios[0])
        bounds = [factor * (below + above) / 2 for below, above in pairwise(self.sizes)]
        return torch.stack(
            [(width > low) & (width <= high) for low, high in pairwise((0, *bounds, math.inf))]
        )

    def make(self, image_size: Size, device: torch.device | str | None = None) -> Tensor:
        """`pyramid_anchors` of this specification -> (A, 4) xyxy, pixels."""
        return pyramid_anchors(image_size, self, device)


RETINANET = PyramidAnchors()
AnchorSpec = DefaultBoxes | PyramidAnchors


def pyramid_anchors(
    image_size: Size, spec: PyramidAnchors = RETINANET, device: torch.device | str | None = None
) -> Tensor:
    """All anchors of a picture of (height, width) pixels -> (A, 4) xyxy, pixels; they may reach
    beyond it.

        w = size * scale * sqrt(r),  h = size * scale / sqrt(r)

    At a position the scales change fastest.
    """
    height, width = as_pair(image_size)
    levels = []
    for stride, size, (rows, columns) in zip(spec.strides, spec.sizes, spec.grids_for(image_size)):
        sides = [int(size * scale) if spec.rounded else size * scale for scale in spec.scales]
        shapes = [(s * math.sqrt(r), s / math.sqrt(r)) for r in spec.aspect_ratios for s in sides]
        sizes = torch.tensor(shapes, dtype=torch.float64)  # (k, 2)
        sizes = (sizes / 2).round() * 2 if spec.rounded else sizes
        ys, xs = torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64)
        if spec.centre == "corner":
            levels.append(_place(ys * (height // rows), xs * (width // columns), sizes))
        else:
            levels.append(_place((ys + 0.5) * stride, (xs + 0.5) * stride, sizes))
    return torch.cat(levels).to(device, torch.float32)
