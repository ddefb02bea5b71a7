"""What `rehearse` says: rows of words, each answering one question, and a picture of the memory."""

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesson_lib.data.feed import MOST_WORKERS
from lesson_lib.training import rehearsal
from lesson_lib.training.recipes import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: A colour for each part of the memory, Okabe-Ito's.
STACK = (
    *("#0072B2", "#56B4E9", "#009E73", "#E69F00"),
    *("#CC79A7", "#999999", "#F0E442", "#D55E00"),
)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)  # of the picture
ENDINGS = (".png", ".svg")


def text(
    report: dict[str, Any], costs: rehearsal.StepCosts, plan: rehearsal.Plan, recipe: Recipe
) -> str:
    """What a person reads."""
    step = report["one_step"]
    parts = f" in {step['accumulate']} parts" if step["accumulate"] > 1 else ""
    rows = {
        "network": _network(report, costs, recipe),
        "memory": _memory(plan, recipe),
        "time": _time(report["steps"], plan),
        "loader": _loader(report["loader"], plan),
        "data": report["download"],
        "disk": _disk(report["disk"]),
        "one step": f"taken here, {step['batch']} pictures of {step['size']} px{parts} in fp32: "
        f"loss {step['loss']:.3g}, {step['seconds']:.1f} s",
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


def _network(report: dict[str, Any], costs: rehearsal.StepCosts, recipe: Recipe) -> str:
    (height, width), (high, wide) = report["input"], report["usual_input"]
    usual = "" if (height, width) == (high, wide) else f" at {high} x {wide} px, as most photos are"
    words = (
        f"{costs.parameters:,} parameters, {costs.trained:,} trained; {costs.anchors:,} anchors at "
        f"{height} x {width} px; {costs.flops / 1e9:,.0f} GFLOP for a picture's whole step{usual}"
    )
    if recipe.pretrained:
        words += (
            ". ImageNet's weights of its backbone are fetched when the training starts; without "
            "them it trains from scratch another network, which --set pretrained=false rehearses"
        )
    return words


def _memory(plan: rehearsal.Plan, recipe: Recipe) -> str:
    gib = {name: size / rehearsal.GIB for name, size in plan.memory.parts().items() if size}
    parts = ", ".join(f"{name} {size:.2f}" for name, size in gib.items())
    cut = f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
    return (
        f"{plan.memory.total / rehearsal.GIB:.1f} of {plan.gpu.memory:.1f} GiB at batch "
        f"{recipe.batch}{cut}: {parts}. {fitting(plan, recipe)}"
    )


def fitting(plan: rehearsal.Plan, recipe: Recipe) -> str:
    """Whether the batch fits, and what to do where it does not."""
    if plan.fits:
        just = f"It just fits, within the error of {rehearsal.ERROR:.0%} of the activations"
        return (
            f"{just if plan.tight else 'It fits'}; the largest batch that does is "
            f"{plan.largest_batch}."
        )
    if plan.accumulate == 0:
        return "Not even one picture fits: take a smaller size or another GPU."
    part = recipe.batch // plan.accumulate
    alone = " One picture is too few for batch norm: instead of it --set norm=group."
    return (
        f"It does not fit; {plan.largest_batch} pictures do. For the recipe's batch of "
        f"{recipe.batch} add up {plan.accumulate} parts of {part}: "
        f"--set accumulate={plan.accumulate}.{alone if part == 1 else ''}"
    )


def _time(steps: int, plan: rehearsal.Plan) -> str:
    fast, slow = plan.hours
    words = f"{steps:,} steps, {plan.pictures:,} pictures: {clock(fast)} to {clock(slow)}"
    words += f" ({plan.why})"
    if plan.judged:
        least, most = map(clock, plan.judging)
        words += (
            f". Of it {least} to {most} for evaluations of {plan.judged:,} pictures in all, the "
            "network alone"
        )
    other = plan.gpu.faster(plan.precision)
    if other is not None:
        least, most = map(clock, rehearsal.hours_in(plan, other))
        words += f". In {other} {least} to {most}: --set precision={other}"
    return words


def _loader(loader: dict[str, Any], plan: rehearsal.Plan) -> str:
    """`loader` as `loader_report` makes it."""
    least, most = map(per_second, loader["must"])
    words = f"must give {least} to {most} pictures/s"
    if loader["rate"] is None:
        return f"{words}; all pictures are kept decoded, no worker starts"
    workers, needed = loader["workers"], loader["needed"]
    words += f"; one worker of this machine gives {per_second(loader['rate'])} ({loader['of']})"
    words += f". {_workers(workers)}" if workers else ". The training reads itself"
    if workers and not loader["set"]:
        words += f" here, one for each core but one and at most {MOST_WORKERS}"
    words += f": {per_second(loader['total'])}"
    if loader["hours"] is None:
        return f"{words}, enough"
    words += f", with which it takes {clock(loader['hours'])} or more. The faster needs {needed}"
    if needed <= MOST_WORKERS and not loader["set"]:
        return f"{words}, which start on {needed + 1} cores"
    return f"{words}: --set workers={needed}, on as many cores"


def _workers(number: int) -> str:
    return "1 worker starts" if number == 1 else f"{number} workers start"


def loader_report(loader: dict[str, Any], plan: rehearsal.Plan, recipe: Recipe) -> dict[str, Any]:
    """What was measured of the loader beside what the plan asks of it: with "must", pictures a
    second; "needed", workers for the faster; "hours" of the training where the loader is its limit,
    else None; "set", whether the recipe says how many workers.
    """
    most, hours, needed = plan.rate[1], None, 0
    if loader["rate"] is not None:
        needed = math.ceil(most / loader["rate"])
        if loader["total"] < most:
            hours = plan.pictures / loader["total"] / 3600 + plan.judging[0]
    more = {"must": plan.rate, "needed": needed, "hours": hours, "set": recipe.workers >= 0}
    return loader | more


def _disk(disk: dict[str, Any]) -> str:
    """`disk` as `lesson_lib.cli.rehearse.disk_report` makes it."""
    if disk["here"]:
        known = disk["data"] is not None
        words = f"{gigabytes(disk['data'])} of data, there already" if known else "data are there"
    else:
        both = (disk["fetch"] or 0) + (disk["data"] or 0)
        words = (
            f"{gigabytes(disk['fetch'])} of data to fetch, {gigabytes(disk['data'])} unpacked; "
            f"{gigabytes(disk['data_free'])} free for them{_lack(both, disk['data_free'])}"
        )
    files = "last.pt and best.pt" if disk["checkpoints"] > 1 else "last.pt"
    return (
        f"{words}. A checkpoint has {gigabytes(disk['checkpoint'])}; a run keeps {files}, and room "
        f"for one more while it writes: {gigabytes(disk['run'])}, of {gigabytes(disk['run_free'])} "
        f"free in this folder{_lack(disk['run'], disk['run_free'])}"
    )


def _lack(wanted: int, free: int) -> str:
    return ": too little" if wanted > free else ""


def gigabytes(size: int | None) -> str:
    """Bytes as people say them: 20.4 GB, 0.29 GB, 9 MB; "an unknown size" for None."""
    if size is None:
        return "an unknown size"
    if size < 1e8:
        return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e6:.1f} MB"
    return f"{size / 1e9:.2f} GB" if size < 1e9 else f"{size / 1e9:,.1f} GB"


