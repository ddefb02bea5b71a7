"""Frames drawn ahead are what Python draws, whatever is left out and however they are packed."""

import itertools
import math
import re
from html import escape

import ipywidgets
import nbformat
import pytest
import torch

import lab
from lesson_lib.course import frames, svg
from lesson_lib.course.frames import Stops, frame, stops, thinned
from lesson_lib.course.widgets import BoxPlayground, control, slider_figure
from tools import book, compare


@pytest.mark.parametrize(
    "spec, kind, values, texts, start",
    [
        (True, "tick", [False, True], ["off", "on"], 1),
        (["a", "b"], "choice", ["a", "b"], ["a", "b"], 0),
        ((0, 6, 2, 4), "slider", [0, 2, 4, 6], ["0", "2", "4", "6"], 2),
        ((0.0, 0.3, 0.1, 0.1), "slider", [0, 0.1, 0.2, 0.3], ["0.0", "0.1", "0.2", "0.3"], 1),
        (
            ipywidgets.Dropdown(options=[("one", 1), ("two", 2)], value=2),
            "choice",
            [1, 2],
            ["one", "two"],
            1,
        ),
        (
            ipywidgets.FloatLogSlider(min=-1, max=1, step=1, value=10, readout_format=".1f"),
            "slider",
            [0.1, 1, 10],
            ["0.1", "1.0", "10.0"],
            2,
        ),
    ],
)
def test_stops_are_the_values_that_a_control_can_take(spec, kind, values, texts, start):
    found = stops(control("x", spec))
    assert (found.kind, found.texts, found.start) == (kind, texts, start)
    assert found.values == pytest.approx(values) if kind == "slider" else found.values == values


def test_a_control_that_the_book_does_not_know_is_named():
    with pytest.raises(ValueError, match="IntRangeSlider"):
        stops(ipywidgets.IntRangeSlider())


def slider(count: int, start: int) -> Stops:
    return Stops("x", "slider", list(range(count)), [str(k) for k in range(count)], start)


@pytest.mark.parametrize("limit", [400, 120, 40, 9])
@pytest.mark.parametrize("start", [0, 7, 50])
def test_thinned_sliders_keep_their_ends_and_where_they_stand(limit, start):
    kept = thinned([slider(51, start), slider(20, 3), Stops("c", "choice", [1], ["1"], 0)], limit)
    assert math.prod(len(one.values) for one in kept) <= limit
    for one, first, last in zip(kept[:2], (start, 3), (50, 19), strict=False):
        assert one.values[one.start] == first
        assert one.values[0] == 0 and one.values[-1] == last
        assert one.values == sorted(set(one.values))


def test_stops_that_a_lesson_speaks_of_stay():
    one = slider(51, 7)
    (kept,) = thinned([one], 1, {"x": ("8", "9", "33", "no stop")})
    assert kept.values == [0, 7, 8, 9, 33, 50] and kept.values[kept.start] == 7
    (more,) = thinned([one], 30, {"x": ("8", "33")})
    assert {0, 7, 8, 33, 50} < set(more.values) and len(more.values) <= 30
    (other,) = thinned([one], 3, {"y": ("8",)})
    assert other.values == [0, 7, 50]


def test_choices_are_never_left_out():
    choice = Stops("c", "choice", list("abcd"), list("abcd"), 0)
    assert thinned([choice], 3) == [choice]
    few = thinned([choice, slider(9, 4)], 1)
    assert few[0] == choice and few[1].values == [0, 4, 8]


def draw(a: int, b: str, c: bool) -> str:
    start = '<svg width="9" height="9" style="x"><title>t</title><image href="photoZoom"/>'
    return f'{start}<text x="{a}">{b} &lt; {c}</text></svg>'


def test_every_frame_is_the_drawing_and_a_photograph_is_stored_once():
    figure = slider_figure(draw, a=(0, 3, 1, 2), b=["u", "v"], c=True)
    packed = frames.frames(figure.draw, figure.controls, 100)
    assert [one["start"] for one in packed["controls"]] == [2, 0, 1]
    for i, j, k in itertools.product(range(4), range(2), range(2)):
        assert frame(packed, [i, j, k]) == draw(i, "uv"[j], bool(k))
    assert sum("photoZoom" in piece for piece in packed["pieces"]) == 1


def test_a_coarser_figure_shows_frames_of_the_finer():
    figure = slider_figure(draw, a=(0, 8, 1, 3), b=["u", "v"], c=True)
    fine = frames.frames(figure.draw, figure.controls, 100)
    coarse = frames.coarser(fine, 20)
    stops_left = coarse["controls"][0]["texts"]
    starts = [one["start"] for one in coarse["controls"]]
    assert stops_left[0] == "0" and stops_left[-1] == "8" and "3" in stops_left
    assert len(coarse["frames"]) == 4 * len(stops_left) <= 20
    assert frame(coarse, starts) == frame(fine, [3, 0, 1])
    for place, text in enumerate(stops_left):
        assert frame(coarse, [place, 1, 0]) == draw(int(text), "v", False)


def test_a_figure_says_how_many_stops_were_left_out(monkeypatch):
    figure = slider_figure(draw, a=(0, 20, 1, 3), b=["u", "v"], c=True)
    fine = frames.frames(figure.draw, figure.controls, 1000)
    assert not any("of" in control for control in fine["controls"]) and "must" not in fine
    monkeypatch.setitem(frames.MUST, "draw", {"a": ("4", "9")})
    some = frames.frames(figure.draw, figure.controls, 50)
    fewest = frames.coarser(some, 1)
    for packed in (some, fewest):
        assert [control.get("of") for control in packed["controls"]] == [21, None, None]
        assert {"4", "9"} <= set(packed["controls"][0]["texts"])
    assert fewest["controls"][0]["texts"] == ["0", "3", "4", "9", "20"]


