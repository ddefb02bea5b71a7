"""The exercises of lesson 9: a right answer passes, and each wrong idea is told by the name of its
case.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from answers import exercise_tests

from lesson_lib.course import pieces
from lesson_lib.course.checks import verdict
from lesson_lib.course.checks.lesson09 import (
    CAUGHT,
    EXERCISES,
    NOBODY,
    PRIORS,
    RARE,
    both_parts,
    largest_prior,
)


def first_loss(anchors, classes, positives, pi, gamma, alpha, alpha_yes=None, noes=None, least=1):
    no = (1 if alpha is None else 1 - alpha) * pi**gamma * -math.log1p(-pi)
    yes = (1 if alpha is None else alpha_yes or alpha) * (1 - pi) ** gamma * -math.log(pi)
    noes = anchors * classes - positives if noes is None else noes
    return (noes * no + positives * yes) / max(least, positives)


def head_parameters(
    channels, per_position, num_classes, towers=2, layers=4, bias=1, levels=1, background=0
):
    def conv(a, b):
        return 9 * a * b + bias * b

    ends = conv(channels, per_position * (num_classes + background)) + conv(
        channels, per_position * 4
    )
    return levels * (towers * layers * conv(channels, channels) + ends)


def retinanet_loss(
    cls_logits,
    box_deltas,
    labels,
    box_targets,
    state,
    alpha=0.25,
    gamma=2,
    beta=0.11,
    used=None,
    least=1,
    by=None,
    blank=True,
    naive=False,
):
    positive = state == 1
    yes = F.one_hot(labels, cls_logits.shape[-1]).bool() & positive[..., None]
    signed = torch.where(yes, cls_logits, -cls_logits)
    log_pt = torch.log(signed.sigmoid()) if naive else F.logsigmoid(signed)
    focal = -torch.where(yes, alpha, 1 - alpha) * torch.sigmoid(-signed) ** gamma * log_pt
    box = F.smooth_l1_loss(box_deltas, box_targets, reduction="none", beta=beta)
    box = box[positive].sum() if blank else (box * positive[..., None]).sum()
    n = by or positive.sum().clamp(min=least)
    return focal[(state != -1) if used is None else used(state)].sum() / n, box / n


def parts(pi, anchors, classes, positives, by=None):
    """Do the objects give more? The background's part divided by `by` in place of the positives."""
    background, objects = both_parts(pi, (anchors, classes, positives))
    return objects > background * positives / (by or positives)


def faded(cls_logits, box_deltas, labels, box_targets, state):
    """Focal loss whose factor is held constant: another gradient, the same numbers."""
    positive = state == 1
    yes = F.one_hot(labels, cls_logits.shape[-1]).bool() & positive[..., None]
    signed = torch.where(yes, cls_logits, -cls_logits)
    factor = torch.sigmoid(-signed).pow(2).detach()
    focal = -torch.where(yes, 0.25, 0.75) * factor * F.logsigmoid(signed)
    box = retinanet_loss(cls_logits, box_deltas, labels, box_targets, state)[1]
    return focal[state != -1].sum() / positive.sum().clamp(min=1), box


def labels_everywhere(cls_logits, box_deltas, labels, box_targets, state):
    """A yes for label 0 also where there is no object."""
    yes = F.one_hot(labels, cls_logits.shape[-1]).bool()
    signed = torch.where(yes, cls_logits, -cls_logits)
    focal = -torch.where(yes, 0.25, 0.75) * torch.sigmoid(-signed) ** 2 * F.logsigmoid(signed)
    box = retinanet_loss(cls_logits, box_deltas, labels, box_targets, state)[1]
    return focal[state != -1].sum() / (state == 1).sum().clamp(min=1), box


def by_thumb(anchors, classes, positives):
    """A prior by the answers for each positive alone."""
    answers = anchors * classes / max(1, positives)
    if not positives:
        return 0.0
    return 0.1 if answers < 100 else 0.01 if answers < 10_000 else 0.001


