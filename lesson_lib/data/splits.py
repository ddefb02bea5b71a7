"""Which file holds a split: the layouts that COCO JSON comes in, and the other names of val."""

from pathlib import Path

SPLITS = ("train", "val", "trainval", "test")
OTHER_NAMES = {"train": ("training",), "val": ("valid", "validation"), "test": ("testing",)}
COCO_LAYOUTS = (  # below a folder that is given as coco:DIR, tried in turn
    "annotations/{split}.json",
    "annotations/instances_{split}.json",
    "annotations/instances_{split}2017.json",
    "annotations/instances_{split}2014.json",
    "{split}/_annotations.coco.json",
    "{split}.json",
)


class NoSplit(ValueError):
    """A data set has no such split; the message names those it has."""


def coco_is_pattern(place: Path) -> bool:
    """Whether coco:PLACE can hold several splits: a folder, or a name with {split} in it."""
    return place.is_dir() or "{split}" in str(place)


def coco_files(place: Path) -> dict[str, Path]:
    """The JSON file of each usual split that coco:PLACE has;
    one file without {split} is "train".
    """
    if not coco_is_pattern(place):
        return {"train": place}
    found = {split: _file(place, split) for split in SPLITS}
    return {split: file for split, file in found.items() if file is not None}


def coco_file_name(place: Path, split: str) -> str:
    """The file that a split would be in, for a message."""
    return str(_patterns(place)[0]).replace("{split}", split)


def _patterns(place: Path) -> list[Path]:
    return [place / layout for layout in COCO_LAYOUTS] if place.is_dir() else [place]


def _file(place: Path, split: str) -> Path | None:
    for pattern in _patterns(place):
        for name in (split, *OTHER_NAMES.get(split, ())):
            file = Path(str(pattern).replace("{split}", name))
            if file.is_file():
                return file
    return None
