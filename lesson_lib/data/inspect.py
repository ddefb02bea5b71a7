"""What is wrong with a data set: every picture is read once, every finding names its file."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from glob import escape, glob
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lesson_lib.boxes import pairwise_iou
from lesson_lib.data.annotated import Annotated, read_picture
from lesson_lib.data.catalog import facts, open_dataset
from lesson_lib.data.coco import CocoJson
from lesson_lib.data.voc import ENDINGS, VocFolder, voc_splits
from lesson_lib.data.yolo import YoloFolder, looks_like_yolo, yolo_splits

ALIKE = 0.95  # correlation of two thumbnails; pictures of different things stay below 0.8
ODD = 0.1  # a class that no more than this share of a split's pictures lacks is usual


@dataclass
class Report:
    """problems: what training and evaluation should not see. remarks: may be meant so, but worth a look."""

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
        """A table of counts, then each kind of finding with its count and its files, at most `limit`."""
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
    what: str | Path | Mapping[str, Annotated], classes: Iterable[str] | None = None
) -> Report:
    """Read all of a data set and report what is wrong; nothing that is wrong with a picture stops it.

    what     a name of the catalogue, voc:DIR, coco:FILE, yolo:DIR, a folder in one of these layouts, or
             open splits by name
    classes  those that are expected; any other is then a problem
    Raises ValueError or FileNotFoundError with one sentence where there is no data set at all.
    """
    splits = what if isinstance(what, Mapping) else open_splits(str(what), classes)
    report, prints = Report("data set" if isinstance(what, Mapping) else str(what)), {}
    for split, data in splits.items():
        report.pictures[split], report.counts[split] = len(data), Counter()
        for problem in data.problems:
            report.problems[problem.kind].append(f"{split}: {problem}")
        for remark in getattr(data, "remarks", ()):
            report.remarks[remark.kind].append(f"{split}: {remark}")
        for entry in data.entries:
            where = f"{split}: {entry.id}{entry.path.suffix}"
            named = [data.classes[k] for k in entry.target["labels"]]
            report.counts[split].update(named)
            _look_at_boxes(report, where, named, entry.target["boxes"], classes)
            try:
                pixels = read_picture(entry.path)
            except (OSError, ValueError) as error:
                kind = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
                report.problems[f"picture {kind}"].append(f"{split}: {error}")
                continue
            height, width = size = tuple(pixels.shape[1:])
            if size != entry.size:
                report.problems["picture of another size"].append(
                    f"{where} is {width}x{height}, annotated as {entry.size[1]}x{entry.size[0]}"
                )
            thumbnail = F.interpolate(
                pixels.float().mean(0)[None, None], (16, 16), mode="area"
            ).flatten()
            digest = hashlib.sha256(repr(size).encode() + pixels.numpy().tobytes()).digest()
            prints[split, where] = digest, thumbnail
        _look_at_classes(report, split, data)
    _look_for_copies(report, prints)
    used = {entry.path for data in splits.values() for entry in data.entries}
    for file in (
        f for folder in sorted({path.parent for path in used}) for f in sorted(folder.iterdir())
    ):
        if file.suffix in ENDINGS and file not in used:
            report.remarks["picture of no split"].append(str(file))
    return report


def open_splits(what: str, classes: Iterable[str] | None = None) -> dict[str, Annotated]:
    """Every split of a data set, by name; a VOC folder without lists is one split, "all"."""
    kind, place = layout(what)
    if kind == "voc":
        lists = voc_splits(Path(place))
        parts = [s for s in lists if s != "trainval" or not {"train", "val"} <= set(lists)] or [
            "all"
        ]
        return {split: VocFolder(place, split, classes) for split in parts}
    if kind == "coco":
        return {split: CocoJson(file) for split, file in _coco_files(place).items()}
    if kind == "yolo":
        return {split: YoloFolder(place, split, classes) for split in yolo_splits(place)}
    return {split: open_dataset(what, split) for split in facts(what)["pictures"]}


def layout(what: str) -> tuple[str, str]:
    """("voc", "coco" or "yolo", the path), also of a path alone; ("", name) for one of the catalogue."""
    kind, _, path = what.partition(":")
    if kind in ("voc", "coco", "yolo"):
        return kind, path
    return _guessed(Path(what)), what


def _guessed(place: Path) -> str:
    if place.is_file():
        return {".json": "coco", ".yaml": "yolo", ".yml": "yolo"}.get(place.suffix, "")
    if not place.is_dir():
        return ""
    if (place / "annotations").is_dir() and not (place / "ImageSets").is_dir():
        return "coco"
    return "yolo" if not (place / "Annotations").is_dir() and looks_like_yolo(place) else "voc"


def _coco_files(place: str) -> dict[str, Path]:
    """The files of coco:PLACE by split: of a folder, of a name that holds {split}, or the one file."""
    if "{split}" not in place:
        folder = Path(place) / "annotations"
        return {file.stem: file for file in sorted(folder.glob("*.json")) or [Path(place)]}
    before, *others = map(re.escape, place.split("{split}"))
    pattern = re.compile(before + "(?P<split>[^/]+)" + "(?P=split)".join(others))
    files = sorted(glob(escape(place).replace("{split}", "*")))
    found = {m["split"]: Path(file) for file in files if (m := pattern.fullmatch(file))}
    if not found:
        raise FileNotFoundError(f"No file is called {place}, whatever stands for {{split}}.")
    return found


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
    """Classes without a box, and pictures without a class that most have: was it forgotten there?"""
    for k, name in enumerate(data.classes):
        without = [entry.path.name for entry in data.entries if k not in entry.target["labels"]]
        if len(without) == len(data):
            report.remarks["class without objects"].append(f"{split}: {name}")
        elif 0 < len(without) <= ODD * len(data):
            report.remarks["usual class absent"] += [
                f"{split}: {file}: no {name}" for file in without
            ]


def _look_for_copies(report: Report, prints: dict[tuple[str, str], tuple[bytes, Tensor]]) -> None:
    """Equal pictures by the SHA-256 of their pixels, alike ones by how 16x16 grey thumbnails correlate."""
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
