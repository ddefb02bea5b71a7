"""The matrix of rungs and bugs: each bug is caught where FIRST says, on the rungs that cost nothing
by running them, on the others as far as one short training can prove.
"""

import re

import pytest

from lesson_lib.course import bugs as module
from lesson_lib.course.bugs import (
    BUGS,
    DIAGNOSES,
    FIRST,
    Outcome,
    Row,
    fill,
    fill_for,
    matrix_drawing,
)
from lesson_lib.course.checks.ladder import Step, climb
from lesson_lib.course.checks.lesson08 import CATCHES
from lesson_lib.course.checks.lesson09 import CAUGHT

CHEAP = ("shapes", "known batch")


def test_what_the_exercises_ask_is_what_the_matrix_holds():
    assert all(FIRST["ssd"][bug] == rung for bug, rung in CATCHES.items())
    cheap = {bug for bug, rung in FIRST["retinanet"].items() if rung in CHEAP}
    assert set(CAUGHT.values()) <= cheap | {"alpha swapped"} <= set(DIAGNOSES)
    assert {kind: set(bugs) for kind, bugs in BUGS.items()} == {k: set(v) for k, v in FIRST.items()}


@pytest.mark.parametrize("kind", BUGS)
def test_cheap_rungs_catch_what_they_must_and_nothing_else(kind):
    for row in fill(kind, rungs=CHEAP):
        caught = [rung for rung in CHEAP if not row.outcomes[rung].passed]
        wanted = FIRST[kind][row.bug]
        assert caught[:1] == ([wanted] if wanted in CHEAP else []), row


def test_swapped_weights_make_the_class_loss_about_a_third():
    """Nearly all answers are no, and .25 in place of .75 weighs them; the few yeses are .75."""
    *_, fell = climb(DIAGNOSES["alpha swapped"], "retinanet", CHEAP)
    expected, got = map(float, re.findall(r"expected ([\d.]+), got ([\d.]+\d)", fell.words)[0])
    assert fell.rung == "known batch" and "'cls'" in fell.words and 2.5 < expected / got < 3


def test_no_permute_passes_where_one_picture_is_learned_by_heart():
    (row,) = fill("ssd", ["no permute"], ["known batch", "overfit one picture"])
    assert all(outcome.passed for outcome in row.outcomes.values())
    assert row.outcomes["overfit one picture"].ap50 >= 0.9


@pytest.mark.parametrize("bug", ["background read as class 0", "ratio flipped in use"])
def test_a_wrong_use_of_right_outputs_is_caught_by_detections(bug):
    (row,) = fill("ssd", [bug], ["overfit one picture"])
    assert not row.outcomes["overfit one picture"].passed
    assert row.outcomes["overfit one picture"].ap50 < 0.85


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("yolo",), "choose from ssd, retinanet"),
        (("ssd", ["none", "typo"]), "There is no 'typo'; choose from none, no permute"),
        (("ssd", [], ["heights"]), "There is no 'heights'; choose from shapes"),
    ],
)
def test_what_does_not_exist_is_told(arguments, words):
    with pytest.raises(ValueError, match=words):
        fill(*arguments)


def test_the_drawing_says_in_words_what_is_coloured():
    rows = [
        Row("none", {"shapes": Outcome(True, "", None), "metric gate": Outcome(True, "", 0.81)}),
        Row("no permute", {"shapes": Outcome(False, "", None)}),
    ]
    drawn = matrix_drawing(rows, {"no permute": "shapes", "none": ...})
    assert "none: caught by no rung. no permute: caught by shapes." in drawn
    assert drawn.count(">passes, 0.81<") == 1 and drawn.count(">caught<") == 1
    assert drawn.count('stroke-width="3"') == 1 and not set("✓✗○") & set(drawn)


def test_a_short_budget_tries_the_heart_of_one_bug_alone(monkeypatch):
    asked = []

    def climb(subject, kind, rungs, stop):
        asked.append((subject, tuple(rungs)))
        return [Step(rung, "✓", "AP50 1.00" if "one" in rung else "") for rung in rungs]

    monkeypatch.setattr(module, "climb", climb)
    rows = {row.bug: row.outcomes for row in fill_for("ssd", "ci")}
    assert set(rows) == set(BUGS["ssd"])
    assert [bug for bug in rows if "overfit one picture" in rows[bug]] == ["no permute"]
    assert rows["no permute"]["overfit one picture"].ap50 == 1
    assert set(rows["none"]) == set(CHEAP)
    full = fill_for("ssd", "laptop")
    assert all(len(row.outcomes) == 5 for row in full)
