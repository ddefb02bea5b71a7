"""Cases for lesson 12: what becomes of a paper's order, how many seeds decide, among how many
questions a difference decides, the museum, boxes that follow.

Expected values are worked out in plain Python; shares of Student's t by its closed forms.
"""

import math
import random
import statistics
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lesson_lib.course import museum
from lesson_lib.course.checks import Case, Choice, Exercise
from lesson_lib.course.review import Question

Pair = tuple[Tensor, Tensor]


#: What each bug shows, so that a learner can see that an exhibit does not.
SIGNS = {
    "ratio flipped": "then names and middles would be right, with the healthy curve, and some "
    "boxes stretched, tall or wide.",
    "offsets without variance at inference": "then boxes of all sizes would be thrown about, "
    "with the healthy curve, and none would stand where its cell is.",
    "off-by-one background": "then sure boxes would stand where nothing is, and the boxes on the "
    "cells have each other's names.",
    "unclipped log": "then the loss would jump each time one picture comes round, and else be the "
    "healthy one's.",
    "ignore band counted as negative": "only a RetinaNet has that band; it would ignore nothing.",
    "normaliser by anchors": "then the first loss would be far below the healthy one's.",
    "augmentation that forgets the boxes": "then the loss would rise above the healthy one's and "
    "stay there.",
    "NMS across classes": "then no place would have boxes of two classes.",
}


def _t(a: list[float], b: list[float]) -> float:
    spread = statistics.variance(a) / len(a) + statistics.variance(b) / len(b)
    return (sum(b) / len(b) - sum(a) / len(a)) / math.sqrt(spread)


def _held(why: str, a: list[float], b: list[float], bound: float) -> Case:
    t = _t(a, b)
    word = "holds" if t > bound else "is turned round" if t < -bound else "cannot be said"
    return Case(why, (a, b, bound), word)


def _fresh_held(draw: random.Random) -> Case:
    """Two settings drawn anew, and a bound a tenth beside their t."""
    a, b = ([round(draw.uniform(20, 30), 1) for _ in range(draw.randint(2, 5))] for _ in "ab")
    bound = round(max(0.2, abs(_t(a, b)) * draw.choice([0.9, 1.1])), 2)
    return _held(f"two settings drawn anew, t {_t(a, b):.2f}", a, b, bound)


def _questions(differences: list[float]) -> float:
    """How often the share of draws beyond this t, of three or five seeds, goes into 5 in 100."""
    n = len(differences)
    t = abs(statistics.fmean(differences)) / statistics.stdev(differences) * math.sqrt(n)
    sine, square = t / math.sqrt(t * t + n - 1), (n - 1) / (t * t + n - 1)
    within = {3: sine, 5: sine * (1 + square / 2)}[n]
    return 0.05 / (1 - within)


def _fresh_how_many(draw: random.Random) -> Case:
    """Differences drawn until they lie well between two numbers of questions."""
    while True:
        n, middle = draw.choice([3, 5]), draw.choice([-1, 1]) * draw.uniform(1, 6)
        differences = [round(middle + draw.uniform(-1, 1), 1) for _ in range(n)]
        if len(set(differences)) > 1 and _questions(differences) < 12:
            questions = _questions(differences)
            if 0.2 < questions % 1 < 0.8:
                return Case(f"{n} seeds, drawn anew", (differences,), int(questions))


def _seeds(why: str, gain: float, noise: float, sure: float, expected: int) -> Case:
    return Case(why, (gain, noise, sure), expected)


def _fresh_seeds(draw: random.Random) -> Case:
    """Counted up from two seeds, by the probability itself."""
    gain, noise = draw.choice([0.4, 0.7, 1.1, 2.3]), draw.choice([0.5, 0.9, 1.6])
    sure = draw.choice([0.8, 0.9, 0.97])
    normal, n = statistics.NormalDist(), 2
    while normal.cdf(gain / (noise * math.sqrt(2 / n)) - normal.inv_cdf(0.975)) < sure:
        n += 1
    return _seeds(f"a gain of {gain}, noise {noise}, sure at {sure}", gain, noise, sure, n)


# ---- augmentations, right and wrong: image (3, H, W) uint8, boxes (N, 4) xyxy -> both, changed
# -----------


