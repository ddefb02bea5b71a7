"""Lessons 10 and 11: the curves of a training, recorded in results/detectors.json or just run."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lesson_lib.colours import CURVES
from lesson_lib.course import svg
from lesson_lib.course.plots import COLOURS


def curves(run: dict[str, Any]) -> Figure:
    """A run's loss over its steps, and beside it AP50 on val, with what the test split said at the
    end. run: a record of results/detectors.json with its `curve`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.4), layout="constrained")
    steps, losses = zip(*run["curve"]["loss"])
    left.plot(steps, losses, color=COLOURS["one"])
    left.set(xlabel="step", title="Loss, means over stretches", ylim=(0, None), xlim=(0, None))
    _judged(right, run["curve"]["val AP50"], 100 * run["figures"]["AP50"])
    return figure


def _judged(axes: Axes, judged: list[list[float]], test: float) -> None:
    """AP50 on val over the steps, a number at each dot, and that of the test split as a line."""
    steps = [step for step, _ in judged]
    points = [100 * value for _, value in judged]
    axes.axhline(test, color="#777777", linewidth=1, linestyle=(0, (4, 2)))
    axes.text(steps[-1] / 50, test + 2, f"test, once: {test:.1f}", fontsize=8, color="#444444")
    axes.plot(steps, points, color=COLOURS["two"], marker="o", markersize=4)
    for step, value in zip(steps, points):
        axes.annotate(
            f"{value:.1f}",
            (step, value),
            (0, 6 if value > test else -12),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set(xlabel="step", title="AP50 on val, percent", ylim=(0, 100), xlim=(0, 1.08 * steps[-1]))


def below_the_loss(records: Sequence[dict[str, Any]]) -> str:
    """What belongs below a training's chart of losses, over the same steps: the length of the
    gradient, and the learning rate with AP on val at each evaluation, as SVG. records: of
    `training.loop.train`.
    """
    every = records[:: max(1, len(records) // 300)]
    steps = [record["step"] for record in every]
    lengths = [record["grad_norm"] for record in every]
    end = (0, 1.02 * records[-1]["step"])  # a little more, so that the last dot is whole
    above = svg.Chart(
        "The same training: length of the gradient",
        x=end,
        y=(0.8 * min(lengths), 1.25 * max(lengths)),
        y_log=True,
        y_label="length",
        height=200,
    )
    above.curve(steps, lengths, dash="dashdot", colour="#7f7f7f")
    top = max(records, key=lambda record: record["lr"])
    below = svg.Chart(
        "The learning rate, and AP on val", x=end, y=(0, 1.3), x_label="step", height=220
    )
    shares = [record["lr"] / top["lr"] for record in every]
    below.curve(steps, shares, dash="longdash", colour="#7f7f7f")
    below.label(top["step"], 1, f"rate, of its highest (step {top['step']})")
    judged = [(record["step"], record["AP"]) for record in records if "AP" in record]
    below.curve([step for step, _ in judged], [ap for _, ap in judged], colour=CURVES["three"])
    for step, ap in judged:
        below.point(step, ap, label=f"AP {100 * ap:.0f}", colour=CURVES["three"])
    return svg.below(above.svg(), below.svg())
