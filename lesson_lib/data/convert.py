"""From one form of annotations into another: COCO's JSON, PASCAL VOC's XML, YOLO's text."""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import yaml

from lesson_lib.data.annotated import Annotated, Entry
from lesson_lib.data.pictures import picture_size
from lesson_lib.data.splits import OTHER_NAMES
from lesson_lib.files import write_whole

SPLITS = {other: split for split, others in OTHER_NAMES.items() for other in others}
THINNEST = 1.0  # px: VOC counts whole pixels, and a box of one has equal corners, which is no box


class Object(NamedTuple):
    """One object: its box is x1, y1, x2, y2 in pixels from 0; area is a mask's, else the box's."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    crowd: bool
    area: float


class Picture(NamedTuple):
    """A picture in its new place: `name` is its path there without the ending; sides in px."""

    name: str
    source: Path
    width: int
    height: int
    objects: list[Object]

    @property
    def file_name(self) -> str:
        return self.name + self.source.suffix


@dataclass
class Converted:
    """Pictures and objects written of each split; `lost`: what could not be, sentence -> count."""

    pictures: dict[str, int] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)


def convert(
    splits: Mapping[str, Annotated], form: str, out: str | Path, link: bool = False
) -> Converted:
    """Write open splits as `form` into the folder `out`, which must be new or empty.

    coco  annotations/SPLIT.json, images/SPLIT/...; ids count from 1 over all splits, category ids
          in the order of the classes; a difficult object has "ignore": 1
    voc   Annotations, JPEGImages, ImageSets/Main/SPLIT.txt; classes.txt holds the order of the
          classes. Corners count from 1 and may have decimals: xmin = x1 + 1, xmax = x2. Folders of
          names become _.
    yolo  images/SPLIT/..., labels/SPLIT/..., data.yaml

    Classes keep their order, splits their names (a single one that is not called train, val or test
    is train), pictures their bytes. Numbers are written so that a box comes back within .002 px.
    What the form cannot hold is counted in .lost; so are pictures that are missing or of another
    size than annotated. link: hard links instead of copies, where the disk allows it.
    Raises ValueError or OSError with one sentence.
    """
    out, done = Path(out).expanduser(), Converted()
    if form not in FORMS:
        raise ValueError(f"There is no form {form!r}; choose from {', '.join(FORMS)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not empty; name a new folder.")
    classes = list(dict.fromkeys(name for data in splits.values() for name in data.classes))
    for name in classes:
        if re.search(r"[\x00-\x1f\x7f\ufffe\uffff]", name) or not name.strip():
            raise ValueError(f"The class {name!r} has no name that can be written; rename it.")
    names, parts = _Names(flat=True), {}
    for split, name in _split_names(splits, form, done.lost).items():
        names = names if form == "voc" else _Names(flat=False)  # VOC has one folder for all splits
        pictures = list(_pictures(splits[split], names, done.lost))
        parts[name] = [_held(picture, form, done.lost) for picture in pictures]
        done.pictures[name] = len(pictures)
        done.objects[name] = sum(len(picture.objects) for picture in parts[name])
    FORMS[form](parts, classes, out, link)
    return done


def _split_names(splits: Mapping[str, Annotated], form: str, lost: Counter[str]) -> dict[str, str]:
    """The new name of each split: train2017 and instances_train are train, valid is val."""
    names = {}
    for split in splits:
        plain = re.sub(r"^instances_|(?<=[a-z])[12]\d{3}$", "", split)
        plain = SPLITS.get(plain.lower(), plain)
        names[split] = split if plain in names.values() else plain
    known = ("train", "val", "test") + (() if form == "yolo" else ("trainval",))
    strange = [split for split, name in names.items() if name not in known]
    alone = len(names) == 1 or strange == ["trainval"]
    if strange and alone and "train" not in names.values():
        names[strange[0]] = "train"
    elif form == "yolo" and strange:
        lost[f"splits that data.yaml has no word for ({', '.join(strange)})"] += len(strange)
    return names


def _pictures(data: Annotated, names: "_Names", lost: Counter[str]) -> Iterator[Picture]:
    """The pictures of a split that are there and of the annotated size."""
    for entry in data.entries:
        try:
            size = picture_size(entry.path)
        except ValueError:
            lost["pictures that are missing or cannot be read, left out"] += 1
            continue
        if size != entry.size:
            lost["pictures of another size than annotated, left out"] += 1
            continue
        objects = list(_objects(entry, data.classes))
        yield Picture(names.give(entry), entry.path, size[1], size[0], objects)


def _objects(entry: Entry, classes: tuple[str, ...]) -> Iterator[Object]:
    keys = ("boxes", "labels", "difficult", "crowd")
    columns = [entry.target[key].tolist() for key in keys]
    areas = entry.target["area"].tolist() if "area" in entry.target else [None] * len(columns[0])
    for box, label, difficult, crowd, area in zip(*columns, areas, strict=True):
        own = (box[2] - box[0]) * (box[3] - box[1])
        yield Object(classes[label], tuple(box), difficult, crowd, own if area is None else area)


def _held(picture: Picture, form: str, lost: Counter[str]) -> Picture:
    """The picture with what its new form can hold; the rest is counted."""
    if form == "coco":
        return picture
    objects = []
    for thing in picture.objects:
        x1, y1, x2, y2 = thing.box
        own = (x2 - x1) * (y2 - y1)
        lost["areas of masks"] += abs(thing.area - own) > 0.01 * (1 + own)
        if form == "voc" and min(x2 - x1, y2 - y1) <= THINNEST:
            lost["objects of no more than a pixel's width or height, left out"] += 1
        elif form == "yolo" and thing.crowd:
            lost["crowd regions, left out: they would be taken for objects"] += 1
        else:
            lost["marks of crowds, now difficult objects"] += form == "voc" and thing.crowd
            lost["marks of difficult objects"] += form == "yolo" and thing.difficult
            objects.append(thing._replace(difficult=thing.difficult or thing.crowd, crowd=False))
    return picture._replace(objects=objects)


class _Names:
    """New names of pictures, none given twice, not even in other letters or with another ending.

    flat: folders become part of the name, and a picture that comes again keeps its name.
    """

    def __init__(self, flat: bool):
        self.flat, self.used, self.given = flat, set[str](), dict[tuple, str]()

    def give(self, entry: Entry) -> str:
        labels = tuple(entry.target["labels"].tolist())
        key = entry.path, labels, tuple(entry.target["boxes"].flatten().tolist())
        if self.flat and key in self.given:
            return self.given[key]
        *folders, last = re.split(r"[/\\]+", entry.id)
        if Path(entry.id).is_absolute() or re.match("[A-Za-z]:", entry.id):
            folders = []
        taken = ("", ".", "..", "images", "jpegimages", "labels")  # they would mislead a reader
        folders = [part for part in folders if part.lower() not in taken]
        parts = [
            re.sub(r'[\x00-\x1f<>:"|?*]', "_", part).strip() or "_" for part in (*folders, last)
        ]
        name = first = ("_" if self.flat else "/").join(parts)
        number = 1
        while name.casefold() in self.used:
            number += 1
            name = f"{first}_{number}"
        self.used.add(name.casefold())
        self.given[key] = name
        return name


Parts = dict[str, list[Picture]]


def _write_coco(parts: Parts, classes: list[str], out: Path, link: bool) -> None:
    numbers = {name: k for k, name in enumerate(classes, 1)}
    categories = [{"id": k, "name": name} for name, k in numbers.items()]
    image, annotation = 0, 0
    for split, pictures in parts.items():
        images, annotations = [], []
        for picture in pictures:
            image += 1
            file, sides = picture.file_name, {"width": picture.width, "height": picture.height}
            images.append({"id": image, "file_name": file, **sides})
            _bring(picture.source, out / "images" / split / file, link)
            for thing in picture.objects:
                annotation += 1
                x1, y1, x2, y2 = thing.box
                annotations.append(
                    {
                        "id": annotation,
                        "image_id": image,
                        "category_id": numbers[thing.name],
                        "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
                        "area": round(thing.area, 3),
                        "iscrowd": int(thing.crowd),
                        **({"ignore": 1} if thing.difficult else {}),
                    }
                )
        tree = {"images": images, "annotations": annotations, "categories": categories}
        text = json.dumps(tree, ensure_ascii=False)
        write_whole(out / "annotations" / f"{split}.json", text.encode())


def _write_voc(parts: Parts, classes: list[str], out: Path, link: bool) -> None:
    for split, pictures in parts.items():
        for picture in pictures:
            jpeg = picture.source.suffix.lower() in (".jpg", ".jpeg")
            file = picture.name + (
                ".jpg" if jpeg else picture.source.suffix
            )  # as torchvision's asks
            _bring(picture.source, out / "JPEGImages" / file, link)
            text = ElementTree.tostring(_voc_tree(picture, file), encoding="utf-8")
            write_whole(out / "Annotations" / f"{picture.name}.xml", text)
        names = "".join(f"{picture.name}\n" for picture in pictures)
        write_whole(out / "ImageSets" / "Main" / f"{split}.txt", names.encode())
    write_whole(out / "classes.txt", "".join(f"{name}\n" for name in classes).encode())


def _voc_tree(picture: Picture, file: str) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    _add(root, folder="JPEGImages", filename=file)
    size = ElementTree.SubElement(root, "size")
    _add(size, width=picture.width, height=picture.height, depth=3)
    _add(root, segmented=0)
    for thing in picture.objects:
        element = ElementTree.SubElement(root, "object")
        _add(element, name=thing.name, pose="Unspecified", truncated=0)
        _add(element, difficult=int(thing.difficult))
        x1, y1, x2, y2 = (_decimal(value, 3) for value in _from_one(thing.box))
        _add(ElementTree.SubElement(element, "bndbox"), xmin=x1, ymin=y1, xmax=x2, ymax=y2)
    ElementTree.indent(root)
    return root


def _add(parent: ElementTree.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)


def _from_one(box: tuple[float, float, float, float]) -> tuple[float, ...]:
    """VOC's corners are the first and the last pixel inside, counted from 1."""
    return box[0] + 1, box[1] + 1, box[2], box[3]