def _nothing(image: Tensor, boxes: Tensor) -> Pair:
    return image, boxes


def _mirror(image: Tensor, boxes: Tensor, width: int | None = None) -> Pair:
    x1, y1, x2, y2 = boxes.unbind(1)
    width = image.shape[2] if width is None else width
    return image.flip(2), torch.stack((width - x2, y1, width - x1, y2), 1)


def _forgets(image: Tensor, boxes: Tensor) -> Pair:
    return image.flip(2), boxes


def _boxes_only(image: Tensor, boxes: Tensor) -> Pair:
    return image, _mirror(image, boxes)[1]


def _by_height(image: Tensor, boxes: Tensor) -> Pair:
    return _mirror(image, boxes, image.shape[1])


def _counts_pixels(image: Tensor, boxes: Tensor) -> Pair:
    return _mirror(image, boxes, image.shape[2] - 1)


def _upside_forgotten(image: Tensor, boxes: Tensor) -> Pair:
    return image.flip(1), boxes


def _corners_crossed(image: Tensor, boxes: Tensor) -> Pair:
    return image.flip(2), _mirror(image, boxes)[1][:, [2, 1, 0, 3]]


def _transpose(image: Tensor, boxes: Tensor) -> Pair:
    return image.transpose(1, 2), boxes[:, [1, 0, 3, 2]]


def _half(image: Tensor, boxes: Tensor) -> Pair:
    return image[:, ::2, ::2], boxes / 2


def _half_forgotten(image: Tensor, boxes: Tensor) -> Pair:
    return image[:, ::2, ::2], boxes


def _darker(image: Tensor, boxes: Tensor) -> Pair:
    return image // 2, boxes


def _boxes_shrunk(image: Tensor, boxes: Tensor) -> Pair:
    middle = (boxes + boxes[:, [2, 3, 0, 1]]) / 2
    return image, (boxes + middle) / 2


def _boxes_grown(image: Tensor, boxes: Tensor) -> Pair:
    return image, boxes + torch.tensor([-2.0, -2.0, 2.0, 2.0])


@dataclass
class _OneSide:
    """Moves one of a box's four sides by three pixels."""

    side: int

    def __call__(self, image: Tensor, boxes: Tensor) -> Pair:
        moved = boxes.clone()
        moved[:, self.side] += 3
        return image, moved


def _nearly(image: Tensor, boxes: Tensor) -> Pair:
    return image, boxes + torch.tensor([0.4, -0.4, 0.4, -0.4])


def _too_far(image: Tensor, boxes: Tensor) -> Pair:
    return image, boxes + torch.tensor([0.7, 0.0, 0.7, 0.0])


def _canvas(image: Tensor, boxes: Tensor) -> Pair:
    canvas = torch.full((3, image.shape[1] + 20, image.shape[2] + 30), 117, dtype=torch.uint8)
    canvas[:, 12 : 12 + image.shape[1], 7 : 7 + image.shape[2]] = image
    return canvas, boxes + torch.tensor([7.0, 12.0, 7.0, 12.0])


def _canvas_swapped(image: Tensor, boxes: Tensor) -> Pair:
    return _canvas(image, boxes)[0], boxes + torch.tensor([12.0, 7.0, 12.0, 7.0])


@dataclass
class _Sometimes:
    """Mirrors the picture at every n-th call, and then the boxes too, or not."""

    every: int
    with_boxes: bool
    calls: int = field(default=0, compare=False)

    def __call__(self, image: Tensor, boxes: Tensor) -> Pair:
        self.calls += 1
        if self.calls % self.every:
            return image, boxes
        return (_mirror if self.with_boxes else _forgets)(image, boxes)


