"""Where a data set in YOLO's text form keeps class names, splits, pictures and labels.

There is no standard, only habits; these are known:

    data.yaml (Ultralytics, Roboflow)     names, path; train, val, test: folders or lists
    obj.data + obj.names (darknet, CVAT)  the same as lines `key = value`
    classes.txt (labelImg, Label Studio)  names only; splits are folders or lists of their name
    images/train + labels/train, train/images + train/labels, or labels beside their pictures
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from lesson_lib.data.pictures import PictureFiles, is_picture
from lesson_lib.data.splits import OTHER_NAMES
from lesson_lib.data.text import read_text

SPLITS = {split: (split, *OTHER_NAMES[split]) for split in ("train", "val", "test")}
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt", "names.txt")
PICTURE_FOLDERS = ("images", "jpegimages")  # their sibling `labels` holds the labels


@dataclass(frozen=True)
class YoloLayout:
    """root    what paths are relative to
    config   the data.yaml or obj.data, if there is one
    names    of the classes, by number; None: nothing says them
    splits   "train", "val", "test" or "all" -> folders, lists of pictures or pictures, as written
    keypoint_columns  numbers that follow each box (data.yaml's kpt_shape); 0: none
    """

    root: Path
    config: Path | None
    names: tuple[str, ...] | None
    splits: dict[str, tuple[str, ...]]
    keypoint_columns: int = 0

    def pictures(self, split: str) -> list[tuple[str, Path]]:
        """(id, file) of each picture of a split: a folder's sorted, a list's as listed; none twice.

        The id is the path below images/ and the split's folder, without its ending. A picture that
        a list names need not be there. Raises ValueError for an entry that leads nowhere.
        """
        bases = [self.root, self.root.parent]
        if self.config is not None:
            bases += [self.config.parent, self.config.parent.parent]
        found: dict[Path, str] = {}
        for entry in self.splits[split]:
            for name, file in _entry_pictures(entry, bases, f"{self.config or self.root}", split):
                found.setdefault(file, name)
        return [(name, file) for file, name in found.items()]


def find_layout(place: str | Path) -> YoloLayout:
    """The layout of a folder, or of the one that a data.yaml or obj.data describes.

    Raises FileNotFoundError or ValueError with one sentence that names the file.
    """
    place = Path(place).expanduser()
    if os.path.isfile(place):
        return _configured(place)
    if not os.path.isdir(place):
        raise FileNotFoundError(
            f"{place} is not there; give a data.yaml, or the folder that holds images and labels."
        )
    config = _find_config(place)
    if config is not None:
        return _configured(config)
    return YoloLayout(place, None, _names_beside(place), _splits_in(place))


def label_file(picture: Path) -> Path:
    """Where the labels of a picture lie: .../labels/... for .../images/..., or beside it.

    Of these the first that is there, else the first.
    """
    places, parts = [picture.with_suffix(".txt")], picture.parts
    for i in range(len(parts) - 1):  # the innermost folder of that name comes first
        if parts[i].lower() in PICTURE_FOLDERS:
            file = Path(*parts[:i], "labels", *parts[i + 1 :]).with_suffix(".txt")
            places.insert(0, file)
    places.append(picture.parent / "labels" / f"{picture.stem}.txt")
    return next((file for file in places if os.path.isfile(file)), places[0])


def locate(text: str, bases: Iterable[Path]) -> Path | None:
    """A path that somebody wrote on another machine, found on this one; None: it is not here.

    Tried in turn: as it is; below each of `bases`; then without its first folders, one after
    another, so that `../train/images`, `C:\\data\\train\\images` and `/content/set/train/images`
    are found too. An `images` on its own is too little to go by.
    """
    text = text.strip().replace("\\", "/")
    bases = list(bases)
    places = [Path(text).expanduser()] if text.startswith(("/", "~/")) else []
    path = PurePosixPath(re.sub(r"^([A-Za-z]:)?/*", "", text))
    parts = [part for part in path.parts if part not in (".", "..")]
    places += [base / path for base in bases]
    for k in range(len(parts)):
        tail = PurePosixPath(*parts[k:])
        if k == 0 or tail.name.lower() not in PICTURE_FOLDERS or len(tail.parts) > 1:
            places += [base / tail for base in bases]
    return next((place for place in places if os.path.exists(place)), None)


def _find_config(folder: Path) -> Path | None:
    for name in ("data.yaml", "data.yml", "dataset.yaml", "obj.data", "data/obj.data"):
        if os.path.isfile(folder / name):
            return folder / name
    others = [file for file in sorted(folder.iterdir()) if file.suffix in (".yaml", ".yml")]
    others = [file for file in others if "names:" in file.read_text("utf-8", errors="replace")]
    if len(others) > 1:
        raise ValueError(
            f"{folder} has {len(others)} files that could describe it "
            f"({', '.join(file.name for file in others)}); give one of them instead of the folder."
        )
    return others[0] if others else None


def _configured(config: Path) -> YoloLayout:
    about = _read_data(config) if config.suffix == ".data" else _read_yaml(config)
    root = config.parent
    if isinstance(about.get("path"), str):
        found = locate(about["path"], (root, root.parent, Path.cwd()))
        root = found if found is not None and os.path.isdir(found) else root
    splits = {}
    for split, aliases in SPLITS.items():
        entry = next((about[alias] for alias in aliases if about.get(alias)), None)
        entries = [entry] if isinstance(entry, str) else entry or []
        if not isinstance(entries, list) or not all(isinstance(e, str) for e in entries):
            raise ValueError(
                f"{config} gives {split} as something else than a path or a list of paths; "
                "correct it."
            )
        if entries:
            splits[split] = tuple(entries)
    names = _names(about, config)
    if names is None:
        names = _names_beside(root)
    return YoloLayout(root, config, names, splits or _splits_in(root), _keypoints(about, config))


def _read_yaml(config: Path) -> dict:
    """BaseLoader builds texts, lists and dicts only: it is safe, and a class `no` stays a text."""
    try:
        about = yaml.load(read_text(config), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else "nested too deeply"
        raise ValueError(f"{config} is no YAML ({first}); correct it.") from error
    if not isinstance(about, dict):
        raise ValueError(f"{config} describes no data set: it needs names, train and val.")
    return about


def _read_data(config: Path) -> dict:
    """darknet's obj.data: lines `key = value`."""
    pairs = (line.split("=", 1) for line in read_text(config).splitlines() if "=" in line)
    about: dict = {key.strip(): value.strip() for key, value in pairs}
    file = locate(about.pop("names", ""), (config.parent, config.parent.parent))
    if file is not None and os.path.isfile(file):
        about["names"] = _lines(file)
    about["nc"] = about.pop("classes", None)
    return about


def _names(about: dict, config: Path) -> tuple[str, ...] | None:
    """names as a list, or as a dict by number, in which every number from 0 must be there."""
    names, count = about.get("names"), about.get("nc")
    if isinstance(names, str):  # nothing, or a file of names
        file = locate(names, (config.parent,)) if names.strip() else None
        names = _lines(file) if file is not None and os.path.isfile(file) else names or None
    if isinstance(names, dict):
        numbers = {str(k): name for k, name in names.items()}
        names = [numbers.get(str(k)) for k in range(len(numbers))]
    if names is None or names == []:
        return None
    words = [n.strip() for n in names if isinstance(n, str)] if isinstance(names, list) else []
    if not isinstance(names, list) or len(words) < len(names) or not all(words):
        raise ValueError(
            f"{config} has no usable names: write a list of names, or number: name from 0 on."
        )
    names = tuple(words)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{config} calls two classes {twice!r}; make them differ.")
    if isinstance(count, str) and count.strip() != str(len(names)):
        raise ValueError(
            f"{config} says nc: {count} but has {len(names)} names ({', '.join(names)}); "
            "correct one."
        )
    return names


def _keypoints(about: dict, config: Path) -> int:
    shape = about.get("kpt_shape")
    if shape is None:
        return 0
    texts = isinstance(shape, list) and all(isinstance(n, str) for n in shape)
    if texts and len(shape) == 2 and all(re.fullmatch(r"\d{1,4}", n) for n in shape):
        return int(shape[0]) * int(shape[1])
    raise ValueError(f"{config} has kpt_shape {shape!r:.60}; write [points, numbers of each].")


def _names_beside(root: Path) -> tuple[str, ...] | None:
    folders = [root, root / "labels", root / "labels/train", root / "train", root / "train/labels"]
    files = [folder / name for folder in folders for name in NAME_FILES]
    files += sorted(root.glob("*.names"))
    file = next((file for file in files if os.path.isfile(file)), None)
    return None if file is None else _names({"names": _lines(file)}, file)


def _splits_in(root: Path) -> dict[str, tuple[str, ...]]:
    """Lists or folders that are called like a split; without them "all" is everything below."""
    splits = {}
    for split, aliases in SPLITS.items():
        for place in (place for alias in aliases for place in _split_places(root, alias)):
            if os.path.isfile(place) or (os.path.isdir(place) and any(_walk(place))):
                splits[split] = (str(place.relative_to(root)),)
                break
    return splits or {"all": ("images" if os.path.isdir(root / "images") else ".",)}


def _split_places(root: Path, alias: str) -> Iterator[Path]:
    yield root / f"{alias}.txt"
    yield root / "images" / alias
    yield from sorted((root / "images").glob(f"{alias}[12][0-9][0-9][0-9]"))  # train2017
    yield root / alias / "images"
    yield root / alias


def _entry_pictures(
    entry: str, bases: list[Path], where: str, split: str
) -> Iterator[tuple[str, Path]]:
    """What one entry stands for: a folder of pictures, a list of them, or one."""
    place = locate(entry, bases)
    if place is None:
        raise ValueError(
            f"{where} names {entry!r} as {split}, which is not there; correct the path or take "
            "the split out."
        )
    if os.path.isdir(place):
        for file in _walk(place):
            yield _id(file.relative_to(place)), file
    elif is_picture(place):
        yield _id(Path(place.name)), place
    else:
        files = PictureFiles([place.parent, *bases])  # in other letters, with another ending
        for line in _lines(place):
            found = locate(line, [place.parent, *bases]) or files.find(line)
            path = PurePosixPath(line.replace("\\", "/"))
            file = place.parent / path if found is None else found
            if not file.name:  # "/" alone: told as a picture that is not there
                file = place.parent / f"(the line {line!r})".replace("/", "\u2215")
            yield _id(Path(*_below_images(path.parts))), file


def _below_images(parts: tuple[str, ...]) -> tuple[str, ...]:
    """What follows images/ and the name of a split; where there is no images/, the last part."""
    lower = [part.lower() for part in parts[:-1]]
    known = {alias for aliases in SPLITS.values() for alias in aliases}
    for i in reversed(range(len(lower))):
        if lower[i] in PICTURE_FOLDERS:
            rest = parts[i + 1 :]
            named = len(rest) > 1 and re.sub(r"\d{4}$", "", rest[0].lower()) in known
            return rest[1:] if named else rest
    return parts[-1:]


def _id(path: Path) -> str:
    return path.with_suffix("").as_posix() if path.name else str(path)


def _walk(folder: Path) -> Iterator[Path]:
    """Every picture below a folder, sorted; hidden folders are passed over."""
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(here) / name for name in sorted(files) if is_picture(Path(name)))


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]
