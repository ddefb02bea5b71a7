"""Reader for COCO's JSON: one file holds the pictures, the categories and the boxes of a split."""

import json
from collections import defaultdict
from math import nan
from pathlib import Path

from lesson_lib.data.annotated import Annotated, Problem, Thing


class CocoJson(Annotated):
    """The pictures of one COCO JSON file as a sequence of samples, in the file's order.

    annotations  the JSON file; its "bbox" is x, y, width, height on a continuous scale from 0
    images       the folder that "file_name" is relative to; None looks near the file (picture_folder)
    Classes are the categories by rising id. Ids may have holes: label k is category_ids[k]. Pictures
    without boxes are kept; "iscrowd" marks crowds; "area" is kept, because COCO tells small from large by
    it. What `sort_out` leaves out or cuts, and boxes of pictures that are not listed, stand in .problems.
    Raises FileNotFoundError or ValueError with one sentence for a file that is missing or no COCO JSON.
    """

    def __init__(self, annotations: str | Path, images: str | Path | None = None):
        self.file = Path(annotations)
        data = read_json(self.file)
        pictures = {picture["id"]: picture for picture in data["images"]}
        names = {c["id"]: str(c["name"]) for c in sorted(data["categories"], key=lambda c: c["id"])}
        super().__init__(names.values())
        self.category_ids = tuple(names)
        if len(pictures) < len(data["images"]) or len(set(self.classes)) < len(data["categories"]):
            raise ValueError(
                f"{self.file} gives two pictures one id, or two categories one id or name; "
                "make them differ."
            )
        folder = (
            Path(images) if images else picture_folder(self.file, data["images"][0]["file_name"])
        )
        things = defaultdict(list)
        for a in data["annotations"]:
            things[a["image_id"]].append(_thing(a, names))
        for stray in things.keys() - pictures.keys():
            self.problems.append(
                Problem(
                    self.file.name,
                    "box of no picture",
                    f"{len(things[stray])} boxes "
                    f"of picture {stray}, which is not listed; left out.",
                )
            )
        for number, picture in pictures.items():
            file, size = picture["file_name"], (picture.get("height"), picture.get("width"))
            size = (int(size[0]), int(size[1])) if all(size) else None
            self._add(
                Path(file).with_suffix("").as_posix(), folder / file, size, things[number], file
            )


def read_json(file: Path) -> dict:
    """The three lists of a COCO file, each entry with the keys that cannot be done without."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; give a COCO JSON file.")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}).") from error
    needed = {
        "images": {"id", "file_name"},
        "annotations": {"image_id"},
        "categories": {"id", "name"},
    }
    for part, keys in needed.items():
        rows = data.get(part) if isinstance(data, dict) else None
        if not isinstance(rows, list) or not all(
            isinstance(r, dict) and keys <= r.keys() for r in rows
        ):
            raise ValueError(
                f"{file} is no COCO file for detection: it needs a list {part!r} whose entries "
                f"have {' and '.join(sorted(keys))}."
            )
    if not data["images"]:
        raise ValueError(f"{file} lists no picture.")
    return data


def picture_folder(annotations: Path, first: str) -> Path:
    """Where the pictures of annotations/X.json lie: the first of these folders that has the first picture.

    ../images/X and ../X, also with X less "instances_"; ../images; the JSON's own folder; ..
    """
    here, above = annotations.parent, annotations.parent.parent
    splits = (annotations.stem, annotations.stem.removeprefix("instances_"))
    folders = [folder for split in splits for folder in (above / "images" / split, above / split)]
    for folder in (*folders, above / "images", here, above):
        if (folder / first).is_file():
            return folder
    raise FileNotFoundError(
        f"{first}, the first picture of {annotations}, is not near it (not in "
        f"{folders[0]}, for one); name the folder of the pictures."
    )


def _thing(annotation: dict, names: dict[int, str]) -> Thing:
    try:
        x, y, width, height = map(float, annotation["bbox"])
    except (KeyError, TypeError, ValueError):
        x = y = width = height = nan  # sort_out reports it
    category = annotation.get("category_id")
    return Thing(
        names.get(category, f"category {category}"),
        (x, y, x + width, y + height),
        difficult=annotation.get("ignore") in (1, True),  # so VOC's are written in COCO's form
        crowd=bool(annotation.get("iscrowd", 0)),
        area=annotation.get("area"),
    )
