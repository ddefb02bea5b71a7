"""Cases for lesson 4: weights, slopes, gamma, the first loss, a whole classification loss.

The expected values are plain Python numbers; slopes are finite differences, gamma is found by
halving an interval.
"""

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor

from lesson_lib.course.checks import Case, Exercise
from lesson_lib.course.review import Question


def slope_of(loss: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """The function that gives the gradient of loss(logits, ...), a scalar, with respect to the
    logits.
    """

    def slope(logits: Tensor, *rest):
        logits = logits.clone().requires_grad_()
        value = loss(logits, *rest)
        return None if value is None else torch.autograd.grad(value, logits)[0]

    return slope


def _focal(z: float, gamma: float) -> float:
    """(1 - p_t)^gamma (-log p_t) with p_t = 1 / (1 + e^-z), safe at any z."""
    log_p, log_q = (-max(-x, 0.0) - math.log1p(math.exp(-abs(x))) for x in (z, -z))
    return math.exp(gamma * log_q) * -log_p


def _entry(logit: float, target: bool, alpha: float, gamma: float) -> float:
    return (alpha if target else 1 - alpha) * _focal(logit if target else -logit, gamma)


def _class_loss(logits, classes, label, alpha, gamma) -> float:
    total = sum(
        _entry(logit, label[a] == 1 and classes[a] == k, alpha, gamma)
        for a, row in enumerate(logits)
        if label[a] >= 0
        for k, logit in enumerate(row)
    )
    return total / max(1, sum(x == 1 for x in label))


def _class_loss_slope(logits, *rest) -> list[list[float]]:
    def nudged(a, k, step):
        rows = [list(row) for row in logits]
        rows[a][k] += step
        return _class_loss(rows, *rest)

    return [
        [(nudged(a, k, 1e-5) - nudged(a, k, -1e-5)) / 2e-5 for k in range(len(row))]
        for a, row in enumerate(logits)
    ]


def _arguments(logits, classes, label, alpha, gamma) -> tuple:
    return (
        torch.tensor(logits),
        torch.tensor(classes),
        torch.tensor(label, dtype=torch.int8),
        alpha,
        gamma,
    )


def _loss_case(why: str, *case) -> Case:
    return Case(why, _arguments(*case), torch.tensor(_class_loss(*case)))


def _slope_case(why: str, *case) -> Case:
    return Case(why, _arguments(*case), torch.tensor(_class_loss_slope(*case)))


def _balanced(why: str, p: list[float], y: list[int], alpha: float) -> Case:
    expected = [-alpha * math.log(a) if b else -(1 - alpha) * math.log(1 - a) for a, b in zip(p, y)]
    return Case(why, (torch.tensor(p), torch.tensor(y), alpha), torch.tensor(expected))


def _focal_slope(why: str, p_t: list[float], gamma: float) -> Case:
    at = [math.log(p / (1 - p)) for p in p_t]
    expected = [(_focal(z + 1e-5, gamma) - _focal(z - 1e-5, gamma)) / 2e-5 for z in at]
    return Case(why, (torch.tensor(p_t), gamma), torch.tensor(expected))


def _smallest_gamma(n_easy: int, p_easy: float, n_hard: int, p_hard: float) -> Case:
    def too_much(gamma):
        return -n_easy * (1 - p_easy) ** gamma * math.log(p_easy) > -n_hard * (
            1 - p_hard
        ) ** gamma * math.log(p_hard)

    low, high = 0.0, 64.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if too_much(middle) else (low, middle)
    return Case(
        f"{n_easy:,} easy at {p_easy}, {n_hard} hard at {p_hard}",
        (n_easy, p_easy, n_hard, p_hard),
        high if too_much(0.0) else 0.0,
    )


def _first_loss(
    why: str, anchors: int, classes: int, pi: float, alpha: float | None, gamma: float
) -> Case:
    weight = 1 if alpha is None else 1 - alpha
    return Case(
        why,
        (anchors, classes, pi, alpha, gamma),
        anchors * classes * weight * pi**gamma * math.log(1 / (1 - pi)),
    )


_rng = random.Random(4)
_MANY = (
    [[_rng.gauss(-2, 3) for _ in range(3)] for _ in range(40)],
    [_rng.randrange(3) for _ in range(40)],
    [_rng.choice([0, 0, 0, 0, 1, -1]) for _ in range(40)],
)
_FEW = ([[-2.0, 0.5, 1.5], [0.3, -0.7, -3.0], [2.0, -1.0, 0.0]], [1, 0, 2], [1, 0, -1])

EXERCISES = {
    "04.balanced": Exercise(
        [
            _balanced("an object at p = .5", [0.5], [1], 0.75),
            _balanced("background at p = .5", [0.5], [0], 0.75),
            _balanced(
                "six entries of both kinds",
                [0.1, 0.9, 0.3, 0.6, 0.99, 0.02],
                [1, 1, 0, 1, 0, 0],
                0.25,
            ),
            Case(
                "a batch, shape (2, 1)",
                (torch.tensor([[0.2], [0.2]]), torch.tensor([[1], [0]]), 0.9),
                torch.tensor([[-0.9 * math.log(0.2)], [-0.1 * math.log(0.8)]]),
            ),
        ],
        "the two sides now have weights of their own.",
    ),
    "04.slope": Exercise(
        [
            _focal_slope("gamma 0 is cross entropy", [0.1, 0.5, 0.9], 0.0),
            _focal_slope("gamma 2", [0.1, 0.5, 0.9], 2.0),
            _focal_slope("gamma 5", [0.05, 0.35, 0.8], 5.0),
            _focal_slope("gamma .5", [0.2, 0.7, 0.99], 0.5),
        ],
        "this is the gradient that trains RetinaNet, worked out by you.",
        tolerance=1e-3,
    ),
    "04.smallest_gamma": Exercise(
        [
            _smallest_gamma(100_000, 0.9, 100, 0.1),
            _smallest_gamma(10, 0.9, 10, 0.1),
            _smallest_gamma(100_000, 0.99, 10, 0.5),
            _smallest_gamma(1_000, 0.6, 50, 0.4),
        ],
        "you have designed a loss for an imbalance, instead of copying a 2.",
    ),
    "04.first_loss": Exercise(
        [
            _first_loss("one anchor, one class, p = .5", 1, 1, 0.5, None, 0),
            _first_loss("cross entropy, no prior", 100_000, 80, 0.5, None, 0),
            _first_loss("cross entropy with the prior", 100_000, 80, 0.01, None, 0),
            _first_loss("focal loss, no prior", 100_000, 80, 0.5, 0.25, 2),
            _first_loss("focal loss with the prior", 100_000, 80, 0.01, 0.25, 2),
            _first_loss("another prior, another gamma", 5_000, 3, 0.1, 0.4, 1),
        ],
        (
            "a first loss that differs from this by more than a little means a bug: look before "
            "you train."
        ),
    ),
    "04.class_loss": Exercise(
        [
            _loss_case("one object, nothing else", [[0.4]], [0], [1], 0.25, 2.0),
            _loss_case("one background anchor: divide by 1", [[0.4, -1.0]], [0], [0], 0.25, 2.0),
            _loss_case("one object, one background, one ignored anchor", *_FEW, 0.25, 2.0),
            _loss_case(
                "two objects: divide by 2", [[1.0, -1.0], [0.2, 0.1]], [0, 1], [1, 1], 0.25, 2.0
            ),
            _loss_case("everything is ignored", [[1.0, -1.0]], [0], [-1], 0.25, 2.0),
            _loss_case("gamma 0, alpha .5: half the cross entropy", *_FEW, 0.5, 0.0),
            _loss_case(
                "logits of +-100, all wrong",
                [[-100.0, 100.0], [100.0, 100.0]],
                [0, 0],
                [1, 0],
                0.25,
                2.0,
            ),
            _loss_case(
                "logits of +-100, all right",
                [[100.0, -100.0], [-100.0, -100.0]],
                [0, 0],
                [1, 0],
                0.25,
                2.0,
            ),
            _loss_case("40 anchors, 3 classes", *_MANY, 0.25, 2.0),
            _loss_case("another alpha and gamma", *_MANY, 0.6, 0.5),
        ],
        "this is RetinaNet's classification loss.",
    ),
    "04.class_loss_slope": Exercise(
        [
            _slope_case("gamma 2", *_FEW, 0.25, 2.0),
            _slope_case(
                "a picture without objects: divide by 1", [[0.4, -1.0]], [0], [0], 0.25, 2.0
            ),
            _slope_case(
                "gamma 2, logits of +-100",
                [[-100.0, 100.0], [-100.0, 60.0]],
                [0, 0],
                [1, 0],
                0.25,
                2.0,
            ),
            _slope_case(
                "gamma .5, a sure answer (logit 18)",
                [[18.0, -18.0], [-18.0, 0.0]],
                [0, 0],
                [1, 0],
                0.25,
                0.5,
            ),
            _slope_case(
                "gamma .5, logits of +-100",
                [[100.0, -100.0], [-100.0, 0.0]],
                [0, 0],
                [1, 0],
                0.25,
                0.5,
            ),
        ],
        (
            "its slope is finite and right at every logit, also where the formula as it stands "
            "gives NaN."
        ),
        tolerance=1e-3,
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        (
            "At gamma = 2, how much smaller is the loss of an example with p_t = .9 than under "
            "cross entropy?"
        ),
        ("100 times", "10 times", "4 times"),
        "(1 - .9)^2 = .01.",
    ),
    Question(
        "Why is alpha = .25, which weighs the rare class less, right at gamma = 2?",
        (
            "gamma has already silenced most of the background",
            "because objects are easier than background",
            "it is a misprint of .75",
        ),
        "The two are chosen together: at gamma 0 the best alpha is .75.",
    ),
    Question(
        "With a prior of .01, what is the bias of the class head?",
        ("-4.6", "-0.01", "4.6"),
        "-log(.99/.01) = -4.595.",
    ),
    Question(
        "What does focal loss do to an example that is wrong (p_t of .1)?",
        ("hardly anything: .81 of its loss stays", "it doubles its loss", "it leaves it out"),
        "(1 - .1)^2 = .81. It discounts what is easy, it does not favour what is hard.",
    ),
    Question(
        "Where do 100,000 easy negatives go wrong under plain cross entropy?",
        (
            "each is nearly free, together they outweigh the objects",
            "each has a large loss",
            "they have no gradient",
        ),
        "A small number times a hundred thousand.",
    ),
]
