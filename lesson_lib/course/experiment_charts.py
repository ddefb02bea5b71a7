"""Lesson 12's figures: recorded runs -> matplotlib figures."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lesson_lib.course.experiments import TABLES
from lesson_lib.course.museum import Exhibit
from lesson_lib.course.paired import Difference
from lesson_lib.course.plots import COLOURS


def beside_the_paper(
    names: Sequence[str], here: Mapping[str, list[float]], paper_axis: str
) -> Figure:
    """The tables of these names, one below the other: left what the paper prints, right every seed
    of ours, over a stroke at their mean. All right panels have one axis, that of all of `here`.

    here   {setting: AP in percent, one a seed};  paper_axis: words below the left column
    """
    figure, panels = plt.subplots(
        len(names), 2, figsize=(7.5, 1.75 * len(names)), layout="constrained"
    )
    for name, (left, right) in zip(names, panels, strict=True):
        _table(left, right, name, here)
        if every := [ap for aps in here.values() for ap in aps]:
            right.set_xlim(min(every) - 1, max(every) + 1)
    for axes, words in zip(panels[-1], (paper_axis, "here: AP on smears"), strict=True):
        axes.set_xlabel(words)
    return figure


def _table(left: Axes, right: Axes, name: str, here: Mapping[str, list[float]]) -> None:
    table = TABLES[name]
    for place, (_, setting, paper) in enumerate(table.rows):
        if paper is None:
            left.annotate(
                "not in the paper",
                (0.03, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=7.5,
                color="0.4",
                backgroundcolor="white",
            )
        else:
            left.plot(paper, place, "D", color=COLOURS["one"], markersize=5, clip_on=False)
            left.annotate(
                f"{paper}", (paper, place), xytext=(6, 3), textcoords="offset points", fontsize=7.5
            )
        if values := here.get(setting, []):
            right.plot(sum(values) / len(values), place, "|", color="black", markersize=15)
        _seeds(right, values, place, apart=0.13)
    left.set_title(f"{table.source} · {table.question}", fontsize=9, loc="left")
    labels = [label for label, _, _ in table.rows]
    for axes, words in ((left, labels), (right, [""] * len(labels))):
        _rows(axes, words)


def joined(rows: Sequence[tuple[str, Mapping[int, float]]], words: str) -> Figure:
    """One line a setting: a dot for each seed, the mean, and strokes that join the dots of a seed.

    rows   a label and {seed: AP} for each;  words: below the axis
    """
    figure, axes = plt.subplots(figsize=(7.5, 0.9 + 0.5 * len(rows)), layout="constrained")
    for seed in sorted(set.intersection(*(set(row) for _, row in rows))):
        values = [row[seed] for _, row in rows]
        axes.plot(values, range(len(rows)), color="0.55", linewidth=1.2)
        axes.annotate(
            f"seed {seed}", (values[0], -0.2), ha="center", va="bottom", fontsize=8, color="0.3"
        )
    for place, (_, row) in enumerate(rows):
        axes.plot(sum(row.values()) / len(row), place, "|", color="black", markersize=15)
        _seeds(axes, list(row.values()), place)
    _rows(axes, [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.6, -0.7)
    axes.set_xlabel(words)
    return figure


def differences(
    rows: Sequence[tuple[str, Difference]],
    words: str,
    wider: float = 1,
    notes: Sequence[str] = (),
    ends: tuple[float, float] | None = None,
) -> Figure:
    """One line a difference: its mean and the 95 % interval, thick, a dot for each seed below, and
    0 to hold against.

    words   below the axis: what is subtracted from what
    wider   how many times as wide the thin grey interval below is, that of one among several; an
            arrow where it goes on beyond the axis
    notes   right of the rows, one each: their numbers
    ends    of the axis; else 0 is in the middle, and no thick interval is cut, nor a seed outside
    """
    figure, axes = plt.subplots(figsize=(7.5, 0.9 + 0.42 * len(rows)), layout="constrained")
    axes.axvline(0, color="0.3", linewidth=0.8, linestyle=":")
    edge = 1.05 * max(
        max([abs(d.mean) + d.half, *(abs(seed) for seed in d.by_seed)]) for _, d in rows
    )
    low, high = ends or (-edge, edge)
    for place, (_, difference) in enumerate(rows):
        _wide(axes, difference.mean, wider * difference.half, place, (low, high))
        _bar(axes, difference.mean, difference.half, place)
        _seeds(axes, difference.by_seed, place + 0.26)
    for place, note in enumerate(notes):
        beside = {"xycoords": ("axes fraction", "data"), "va": "center", "family": "monospace"}
        axes.annotate(note, (1.02, place), fontsize=8, **beside)
    _rows(axes, [label for label, _ in rows])
    margin = 0.015 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    axes.set_xlabel(words)
    return figure


def exhibit_curves(pieces: Mapping[str, Exhibit]) -> Figure:
    """The loss of each exhibit, black, over that of the healthy detector of its kind, grey."""
    letters = [name for name in pieces if len(name) == 1]
    figure, panels = plt.subplots(2, 4, figsize=(8, 3.6), sharey=True, layout="constrained")
    for axes, letter in zip(panels.flat, letters, strict=True):
        exhibit = pieces[letter]
        healthy = pieces[f"healthy {exhibit.kind}"]
        for one, colour, width in ((healthy, "0.65", 2.5), (exhibit, "black", 1)):
            steps, losses = zip(*((r["step"], r["loss"]) for r in one.records), strict=True)
            axes.plot(steps, losses, color=colour, linewidth=width)
        axes.set(yscale="log", title=f"{letter}  ({exhibit.kind})")
    for axes in panels[-1]:
        axes.set_xlabel("step")
    for axes in panels[:, 0]:
        axes.set_ylabel("loss")
    return figure


def _seeds(axes: Axes, values: Sequence[float], place: float, apart: float = 0) -> None:
    """A dot for each value, in a row about `place`, each a little below the one before."""
    if not values:  # an empty line would still take room in the layout
        return
    first = place - apart * (len(values) - 1) / 2
    places = [first + apart * i for i in range(len(values))]
    style = {"color": "0.35", "markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.7}
    axes.plot(values, places, "o", clip_on=False, zorder=3, **style)


def _wide(axes: Axes, mean: float, half: float, place: float, ends: tuple[float, float]) -> None:
    """A thin grey interval, cut at both ends, where an arrow says that it goes on."""
    low, high = ends
    for end, arrow in ((mean - half, "<"), (mean + half, ">")):
        cut = max(low, min(high, end))
        axes.plot([mean, cut], [place, place], color="0.6", linewidth=1)
        axes.plot(cut, place, "|" if cut == end else arrow, color="0.6", clip_on=False)


def _bar(axes: Axes, mean: float, half: float, place: float) -> None:
    style = {"color": "black", "markersize": 11, "capsize": 3, "linewidth": 2.2}
    axes.errorbar(mean, place, xerr=half, fmt="|", **style)


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    """One row a label, from the top down."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
