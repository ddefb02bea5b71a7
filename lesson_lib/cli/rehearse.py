"""`rehearse`: does a training fit a GPU, how long does it take, what must the loader give? On
any machine.
"""

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lesson_lib.cli.choosing import add_choice, choose, require_known
from lesson_lib.cli.opening import Opened, is_own, open_for_training
from lesson_lib.cli.rehearsed import loader_report, memory_figure, require_drawable, text
from lesson_lib.config import budget, cache_dir, dataset_roots
from lesson_lib.data import catalog
from lesson_lib.data.feed import decoded_bytes
from lesson_lib.data.resizing import picture_sizes
from lesson_lib.data.samples import Sample
from lesson_lib.training import rehearsal, trial
from lesson_lib.training.recipes import Recipe


def add_rehearse(commands: argparse._SubParsersAction) -> None:
    """rehearse --data DATA --gpu GPU [--model M] [--recipe R | --budget B] [--set FIELD=VALUE
    ...] [--json]
    """
    command = commands.add_parser(
        "rehearse", help="memory, largest batch and hours on a GPU, without one"
    )
    command.add_argument(
        "--data", required=True, help="as for train; it need not be on this machine"
    )
    command.add_argument(
        "--gpu", metavar="NAME", default="a100", help=f"{', '.join(rehearsal.GPUS)}; default: a100"
    )
    add_choice(command, "LESSON_BUDGET, else gpu")
    command.add_argument(
        "--precision",
        choices=("fp32", *rehearsal.HALF),
        help="default: the recipe's, where auto is bf16 on a GPU that calculates in it",
    )
    command.add_argument("--json", action="store_true", help="one line with everything")
    command.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="memory against the lines of all GPUs, as PNG or SVG",
    )
    command.set_defaults(run=run_rehearsal)


def run_rehearsal(options: argparse.Namespace) -> int:
    if options.picture:
        require_drawable(options.picture)
    require_known("GPU", options.gpu, rehearsal.GPUS)
    gpu = rehearsal.GPUS[options.gpu]
    name, config, recipe = choose(options, budget_of_a_gpu(), options.settings)
    precision = options.precision or rehearsal.precision_on(recipe.precision, gpu)
    about = what_is_known(options.data)
    costs = rehearsal.recipe_costs(config, len(about.classes), recipe, precision)
    steps, judged = steps_of(recipe, about)
    kept = trial.kept_bytes(about.samples, recipe, about.picture, about.pictures)
    plan = rehearsal.plan(costs, recipe, gpu, steps, kept, judged)
    loader = trial.loader_rate(about.samples, recipe, about.picture, kept > 0)
    report = {
        "model": name,
        "data": options.data,
        "classes": len(about.classes),
        "size": recipe.size,
        "input": recipe.resizing.largest(),
        "usual_input": recipe.resizing.canvas(rehearsal.USUAL_PICTURE),
        "batch": recipe.batch,
        "steps": steps,
        "costs": asdict(costs),
        "plan": asdict(plan) | {"memory": plan.memory.parts() | {"total": plan.memory.total}},
        "loader": loader_report(loader, plan, recipe),
        "disk": disk_report(about, costs, recipe),
        "one_step": trial.one_step(config, recipe, len(about.classes)),
        "download": about.where,
    }
    if options.picture:
        memory_figure(costs, recipe, kept).savefig(options.picture, dpi=160)
    print(json.dumps(report) if options.json else text(report, costs, plan, recipe))
    return 0


def budget_of_a_gpu() -> str:
    """LESSON_BUDGET where it is set, else "gpu"."""
    return budget() if os.environ.get("LESSON_BUDGET") else "gpu"


@dataclass(frozen=True)
class Known:
    """What is known of a data set, whether it is on this machine or not.

    pictures, val   numbers of pictures that are learned from, and evaluated on while training
    samples         those to learn from; None: the data set is not on this machine
    picture         (height, width) of a usual one, px
    where           that it is here, or how to get it
    folder          where it lies, or would
    fetch, size     bytes of its archives, and of what they become; None: not known
    """

    classes: Sequence[str]
    pictures: int
    val: int
    samples: Sequence[Sample] | None
    picture: tuple[int, int]
    where: str
    folder: Path
    fetch: int | None
    size: int | None


def what_is_known(data: str) -> Known:
    """A data set as training would open it, but that no picture is decoded; by its card where it
    is not on this machine.

    FileNotFoundError for one of the user's own that is missing.
    """
    try:
        opened = open_for_training(data, checked=False)
    except FileNotFoundError:
        if is_own(data) or catalog.find_dataset(data) is not None:
            raise
        return _by_card(data)
    return _on_this_machine(data, opened)


def _by_card(data: str) -> Known:
    card = catalog.facts(data)
    learned = [card["learn"]] if "learn" in card else ["train", "val"]
    count = sum(card["pictures"].get(split, 0) for split in learned)
    fetch, size = catalog.disk_bytes(data)
    roots = dataset_roots() if "by_hand" in card else []
    height, width = card.get("usual", rehearsal.USUAL_PICTURE)
    return Known(
        classes=card["classes"],
        pictures=count,
        val=card["pictures"].get("val", 0) if card.get("judge") == "val" else 0,
        samples=None,
        picture=(height, width),
        where=f"not on this machine: python -m lesson_lib data card {data}",
        folder=roots[0] if roots else catalog.DOWNLOADS,
        fetch=fetch,
        size=size,
    )


def _on_this_machine(data: str, opened: Opened) -> Known:
    samples, size = opened.samples, None
    if data == "smears":  # painted, and kept as they are
        folder, size = cache_dir(), decoded_bytes(samples, 0)
    elif is_own(data):
        folder = Path(data.partition(":")[2]).expanduser()
    else:
        folder, size = catalog.find_dataset(data) or catalog.DOWNLOADS, catalog.disk_bytes(data)[1]
    return Known(
        classes=samples.classes,
        pictures=len(samples),
        val=len(opened.val or ()),
        samples=samples,
        picture=picture_sizes(samples)[0],
        where="on this machine",
        folder=folder,
        fetch=0,
        size=size,
    )


def steps_of(recipe: Recipe, about: Known) -> tuple[int, int]:
    """Steps of a training, and pictures that its evaluations see all together."""
    epoch = max(1, about.pictures // recipe.batch)
    steps = recipe.steps or recipe.epochs * epoch
    evaluations = -(-steps // (recipe.evaluate * epoch))  # the last step is followed by one
    return steps, evaluations * about.val


def disk_report(about: Known, costs: rehearsal.StepCosts, recipe: Recipe) -> dict[str, Any]:
    """Bytes: "fetch" of archives and "data" of what they become, which lie there both for a while;
    "checkpoint" of one and "run" of all that lie there at once; "data_free" and "run_free" where
    they go, for a run this folder; and whether that is "enough".
    """
    checkpoint = costs.checkpoint_bytes(recipe.optimizer, recipe.ema > 0)
    checkpoints = 2 if about.val else 1
    run = (checkpoints + 1) * checkpoint
    data_free, run_free = free_bytes(about.folder), free_bytes(Path.cwd())
    here = about.samples is not None
    data = 0 if here else (about.fetch or 0) + (about.size or 0)
    return {
        "here": here,
        "fetch": about.fetch,
        "data": about.size,
        "data_free": data_free,
        "checkpoint": checkpoint,
        "checkpoints": checkpoints,
        "run": run,
        "run_free": run_free,
        "enough": data <= data_free and run <= run_free,
    }


def free_bytes(folder: Path) -> int:
    """Free on the disk of a folder, which may have to be made yet."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free
