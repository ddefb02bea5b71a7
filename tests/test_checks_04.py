"""Lesson 4's exercises: a right answer passes, each likely wrong one fails at the case that names
its mistake.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from lesson_lib.course import progress
from lesson_lib.course.checks import DONE, TODO, WRONG, check, verdict
from lesson_lib.course.checks.lesson04 import (
    BUG_REASONS,
    BUGS,
    CHOICE_REASONS,
    CHOICES,
    EXERCISES,
    PROJECTS,
    first_losses,
    slope_of,
    who_makes_the_loss,
)
from lesson_lib.losses import prior_bias, retinanet_loss, sigmoid_focal_loss


def slope(p_t, gamma):
    return (1 - p_t) ** gamma * (gamma * p_t * p_t.log() - (1 - p_t))


def smallest_gamma(n_easy, p_easy, n_hard, p_hard):
    factor = n_easy * math.log(p_easy) / (n_hard * math.log(p_hard))
    return max(0.0, math.log(factor) / math.log((1 - p_hard) / (1 - p_easy)))


def focal(logits, targets, alpha, gamma):
    z = torch.where(targets == 1, logits, -logits)
    fade = torch.exp(gamma * F.logsigmoid(-z))
    return torch.where(targets == 1, alpha, 1 - alpha) * fade * -F.logsigmoid(z)


def naive(logits, targets, alpha, gamma, floor=0.0):
    p = logits.sigmoid()
    p_t = torch.where(targets == 1, p, 1 - p).clamp(min=floor)
    return torch.where(targets == 1, alpha, 1 - alpha) * (1 - p_t) ** gamma * -p_t.log()


def one_alpha(logits, targets, alpha, gamma):
    return focal(logits, targets, 0.5, gamma) * 2 * alpha


def for_gamma_2(logits, targets, alpha, gamma):
    return focal(logits, targets, alpha, 2.0)


RIGHT = {
    "04.slope": slope,
    "04.smallest_gamma": smallest_gamma,
    "04.first": BUGS.get,
    "04.choose": CHOICES.get,
    "04.focal": focal,
    "04.focal_slope": slope_of(focal),
}

MISTAKES = [
    ("04.slope", lambda p_t, gamma: -((1 - p_t) ** gamma) * (1 - p_t), "gamma 2"),
    ("04.slope", lambda p_t, gamma: -slope(p_t, gamma), "gamma 0"),
    ("04.slope", lambda p_t, gamma: -((1 - p_t) ** gamma) / p_t, "gamma 0"),
    ("04.slope", lambda p_t, gamma: slope(p_t, gamma) / (p_t * (1 - p_t)), "gamma 0"),
    (
        "04.slope",
        lambda p_t, gamma: slope(p_t, gamma) if gamma == 0 else slope(p_t, 2.0),
        "gamma 5",
    ),
    (
        "04.smallest_gamma",
        lambda a, p, b, q: math.log(a / b) / math.log((1 - q) / (1 - p)),
        "15,000 easy at 0.96",
    ),
    ("04.smallest_gamma", lambda a, p, b, q: smallest_gamma(15_000, 0.96, 161, 0.55), "10 easy"),
    (
        "04.smallest_gamma",
        lambda a, p, b, q: (
            math.log(a * math.log(p) / (b * math.log(q))) / math.log((1 - q) / (1 - p))
        ),
        "10 easy",
    ),
    ("04.smallest_gamma", lambda *groups: math.ceil(smallest_gamma(*groups)), "15,000 easy"),
    ("04.first", {**BUGS, "P": "the prior's sign is turned"}.get, "program P"),
    ("04.first", {**BUGS, "Q": "no prior"}.get, "program Q"),
    ("04.first", {**BUGS, "R": "nothing"}.get, "program R"),
    ("04.first", {**BUGS, "S": "α and 1 - α are swapped"}.get, "program S"),
    ("04.first", {**BUGS, "Q": "α and 1 - α are swapped"}.get, "program Q"),
    ("04.choose", {**CHOICES, "P": "focal loss"}.get, "project P"),
    ("04.choose", {**CHOICES, "Q": "keep cross entropy"}.get, "project Q"),
    ("04.choose", {**CHOICES, "R": "focal loss"}.get, "project R"),
    ("04.focal", lambda *args: focal(*args).sum(), "an object"),
    ("04.focal", lambda *args: focal(*args[:2], 1 - args[2], args[3]), "an object"),
    ("04.focal", one_alpha, "background"),
    ("04.focal", for_gamma_2, "gamma 0"),
    ("04.focal", lambda x, y, a, g: naive(x, torch.ones_like(x), a, g), "background"),
    ("04.focal", lambda x, y, a, g: naive(x.sigmoid(), y, a, g), "an object"),
    ("04.focal", naive, "+-100, all wrong"),
    ("04.focal", lambda *args: naive(*args, floor=1e-7), "+-100, all wrong"),
    ("04.focal", lambda x, *rest: focal(x.clamp(-50, 50), *rest), "+-100, all wrong"),
    ("04.focal", lambda *args: sigmoid_focal_loss(*args), "which is the answer itself"),
    ("04.focal_slope", slope_of(naive), "+-100"),
    ("04.focal_slope", slope_of(lambda *args: naive(*args, floor=1e-7)), "+-100"),
    ("04.focal_slope", slope_of(lambda x, *rest: focal(x.clamp(-50, 50), *rest)), "+-100"),
    ("04.focal_slope", lambda *args: torch.nan_to_num(slope_of(naive)(*args)), "+-100"),
]


@pytest.mark.parametrize("name", EXERCISES)
def test_a_right_answer_passes(name):
    assert verdict(name, RIGHT[name]).startswith(DONE)
    assert len(set(EXERCISES[name].hints)) == 3


@pytest.mark.parametrize(("name", "answer", "case"), MISTAKES)
def test_a_wrong_answer_is_told_which_case_it_misses(name, answer, case):
    sentence = verdict(name, answer)
    assert sentence.startswith(f"{WRONG} {name}") and case in sentence, sentence


def with_a_detached_factor(logits, targets, alpha, gamma):
    z = torch.where(targets == 1, logits, -logits)
    fade = torch.exp(gamma * F.logsigmoid(-z)).detach()
    return torch.where(targets == 1, alpha, 1 - alpha) * fade * -F.logsigmoid(z)


@pytest.mark.parametrize(("answer", "kept"), [(focal, True), (with_a_detached_factor, False)])
def test_a_loss_is_kept_only_with_the_right_slope(answer, kept, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LESSON_PROGRESS", str(tmp_path / "progress.json"))
    check("04.focal", answer)
    said = capsys.readouterr().out
    assert said.startswith(DONE) and "paints the map" not in said  # the slope is still to come
    assert verdict("04.focal_slope", slope_of(answer)).startswith(DONE if kept else WRONG)
    assert (progress.kept_function("sigmoid_focal_loss") is not None) == kept


@pytest.mark.parametrize(
    ("exercise", "right", "reasons"),
    [("04.first", BUGS, BUG_REASONS), ("04.choose", CHOICES, CHOICE_REASONS)],
)
def test_each_wrong_word_is_told_why_it_cannot_be(exercise, right, reasons):
    for letter, word in right.items():
        assert {*right.values()} < {word, *reasons[letter]}
        for wrong, reason in reasons[letter].items():
            assert word not in reason
            assert reason in verdict(exercise, {**right, letter: wrong}.get)


def test_a_stub_has_no_slope_yet():
    assert verdict("04.focal_slope", slope_of(lambda *args: None)).startswith(TODO)


def test_a_word_that_is_none_of_the_choices_is_told_all_of_them_and_not_the_right_one():
    tables = (("04.first", BUGS, BUG_REASONS), ("04.choose", CHOICES, CHOICE_REASONS))
    for name, right, reasons in tables:
        for letter, answer in right.items():
            sentence = verdict(name, {**right, letter: "something else"}.get)
            words = ", ".join(f'"{word}"' for word in sorted({answer, *reasons[letter]}))
            assert sentence.endswith(f"none of the words; they are {words}")


def test_the_slope_at_a_sure_answer_is_what_naive_code_gets_wrong():
    """The case at logit 18 by itself: the power's infinite slope times 0 is NaN there."""
    case = next(case for case in EXERCISES["04.focal_slope"].cases if "logit 18" in case.why)
    assert slope_of(naive)(*case.args).isnan().any()
    assert torch.allclose(slope_of(focal)(*case.args), case.expected, atol=1e-4)


