"""Cases for lesson 10: a schedule with warm-up and drops, boxes on a larger canvas, SSD's crop.

Expected values are worked out here in plain Python numbers."""

import random

import torch

from lesson_lib.course.checks import Case, Exercise
from lesson_lib.course.review import Question


def _rate(why: str, step: int, steps: int, lr: float, warmup: int, drops: list[int]) -> Case:
    expected = (
        lr * (step + 1) / (warmup + 1)
        if step < warmup
        else lr * 0.1 ** len([d for d in drops if d <= step])
    )
    name = f"{why}: step {step} of {steps}, warm-up {warmup}, drops at {drops}"
    return Case(name, (step, lr, warmup, drops), expected)


def _crop(why: str, boxes: list[list[float]], labels: list[int], patch: list[float]) -> Case:
    kept = [
        (box, label)
        for box, label in zip(boxes, labels)
        if patch[0] < (box[0] + box[2]) / 2 < patch[2]
        and patch[1] < (box[1] + box[3]) / 2 < patch[3]
    ]
    cut = [
        [
            max(b[0], patch[0]) - patch[0],
            max(b[1], patch[1]) - patch[1],
            min(b[2], patch[2]) - patch[0],
            min(b[3], patch[3]) - patch[1],
        ]
        for b, _ in kept
    ]
    return Case(
        why,
        (
            torch.tensor(boxes).reshape(-1, 4),
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor(patch),
        ),
        (
            torch.tensor(cut).reshape(-1, 4),
            torch.tensor([label for _, label in kept], dtype=torch.int64),
        ),
    )


def _random_crop(seed: int) -> Case:
    rng = random.Random(seed)
    corners = [(rng.uniform(0, 90), rng.uniform(0, 90)) for _ in range(30)]
    boxes = [[x, y, x + rng.uniform(4, 50), y + rng.uniform(4, 50)] for x, y in corners]
    labels = [rng.randrange(3) for _ in boxes]
    return _crop("thirty boxes, a patch in the middle", boxes, labels, [31.0, 22.0, 97.0, 84.0])


EXERCISES = {
    "10.learning_rate": Exercise(
        [
            _rate("no warm-up, before the first drop", 0, 120, 1e-3, 0, [80, 100]),
            _rate("the step of the first drop itself is dropped", 80, 120, 1e-3, 0, [80, 100]),
            _rate("after both drops", 119, 120, 1e-3, 0, [80, 100]),
            _rate("the first step of a warm-up is not 0", 0, 120, 0.01, 9, [80]),
            _rate("the last step of a warm-up", 8, 120, 0.01, 9, [80]),
            _rate("right after the warm-up", 9, 120, 0.01, 9, [80]),
            _rate("a warm-up does not move the drops", 80, 120, 0.01, 9, [80]),
            _rate("no drops at all", 70, 120, 0.02, 4, []),
        ],
        "both papers' schedules are this function.",
        tolerance=1e-9,
    ),
    "10.zoom_out": Exercise(
        [
            Case(
                "on a canvas twice as large, in its top left corner",
                (torch.tensor([[10.0, 20.0, 30.0, 60.0]]), 100, 2.0, 0.0, 0.0),
                torch.tensor([[5.0, 10.0, 15.0, 30.0]]),
            ),
            Case(
                "in its bottom right corner",
                (torch.tensor([[10.0, 20.0, 30.0, 60.0]]), 100, 2.0, 100.0, 100.0),
                torch.tensor([[55.0, 60.0, 65.0, 80.0]]),
            ),
            Case(
                "four times as large, moved by 40 and 8 px of the canvas",
                (
                    torch.tensor([[0.0, 0.0, 100.0, 100.0], [50.0, 0.0, 70.0, 12.0]]),
                    100,
                    4.0,
                    40.0,
                    8.0,
                ),
                torch.tensor([[10.0, 2.0, 35.0, 27.0], [22.5, 2.0, 27.5, 5.0]]),
            ),
            Case(
                "a factor of 1 changes nothing",
                (torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 64, 1.0, 0.0, 0.0),
                torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
            ),
            Case("no box", (torch.zeros(0, 4), 300, 3.0, 10.0, 20.0), torch.zeros(0, 4)),
        ],
        "a cell on the largest canvas has a sixteenth of its area.",
    ),
    "10.crop": Exercise(
        [
            _crop(
                "a box inside the patch moves",
                [[30.0, 30.0, 50.0, 60.0]],
                [1],
                [20.0, 10.0, 90.0, 90.0],
            ),
            _crop(
                "a box whose centre is outside goes, though it reaches in",
                [[0.0, 30.0, 30.0, 60.0]],
                [0],
                [20.0, 10.0, 90.0, 90.0],
            ),
            _crop(
                "a box whose centre is inside is cut at the border",
                [[10.0, 30.0, 50.0, 60.0]],
                [2],
                [20.0, 10.0, 90.0, 90.0],
            ),
            _crop(
                "labels go with their boxes",
                [[0.0, 0.0, 8.0, 8.0], [40.0, 40.0, 60.0, 60.0], [85.0, 85.0, 99.0, 99.0]],
                [0, 1, 2],
                [20.0, 20.0, 95.0, 95.0],
            ),
            _crop(
                "a box larger than the patch",
                [[0.0, 0.0, 100.0, 100.0]],
                [1],
                [30.0, 30.0, 70.0, 80.0],
            ),
            _crop("no box is left", [[0.0, 0.0, 10.0, 10.0]], [0], [50.0, 50.0, 90.0, 90.0]),
            _crop("no box to begin with", [], [], [50.0, 50.0, 90.0, 90.0]),
            _random_crop(seed=5),
        ],
        "SSD's rule: centre inside, then cut.",
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "How much mAP does SSD's augmentation buy, by its Table 2?",
        ("8.8 points", "2 points", "20 points"),
        "65.5 to 74.3; zoom-out adds 2.9 more.",
    ),
    Question(
        (
            "A training was killed. What must a checkpoint hold so that it goes on as if nothing "
            "had happened?"
        ),
        (
            "weights, the optimizer's state, the step, and what fixes the pictures' order",
            "the weights",
            "weights and learning rate",
        ),
        "Momentum is lost otherwise, and pictures are seen twice.",
    ),
    Question(
        "Why does training begin with a small learning rate?",
        (
            "the first gradients are large and their averages are not settled",
            "to save time",
            "because batch norm needs it",
        ),
        "A short rise costs little; starting at the full rate can end in NaN.",
    ),
    Question(
        "When does the SSD recipe for VOC 07+12 drop its rate, of 120,000 steps?",
        ("at 80,000 and 100,000", "at 60,000 and 90,000", "never"),
        "The release's schedule; the paper's is 40k + 10k + 10k for VOC07, doubled with zoom-out.",
    ),
    Question(
        "The loss falls and AP stays 0. Where do you look first?",
        ("at decoding and evaluation", "at the learning rate", "at the augmentation"),
        "What the loss sees is right; something after it is not.",
    ),
]
