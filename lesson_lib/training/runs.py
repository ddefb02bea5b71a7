"""The folder of a run: run.json says what it is, log.jsonl what happened, last.pt where it is."""

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lesson_lib import weights
from lesson_lib.config import describe_machine
from lesson_lib.data.samples import Dataset
from lesson_lib.detectors.retinanet import RetinaNet
from lesson_lib.detectors.ssd import SSD
from lesson_lib.files import write_whole
from lesson_lib.training import checkpoints
from lesson_lib.training.checkpoints import BEST, LAST
from lesson_lib.training.fields import (
    config_fields,
    differences,
    read_config,
    read_recipe,
    recipe_fields,
)
from lesson_lib.training.recipes import Config, Recipe, build_model

#: What `load` takes, as the command line tells it.
HELP = f"folder of a run, or {', '.join(weights.names())}"
ABOUT, LOG = "run.json", "log.jsonl"
#: Of run.json. 1 held repr(config) and nothing about the pictures; both are read.
VERSION = 2
NEEDED = {"data", "split", "model", "classes", "recipe", "config"}


def describe(
    data: str, split: str, samples: Dataset, model: str, config: Config, recipe: Recipe
) -> dict[str, Any]:
    """What run.json says of a run, but for command and machine: by fields, as JSON holds them.

    data, split   as on the command line, `samples` is what they stand for; model: a name of MODELS
    Of the pictures it keeps their number and a digest of their ids, so that going on notices other
    ones; of a COCO file the ids of its categories, in the order of the classes, which `predict`
    writes again.
    """
    ids = getattr(samples, "category_ids", None)
    return {
        "version": VERSION,
        "data": data,
        "split": split,
        "classes": list(samples.classes),
        **({"category_ids": list(ids)} if ids else {}),
        "pictures": {"count": len(samples), "digest": _digest(samples)},
        "model": model,
        "config": config_fields(config),
        "recipe": recipe_fields(recipe),
    }


def begin(folder: Path, about: dict[str, Any]) -> None:
    """Looks whether `folder` holds another run than that which `about` describes: ValueError with
    one sentence.

    A run that never came to a checkpoint holds nothing to go on with, and may be begun anew in any
    way.
    """
    if not (folder / ABOUT).is_file() or not (folder / LAST).is_file():
        return
    old, where = _read_about(folder), folder / ABOUT
    for name in ("data", "reading", "split", "model", "init", "classes"):
        then, now = old.get(name, {}), about.get(name, {})
        if then != now:
            raise ValueError(_another(folder, name, _told(then), _told(now)))
    for read, name in ((read_config, "config"), (read_recipe, "recipe")):
        for field, then, now in differences(read(old[name], where), read(about[name], where)):
            raise ValueError(_another(folder, field, then, now))
    then, now = old.get("pictures", about["pictures"]), about["pictures"]
    if then["count"] != now["count"]:
        raise ValueError(
            f"{about['data']} {about['split']} has {now['count']} pictures now, and had "
            f"{then['count']} when {folder} was begun: bring the old ones back to go on, or give "
            "another --out to train anew."
        )
    if then["digest"] != now["digest"]:
        raise ValueError(
            f"{about['data']} {about['split']} has as many pictures as when {folder} was begun, "
            f"{now['count']}, but not the same: bring them back to go on, or give another --out to "
            "train anew."
        )


def began_from_scratch(folder: Path) -> bool:
    """Whether `folder` holds a run to go on with whose backbone began without weights."""
    if not (folder / ABOUT).is_file() or not (folder / LAST).is_file():
        return False
    return not read_config(_read_about(folder)["config"], folder / ABOUT).pretrained


def _another(folder: Path, name: str, then: Any, now: Any) -> str:
    return (
        f"{folder} holds a run of another {name} (there {then}, now {now}): "
        "give the same command to go on with it, or another --out."
    )


def _told(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value or "none")


def _digest(samples: Dataset) -> str:
    """Of the pictures' ids in their order."""
    return hashlib.sha256("\n".join(samples.ids()).encode()).hexdigest()[:16]


def logged(
    records: Iterable[dict], folder: Path, about: dict[str, Any] | None = None
) -> Iterator[dict]:
    """The records, each written to log.jsonl as it passes, with "seconds" since the start.

    about: what run.json shall say, see `describe`. It is written when the first step has succeeded,
    so that a start that failed never stands in the way of its own correction.
    What the log holds of steps that a stopped run did after its last checkpoint, and now does
    again, goes.
    """
    file, start = folder / LOG, time.perf_counter()
    old = (
        [line for line in file.read_text().splitlines() if line.endswith("}")]
        if file.is_file()
        else []
    )
    for record in records:
        if old is not None:
            if about is not None:
                _write_about(folder, about, anew=record["step"] == 1)
            kept = [line for line in old if json.loads(line)["step"] < record["step"]]
            write_whole(file, "".join(f"{line}\n" for line in kept).encode())
            start, old = start - (json.loads(kept[-1])["seconds"] if kept else 0), None
        record = record | {"seconds": round(time.perf_counter() - start, 3)}
        with file.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        yield record


