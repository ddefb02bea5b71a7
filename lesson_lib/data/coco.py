"""Reader for COCO's JSON: one file holds the pictures, the categories and the boxes of a split."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from math import isfinite, nan
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from lesson_lib.data.annotated import Annotated, Problem, Thing
from lesson_lib.data.pictures import PictureFiles
from lesson_lib.data.text import identity, number, read_text, sides, whole_number

NEEDED = {"images": ("id", "file_name"), "annotations": ("image_id",), "categories": ("id", "name")}
Id = int | str


class Row(NamedTuple):
    """A picture as the file lists it: its id, its file_name and its (height, width), None where
    unknown.
    """

    id: Id
    file: str
    size: tuple[int, int] | None


class CocoJson(Annotated):
    """The pictures of one COCO JSON file as a sequence of samples, in the file's order.

    annotations  the JSON file; its "bbox" is x, y, width, height on a continuous scale from 0
    images       the folder that "file_name" is relative to; None looks near the file
                 (picture_folder)
    classes      their order by name, as a trained model has them; None: the categories by rising id
    Ids may have holes: .category_ids[k] is the file's id of the k-th of its own categories.
    Pictures without boxes are kept; "iscrowd" marks crowds; "area" is kept, because COCO tells
    small from large by it. An object without a bbox gets that of its polygons or its mask. Numbers
    may be text.
    What is wrong with a picture or an object, and what `sort_out` leaves out or cuts, stands in
    .problems and costs no other.
    Raises FileNotFoundError or ValueError with one sentence for a file that is missing or no COCO
    JSON.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path | None = None,
        classes: Iterable[str] | None = None,
    ):
        self.file = Path(annotations)
        problems: list[Problem] = []
        data = read_json(self.file)
        names = category_names(data["categories"], self.file, problems)
        super().__init__(names.values(), classes)
        self.category_ids = tuple(names)
        self.problems.extend(problems)
        things = self._things(data["annotations"], names)
        rows = self._rows(data["images"], things)
        folder = picture_folder(self.file, [row.file for row in rows], images)
        files = PictureFiles([folder])
        paths = {row.id: files.find(row.file) for row in rows}
        count = Counter(path for path in paths.values() if path)
        for row in rows:
            path, objects = paths[row.id], things.get(row.id, [])
            if path is None:
                detail = f"is missing in {folder}; left out."
                self.leave_out(row.file, "picture missing", detail, len(objects))
            elif count[path] > 1:
                detail = f"is one of {count[path]} names that mean the file {path}; left out."
                self.leave_out(row.file, "names of one file", detail, len(objects))
            else:
                name = row.file.replace("\\", "/")
                id = PurePosixPath(name).with_suffix("").as_posix() if path.suffix in name else name
                self.add(id, path, row.size, objects, row.file)
        self.require_pictures(str(self.file))

    def _things(self, rows: list[Any], names: dict[Id, str]) -> dict[Id, list[Thing]]:
        """The objects of each picture, by its id; what belongs to no picture is told."""
        things: defaultdict[Id, list[Thing]] = defaultdict(list)
        for position, row in enumerate(rows, 1):
            image = identity(row.get("image_id")) if isinstance(row, dict) else None
            if image is None:
                what = f"annotation {position} has the image_id {short(row)}"
                detail = f"{what}, which is no id; left out."
                self.problems.append(
                    Problem(self.file.name, "box of no picture", detail, objects=1)
                )
            else:
                things[image].append(_thing(row, names))
        return things

    def _rows(self, rows: list[Any], things: dict[Id, list[Thing]]) -> list[Row]:
        """The pictures that can be told apart; the others are left out,
        as are the objects of none.
        """
        good = [_row(row) for row in rows]
        files: defaultdict[Id, set[str]] = defaultdict(set)
        for row in filter(None, good):
            files[row.id].add(row.file)
        kept = dict[Id, Row]()
        for position, (row, given) in enumerate(zip(good, rows), 1):
            if row is None:
                detail = (
                    f"picture {position} has no id or no file_name that can be read: "
                    f"{short(given)}; left out."
                )
                lost = identity(given.get("id")) if isinstance(given, dict) else None
                objects = len(things.pop(lost, ())) if lost is not None else 0
                self.leave_out(self.file.name, "picture without a name", detail, objects)
            elif len(files[row.id]) > 1:
                detail = f"shares its id {row.id} with another picture; left out."
                self.leave_out(
                    row.file, "two pictures of one id", detail, len(things.pop(row.id, ()))
                )
            elif row.id in kept:
                detail = f"is listed twice with the id {row.id}; used once."
                self.problems.append(Problem(row.file, "picture listed twice", detail))
            else:
                kept[row.id] = row
        for stray in [image for image in things if image not in kept]:
            detail = (
                f"{len(things[stray])} boxes of picture {stray}, which is not listed; left out."
            )
            lost = len(things.pop(stray))
            self.problems.append(Problem(self.file.name, "box of no picture", detail, objects=lost))
        return list(kept.values())


