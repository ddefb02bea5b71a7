"""Reader for YOLO's text form: a label file for each picture, a line for each object."""

import codecs
import json
import os
import re
import shutil
from collections.abc import Iterable
from math import isfinite
from pathlib import Path

from PIL import Image

from lesson_lib.data.annotated import Annotated, Problem, Thing
from lesson_lib.data.pictures import is_picture, picture_size
from lesson_lib.data.splits import NoSplit
from lesson_lib.data.text import decode
from lesson_lib.data.yolo_layout import (
    YoloLayout,
    find_layout,
    label_file,
)

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
MANY = 10_000  # classes, where nothing says how many there are
FARTHEST = 2.0  # a share of the picture's side beyond this is taken for pixels
Row = tuple[int, tuple[float, float, float, float]]  # class number; x1, y1, x2, y2 as shares


class YoloFolder(Annotated):
    """The pictures of one split of a data set in YOLO's form, as a sequence of samples.

    place    a folder or its data.yaml; `yolo_layout` says which habits are known
    split    "train", "val", "test"; "trainval": the first two together; "all": every split
    classes  those that are wanted, in this order; None: the data set's names. Where nothing names
             the classes, they are called by their numbers.
    A line is `class cx cy w h` in shares of the picture's sides; `read_labels` says what else is
    read. A picture without a label file has no objects; .remarks counts them. What `read_labels`
    and `sort_out` leave out or cut, and pictures or label files that cannot be read, stand in
    .problems.
    Raises FileNotFoundError or ValueError with one sentence that names the file.
    """

    def __init__(
        self,
        place: str | Path,
        split: str = "train",
        classes: Iterable[str] | None = None,
    ):
        self.layout = layout = find_layout(place)
        pictures = _split_pictures(place, layout, split)
        names = layout.names or (tuple(classes) if classes else self._numbers())
        super().__init__(names, classes)
        for name, file in pictures:
            self._add_picture(name, file, names)
        if len(self.remarks) == len(pictures) > 0:
            what = f"and no other picture of {split} has a label file; put them there."
            self.problems.append(
                Problem(self.remarks[0].file, "no label files", f"is missing, {what}")
            )
        self._look_for_strays(pictures)
        self.require_pictures(f"{place}, split {split!r},")

    def _add_picture(self, name: str, file: Path, names: tuple[str, ...]) -> None:
        labels = label_file(file)
        shown, rows = _below(labels, self.layout.root), []
        try:
            size = picture_size(file)
        except ValueError as error:
            self.leave_out(shown, "picture unreadable", f"{error} Left out.")
            return
        try:
            if os.path.isfile(labels):
                rows = self._read(labels, shown, names)
            else:
                what = f"{file.name} has no such label file: a picture without objects."
                self.remarks.append(Problem(shown, "picture without a label file", what))
        except (OSError, ValueError):
            what = "cannot be read; picture left out."
            self.leave_out(shown, "annotation unreadable", what)
            return
        height, width = size
        things = [
            Thing(names[k], (x1 * width, y1 * height, x2 * width, y2 * height))
            for k, (x1, y1, x2, y2) in rows
        ]
        self.add(name, file, size, things, shown)

    def _read(self, labels: Path, shown: str, names: tuple[str, ...]) -> list[Row]:
        rows, faults = read_labels(labels, len(names), self.layout.keypoint_columns)
        self.problems += [
            Problem(shown, kind, f"{why}; left out.", objects=1) for kind, why in faults
        ]
        return rows

    def _numbers(self) -> tuple[str, ...]:
        """Names for classes that nobody named: 0 to the highest number in all splits."""
        highest = 0
        for split in self.layout.splits:
            for _, file in self.layout.pictures(split):
                labels = label_file(file)
                try:
                    rows, _ = read_labels(labels, MANY, self.layout.keypoint_columns)
                except (OSError, ValueError):
                    continue  # told when its picture is added
                highest = max([highest, *(k for k, _ in rows)])
        return tuple(map(str, range(highest + 1)))

    def _look_for_strays(self, pictures: list[tuple[str, Path]]) -> None:
        """Label files below labels/ whose picture is nowhere beside the others."""
        for folder in sorted({file.parent for _, file in pictures}):
            labels = label_file(folder / "x.jpg").parent
            if labels == folder or not (os.path.isdir(labels) and os.path.isdir(folder)):
                continue
            stems = {file.stem for file in folder.iterdir()}
            for file in sorted(labels.glob("*.txt")):
                if file.stem not in stems and file.name not in ("classes.txt", "names.txt"):
                    what = "belongs to no picture; passed over."
                    shown = _below(file, self.layout.root)
                    self.problems.append(Problem(shown, "labels of no picture", what))