def test_the_first_losses_are_those_of_the_library():
    """Program Q's is RetinaNet's loss with every logit at the prior, P's at 0; R divides Q's sum by
    all anchors."""
    label = torch.tensor([[1] * 3 + [0] * 50])
    nothing, classes = torch.zeros(1, 53, 4), torch.zeros(1, 53, dtype=torch.int64)
    table = first_losses(3, 50, 2)
    for letter, bias in (("P", 0.0), ("Q", prior_bias(0.01)), ("S", -prior_bias(0.01))):
        logits = torch.full((1, 53, 2), bias)
        loss = retinanet_loss(logits, nothing, classes, nothing, label)["cls"]
        assert table[letter] == pytest.approx(loss.item(), rel=1e-4)
    assert table["R"] == pytest.approx(table["Q"] * 3 / 53)
    logits = torch.full((1, 53, 2), prior_bias(0.01))
    swapped = retinanet_loss(logits, nothing, classes, nothing, label, alpha=0.75)["cls"].item()
    assert swapped == pytest.approx(3.4, abs=0.05) and swapped > 2 * table["Q"]


def test_another_group_makes_most_of_the_loss_of_each_project():
    loudest = {p: max(made := who_makes_the_loss(p), key=made.get) for p in PROJECTS}
    assert loudest == {"P": "objects", "Q": "easy background", "R": "hard background"}
    assert all(sum(who_makes_the_loss(p).values()) == pytest.approx(1) for p in PROJECTS)
    said = verdict("04.choose", CHOICES.get)
    assert "P, objects 68%; Q, easy background 89%; R, hard background 86%." in said
