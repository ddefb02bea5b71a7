"""Cases for lesson 4: the slope, a gamma by design, first losses, a choice of loss, focal loss.

The expected values are plain Python numbers; slopes are finite differences, gamma is found by
halving an interval.
"""

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor

from lesson_lib.course.checks import Case, Choice, Exercise
from lesson_lib.course.review import Question


def slope_of(loss: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """The function that gives the gradient of loss(logits, ...), summed, with respect to the
    logits.
    """

    def slope(logits: Tensor, *rest):
        logits = logits.clone().requires_grad_()
        value = loss(logits, *rest)
        return None if value is None else torch.autograd.grad(value.sum(), logits)[0]

    return slope


def _focal(z: float, gamma: float) -> float:
    """(1 - p_t)^gamma (-log p_t) with p_t = 1 / (1 + e^-z), safe at any z."""
    log_p, log_q = (-max(-x, 0.0) - math.log1p(math.exp(-abs(x))) for x in (z, -z))
    return math.exp(gamma * log_q) * -log_p


def _entry(logit: float, target: float, alpha: float, gamma: float) -> float:
    return (alpha if target else 1 - alpha) * _focal(logit if target else -logit, gamma)


def _loss_case(why: str, logits: list[float], targets: list[float], *rest: float) -> Case:
    expected = [_entry(x, y, *rest) for x, y in zip(logits, targets)]
    return Case(why, (torch.tensor(logits), torch.tensor(targets), *rest), torch.tensor(expected))


def _slope_case(why: str, logits: list[float], targets: list[float], *rest: float) -> Case:
    expected = [
        (_entry(x + 1e-5, y, *rest) - _entry(x - 1e-5, y, *rest)) / 2e-5
        for x, y in zip(logits, targets)
    ]
    return Case(why, (torch.tensor(logits), torch.tensor(targets), *rest), torch.tensor(expected))


def _drawn_anew(draw: random.Random) -> Case:
    """Ten logits of both kinds, with an alpha and a gamma of their own."""
    logits = [draw.gauss(0, 3) for _ in range(10)]
    targets = [float(draw.random() < 0.4) for _ in range(10)]
    alpha, gamma = round(draw.uniform(0.1, 0.9), 2), round(draw.uniform(0.5, 4), 1)
    return _loss_case(
        f"logits drawn anew, alpha {alpha}, gamma {gamma}", logits, targets, alpha, gamma
    )


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


#: What four programs did; the lesson shows their first losses.
BUGS = {
    "P": "no prior",
    "Q": "nothing",
    "R": "divided by all anchors that are not ignored",
    "S": "the prior's sign is turned",
}


BUG_REASONS = {
    "P": {
        "nothing": "with the prior nearly all background is quiet, and this sum is not.",
        "divided by all anchors that are not ignored": "that makes the loss far smaller than 1.",
        "the prior's sign is turned": "then every background answer would be sure and wrong, which "
        "costs more than this.",
        "α and 1 - α are swapped": "with the prior an object would then cost about 3.4, and hardly "
        "anything else would be in the sum.",
    },
    "Q": {
        "no prior": "at p = .5 every background answer speaks, and there are thousands of them.",
        "divided by all anchors that are not ignored": "an object at the prior costs about 1, and "
        "this is about 1 for each object.",
        "the prior's sign is turned": "then every background answer would be sure and wrong.",
        "α and 1 - α are swapped": "then an object at the prior would cost about 3.4 by itself.",
    },
    "R": {
        "no prior": "at p = .5 every background answer speaks; this is the smallest loss of all.",
        "nothing": "an object at the prior costs about 1 by itself: shared among the objects, the "
        "sum cannot come so low.",
        "the prior's sign is turned": "answers that are sure and wrong cost most; this is the "
        "smallest loss of all.",
        "α and 1 - α are swapped": "then an object at the prior would cost about 3.4 by itself: "
        "shared among the objects, the sum cannot come so low.",
    },
    "S": {
        "no prior": "an answer at p = .5 costs little: even all anchors together do not come so "
        "high.",
        "nothing": "with the prior nearly all background is quiet; this is the largest loss.",
        "divided by all anchors that are not ignored": "that makes a loss smaller; this is the "
        "largest of all.",
        "α and 1 - α are swapped": "with the prior an object would then cost about 3.4, and hardly "
        "anything else would be in the sum.",
    },
}


def first_losses(positive: int, negative: int, classes: int) -> dict[str, float]:
    """{"P": ..., ...}: the first focal loss (gamma 2, alpha .25) of four programs, untrained.

    positive, negative: anchors. Every answer starts at the same probability.
    """

    def total(pi: float) -> float:
        logit = math.log(pi / (1 - pi))
        yes, no = (_entry(logit, target, 0.25, 2.0) for target in (1.0, 0.0))
        return positive * yes + (classes * (positive + negative) - positive) * no

    found = {
        "no prior": total(0.5) / positive,
        "nothing": total(0.01) / positive,
        "divided by all anchors that are not ignored": total(0.01) / (positive + negative),
        "the prior's sign is turned": total(0.99) / positive,
    }
    return {letter: found[bug] for letter, bug in BUGS.items()}


#: Three projects after a training with cross entropy: (answers, their mean p_t) of the objects, of
#: the easy background (p_t > .9) and of the hard background.
PROJECTS = {
    "P": {"objects": (400, 0.6), "easy background": (8_000, 0.995), "hard background": (60, 0.4)},
    "Q": {"objects": (20, 0.3), "easy background": (100_000, 0.997), "hard background": (10, 0.3)},
    "R": {
        "objects": (400, 0.8),
        "easy background": (40_000, 0.999),
        "hard background": (200, 0.02),
    },
}
CHOICES = {"P": "keep cross entropy", "Q": "focal loss", "R": "look at the labels"}
CHOICE_REASONS = {
    "P": {
        "focal loss": "the easy background makes only a small part of this loss: there is no "
        "crowd to discount.",
        "look at the labels": "its hard background is unsure (.4). A missing label shows as an "
        "answer that is sure and wrong.",
        "a weight of 0.99 for the objects": "the objects make most of this loss already.",
    },
    "Q": {
        "keep cross entropy": "nearly all of this loss comes from background that is answered "
        "well.",
        "look at the labels": "its hard background is ten answers, and a small part of the loss.",
        "a weight of 0.99 for the objects": "it would quieten the hard background along with the "
        "easy.",
    },
    "R": {
        "keep cross entropy": "most of this loss comes from two hundred answers that are sure and "
        "wrong.",
        "focal loss": "the easy background is a small part of this loss already; what is left is "
        "sure and wrong, and no γ discounts that.",
        "a weight of 0.99 for the objects": "it would quieten the answers that are sure and wrong, "
        "and nobody would know why they are.",
    },
}


def who_makes_the_loss(project: str) -> dict[str, float]:
    """{group: its share of the cross entropy, 0 to 1} of one of PROJECTS."""
    made = {name: -count * math.log(p_t) for name, (count, p_t) in PROJECTS[project].items()}
    return {name: loss / sum(made.values()) for name, loss in made.items()}


def loudest_group(project: str) -> str:
    """The group that makes most of the cross entropy of one of PROJECTS, with its share."""
    made = who_makes_the_loss(project)
    name = max(made, key=lambda group: made[group])
    return f"{name} {made[name]:.0%}"


EXERCISES = {
    "04.slope": Exercise(
        [
            _focal_slope("gamma 0 is cross entropy", [0.1, 0.5, 0.9], 0.0),
            _focal_slope("gamma 2", [0.1, 0.5, 0.9], 2.0),
            _focal_slope("gamma 5", [0.05, 0.35, 0.8], 5.0),
            _focal_slope("gamma .5", [0.2, 0.7, 0.99], 0.5),
        ],
        "this is the gradient that trains RetinaNet, worked out by you.",
        tolerance=1e-3,
        hints=(
            "The slope is taken with respect to z, not to p_t: what does p_t do when z moves a "
            "little? At gamma 0 your result must be minus the error, 1 - p_t.",
            "One fact is enough: dp_t/dz = p_t (1 - p_t). Then the product rule.",
            "Both terms have the factor (1 - p_t)^gamma; take it out, and no p_t is left in a "
            "denominator.",
        ),
        refused=("sigmoid_focal_loss", "focal_at", "pull"),
    ),
    "04.smallest_gamma": Exercise(
        [
            _smallest_gamma(15_000, 0.96, 161, 0.55),
            _smallest_gamma(10, 0.9, 10, 0.1),
            _smallest_gamma(100_000, 0.99, 10, 0.5),
            _smallest_gamma(1_000, 0.6, 50, 0.4),
        ],
        "you have designed a loss for an imbalance, instead of copying a 2.",
        hints=(
            "Write down the loss of each group as a function of gamma, and what you want of the "
            "two. What if the easy ones are in the minority already?",
            "At the gamma you look for the two sums are equal; everything but gamma is known.",
            "Bring the two powers to one side, as the power of a quotient, and take the logarithm. "
            "A negative result means that no gamma is needed.",
        ),
    ),
    "04.first": Exercise(
        [
            Case(
                f"program {letter}: is your diagnosis right?",
                (letter,),
                Choice(bug, BUG_REASONS[letter]),
            )
            for letter, bug in BUGS.items()
        ],
        "you can tell a bug from a first loss, before any training.",
        hints=(
            "Work out one number: with the prior, an object's answer costs .25 x .99^2 x 4.6, and "
            "the background next to nothing. What is that per positive anchor?",
            "Without a prior each background answer costs .75 x .25 x .69. How many are there for "
            "each positive anchor? A prior of .99 costs .75 x .99^2 x 4.6 for each: how many times "
            "that?",
            "What is left is a loss that is too small: by which number must it have been divided?",
        ),
    ),
    "04.choose": Exercise(
        [
            Case(
                f"project {letter}: is your choice right?",
                (letter,),
                Choice(choice, CHOICE_REASONS[letter]),
            )
            for letter, choice in CHOICES.items()
        ],
        "a loss is chosen by who makes it: "
        + "; ".join(f"{letter}, {loudest_group(letter)}" for letter in PROJECTS)
        + ".",
        hints=(
            "A group's loss is its count times -log p_t. Find, in each row, the group that makes "
            "most of the loss.",
            "Focal loss silences one of the three groups. In which row is that group the loudest?",
            "Hard background with p_t of .02: the network is nearly sure of an object there, two "
            "hundred times. Who is more likely to be wrong?",
        ),
    ),
    "04.focal": Exercise(
        [
            _loss_case("an object at p = .5", [0.0], [1.0], 0.25, 2.0),
            _loss_case("background at p = .5", [0.0], [0.0], 0.25, 2.0),
            _loss_case(
                "gamma 0, alpha .5: half the cross entropy", [0.7, -2.0], [1.0, 0.0], 0.5, 0.0
            ),
            _loss_case(
                "four answers, right and wrong",
                [-2.0, -2.0, 3.0, 3.0],
                [0.0, 1.0, 0.0, 1.0],
                0.25,
                2.0,
            ),
            Case(
                "shape (2, 1), and targets that are whole numbers",
                (torch.tensor([[0.4], [0.4]]), torch.tensor([[1], [0]]), 0.6, 1.0),
                torch.tensor([[_entry(0.4, 1, 0.6, 1.0)], [_entry(0.4, 0, 0.6, 1.0)]]),
            ),
            _loss_case("logits of +-100, all wrong", [-100.0, 100.0], [1.0, 0.0], 0.25, 2.0),
            _loss_case("logits of +-100, all right", [100.0, -100.0], [1.0, 0.0], 0.25, 2.0),
        ],
        "these are the values of RetinaNet's loss; the next line tries its slope.",
        fresh=_drawn_anew,
        refused=(
            "sigmoid_focal_loss",
            "balanced_cross_entropy",
            "binary_cross_entropy",
            "focal_at",
        ),
        hints=(
            "Turn the logit towards the right answer first: what is z where the target is 1, and "
            "where it is 0? From there one formula serves both.",
            "log p_t and log(1 - p_t) are the same function, of z and of -z; "
            "`torch.nn.functional` has it, exact also where p_t rounds to 0 or 1.",
            "A power is the exponential of a logarithm times gamma; so nothing but logarithms is "
            "multiplied until the end. alpha_t is a choice, entry by entry.",
        ),
        serves="sigmoid_focal_loss",
        gate=("04.focal_slope", slope_of),
    ),
    "04.focal_slope": Exercise(
        [
            _slope_case("gamma 2", [-2.0, 0.5, 1.5], [1.0, 0.0, 1.0], 0.25, 2.0),
            _slope_case(
                "gamma 2, logits of +-100", [-100.0, 100.0, 60.0], [1.0, 0.0, 1.0], 0.25, 2.0
            ),
            _slope_case("gamma .5, a sure answer (logit 18)", [18.0, -18.0], [1.0, 0.0], 0.25, 0.5),
            _slope_case("gamma .5, logits of +-100", [100.0, -100.0], [1.0, 0.0], 0.25, 0.5),
        ],
        (
            "its slope is right at every logit, also where the formula as it stands gives NaN; "
            "from now on it paints the map of section 4.1."
        ),
        tolerance=1e-3,
        hints=(
            "A slope of NaN at a sure answer: which factor of your formula is 0 there, and which "
            "has an infinite slope?",
            "Side room A of this lesson shows the three usual ways to write it and where each "
            "breaks.",
            "Keep 1 - p_t as a logarithm, which never rounds to minus infinity.",
        ),
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
        "(1 - .1)^2 = .81: the discount is for what is easy.",
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
