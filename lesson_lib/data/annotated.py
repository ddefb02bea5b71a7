"""What the readers of annotation files share: problems, boxes sorted out, a lazy sequence of
samples.

A reader is a subclass of `Annotated`. It calls `super().__init__(classes)`, then for each picture
of its split either `add(...)`, with the objects as the file has them, or `leave_out(...)`, with the
reason; at the end `require_pictures(...)`. Whatever else it finds goes to `problems` (it costs
something, or training should know) or to `remarks` (worth a look). It decodes no picture, raises
one sentence only where there is no data set at all, and lets no broken picture or annotation cost
the others:

    class MyFormat(Annotated):
        def __init__(self, file, classes=None, pictures=None):
            rows, names = ...
            super().__init__(names, classes)
            files = PictureFiles([folder])                       # lesson_lib.data.pictures
            for row in rows:
                path = files.find(row.picture)
                if path is None:
                    self.leave_out(row.picture, "picture missing", "is missing; left out.",
                    objects=3)
                else:
                    self.add(row.name, path, row.size, [Thing("cat", (x1, y1, x2, y2)), ...],
                    row.file)
            self.require_pictures(f"{file}")

Numbers and text are read by `lesson_lib.data.text` (number, whole_number, identity, read_text).
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite
from operator import index as as_index
from pathlib import Path
from typing import NamedTuple, overload

import torch
from torch import Tensor

from lesson_lib.data.pictures import picture_fault, picture_size, read_picture
from lesson_lib.data.samples import Sample

ROUNDING = 0.02  # px: boxes in files with two decimals may pass the border by this much
THINNEST = 0.1  # px: what is thinner shows nothing, and float32 can lose it between two numbers


@dataclass(frozen=True)
class Problem:
    """Something wrong in an annotation: the file, a kind to count by, what it is and what was done.

    pictures, objects: how many of them are left out for it.
    """

    file: str
    kind: str
    detail: str
    pictures: int = 0
    objects: int = 0

    def __str__(self) -> str:
        return f"{_shortened(self.file, 200)}: {_shortened(self.detail, 400)}"


def _shortened(text: str, most: int) -> str:
    """At most so many characters: a name as long as a page loses its middle, not its ending."""
    if len(text) <= most:
        return text
    return f"{text[: most - 103]}...{text[-100:]}"


class Thing(NamedTuple):
    """One object as the file has it; `box` holds the corners x1, y1, x2, y2 as written, not yet
    judged.

    area: of a mask, in square pixels; None where the file has none, NaN where it has something else
    there.
    """

    name: str
    box: tuple[float, ...]
    difficult: bool = False
    crowd: bool = False
    area: float | None = None


class Entry(NamedTuple):
    """A picture that is not decoded yet: its (height, width) and its ground truth.

    measured: True where the annotation does not tell the size, so that it is that of the file.
    """

    id: str
    path: Path
    size: tuple[int, int]
    target: dict[str, Tensor]  # as Sample.target()
    measured: bool = False


class NoPictures(ValueError):
    """No picture of a split can be used; `.samples` is the split, with its problems."""

    def __init__(self, message: str, samples: "Annotated"):
        super().__init__(message)
        self.samples = samples


class Annotated(Sequence[Sample]):
    """Samples on disk.

    A picture is decoded only when it is asked for; boxes(i) and targets() need none.

    classes      names; label k is classes[k]
    own_classes  those of the files: another order or other names only where `wanted` said so
    problems     what the annotations hold that no training should see, and what was done about it
    remarks      what may be meant so, but is worth a look
    """

    def __init__(self, classes: Iterable[str], wanted: Iterable[str] | None = None):
        """wanted: classes in the order of the labels, as a trained model has them;
        None: `classes`.
        """
        self.own_classes = tuple(classes)
        self.classes = self.own_classes if wanted is None else tuple(wanted)
        self.entries: list[Entry] = []
        self.problems: list[Problem] = []
        self.remarks: list[Problem] = []

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Raises FileNotFoundError or ValueError with one sentence for a picture that cannot be
        used.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        entry = self.entries[as_index(index)]
        return Sample(image=read_picture(entry.path, entry.size), id=entry.id, **entry.target)

    def ids(self) -> list[str]:
        """The pictures' names, in their order."""
        return [entry.id for entry in self.entries]

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of all pictures, none of which is decoded for it."""
        return [entry.size for entry in self.entries]

    def boxes(self, index: int) -> Tensor:
        """(G, 4) xyxy pixels of one picture."""
        return self.entries[index].target["boxes"]

    def targets(self) -> list[dict[str, Tensor]]:
        """The ground truth of all pictures, as `lesson_lib.evaluation` takes it."""
        return [entry.target for entry in self.entries]

    def add(
        self,
        id: str,
        path: Path,
        size: tuple[int, int] | None,
        things: Iterable[Thing],
        file: str,
        first_pixel: int = 0,
    ) -> None:
        """One picture more, its objects sorted out by `sort_out`; left out where its size cannot be
        read.

        size: (height, width) by the annotation, None where it does not say; file: what a problem
        names.
        """
        things, measured = list(things), size is None
        try:
            size = size or picture_size(path)
        except ValueError as error:
            self.leave_out(file, "picture unreadable", f"{error} Left out.", len(things))
        else:
            target = sort_out(things, self.classes, size, file, self.problems, first_pixel)
            self.entries.append(Entry(id, path, size, target, measured))

    def leave_out(self, file: str, kind: str, detail: str, objects: int = 0) -> None:
        """One picture of the split that cannot be used, with its objects."""
        self.problems.append(Problem(file, kind, detail, pictures=1, objects=objects))

    def require_pictures(self, what: str) -> None:
        """Raises NoPictures with one sentence if no picture of `what`, a split, can be used."""
        if not self.entries:
            lost = [problem for problem in self.problems if problem.pictures]
            why = f"; the first problem: {lost[0]}" if lost else ": it lists none."
            raise NoPictures(f"{what} has no usable picture{why}", self)

    def leave_out_unreadable(self) -> None:
        """Read every picture once and leave out, with the reason in .problems, those that cannot be
        decoded.

        Costs about a third of decoding them all, shared by the cores of this machine.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            faults = list(
                pool.map(lambda entry: picture_fault(entry.path, entry.size), self.entries)
            )
        entries, self.entries = self.entries, []
        for entry, fault in zip(entries, faults):
            if fault is None:
                self.entries.append(entry)
            else:
                self.leave_out(
                    entry.path.name, "picture unreadable", fault, len(entry.target["boxes"])
                )


