"""`rehearse`: does a training fit a GPU, how long does it take, what must the loader give? On
any machine.
"""

import argparse
import itertools
import json
import math
import os
import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from lesson_lib.cli.choosing import add_choice, choose
from lesson_lib.cli.opening import open_for_training
from lesson_lib.config import budget
from lesson_lib.data import catalog
from lesson_lib.data.feed import Feed
from lesson_lib.data.samples import Sample
from lesson_lib.data.smears import Smears
from lesson_lib.training import rehearsal
from lesson_lib.training.loop import fit
from lesson_lib.training.recipes import (
    Config,
    Recipe,
    build_model,
    from_scratch,
)

STACK = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#999999")  # Okabe-Ito, a part each
SMALL, FEW = 128, 16  # pixels of the one real step; pictures that the loader is timed on


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
    command.add_argument("--gpu", choices=rehearsal.GPUS, default="a100")
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
    gpu = rehearsal.GPUS[options.gpu]
    name, config, recipe = choose(options, budget_of_a_gpu(), options.settings)
    precision = options.precision or rehearsal.precision_on(recipe.precision, gpu)
    about = what_is_known(options.data)
    costs = rehearsal.recipe_costs(config, len(about["classes"]), recipe, precision)
    steps = recipe.steps or recipe.epochs * max(1, about["pictures"] // recipe.batch)
    plan = rehearsal.plan(costs, recipe, gpu, steps)
    report = {
        "model": name,
        "data": options.data,
        "classes": len(about["classes"]),
        "size": recipe.size,
        "input": recipe.resizing.largest(),
        "batch": recipe.batch,
        "steps": steps,
        "costs": asdict(costs),
        "plan": asdict(plan) | {"memory": plan.memory.parts() | {"total": plan.memory.total}},
        "loader": loader_rate(about["samples"], recipe),
        "one_step": one_step(config, recipe, len(about["classes"])),
        "download": about["download"],
    }
    if options.picture:
        draw(costs, recipe, options.picture)
    print(json.dumps(report) if options.json else text(report, costs, plan, recipe))
    return 0


def budget_of_a_gpu() -> str:
    """LESSON_BUDGET where it is set, else "gpu"."""
    return budget() if os.environ.get("LESSON_BUDGET") else "gpu"


def what_is_known(data: str) -> dict[str, Any]:
    """{"classes", "pictures", "samples", "download"} for training.

    By its card, and without samples, where the data set is not on this machine; "download" says so.
    """
    try:
        samples = open_for_training(data).samples
    except FileNotFoundError:
        card = catalog.facts(data)
        learned = [card["learn"]] if "learn" in card else ["train", "val"]
        count = sum(card["pictures"].get(split, 0) for split in learned)
        return {
            "classes": card["classes"],
            "pictures": count,
            "samples": None,
            "download": f"not on this machine: python -m lesson_lib data card {data}",
        }
    return {
        "classes": samples.classes,
        "pictures": len(samples),
        "samples": samples,
        "download": "on this machine",
    }


def loader_rate(samples: Sequence[Sample] | None, recipe: Recipe) -> dict[str, Any]:
    """Pictures a second that one worker on this machine reads, augments and resizes; of smears
    where the data is away.
    """
    pictures = Smears("train", FEW, recipe.size) if samples is None else samples
    feed = Feed(
        pictures,
        recipe.resizing,
        1,
        recipe.seed,
        recipe.augment,
        cache=False,
        workers=1,
        stored=recipe.stored_side,
    )
    batches = iter(feed.epoch(0))
    next(batches)  # the first picture waits for the worker to start
    begin = time.perf_counter()
    number = sum(1 for _ in itertools.islice(batches, FEW - 1))
    seconds = time.perf_counter() - begin
    return {
        "of": "smears" if samples is None else "the data",
        "rate": number / seconds,
        "cores": os.cpu_count(),
    }


def one_step(config: Config, recipe: Recipe, classes: int) -> dict[str, float]:
    """The same code for one real step on this machine, small: {"loss", "seconds", "size",
    "batch"}.
    """
    size = recipe.size if getattr(config, "extras", None) else SMALL  # SSD300's maps need its size
    small = replace(recipe, steps=1, batch=2, size=size, longest=0, precision="fp32")
    small = replace(small, augment="none")
    config, small = from_scratch(config, small)
    torch.manual_seed(0)
    model = build_model(config, classes, size)
    begin = time.perf_counter()
    record = fit(model, Smears("train", 2, size), small)
    return {
        "loss": record["loss"],
        "seconds": time.perf_counter() - begin,
        "size": size,
        "batch": 2,
    }


def text(
    report: dict[str, Any], costs: rehearsal.StepCosts, plan: rehearsal.Plan, recipe: Recipe
) -> str:
    """What a person reads: six short rows, each answering one question."""
    gib = {name: size / rehearsal.GIB for name, size in plan.memory.parts().items()}
    parts = ", ".join(f"{name} {size:.2f}" for name, size in gib.items())
    cut = f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
    loader, step = report["loader"], report["one_step"]
    (fast, slow), (least, most) = plan.hours, plan.rate
    workers = max(1, math.ceil(most / loader["rate"]))
    (height, width), pixels = report["input"], step["size"]
    rows = {
        "network": f"{costs.parameters:,} parameters, {costs.trained:,} trained; "
        f"{costs.anchors:,} anchors at {height} x {width} px; {costs.flops / 1e9:,.0f} GFLOP for a "
        "picture's whole step",
        "memory": f"{plan.memory.total / rehearsal.GIB:.1f} of {plan.gpu.memory:.1f} GiB at batch "
        f"{recipe.batch}{cut}: {parts}. {fitting(plan, recipe)}",
        "time": f"{report['steps']:,} steps, {plan.pictures:,} pictures: {clock(fast)} to "
        f"{clock(slow)} ({rehearsal.SHARES_WHY})",
        "loader": f"must give {least:,.0f} to {most:,.0f} pictures/s; one worker of this machine "
        f"gives {loader['rate']:,.0f} (of {loader['of']}): {workers} workers for the faster",
        "data": report["download"],
        "one step": f"taken here, {step['batch']} pictures of {pixels} px in fp32: loss "
        f"{step['loss']:.3g}, {step['seconds']:.1f} s",
    }
    title = (
        f"{report['model']} on {report['data']} ({report['classes']} classes), {plan.gpu.name}, "
        f"{plan.precision}"
    )
    lines = [
        textwrap.fill(words, 100, initial_indent=f"{name:<10}", subsequent_indent=" " * 10)
        for name, words in rows.items()
    ]
    return "\n".join([title, *lines])


def clock(hours: float) -> str:
    """Hours as people say them: 40 min, 9.1 h, 31 h."""
    if hours < 1:
        return f"{max(1, round(60 * hours))} min"
    return f"{hours:.1f} h" if hours < 10 else f"{hours:,.0f} h"


def fitting(plan: rehearsal.Plan, recipe: Recipe) -> str:
    """Whether the batch fits, and what to do where it does not."""
    if plan.fits:
        return f"It fits; the largest batch that does is {plan.largest_batch}."
    if plan.accumulate == 0:
        return "Not even one picture fits: take a smaller size or another GPU."
    return (
        f"It does not fit; {plan.largest_batch} pictures do. For the recipe's batch of "
        f"{recipe.batch} add up {plan.accumulate} parts of {recipe.batch // plan.accumulate}: "
        f"--set accumulate={plan.accumulate}."
    )


def draw(costs: rehearsal.StepCosts, recipe: Recipe, file: Path) -> None:
    """Memory over the batch, stacked by part, against the lines of all GPUs.

    ImportError with one sentence where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("--picture needs matplotlib: pip install matplotlib") from error
    figure = Figure((8, 4), layout="constrained")
    axes = figure.subplots()
    batches = [1, 2, 4, 8, 16, 32, 64, 128]
    rows = [costs.memory(batch, recipe.optimizer).parts() for batch in batches]
    bottom = [0.0] * len(batches)
    for name, colour in zip(rows[0], STACK, strict=True):
        heights = [row[name] / rehearsal.GIB for row in rows]
        axes.bar(range(len(batches)), heights, bottom=bottom, color=colour, label=name, width=0.7)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for memory, names in gpu_lines().items():
        axes.axhline(memory, color="0.2", linewidth=0.9, linestyle="--")
        axes.annotate(names, (1.01, memory), xycoords=("axes fraction", "data"), va="center")
    top = min(1.08 * max(*bottom, 90), 155)
    axes.set(ylim=(0, top), xlabel="pictures in a step", ylabel="GiB")
    axes.set_xticks(range(len(batches)), list(map(str, batches)))
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(file, dpi=160)


def gpu_lines() -> dict[float, str]:
    """{GiB: names} of the GPUs; those that hold about as much share one line."""
    lines: dict[float, str] = {}
    for gpu in sorted(rehearsal.GPUS.values(), key=lambda gpu: gpu.memory):
        near = next((memory for memory in lines if gpu.memory < 1.1 * memory), None)
        if near is None:
            lines[gpu.memory] = gpu.name
        else:
            lines[near] += f",\n{gpu.name}"
    return lines
