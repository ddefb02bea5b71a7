"""What is right in lesson 13; every expected value was worked out on paper."""

import torch

from lesson_lib.course.checks import Case, Exercise
from lesson_lib.course.review import Question

INSIDE, EDGE = [10, 20, 30, 60], [100, 90, 140, 130]
FRAMES = [
    "tank_7",
    "pool_1",
    "pool_2",
    "tank_8",
    "reef_3",
    "pool_3",
    "lake_5",
]  # groups: lake, pool, reef, tank
FOUND = (
    torch.tensor([[10.0, 20.0, 40.0, 30.0], [0.0, 0.0, 8.0, 16.0], [5.0, 5.0, 6.5, 9.0]]),
    torch.tensor([0.5, 0.875, 0.25]),
    torch.tensor([2, 0, 1]),
)  # boxes xyxy, scores, labels
SECOND, FIRST, THIRD = (
    [7, 90, 10, 20, 30, 10, 0.5],
    [7, 1, 0, 0, 8, 16, 0.875],
    [7, 3, 5, 5, 1.5, 4, 0.25],
)

EXERCISES = {
    "13.repair": Exercise(
        [
            Case("a box inside the picture", (INSIDE, 120, 110), INSIDE),
            Case("a box across the lower right corner", (EDGE, 120, 110), [100, 90, 120, 110]),
            Case(
                "a box across the upper left corner", ([-5, -8, 30, 40], 120, 110), [0, 0, 30, 40]
            ),
            Case("a box beside the picture", ([130, 20, 150, 60], 120, 110), []),
            Case("a box above the picture", ([10, -30, 50, -2], 120, 110), []),
            Case("a box without width", ([50, 20, 50, 60], 120, 110), []),
            Case("corners that fall", ([60, 20, 40, 50], 120, 110), []),
            Case("a box that only touches the border", ([120, 20, 150, 60], 120, 110), []),
        ],
        "cut where it leaves the picture, left out where nothing is left.",
    ),
    "13.validation": Exercise(
        [
            Case("one group, every second", (["a_1", "a_2", "a_3"], 2), [True, True, True]),
            Case(
                "four groups, every second",
                (FRAMES, 2),
                [False, False, False, False, True, False, True],
            ),
            Case(
                "four groups, every third",
                (FRAMES, 3),
                [True, False, False, True, False, False, True],
            ),
            Case(
                "a name with two underscores",
                (["big_tank_1", "big_pond_9", "big_tank_2"], 2),
                [False, True, False],
            ),
            Case("no pictures", ([], 3), []),
        ],
        "frames of one video never stand on both sides.",
    ),
    "13.input_side": Exercise(
        [
            Case("every object", ([10.0, 20.0, 40.0, 80.0], 640, 32, 1.0), 1472),
            Case("three of four", ([10.0, 20.0, 40.0, 80.0], 640, 32, 0.75), 736),
            Case("half, given in any order", ([80.0, 10.0, 40.0, 20.0], 640, 32, 0.5), 384),
            Case("a smaller anchor", ([20.0, 30.0], 512, 16, 1.0), 320),
            Case("large objects", ([300.0, 400.0], 512, 16, 1.0), 32),
        ],
        "you know what the pictures must be enlarged to before you train.",
    ),
    "13.to_coco": Exercise(
        [
            Case(
                "one detection", (7, *(values[:1] for values in FOUND), [1, 3, 90], 0.0), [SECOND]
            ),
            Case("three, the best first", (7, *FOUND, [1, 3, 90], 0.0), [FIRST, SECOND, THIRD]),
            Case("a threshold", (7, *FOUND, [1, 3, 90], 0.3), [FIRST, SECOND]),
            Case(
                "a score that equals the threshold",
                (7, *FOUND, [1, 3, 90], 0.25),
                [FIRST, SECOND, THIRD],
            ),
            Case(
                "other numbers of categories",
                (7, *FOUND, [4, 5, 6], 0.6),
                [[7, 4, 0, 0, 8, 16, 0.875]],
            ),
            Case("nothing found", (7, *(values[:0] for values in FOUND), [1, 3, 90], 0.3), []),
        ],
        "any tool that reads COCO's format can judge your detector.",
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "On which pictures may the score threshold be chosen?",
        ("val", "test", "train"),
        "Test is looked at once, at the end.",
    ),
    Question(
        "Your smallest objects have 12 px in pictures of 2,000 px. What first?",
        (
            "larger input or tiles, so that they reach the smallest anchor",
            "a deeper backbone",
            "more epochs",
        ),
        "At 300 px they would have 1.8 px.",
    ),
    Question(
        "An annotator missed a quarter of the cells. What does that do to training?",
        (
            "detectors learn to say background on real cells",
            "nothing",
            "recall is measured too low, AP is right",
        ),
        "And the figures measured on such pictures punish right detections.",
    ),
    Question(
        "Train and val list their classes in other orders. What must happen?",
        ("labels are mapped by name", "nothing, numbers match", "the orders are joined"),
        "Number 1 of one file would be number 2 of the other.",
    ),
    Question(
        "What does `data check` do that opening a data set does not?",
        (
            "it decodes every picture and looks at every box",
            "it draws them",
            "it downloads what is missing",
        ),
        "What training would stumble over in hour three is told in the first minute.",
    ),
]
