"""Cases for lesson 11: the first loss, another batch, five trainings to decide for, the loss of a
rank.

Expected values are worked out here in plain Python numbers.
"""

import math
import random

from lesson_lib.course.checks import Case, Choice, Exercise
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


def _rank(why: str, own_sum: float, positives: list[int]) -> Case:
    return Case(why, (own_sum, positives), len(positives) * own_sum / max(1, sum(positives)))


def _random_rank(rng: random.Random) -> Case:
    positives = [rng.randrange(40) for _ in range(rng.randint(2, 8))]
    return _rank(f"matched anchors {positives}", rng.uniform(0.5, 60), positives)


#: The pictures of section 11.5, by letter, and what to switch on first.
DECISIONS = {
    "A": "more workers",
    "B": "half precision",
    "C": "nothing",
    "D": "half precision",
    "E": "accumulate",
}
#: For each of them, what speaks against the other three.
REASONS = {
    "A": {
        "half precision": "a faster step would only wait longer.",
        "accumulate": "its batch fits, and parts save no time.",
        "nothing": "its GPU has gaps, and you pay for them.",
    },
    "B": {
        "more workers": "the GPU never waits for them.",
        "accumulate": "its batch fits, and parts save no time.",
        "nothing": "its GPU is always busy, but in float32.",
    },
    "C": {
        "more workers": "the GPU never waits for them.",
        "half precision": "it has it already.",
        "accumulate": "its batch fits, and parts save no time.",
    },
    "D": {
        "more workers": "nothing trains yet, so nothing waits.",
        "accumulate": "it would fit in parts, but another switch makes it fit and is faster, too.",
        "nothing": "the A100's track ends before the line.",
    },
    "E": {
        "more workers": "nothing trains yet, so nothing waits.",
        "half precision": "set 192 pictures and bf16 in 11.1: the A100 stays dashed.",
        "nothing": "the A100's track ends before the line.",
    },
}

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
        "the number to compare the first loss with, before you pay for the second.",
        refused=("sigmoid_focal_loss",),
        hints=(
            "Count two numbers: how many sigmoids should be 1, and how many 0?",
            "A matched anchor has one sigmoid of the first kind and classes - 1 of the second.",
            "The two terms of the equation say what one of each costs; divide at the end.",
        ),
    ),
    "11.scaled": Exercise(
        [
            Case("the recipe's eight GPUs", (0.01, 90_000, 16, 8, 2, 1), (0.01, 90_000)),
            Case("accumulation keeps the batch", (0.01, 90_000, 16, 1, 2, 8), (0.01, 90_000)),
            Case("one GPU with 2 pictures", (0.01, 90_000, 16, 1, 2, 1), (0.00125, 720_000)),
            Case("eight GPUs with 16 pictures", (0.01, 90_000, 16, 8, 16, 1), (0.08, 11_250)),
            Case("steps that do not divide are rounded", (0.02, 1000, 16, 3, 8, 2), (0.06, 333)),
            Case("rounded to the nearest, up too", (0.02, 1000, 16, 2, 12, 1), (0.03, 667)),
        ],
        "the same number of pictures is seen, in other steps.",
        hints=(
            "How many pictures does one update see, on all GPUs together?",
            "The number of pictures seen, steps x batch, stays the same.",
            "One factor, new batch over old, serves both: once up, once down.",
        ),
    ),
    "11.decide": Exercise(
        [
            Case(f"{letter}: is that the first switch?", (letter,), Choice(word, REASONS[letter]))
            for letter, word in DECISIONS.items()
        ],
        "first find what everything waits for, then mend that.",
        hints=(
            "In which picture does the GPU have gaps, in which none?",
            "Where the GPU is always busy only the work itself can become less.",
            "A dashed track is too short. By how much? 11.1 has what half precision divides by.",
        ),
    ),
    "11.rank_loss": Exercise(
        [
            _rank("one process", 12.0, [4]),
            _rank("two processes alike", 6.0, [3, 3]),
            _rank("the nearly empty one of two", 4.0, [60, 1]),
            _rank("a process without any object", 0.5, [10, 0]),
            _rank("no object in the whole batch", 0.2, [0, 0]),
            _rank("four processes", 3.0, [5, 1, 9, 2]),
        ],
        "averaged over the ranks: the gradient of one process with the whole batch.",
        fresh=_random_rank,
        hints=(
            "By what would one process with the whole batch divide its sum?",
            "DDP averages: by how much do the gradients of R ranks shrink on the way?",
            "Undo the average first, then divide by the matched anchors of all, but never by 0.",
        ),
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
        "Else a process with few cells weighs each more. (Times four, as DDP averages.)",
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
        "Beyond 512 px one rounding is off by up to 2 px: labels flip.",
    ),
]
