"""Synthetic blood smears: pictures like BCCD's, painted from a seed; the default, with nothing to
download.

Cells are painted at `scale` = sqrt(height * width / (640 * 480)), so that at any size and aspect a
box covers the share of the picture that it covers in BCCD; but never below MIN_SCALE: less than
139 x 139 pixels show a smaller field with fewer cells, not cells too small to learn from.
"""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from lesson_lib.anchors import Size, as_pair
from lesson_lib.config import CELL_CLASSES, cache_dir
from lesson_lib.data.samples import Sample
from lesson_lib.data.smear_painter import paint_smear
from lesson_lib.files import write_whole

VERSION = 1  # raise it when a byte of any picture changes: the cache's name holds it
SPLITS = ("train", "val", "test")
MIN_SCALE, MIN_SIDE = 0.25, 32


def draw_smear(seed: int, index: int, split: str = "train", size: Size = 256) -> Sample:
    """The smear of (seed, split, index), size x size or (height, width) pixels; the same bytes
    everywhere.

    Boxes are tight around what is inside the picture. As in BCCD some objects have none: red cells
    with less than .6 inside or more than .3 of that under others, white cells and platelets less
    than half inside.
    Raises ValueError for an unknown split and for a side of less than 32 pixels.
    """
    image, objects = _painted(seed, index, split, size)
    return Sample(
        torch.from_numpy(image),
        torch.tensor([box for _, box in objects]).float().reshape(-1, 4),
        torch.tensor([label for label, _ in objects], dtype=torch.int64),
        id=_name(seed, split, index),
    )


def left_out_boxes(seed: int, index: int, split: str = "train", size: Size = 256) -> torch.Tensor:
    """(N, 4) xyxy px: the objects of `draw_smear`'s picture that have no box although at least a
    tenth of them is to be seen: cells that an annotator passed over.
    """
    objects = _painted(seed, index, split, size, left_out=True)[1]
    return torch.tensor([box for _, box in objects]).float().reshape(-1, 4)


def _painted(
    seed: int, index: int, split: str, size: Size, left_out: bool = False
) -> tuple[np.ndarray, list]:
    height, width = _checked(split, size)
    scale = max(MIN_SCALE, math.sqrt(height * width / (640 * 480)))
    return paint_smear((seed, split, index), height, width, scale, left_out)


def _checked(split: str, size: Size) -> tuple[int, int]:
    height, width = as_pair(size)
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}; take one of {', '.join(SPLITS)}.")
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"A smear of {height} x {width} pixels is too small: {MIN_SIDE} or more a side."
        )
    return height, width


def _name(seed: int, split: str, index: int) -> str:
    return f"smear-{seed}-{split}-{index:05d}"


class Smears(Sequence[Sample]):
    """`count` smears of one split as a sequence of samples; an index always gives the same picture.

    cache   keep each picture, once painted, in a file below config.cache_dir()
            (200 kB at 256 x 256). A damaged or foreign file is painted anew; where nothing can be
            written, one warning, and no cache.
    Raises ValueError for an unknown split, a negative count, a side of less than 32 pixels.
    """

    classes = CELL_CLASSES

    def __init__(
        self,
        split: str = "train",
        count: int = 200,
        size: Size = 256,
        seed: int = 0,
        cache: bool = True,
    ):
        if count < 0:
            raise ValueError(f"A data set of {count} smears cannot be; give a count of 0 or more.")
        self.split, self.seed, self.cache = split, seed, cache
        self._count = count
        self.size = _checked(split, size)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no smear {index}; the data set has {len(self)}.")
        index = int(index) % len(self)
        sample = self._read(index) if self.cache else None
        if sample is None:
            sample = draw_smear(self.seed, index, self.split, self.size)
            if self.cache:
                self._write(index, sample)
        return sample

    def ids(self) -> list[str]:
        """The pictures' names, in their order; none is painted for it."""
        return [_name(self.seed, self.split, index) for index in range(len(self))]

    def targets(self) -> list[dict[str, Tensor]]:
        """The ground truth of all pictures, as `lesson_lib.evaluation` takes it.

        Where a box is seen only once the cells are painted, so every picture is.
        """
        return [sample.target() for sample in self]

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of all pictures; none is painted for it."""
        return [self.size] * len(self)

    def _file(self, index: int) -> Path:
        name = f"v{VERSION}-{self.seed}-{self.split}-{self.size[0]}x{self.size[1]}"
        return cache_dir() / "smears" / name / f"{index:05d}.npz"

    def _read(self, index: int) -> Sample | None:
        try:
            with open(self._file(index), "rb") as stream, np.load(stream) as data:
                arrays = [torch.from_numpy(data[name]) for name in ("image", "boxes", "labels")]
                sample = Sample(*arrays, id=str(data["id"]))
        except Exception:  # no file, half a file, another's: whatever it is, painting mends it
            return None
        own = sample.id == _name(self.seed, self.split, index) and sample.size == self.size
        return sample if own else None

    def _write(self, index: int, sample: Sample) -> None:
        file, stream = self._file(index), io.BytesIO()
        np.savez(stream, image=sample.image, boxes=sample.boxes, labels=sample.labels, id=sample.id)
        try:
            write_whole(file, stream.getvalue(), shared=True)
        except OSError as error:
            self.cache = False
            warnings.warn(
                f"Smears are painted anew each time, as {file.parent} cannot be written "
                f"({error.__cause__}); free some space or set LESSON_CACHE to another folder.",
                stacklevel=3,
            )
