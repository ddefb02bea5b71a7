"""Cases for lesson 11: the first loss, another batch, a loss shared by processes, predictions
gathered in order.

Expected values are worked out here in plain Python numbers.
"""

import math

from lesson_lib.course.checks import Case, Exercise
from lesson_lib.course.review import Question


def _first(  # noqa: PLR0913  the numbers of one case
    why: str,
    anchors: int,
    ignored: int,
    matched: int,
    classes: int,
    pi: float,
    alpha: float,
    gamma: float,
) -> Case:
    ones, zeros = matched, matched * (classes - 1) + (anchors - ignored - matched) * classes
    loss = ones * alpha * (1 - pi) ** gamma * math.log(1 / pi) + zeros * (
        1 - alpha
    ) * pi**gamma * math.log(1 / (1 - pi))
    return Case(why, (anchors, ignored, matched, classes, pi, alpha, gamma), loss / max(1, matched))


def _whole(why: str, sums: list[float], positives: list[int]) -> Case:
    return Case(why, (sums, positives), sum(sums) / max(1, sum(positives)))


def _gather(why: str, items: int, world: int) -> Case:
    names = ["hen", "cat", "owl", "ant", "fox", "bee", "dog"][
        :items
    ]  # in no order that a sort could find
    return Case(
        why,
        ([[name for i, name in enumerate(names) if i % world == rank] for rank in range(world)],),
        names,
    )


EXERCISES = {
    "11.first_loss": Exercise(
        [
            _first(
                "one class and every anchor matched: no background", 6, 0, 6, 1, 0.01, 0.25, 2.0
            ),
            _first(
                "a matched anchor, three classes: two of its sigmoids are background",
                1,
                0,
                1,
                3,
                0.5,
                0.5,
                0.0,
            ),
            _first(
                "cross entropy without the prior: the background is everything",
                100_000,
                0,
                60,
                80,
                0.5,
                0.5,
                0.0,
            ),
            _first("ignored anchors cost nothing", 20_000, 10_000, 40, 80, 0.3, 0.25, 2.0),
            _first("another prior", 5_000, 300, 25, 3, 0.1, 0.25, 1.0),
            _first("no matched anchor: divided by 1", 100_000, 0, 0, 80, 0.01, 0.25, 2.0),
        ],
        "the number to compare the first record with, before you pay for the second.",
    ),
    "11.scaled": Exercise(
        [
            Case("eight times the batch", (0.01, 90_000, 16, 128), (0.08, 11_250)),
            Case("a quarter of the batch", (0.01, 90_000, 16, 4), (0.0025, 360_000)),
            Case("the same batch", (0.001, 120_000, 32, 32), (0.001, 120_000)),
            Case("steps that do not divide evenly are rounded", (0.02, 1000, 16, 48), (0.06, 333)),
            Case("rounded to the nearest, up too", (0.02, 1000, 16, 24), (0.03, 667)),
        ],
        "the same pictures are seen, in fewer and longer steps.",
    ),
    "11.shared_loss": Exercise(
        [
            _whole("two processes alike", [6.0, 6.0], [3, 3]),
            _whole("one full picture, one nearly empty", [30.0, 4.0], [60, 1]),
            _whole("a process without any object", [12.0, 0.5], [10, 0]),
            _whole("no object at all", [0.2, 0.3], [0, 0]),
            _whole("four processes", [1.0, 2.0, 3.0, 4.0], [5, 1, 9, 2]),
        ],
        "the same number that one process with the whole batch would have.",
    ),
    "11.gather": Exercise(
        [
            _gather("one process", 3, 1),
            _gather("two processes, an even number", 4, 2),
            _gather("two processes, an odd number", 5, 2),
            _gather("three processes, seven pictures", 7, 3),
            _gather("more processes than pictures", 2, 4),
            _gather("no picture", 0, 2),
        ],
        "each picture once, in order: an AP that does not depend on the number of GPUs.",
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "Why does fp16 need a loss scaler and bf16 none?",
        (
            "bf16 has the exponent range of fp32; small gradients vanish in fp16",
            "bf16 has more digits",
            "fp16 is older",
        ),
        "fp16's smallest number is about 6e-8.",
    ),
    Question(
        "What stays in fp32 under autocast?",
        ("the weights that are updated, and sums such as the loss", "the activations", "nothing"),
        "A weight plus a tiny step would be the same weight in 8 bits of mantissa.",
    ),
    Question(
        "Four processes share a batch. By what must each divide its loss?",
        ("by the positives of all four", "by its own positives", "by four"),
        "Else a process with few cells weighs each of them more.",
    ),
    Question(
        "Batch 16 does not fit, 4 does. What gives the same step?",
        (
            "four batches of 4, their gradients added, one update",
            "batch 4 and a quarter of the rate for ever",
            "batch 4, nothing else",
        ),
        "With the positives of all 16 as normaliser, and no batch norm over the small batches.",
    ),
    Question(
        "Why must anchors stay in fp32 under bf16 autocast?",
        (
            "bf16 keeps 8 bits: positions are off by up to some pixels",
            "they would be slower",
            "they have no gradient",
        ),
        "At 800 px a fifth of the positives flip.",
    ),
]
