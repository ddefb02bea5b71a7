"""The folder of a run: run.json says what it is, log.jsonl what happened, last.pt is where it stands."""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lesson_lib.config import describe_machine
from lesson_lib.files import write_whole
from lesson_lib.training import checkpoints
from lesson_lib.training.distributed import rank_and_world
from lesson_lib.training.recipes import MODELS, Recipe, build_model, overridden

ABOUT, LOG, LAST = "run.json", "log.jsonl", "last.pt"


def begin(folder: Path, about: dict[str, Any]) -> None:
    """Writes run.json, or finds the same run there, begun before. ValueError where it is another one."""
    about = json.loads(json.dumps(about))
    if (folder / ABOUT).is_file():
        old = _about(folder)
        for name in (n for n in about if n != "settings"):  # these are in config and recipe
            if old.get(name) != about[name]:
                raise ValueError(
                    f"{folder} holds a run of another {name} (there {old.get(name)}, now {about[name]}): "
                    "give the same command to go on with it, or another --out."
                )
    elif rank_and_world()[0] == 0:
        about |= {
            "command": " ".join(sys.argv[1:]),
            "machine": describe_machine(),
            "begun": time.strftime("%F %T"),
        }
        write_whole(folder / ABOUT, json.dumps(about, indent=1).encode())


def logged(records: Iterable[dict], folder: Path) -> Iterator[dict]:
    """The records, each written to log.jsonl as it passes, with the seconds since the start as "seconds".

    What the log holds of steps that a stopped run did after its last checkpoint, and now does again, goes.
    """
    file, start = folder / LOG, time.perf_counter()
    old = (
        [line for line in file.read_text().splitlines() if line.endswith("}")]
        if file.is_file()
        else []
    )
    for record in records:
        if old is not None:
            kept = [line for line in old if json.loads(line)["step"] < record["step"]]
            write_whole(file, "".join(f"{line}\n" for line in kept).encode())
            start, old = start - (json.loads(kept[-1])["seconds"] if kept else 0), None
        record = record | {"seconds": round(time.perf_counter() - start, 3)}
        with file.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        yield record


def load(folder: Path, device: torch.device) -> tuple[nn.Module, Recipe, dict[str, Any]]:
    """A run's model with its last weights, ready to predict, its recipe, and run.json with the "step" reached."""
    about, state = _about(folder), checkpoints.read(folder / LAST)
    config = (
        overridden(MODELS[about["model"]], Recipe(), about["settings"])[0]
        if about["model"] in MODELS
        else None
    )
    if repr(config) != about["config"]:
        raise ValueError(
            f"The model {about['model']!r} of {folder} is another one in this version of lesson_lib: take "
            "the version that made the run, or train anew."
        )
    recipe = Recipe(**about["recipe"] | {"milestones": tuple(about["recipe"]["milestones"])})
    model = build_model(replace(config, pretrained=False), len(about["classes"]), recipe.size)
    checkpoints.load_weights(model, state["model"], folder / LAST)
    return model.to(device).eval(), recipe, about | {"step": state["step"]}


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / ABOUT).read_text())
    except (OSError, ValueError):
        about = {}
    if not {"model", "settings", "classes", "recipe", "config"} <= about.keys():
        raise ValueError(
            f"{folder} is no run: it has no {ABOUT} that can be read; name the folder that "
            "`python -m lesson_lib train --out` was given."
        )
    return about
