"""Data sets by name: where they lie on this machine, how to open them, where to get them."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import partial, reduce
from pathlib import Path
from typing import Any

from lesson_lib.config import dataset_roots, downloads_dir
from lesson_lib.data.annotated import Annotated
from lesson_lib.data.coco import CocoJson
from lesson_lib.data.smears import Smears
from lesson_lib.data.splits import NoSplit, coco_file_name, coco_files, coco_is_pattern
from lesson_lib.data.transfer import check_sha256, fetch, tree_digest, unpack
from lesson_lib.data.voc import VocFolder, voc_splits
from lesson_lib.data.yolo import YoloFolder, yolo_splits, yolo_to_coco

CARDS = Path(__file__).parent / "cards"  # NAME.json: facts for this file; NAME.md: to read
DOWNLOADS = downloads_dir()
READERS = ("voc", "coco", "yolo")  # what stands before the colon of a data set of one's own


def names() -> tuple[str, ...]:
    """All names that open_dataset knows, the synthetic smears first."""
    return ("smears", *sorted(file.stem for file in CARDS.glob("*.json")))


def facts(name: str) -> dict[str, Any]:
    """cards/NAME.json, for a data set that can be downloaded; data/README.md explains the
    keys.
    """
    if name == "smears":
        raise ValueError(
            "The smears are drawn by this package; there is nothing to download or look up."
        )
    if name not in names():
        near = get_close_matches(name, names(), 1, 0.4)
        raise ValueError(
            f"No data set is called {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else ".")
            + f" There are {', '.join(names())}, and your own as voc:DIR, coco:FILE and yolo:DIR."
        )
    return json.loads((CARDS / f"{name}.json").read_text(encoding="utf-8"))


def find_dataset(name: str) -> Path | None:
    """The folder of a data set on this machine: below LESSON_DATASETS, then in DOWNLOADS.

    Of one that is made of others the first one's, where all are there.
    """
    about = facts(name)
    if "parts" in about:
        found = [find_dataset(part) for part in _part_names(about)]
        return found[0] if all(found) else None
    folders = [root / sub for root in dataset_roots() for sub in (name, *about.get("also", ()))]
    return next(
        (f for f in folders if (f / "Annotations").is_dir() or (f / "annotations").is_dir()), None
    )


def open_dataset(name: str, split: str = "train", **options: Any) -> Smears | Annotated:
    """A split of a data set, as a sequence of samples with .classes.

    name   "smears" (drawn here, always at hand; options go to Smears); a name of the catalogue;
           voc:DIR, a folder in VOC's layout; coco:FILE, a COCO JSON file. FILE may hold {split}; a
           folder stands for the layouts in `splits.COCO_LAYOUTS`; yolo:DIR or yolo:DIR/data.yaml,
           labels in YOLO's text form.
    split  "train", "val", "test", or "trainval": the first two together
    Options go to the reader: classes (the order of the labels, by name), pictures (the folder of
    the pictures), one_based (VOC). Raises NoSplit, a ValueError, where there is no such split,
    ValueError for an unknown name or a broken file, FileNotFoundError for what is not on this
    machine.
    """
    kind, _, place = name.partition(":")
    if name == "smears":
        return Smears(split, **options)
    if kind in READERS and place:
        return _open(Path(place).expanduser(), split, kind, **options)
    return _open_known(name, split, **options)


def _open_known(name: str, split: str, **options: Any) -> Annotated:
    about = facts(name)
    if "parts" in about:
        return _open_parts(name, split, about, **options)
    folder = find_dataset(name)
    if folder is None:
        raise FileNotFoundError(_not_here(name, about))
    return _open_by_card(folder, split, about, **options)


def usual_split(name: str, use: str) -> str | None:
    """The split that a data set of the catalogue is learned from ("learn") or evaluated on
    ("judge") by custom, where its card names one: COCO's train2017 and val2017.
    """
    known = name != "smears" and name.partition(":")[0] not in READERS
    return facts(name).get(use) if known else None


def disk_bytes(name: str) -> tuple[int | None, int | None]:
    """Bytes of the archives of a data set of the catalogue, and of what is kept of them; None where
    the card does not know.
    """
    about = facts(name)
    if "parts" in about:
        parts = [disk_bytes(part) for part in _part_names(about)]
        return _sum(fetch for fetch, _ in parts), _sum(kept for _, kept in parts)
    known = about.get("bytes", {})
    return known.get("fetch"), known.get("kept")


def _sum(sizes: Iterable[int | None]) -> int | None:
    """None where one of them is."""
    found = list(sizes)
    return None if None in found else sum(size for size in found if size is not None)


def _part_names(about: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(part for parts in about["parts"].values() for part in parts))


def _open_parts(name: str, split: str, about: dict[str, Any], **options: Any) -> Annotated:
    """A data set that is made of others: the same split of each that its card names."""
    if split not in about["parts"]:
        known = ", ".join(about["parts"])
        raise NoSplit(f"{name} has no split {split!r} (there: {known}).")
    parts = [_open_known(part, split, **options) for part in about["parts"][split]]
    return reduce(partial(joined, what=f"The {split} splits of {name}"), parts)


def _not_here(name: str, about: dict[str, Any]) -> str:
    if "by_hand" in about:
        return f"{name} is not on this machine: {about['by_hand']}"
    return (
        f"{name} is not on this machine: `python -m lesson_lib data download {name}` "
        "fetches it, with `--from DIR` from a copy that you have; 'smears' needs no "
        "download."
    )


def open_for_classes(
    name: str, split: str, classes: Sequence[str], **options: Any
) -> Smears | Annotated:
    """A split as a model that knows `classes` needs it: label k is classes[k], found by name.

    Objects of other classes are left out, as its .problems say. Raises ValueError with both orders
    where no class of the data set is among them; and as `open_dataset`.
    """
    wanted = {} if name == "smears" else {"classes": classes}
    samples = open_dataset(name, split, **wanted, **options)
    if isinstance(samples, Annotated):
        own = samples.own_classes
        known = not set(own).isdisjoint(classes)
    else:
        own = samples.classes
        known = list(own) == list(classes)
    if not known:
        raise ValueError(
            f"The model knows the classes {', '.join(classes)}; {name} {split} has "
            f"{', '.join(own) or 'none'}: take pictures with its own classes."
        )
    return samples


def splits(name: str) -> list[str]:
    """The usual splits that a data set has, with a list or a file each; none is opened."""
    kind, _, place = name.partition(":")
    if name == "smears":
        return ["train", "val", "test"]
    if kind == "voc" and place:
        return voc_splits(Path(place).expanduser())
    if kind == "coco" and place:
        return list(coco_files(Path(place).expanduser()))
    if kind == "yolo" and place:
        return yolo_splits(Path(place).expanduser())
    return list(facts(name)["pictures"])


def _open(place: Path, split: str, kind: str, **options: Any) -> Annotated:
    if kind == "coco":
        return _open_coco(place, split, **options)
    return {"voc": VocFolder, "yolo": YoloFolder}[kind](place, split, **options)


def _open_by_card(folder: Path, split: str, about: dict[str, Any], **options: Any) -> Annotated:
    """A data set of the catalogue: its card says the format and, for VOC, the classes and the first
    pixel.
    """
    keys = () if about["format"] == "coco" else ("classes", "one_based")
    card: dict[str, Any] = {key: about[key] for key in keys}
    return _open(folder, split, about["format"], **card | options)


def _open_coco(place: Path, split: str, **options: Any) -> Annotated:
    options = {"images" if key == "pictures" else key: value for key, value in options.items()}
    files = coco_files(place)
    if split in files:
        return CocoJson(files[split], **options)
    if split == "trainval" and {"train", "val"} <= files.keys():
        train = CocoJson(files["train"], **options)
        options["classes"] = train.classes
        val = CocoJson(files["val"], **options)
        return joined(train, val, f"train and val of {place}")
    if not coco_is_pattern(place):
        raise NoSplit(
            f"{place} is one split, whatever its name; write {{split}} into the name, as in "
            f"coco:DIR/{{split}}.json, to open {split!r}."
        )
    raise NoSplit(
        f"{place} has no split {split!r} (there: {', '.join(files) or 'none'}): there is no "
        f"{coco_file_name(place, split)}."
    )


def joined(first: Annotated, second: Annotated, what: str) -> Annotated:
    """Both splits as one. Raises ValueError with one sentence where they have different classes."""
    if set(first.own_classes) != set(second.own_classes):
        raise ValueError(
            f"{what} have different classes ({', '.join(first.own_classes)}; "
            f"{', '.join(second.own_classes)}); they cannot be joined."
        )
    first.entries += second.entries
    first.problems += second.problems
    first.remarks += second.remarks
    return first


def download(name: str, source: str | Path | None = None) -> Path:
    """Bring a data set into DOWNLOADS and return its folder; what is on this machine is not
    fetched.

    source  a folder with a copy: the data set as this package lays it out or as its home does, or
            the archives as they come; None: its home on the net, from the pinned addresses in its
            card
    It is built and verified in a hidden folder beside its place and renamed at the end, so that
    what is half done never looks done. Raises OSError or ValueError with one sentence.
    """
    about, found = facts(name), find_dataset(name)
    if found is not None:
        return found
    if "by_hand" in about:
        raise FileNotFoundError(_not_here(name, about))
    if "parts" in about:
        return [download(part, source) for part in _part_names(about)][0]
    target = DOWNLOADS / name
    if target.exists():
        raise FileExistsError(f"{target} is there but is no {name}; move it away and try again.")
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    archives = _archives(name, about, Path(source).expanduser().resolve() if source else None)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=DOWNLOADS) as work:
        tree = Path(work) / name
        if not sum(unpack(archive, tree, about["files"]) for archive in archives):
            raise ValueError(
                f"{archives[0]} holds no {name}: nothing there is called like "
                f"{' or '.join(about['files'])}."
            )
        converted = (tree / "raw").is_dir()
        for split in about["pictures"] if converted else ():
            yolo_to_coco(tree / "raw" / split, tree, split, about["classes"], about.get("longest"))
        shutil.rmtree(tree / "raw", ignore_errors=True)
        _verify(about, tree, converted)
        tree.replace(target)
    for archive in archives if source is None else ():
        archive.unlink()
    return target


def _archives(name: str, about: dict, source: Path | None) -> list[Path]:
    """What to unpack: archives, downloaded or found in the user's folder, and checked; else that
    folder.
    """
    if source is not None and not source.is_dir():
        raise NotADirectoryError(
            f"{source} is no folder; --from takes a folder with a copy of {name}."
        )
    archives: list[Path] = []
    for known in about["sources"]:
        file = known["url"].rpartition("/")[2]
        archives.append(source / file if source else DOWNLOADS / f"{name}-{file}")
        if source is None and not archives[-1].is_file():
            fetch(known["url"], archives[-1])
        if archives[-1].is_file():
            check_sha256(archives[-1], known["sha256"], aside=source is None)
    if source is not None and not all(archive.is_file() for archive in archives):
        return [source]
    return archives


def _verify(about: dict, tree: Path, converted: bool) -> None:
    """Raises ValueError with one sentence unless `tree` is what the card describes.

    Where nobody publishes a checksum (sha256 null), or the files were converted here, that of the
    first download is kept in DOWNLOADS/NAME.first.json, and a later one must agree with it.
    """
    for split, wanted in about["pictures"].items():
        found = _count(tree, split, about)
        if found != wanted:
            raise ValueError(
                f"This copy of {tree.name} has {found} usable pictures in {split} instead of "
                f"{wanted}; take another copy, or download it."
            )
    if "digest" in about:
        found, wanted = tree_digest(tree, about["digest"]["of"]), about["digest"]["sha256"]
        if converted or wanted is None:
            first = DOWNLOADS / f"{tree.name}.first.json"
            wanted = json.loads(first.read_text())["sha256"] if first.is_file() else found
            first.write_text(json.dumps({**about["digest"], "sha256": wanted}) + "\n")
        if found != wanted:
            raise ValueError(
                f"This is not the {tree.name} that is known: SHA-256 {found} over "
                f"{', '.join(about['digest']['of'])}, expected {wanted}; take another copy."
            )


def _count(tree: Path, split: str, about: dict[str, Any]) -> int:
    """The usable pictures of a split; 0 where nothing can be opened."""
    try:
        return len(_open_by_card(tree, split, about))
    except (OSError, ValueError):
        return 0
