"""Cases for lesson 11: the first loss, another batch, a loss shared by processes, predictions gathered in order.

Expected values are worked out here in plain Python numbers."""
import math

from lesson_lib.checks import Case, Exercise


def _first(why: str, pi: float, alpha: float, gamma: float, background: float) -> Case:
    positive = alpha * (1 - pi) ** gamma * math.log(1 / pi)
    negative = (1 - alpha) * pi**gamma * math.log(1 / (1 - pi))
    return Case(why, (pi, alpha, gamma, background), positive + background * negative)


def _whole(why: str, sums: list[float], positives: list[int]) -> Case:
    return Case(why, (sums, positives), sum(sums) / max(1, sum(positives)))


def _gather(why: str, items: int, world: int) -> Case:
    parts = [[f"p{i}" for i in range(items) if i % world == rank] for rank in range(world)]
    return Case(why, (parts,), [f"p{i}" for i in range(items)])


EXERCISES = {
    "11.first_loss": Exercise([
        _first("RetinaNet's settings, background left out", 0.01, 0.25, 2.0, 0.0),
        _first("plain cross entropy, both sides weighted by a half", 0.01, 0.5, 0.0, 0.0),
        _first("with 5,000 background sigmoids for each matched anchor", 0.01, 0.25, 2.0, 5000.0),
        _first("cross entropy and no prior: the background is everything", 0.5, 0.5, 0.0, 5000.0),
        _first("another prior", 0.1, 0.25, 1.0, 300.0),
    ], "the number to compare the first record with, before you pay for the second."),
    "11.scaled": Exercise([
        Case("eight times the batch", (0.01, 90_000, 16, 128), (0.08, 11_250)),
        Case("a quarter of the batch", (0.01, 90_000, 16, 4), (0.0025, 360_000)),
        Case("the same batch", (0.001, 120_000, 32, 32), (0.001, 120_000)),
        Case("steps that do not divide evenly are rounded", (0.02, 1000, 16, 48), (0.06, 333)),
    ], "the same pictures are seen, in fewer and longer steps."),
    "11.shared_loss": Exercise([
        _whole("two processes alike", [6.0, 6.0], [3, 3]),
        _whole("one full picture, one nearly empty", [30.0, 4.0], [60, 1]),
        _whole("a process without any object", [12.0, 0.5], [10, 0]), _whole("no object at all", [0.2, 0.3], [0, 0]),
        _whole("four processes", [1.0, 2.0, 3.0, 4.0], [5, 1, 9, 2]),
    ], "the same number that one process with the whole batch would have."),
    "11.gather": Exercise([
        _gather("one process", 3, 1), _gather("two processes, an even number", 4, 2),
        _gather("two processes, an odd number", 5, 2), _gather("three processes, seven pictures", 7, 3),
        _gather("more processes than pictures", 2, 4), _gather("no picture", 0, 2),
    ], "each picture once, in order: an AP that does not depend on the number of GPUs."),
}
