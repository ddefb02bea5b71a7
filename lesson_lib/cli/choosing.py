"""Choosing model and recipe for the commands: by name, by budget, field by field."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches

from lesson_lib.config import BUDGETS
from lesson_lib.training.recipes import MODELS, NAMED, Config, Recipe, find_recipe, overridden
from lesson_lib.training.warm_start import Source, beginning


def add_choice(command: argparse.ArgumentParser, usual_budget: str) -> None:
    """--model M, --budget B, --recipe NAME, --set FIELD=VALUE; usual_budget: what help says of the
    budget that is taken where none is given.
    """
    command.add_argument(
        "--model", metavar="NAME", help=f"default: the recipe's; {', '.join(MODELS)}"
    )
    command.add_argument("--budget", choices=BUDGETS, help=f"default: {usual_budget}")
    command.add_argument(
        "--recipe", metavar="NAME", help=f"instead of a budget: {', '.join(NAMED)}"
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="settings",
        help="any field of the recipe or the model, as often as needed",
    )


def choose(
    options: argparse.Namespace,
    budget: str,
    settings: Sequence[str],
    seed: int = 0,
    source: Source | None = None,
) -> tuple[str, Config, Recipe]:
    """Name and config of the model, and the recipe.

    budget: where the options name none; source: what the training begins with, whose model it has
    unless the options name another. ValueError with the nearest name for an unknown one.
    """
    for kind, name, names in (("model", options.model, MODELS), ("recipe", options.recipe, NAMED)):
        if name is not None:
            require_known(kind, name, names)
    model = options.model or (source.model if source else None)
    name, recipe = NAMED[
        options.recipe or find_recipe(options.data, options.budget or budget, model)
    ]
    name, recipe = model or name, replace(recipe, seed=seed)
    if source is None:
        return name, *overridden(MODELS[name], recipe, settings)
    own = source.config if source.config is not None and name == source.model else MODELS[name]
    return name, *beginning(own, recipe, settings)


def require_known(kind: str, name: str, names: Iterable[str]) -> None:
    """ValueError with one sentence where `name` is none of `names`."""
    if name in names:
        return
    near = get_close_matches(name.lower(), names, 1, 0.4)
    raise ValueError(
        f"There is no {kind} {name!r}"
        + (f"; did you mean {near[0]}?" if near else ".")
        + f" There are {', '.join(names)}."
    )
