import re

import pytest
import torch

from lesson_lib.anchors import PyramidAnchors
from lesson_lib.atss import match_atss
from lesson_lib.boxes import pairwise_iou
from lesson_lib.colours import COLOURS
from lesson_lib.course.after_pictures import (
    DIAGNOSES,
    FAULTS,
    SQUARES,
    answer_drawing,
    atss_positives,
    bars,
    centreness_drawing,
    centreness_of,
    counts,
    facts,
    faulty,
    matches,
    rules_drawing,
    symptoms,
    symptoms_table,
)
from lesson_lib.course.story import running_smear

SMEAR = running_smear(300)


@pytest.mark.parametrize("number", range(len(SMEAR.boxes)))
def test_the_exercises_rule_is_the_librarys_of_one_object(number):
    anchors, box = SQUARES.make(300), SMEAR.boxes[number]
    for k in (1, 4, 9):
        expected = match_atss(box[None], anchors, SQUARES.levels_of(anchors), k).label == 1
        assert torch.equal(atss_positives(*facts(box, 300), k), expected)


def test_each_fault_shows_and_looks_like_no_other():
    seen = [
        tuple(symptoms(rule, SMEAR.boxes[g], 300) for g in (14, 8))
        for rule in (atss_positives, *map(faulty, FAULTS))
    ]
    assert len(set(seen)) == len(FAULTS) + 1
    assert set(DIAGNOSES.values()) == set(FAULTS)


def test_what_is_drawn_is_what_the_rules_choose():
    spec, centres = PyramidAnchors(), r"a([\d.]+) "
    plain, adaptive = matches(SMEAR, spec, 9)
    anchors = spec.make(300)
    for number, levels in ((15, "50 on P3"), (14, "54 on P4, 26 on P5")):
        drawing = rules_drawing(SMEAR, spec, number, 9, "one")
        assert f"IoU .5 / .4: {counts(plain, 17)[number]} positive" in drawing
        assert f"k = 9: {counts(adaptive, 17)[number]} positive, {levels}; none ignored" in drawing
        own = anchors[adaptive.gt_index == number]
        places = {tuple(middle) for middle in ((own[:, :2] + own[:, 2:]) / 2).round().tolist()}
        right = drawing[drawing.rindex("<image") :]
        assert len(re.findall(centres, right)) == 4 * len(places)  # a casing and a dot, two arcs


def test_bars_are_those_that_the_matches_come_from():
    spec = PyramidAnchors()
    anchors, (_, adaptive) = spec.make(300), matches(SMEAR, spec, 9)
    found = bars(SMEAR, spec, range(17), 9)
    for number, bar in enumerate(found):
        own = adaptive.gt_index == number
        assert bar.candidates == 5 * 9 * 9 and sum(bar.positives) == int(own.sum())
        assert float(pairwise_iou(SMEAR.boxes[[number]], anchors[own]).min()) >= bar.t - 1e-5
        assert bar.t == pytest.approx(bar.mean + bar.deviation)
    assert "positive 50 + 0 + 0 + 0 + 0" in str(found[15])


def test_what_the_lesson_says_of_more_positions():
    """Question 2: from k = 9 to 15 the platelet's positives hardly grow, the red cell's do."""
    nine, fifteen = (counts(matches(SMEAR, PyramidAnchors(), k)[1], 17) for k in (9, 15))
    assert [(nine[n], fifteen[n]) for n in (15, 8)] == [(50, 54), (81, 123)]


def test_the_table_of_symptoms_names_the_right_bar():
    rows = symptoms_table(SMEAR, {"one": 14, "other": 8}).splitlines()
    assert rows[0] == "|  | one | other |" and len(rows) == 2 + 1 + len(DIAGNOSES) + 1
    assert symptoms(atss_positives, SMEAR.boxes[14], 300) in rows[2]
    assert rows[-1].startswith("| t; mean of the candidates | 0.48; 0.30 |")


def test_an_answer_is_drawn_by_the_function_that_is_given():
    drawing = answer_drawing(SMEAR, 14, 9, lambda *a: torch.zeros_like(a[3]))
    assert "27 candidates, t = 0.48, 0 positive (0 + 0 + 0)" in drawing
    green = COLOURS["positive"]
    assert green not in drawing and drawing.count('stroke="#444444"') == 27
    chosen = int(atss_positives(*facts(SMEAR.boxes[14], 300), 9).sum())
    drawing = answer_drawing(SMEAR, 14, 9, atss_positives)
    assert f"{chosen} positive (0 + 0 + {chosen})" in drawing
    assert drawing.count(f'fill="{green}"') == chosen


def test_dots_are_as_large_as_the_centreness():
    box, blank = torch.tensor([0.0, 0.0, 40.0, 40.0]), torch.zeros(3, 64, 64, dtype=torch.uint8)
    radii = re.findall(r"a([\d.]+) ", centreness_drawing(blank, box, centreness_of))
    assert len(radii) == 4 * 25  # 5 x 5 positions inside; a casing and a dot, two arcs each
    assert max(map(float, radii)) == pytest.approx(2.5, abs=0.05)
    assert not re.findall(r"a([\d.]+) ", centreness_drawing(blank, box, lambda x, y, b: 0))


def test_the_numbers_of_a_row_stand_beside_its_first_and_largest_dot():
    box, blank = torch.tensor([0.0, 0.0, 40.0, 40.0]), torch.zeros(3, 64, 64, dtype=torch.uint8)
    told = re.findall(r">(\d\.\d\d)<", centreness_drawing(blank, box, centreness_of))
    assert told == [f"{float(centreness_of(x, 20.0, box)):.2f}" for x in (4.0, 20.0)]
