"""Lesson 12's figures: what is drawn is what was recorded, at its place."""

import matplotlib.pyplot as plt
import pytest
import torch

from lesson_lib.course import experiment_charts as charts
from lesson_lib.course.experiments import TABLES
from lesson_lib.course.museum import Exhibit
from lesson_lib.course.paired import Difference


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def dots(axes, marker="o"):
    """(x, y) of every dot of a marker."""
    lines = [line for line in axes.lines if line.get_marker() == marker]
    return [point for line in lines for point in zip(line.get_xdata(), line.get_ydata())]


def test_each_seed_and_each_printed_number_stands_in_its_row():
    rows = TABLES["ssd-augment"].rows
    here = {setting: [10.0 + i, 12.0 + i] for i, (_, setting, _) in enumerate(rows)}
    figure = charts.beside_the_paper(["ssd-augment"] * 2, here, "mAP")
    left, right = figure.axes[:2]
    printed = [(paper, i) for i, (_, _, paper) in enumerate(rows) if paper is not None]
    assert sorted(dots(left, "D")) == sorted(printed)
    words = ["not in the paper" if paper is None else str(paper) for _, _, paper in rows]
    assert [text.get_text() for text in left.texts] == words
    assert [x for x, _ in dots(right)] == [10.0 + i + plus for i in range(4) for plus in (0, 2)]
    places = [y for _, y in dots(right)]  # the two seeds of a row stand apart, about its line
    assert places == pytest.approx([i + side for i in range(4) for side in (-0.065, 0.065)])
    assert [label.get_text() for label in left.get_yticklabels()] == [row[0] for row in rows]
    assert dots(right, "|") == [(11.0 + i, i) for i in range(4)]  # the means
    assert all(axes.get_xlim() == (9, 16) for axes in figure.axes[1::2])  # one axis for all


def test_a_setting_without_runs_leaves_its_row_empty():
    figure = charts.beside_the_paper(["ce-alpha"] * 2, {}, "AP")
    assert not dots(figure.axes[1]) and len(dots(figure.axes[0], "D")) == 4


def test_the_dots_of_one_seed_are_joined_across_the_settings():
    rows = [("A", {0: 3.0, 1: 1.0, 4: 8.0}), ("B", {0: 4.0, 1: 2.0})]
    (axes,) = charts.joined(rows, "AP").figure.axes
    strokes = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "None"]
    assert strokes == [[3.0, 4.0], [1.0, 2.0]]  # seed 4 has no partner
    assert dots(axes) == [(3.0, 0), (1.0, 0), (8.0, 0), (4.0, 1), (2.0, 1)]
    assert dots(axes, "|") == [(4.0, 0), (3.0, 1)]
    assert [text.get_text() for text in axes.texts] == ["seed 0", "seed 1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A", "B"]


def test_a_difference_is_drawn_with_its_interval_and_zero():
    rows = [("b - a", Difference([1.0, 3.0], 2.0, 1.5))]
    (axes,) = charts.differences(rows, "points", notes=["2.0 ± 1.5"]).figure.axes
    (note,) = axes.texts
    assert note.get_text() == "2.0 ± 1.5" and note.xy[1] == 0
    assert [x for x, _ in dots(axes)] == [1.0, 3.0] and all(0 < y < 0.5 for _, y in dots(axes))
    assert axes.collections[0].get_segments()[0][:, 0].tolist() == [0.5, 3.5]
    assert list(axes.lines[0].get_xdata()) == [0, 0] and axes.get_xlabel() == "points"


def test_the_interval_of_one_among_several_is_wider_and_cut_at_the_axis_with_an_arrow():
    rows = [("a", Difference([2.0, 4.0], 3.0, 1.0)), ("b", Difference([-4.0, -6.0], -5.0, 3.0))]
    (axes,) = charts.differences(rows, "points", wider=2.0).figure.axes
    (edge,) = {-x for x, _ in dots(axes, "<")}
    assert 8 < edge < axes.get_xlim()[1] < 9
    assert (1.0, 0) in dots(axes, "|") and (5.0, 0) in dots(axes, "|")
    assert dots(axes, "<") == [(-edge, 1)] and (1.0, 1) in dots(axes, "|") and not dots(axes, ">")
    (axes,) = charts.differences(rows, "points", wider=2.0, ends=(-9.0, 4.5)).figure.axes
    assert dots(axes, "<") == [(-9.0, 1)] and dots(axes, ">") == [(4.5, 0)]
    assert -9.5 < axes.get_xlim()[0] < -9 and 4.5 < axes.get_xlim()[1] < 5


def test_the_axis_holds_every_seed_of_a_difference():
    rows = [("a", Difference([-9.0, 3.0, 4.0], 1.0, 2.0))]
    (axes,) = charts.differences(rows, "points").figure.axes
    assert axes.get_xlim()[0] < -9 and axes.get_xlim()[1] > 9


def test_an_exhibit_lies_over_the_healthy_one_of_its_kind():
    def exhibit(name, kind, loss):
        records = [{"step": s, "loss": loss + s} for s in (1, 2)]
        return Exhibit(name, kind, records, [{"boxes": torch.zeros(0, 4)}], 0)

    pieces = [exhibit("healthy SSD", "SSD", 1.0), exhibit("healthy RetinaNet", "RetinaNet", 5.0)]
    pieces += [
        exhibit(letter, "SSD" if letter < "H" else "RetinaNet", 9.0) for letter in "ABCDEFGH"
    ]
    figure = charts.exhibit_curves({e.name: e for e in pieces})
    for axes, letter in zip(figure.axes, "ABCDEFGH"):
        grey, black = axes.lines
        assert list(grey.get_ydata()) == ([2.0, 3.0] if letter < "H" else [6.0, 7.0])
        assert list(black.get_ydata()) == [10.0, 11.0] and axes.get_title()[0] == letter