def read_labels(
    file: Path, classes: int, keypoint_columns: int = 0
) -> tuple[list[Row], list[tuple[str, str]]]:
    """The objects of a label file, and why other lines are left out: (kind, sentence) of each.

    After the class number a line has 4 numbers, the box cx cy w h; 5, a box and its confidence,
    which is passed over; an even number from 6 on, the corners x y of a polygon, of which the box
    around it is taken; or 4 + keypoint_columns, a box and its key points. Blank lines, and those
    from # on, are none.
    Returns corners x1, y1, x2, y2 as shares of the picture's sides, not cut at its border.
    Raises OSError or ValueError for a file that is no text.
    """
    rows: list[Row] = []
    faults: list[tuple[str, str]] = []
    for number, line in enumerate(_text(file).splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            rows.append(_parse(words, classes, keypoint_columns))
        except LabelError as error:
            faults.append((error.kind, f"line {number} {error}"))
    return rows, faults


def _text(file: Path) -> str:
    """UTF-8, or what a byte order mark says; ValueError for what is no text: no guessing."""
    data = file.read_bytes()
    return decode(data) if data.startswith(UTF_16) else data.decode("utf-8-sig")


class LabelError(ValueError):
    """What is wrong with a line, and a kind to count by."""

    def __init__(self, kind: str, words: str):
        super().__init__(words)
        self.kind = kind


def _parse(words: list[str], classes: int, keypoint_columns: int) -> Row:
    numbers = [_number(word) for word in words]
    kind, values = numbers[0], numbers[1:]
    if kind != int(kind) or not 0 <= kind < classes:
        raise LabelError(
            "unknown class",
            f"has class number {words[0]}, and there are 0 to {classes - 1}",
        )
    if max(map(abs, values), default=0) > FARTHEST:
        raise LabelError(
            "no share", f"has {max(values, key=abs):g}, which is no share of the picture's side"
        )
    if len(values) in (4, 5) or (keypoint_columns and len(values) == 4 + keypoint_columns):
        cx, cy, w, h = values[:4]
        return int(kind), (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
    if len(values) >= 6 and len(values) % 2 == 0:
        x, y = values[::2], values[1::2]
        return int(kind), (min(x), min(y), max(x), max(y))
    raise LabelError("broken line", f"has {len(words)} columns instead of class cx cy w h")


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = None
    if value is not None and isfinite(value):
        return value
    comma = "; write a decimal point instead of the comma" if "," in word else ""
    raise LabelError("broken line", f"has {word[:30]!r}, which is no number{comma}")


def _split_pictures(place: str | Path, layout: YoloLayout, split: str) -> list[tuple[str, Path]]:
    there = layout.splits
    if split in there:
        return layout.pictures(split)
    parts = {"trainval": ["train", "val"], "all": list(there), "train": ["all"]}.get(split, [])
    if not parts or not set(parts) <= there.keys():
        raise NoSplit(f"{place} has no split {split!r} (there: {', '.join(there)}).")
    found = {file: name for part in parts for name, file in layout.pictures(part)}
    return [(name, file) for file, name in found.items()]


def _below(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


def yolo_splits(place: str | Path) -> list[str]:
    """The splits of a data set in YOLO's form; "all" where it has none."""
    return list(find_layout(place).splits)


def looks_like_yolo(folder: Path) -> bool:
    """Whether a folder is one in YOLO's form, to guess by."""
    marks = ("data.yaml", "data.yml", "obj.data", "labels", "classes.txt", "train/labels")
    return any((folder / mark).exists() for mark in marks)


def yolo_to_coco(
    source: Path, target: Path, split: str, classes: list[str], longest: int | None
) -> None:
    """source/{images/*, labels/*.txt} become target/{annotations/SPLIT.json, images/SPLIT/*}.

    What a download has is turned into COCO JSON once. Boxes are cut at the border and rounded to
    .01 px; category ids count from 1. Names lose the suffix that Roboflow's exports add. longest:
    pictures are shrunk to this longest side, in px, and saved as JPEG of quality 90; None copies
    them as they are.
    """
    out = target / "images" / split
    out.mkdir(parents=True)
    pictures, boxes = [], []
    for number, (name, file) in enumerate(sorted(_clean_names(source, longest).items()), 1):
        width, height = _copied(file, out / name, longest)
        pictures.append({"id": number, "file_name": name, "width": width, "height": height})
        text = source / "labels" / f"{file.stem}.txt"
        rows, faults = read_labels(text, len(classes)) if text.is_file() else ([], [])
        if faults:
            raise ValueError(f"{text}: {faults[0][1]}; correct it.")
        for k, (x1, y1, x2, y2) in rows:
            x1, y1 = max(0, x1) * width, max(0, y1) * height
            w, h = min(1.0, x2) * width - x1, min(1.0, y2) * height - y1
            boxes.append(
                {
                    "id": len(boxes) + 1,
                    "image_id": number,
                    "category_id": k + 1,
                    "bbox": [round(value, 2) for value in (x1, y1, w, h)],
                    "area": round(w * h, 2),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": k, "name": name} for k, name in enumerate(classes, 1)]
    (target / "annotations").mkdir(exist_ok=True)
    (target / "annotations" / f"{split}.json").write_text(
        json.dumps({"images": pictures, "annotations": boxes, "categories": categories})
    )


def _clean_names(source: Path, longest: int | None) -> dict[str, Path]:
    """The pictures by the names that they get."""
    files = [file for file in (source / "images").iterdir() if is_picture(file)]
    jpeg = (".jpg", ".jpeg")
    return {
        re.sub(r"(_jpg)?\.rf\.[0-9a-f]+$", "", file.stem)
        + (".jpg" if longest or file.suffix.lower() in jpeg else file.suffix.lower()): file
        for file in files
    }


def _copied(file: Path, target: Path, longest: int | None) -> tuple[int, int]:
    """(width, height) of the copy."""
    with Image.open(file) as image:
        if longest is None:
            shutil.copyfile(file, target)
            return image.size
        width, height = (round(side * longest / max(image.size)) for side in image.size)
        small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        small.save(target, quality=90)
        return width, height