def clock(hours: float) -> str:
    """Hours as people say them: 40 min, 9.1 h, 31 h."""
    if hours < 1:
        return f"{max(1, round(60 * hours))} min"
    return f"{hours:.1f} h" if hours < 10 else f"{hours:,.0f} h"


def per_second(rate: float) -> str:
    """Pictures a second: 3.2, 45, 1,200."""
    return f"{rate:.1f}" if rate < 10 else f"{rate:,.0f}"


def require_drawable(file: Path) -> None:
    """Refuses, before anything is counted, a picture that could not be drawn in the end.

    ValueError or ImportError with one sentence.
    """
    if file.suffix.lower() not in ENDINGS:
        raise ValueError(f"--picture {file}: give a name that ends in {' or '.join(ENDINGS)}.")
    if not file.absolute().parent.is_dir():
        raise ValueError(f"--picture {file}: there is no folder {file.parent}; make it first.")
    try:
        import matplotlib.figure  # noqa: F401  only whether it is there
    except ImportError as error:
        raise ImportError("--picture needs matplotlib: pip install matplotlib") from error


def memory_figure(costs: rehearsal.StepCosts, recipe: Recipe, kept: int = 0) -> "Figure":
    """Memory over the batch, stacked by part, against the lines of all GPUs.

    kept: bytes of the pictures that stay beside the network.
    """
    from matplotlib.figure import Figure

    figure = Figure((8, 4), layout="constrained")
    axes = figure.subplots()
    rows = [costs.memory(n, recipe.optimizer, recipe.ema > 0, kept).parts() for n in BATCHES]
    bottom = [0.0] * len(BATCHES)
    for name, colour in zip(rows[0], STACK, strict=True):
        heights = [row[name] / rehearsal.GIB for row in rows]
        if not any(heights):
            continue
        axes.bar(range(len(BATCHES)), heights, bottom=bottom, color=colour, label=name, width=0.7)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for memory, names in gpu_lines().items():
        axes.axhline(memory, color="0.2", linewidth=0.9, linestyle="--")
        axes.annotate(names, (1.01, memory), xycoords=("axes fraction", "data"), va="center")
    axes.set(ylim=(0, 1.11 * max(gpu_lines())), xlabel="pictures in a step", ylabel="GiB")
    axes.set_xticks(range(len(BATCHES)), list(map(str, BATCHES)))
    axes.legend(loc="upper left", framealpha=1, edgecolor="white")
    return figure


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
