"""Pictures of lessons 10 and 11: a step's memory against five GPUs, who waits for whom, a rate over
its loss.
"""

import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from lesson_lib.cli.rehearsed import STACK, clock
from lesson_lib.course import svg
from lesson_lib.course.svg import Chart
from lesson_lib.training.recipes import Recipe
from lesson_lib.training.rehearsal import GIB, GPUS, StepCosts, plan
from lesson_lib.training.schedule import learning_rate

BUSY, IDLE, GREY = "#009E73", "#D55E00", "#7f7f7f"
SCALE = (1, 200)  # GiB at both ends of the tracks, which are logarithmic
LEFT, RIGHT, WIDTH = 112, 400, 700  # px: the tracks' ends, and the picture's width
TOP, STEP = 128, 30  # px: the first track, and from one to the next


def verdict_on(costs: StepCosts, recipe: Recipe, pictures: int, gpu: str) -> str:
    """What `rehearse` says of a GPU in a few words: fits, just fits or not, and the hours."""
    if costs.precision not in GPUS[gpu].tflops:
        return f"calculates no {costs.precision} itself"
    planned = plan(costs, recipe, GPUS[gpu], pictures // recipe.batch)
    if not planned.accumulate:
        return "not even one picture fits"
    fast, slow = (clock(hours) for hours in planned.hours)
    whole = "just fits" if planned.tight else "fits"
    said = whole if planned.fits else f"only in {planned.accumulate} parts"
    return f"{said}; {fast} to {slow}"


def memory_picture(
    costs: StepCosts,
    recipe: Recipe,
    pictures: int,
    title: str,
    verdict: bool = True,
    gpus: Sequence[str] = tuple(GPUS),
) -> str:
    """The memory of a step of `recipe.batch` pictures, part by part, and a line down through the
    tracks of these GPUs: a track that ends before the line is too short, and one of a GPU that does
    not calculate in the step's precision is grey. pictures: of the training. Without `verdict`
    nothing is said of parts and hours.
    """
    memory = costs.memory(recipe.batch, recipe.optimizer, recipe.ema > 0)
    total = memory.total / GIB
    tracks, said = _tracks(costs, recipe, pictures, total, verdict, gpus)
    rows = [svg.text(8, 20, title, size=15), *_stack(memory.parts(), total), *tracks]
    at, bottom = _place(total), TOP + STEP * len(gpus) - 8
    rows.append(
        f'<path d="M{svg.number(at)} 100V{bottom}" stroke="currentColor" stroke-width="2"/>'
    )
    rows.append(svg.text(at, 94, f"{total:.1f} GiB", anchor="middle"))
    rows += [
        svg.text(_place(gib), bottom + 16, f"{gib}", size=12, anchor="middle")
        for gib in (1, 3, 10, 30, 100)
    ]
    rows.append(svg.text(RIGHT + 14, bottom + 16, "GiB, logarithmic", size=12))
    alt = f"{title}: {total:.1f} GiB; {'; '.join(said)}"
    return svg.document("".join(rows), WIDTH, bottom + 26, alt)


def _tracks(
    costs: StepCosts,
    recipe: Recipe,
    pictures: int,
    total: float,
    verdict: bool,
    gpus: Sequence[str],
) -> tuple[list[str], list[str]]:
    """A track for each GPU, and what is said of each."""
    rows, said = list[str](), list[str]()
    for number, key in enumerate(gpus):
        gpu, y = GPUS[key], TOP + STEP * number
        words = f"{gpu.memory:.0f} GiB"
        if verdict:
            words += f": {verdict_on(costs, recipe, pictures, key)}"
        long_enough = gpu.memory >= total
        colour = (BUSY if long_enough else IDLE) if costs.precision in gpu.tflops else GREY
        dash = "" if long_enough else 'stroke-dasharray="4 3"'
        end = svg.number(_place(gpu.memory))
        rows += [
            svg.text(LEFT - 8, y + 5, gpu.name.split(" (")[0], anchor="end"),
            f'<path d="M{LEFT} {y}H{end}" stroke="{colour}" stroke-width="12" {dash}/>',
            svg.text(RIGHT + 14, y + 5, words),
        ]
        said.append(f"{gpu.name}: {words}")
    return rows, said


def _place(gib: float) -> float:
    """px of an amount of memory on the tracks."""
    low, high = map(math.log, SCALE)
    share = (math.log(max(gib, SCALE[0])) - low) / (high - low)
    return LEFT + min(share, 1) * (RIGHT - LEFT)


def _stack(parts: dict[str, int], total: float) -> list[str]:
    """One bar of the parts' shares, and a key with their GiB below it."""
    rows, x, key = [], 8.0, 8.0
    for colour, (name, size) in zip(STACK, parts.items(), strict=True):
        if not size:
            continue
        width = size / GIB / total * (WIDTH - 16)
        rows.append(
            f'<rect x="{svg.number(x)}" y="32" width="{svg.number(width)}" height="14" '
            f'fill="{colour}"/>'
        )
        words = f"{name} {size / GIB:.2f}"
        rows.append(f'<rect x="{svg.number(key)}" y="56" width="10" height="10" fill="{colour}"/>')
        rows.append(svg.text(key + 14, 66, words, size=12))
        x, key = x + width, key + 22 + 6.5 * len(words)
    return rows


class Turn(NamedTuple):
    """One step of a training that is fed by workers, in ms: when its batch is there, when the GPU
    begins with it and when it ends.
    """

    ready: float
    begin: float
    end: float


def turns(picture_ms: float, workers: int, batch: int, step_ms: float, count: int) -> list[Turn]:
    """`count` steps of a GPU that takes `step_ms` for a batch, where each of the workers makes
    whole batches, `picture_ms` a picture, one after another. As in PyTorch's loader, 2 x workers
    batches are begun and not taken at most: then a worker waits until the GPU takes one.
    """
    found, free = list[Turn](), 0.0
    for number in range(count):
        own = found[number - workers].ready if number >= workers else 0.0
        room = found[number - 2 * workers].begin if number >= 2 * workers else 0.0
        ready = max(own, room) + batch * picture_ms
        begin = max(ready, free)
        free = begin + step_ms
        found.append(Turn(ready, begin, free))
    return found


def timeline(
    picture_ms: float,
    workers: int,
    batch: int,
    step_ms: float,
    span: float,
    verdict: bool = True,
    name: str = "",
) -> str:
    """Workers that prepare batches, a row each, and the GPU that trains on them, over `span` ms;
    with `verdict` the title says what share of the time it works, after the `name`.
    """
    done = turns(picture_ms, workers, batch, step_ms, 400)
    scale, load, rows = (WIDTH - 110) / span, batch * picture_ms, list[str]()
    share = min(1.0, workers * step_ms / load)  # in the long run
    for worker in range(workers):
        y = 40 + 16 * worker
        rows.append(svg.text(84, y + 11, f"worker {worker + 1}", size=12, anchor="end"))
        made = [(turn.ready - load, turn.ready) for turn in done[worker::workers]]
        rows += _row(made, span, scale, y, (STACK[1], GREY), 12)
    y = 52 + 16 * workers
    rows.append(svg.text(84, y + 16, "GPU", anchor="end"))
    rows += _row([(turn.begin, turn.end) for turn in done], span, scale, y, (BUSY, IDLE), 22)
    words = (
        f"{name}: " * bool(name)
        + f"{workers} worker{'s' * (workers > 1)}, {picture_ms:.0f} ms a picture, batch {batch}, "
    )
    words += f"{step_ms:.0f} ms a step" + f": the GPU works {share:.0%} of the time" * verdict
    rows.append(svg.text(8, 22, words, size=15))
    rows.append(svg.text(92, y + 42, f"time: {span:,.0f} ms; dashed: waits", size=12))
    return svg.document("".join(rows), WIDTH, y + 52, words)


def _row(
    busy: Sequence[tuple[float, float]],
    span: float,
    scale: float,
    y: float,
    colours: tuple[str, str],
    height: float,
) -> list[str]:
    """Blocks from begin to end, in ms, in the first colour, and a dashed one in the second for each
    pause between two of them.
    """
    colour, pause = colours
    rows, waiting = list[str](), f'fill="none" stroke="{pause}" stroke-dasharray="3 3"'
    pauses = [(end, begin) for (_, end), (begin, _) in pairwise(busy)]
    for spans, look in ((busy, f'fill="{colour}"'), (pauses, waiting)):
        for begin, end in spans:
            width = (min(end, span) - begin) * scale - 1.2
            if begin < span and end > begin:
                rows.append(
                    f'<rect x="{svg.number(92 + begin * scale)}" y="{svg.number(y)}" '
                    f'width="{svg.number(max(width, 0.6))}" height="{svg.number(height)}" {look}/>'
                )
    return rows


def noisy_valley(rates: Sequence[float], seed: int = 0, dimensions: int = 30) -> list[float]:
    """The loss x·x/2 before each step of gradient descent whose gradient is x and noise of
    variance 1: the least model of training by small batches. In plain Python: the same everywhere.
    """
    draw = random.Random(seed)
    x, losses = [5.0] * dimensions, list[float]()
    for rate in rates:
        losses.append(sum(value * value for value in x) / 2)
        x = [value - rate * (value + draw.gauss(0, 1)) for value in x]
    return losses


def schedule_over_loss(recipe: Recipe, steps: int) -> str:
    """The rate of a recipe, and below it the loss of `noisy_valley` with that rate."""
    rates = [learning_rate(step, steps, recipe) for step in range(steps)]
    losses = noisy_valley(rates)
    above = Chart(
        f"schedule {recipe.schedule}, highest rate {recipe.lr:g}",
        x=(0, steps),
        y=(1e-4, 2),
        y_log=True,
        y_label="learning rate",
        height=190,
    )
    above.rungs = [(rate, f"{rate:g}") for rate in (0.005, 0.05, 0.5)]
    above.curve(range(steps), rates, label="rate")
    end = sum(losses[-50:]) / 50
    below = Chart(
        f"loss: {end:.2g} at the end (mean of the last 50 steps)",
        x=(0, steps),
        y=(0.05, 1e3),
        y_log=True,
        x_label="step",
        y_label="loss",
        height=260,
    )
    below.curve(range(steps), losses, label="loss", colour=STACK[0], width=1)
    return svg.below(above.svg(), below.svg())
