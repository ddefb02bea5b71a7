"""Lessons 10 and 11: the curves of a recorded training, read from results/detectors.json."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
