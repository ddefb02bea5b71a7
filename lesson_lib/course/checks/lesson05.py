"""Cases for lesson 5: the loss of background, ranks, the ratio that a loss implies, mining.

The expected values are worked out with plain Python's sorting and numbers.
"""

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lesson_lib.course.checks import Case, Exercise
from lesson_lib.course.review import Question


class _Sorts(TorchDispatchMode):
    """Counts what is sorted while it is active."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += "sort" in str(function)
        return function(*args, **(kwargs or {}))


def one_sort(answer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same function, with an error where it sorts more than once."""

    def watched(*args):
        with _Sorts() as sorts:
            result = answer(*args)
        if sorts.count > 1:
            raise ValueError(f"right or not, it sorted {sorts.count} times, and once is enough")
        return result

    return watched


def _background_loss(why: str, logits: list) -> Case:
    def of(row):
        top = max(row)
        return top + math.log(sum(math.exp(x - top) for x in row)) - row[0]

    return Case(
        why,
        (torch.tensor(logits),),
        torch.tensor([[of(row) for row in picture] for picture in logits]),
    )


def _order(loss: list[float]) -> list[int]:
    return sorted(range(len(loss)), key=lambda a: (-loss[a], a))


def _ranks(why: str, loss: list[list[float]]) -> Case:
    ranks = [[_order(row).index(a) for a in range(len(row))] for row in loss]
    return Case(why, (torch.tensor(loss),), torch.tensor(ranks).reshape(len(loss), -1))


def _implied(why: str, pull: list[float], state: list[int], share: float) -> Case:
    background = sorted((p for p, s in zip(pull, state) if s == 0), reverse=True)
    needed = next(
        n for n in range(len(background) + 1) if sum(background[:n]) >= share * sum(background)
    )
    label = torch.tensor(state)
    return Case(
        why,
        (torch.tensor(pull), label == 1, label == 0, share),
        needed / sum(s == 1 for s in state),
    )


def _mined(
    why: str, loss: list[list[float]], state: list[list[int]], ratio: float, least: int = 0
) -> Case:
    masks = []
    for row, states in zip(loss, state):
        order = [a for a in _order(row) if states[a] == 0]
        chosen = set(order[: max(math.floor(ratio * states.count(1)), least)])
        masks.append([a in chosen for a in range(len(row))])
    label = torch.tensor(state)
    return Case(
        why, (torch.tensor(loss), label == 1, label == 0, ratio, least), torch.tensor(masks)
    )


_rng = random.Random(5)
_MANY = (
    [[float(_rng.randrange(12)) for _ in range(60)] for _ in range(4)],
    [[_rng.choice([0, 0, 0, 0, 0, 1, -1]) for _ in range(60)] for _ in range(3)] + [[0] * 60],
)

EXERCISES = {
    "05.background_loss": Exercise(
        [
            _background_loss("two equal logits", [[[0.0, 0.0]]]),
            _background_loss(
                "sure of the background, sure of a class", [[[5.0, 0.0, 0.0], [0.0, 5.0, 0.0]]]
            ),
            _background_loss(
                "two pictures, shape (2, 1, 3)", [[[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]]]
            ),
            _background_loss("logits of +-100", [[[-100.0, 100.0, 0.0], [100.0, -100.0, 0.0]]]),
        ],
        "this number decides who is mined.",
    ),
    "05.ranks": Exercise(
        [
            _ranks("falling already", [[3.0, 2.0, 1.0]]),
            _ranks("rising", [[1.0, 2.0, 3.0]]),
            _ranks("a list that is not its own inverse", [[0.2, 0.9, 0.1, 0.5]]),
            _ranks("equal losses: the first anchor first", [[1.0, 2.0, 1.0, 2.0]]),
            _ranks(
                "many equal losses: the first anchor first",
                [[float(_rng.randrange(9)) for _ in range(40)] for _ in range(3)],
            ),
        ],
        "the second sort was only the inverse of a list.",
    ),
    "05.implied_ratio": Exercise(
        [
            _implied(
                "one object, equal background", [9.0, 1.0, 1.0, 1.0, 1.0], [1, 0, 0, 0, 0], 0.5
            ),
            _implied("one hard anchor carries it all", [1.0, 100.0, 0.1, 0.1], [1, 0, 0, 0], 0.9),
            _implied("two objects", [1.0, 1.0, 4.0, 3.0, 2.0, 1.0], [1, 1, 0, 0, 0, 0], 0.6),
            _implied(
                "ignored anchors do not count", [1.0, 50.0, 3.0, 2.0, 2.0], [1, -1, 0, 0, 0], 0.7
            ),
            _implied(
                "a hundred anchors",
                [_rng.random() ** 4 for _ in range(100)],
                [1] * 4 + [0] * 96,
                0.9,
            ),
        ],
        "now you can ask any loss what ratio it stands for.",
    ),
    "05.mine": Exercise(
        [
            _mined(
                "one object, three to one",
                [[9.0, 1.0, 5.0, 2.0, 4.0, 3.0]],
                [[1, 0, 0, 0, 0, 0]],
                3,
            ),
            _mined(
                "each picture by itself",
                [[9.0, 8.0, 7.0, 6.0], [9.0, 1.0, 3.0, 2.0]],
                [[0, 0, 0, 1], [1, 0, 0, 0]],
                1,
            ),
            _mined(
                "ignored anchors are no candidates",
                [[9.0, 8.0, 7.0, 6.0, 1.0]],
                [[1, -1, -1, 0, 0]],
                1,
            ),
            _mined("a ratio of 1.5 is rounded down", [[9.0, 3.0, 2.0, 1.0]], [[1, 0, 0, 0]], 1.5),
            _mined("more wanted than there are", [[9.0, 8.0, 3.0]], [[1, 1, 0]], 3),
            _mined(
                "equal losses: the first anchor first",
                [[9.0, 1.0, 2.0, 1.0, 1.0]],
                [[1, 0, 0, 0, 0]],
                2,
            ),
            _mined("a picture without objects", [[3.0, 2.0, 1.0]], [[0, 0, 0]], 3),
            _mined("a picture without objects, at least 2", [[3.0, 1.0, 2.0]], [[0, 0, 0]], 3, 2),
            _mined("four pictures, 60 anchors, many equal losses", *_MANY, 3),
            _mined("the same, at least 5 and a ratio of .5", *_MANY, 0.5, 5),
        ],
        "that is SSD's hard negative mining, with every corner.",
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "Which negatives does SSD keep for its loss?",
        (
            "those with the highest confidence loss, at most three for each positive",
            "a random choice of three for each positive",
            "all with an overlap below .5",
        ),
        "The ones that it is most wrong about.",
    ),
    Question(
        "What does a picture without objects teach SSD?",
        (
            "nothing: no positive, so no negative is mined",
            "that all is background",
            "three negatives",
        ),
        "RetinaNet's focal loss still learns from it.",
    ),
    Question(
        "What does the argsort of an argsort give?",
        ("the rank of each entry", "the sorted entries", "the order once more, unchanged"),
        "The first says who stands at each place, the second at which place each one stands.",
    ),
    Question(
        "By what does SSD divide its loss?",
        (
            "by the number of matched boxes",
            "by the number of boxes in the loss",
            "by the number of pictures",
        ),
        "N counts the matched boxes; the mined negatives are in the sum but not in N.",
    ),
    Question(
        "May losses of two detectors be compared to say which is better?",
        (
            "no: other losses count other things",
            "yes, if both are divided by N",
            "yes, after the same number of steps",
        ),
        "Compare AP. Even the same detector's AP can rise while its loss does.",
    ),
]