RIGHT = {
    "first_loss": first_loss,
    "head_parameters": head_parameters,
    "retinanet_loss": retinanet_loss,
    "prior": lambda *setting: largest_prior(setting),
    "caught": CAUGHT.get,
}
WRONG = [
    ("prior", lambda *setting: 0.0001, "a larger one also leaves"),
    ("prior", lambda *setting: 0.01, "the background gives the larger part"),
    ("prior", lambda *setting: 0.1, "the background gives the larger part"),
    ("prior", lambda *setting: 0.002, "look again"),
    ("prior", lambda *setting: 0.001, "49,104 anchors"),
    ("prior", lambda *setting: min(0.01, largest_prior(setting)), "1,000 anchors"),
    ("prior", lambda *setting: largest_prior(setting) or 0.1, "no positive at all"),
    (
        "prior",  # the parts not divided alike: the objects' part for each, the background's summed
        lambda a, k, n: max((p for p in PRIORS if n and parts(p, a, k, n, by=1)), default=0),
        "1,000 anchors",
    ),
    (
        "prior",  # the smallest first loss, which never tells the parts apart
        lambda *s: min(PRIORS, key=lambda p: first_loss(*s, p, 2, 0.25)) if s[2] else 0.0,
        "8 positives",
    ),
    ("prior", lambda *setting: by_thumb(*setting), "8 positives"),
    ("caught", (CAUGHT | {"S": NOBODY}).get, "detector S"),
    ("caught", (CAUGHT | {"P": NOBODY}).get, "detector P"),
    ("caught", (CAUGHT | {"P": "no prior", "R": "divided by all anchors"}).get, "detector P"),
    ("caught", (CAUGHT | {"Q": "variances in the loss alone"}).get, "detector Q"),
    ("caught", (CAUGHT | {"P": "alpha swapped", "T": CAUGHT["P"]}).get, "detector P"),
    ("caught", (CAUGHT | {"T": "divided by all anchors"}).get, "detector T"),
    ("caught", (CAUGHT | {"T": "ignored as background"}).get, "detector T"),
    ("caught", lambda letter: "divided by all anchors", "detector Q"),
    ("retinanet_loss", pieces.retinanet_loss, "calls lesson_lib's retinanet_loss"),
    (
        "first_loss",
        lambda a, k, n, p, g, w: a * k * -math.log(p) * p**g * (1 - (w or 0)),
        "with the prior 0.01",
    ),
    (
        "first_loss",
        lambda a, k, n, p, g, w: first_loss(a, k, n, p, 0, w),
        "focal loss without the prior",
    ),
    (
        "first_loss",
        lambda a, k, n, p, g, w: first_loss(a, k, n, p, g, w and 1 - w),
        "focal loss without the prior",
    ),
    (
        "first_loss",
        lambda a, k, n, p, g, w: first_loss(a, 1, n, p, g, w),
        "100,000 anchors, 80 classes",
    ),
    (
        "first_loss",
        lambda a, k, n, p, g, w: (
            a * k * (1 if w is None else 0.75) * (1 - p) ** g * -math.log1p(-p)
        ),
        "with the prior",
    ),
    ("first_loss", lambda a, k, n, *o: first_loss(a, k, 0, *o), "one anchor with an object"),
    (
        "first_loss",
        lambda a, k, n, *o: first_loss(a, k, n, *o, noes=a * k),
        "one anchor with an object",
    ),
    (
        "first_loss",
        lambda a, k, n, *o: first_loss(a, k, n, *o, noes=(a - n) * k),
        "one anchor with an object",
    ),
    ("first_loss", lambda a, k, n, *o: first_loss(a, k, n, *o) * max(1, n), "four of ten"),
    ("first_loss", lambda a, k, n, *o: first_loss(a, k, n, *o) * max(1, n) / a, "100,000 anchors"),
    ("first_loss", lambda *a: first_loss(*a, least=0), "one anchor of background"),
    ("first_loss", lambda *a: first_loss(*a, alpha_yes=0.75), "objects under focal loss"),
    ("head_parameters", lambda *a: head_parameters(*a, bias=0), "one channel"),
    ("head_parameters", lambda *a: head_parameters(*a, towers=1), "one channel"),
    ("head_parameters", lambda *a: head_parameters(*a, levels=5), "one channel"),
    ("head_parameters", lambda *a: head_parameters(*a, background=1), "one channel"),
    ("head_parameters", lambda *a: head_parameters(a[0], 9, a[2]), "one channel"),
    ("retinanet_loss", lambda *a: retinanet_loss(*a, alpha=0.75), "one negative anchor"),
    ("retinanet_loss", lambda *a: retinanet_loss(*a, gamma=0), "one negative anchor"),
    (
        "retinanet_loss",
        lambda *a: retinanet_loss(*a, used=lambda state: state >= -1),
        "an ignored anchor",
    ),
    ("retinanet_loss", lambda *a: retinanet_loss(*a, beta=1.0), "one positive, one negative"),
    (
        "retinanet_loss",
        lambda *a: retinanet_loss(*a, by=a[4].numel()),
        "one positive, one negative",
    ),
    ("retinanet_loss", lambda *a: retinanet_loss(*a, by=1), "two positives"),
    ("retinanet_loss", lambda *a: retinanet_loss(*a, least=0), "one negative anchor"),
    (
        "retinanet_loss",
        lambda *a: retinanet_loss(*a) if (a[4] == 1).any() else (0.0, 0.0),
        "one negative anchor",
    ),
    (
        "retinanet_loss",
        lambda *a: retinanet_loss(
            *a,
            used=lambda state: (
                (state != -1) & (state == 1).any(1, keepdim=True)
                if state.shape[0] > 1
                else state != -1
            ),
        ),
        "one without an object",
    ),
    ("retinanet_loss", lambda *a: retinanet_loss(*a, blank=False), "infinite"),
    ("retinanet_loss", lambda *a: retinanet_loss(*a, naive=True), "beyond 100"),
    (
        "retinanet_loss",
        lambda *a: tuple(part.item() for part in retinanet_loss(*a)),
        "no gradient reaches cls_logits",
    ),
    (
        "retinanet_loss",
        lambda *a: (retinanet_loss(*a)[0], retinanet_loss(*a)[1].detach()),
        "no gradient reaches box_deltas",
    ),
    ("retinanet_loss", lambda *a: faded(*a), "the gradient by cls_logits is not theirs"),
    ("retinanet_loss", lambda *a: labels_everywhere(*a), "its label 0 is not to be read"),
]