def left_out(samples: Sequence[Sample], word: str) -> str:
    """How many pictures and objects of a split are not used, in one sentence; "" if none.

    word: what names the data set on the command line, as voc:DIR.
    """
    problems = getattr(samples, "problems", ())
    pictures, objects = sum(p.pictures for p in problems), sum(p.objects for p in problems)
    parts = [f"{pictures} of {len(samples) + pictures} pictures"] if pictures else []
    parts += [f"{objects} object{'' if objects == 1 else 's'}"] if objects else []
    if not parts:
        return ""
    verb = "is" if pictures + objects == 1 else "are"
    return (
        f"{' and '.join(parts)} {verb} left out; `python -m lesson_lib data check {word}` names "
        "them."
    )


class NoObjects(ValueError):
    """No picture of a split has an object."""


def require_objects(samples: Sequence[Sample], what: str) -> None:
    """Raises NoObjects with one sentence where no picture has an object, crowds not counted."""
    if isinstance(samples, Annotated) and not any(
        (~target["crowd"]).any() for target in samples.targets()
    ):
        costly = [problem for problem in samples.problems if problem.objects] or samples.problems
        found = f": {costly[0]}" if costly else "."
        raise NoObjects(f"{what} has no objects, nothing to learn or to measure{found}")


def sort_out(
    things: Iterable[Thing],
    classes: Sequence[str],
    size: tuple[int, int],
    file: str,
    problems: list[Problem],
    first_pixel: int = 0,
) -> dict[str, Tensor]:
    """The ground truth of one picture of `size` (height, width); what is wrong is added to
    `problems`.

    first_pixel: 0 where corners are positions on a continuous scale; 1 where they are the numbers
    of the first and the last pixel inside, counted from 1: such a box covers x1 - 1 to x2.
    Left out: a class that is not in `classes`, and what `judge_box` finds to be no box. A box
    across the border is cut there. An area that is none is replaced by its box's.
    """
    labels, kept = {name: label for label, name in enumerate(classes)}, []
    for position, thing in enumerate(things, 1):
        box, kind, why = judge_box(thing.box, size, first_pixel)
        if not thing.name:
            box, kind, why = None, "object without a name", "has no name of a class; left out"
        elif thing.name not in labels:
            box, kind, why = None, "unknown class", "is of no known class; left out"
        problem = f"object {position} ({thing.name}: {', '.join(f'{v:g}' for v in thing.box)})"
        if kind:
            problems.append(Problem(file, kind, f"{problem} {why}.", objects=int(box is None)))
        if box is not None:
            area = thing.area
            if area is not None and not 0 < area <= 1.01 * size[0] * size[1]:
                area, why = None, f"has the area {area:g}; that of its box is taken"
                problems.append(Problem(file, "area that is none", f"{problem} {why}."))
            kept.append((thing, box, area))
    target = {
        "boxes": torch.tensor([box for _, box, _ in kept], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([labels[t.name] for t, _, _ in kept], dtype=torch.int64),
        "difficult": torch.tensor([t.difficult for t, _, _ in kept], dtype=torch.bool),
        "crowd": torch.tensor([t.crowd for t, _, _ in kept], dtype=torch.bool),
    }
    if any(t.area is not None for t, _, _ in kept):
        areas = [(x2 - x1) * (y2 - y1) if a is None else a for _, (x1, y1, x2, y2), a in kept]
        target["area"] = torch.tensor(areas, dtype=torch.float32)
    return target


def judge_box(
    corners: tuple[float, ...], size: tuple[int, int], first_pixel: int
) -> tuple[list[float] | None, str, str]:
    """A box as written, in a picture of `size` (height, width) -> (its xyxy pixels or None, kind,
    sentence).

    None: corners that are no numbers or do not rise as written (x2 <= x1 or y2 <= y1: no area), all
    within the first pixel (fractions of the picture's sides where pixels belong), outside the
    picture, or less than THINNEST px within it. kind and sentence are "" where nothing is wrong.
    """
    (height, width), (x1, y1, x2, y2) = size, corners
    left, top = x1 - first_pixel, y1 - first_pixel
    box = [max(left, 0), max(top, 0), min(x2, width), min(y2, height)]
    if not all(map(isfinite, corners)):
        return None, "broken box", "has a corner that is no number; left out"
    if x2 <= x1 or y2 <= y1:
        return None, "empty box", "has no area; left out"
    if min(corners) > -0.1 and max(corners) < 1.1 and min(size) > 4:
        return None, "fractions for pixels", "gives fractions where pixels belong; left out"
    if x2 <= 0 or y2 <= 0 or left >= width or top >= height:
        return None, "box outside", f"lies outside the {width}x{height} picture; left out"
    if min(box[2] - box[0], box[3] - box[1]) < THINNEST:
        return None, "thin box", f"is less than {THINNEST} px wide or high; left out"
    if min(left, top, width - x2, height - y2) < -ROUNDING:
        return box, "box across the border", f"leaves the {width}x{height} picture; cut there"
    return box, "", ""
