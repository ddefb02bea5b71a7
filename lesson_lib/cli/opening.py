"""Opening data for the commands: which split, how it is read, and what is said about it."""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lesson_lib.data import catalog
from lesson_lib.data.annotated import (
    Annotated,
    NoObjects,
    NoPictures,
    left_out,
    require_objects,
)
from lesson_lib.data.feed import fits_in_memory
from lesson_lib.data.samples import Sample
from lesson_lib.data.smears import Smears
from lesson_lib.data.splits import NoSplit


@dataclass
class Opened:
    """What a training learns from, and what it is evaluated on; notes: sentences to print about
    both.
    """

    samples: Smears | Annotated
    split: str
    val: Smears | Annotated | None = None
    notes: list[str] = field(default_factory=list)


def add_reading(command: argparse.ArgumentParser) -> None:
    """--pictures DIR, --first-pixel 0: how the files of a data set of one's own are to be read."""
    command.add_argument(
        "--pictures", metavar="DIR", help="the folder of the pictures of voc:DIR or coco:FILE"
    )
    command.add_argument(
        "--first-pixel",
        type=int,
        choices=(0, 1),
        help="of voc:DIR: 1, corners count pixels from 1, as VOC defines it (the default); 0, they "
        "are positions counted from 0",
    )


def reading(options: argparse.Namespace, data: str) -> dict[str, Any]:
    """The options of the reader of `data`. Raises ValueError for one that its format has no use
    for.
    """
    kind = data.partition(":")[0]
    found = {}
    if options.pictures is not None:
        if kind not in ("voc", "coco"):
            raise ValueError(
                f"--pictures is for voc:DIR and coco:FILE; {data} knows where they are."
            )
        found["pictures"] = str(Path(options.pictures).absolute())
    if options.first_pixel is not None:
        if kind != "voc":
            raise ValueError(
                f"--first-pixel is for the corners of voc:DIR; {data} has no such choice."
            )
        found["one_based"] = options.first_pixel == 1
    return found


def words(data: str, read: dict[str, Any]) -> str:
    """What opens the data set in the same way on the command line."""
    more = ["--pictures", read["pictures"]] if "pictures" in read else []
    more += ["--first-pixel", str(int(read["one_based"]))] if "one_based" in read else []
    return shlex.join([data, *more])


def open_for_training(
    data: str,
    split: str | None = None,
    val_split: str | None = None,
    stored: int = 0,
    checked: bool = True,
    **read: Any,
) -> Opened:
    """The split to learn from, and that to evaluate on while training.

    split      None: trainval where the data set has it, else train. Train and val are joined where
               that is asked for, and for the data sets of the catalogue.
    val_split  None: val where train is learnt and there is one
    stored     side of the pictures that training keeps decoded, 0 for their own size: where all
               fit into memory, each is decoded once here, and those that cannot be are left out.
               Of more pictures this would take long; a broken one then stops the training with its
               name.
    checked    False: no picture is decoded here, of val neither
    Raises ValueError or FileNotFoundError with one sentence, where there is nothing to learn among
    others.
    """
    samples, found = _open_split(data, split, read)
    opened = Opened(samples, found)
    if checked and isinstance(samples, Annotated) and fits_in_memory(samples, stored):
        samples.leave_out_unreadable()
        samples.require_pictures(f"{data} {found}")
    require_objects(samples, f"{data} {found}")
    opened.notes.append(told(samples, found, data, read))
    chosen = val_split is not None or split == "train"
    if val_split is None and found == "train" and "val" in catalog.splits(data):
        custom = catalog.usual_split(data, "judge") == "val"
        val_split = "val" if chosen or custom or is_own(data) else None
    if val_split is not None:
        _open_val(opened, data, val_split, chosen, read, checked)
    opened.notes = [note for note in opened.notes if note]
    return opened


def _open_val(
    opened: Opened, data: str, split: str, chosen: bool, read: dict[str, Any], checked: bool
) -> None:
    """Adds the split to evaluate on; an empty one that nobody named is told, and not used."""
    try:
        opened.val = open_for_evaluation(data, split, opened.samples.classes, checked, **read)
    except (NoPictures, NoObjects) as error:
        if chosen:
            raise
        opened.notes.append(f"{split} is not evaluated on: {error}")
        return
    opened.notes.append(told(opened.val, split, data, read))
    if not chosen:
        opened.notes.append(
            f"Learns from train, is evaluated on {split}; --train-split trainval learns from both."
        )


def is_own(data: str) -> bool:
    """Whether a word names a data set of the user's own, as voc:DIR, not one of the catalogue."""
    return data.partition(":")[0] in catalog.READERS


def open_for_evaluation(
    data: str, split: str, classes: Sequence[str], checked: bool = True, **read: Any
) -> Smears | Annotated:
    """A split as a model that knows `classes` needs it; pictures that cannot be decoded are left
    out, unless none is to be decoded here (`checked` False).

    Raises ValueError with one sentence where nothing is left to evaluate on, or no class is known.
    """
    samples = catalog.open_for_classes(data, split, classes, **read)
    if checked and isinstance(samples, Annotated):
        samples.leave_out_unreadable()
        samples.require_pictures(f"{data} {split}")
    require_objects(samples, f"{data} {split}")
    return samples


def told(samples: Sequence[Sample], split: str, data: str, read: dict[str, Any]) -> str:
    """How much of a split is left out, in one sentence that begins with its name; "" if nothing."""
    sentence = left_out(samples, words(data, read))
    return f"{split}: {sentence}" if sentence else ""


def _open_split(
    data: str, split: str | None, read: dict[str, Any]
) -> tuple[Smears | Annotated, str]:
    split = split or catalog.usual_split(data, "learn")
    if split is not None:
        return catalog.open_dataset(data, split, **read), split
    if data != "smears" and (not is_own(data) or "trainval" in catalog.splits(data)):
        try:
            return catalog.open_dataset(data, "trainval", **read), "trainval"
        except NoSplit:
            pass
    return catalog.open_dataset(data, "train", **read), "train"
