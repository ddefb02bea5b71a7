"""Drawings as SVG: well-formed, the same bytes twice, numbers at their places, names for who cannot
see them.
"""

import math
import re
import xml.etree.ElementTree as xml

import pytest
import torch

from lesson_lib.course import svg

PICTURE = torch.zeros(3, 40, 80, dtype=torch.uint8)
INK = "{http://www.w3.org/2000/svg}"


def parse(drawing: str) -> xml.Element:
    return xml.fromstring(drawing)


def chart(**options) -> svg.Chart:
    return svg.Chart("A title", x=(0, 10), y=(0, 1), **options)


def test_everything_in_one_chart_is_well_formed_and_repeats_to_the_byte():
    def draw():
        c = chart(x_label="x < 3", y_label='"y" & z')
        c.curve([0, 5, 10], [0, 0.5, 1], label="up & away", dash="dashed")
        c.bars([0, 1], [1, 2], [0.2, 0.4], label="bars")
        c.point(5, 0.5, label="here")
        c.hline(0.5, label="half")
        c.vline(2)
        return c.svg()

    assert draw() == draw()
    root = parse(draw())
    words = [node.text for node in root.iter(f"{INK}text")]
    assert {"A title", "x < 3", '"y" & z', "up & away", "bars", "here", "half"} <= set(words)
    assert (
        root.get("role") == "img"
        and root.get("aria-label") == "A title: up & away, bars, here, half"
    )


def test_a_curve_passes_through_its_points():
    c = chart()
    c.curve([0, 10], [0, 1])
    (x0, y0), (x1, y1) = c.place(0, 0), c.place(10, 1)
    assert (x0, y1) == (0, 0) and (x1, y0) == tuple(c.inner)
    assert f'd="M0 {svg.number(y0)}L{svg.number(x1)} 0"' in c.svg()


def test_a_curve_breaks_at_nan_and_at_what_a_logarithm_cannot_show():
    c = chart()
    c.curve([0, 1, 2, 3], [0.1, math.nan, 0.3, 0.4])
    assert c.marks[0].count("M") == 2
    log = svg.Chart("t", x=(1, 10), y=(0.1, 10), y_log=True)
    log.curve([1, 2, 3], [0.0, 1.0, -1.0])
    assert log.marks[0].count("M") == 1 and "nan" not in log.svg()


def test_unequal_lengths_and_impossible_ranges_are_refused():
    with pytest.raises(ValueError):
        chart().curve([0, 1], [0])
    with pytest.raises(ValueError, match="low < high"):
        svg.Chart("t", x=(1, 1), y=(0, 1))
    with pytest.raises(ValueError, match="low > 0 on a logarithmic"):
        svg.Chart("t", x=(0, 1), y=(0, 1), x_log=True)


@pytest.mark.parametrize(
    "low, high, log, expected",
    [
        (0, 10, False, [0, 2, 4, 6, 8, 10]),
        (-1, 1, False, [-1, -0.8, -0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6, 0.8, 1]),
        (3.5, 3.6, False, [3.5, 3.52, 3.54, 3.56, 3.58, 3.6]),
        (0.001, 10, True, [0.001, 0.01, 0.1, 1, 10]),
        (0.3, 30, True, [0.5, 1, 2, 5, 10, 20]),
        (2, 6, True, [2, 5]),
    ],
)
def test_ticks_are_round_numbers(low, high, log, expected):
    assert svg.ticks(low, high, log, most=10 if low == -1 else 8 if log else 5) == pytest.approx(
        expected
    )


def test_labels_do_not_cover_each_other():
    c = chart()
    for i in range(5):
        c.point(5, 0.5, label=f"point number {i}")
    spots = {
        (node.get("x"), node.get("y"))
        for node in parse(c.svg()).iter(f"{INK}text")
        if (node.text or "").startswith("point")
    }
    assert len(spots) == 5


def words_at(drawing: str, start: str) -> list[tuple[float, float]]:
    return [
        (float(node.get("x")), float(node.get("y")))
        for node in parse(drawing).iter(f"{INK}text")
        if (node.text or "").startswith(start)
    ]


def test_a_label_keeps_off_a_line_between_its_vertices():
    """Two curves of two points each; everything above the middle of the plot is crossed by the
    other one's line.
    """
    c = chart()
    c.curve([0, 10], [0.5, 0.5], label="level")
    for height in (0.55, 0.6, 0.65):
        c.curve([0, 10], [height, height])
    ((_, baseline),) = words_at(c.svg(), "level")
    lines = [c.place(0, height)[1] for height in (0.5, 0.55, 0.6, 0.65)]
    assert not any(baseline - 12 < line < baseline + 3 for line in lines)


def test_a_label_stands_on_the_side_where_no_other_line_is_near():
    c = chart()
    c.curve([0, 10], [0.5, 0.5], label="mine")
    near = c.place(0, 0.5)[1] - 25  # px: above the label's usual place, without touching it
    c.curve([0, 10], [1 - near / c.inner[1]] * 2)
    ((_, baseline),) = words_at(c.svg(), "mine")
    assert baseline - 12 > c.place(0, 0.5)[1]


def test_the_label_of_a_line_at_the_right_border_stands_left_of_it():
    c = chart()
    c.vline(9.9, label="the end")
    ((x, _),) = words_at(c.svg(), "the end")
    assert x + 7.4 * len("the end") < c.place(9.9, 0)[0]