test_every_exercise_is_tried, test_right, test_mistake, test_stub = exercise_tests(
    EXERCISES,
    {f"09.{name}": answer for name, answer in RIGHT.items()},
    [(f"09.{name}", answer, case) for name, answer, case in WRONG],
)


def test_the_prior_is_worked_out():
    """240 million answers, 20 positives: at .01 9 million x .0001 x .01005, at .001 a 1,000th."""
    assert PRIORS == (0.1, 0.01, 0.001, 0.0001) and largest_prior(RARE) == 0.001
    assert [round(x, 2) for x in both_parts(0.01)] == [9.05, 1.13]
    assert [round(x, 3) for x in both_parts(0.001)] == [0.009, 1.723]
    assert [round(x, 2) for x in both_parts(0.1, (49_104, 3, 100))] == [1.16, 0.47]
    assert [round(x, 3) for x in both_parts(0.01, (100_000, 80, 8))] == [0.754, 1.128]
    assert both_parts(0.1, (100_000, 80, 8))[0] > 700
    assert [round(x, 2) for x in both_parts(0.1, (1000, 3, 100))] == [0.02, 0.47]


@pytest.mark.parametrize("answer", [0.1, 0.01, 0.0001, 0.5])
def test_a_wrong_prior_is_not_told_the_right_one(answer):
    said = verdict("09.prior", lambda *setting: answer)
    assert said.startswith("✗") and "0.001" not in said
    assert ("is not it: " if answer in PRIORS else "look again") in said


def test_a_wrong_diagnosis_is_not_told_the_right_one():
    for letter, right in CAUGHT.items():
        for bug in {*CAUGHT.values(), NOBODY} - {right}:
            said = verdict("09.caught", (CAUGHT | {letter: bug}).get)
            assert f'"{bug}" is not it' in said and right not in said


def test_a_mistyped_diagnosis_is_told_the_words():
    said = verdict("09.caught", lambda _: "nonsense")
    assert said.startswith("✗") and all(bug in said for bug in CAUGHT.values())
