"""Lesson 14's checks: right answers pass, and each wrong idea is told by the case that shows it."""

import json
import statistics

import pytest
import torch
from answers import exercise_tests

from lesson_lib.atss import centreness, match_atss
from lesson_lib.config import REPOSITORY
from lesson_lib.course.after_pictures import DIAGNOSES, FAULTS, SQUARES
from lesson_lib.course.checks import verdict
from lesson_lib.course.checks.lesson14 import EXERCISES
from lesson_lib.course.experiments import read
from lesson_lib.course.paired import student
from lesson_lib.course.switches import BASELINE, FRESH, RESULTS, SWITCHES, gain


def positives(iou, distance, level, inside, k, spread=1, each=True, pick=None, less=1):
    """As the lesson's solution; the last four spoil it."""
    candidate = torch.zeros_like(inside)
    for number in level.unique() if each else [None]:
        own = (level == number).nonzero().flatten() if each else torch.arange(len(level))
        candidate[own[distance[own].argsort()[:k]]] = True
    scored = candidate if pick is None else pick(candidate, inside)
    overlaps = iou[scored]
    return candidate & inside & (iou >= overlaps.mean() + spread * overlaps.std(correction=less))


def no_k(iou, distance, level, inside, k):
    return positives(iou, distance, level, inside, len(iou))


def centre(x, y, box):
    near = torch.tensor([x - box[0], y - box[1]])
    far = torch.tensor([box[2] - x, box[3] - y])
    low, high = torch.minimum(near, far).clamp(min=0), torch.maximum(near, far)
    return float((low / high).prod().sqrt())


def products(x, y, box):
    left, right, up, down = x - box[0], box[2] - x, y - box[1], box[3] - y
    shares = min(left, right) / max(left, right) * min(up, down) / max(up, down)
    return max(0.0, float(shares)) ** 0.5


RIGHT = {
    "14.positives": positives,
    "14.bugs": lambda: dict(DIAGNOSES),
    "14.centreness": centre,
    "14.decide": lambda: "none",
}
SWAPPED = DIAGNOSES | {"A": DIAGNOSES["D"], "D": DIAGNOSES["A"]}
MISTAKES = [
    ("14.positives", lambda *a: positives(*a, spread=0), "one level, four candidates"),
    ("14.positives", lambda *a: positives(*a, spread=2), "one level, four candidates"),
    ("14.positives", lambda *a: positives(*a, less=0), "the deviation of a sample"),
    ("14.positives", no_k, "one level, four candidates"),
    ("14.positives", lambda *a: positives(*a, each=False), "two levels"),
    ("14.positives", lambda i, d, lv, s, k: positives(i, d, lv, s | True, k), "outside the object"),
    (
        "14.positives",
        lambda i, d, lv, s, k: (i >= 0.7) & s & (d < 5),
        "two levels",
    ),
    ("14.bugs", lambda: SWAPPED, "'A': "),
    ("14.bugs", lambda: dict.fromkeys(DIAGNOSES, FAULTS[0]), "'A': "),
    ("14.bugs", lambda: {"A": FAULTS[1]}, "expected a dict"),
    ("14.centreness", lambda *a: centre(*a) ** 2, "a quarter of the way, across"),
    ("14.centreness", products, "outside on two sides"),
    ("14.decide", lambda: "atss", "begins on the left"),
    ("14.decide", lambda: "giou", "both sides of the baseline"),
    ("14.decide", lambda: "atss-giou", "picked after"),
    ("14.decide", lambda: "all", "none of the words"),
]


test_every_exercise_is_tried, test_right, test_mistake, test_stub = exercise_tests(
    EXERCISES, RIGHT, MISTAKES
)


@pytest.mark.parametrize("letter", DIAGNOSES)
def test_a_wrong_diagnosis_is_refuted_without_the_right_one(letter):
    for fault in FAULTS:
        if fault != DIAGNOSES[letter]:
            said = verdict("14.bugs", dict(DIAGNOSES) | {letter: fault})
            assert f"'{letter}'" in said and DIAGNOSES[letter] not in said.replace(fault, "")


def test_the_librarys_functions_are_no_answer():
    anchors = SQUARES.make(64)
    levels = SQUARES.levels_of(anchors)
    said = verdict("14.positives", lambda *_: match_atss(torch.ones(1, 4), anchors, levels).label)
    assert "which is the answer itself" in said
    said = verdict("14.centreness", lambda x, y, box: centreness(torch.tensor([x, y, x, y]), box))
    assert "which is the answer itself" in said


def test_the_time_and_the_ap_that_the_lesson_tells_are_recorded_ones():
    text = (REPOSITORY / "notebooks" / "14_what_came_after.ipynb").read_text(encoding="utf-8")
    runs = json.loads((REPOSITORY / "results" / "detectors.json").read_text())
    runs = [run for run in runs if run["name"] == "bccd-retinanet"]
    minutes = [round(run["seconds"] / 60) for run in runs]
    assert f"took {min(minutes)} to {max(minutes)} minutes" in text
    mean = statistics.mean(run["figures"]["AP"] for run in runs)
    assert f"came to {mean:.3f} AP **on test**".replace("0.", ".") in text


def test_the_decision_is_what_the_recorded_runs_carry():
    records = read(RESULTS)
    gains = {name: gain(records, name) for name in SWITCHES if name != BASELINE}
    assert all(len(found.by_seed) == 3 for found in gains.values())
    wider = student(1 - 0.05 / len(gains), 2) / student(0.95, 2)
    beyond = [name for name, found in gains.items() if abs(found.mean) > wider * found.half]
    assert (beyond or ["none"]) == [RIGHT["14.decide"]()]
    offered = ("atss", "giou", "atss-giou")
    assert [n for n in offered if gains[n].says == "more"] == ["atss-giou"]  # the trap
    fresh = gain(records, "atss-giou", seeds=FRESH)
    assert len(fresh.by_seed) == 3 and fresh.says == "more"
