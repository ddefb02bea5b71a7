"""Still figures: what is drawn where, in which look."""

import importlib
import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from PIL import ImageColor

from lesson_lib.colours import CLASS_COLOURS
from lesson_lib.course import plots
from lesson_lib.course.plots import draw_boxes, draw_picture, show
from lesson_lib.course.story import running_smear


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_a_picture_fills_its_axes_in_pixel_coordinates(axes):
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[0, 5, 7] = 255
    draw_picture(axes, image)
    assert axes.get_xlim() == (0, 30) and axes.get_ylim() == (20, 0)
    assert axes.images[0].get_array()[5, 7].tolist() == [255, 0, 0]
    assert len(axes.get_xticks()) == 0


def test_boxes_have_their_place_class_colour_and_letter(axes):
    draw_picture(axes, torch.zeros(3, 60, 60, dtype=torch.uint8))
    draw_boxes(
        axes, torch.tensor([[5.0, 20, 25, 50], [30, 2, 40, 12]]), labels=torch.tensor([0, 2])
    )
    first, second = axes.patches
    assert first.get_xy() == (5, 20) and (first.get_width(), first.get_height()) == (20, 30)
    assert [t.get_text() for t in axes.texts] == ["R", "P"]
    assert (
        plt.matplotlib.colors.to_hex(second.get_edgecolor()) == CLASS_COLOURS["Platelets"].lower()
    )
    assert (
        axes.texts[1].get_verticalalignment() == "top"
    )  # below the box, at the picture's upper border


def test_kinds_differ_in_more_than_colour(axes):
    for kind in plots.BOX_STYLES:
        draw_boxes(axes, torch.tensor([[0.0, 0, 1, 1]]), kind=kind)
    looks = [
        (
            p.get_linestyle() if isinstance(p.get_linestyle(), str) else str(p.get_linestyle()),
            p.get_linewidth(),
            str(p._dash_pattern),
        )
        for p in axes.patches
    ]
    assert len(set(looks)) == len(plots.BOX_STYLES)


def test_no_boxes_draw_nothing_and_an_unknown_kind_is_an_error(axes):
    draw_boxes(axes, torch.zeros(0, 4))
    assert not axes.patches
    with pytest.raises(KeyError):
        draw_boxes(axes, torch.zeros(1, 4), kind="guess")


def test_show_has_words_and_closes_the_figure(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", shown.append)
    figure, _ = plt.subplots(figsize=(3, 2))
    show(figure, alt="an empty frame", caption="Nothing <here>.")
    png, caption = shown
    data, metadata = png._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == "an empty frame"
    assert np.asarray(Pillow.open(io.BytesIO(png.data))).shape[1] > 200
    assert "Nothing &lt;here&gt;." in caption.data and not plt.fignum_exists(figure.number)


def test_a_sharp_figure_has_twice_the_pixels_at_the_same_size(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", shown.append)
    for sharp in (False, True):
        figure, _ = plt.subplots(figsize=(3, 2))
        show(figure, alt="a frame", caption="A frame.", sharp=sharp)
    plain, sharp = shown[0], shown[2]
    (wide, high), (twice, _) = (Pillow.open(io.BytesIO(png.data)).size for png in (plain, sharp))
    assert abs(twice - 2 * wide) <= 2 and abs(sharp.width - wide) <= 1 and wide > high
    assert sharp._repr_mimebundle_()[1]["image/png"]["alt"] == "a frame"


def test_a_platelets_box_keeps_its_pink_on_a_sharp_photograph(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", shown.append)
    figure, axes = plt.subplots(figsize=(3, 2))
    draw_picture(axes, running_smear(128).image)
    draw_boxes(axes, torch.tensor([[20.0, 20, 50, 50]]), "prediction", torch.tensor([2]))
    show(figure, alt="a smear", caption="A smear.", sharp=True)
    picture = Pillow.open(io.BytesIO(shown[0].data)).convert("RGB")
    found = {colour for _, colour in picture.getcolors(1 << 20)}
    assert ImageColor.getrgb(plots.CLASS_COLOURS[2]) in found


def test_a_smear_keeps_more_colours(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", shown.append)
    for colours in (64, 256):
        figure, axes = plt.subplots(figsize=(3, 2))
        draw_picture(axes, running_smear(128).image)
        show(figure, alt="a smear", caption="A smear.", sharp=True, colours=colours)
    few, many = (
        len(Pillow.open(io.BytesIO(png.data)).convert("RGB").getcolors(999)) for png in shown[::2]
    )
    assert few <= 64 < many <= 256


def test_the_look_is_asked_for_and_not_imported():
    with plt.rc_context():
        plt.rcdefaults()
        before = dict(plt.rcParams)
        importlib.reload(plots)
        assert dict(plt.rcParams) == before
        plots.use_style()
        assert {name: plt.rcParams[name] for name in plots.STYLE} == plots.STYLE
