"""Checkpoints: what a run needs to go on after any stop, in one file that is always whole."""

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lesson_lib.files import write_whole
from lesson_lib.training.distributed import broadcast, rank_and_world
from lesson_lib.training.fields import differences, read_recipe, recipe_fields
from lesson_lib.training.recipes import Recipe

FORMAT = "lesson_lib checkpoint 1"


def save(
    file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, step: int
) -> None:
    """The state after `step` steps."""
    buffer = io.BytesIO()
    torch.save(
        {
            "format": FORMAT,
            "recipe": json.dumps(recipe_fields(recipe)),
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        },
        buffer,
    )
    write_whole(file, buffer.getvalue())


def read(file: Path) -> dict[str, Any]:
    """What `save` wrote: "recipe", "step", "model", "optimizer", on the CPU. No code of the file is run.

    FileNotFoundError or ValueError with one sentence for a file that is missing, cut short or another's.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no checkpoint {file}; train first, with --out {file.parent}."
        )
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes make torch's reader stumble over
        raise ValueError(
            f"{file} is no checkpoint that can be read: it is cut short or another program's; "
            "restore it, or delete it to begin anew."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(
            f"{file} was not written by this version of lesson_lib ({FORMAT!r} is expected): load it "
            "with what wrote it, or delete it to begin anew."
        )
    return state


def resume(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe) -> int:
    """Brings model and optimizer to where `file` left them and returns the steps done; 0 without a file.

    Of several processes only the first needs the file; it tells the others.
    ValueError where it belongs to another recipe or another model.
    """
    state = broadcast(read(file) if rank_and_world()[0] == 0 and file.is_file() else None)
    if state is None:
        return 0
    other = [
        f"{name}={then!r} (now {now!r})"
        for name, then, now in differences(read_recipe(json.loads(state["recipe"]), file), recipe)
    ]
    if other:
        raise ValueError(
            f"{file} is of another run, with {', '.join(other)}: use the same settings to go on, or "
            "another folder."
        )
    load_weights(model, state["model"], file)
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], file: Path) -> None:
    """ValueError with one sentence where the weights are another model's."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"The weights in {file} are of another model (or another number of classes); build the "
            "model as it was when they were saved."
        ) from error
