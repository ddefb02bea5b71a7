"""Choosing model and recipe for the commands: by name, by budget, field by field."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from lesson_lib.config import BUDGETS
from lesson_lib.training.recipes import MODELS, NAMED, Config, Recipe, find_recipe, overridden


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
    options: argparse.Namespace, budget: str, settings: Sequence[str], seed: int = 0
) -> tuple[str, Config, Recipe]:
    """Name and config of the model, and the recipe; budget: where the options name none."""
    named = options.recipe or find_recipe(options.data, options.budget or budget, options.model)
    name, recipe = NAMED[named]
    name = options.model or name
    return name, *overridden(MODELS[name], replace(recipe, seed=seed), settings)
