"""Lesson 4's exercises: a right answer passes, each likely wrong one fails at the case that names
its mistake.
"""

import math

import pytest
import torch

from lesson_lib.course.checks import DONE, TODO, WRONG, verdict
from lesson_lib.course.checks.lesson04 import EXERCISES, slope_of
from lesson_lib.losses import balanced_cross_entropy, retinanet_loss, sigmoid_focal_loss


def balanced(p, y, alpha):
    return balanced_cross_entropy(p.double().logit(), y, alpha).float()


def slope(p_t, gamma):
    z = p_t.double().logit().requires_grad_()
    return torch.autograd.grad(sigmoid_focal_loss(z, torch.ones_like(z), None, gamma).sum(), z)[
        0
    ].float()


def smallest_gamma(n_easy, p_easy, n_hard, p_hard):
    factor = n_easy * math.log(p_easy) / (n_hard * math.log(p_hard))
    return max(0.0, math.log(factor) / math.log((1 - p_hard) / (1 - p_easy)))


def first_loss(anchors, classes, pi, alpha, gamma):
    logit = torch.tensor([pi], dtype=torch.float64).logit()
    return anchors * classes * sigmoid_focal_loss(logit, torch.zeros(1), alpha, gamma).item()


def class_loss(logits, classes, label, alpha, gamma):
    nothing = torch.zeros(1, len(logits), 4)
    return retinanet_loss(logits[None], nothing, classes[None], nothing, label[None], alpha, gamma)[
        "cls"
    ]


def naive_class_loss(logits, classes, label, alpha, gamma, floor=0.0):
    y = torch.nn.functional.one_hot(classes, logits.shape[1]) * (label == 1).unsqueeze(1)
    p = logits.sigmoid()
    p_t = torch.where(y == 1, p, 1 - p).clamp(min=floor)
    loss = torch.where(y == 1, alpha, 1 - alpha) * (1 - p_t) ** gamma * -p_t.log()
    return (loss * (label >= 0).unsqueeze(1)).sum() / (label == 1).sum().clamp(min=1)


RIGHT = {
    "04.balanced": balanced,
    "04.slope": slope,
    "04.smallest_gamma": smallest_gamma,
    "04.first_loss": first_loss,
    "04.class_loss": class_loss,
    "04.class_loss_slope": slope_of(class_loss),
}

MISTAKES = [
    ("04.balanced", lambda p, y, alpha: -alpha * torch.where(y == 1, p, 1 - p).log(), "background"),
    ("04.balanced", lambda p, y, alpha: balanced(p, y, 1 - alpha), "an object"),
    (
        "04.balanced",
        lambda p, y, alpha: -torch.where(y == 1, alpha, 1 - alpha) * p.log(),
        "six entries",
    ),
    ("04.balanced", lambda p, y, alpha: balanced(p, y, alpha).sum(), "an object"),
    ("04.slope", lambda p_t, gamma: -((1 - p_t) ** gamma) * (1 - p_t), "gamma 2"),
    ("04.slope", lambda p_t, gamma: -slope(p_t, gamma), "gamma 0"),
    ("04.slope", lambda p_t, gamma: -((1 - p_t) ** gamma) / p_t, "gamma 0"),
    (
        "04.smallest_gamma",
        lambda a, p, b, q: math.log(a / b) / math.log((1 - q) / (1 - p)),
        "100,000 easy at 0.9",
    ),
    ("04.smallest_gamma", lambda a, p, b, q: 1.74, "10 easy"),
    (
        "04.smallest_gamma",
        lambda a, p, b, q: (
            math.log(a * math.log(p) / (b * math.log(q))) / math.log((1 - q) / (1 - p))
        ),
        "10 easy",
    ),
    (
        "04.first_loss",
        lambda a, k, pi, alpha, gamma: first_loss(a, 1, pi, alpha, gamma),
        "no prior",
    ),
    ("04.first_loss", lambda a, k, pi, alpha, gamma: -a * k * math.log(pi), "with the prior"),
    (
        "04.first_loss",
        lambda a, k, pi, alpha, gamma: first_loss(a, k, pi, alpha and 1 - alpha, gamma),
        "focal loss",
    ),
    (
        "04.class_loss",
        lambda *args: class_loss(*args) * max(1, int((args[2] == 1).sum())),
        "two objects",
    ),
    (
        "04.class_loss",
        lambda *args: class_loss(*args[:2], args[2].clamp(min=0), *args[3:]),
        "ignored",
    ),
    ("04.class_loss", lambda *args: class_loss(*args[:3], 1 - args[3], args[4]), "one object"),
    ("04.class_loss", lambda *args: class_loss(*args[:4], 2.0), "gamma 0"),
    ("04.class_loss", naive_class_loss, "+-100"),
    ("04.class_loss", lambda *args: naive_class_loss(*args, floor=1e-7), "+-100"),
    ("04.class_loss", lambda *args: naive_class_loss(*args) / (args[2] == 1).sum(), "divide by 1"),
    (
        "04.class_loss_slope",
        slope_of(lambda *args: class_loss(*args) / (args[2] == 1).sum()),
        "without objects",
    ),
    ("04.class_loss_slope", slope_of(naive_class_loss), "+-100"),
    ("04.class_loss_slope", slope_of(lambda *args: naive_class_loss(*args, floor=1e-7)), "+-100"),
    (
        "04.class_loss_slope",
        slope_of(lambda x, *rest: class_loss(x.clamp(-50, 50), *rest)),
        "+-100",
    ),
    (
        "04.class_loss_slope",
        lambda *args: torch.nan_to_num(slope_of(naive_class_loss)(*args)),
        "+-100",
    ),
]


@pytest.mark.parametrize("name", EXERCISES)
def test_a_right_answer_passes(name):
    assert verdict(name, RIGHT[name]).startswith(DONE)


@pytest.mark.parametrize(("name", "answer", "case"), MISTAKES)
def test_a_wrong_answer_is_told_which_case_it_misses(name, answer, case):
    sentence = verdict(name, answer)
    assert sentence.startswith(f"{WRONG} {name}") and case in sentence


def test_a_stub_has_no_slope_yet():
    assert verdict("04.class_loss_slope", slope_of(lambda *args: None)).startswith(TODO)


def test_the_slope_at_a_sure_answer_is_what_naive_code_gets_wrong():
    """The case at logit 18 by itself: the power's infinite slope times 0 is NaN there."""
    case = next(case for case in EXERCISES["04.class_loss_slope"].cases if "logit 18" in case.why)
    assert slope_of(naive_class_loss)(*case.args).isnan().any()
    assert torch.allclose(slope_of(class_loss)(*case.args), case.expected, atol=1e-4)


def test_the_published_first_losses_are_among_the_cases():
    numbers = [case.expected for case in EXERCISES["04.first_loss"].cases]
    assert numbers[1:5] == pytest.approx([5.55e6, 80_403, 1.04e6, 6.03], rel=2e-3)
