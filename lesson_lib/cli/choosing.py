"""Choosing model and recipe for the commands: by name, by budget, field by field."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from lesson_lib.config import BUDGETS
from lesson_lib.training.recipes import MODELS, NAMED, Config, Recipe, find_recipe, overridden
from lesson_lib.training.warm_start import Source, beginning


def add_choice(command: argparse.ArgumentParser, usual_budget: str) -> None:
    """--model M, --budget B, --recipe NAME, --set FIELD=VALUE; usual_budget: what help says of the
    budget that is taken where none is given.
    """
    command.add_argument("--model", choices=MODELS, help="default: the recipe's")
    command.add_argument("--budget", choices=BUDGETS, help=f"default: {usual_budget}")
    command.add_argument(
        "--recipe", choices=NAMED, metavar="NAME", help=f"instead of a budget: {', '.join(NAMED)}"
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
    unless the options name another.
    """
    model = options.model or (source.model if source else None)
    name, recipe = NAMED[
        options.recipe or find_recipe(options.data, options.budget or budget, model)
    ]
    name, recipe = model or name, replace(recipe, seed=seed)
    if source is None:
        return name, *overridden(MODELS[name], recipe, settings)
    own = source.config if source.config is not None and name == source.model else MODELS[name]
    return name, *beginning(own, recipe, settings)