def test_a_label_of_a_peak_stands_above_its_middle():
    c = chart()
    c.curve([0, 4, 10], [0, 0.8, 0])
    c.label(4, 0.8, "peak", "#123456")
    x, y, words = re.search(
        r'<text x="([\d.]+)" y="([\d.]+)"[^>]*#123456[^>]*>(\w+)', c.svg()
    ).groups()
    at = c.place(4, 0.8)
    assert words == "peak" and float(x) + 3.7 * 4 == pytest.approx(at[0], abs=0.2)
    assert 0 < at[1] - float(y) < 20


def test_a_key_lists_the_curves_beside_pieces_of_their_lines_where_no_curve_is():
    c = chart(key=True)
    for i in range(4):
        c.curve(
            [0, 10],
            [1 - i / 50, 0.9 - i / 50],
            label=f"curve {i}",
            dash="dashed" if i == 2 else "solid",
            width=1 + i,
        )
    c.hline(0.1, label="a line of its own")
    root = parse(c.svg())
    rows = words_at(c.svg(), "curve")
    assert (
        len({x for x, _ in rows}) == 1
        and [b - a for (_, a), (_, b) in zip(rows, rows[1:])] == [19] * 3
    )
    pieces = [path for path in root.find(f"{INK}g") if (path.get("d") or "").endswith("h30")]
    assert [float(path.get("d").split()[1][:-3]) for path in pieces] == pytest.approx(
        [y - 4 for _, y in rows], abs=0.11
    )
    assert [path.get("stroke-width") for path in pieces] == ["1", "2", "3", "4"]
    assert [bool(path.get("stroke-dasharray")) for path in pieces] == [False, False, True, False]
    assert min(y for _, y in rows) - 12 > c.place(0, 1 - 3 / 50)[1], "the key lies below the curves"
    assert max(y for _, y in rows) < c.place(0, 0.1)[1] and "a line of its own" in c.svg()
    assert (
        root.get("aria-label") == "A title: curve 0, curve 1, curve 2, curve 3, a line of its own"
    )


def test_long_numbers_on_the_axis_stay_inside_the_drawing():
    c = svg.Chart("t", x=(0, 1), y=(1, 1e5), y_log=True)
    assert (
        c.left - 8 - 7 * len("100,000") > 0
        and c.left > svg.Chart("t", x=(0, 1), y=(1, 100), y_log=True).left
    )


def test_boxes_that_coincide_are_drawn_once_and_the_path_is_the_box():
    one = svg.shape("truth", torch.tensor([1.0, 2, 5, 9]))
    assert one["d"] == "M1 2H5V9H1Z"
    many = svg.shape(
        "anchor", torch.tensor([[1.0, 2, 5, 9]] * 100 + [[1.1, 2, 5, 9], [3, 3, 4, 4]])
    )
    assert many["d"].count("M") == 2
    assert svg.shape("anchor", torch.zeros(0, 4))["d"] == ""
    assert (
        svg.shape("negative", torch.tensor([[0.0, 0, 10, 20]]), dots=True)["d"]
        == "M4.5 9.5H5.5V10.5H4.5Z"
    )


def test_a_picture_holds_its_boxes_labels_and_caption():
    drawing = svg.picture(
        PICTURE,
        [svg.shape("truth", torch.tensor([1.0, 2, 5, 9]))],
        alt="one <box>",
        labels=[(1, 2, "cell")],
        caption="words " * 30,
        width=400,
    )
    root = parse(drawing)
    assert (
        root.get("aria-label") == "one <box>" and "M1 2H5V9H1Z" in drawing and ">cell<" in drawing
    )
    assert float(root.get("width")) == 400 and float(root.get("height")) > 200 + 18
    lines = words_at(drawing, "words")
    assert len(lines) > 1 and all(
        x >= 8 and 200 < y < float(root.get("height")) - 4 for x, y in lines
    )
    assert "data:image/jpeg;base64," in drawing


def test_drawings_stand_beside_and_below_each_other():
    a, b = chart(width=300, height=200).svg(), chart(width=200, height=250).svg()
    beside, below = parse(svg.beside(a, b, gap=10)), parse(svg.below(a, b, gap=10))
    assert (beside.get("width"), beside.get("height")) == ("510", "250")
    assert (below.get("width"), below.get("height")) == ("300", "460")
    assert [n.get("x") for n in beside if n.tag == f"{INK}svg"] == ["0", "310"]
    assert parse(svg.beside(a, b, alt="Both.")).get("aria-label") == "Both."


def test_a_still_has_a_white_ground_of_its_size():
    root = parse(svg.still(chart(width=300, height=200).svg()))
    ground = root.find(f"{INK}rect")
    assert (ground.get("width"), ground.get("height"), ground.get("fill")) == (
        "300",
        "200",
        "#ffffff",
    )
    assert "color:#222222" in root.get("style")


def test_boxes_that_fall_together_are_drawn_once_and_the_path_is_in_ascending_order():
    boxes = torch.tensor([[5.0, 1, 9, 9], [-3.0, 2, 4, 4], [5.1, 1, 9, 9], [5.0, 1, 9, 8]])
    path = svg.shape("matched", boxes)["d"]
    assert path == "M-3 2H4V4H-3ZM5 1H9V8H5ZM5 1H9V9H5Z"


def test_a_shape_can_belong_to_a_box():
    box = torch.tensor([0.0, 0, 1, 1])
    assert svg.shape("positive", box, owner=2)["owner"] == 2
    assert "owner" not in svg.shape("positive", box)


@pytest.mark.parametrize("opacity, said", [(1, []), (0.45, ["0.45"])])
def test_a_faint_point_says_so_and_a_plain_one_nothing(opacity, said):
    drawn = chart()
    drawn.point(5, 0.5, "here", opacity=opacity)
    circles = parse(drawn.svg()).iter(f"{INK}circle")
    assert [c.get("fill-opacity") for c in circles if c.get("fill-opacity")] == said
