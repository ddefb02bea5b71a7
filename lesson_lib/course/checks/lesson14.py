"""What is right in lesson 14; every expected value was worked out on paper."""

import math
import random

import torch

from lesson_lib.course.after_pictures import DIAGNOSES, FAULTS
from lesson_lib.course.checks import Case, Choice, Exercise
from lesson_lib.course.review import Question


def _positives(
    why: str, rows: list[tuple[float, float, int, bool]], k: int, expected: list[int]
) -> Case:
    """rows: IoU, distance, level, inside of each anchor; expected: the numbers of the positives."""
    iou, distance, level, inside = zip(*rows, strict=True)
    chosen = torch.zeros(len(rows), dtype=torch.bool)
    chosen[expected] = True
    args = torch.tensor(iou), torch.tensor(distance), torch.tensor(level), torch.tensor(inside), k
    return Case(why, args, chosen)


#: Of the four nearest mean .3625, deviation .335 (n - 1): t = .698. The fifth is the farthest.
_NEAR = [(0.1, 3.0, 0, True), (0.8, 1.0, 0, True), (0.45, 2.0, 0, True), (0.1, 4.0, 0, True)]
_FAR = (0.9, 9.0, 0, True)
#: Mean .3125, deviation .246 (n - 1): t = .559, over all; of n it would be .213, and t .526.
_SAMPLE = [(0.1, 1.0, 0, True), (0.1, 2.0, 0, True), (0.5, 3.0, 0, True), (0.55, 4.0, 0, True)]
#: Of each level the two nearest: .6 .2 and .5 .1; mean .35, deviation .238: t = .588.
_LEVELS = [
    (0.6, 1.0, 0, True),
    (0.2, 2.0, 0, True),
    (0.95, 7.0, 0, True),
    (0.5, 30.0, 1, True),
    (0.1, 40.0, 1, True),
    (0.9, 90.0, 1, True),
]


def _fresh_positives(draw: random.Random) -> Case:
    """Candidates of overlap a, a and a + 3 d, so that the mean is a + d, the deviation sqrt(3) d,
    and only the last reaches t = a + 2.73 d; beside them one too far away.
    """
    a, d = draw.uniform(0.05, 0.3), draw.uniform(0.05, 0.15)
    rows = [(a, 1.0, 0, True), (a, 2.0, 0, True), (a + 3 * d, 3.0, 0, True), (0.95, 9.0, 0, True)]
    order = draw.sample(range(4), 4)
    shuffled = [rows[i] for i in order]
    return _positives("three other candidates", shuffled, 3, [order.index(2)])


def _centre(why: str, x: float, y: float, expected: float) -> Case:
    return Case(why, (x, y, torch.tensor([10.0, 20.0, 50.0, 40.0])), expected)


def _fresh_centre(draw: random.Random) -> Case:
    left, right, up, down = (float(draw.randint(1, 20)) for _ in range(4))
    box = torch.tensor([100 - left, 50 - up, 100 + right, 50 + down])
    shares = min(left, right) / max(left, right) * min(up, down) / max(up, down)
    return Case("another box", (100.0, 50.0, box), math.sqrt(shares))


_REASONS = {
    FAULTS[0]: "then only the nearest few of all levels could be chosen, and a level that fits "
    "best may be left with fewer",
    FAULTS[1]: "then every candidate over the mean would do: compare the lowest IoU with it",
    FAULTS[2]: "then no positive could overlap by less than .5",
    FAULTS[3]: "most anchors overlap by nothing, so t would be near 0, and nearly every candidate "
    "would do",
}


def _diagnosis(letter: str) -> Choice:
    right = DIAGNOSES[letter]
    return Choice(right, {fault: why for fault, why in _REASONS.items() if fault != right})