def _write_yolo(parts: Parts, classes: list[str], out: Path, link: bool) -> None:
    numbers = {name: k for k, name in enumerate(classes)}
    for split, pictures in parts.items():
        for picture in pictures:
            _bring(picture.source, out / "images" / split / picture.file_name, link)
            lines = [
                f"{numbers[thing.name]} {_shares(thing.box, picture.width, picture.height)}\n"
                for thing in picture.objects
            ]
            write_whole(out / "labels" / split / f"{picture.name}.txt", "".join(lines).encode())
    about = {split: f"images/{split}" for split in parts} | {"names": dict(enumerate(classes))}
    text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
    write_whole(out / "data.yaml", text.encode())


def _shares(box: tuple[float, float, float, float], width: int, height: int) -> str:
    """cx cy w h as shares of the picture's sides."""
    x1, y1, x2, y2 = box
    shares = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
    return " ".join(_decimal(share, 8) for share in shares)


def _decimal(value: float, digits: int) -> str:
    """Without exponent and trailing zeros."""
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def _bring(source: Path, target: Path, link: bool) -> None:
    """The picture file under its new name."""
    if target.exists():
        return  # a picture of two splits, in VOC's one folder
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if link:
            try:
                os.link(source.resolve(), target)
                return
            except OSError:  # another disk, or one that has no links
                pass
        part = target.with_name(f"{target.name}.part")
        shutil.copyfile(source, part)
        os.replace(part, target)
    except OSError as error:
        raise OSError(f"{target} could not be written ({error.strerror}); make room.") from error


FORMS: dict[str, Callable[[Parts, list[str], Path, bool], None]] = {
    "coco": _write_coco,
    "voc": _write_voc,
    "yolo": _write_yolo,
}
