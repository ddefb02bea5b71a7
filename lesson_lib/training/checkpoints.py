"""Checkpoints: what a run needs to go on after any stop, in one file that is always whole."""

import io
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lesson_lib.files import write_whole
from lesson_lib.training.distributed import broadcast_tensors, rank_and_world
from lesson_lib.training.fields import differences, read_recipe, recipe_fields
from lesson_lib.training.recipes import Recipe
from lesson_lib.training.update import Update

FORMAT = "lesson_lib checkpoint 1"
LAST, BEST = "last.pt", "best.pt"


@dataclass
class Progress:
    """Where a training stands: steps done, the best AP on val so far, evaluations since then."""

    step: int = 0
    best: float = -math.inf
    stale: int = 0

    def judged(self, ap: float) -> bool:
        """Counts one more evaluation; True where it is the best so far."""
        better = ap > self.best
        self.best, self.stale = (ap, 0) if better else (self.best, self.stale + 1)
        return better

    def ended(self, recipe: Recipe) -> bool:
        """Whether the recipe's patience is at its end."""
        return 0 < recipe.patience <= self.stale


def save(file: Path, update: Update, recipe: Recipe, progress: Progress) -> None:
    """The state where `progress` says: of the model, and of all that changes it."""
    buffer = io.BytesIO()
    torch.save(
        {
            "format": FORMAT,
            "recipe": json.dumps(recipe_fields(recipe)),
            **asdict(progress),
            "model": update.model.state_dict(),
            "optimizer": update.optimizer.state_dict(),
            **{name: part.state_dict() for name, part in update.more().items()},
        },
        buffer,
    )
    write_whole(file, buffer.getvalue())


def read(file: Path) -> dict[str, Any]:
    """What `save` wrote, on the CPU: "recipe", "step", "model", "optimizer", what `Progress` holds,
    and with averaged weights "averaged".

    No code of the file is run.
    FileNotFoundError or ValueError with one sentence for a file that is missing, cut short or
    another's.
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
            f"{file} was not written by this version of lesson_lib ({FORMAT!r} is expected): load "
            "it with what wrote it, or delete it to begin anew."
        )
    return state


def resume(file: Path, update: Update, recipe: Recipe) -> Progress:
    """Brings the model and its `update` to where `file` left them; says where that is: 0 without a
    file.

    Of several processes only the first needs the file. The others get all but the weights from it,
    without pickling; those come when the model is wrapped (`wrap_ddp`).
    ValueError where it belongs to another recipe or another model.
    """
    state = None
    if rank_and_world()[0] == 0 and file.is_file():
        state = read(file)
        _require_same(recipe, state, file)
        load_weights(update.model, state.pop("model"), file)
    state = broadcast_tensors(state, next(update.model.parameters()).device)
    if state is None:
        return Progress()
    update.optimizer.load_state_dict(state["optimizer"])
    for name, part in update.more().items():
        part.load_state_dict(state[name])
    new = Progress()
    return Progress(state["step"], state.get("best", new.best), state.get("stale", new.stale))


def _require_same(recipe: Recipe, state: dict[str, Any], file: Path) -> None:
    then = read_recipe(json.loads(state["recipe"]), file)
    other = [f"{name}={old!r} (now {new!r})" for name, old, new in differences(then, recipe)]
    if other:
        raise ValueError(
            f"{file} is of another run, with {', '.join(other)}: use the same settings to go on, "
            "or another folder."
        )


def trained_weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Of a checkpoint, what predicts: the averaged weights where there are some."""
    return state.get("averaged", state["model"])


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], file: Path) -> None:
    """ValueError with one sentence where the weights are another model's."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"The weights in {file} are of another model (or another number of classes); build the "
            "model as it was when they were saved."
        ) from error
