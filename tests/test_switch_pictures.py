"""Two boxes drawn over their losses, and the switches as table and picture."""

import re

import pytest

from lesson_lib.course.switch_pictures import gains_drawing, gains_table, losses_drawing
from lesson_lib.course.switches import BASELINE, SWITCHES


def run(name: str, seed: int, ap: float) -> dict:
    return {"switch": name, "seed": seed, "AP": ap}


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        (0, "shared: 100% of a and b together"),
        (20, "shared: 33% of a and b together"),  # 20 of 60 px
        (40, "a and b touch"),
        (60, "empty: 20% of c"),  # 20 of 100 px
        (120, "empty: 50% of c"),
    ],
)
def test_boxes_say_what_is_shared_or_empty(shift, said):
    drawing = losses_drawing(shift)
    assert said in drawing and f"{shift} px to the right" in drawing


def test_the_box_stands_over_the_place_that_its_losses_are_read_at():
    drawing = losses_drawing(60)
    (left,) = re.findall(r'<rect x="([\d.]+)"[^>]*stroke="#56B4E9"', drawing)
    chart = drawing[drawing.rindex("<svg width") :]  # the plot within its axes
    (line,) = re.findall(r"M([\d.]+) [\d.]+L\1 0\"[^>]*#777777", chart)
    (moved,) = re.findall(r"<g transform=\"translate\((\d+) ", drawing)
    assert float(left) == pytest.approx(float(moved) + float(line), abs=0.2)


def test_gains_are_drawn_with_each_seed():
    records = [run(BASELINE, s, 0.1) for s in range(3)]
    records += [run("atss", s, 0.3 + 0.01 * s) for s in range(3)]
    records += [run("giou", s, 0.1 + 0.1 * (s - 1)) for s in range(3)]
    drawing = gains_drawing(records)
    assert drawing.count("<circle") == 6 and drawing.count('stroke="currentColor"') == 5
    assert "ATSS chooses the positives +21.0;" in drawing


def test_what_the_seeds_do_not_decide_is_dashed_and_says_so():
    """Gains of 20, 21 and 22 points; of -10, 0 and 10; of 1, 1.2 and 1.1."""
    records = [run(BASELINE, s, 0.1) for s in range(3)]
    records += [run("atss", s, 0.3 + 0.01 * s) for s in range(3)]
    records += [run("giou", s, 0.1 + 0.1 * (s - 1)) for s in range(3)]
    records += [run("p6-p5", s, gain) for s, gain in enumerate((0.11, 0.112, 0.111))]
    drawing = gains_drawing(records)
    assert drawing.count('stroke-dasharray="3 4"') == 1 == drawing.count(">+0.0, not decided<")
    assert ">+21.0<" in drawing and ">+1.1<" in drawing
    assert drawing.count("GIoU instead of smooth L1 +0.0, not decided") == 2  # title and words


def test_the_table_has_a_row_for_each_switch_and_no_gain_of_one_seed():
    records = [run(BASELINE, s, 0.1) for s in range(3)] + [run("atss", 0, 0.2)]
    records += [run("giou", s, 0.1 + 0.01 * s) for s in range(3)]
    rows = gains_table(records).splitlines()
    assert len(rows) == 2 + len(SWITCHES)
    assert (
        rows[3].endswith("| 20.0 |  |  |")
        and "| 10.0, 11.0, 12.0 | +1.0 | -1.5 to +3.5 |" in rows[4]
    )
