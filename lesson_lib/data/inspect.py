"""What is wrong with a data set: every picture is read once, every finding names its file."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from glob import escape, glob
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lesson_lib.boxes import pairwise_iou
from lesson_lib.data.annotated import Annotated, Entry, NoPictures, Problem
from lesson_lib.data.catalog import facts, open_dataset
from lesson_lib.data.catalog import splits as splits_of
from lesson_lib.data.pictures import is_picture, picture_orientation, read_picture
from lesson_lib.data.splits import coco_file_name, coco_files
from lesson_lib.data.yolo import looks_like_yolo

ALIKE = 0.95  # correlation of two thumbnails; pictures of different things stay below 0.8
ODD = 0.1  # a class that no more than this share of a split's pictures lacks is usual


@dataclass
class Report:
    """problems: what training and evaluation should not see. remarks: may be meant so, but worth a
    look.
    """

    name: str
    pictures: dict[str, int] = field(default_factory=dict)  # by split
    counts: dict[str, Counter] = field(default_factory=dict)  # by split, by class
    problems: dict[str, list[str]] = field(
        default_factory=lambda: defaultdict(list)
    )  # kind -> sentences
    remarks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __str__(self) -> str:
        return self.text()

    def text(self, limit: int | None = 10) -> str:
        """A table of counts, then each kind of finding with its count and its files, at most
        `limit`.
        """
        classes = sorted({name for counts in self.counts.values() for name in counts})
        rows = [["", *self.pictures], ["pictures", *self.pictures.values()]]
        rows += [[name, *(self.counts[split][name] for split in self.pictures)] for name in classes]
        wide = max(len(str(row[0])) for row in rows)
        lines = [
            self.name,
            *(f"  {row[0]:{wide}}" + "".join(f"{c:>9}" for c in row[1:]) for row in rows),
        ]
        for title, kinds in (("problem", self.problems), ("remark", self.remarks)):
            total = sum(map(len, kinds.values()))
            lines.append(f"{total or 'no'} {title}{'' if total == 1 else 's'}")
            for kind, found in kinds.items():
                lines += [
                    f"  {kind}: {len(found)}",
                    *(f"    {sentence}" for sentence in found[:limit]),
                ]
                if limit is not None and len(found) > limit:
                    lines.append(f"    ... and {len(found) - limit} more")
        return "\n".join(lines)


def inspect_dataset(
    what: str | Path | Mapping[str, Annotated],
    classes: Iterable[str] | None = None,
    **options: Any,
) -> Report:
    """Read all of a data set and report what is wrong; nothing that is wrong with a picture stops
    it.

    what     a name of the catalogue, voc:DIR, coco:FILE, yolo:DIR, a folder in one of these
             layouts, or open splits by name
    classes  those that are expected; any other is then a problem
    options  of the reader: pictures, one_based
    Raises ValueError or FileNotFoundError with one sentence where there is no data set at all.
    """
    if isinstance(what, Mapping):
        report, splits = Report("data set"), what
    else:
        report, splits = Report(str(what)), open_what_can_be(str(what), classes, **options)
    prints = {}
    for split, data in splits.items():
        report.pictures[split], report.counts[split] = len(data), Counter()
        for kinds, notes in ((report.problems, data.problems), (report.remarks, data.remarks)):
            for note in notes:
                kinds[note.kind].append(f"{split}: {note}")
        for entry in data.entries:
            where = f"{split}: {entry.id}{entry.path.suffix}"
            named = [data.classes[k] for k in entry.target["labels"]]
            report.counts[split].update(named)
            _look_at_boxes(report, where, named, entry.target["boxes"], classes)
            pixels = _look_at_picture(report, split, where, entry)
            if pixels is not None:
                prints[split, where] = fingerprint(pixels)
        _look_at_classes(report, split, data)
    _look_at_names(report, splits)
    _look_for_copies(report, prints)
    _look_for_strays(report, splits)
    return report


def open_splits(
    what: str, classes: Iterable[str] | None = None, **options: Any
) -> dict[str, Annotated]:
    """Every split of a data set, by name; a VOC folder without lists is one split, "all"."""
    return {split: opened() for split, opened in _openers(what, classes, options).items()}


def _openers(
    what: str, classes: Iterable[str] | None, options: dict[str, Any]
) -> dict[str, Callable[[], Any]]:
    """A function for each split that opens it."""
    kind, place = layout(what)
    if not kind:
        parts = facts(what)["pictures"]
        return {split: partial(open_dataset, what, split, **options) for split in parts}
    options = options | ({} if classes is None else {"classes": classes})
    if kind == "coco" and "{split}" not in place:
        files = _coco_files(Path(place))
        return {
            split: partial(open_dataset, f"coco:{file}", **options) for split, file in files.items()
        }
    if kind == "coco":
        return {
            split: partial(open_dataset, f"coco:{file}", **options)
            for split, file in _coco_pattern(place).items()
        }
    lists = splits_of(f"{kind}:{place}") or ["all"]
    parts = [split for split in lists if split != "trainval" or not {"train", "val"} <= {*lists}]
    return {split: partial(open_dataset, f"{kind}:{place}", split, **options) for split in parts}


def open_what_can_be(
    what: str, classes: Iterable[str] | None = None, **options: Any
) -> dict[str, Annotated]:
    """As `open_splits`; a split that cannot be opened is empty, with the reason in its problems.

    Raises ValueError or FileNotFoundError with one sentence if no split can be opened.
    """
    splits, first = {}, None
    for split, opened in _openers(what, classes, options).items():
        try:
            splits[split] = opened()
        except NoPictures as error:
            splits[split] = error.samples
        except (OSError, ValueError) as error:
            first = first or error
            splits[split] = Annotated(())
            splits[split].problems.append(Problem(split, "split unreadable", str(error)))
    if first and not any(map(len, splits.values())):
        raise first
    return splits


def layout(what: str) -> tuple[str, str]:
    """("voc", "coco" or "yolo", the path), also of a path alone; ("", name) for one of the
    catalogue.
    """
    kind, _, path = what.partition(":")
    if kind in ("voc", "coco", "yolo"):
        return kind, path
    return _guessed(Path(what)), what


def _guessed(place: Path) -> str:
    """The layout of a path that is given without voc:, coco: or yolo:; "" for a name of the
    catalogue.
    """
    if place.is_file():
        return {".json": "coco", ".yaml": "yolo", ".yml": "yolo"}.get(place.suffix, "")
    if not place.is_dir():
        return ""
    if (place / "annotations").is_dir() and not (place / "ImageSets").is_dir():
        return "coco"
    return "yolo" if not (place / "Annotations").is_dir() and looks_like_yolo(place) else "voc"


def _coco_files(place: Path) -> dict[str, Path]:
    """The files of coco:PLACE by split: those that the layouts know, else any, of a folder, or the
    one file.
    """
    if not place.is_dir():
        return {place.stem: place}
    found = coco_files(place) or {f.stem: f for f in sorted((place / "annotations").glob("*.json"))}
    if not found:
        raise FileNotFoundError(
            f"{place} holds no COCO JSON file, as {coco_file_name(place, 'train')}."
        )
    return found


def _coco_pattern(place: str) -> dict[str, Path]:
    """The files of a name that holds {split}, by what stands there."""
    before, *others = map(re.escape, place.split("{split}"))
    pattern = re.compile(before + "(?P<split>[^/]+)" + "(?P=split)".join(others))
    files = sorted(glob(escape(place).replace("{split}", "*")))
    found = {m["split"]: Path(file) for file in files if (m := pattern.fullmatch(file))}
    if not found:
        raise FileNotFoundError(f"No file is called {place}, whatever stands for {{split}}.")
    return found


def _look_at_picture(report: Report, split: str, where: str, entry: Entry) -> Tensor | None:
    """Decode a picture, as training does -> its pixels, None where it cannot be decoded."""
    try:
        pixels = read_picture(entry.path)
    except (OSError, ValueError) as error:
        kind = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        report.problems[f"picture {kind}"].append(f"{split}: {error}")
        return None
    height, width = pixels.shape[1:]
    turn = picture_orientation(entry.path)
    if (height, width) != entry.size:
        turned = f" before its EXIF orientation {turn} is applied" if turn > 4 else ""
        report.problems["picture of another size"].append(
            f"{where} is {width}x{height}, annotated as {entry.size[1]}x{entry.size[0]}{turned}"
        )
    elif turn > 1 and (turn < 5 or height == width or entry.measured):
        report.remarks["picture turned by EXIF"].append(
            f"{where} is turned upright by its EXIF orientation {turn}: are its boxes those of the "
            "upright picture?"
        )
    return pixels


def fingerprint(pixels: Tensor) -> tuple[bytes, Tensor]:
    """SHA-256 of a picture's size and pixels (3, H, W), and its 16x16 grey thumbnail, (256,)."""
    digest = hashlib.sha256(repr(tuple(pixels.shape[1:])).encode() + pixels.numpy().tobytes())
    small = F.interpolate(pixels.float().mean(0)[None, None], (16, 16), mode="area").flatten()
    return digest.digest(), small


