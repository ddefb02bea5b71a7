"""The logs of lesson 10: a healthy short training, and four others into each of which one fault was
planted.
"""

import time
from dataclasses import replace
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import nn

from lesson_lib.colours import CURVES
from lesson_lib.data.samples import Sample
from lesson_lib.data.smears import Smears
from lesson_lib.training.recipes import MODELS, build_model

SIZE, BATCH, STEPS = 64, 4, 18
LOST = 10  # the step, from 0, before which the optimizer forgets
RATE, PARTS = 4e-3, 4
SLOW = 0.03  # seconds that a starving loader takes more for a picture


class Row(NamedTuple):
    """A step in a log: losses and gradient as `train` records them, waiting and working in ms."""

    step: int
    loss: float
    grad_norm: float
    wait: float
    work: float


class Fault(NamedTuple):
    """What is planted: factors of the rate and of the loss that is differentiated, the step before
    which the optimizer is made anew, seconds that each picture costs the loader.
    """

    rate: float = 1.0
    loss: float = 1.0
    lost: int = 0
    slow: float = 0.0


#: By the letters of `checks.lesson10.FAULTS`, which says in words what they are.
PLANTED = {
    "healthy": Fault(),
    "A": Fault(rate=40),
    "B": Fault(loss=PARTS),
    "C": Fault(lost=LOST),
    "D": Fault(slow=SLOW),
}


def logs(seed: int = 0, names: tuple[str, ...] = tuple(PLANTED)) -> dict[str, list[Row]]:
    """{"healthy": rows, "A": rows, ...}: a tiny SSD that learns four smears by heart, AdamW."""
    pictures = list(Smears("train", BATCH, SIZE))
    return {name: _log(PLANTED[name], pictures, seed) for name in names}


def _log(fault: Fault, pictures: list[Sample], seed: int) -> list[Row]:
    torch.manual_seed(seed)
    config = replace(MODELS["ssd-tiny"], backbone="tiny-8", norm="group")
    model = build_model(config, 3, SIZE).train()
    anchors, rate, rows = model.anchors(SIZE), RATE * fault.rate, list[Row]()
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    for step in range(STEPS):
        begin = time.perf_counter()
        batch = [pictures[n] for n in range(BATCH)]
        time.sleep(fault.slow * BATCH)
        images = torch.stack([picture.image for picture in batch]).float() / 255
        targets = [{"boxes": picture.boxes, "labels": picture.labels} for picture in batch]
        there = time.perf_counter()
        if fault.lost and step == fault.lost:
            optimizer = torch.optim.AdamW(model.parameters(), rate)
        loss = torch.stack(list(model.criterion(model(images), anchors, targets).values())).sum()
        optimizer.zero_grad()
        (loss * fault.loss).backward()
        length = nn.utils.clip_grad_norm_(model.parameters(), float("inf")).item()
        optimizer.step()
        times = 1000 * (there - begin), 1000 * (time.perf_counter() - there)
        rows.append(Row(step + 1, loss.item(), length, *times))
    return rows


def draw_logs(found: dict[str, list[Row]]) -> Figure:
    """A column for each log, a row for each thing that it records; the healthy one, thin, lies
    behind the others.
    """
    figure, panels = plt.subplots(
        3, len(found), figsize=(8, 4.4), sharex=True, sharey="row", layout="constrained"
    )
    for column, (name, rows) in zip(panels.T, found.items(), strict=True):
        steps = [row.step for row in rows]
        for axes, what in zip(column, ("loss", "grad_norm", "wait"), strict=True):
            healthy, own = ([getattr(row, what) for row in log] for log in (found["healthy"], rows))
            axes.plot(steps, healthy, ":", color="0.4", linewidth=1)
            axes.plot(steps, own, color=CURVES["two" if len(name) == 1 else "one"], linewidth=1.6)
            axes.set_yscale("linear" if what == "wait" else "log")
        column[0].set_title(f"log {name}" if len(name) == 1 else name, fontsize=9)
        column[-1].set(xlabel="step", ylim=(0, 150))  # a spike of this machine's may be higher
    for axes, words in zip(
        panels[:, 0], ("loss", "length of the\ngradient", "ms that the step\nwaits for pictures")
    ):
        axes.set_ylabel(words)
    return figure