LETTERS = "ABCDEFGH"
EXERCISES = {
    "12.held": Exercise(
        [
            _held(
                "the second is behind, t -1.81, bound 1.6",
                [20.0, 24.0, 22.0],
                [21.0, 19.0, 18.5],
                1.6,
            ),
            _held("t 1.22, bound 1.2", [30.0, 31.0, 32.0], [31.0, 32.0, 33.0], 1.2),
            _held("t 1.22, bound 1.4", [30.0, 31.0, 32.0], [31.0, 32.0, 33.0], 1.4),
            _held("behind, t -1.22, bound 1.4", [31.0, 32.0, 33.0], [30.0, 31.0, 32.0], 1.4),
            _held(
                "three seeds against five, t 5.91, bound 5.8",
                [10.0, 12.0, 11.0],
                [15.0, 14.0, 15.5, 14.5, 16.0],
                5.8,
            ),
            _held(
                "five seeds against three, t -5.91, bound 5.8",
                [15.0, 14.0, 15.5, 14.5, 16.0],
                [10.0, 12.0, 11.0],
                5.8,
            ),
            _held("the same mean", [1.0, 3.0], [0.0, 4.0], 0.5),
            _held(
                "five steady seeds against three that scatter, t 1.92, bound 2.1",
                [20.0, 20.2, 19.8, 20.1, 19.9],
                [20.0, 27.0, 25.0],
                2.1,
            ),
        ],
        "with three seeds a side that scatter alike, luck alone is beyond 2.8 in 5 of 100.",
        fresh=_fresh_held,
        refused=("held", "unpaired_t"),
        hints=(
            "Two means and two variances, one fraction, and then three words for three stretches "
            "of the number line.",
            "Which mean comes first? And `statistics` has two variances: which of them divides by "
            "n - 1?",
            "Below the root each variance is divided by its own number of seeds; each side stands "
            "by itself.",
        ),
        serves="held",
    ),
    "12.seeds_needed": Exercise(
        [  # by hand: 1.960 + 1.645 = 3.605 at .95, and n = 2 (3.605 s / d)^2 = 25.99 (s / d)^2
            _seeds("even odds: only the 1.96 counts", 1.0, 1.0, 0.5, 8),  # 2 * 1.96^2 = 7.68
            _seeds("a gain as large as the noise, 19 of 20", 1.0, 1.0, 0.95, 26),
            _seeds("half the gain: four times as many", 0.5, 1.0, 0.95, 104),
            _seeds("twice the gain", 2.0, 1.0, 0.95, 7),
            _seeds("4 of 5 is enough", 1.0, 1.0, 0.8, 16),
            _seeds("more noise", 1.0, 1.3, 0.95, 44),
            _seeds("a gain of nine times the noise", 9.0, 1.0, 0.95, 2),
        ],
        "you know before the first run whether you can afford the answer.",
        fresh=_fresh_seeds,
        hints=(
            "Draw the difference of the two means as a bell. Where is its middle, and how wide is "
            "it with n seeds a side?",
            "Mark the bound at 1.96 widths. How many widths above it must the middle lie, so that "
            "the share `sure` of the bell is beyond it?",
            "The gain is as long as both stretches together, and a width shrinks with the root of "
            "n. Round up, never down; and not below 2.",
        ),
    ),
    "12.how_many": Exercise(
        [  # by hand: t = mean / s * sqrt(n); the share beyond it goes so often into 5 in 100
            Case("all three above zero, not far", ([2.2, 3.7, 1.5],), 0),
            Case("all three far above zero", ([3.3, 4.4, 3.6],), 6),
            Case("all three below zero", ([-4.5, -3.5, -2.5],), 1),
            Case("five seeds", ([0.5, 2.5, 1.5, 3.5, 2.0],), 3),
            Case("three seeds, further below zero", ([-6.3, -5.6, -4.5],), 5),
            Case("still further below", ([-10.5, -8.8, -8.5],), 11),
            Case("more than 20 would not undo it", ([12.0, 12.4, 12.2],), 20),
        ],
        "the more you ask, the more each answer must show.",
        fresh=_fresh_how_many,
        hints=(
            "Begin with one question: does the interval, from mean minus half to mean plus half, "
            "leave out zero? Both signs count.",
            "Then ask for one question more: the interval grows. The last number at which it "
            "leaves out zero is the answer.",
            "If 5 in 100 may err in all, how many may each of q questions? And how many "
            "seeds there are, the list itself says.",
        ),
    ),
    "12.museum": Exercise(
        [
            Case(f"exhibit {letter}", (letter,), Choice(museum.bug_of(letter), SIGNS))
            for letter in LETTERS
        ],
        "all eight. You would have found them at work, too.",
        hints=(
            "Four exhibits have the healthy one's loss to the last digit: nothing was trained "
            "otherwise, the bug is at inference. Which four names are at inference?",
            "Of the trained four: one first loss is far below the healthy one; one RetinaNet "
            "ignores nothing; one curve jumps when one picture comes round, once in steps 1 to 4, "
            "once in 5 to 8, once in 9 to 12; one SSD stays above, because half of what it is told "
            "is wrong.",
            "Of the others one has no place with two classes. In the last three: are the names "
            "wrong, are the places wrong, or are some boxes only stretched, tall or wide?",
        ),
    ),
    "12.boxes_follow": Exercise(
        [
            Case("a step that changes nothing", (_nothing,), True),
            Case("a correct mirror", (_mirror,), True),
            Case("a mirror that forgets the boxes", (_forgets,), False),
            Case("boxes mirrored, picture not", (_boxes_only,), False),
            Case("a mirror that takes the height for the width", (_by_height,), False),
            Case("upside down, boxes forgotten", (_upside_forgotten,), False),
            Case("a mirror with W - 1 - x, as if boxes counted pixels", (_counts_pixels,), False),
            Case("a mirror that leaves x1 > x2", (_corners_crossed,), False),
            Case("a correct transposition", (_transpose,), True),
            Case("half the size, correct", (_half,), True),
            Case("half the size, boxes forgotten", (_half_forgotten,), False),
            Case("boxes of half the size, in the middle of their objects", (_boxes_shrunk,), False),
            Case("boxes grown by two pixels, their objects well inside", (_boxes_grown,), False),
            Case("left sides three pixels off", (_OneSide(0),), False),
            Case("upper sides three pixels off", (_OneSide(1),), False),
            Case("right sides three pixels off", (_OneSide(2),), False),
            Case("lower sides three pixels off", (_OneSide(3),), False),
            Case("boxes .4 of a pixel off, as rounding leaves them", (_nearly,), True),
            Case("boxes .7 of a pixel off, to the right", (_too_far,), False),
            Case("only darker", (_darker,), True),
            Case("a grey canvas around it, correct", (_canvas,), True),
            Case("a grey canvas, x and y exchanged", (_canvas_swapped,), False),
            Case("every second picture mirrored, its boxes too", (_Sometimes(2, True),), True),
            Case(
                "exhibit A: every second picture mirrored, its boxes not",
                (_Sometimes(2, False),),
                False,
            ),
            Case("every third picture mirrored, its boxes not", (_Sometimes(3, False),), False),
            Case(
                "heads for the first time at the twentieth call, its boxes forgotten",
                (_Sometimes(20, False),),
                False,
            ),
        ],
        "a mirror of every other picture, drawn by lot, slips through twenty calls once in a "
        "million.",
        hints=(
            "You choose the picture: take one in which you can see, by looking at pixels, where "
            "the object went.",
            "A black picture with one white rectangle, neither of them square, the rectangle not "
            "in the middle: in a symmetric picture a wrong mirror looks right.",
            "Rows and columns of the pixels brighter than three quarters of the brightest give "
            "the true box: from the first white column to the last one plus 1. And one good answer "
            "of an augmentation that draws lots says little: ask it twenty times.",
        ),
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "Two settings differ by .6 AP, one seed each. What is known?",
        ("little: seeds alone differ by as much", "the better one wins", "the worse one has a bug"),
        "Pair the seeds, and show an interval.",
    ),
    Question(
        "What do SSD's 65.5 in Table 2 leave out?",
        ("more data augmentation; the mirror most likely stays", "all augmentation", "zoom-out"),
        "Section 3.2 says that others use the original picture and its flip.",
    ),
    Question(
        "In which table of the focal loss paper does alpha = .75 win?",
        ("1a: cross entropy", "1b at gamma 2", "1c"),
        "31.1 AP; with gamma = 2 it is .25.",
    ),
    Question(
        (
            "A detector trains without an error, and its boxes exaggerate: the large come out too "
            "large, the small too small. A likely bug?"
        ),
        ("offsets coded and decoded with different variances", "wrong learning rate", "no mining"),
        "Nothing stops with an error, and the loss cannot see it.",
    ),
    Question(
        "Which set of anchors was best in FL's Table 1c?",
        ("2 scales x 3 ratios, 34.2", "3 x 3, 34.0", "4 x 3, 33.8"),
        "They differ by .4, and the paper gives no seeds; it uses 3 x 3.",
    ),
]