def _write_about(folder: Path, about: dict[str, Any], anew: bool) -> None:
    """Writes run.json; a run that goes on keeps the one that it has."""
    if (folder / ABOUT).is_file() and not anew:
        return
    about = about | {
        "command": " ".join(sys.argv[1:]),
        "machine": describe_machine(),
        "begun": time.strftime("%F %T"),
    }
    write_whole(folder / ABOUT, json.dumps(about, indent=1).encode())


def load(
    run: str | Path, device: torch.device | str = "cpu", checkpoint: str | None = None
) -> tuple[SSD | RetinaNet, Recipe, dict[str, Any]]:
    """A trained model, ready to predict, its recipe, and what is known of it.

    run         the folder that `train --out` was given, or the name of a detector that comes with
                the package
    checkpoint  of a folder: "best", of highest AP on val, or "last"; None: the best if there is one
    What is known is run.json with the "step" reached, the "checkpoint" taken, and its "threshold",
    if one was chosen for it. ValueError with one sentence where there is no such run or checkpoint,
    or one of a version that cannot be read.
    """
    if not Path(run).exists() and str(run) in weights.names():
        file = weights.file(str(run))
        about, state = weights.read(file)
    else:
        about, file = _read_about(Path(run)), _checkpoint_file(Path(run), checkpoint)
        saved = checkpoints.read(file)
        state = checkpoints.trained_weights(saved)
        about = about | {"step": saved["step"], "checkpoint": file.stem}
        about |= about.get("thresholds", {}).get(file.stem, {})
    config, recipe = read_config(about["config"], file), read_recipe(about["recipe"], file)
    model = build_model(replace(config, pretrained=False), len(about["classes"]), recipe.size)
    checkpoints.load_weights(model, state, file)
    return model.to(device).eval(), recipe, about


def _checkpoint_file(folder: Path, checkpoint: str | None) -> Path:
    if checkpoint is None:
        return folder / (BEST if (folder / BEST).is_file() else LAST)
    file = folder / f"{checkpoint}.pt"
    if checkpoint == "best" and not file.is_file():
        raise ValueError(
            f"{folder} has no {BEST}, it was trained without pictures to choose one on "
            "(--val-split): take --checkpoint last."
        )
    return file


def thresholds_of_log(folder: Path) -> dict[str, dict[str, float]]:
    """{"last", "best": {"threshold", "F1"}}: the score of highest F1 on val, of the checkpoints
    that were evaluated while training; those that were not are left out."""
    lines = (folder / LOG).read_text().splitlines() if (folder / LOG).is_file() else []
    rows = [json.loads(line) for line in lines]
    judged = [row for row in rows if "threshold" in row]
    chosen = {"best": max(judged, key=lambda row: row["AP"])} if judged else {}
    if judged and judged[-1] is rows[-1]:
        chosen["last"] = rows[-1]
    return {name: {key: row[key] for key in ("threshold", "F1")} for name, row in chosen.items()}


def keep_thresholds(run: str | Path, found: dict[str, dict[str, float]]) -> None:
    """Writes score thresholds, by checkpoint as `thresholds_of_log` gives them, into run.json."""
    folder = Path(run)
    if not folder.exists() and str(run) in weights.names():
        raise ValueError(f"{run} comes with the package: choose thresholds for runs of your own.")
    about = _read_about(folder)
    about["thresholds"] = about.get("thresholds", {}) | found
    write_whole(folder / ABOUT, json.dumps(about, indent=1).encode())


def _read_about(folder: Path) -> dict[str, Any]:
    """run.json. ValueError with one sentence where there is none, or one of a later version."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        about = {}
    if not isinstance(about, dict) or not about.keys() >= NEEDED:
        raise ValueError(
            f"{folder} is no run: it has no {ABOUT} that can be read; name the folder that "
            f"`python -m lesson_lib train --out` was given, or one of {', '.join(weights.names())}."
        )
    if about.get("version", 1) > VERSION:
        raise ValueError(
            f"{folder / ABOUT} was written by a later version of lesson_lib (format "
            f"{about['version']}, this one reads up to {VERSION}): take the version that made it, "
            "or train anew."
        )
    return about
