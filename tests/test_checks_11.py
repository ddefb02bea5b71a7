"""Lesson 11's exercises: a right answer passes, each likely wrong one fails at the case that names
its mistake.
"""

import math

from answers import exercise_tests

from lesson_lib.course.checks.lesson11 import DECISIONS, EXERCISES


def first(anchors, ignored, matched, classes, pi, alpha, gamma):
    zeros = (anchors - ignored) * classes - matched
    return (
        matched * alpha * (1 - pi) ** gamma * -math.log(pi)
        + zeros * (1 - alpha) * pi**gamma * -math.log(1 - pi)
    ) / max(1, matched)


def rank(own_sum, positives):
    return len(positives) * own_sum / max(1, sum(positives))


def scaled(lr, steps, batch, gpus, per_gpu, accumulate, rounding=round):
    new = gpus * per_gpu * accumulate
    return lr * new / batch, rounding(steps * batch / new)


RIGHT = {
    "11.first_loss": first,
    "11.decide": DECISIONS.get,
    "11.rank_loss": rank,
    "11.scaled": scaled,
}
MISTAKES = [
    (
        "11.first_loss",
        lambda a, i, m, k, pi, al, g: first(a, i, m, k, pi, 1 - al, g),
        "every anchor matched",
    ),
    (
        "11.first_loss",
        lambda a, i, m, k, pi, al, g: first(a, i, m, k, pi, al, 0),
        "every anchor matched",
    ),
    (
        "11.first_loss",
        lambda a, i, m, k, pi, al, g: first(a, i, m, k, pi, al, g) * m,
        "every anchor matched",
    ),
    (
        "11.first_loss",
        lambda a, i, m, k, pi, al, g: (
            first(m, 0, m, 1, pi, al, g) + (first(a - m, i, 0, k, pi, al, g) / max(1, m))
        ),
        "two of its sigmoids",
    ),
    (
        "11.first_loss",
        lambda a, i, m, k, pi, al, g: first(a, i, m, k, 0.01, al, g),
        "two of its sigmoids",
    ),
    (
        "11.first_loss",
        lambda a, i, m, k, pi, al, g: first(a, 0, m, k, pi, al, g),
        "ignored anchors",
    ),
    ("11.first_loss", lambda *args: first(*args) if args[2] else 0.0, "no matched anchor"),
    ("11.scaled", lambda *of: scaled(*of[:3], 1, *of[4:]), "eight GPUs"),
    ("11.scaled", lambda *of: scaled(*of[:5], 1), "accumulation keeps"),
    ("11.scaled", lambda *of: of[:2], "one GPU with 2"),
    ("11.scaled", lambda *of: (scaled(*of)[0], of[1]), "one GPU with 2"),
    ("11.scaled", lambda *of: (scaled(*of)[0] ** -1, scaled(*of)[1]), "eight GPUs"),
    ("11.scaled", lambda *of: ((of[0] * scaled(*of)[0]) ** 0.5, scaled(*of)[1]), "one GPU with 2"),
    ("11.scaled", lambda *of: scaled(*of, rounding=float), "are rounded"),
    ("11.scaled", lambda *of: scaled(*of, rounding=int), "up too"),
    ("11.decide", lambda letter: "half precision", "A: is that"),
    ("11.decide", lambda letter: "more workers", "B: is that"),
    ("11.decide", lambda letter: DECISIONS["B" if letter == "C" else letter], "C: is that"),
    ("11.decide", lambda letter: DECISIONS["B" if letter == "E" else letter], "E: is that"),
    ("11.decide", lambda letter: DECISIONS["C" if letter == "D" else letter], "D: is that"),
    ("11.decide", lambda letter: DECISIONS["E" if letter == "D" else letter], "D: is that"),
    ("11.decide", lambda letter: DECISIONS["D" if letter == "E" else letter], "E: is that"),
    ("11.decide", lambda letter: DECISIONS["C" if letter == "E" else letter], "E: is that"),
    ("11.rank_loss", lambda s, n: s / max(1, sum(n)), "two processes alike"),
    ("11.rank_loss", lambda s, n: s / max(1, n[-1]), "nearly empty"),
    ("11.rank_loss", lambda s, n: len(n) * s / sum(max(1, k) for k in n), "without any object"),
    ("11.rank_loss", lambda s, n: s / max(1, sum(n) / len(n)), "no object in the whole"),
    ("11.rank_loss", lambda s, n: 2 * s / max(1, sum(n)), "one process"),
]


test_every_exercise_is_tried, test_right, test_mistake, test_stub = exercise_tests(
    EXERCISES, RIGHT, MISTAKES
)
