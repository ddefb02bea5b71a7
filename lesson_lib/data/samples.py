"""One picture with its boxes, as every reader of a data set hands it out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, overload, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from lesson_lib.anchors import Size, as_pair


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture and what was annotated in it: G objects, G >= 0.

    image      uint8 (3, H, W), RGB
    boxes      float32 (G, 4), xyxy in pixels, continuous; each of positive area
    labels     int64 (G,), 0..K-1: no number is kept for the background
    difficult  bool (G,), objects that VOC's evaluation passes over; all False when left out
    crowd      bool (G,), regions of many objects that COCO's evaluation ignores; all False when
               left out
    area       float32 (G,) in square pixels where the data set has masks, else None
               (the box's area counts)
    id         name of the picture in its data set

    Raises ValueError with one sentence for a wrong dtype, shape or length and for a box that is no
    box. Boxes may reach past the picture's border, as some annotations do; data/inspect.py reports
    those.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    difficult: Tensor = None  # pyright: ignore[reportAssignmentType]  filled in below
    crowd: Tensor = None  # pyright: ignore[reportAssignmentType]  filled in below
    area: Tensor | None = None
    id: str = ""

    def __post_init__(self):
        for name in ("difficult", "crowd"):
            if getattr(self, name) is None:  # frozen: the only way to fill in a default
                object.__setattr__(self, name, torch.zeros(len(self.boxes), dtype=torch.bool))
        self._check(
            "image", torch.uint8, self.image.dim() == 3 and self.image.shape[0] == 3, "(3, H, W)"
        )
        self._check(
            "boxes", torch.float32, self.boxes.dim() == 2 and self.boxes.shape[1] == 4, "(G, 4)"
        )
        count = len(self.boxes)
        for name, dtype in (
            ("labels", torch.int64),
            ("difficult", torch.bool),
            ("crowd", torch.bool),
            ("area", torch.float32),
        ):
            value = getattr(self, name)
            if value is not None:
                self._check(name, dtype, value.shape == (count,), f"({count},), one for each box,")
        whole = self.boxes.isfinite().all(1) & (self.boxes[:, 2:] > self.boxes[:, :2]).all(1)
        if not whole.all():
            row = int((~whole).nonzero()[0])
            raise ValueError(
                f"Sample {self.id!r}: boxes[{row}] = {self.boxes[row].tolist()} is no box; "
                "drop it, or make its numbers finite with x1 < x2 and y1 < y2."
            )
        if count and self.labels.min() < 0:
            raise ValueError(
                f"Sample {self.id!r}: a label is {int(self.labels.min())}; number classes from 0."
            )

    def _check(self, name: str, dtype: torch.dtype, shape_is_right: bool, wanted: str) -> None:
        value = getattr(self, name)
        if value.dtype != dtype or not shape_is_right:
            raise ValueError(
                f"Sample {self.id!r}: {name} must be {dtype} of shape {wanted} "
                f"but is {value.dtype} of shape {tuple(value.shape)}."
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture in pixels."""
        return self.image.shape[1], self.image.shape[2]

    def target(self) -> dict[str, Tensor]:
        """The ground truth as `lesson_lib.evaluation` takes it; "area" only where the data set has
        one.
        """
        names = ("boxes", "labels", "difficult", "crowd") + (() if self.area is None else ("area",))
        return {name: getattr(self, name) for name in names}


@runtime_checkable
class Dataset(Protocol):
    """A split of a data set, as every reader gives it: a sequence of samples that tells of them.

    What trains, evaluates or predicts takes any sequence of samples, a list too; what describes a
    run or counts objects asks here, so that no picture is decoded for it.
    """

    @property
    def classes(self) -> Sequence[str]:
        """Names: label k is classes[k]."""
        ...

    def ids(self) -> list[str]:
        """The pictures' names, in their order."""
        ...

    def targets(self) -> list[dict[str, Tensor]]:
        """`Sample.target()` of every picture, in their order."""
        ...

    def __len__(self) -> int:
        """The number of pictures."""
        ...

    def __iter__(self) -> Iterator[Sample]:
        """All samples, in their order."""
        ...

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...


def resize(sample: Sample, size: Size) -> Sample:
    """The sample at size (height, width), or size x size; bilinear with antialiasing, aspect not
    kept.
    """
    height, width = as_pair(size)
    y, x = height / sample.size[0], width / sample.size[1]
    image = F.interpolate(sample.image[None], (height, width), mode="bilinear", antialias=True)[0]
    return replace(
        sample,
        image=image,
        boxes=sample.boxes * torch.tensor([x, y, x, y]),
        area=None if sample.area is None else sample.area * (x * y),
    )
