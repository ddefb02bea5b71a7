import re

import pytest
import torch

from lesson_lib.atss import match_atss
from lesson_lib.course.after_pictures import (
    DIAGNOSES,
    FAULTS,
    SQUARES,
    answer_drawing,
    atss_positives,
    centreness_drawing,
    centreness_of,
    counts,
    facts,
    faulty,
    gains_drawing,
    matches,
    rules_drawing,
    symptoms,
)
from lesson_lib.course.story import running_smear
from lesson_lib.course.switches import BASELINE

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
    from lesson_lib.anchors import PyramidAnchors

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


def test_an_answer_is_drawn_by_the_function_that_is_given():
    drawing = answer_drawing(SMEAR, 14, 9, lambda *a: torch.zeros_like(a[3]))
    assert "k = 9: 0 of" in drawing
    chosen = int(atss_positives(*facts(SMEAR.boxes[14], 300), 9).sum())
    assert f"k = 9: {chosen} of" in answer_drawing(SMEAR, 14, 9, atss_positives)


def test_dots_are_as_large_as_the_centreness():
    box, blank = torch.tensor([0.0, 0.0, 40.0, 40.0]), torch.zeros(3, 64, 64, dtype=torch.uint8)
    radii = re.findall(r"a([\d.]+) ", centreness_drawing(blank, box, centreness_of))
    assert len(radii) == 4 * 25  # 5 x 5 positions inside; a casing and a dot, two arcs each
    assert max(map(float, radii)) == pytest.approx(3.5, abs=0.05)
    assert not re.findall(r"a([\d.]+) ", centreness_drawing(blank, box, lambda x, y, b: 0))


def test_gains_are_drawn_with_each_seed():
    def run(name: str, seed: int, ap: float) -> dict:
        return {"switch": name, "seed": seed, "AP": ap}

    records = [run(BASELINE, s, 0.1) for s in range(3)]
    records += [run("atss", s, 0.3 + 0.01 * s) for s in range(3)]
    records += [run("giou", s, 0.1 + 0.1 * (s - 1)) for s in range(3)]
    drawing = gains_drawing(records)
    assert drawing.count("<circle") == 6 and drawing.count('stroke="currentColor"') == 3
    assert "ATSS chooses the positives +21.0" in drawing
