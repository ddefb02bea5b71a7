"""Widgets without a browser: what a control sends, what is answered, and the still that every page
shows.
"""

import xml.etree.ElementTree as xml

import ipywidgets
import pytest
import torch

from lesson_lib.boxes import pairwise_iou
from lesson_lib.course import svg, widgets
from lesson_lib.course.widgets import (
    BoxPlayground,
    control,
    live_curves,
    slider_figure,
    training_chart,
)

IMAGE = torch.zeros(3, 40, 80, dtype=torch.uint8)
BOXES = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10]])


def draw(gamma, name="a", on=True):
    return svg.Chart(f"gamma {gamma}, {name}, {on}", x=(0, 1), y=(0, 1)).svg()


def bundle(widget) -> dict:
    found = widget._repr_mimebundle_()
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize(
    "spec, kind, value",
    [
        ((0, 5, 1, 2), ipywidgets.IntSlider, 2),
        ((0.0, 5.0, 0.1, 2.0), ipywidgets.FloatSlider, 2.0),
        (["a", "b"], ipywidgets.Dropdown, "a"),
        (True, ipywidgets.Checkbox, True),
    ],
)
def test_a_spec_makes_the_control_with_its_name(spec, kind, value):
    made = control("s_min_of_it", spec)
    assert isinstance(made, kind) and made.value == value and made.description == "s min of it"


@pytest.mark.parametrize("spec", [(0, 1, 2), "text", 3])
def test_nonsense_is_refused_with_a_sentence(spec):
    with pytest.raises(ValueError, match="low, high, step, value"):
        control("x", spec)


def test_a_moved_slider_redraws_and_the_still_follows():
    figure = slider_figure(draw, gamma=(0.0, 5.0, 0.5, 2.0), name=["a", "b"], on=True)
    assert "gamma 2.0, a, True" in figure.page.value
    assert (
        "data-jp-theme-light" in figure.page.value and "data-jp-theme-light" not in figure.still()
    )
    figure.controls["gamma"].value, figure.controls["name"].value = 3.5, "b"
    assert "gamma 3.5, b, True" in figure.page.value
    still = bundle(figure)["image/svg+xml"]
    assert (
        "gamma 3.5, b, True" in still
        and xml.fromstring(still).find("{http://www.w3.org/2000/svg}rect") is not None
    )


def test_an_error_while_drawing_is_shown_in_the_page():
    def broken(x):
        return 1 / (x - 1)

    figure = slider_figure(lambda x: draw(broken(x)), x=(0, 2, 1, 0))
    figure.controls["x"].value = 1
    assert "ZeroDivisionError" in figure.page.value and 'role="alert"' in figure.page.value


def readout(boxes, scale=1.0):
    return f"IoU {scale * pairwise_iou(boxes[:1], boxes[1:]).item():.3f}", [
        svg.shape("shared", boxes[0])
    ]


def test_a_dragged_box_is_answered_with_its_number_and_sequence():
    play = BoxPlayground(
        IMAGE, BOXES, readout, labels=["truth", "proposal"], scale=(0.0, 2.0, 0.5, 1.0)
    )
    assert play.canvas.answer["readout"] == "IoU 0.333" and play.kinds == ["truth", "prediction"]
    assert [look["stroke"] for look in play.canvas.looks] == [
        svg.COLOURS["truth"],
        svg.COLOURS["prediction"],
    ]
    play.canvas.request = {"seq": 7, "boxes": [[0, 0, 10, 10], [0, 0, 10, 10]]}
    assert play.canvas.answer["seq"] == 7 and play.canvas.answer["readout"] == "IoU 1.000"
    assert play.boxes.tolist() == [[0, 0, 10, 10], [0, 0, 10, 10]]
    play.controls["scale"].value = 0.5
    assert play.canvas.answer["readout"] == "IoU 0.500"
    still = bundle(play)["image/svg+xml"]
    assert "IoU 0.500" in still and ">proposal<" in still


def test_an_error_in_update_stands_under_the_picture():
    play = BoxPlayground(IMAGE, BOXES, lambda boxes: 1 / 0)
    assert "ZeroDivisionError" in play.canvas.answer["readout"]


def test_names_must_fit_the_boxes():
    with pytest.raises(ValueError, match="2 boxes need 2 labels"):
        BoxPlayground(IMAGE, BOXES, readout, labels=["only one"])


def test_live_curves_hand_back_every_record_and_end_with_a_still(monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", lambda thing, **_: shown.append(thing))
    records = [{"step": i, "loss": 10.0 / i, "cls": 1.0} for i in range(1, 50)]
    assert live_curves(iter(records), every=0.0) == records
    assert len(shown) == 2 and "loss" in xml.fromstring(shown[1]["image/svg+xml"]).get("aria-label")
    assert (
        "widget-view" in " ".join(bundle(widgets._LiveChart()))
        and bundle(widgets._LiveChart())["text/plain"] == ""
    )


def test_live_curves_draw_what_came_before_an_error_and_pass_it_on(monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", lambda thing, **_: shown.append(thing))

    def failing():
        yield {"step": 1, "loss": 2.0}
        raise ValueError("NaN loss")

    with pytest.raises(ValueError, match="NaN loss"):
        live_curves(failing())
    assert len(shown) == 2


def test_several_curves_of_a_training_are_named_in_a_key_and_one_beside_it():
    records = [{"step": i, "loss": 2.0 + i % 2, "cls": 1.0 + i % 2} for i in range(1, 99)]
    one, both = (training_chart(records, names) for names in (("loss",), ("loss", "cls")))
    assert one.count("h30") == 0 and both.count("h30") == 2  # a piece of its line before each name
    assert ">loss<" in one and ">cls<" in both


def test_the_length_of_the_gradient_has_an_axis_of_its_own():
    records = [{"step": 1, "loss": 2.0, "grad_norm": 30.0}]
    axes = [training_chart(records, (name,)) for name in ("loss", "grad_norm")]
    assert ["length" in chart for chart in axes] == [False, True]


@pytest.mark.parametrize(
    "records", [[], [{"step": 1}], [{"step": 1, "loss": float("nan")}], [{"step": 1, "loss": 0.0}]]
)
def test_a_chart_of_nothing_much_is_still_a_chart(records):
    assert xml.fromstring(training_chart(records, ("loss",))).get("role") == "img"
    assert xml.fromstring(training_chart(records, ("loss",), log=False)).get("role") == "img"
