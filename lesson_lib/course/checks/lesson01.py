"""Cases for lesson 1: formats, overlap, slips, offsets.

The expected values are worked out here by hand or in plain Python numbers, never by the function
that the learner writes.
"""

import math
import random

import torch
from torch import Tensor

from lesson_lib.boxes import xyxy_to_cxcywh, xyxy_to_xywh
from lesson_lib.course.checks import Case, Exercise
from lesson_lib.course.checks.lesson00 import Secret
from lesson_lib.course.review import Question


def _iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = width * height if width > 0 and height > 0 else 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def _pairs(why: str, a: list[list[float]], b: list[list[float]]) -> Case:
    expected = torch.tensor([[_iou(x, y) for y in b] for x in a]).reshape(len(a), len(b))
    return Case(why, (torch.tensor(a).reshape(-1, 4), torch.tensor(b).reshape(-1, 4)), expected)


def _random_boxes(count: int, seed: int) -> list[list[float]]:
    rng = random.Random(seed)
    corners = [(rng.uniform(0, 80), rng.uniform(0, 80)) for _ in range(count)]
    return [[x, y, x + rng.uniform(5, 60), y + rng.uniform(5, 60)] for x, y in corners]


def _drawn_pairs(draw: random.Random) -> Case:
    a, b = (_random_boxes(draw.randint(1, 9), seed=draw.randrange(10**6)) for _ in range(2))
    return _pairs(f"{len(a)} boxes against {len(b)}, drawn anew", a, b)


def _drawn_boxes(draw: random.Random) -> Case:
    rows = _random_boxes(draw.randint(2, 9), seed=draw.randrange(10**6))
    centred = [[(a + c) / 2, (b + d) / 2, c - a, d - b] for a, b, c, d in rows]
    why = f"{len(rows)} boxes, drawn anew"
    return Case(why, (torch.tensor(rows),), torch.tensor(centred))


def _drawn_slip(draw: random.Random) -> Case:
    return _slip(round(draw.uniform(10, 200), 1), round(draw.uniform(0.3, 0.9), 2))


def _drawn_offsets(draw: random.Random) -> Case:
    t = [draw.uniform(-2, 2) for _ in range(4)]
    d = [draw.uniform(20, 200) for _ in range(4)]
    v, w = round(draw.uniform(0.05, 1), 2), round(draw.uniform(0.05, 1), 2)
    box = [d[0] + v * t[0] * d[2], d[1] + v * t[1] * d[3]]
    box += [d[2] * math.exp(w * t[2]), d[3] * math.exp(w * t[3])]
    args = torch.tensor([t]), torch.tensor([d]), (v, w)
    why = f"an anchor and offsets drawn anew, variances {v} and {w}"
    return Case(why, args, torch.tensor([box]))


def three_files(boxes: Tensor) -> dict[str, Tensor]:
    """The boxes (N, 4) xyxy as three colleagues would have written them, for 01.which_format."""
    return {"A": xyxy_to_cxcywh(boxes), "B": boxes, "C": xyxy_to_xywh(boxes)}


def _fair(side: float, slip: float = 3.0) -> float:
    shared = (side - slip) ** 2
    iou = shared / (2 * side**2 - shared)
    return max((bar for bar in (0.5, 0.75) if iou >= bar), default=0.0)


SIDES = (10, 16, 24, 45, 90)


def _slip(side: float, overlap: float) -> Case:
    return Case(
        f"side {side} px, overlap {overlap}",
        (side, overlap),
        side - side * math.sqrt(2 * overlap / (1 + overlap)),
    )