def read_json(file: Path) -> dict[str, Any]:
    """The three lists of a COCO file, each with an entry at least that has the keys it cannot do
    without.

    Only "annotations" may be empty. Raises FileNotFoundError or ValueError with one sentence.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; give a COCO JSON file.")
    try:
        data = json.loads(read_text(file))
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{file} is no JSON ({error}).") from error
    for part, keys in NEEDED.items():
        rows = data.get(part) if isinstance(data, dict) else None
        if not isinstance(rows, list) or not (
            any(isinstance(row, dict) and row.keys() >= set(keys) for row in rows) or not rows
        ):
            raise ValueError(
                f"{file} is no COCO file for detection: it needs a list {part!r} whose entries "
                f"have {' and '.join(sorted(keys))}."
            )
    if not data["images"]:
        raise ValueError(f"{file} lists no picture.")
    return data


def category_names(rows: list[Any], file: Path, problems: list[Problem]) -> dict[Id, str]:
    """Names of the categories by rising id; those without an id or a name are told and left out.

    Raises ValueError with one sentence where two have one id or one name: which is meant cannot be
    known.
    """
    names = dict[Id, str]()
    for row in rows:
        key, name = (
            (identity(row.get("id")), row.get("name")) if isinstance(row, dict) else (None, None)
        )
        name = " ".join(str(name).split()) if isinstance(name, str | int | float) else ""
        if key is None or not name:
            detail = f"the category {short(row)} has no id or no name that can be read; left out."
            problems.append(Problem(file.name, "category without a name", detail))
        elif names.get(key, name) != name or name in names.values() and key not in names:
            raise ValueError(
                f"{file} gives two categories one id or name ({key}: {name}); make them differ."
            )
        else:
            names[key] = name
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def picture_folder(annotations: Path, names: list[str], given: str | Path | None = None) -> Path:
    """Where the pictures of annotations/X.json lie: of these folders the first that has most of
    them.

    ../images/X and ../X, also with X less "instances_"; ../images; the JSON's own folder, images
    and data in it; .. given: a folder instead, itself or X in it. Raises FileNotFoundError with one
    sentence.
    """
    here, above = annotations.parent, annotations.parent.parent
    splits = (annotations.stem, annotations.stem.removeprefix("instances_"))
    if given is not None:
        base = Path(given).expanduser()
        folders = [base, *(f / split for f in (base, base / "images") for split in splits)]
    else:
        bases = (above / "images", above, here / "images", here)
        folders = [base / split for split in splits for base in bases]
        folders += [above / "images", here, above, here / "images", here / "data", above / "data"]
    searched = [PictureFiles([folder]) for folder in folders]
    for some in (names[:: max(1, len(names) // 200)], names):  # a part tells, if any of it is there
        counts = [sum(files.find(name) is not None for name in some) for files in searched]
        if any(counts):
            return folders[counts.index(max(counts))]
    raise FileNotFoundError(
        f"{names[0] if names else 'Any picture'}, the first picture of {annotations}, is not "
        f"near it, nor is any other (not in {folders[0]}, for one); mend file_name, or name the "
        "folder of the pictures with --pictures DIR."
    )


def polygon_box(segmentation: Any) -> tuple[float, ...] | None:
    """Corners x1, y1, x2, y2 around COCO's polygons, [[x, y, x, y, ...], ...]; None where it holds
    none.
    """
    polygons = segmentation if isinstance(segmentation, list) else []
    if polygons and not isinstance(polygons[0], list):
        polygons = [polygons]  # one, without the outer list
    points = [[number(v) for v in polygon] for polygon in polygons if isinstance(polygon, list)]
    points = [polygon for polygon in points if len(polygon) >= 6 and len(polygon) % 2 == 0]
    xs, ys = ([v for polygon in points for v in polygon[k::2]] for k in (0, 1))
    if not xs or not all(map(isfinite, xs + ys)):
        return None
    return min(xs), min(ys), max(xs), max(ys)


def mask_box(segmentation: Any) -> tuple[float, ...] | None:
    """Corners x1, y1, x2, y2 around a mask in COCO's run lengths, {"size": [height, width],
    "counts": [...] or compressed text}; None where it holds none.

    The runs, of 0 and of 1 in turn, go down the columns from left to right.
    """
    if not isinstance(segmentation, dict):
        return None
    size, counts = segmentation.get("size"), segmentation.get("counts")
    counts = run_lengths(counts) if isinstance(counts, str) else counts
    if not (isinstance(size, list) and len(size) == 2 and isinstance(counts, list)):
        return None
    runs, picture = [], sides(*size)
    for count in counts:
        run = whole_number(count)
        if run is None or run < 0:
            return None
        runs.append(run)
    if picture is None or sum(runs) != picture[0] * picture[1]:
        return None
    boxes = _run_boxes(runs, picture[0])
    if not boxes:
        return None
    x1, y1, x2, y2 = zip(*boxes)
    return float(min(x1)), float(min(y1)), float(max(x2)), float(max(y2))


def _run_boxes(runs: list[int], height: int) -> list[tuple[int, int, int, int]]:
    """x1, y1, x2, y2 around every other run, from the second on."""
    boxes, start = [], 0
    for place, run in enumerate(runs):
        if place % 2 and run:
            (left, top), (right, bottom) = divmod(start, height), divmod(start + run - 1, height)
            top, bottom = (top, bottom) if left == right else (0, height - 1)
            boxes.append((left, top, right + 1, bottom + 1))
        start += run
    return boxes


def run_lengths(text: str) -> list[int] | None:
    """COCO's compressed text -> run lengths; None where it is none.

    Each number is a few characters of 5 bits from "0" on, the lowest first; bit 6 says that more
    follow, the sign is the last one's highest. From the fourth number on it is the difference to
    the one before the last.
    """
    runs, value, shift = [], 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= 1 << shift if bits & 16 else 0
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    return runs if shift == 0 else None


def short(value: Any) -> str:
    """A value of a file for a message: at most 60 characters, on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _row(row: Any) -> Row | None:
    if not isinstance(row, dict) or isinstance(row.get("file_name"), bool):
        return None
    key, file = identity(row.get("id")), row.get("file_name")
    file = str(file).strip() if isinstance(file, str | int) else ""
    if key is None or not file:
        return None
    return Row(key, file, sides(row.get("height"), row.get("width")))


def _thing(annotation: dict[str, Any], names: dict[Id, str]) -> Thing:
    box = annotation.get("bbox")
    x, y, width, height = map(number, box) if isinstance(box, list) and len(box) == 4 else [nan] * 4
    corners = (x, y, x + width, y + height)
    if not box:
        outline = annotation.get("segmentation")
        corners = polygon_box(outline) or mask_box(outline) or corners
    category, area = annotation.get("category_id"), annotation.get("area")
    key = identity(category)
    name = None if key is None else names.get(key)
    return Thing(
        name or f"category {short(category)}",
        corners,
        # so VOC's difficult objects are written in COCO's form
        difficult=annotation.get("ignore") is True or number(annotation.get("ignore")) == 1,
        crowd=annotation.get("iscrowd") is True or number(annotation.get("iscrowd")) == 1,
        area=None if area is None else number(area),
    )
