"""What is right in lesson 13; every expected value was worked out on paper."""

import random

import torch

from lesson_lib.course import handover
from lesson_lib.course.checks import Case, Choice, Exercise
from lesson_lib.course.review import Question

FRAMES = [
    "tank_7",
    "pool_1",
    "pool_2",
    "tank_8",
    "reef_3",
    "pool_3",
    "lake_5",
]  # groups: lake, pool, reef, tank
CHOSEN = "F"  # of the lesson's table of sizes and anchors
#: What speaks against each of the other rows.
AGAINST = {
    "A": "most platelets are out of reach.",
    "B": "most platelets are out of reach.",
    "C": "fewer than 95 % of the platelets are covered.",
    "D": "your machine takes 256 px at most.",
    "E": "fewer than 95 % of the platelets are covered.",
    "G": "the memory holds 30,000 anchors at most.",
    "H": "neither the input nor the anchors fit your machine.",
}
#: What each fault shows, so that a learner can see that a matrix does not.
SIGNS = {
    "threshold too low": "that leaves hardly anything missed, and false red cells in the last row.",
    "threshold too high": "that thins the last row and the diagonal, without an exchange.",
    "classes in another order": "that exchanges whole columns, and boxes still lie on cells.",
    "colours exchanged": "then most boxes of one class lie where nothing is, yet other cells are "
    "still found rightly.",
    "boxes not brought back to the picture's pixels": "then as many boxes as cells are drawn, and "
    "nearly all cells are missed.",
}
LETTERS = "ABCDE"


def _tile(*rows: tuple[float, float, float, float, float, int]) -> dict[str, torch.Tensor]:
    """x1, y1, x2, y2, score, label of each detection in a tile."""
    table = torch.tensor(rows).float().reshape(-1, 6)
    return {"boxes": table[:, :4], "scores": table[:, 4], "labels": table[:, 5].long()}


def _joined(*rows: tuple[float, float, float, float, float, int]) -> tuple[torch.Tensor, ...]:
    return tuple(_tile(*rows)[name] for name in ("boxes", "scores", "labels"))


def _join(
    why: str,
    tiles: list[dict],
    corners: list[tuple[int, int]],
    *expected: tuple,
    threshold: float = 0.5,
) -> Case:
    return Case(why, (tiles, corners, threshold), _joined(*expected))


def _fresh_join(draw: random.Random) -> Case:
    """A cell that three tiles saw, and one that a single tile saw."""
    x, y, side = draw.randint(2, 9), draw.randint(2, 9), draw.randint(10, 20)
    scores = draw.sample([0.5, 0.6, 0.7, 0.8], 3)
    corners = [(0, 0), (draw.randint(40, 60), 0), (0, draw.randint(40, 60))]
    place = (60 + x, 60 + y)
    tiles = [
        _tile((place[0] - a, place[1] - b, place[0] - a + side, place[1] - b + side, score, 1))
        for (a, b), score in zip(corners, scores, strict=True)
    ]
    tiles[1] = {
        name: torch.cat((values, _tile((90, 5, 99, 14, 0.3, 0))[name]))
        for name, values in tiles[1].items()
    }
    alone = corners[1][0]
    return _join(
        "a cell that three tiles saw, and one that a single tile saw",
        tiles,
        corners,
        (*place, place[0] + side, place[1] + side, max(scores), 1),
        (90 + alone, 5, 99 + alone, 14, 0.3, 0),
    )


def _fresh_validation(draw: random.Random) -> Case:
    groups = draw.sample(["bay1", "bay2", "fen", "loch", "moor12", "quay", "tarn7"], 4)
    names = [f"{group}_{draw.randint(0, 9999)}" for group in groups for _ in range(3)]
    draw.shuffle(names)
    chosen = sorted(groups)[::3]
    expected = [name.split("_")[0] in chosen for name in names]
    return Case("four other groups, every third", (names, 3), expected)