EXERCISES = {
    "14.positives": Exercise(
        [
            _positives("one level, four candidates", [*_NEAR, _FAR], 4, [1]),
            _positives("the deviation of a sample", _SAMPLE, 4, []),
            _positives("two levels, two candidates of each", _LEVELS, 2, [0]),
            _positives(
                "its centre lies outside the object",
                [_NEAR[0], (0.8, 1.0, 0, False), *_NEAR[2:]],
                4,
                [],
            ),
            _positives("fewer positions than k", _NEAR, 9, [1]),
            _positives(
                "two that overlap alike", [(0.5, 1.0, 0, True), (0.5, 1.0, 1, True)], 1, [0, 1]
            ),
        ],
        "the object itself has set the bar.",
        fresh=_fresh_positives,
        refused=("match_atss", "atss_positives", "adaptive_threshold"),
        hints=(
            "Two steps: who is a candidate, then who of these is good enough. For the first, look "
            "at one level at a time.",
            "`torch.argsort(distance[own])[:k]` are places among the anchors `own` of one level: "
            "turn them into places among all.",
            "The threshold is made of the candidates' overlaps alone, of all levels together, "
            "before anybody asks where a centre lies.",
        ),
        serves="atss_positives",
    ),
    "14.bugs": Exercise(
        [Case("your diagnoses", (), {letter: _diagnosis(letter) for letter in DIAGNOSES})],
        "four faults, told by what they make positive.",
        hints=(
            "Begin with the lowest IoU: where does it lie beside t and the mean?",
            "A bar near zero lets in what hardly overlaps. One bar lies at the mean, one at a round"
            " number.",
            "One is left. There the bar is no lower; but candidates are missing.",
        ),
    ),
    "14.centreness": Exercise(
        [
            _centre("the middle", 30.0, 30.0, 1.0),
            _centre("a quarter of the way, across", 20.0, 30.0, math.sqrt(10 / 30)),
            _centre("a quarter of the way, both", 20.0, 35.0, math.sqrt(10 / 30 * 5 / 15)),
            _centre("on the left edge", 10.0, 30.0, 0.0),
            _centre("to the right of the box", 60.0, 30.0, 0.0),
            _centre("outside on two sides", 60.0, 50.0, 0.0),
        ],
        "one number says how far from the middle a position lies.",
        fresh=_fresh_centre,
        refused=("centreness", "centreness_of"),
        hints=(
            "Work out the four distances l, t, r, b first. What do they tell of a point outside?",
            "Outside, at least one of them is negative: then the answer is 0, whatever the others.",
            "Inside: the smaller of l and r over the larger, the same of t and b, and the root of "
            "the product.",
        ),
        serves="centreness_of",
    ),
    "14.decide": Exercise(
        [
            Case(
                "your choice",
                (),
                Choice(
                    "none",
                    {
                        "atss": "its mean lies far to the right, but its line begins on the left "
                        "of the baseline: with three seeds that differ so much, luck is not ruled "
                        "out",
                        "giou": "its line lies on both sides of the baseline",
                        "atss-giou": "its line lies right of the baseline, but it was picked after "
                        "all rows had been seen, and of several lines of 95 % one does that by "
                        "luck far more often than in 5 of 100 tables",
                    },
                ),
            )
        ],
        "what the runs carry, and no more.",
        hints=(
            "Look where each line of the picture begins and ends, not where its mean is.",
            "How many lines did you look at before you chose? Lesson 12 asked six tables at once.",
            "`student(1 - .05 / n, 2)` is the t beyond which one row counts when n rows are asked. "
            "Whose t is farthest from zero, and is that beyond the bound for all rows at once?",
        ),
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "What does ATSS take the place of in RetinaNet?",
        ("the two IoU thresholds", "focal loss", "the anchors"),
        "It chooses the positives. Loss, heads and anchors stay.",
    ),
    Question(
        "Two boxes do not touch. What does 1 - GIoU have there that 1 - IoU lacks?",
        ("a slope", "a smaller value", "a unit"),
        "1 - IoU is 1 wherever boxes are apart, so that nothing says in which direction to go.",
    ),
    Question(
        "torchvision's RetinaNet v2 gains 5.1 AP. Which of its changes brings how much?",
        (
            "nobody can tell from that number: several were made at once",
            "GIoU brings most",
            "each the same share",
        ),
        "One switch at a time, or no such claim.",
    ),
]
