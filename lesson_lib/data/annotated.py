"""What the readers of VOC and COCO files share: a picture file, boxes sorted out, a lazy sequence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from operator import index as whole_number
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lesson_lib.data.samples import Sample

ROUNDING = 0.02  # px: boxes in files with two decimals may pass the border by this much


@dataclass(frozen=True)
class Problem:
    """Something wrong in an annotation: the file, a kind to count by, what it is and what was done."""

    file: str
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.file}: {self.detail}"


class Thing(NamedTuple):
    """One object as the file has it; `box` holds the corners x1, y1, x2, y2 as written, not yet judged."""

    name: str
    box: tuple[float, ...]
    difficult: bool = False
    crowd: bool = False
    area: float | None = None


class Entry(NamedTuple):
    """A picture that is not decoded yet: its (height, width) by the annotation, and its ground truth."""

    id: str
    path: Path
    size: tuple[int, int]
    target: dict[str, Tensor]  # as Sample.target()


class Annotated(Sequence[Sample]):
    """Samples on disk. A picture is decoded only when it is asked for; boxes(i) and targets() need none.

    classes   names; label k is classes[k]
    problems  what the annotations hold that no training should see, and what was done about it
    """

    def __init__(self, classes: Iterable[str]):
        self.classes, self.entries, self.problems = tuple(classes), list[Entry](), list[Problem]()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        """Raises FileNotFoundError or ValueError with one sentence for a picture that cannot be used."""
        entry = self.entries[whole_number(index)]
        return Sample(image=read_picture(entry.path, entry.size), id=entry.id, **entry.target)

    def ids(self) -> list[str]:
        """The pictures' names, in their order."""
        return [entry.id for entry in self.entries]

    def boxes(self, index: int) -> Tensor:
        """(G, 4) xyxy pixels of one picture."""
        return self.entries[index].target["boxes"]

    def targets(self) -> list[dict[str, Tensor]]:
        """The ground truth of all pictures, as `lesson_lib.evaluation` takes it."""
        return [entry.target for entry in self.entries]

    def _add(
        self,
        name: str,
        path: Path,
        size: tuple[int, int] | None,
        things: Iterable[Thing],
        file: str,
        first_pixel: int = 0,
    ) -> None:
        try:
            size = size or picture_size(path)
        except ValueError as error:
            self.problems.append(Problem(file, "picture unreadable", f"{error} Left out."))
        else:
            target = sort_out(things, self.classes, size, file, self.problems, first_pixel)
            self.entries.append(Entry(name, path, size, target))


def read_picture(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """A picture file as uint8 (3, H, W) RGB, turned upright as its EXIF orientation says.

    Greyscale and palettes become RGB; transparency is dropped. size: (height, width) by the annotation;
    a picture of another size is refused, since the boxes then belong to another version of it.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"The picture {path} is missing; restore it or take it out of the split."
        )
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError("more than 8 bits a channel: which range to keep is your choice")
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        raise ValueError(
            f"The picture {path} cannot be read ({error}); replace or remove it."
        ) from error
    if size is not None and pixels.shape[:2] != size:
        raise ValueError(
            f"The picture {path} is {pixels.shape[1]}x{pixels.shape[0]} pixels but its "
            f"annotation says {size[1]}x{size[0]}; its boxes may be wrong: correct one."
        )
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright picture by the file's header, for annotations that do not say."""
    try:
        with Image.open(path) as image:  # EXIF orientations 5 to 8 swap the sides
            return image.size if image.getexif().get(0x0112, 1) >= 5 else image.size[::-1]
    except Exception as error:
        raise ValueError(f"The size of the picture {path} cannot be read ({error}).") from error


def sort_out(
    things: Iterable[Thing],
    classes: tuple[str, ...],
    size: tuple[int, int],
    file: str,
    problems: list[Problem],
    first_pixel: int = 0,
) -> dict[str, Tensor]:
    """The ground truth of one picture of `size` (height, width); what is wrong is added to `problems`.

    first_pixel: 0 where corners are positions on a continuous scale; 1 where they are the numbers of the
    first and the last pixel inside, counted from 1: such a box covers x1 - 1 to x2.
    Left out: a class that is not in `classes`, corners that are no numbers or do not rise as written
    (x2 <= x1 or y2 <= y1: no area), boxes outside the picture. A box across the border is cut there.
    """
    kept, (height, width) = [], size
    for number, thing in enumerate(things, 1):
        x1, y1, x2, y2 = thing.box
        left, top, kind = x1 - first_pixel, y1 - first_pixel, ""
        if thing.name not in classes:
            kind, why = "unknown class", "is of no known class; left out"
        elif not all(map(isfinite, thing.box)):
            kind, why = "broken box", "has a corner that is no number; left out"
        elif x2 <= x1 or y2 <= y1:
            kind, why = "empty box", "has no area; left out"
        elif x2 <= 0 or y2 <= 0 or left >= width or top >= height:
            kind, why = "box outside", f"lies outside the {width}x{height} picture; left out"
        else:
            kept.append((thing, [max(left, 0), max(top, 0), min(x2, width), min(y2, height)]))
            if min(left, top, width - x2, height - y2) < -ROUNDING:
                kind, why = (
                    "box across the border",
                    f"leaves the {width}x{height} picture; cut there",
                )
        if kind:
            corners = ", ".join(f"{v:g}" for v in thing.box)
            problems.append(
                Problem(file, kind, f"object {number} ({thing.name}: {corners}) {why}.")
            )
    target = {
        "boxes": torch.tensor([box for _, box in kept], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([classes.index(t.name) for t, _ in kept], dtype=torch.int64),
        "difficult": torch.tensor([t.difficult for t, _ in kept], dtype=torch.bool),
        "crowd": torch.tensor([t.crowd for t, _ in kept], dtype=torch.bool),
    }
    if kept and all(t.area is not None for t, _ in kept):
        target["area"] = torch.tensor([t.area for t, _ in kept], dtype=torch.float32)
    return target