EXERCISES = {
    "01.to_cxcywh": Exercise(
        [
            Case(
                "one box, shape (4,)",
                (torch.tensor([10.0, 20.0, 30.0, 60.0]),),
                torch.tensor([20.0, 40.0, 20.0, 40.0]),
            ),
            Case(
                "two boxes, shape (2, 4)",
                (torch.tensor([[0.0, 0.0, 8.0, 2.0], [-4.0, 5.0, 4.0, 9.0]]),),
                torch.tensor([[4.0, 1.0, 8.0, 2.0], [0.0, 7.0, 8.0, 4.0]]),
            ),
            Case(
                "a batch, shape (2, 1, 4)",
                (torch.tensor([[[1.0, 1.0, 2.0, 4.0]], [[0.0, 0.0, 1.0, 1.0]]]),),
                torch.tensor([[[1.5, 2.5, 1.0, 3.0]], [[0.5, 0.5, 1.0, 1.0]]]),
            ),
            Case("no box, shape (0, 4)", (torch.zeros(0, 4),), torch.zeros(0, 4)),
        ],
        "any shape in front of the 4 works.",
        fresh=_drawn_boxes,
        refused=("xyxy_to_cxcywh", "box_convert"),
        hints=(
            "Look at the third picture of section 1.2: from which of the four edges do you get "
            "the dot, and from which an arrow?",
            "`boxes.unbind(-1)` splits the last dimension into four tensors, whatever stands in "
            "front of it.",
            "The middle is the mean of two edges, a size is their difference; `torch.stack` "
            "along the last dimension puts four tensors back together.",
        ),
    ),
    "01.which_format": Exercise(
        [
            Case(
                "the formats of A, B and C",
                (),
                Secret(
                    "three of the names xyxy, xywh, cxcywh",
                    ("CXCYWH", "where on each cell does its first corner lie?"),
                    ("XYXY", "it was read as xyxy; does that picture look wrong?"),
                    ("XYWH", "where on each cell does its first corner lie?"),
                ),
            )
        ],
        "a glance at the picture tells what no error message ever would.",
        hints=(
            "Compare the solid boxes with the dashed ones: in one panel they are the same.",
            "Where the solid box is wrong, its first two numbers still mark a point. On what part "
            "of the true box does it lie?",
            "Two formats hold a width in the third place. They differ in what the first two "
            "numbers are.",
        ),
    ),
    "01.fair_bar": Exercise(
        [
            Case(
                f"sides of {', '.join(map(str, SIDES))} px, off by 3 px to the right and 3 down",
                (),
                Secret(
                    "five numbers, each 0, 0.5 or 0.75",
                    *((_fair(side), "work out its overlap after the slip") for side in SIDES),
                ),
            )
        ],
        "the bar is a decision about your annotators, too.",
        hints=(
            "Your function of exercise 3 answers it: how far may each kind slip for each bar?",
            "A bar is fair where the largest slip that it allows is 3 px or more.",
            "Call it for five sides and two bars, and make a table of ten numbers.",
        ),
    ),
    "01.largest_slip": Exercise(
        [
            Case("overlap 1 leaves no room", (50.0, 1.0), 0.0),
            _slip(100.0, 0.5),
            _slip(18.0, 0.5),
            _slip(50.0, 0.75),
        ],
        "half the overlap is gone after less than a fifth of the side, along a diagonal.",
        fresh=_drawn_slip,
        hints=(
            "Draw the two squares. Of what shape is the part that they share, and how long is "
            "its side?",
            "Write the overlap with the side of the shared square as the only unknown.",
            "Solve for the square of that side, take the root, and only then ask how far the box "
            "has slipped.",
        ),
    ),
    "01.decode": Exercise(
        [
            Case(
                "offsets of zero give the anchor",
                (torch.zeros(1, 4), torch.tensor([[50.0, 60.0, 20.0, 40.0]])),
                torch.tensor([[50.0, 60.0, 20.0, 40.0]]),
            ),
            Case(
                "a shift of 1 to the right",
                (torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[50.0, 60.0, 20.0, 40.0]])),
                torch.tensor([[52.0, 60.0, 20.0, 40.0]]),
            ),
            Case(
                "a shift of 1 down, on an anchor that is not square",
                (torch.tensor([[0.0, 1.0, 0.0, 0.0]]), torch.tensor([[50.0, 60.0, 20.0, 40.0]])),
                torch.tensor([[50.0, 64.0, 20.0, 40.0]]),
            ),
            Case(
                "twice as wide, half as high",
                (
                    torch.tensor([[0.0, 0.0, math.log(2) / 0.2, -math.log(2) / 0.2]]),
                    torch.tensor([[50.0, 60.0, 20.0, 40.0]]),
                ),
                torch.tensor([[50.0, 60.0, 40.0, 20.0]]),
            ),
            Case(
                "three anchors at once",
                (
                    torch.tensor(
                        [[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [-5.0, 0.0, 1.0, 1.0]]
                    ),
                    torch.tensor(
                        [[10.0, 10.0, 10.0, 10.0], [5.0, 5.0, 1.0, 2.0], [100.0, 50.0, 40.0, 30.0]]
                    ),
                ),
                torch.tensor(
                    [
                        [11.0, 12.0, 10.0, 10.0],
                        [5.0, 5.0, 1.0, 2.0],
                        [80.0, 50.0, 40.0 * math.exp(0.2), 30.0 * math.exp(0.2)],
                    ]
                ),
            ),
            Case(
                "variances (1, 1), RetinaNet's",
                (
                    torch.tensor([[0.5, 0.0, 0.0, math.log(2)]]),
                    torch.tensor([[50.0, 60.0, 20.0, 40.0]]),
                    (1.0, 1.0),
                ),
                torch.tensor([[60.0, 60.0, 20.0, 80.0]]),
            ),
        ],
        "a network's four numbers become a box. Once yours passes, lessons 8 and 9 decode with it.",
        fresh=_drawn_offsets,
        refused=("decode",),
        serves="decode",
        hints=(
            "What was done last when the offsets were made? Undo that first.",
            "The first two offsets are shares of the anchor's width and height, after the "
            "variances; the last two are logarithms.",
            "Work on the columns `[:, :2]` and `[:, 2:]` apart and join them with `torch.cat`.",
        ),
    ),
    "01.pairwise_iou": Exercise(
        [
            _pairs("a box with itself", [[0.0, 0.0, 10.0, 10.0]], [[0.0, 0.0, 10.0, 10.0]]),
            _pairs("slipped by half", [[0.0, 0.0, 10.0, 10.0]], [[5.0, 0.0, 15.0, 10.0]]),
            _pairs(
                "boxes that lie apart in both directions",
                [[0.0, 0.0, 10.0, 10.0]],
                [[13.0, 13.0, 23.0, 23.0]],
            ),
            _pairs("boxes that only touch", [[0.0, 0.0, 10.0, 10.0]], [[10.0, 0.0, 20.0, 10.0]]),
            _pairs("a box inside another", [[0.0, 0.0, 10.0, 10.0]], [[2.0, 2.0, 7.0, 7.0]]),
            _pairs(
                "two boxes of zero area in the same place",
                [[5.0, 5.0, 5.0, 5.0]],
                [[5.0, 5.0, 5.0, 5.0]],
            ),
            _pairs("no boxes on the left", [], [[0.0, 0.0, 1.0, 1.0]]),
            _pairs("three boxes against five", _random_boxes(3, seed=1), _random_boxes(5, seed=2)),
            _pairs("forty against sixty", _random_boxes(40, seed=3), _random_boxes(60, seed=4)),
        ],
        "once yours passes, the playground of section 1.3 runs on it; lessons 3 and 6 use the "
        "library's, which gives the same numbers.",
        fresh=_drawn_pairs,
        refused=("pairwise_iou", "box_iou", "pairwise_intersection"),
        serves="pairwise_iou",
        hints=(
            "The shared part starts at the larger left edge and ends at the smaller right edge; "
            "the same for top and bottom. All pairs at once: `a[:, None]` has shape (N, 1, 4).",
            "A side of the shared part that is below zero means: nothing shared. Say so before "
            "you multiply.",
            "What if both areas are zero? Decide what is returned there, with `torch.where` or a "
            "smallest divisor.",
        ),
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "Two squares of side 10 overlap in a strip of 5 by 10. What is their IoU?",
        ("1/3", "1/2", "1/4"),
        "50 shared, 150 in the union: half the area shared is a third of the union.",
    ),
    Question(
        "A box slips along its diagonal until its IoU is .5. About how far, of its side?",
        ("18 %", "50 %", "33 %"),
        "1 - sqrt(2/3): overlap falls in both directions at once.",
    ),
    Question(
        "What is the width of an xyxy box with x1 = 3 and x2 = 7 here?",
        ("4", "5", "it depends on the picture"),
        "Coordinates are continuous: no + 1. VOC's files count pixels and say 5.",
    ),
    Question(
        "Why does SSD encode width and height as logarithms?",
        (
            "so that twice as wide and half as wide are equally far from 0",
            "so that they lie between 0 and 1",
            "because pixels are whole numbers",
        ),
        "log 2 = -log .5; and a decoded size is never negative.",
    ),
    Question(
        "What are the variances .1 and .2?",
        (
            "numbers by which the offsets are divided, in the code and not in the paper",
            "the spread of the boxes, measured on VOC",
            "weights of the loss, printed in the paper",
        ),
        "They bring the offsets to a spread near 1. Training and decoding must use the same.",
    ),
]