def _look_at_boxes(
    report: Report, where: str, named: list[str], boxes: Tensor, classes: Iterable[str] | None
) -> None:
    if not named:
        report.remarks["picture without objects"].append(where)
    for name in sorted(set(named) - set(named if classes is None else classes)):
        report.problems["unknown class"].append(f"{where}: {named.count(name)} of class {name!r}")
    for i, j in (pairwise_iou(boxes, boxes).triu(1) > 0.9).nonzero().tolist():
        report.remarks["nearly the same box twice"].append(
            f"{where}: {named[i]} {boxes[i].tolist()} and {named[j]} {boxes[j].tolist()}"
        )


def _look_at_classes(report: Report, split: str, data: Annotated) -> None:
    """Classes without a box; pictures without a class that most have: was it forgotten there?"""
    for k, name in enumerate(data.classes):
        without = [entry.path.name for entry in data.entries if k not in entry.target["labels"]]
        if len(without) == len(data):
            report.remarks["class without objects"].append(f"{split}: {name}")
        elif 0 < len(without) <= ODD * len(data):
            report.remarks["usual class absent"] += [
                f"{split}: {file}: no {name}" for file in without
            ]


def _look_at_names(report: Report, splits: Mapping[str, Annotated]) -> None:
    """No object at all where training looks for some; classes of other splits than the first's;
    look-alikes.
    """
    first = next(iter(splits), "")
    for split, data in splits.items():
        if split in (first, "train", "trainval", "all") and not any(
            len(entry.target["boxes"]) for entry in data.entries
        ):
            report.problems["no objects"].append(
                f"{split}: {len(data)} pictures, but no object: there is nothing to learn"
            )
        strange = sorted(set(data.own_classes) - set(splits[first].own_classes))
        if strange and len(data):
            report.problems["classes of another split"].append(
                f"{split} has {', '.join(strange)}, which {first} has not "
                f"({', '.join(splits[first].own_classes)})"
            )
        elif len(data) and list(data.own_classes) != list(splits[first].own_classes):
            report.remarks["classes in another order"].append(
                f"{split} has {', '.join(data.own_classes)}; {first} has "
                f"{', '.join(splits[first].own_classes)}: they are mapped by name"
            )
    names = defaultdict(set)
    for name in (name for data in splits.values() for name in data.own_classes):
        names[name.casefold()].add(name)
    for alike in (sorted(names) for names in names.values() if len(names) > 1):
        report.remarks["classes that differ in case only"].append(", ".join(alike))