def test_a_figure_carries_frames_only_where_they_are_asked_for(monkeypatch):
    figure = slider_figure(draw, a=(0, 3, 1, 2), b=["u", "v"], c=True)
    monkeypatch.delenv(frames.VARIABLE, raising=False)
    assert frames.MIME not in figure._repr_mimebundle_()
    monkeypatch.setenv(frames.VARIABLE, "12")
    carried = figure._repr_mimebundle_()[frames.MIME]
    assert len(carried["frames"]) == 12
    starts = [one["start"] for one in carried["controls"]]
    assert frame(carried, starts) == figure.draw(**figure.values())


@pytest.mark.parametrize("path", lab.lessons(), ids=lambda path: path.name[:2])
def test_the_stored_frames_are_those_of_the_lesson(path):
    """Where a slider stands, its frame is the picture that the page stores: else run
    `tools/book.py frames NN`."""
    kept = book.stored_frames(path.name[:2])
    assert book.bytes_beyond_photographs(kept) <= book.BYTES
    stored = {cell: figure for cell, figure in kept.items() if "frames" in figure}
    stills = stills_of(path, "SliderFigure")
    assert set(stored) == set(stills)
    for cell, still in stills.items():
        starts = [control["start"] for control in stored[cell]["controls"]]
        drawn = svg.still(frame(stored[cell], starts))
        assert compare.markup_difference(still, drawn) == "", cell


def test_stops_that_lessons_speak_of_are_in_the_book():
    """Else a figure or a control was named anew, or `tools/book.py frames NN` was forgotten."""
    figures = [one for path in lab.lessons() for one in book.stored_frames(path.name[:2]).values()]
    found = [one["must"] for one in figures if "must" in one]
    as_lists = [{label: list(texts) for label, texts in of.items()} for of in frames.MUST.values()]
    assert sorted(found, key=str) == sorted(as_lists, key=str)
    for figure in figures:
        shown = {one["label"]: one["texts"] for one in figure["controls"]}
        for label, texts in figure.get("must", {}).items():
            assert set(texts) <= set(shown[label]), label


def test_the_explorer_of_lesson_2_can_show_the_answer_to_its_question():
    figure = book.stored_frames("02")["explorer"]

    def best(s_min: str) -> float:
        """The best overlap, as it is said at this stop over the platelet that was asked about."""
        wanted = {"s min": s_min, "maps": "6", "on map": "1", "along": "28"}
        places = [one["texts"].index(wanted[one["label"]]) for one in figure["controls"]]
        words = " ".join(re.sub("<[^>]+>", " ", frame(figure, places)).split())
        return float(re.search(r"the best has IoU ([\d.]+)", words)[1])

    covered = [best(s_min) >= 0.5 for s_min in ("0.02", "0.03", "0.11", "0.12")]
    assert covered == [False, True, True, False]


def stills_of(path, kind: str) -> dict[str, str]:
    """Cell id -> the picture that the published lesson stores of a widget of this kind."""
    return {
        cell.id: output["data"]["image/svg+xml"]
        for cell in nbformat.read(path, 4).cells
        for output in cell.get("outputs", [])
        if output.get("data", {}).get("text/plain") == kind
    }


@pytest.mark.parametrize("path", lab.lessons(), ids=lambda path: path.name[:2])
def test_the_stored_playgrounds_start_as_the_lesson_shows_them(path):
    """Else run `tools/book.py frames NN`."""
    kept = book.stored_frames(path.name[:2])
    stored = {cell: figure for cell, figure in kept.items() if "frames" not in figure}
    stills = stills_of(path, "BoxPlayground")
    assert set(stored) == set(stills)
    for cell, still in stills.items():
        figure, pieces = stored[cell], still.replace(">", ">\n")
        assert f'href="{figure["image"]}"' in pieces
        assert f'aria-label="{escape(figure["answer"]["readout"])}"' in pieces
        for one in [*figure["answer"]["shapes"], *figure["looks"]]:
            assert f'd="{one["d"]}"' in pieces, (cell, one["kind"])


def test_a_playground_carries_what_its_answer_reads_and_no_more(monkeypatch):
    limits = torch.tensor([[0.1, 2, 3, 7.3]])
    scope = {"limits": limits, "other": torch.zeros(3), "torch": torch}
    exec("def near(boxes, least):\n    return f'{limits.sum() > least}', []", scope)
    image, boxes = torch.zeros(3, 20, 30, dtype=torch.uint8), torch.tensor([[1, 2, 9.3, 8]])
    shown = BoxPlayground(image, boxes, scope["near"], least=(0.0, 1.0, 0.5, 0.5))
    monkeypatch.delenv(frames.VARIABLE, raising=False)
    assert frames.MIME not in shown._repr_mimebundle_()
    monkeypatch.setenv(frames.VARIABLE, "1")
    carried = shown._repr_mimebundle_()[frames.MIME]
    assert carried["answers"] == "near" and list(carried["data"]) == ["limits"]
    assert carried["data"]["limits"] == [[0.1, 2.0, 3.0, 7.3]]
    assert torch.equal(torch.tensor(carried["data"]["limits"]), limits)
    assert carried["answer"] == {"seq": 0, "readout": "True", "shapes": []}
    (least,) = carried["controls"]
    assert (least["name"], least["values"], least["start"]) == ("least", [0.0, 0.5, 1.0], 1)
