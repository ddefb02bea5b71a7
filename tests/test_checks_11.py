"""Lesson 11's exercises: a right answer passes, each likely wrong one fails at the case that names
its mistake.
"""

import math

from answers import exercise_tests

from lesson_lib.course.checks.lesson11 import EXERCISES


def first(anchors, ignored, matched, classes, pi, alpha, gamma):
    zeros = (anchors - ignored) * classes - matched
    return (
        matched * alpha * (1 - pi) ** gamma * -math.log(pi)
        + zeros * (1 - alpha) * pi**gamma * -math.log(1 - pi)
    ) / max(1, matched)


def gather(parts):
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]


def own_losses(sums, positives):
    return sum(s / max(1, n) for s, n in zip(sums, positives)) / len(sums)


RIGHT = {
    "11.first_loss": first,
    "11.gather": gather,
    "11.shared_loss": lambda s, n: sum(s) / max(1, sum(n)),
    "11.scaled": lambda lr, steps, b, new: (lr * new / b, round(steps * b / new)),
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
    ("11.scaled", lambda lr, s, b, new: (lr, s), "eight times"),
    ("11.scaled", lambda lr, s, b, new: (lr * new / b, s), "eight times"),
    ("11.scaled", lambda lr, s, b, new: (lr * b / new, round(s * new / b)), "eight times"),
    ("11.scaled", lambda lr, s, b, new: (lr * (new / b) ** 0.5, round(s * b / new)), "eight times"),
    ("11.scaled", lambda lr, s, b, new: (lr * new / b, s * b / new), "rounded"),
    ("11.scaled", lambda lr, s, b, new: (lr * new / b, s * b // new), "up too"),
    ("11.shared_loss", own_losses, "nearly empty"),
    ("11.shared_loss", lambda s, n: sum(s), "two processes alike"),
    ("11.shared_loss", lambda s, n: sum(s) / sum(n) if sum(n) else 0.0, "no object at all"),
    ("11.shared_loss", lambda s, n: sum(s) / sum(max(1, k) for k in n), "without any object"),
    ("11.gather", lambda parts: [p for part in parts for p in part], "even number"),
    ("11.gather", lambda parts: [p for row in zip(*parts) for p in row], "odd number"),
    ("11.gather", lambda parts: parts[0], "even number"),
    ("11.gather", lambda parts: sorted(p for part in parts for p in part), "one process"),
]


test_every_exercise_is_tried, test_right, test_mistake, test_stub = exercise_tests(
    EXERCISES, RIGHT, MISTAKES
)