def _look_for_strays(report: Report, splits: Mapping[str, Annotated]) -> None:
    """Pictures beside those that are used."""
    used = {entry.path for data in splits.values() for entry in data.entries}
    for folder in sorted({path.parent for path in used}):
        for file in sorted(folder.iterdir()):
            if is_picture(file) and file not in used:
                report.remarks["picture of no split"].append(str(file))


def _look_for_copies(report: Report, prints: dict[tuple[str, str], tuple[bytes, Tensor]]) -> None:
    """Equal pictures by the SHA-256 of their pixels, alike ones by how 16x16 grey thumbnails
    correlate.
    """
    places, first = list(prints), {}
    for (split, where), (digest, _) in prints.items():
        if (known := first.setdefault(digest, (split, where))) != (split, where):
            kind = "same picture twice" if known[0] == split else "same picture in two splits"
            report.problems[kind].append(f"{known[1]} = {where}")
    rows = torch.stack([thumbnail for _, thumbnail in prints.values()] or [torch.zeros(256)])
    rows = F.normalize(rows - rows.mean(1, keepdim=True))  # a flat picture becomes zeros: like none
    for i, here in enumerate(places):
        likeness = rows[i + 1 :] @ rows[i]
        for j in (likeness > ALIKE).nonzero().flatten().tolist():
            there = places[i + 1 + j]
            if here[0] != there[0] and prints[here][0] != prints[there][0]:
                report.remarks["nearly the same picture in two splits"].append(
                    f"{here[1]} ~ {there[1]} (correlation {likeness[j]:.3f})"
                )