EXERCISES = {
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
            Case(
                "groups that end in a digit, numbers of any length",
                (["cam1_7", "cam2_1042", "cam1_12", "cam2_8"], 2),
                [True, False, True, False],
            ),
            Case("no pictures", ([], 3), []),
        ],
        "frames of one video never stand on both sides.",
        fresh=_fresh_validation,
        hints=(
            "Which pictures may not be parted? First find the name that they share.",
            "`rpartition` cuts at the last underscore. List each group once, in order.",
            "A group's place in that list decides for all of its pictures: is it a multiple of "
            "`every`?",
        ),
    ),
    "13.choose": Exercise(
        [Case("your row of the table", (), Choice(CHOSEN, AGAINST))],
        "covered, and within both limits.",
        hints=(
            "Strike out what the machine cannot take: pixels first, then anchors.",
            "Of the rows that are left, which cover every class in 95 of 100 objects or more?",
            "A finer map makes a small input do, a larger input the usual map. Only one of the two "
            "is within your limits.",
        ),
    ),
    "13.confused": Exercise(
        [
            Case(f"matrix {letter}", (letter,), Choice(handover.fault_of(letter), SIGNS))
            for letter in LETTERS
        ],
        "five faults told from a table, and no picture opened.",
        hints=(
            "Three things to read in each: is the diagonal where it should be, how large is the "
            "column of the missed, how large the row of the background?",
            "Full diagonal and a large bottom row, or nothing strange but a large last column: "
            "that is a threshold. Whole columns exchanged: that is no detector's doing.",
            "Two are left. In one the network sees something else than in training, and takes one "
            "thing for another. In the other it names all rightly, and nothing lies in its place.",
        ),
    ),
    "13.join_tiles": Exercise(
        [
            _join(
                "one tile at the corner",
                [_tile((2, 3, 12, 9, 0.9, 0))],
                [(0, 0)],
                (2, 3, 12, 9, 0.9, 0),
            ),
            _join(
                "one tile elsewhere",
                [_tile((2, 3, 12, 9, 0.9, 0))],
                [(100, 50)],
                (102, 53, 112, 59, 0.9, 0),
            ),
            _join(
                "two tiles, the surer detection in the second",
                [_tile((2, 3, 12, 9, 0.4, 0)), _tile((2, 3, 12, 9, 0.9, 2))],
                [(0, 0), (100, 0)],
                (102, 3, 112, 9, 0.9, 2),
                (2, 3, 12, 9, 0.4, 0),
            ),
            _join(
                "one cell in both tiles",
                [_tile((70, 10, 90, 30, 0.6, 0)), _tile((10, 10, 30, 31, 0.8, 0))],
                [(0, 0), (60, 0)],
                (70, 10, 90, 31, 0.8, 0),
            ),
            _join(
                "a platelet on a red cell, one from each tile",
                [_tile((70, 10, 90, 30, 0.6, 0)), _tile((10, 10, 30, 31, 0.8, 2))],
                [(0, 0), (60, 0)],
                (70, 10, 90, 31, 0.8, 2),
                (70, 10, 90, 30, 0.6, 0),
            ),
            _join(
                "neighbours that touch by less than the threshold",
                [_tile((70, 10, 90, 30, 0.6, 0)), _tile((22, 10, 42, 30, 0.8, 0))],
                [(0, 0), (60, 0)],
                (82, 10, 102, 30, 0.8, 0),
                (70, 10, 90, 30, 0.6, 0),
            ),
            _join(
                "a threshold of 0.3, and an overlap of 0.4",
                [_tile((70, 10, 84, 20, 0.6, 0)), _tile((16, 10, 30, 20, 0.8, 0))],
                [(0, 0), (60, 0)],
                (76, 10, 90, 20, 0.8, 0),
                threshold=0.3,
            ),
            _join(
                "a threshold of 0.7, and an overlap of 0.6",
                [_tile((70, 10, 86, 20, 0.6, 0)), _tile((14, 10, 30, 20, 0.8, 0))],
                [(0, 0), (60, 0)],
                (74, 10, 90, 20, 0.8, 0),
                (70, 10, 86, 20, 0.6, 0),
                threshold=0.7,
            ),
            _join("tiles without a detection", [_tile(), _tile()], [(0, 0), (60, 0)]),
        ],
        "a picture of any size is a matter of tiles now.",
        fresh=_fresh_join,
        refused=("join_tiles", "in_tiles"),
        hints=(
            "A box in a tile counts from the tile's corner. What is its place in the picture?",
            "x1 and x2 move by the corner's x, y1 and y2 by its y. Then put all tiles together "
            "with `torch.cat`.",
            "What is there twice goes as in lesson 6: NMS, but only among boxes of one class. "
            "`class_aware_nms` gives the indices, best first.",
        ),
        serves="join_tiles",
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
