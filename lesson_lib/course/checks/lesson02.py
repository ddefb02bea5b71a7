"""Cases for lesson 2: how many boxes, how large, of what shape, where.

Published numbers are typed in from the papers and the released code, the rest is worked out in
plain Python, never by a function asked for.
"""

import random
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from lesson_lib.anchors import SSD300_SCALES, default_boxes
from lesson_lib.boxes import xyxy_to_cxcywh
from lesson_lib.course.checks import Case, Exercise
from lesson_lib.course.checks.lesson00 import Secret
from lesson_lib.course.review import Question
from lesson_lib.course.story import NUMBER
from lesson_lib.data.coverage import coverage
from lesson_lib.data.smears import Smears

ZOOMS, WANTED, MEDIAN = (0.7, 1.0), 0.7, 0.65
#: Smears that the check tries scales on: so many that no single one of their platelets decides.
TRIED = 72


@cache
def _held_out(zoom: float) -> list:
    """TRIED smears that the lesson does not show, of 300 px, with every box `zoom` times as large
    about the picture's corner.
    """
    smears = Smears("val", count=NUMBER + 1 + TRIED, size=300)[NUMBER + 1 :]
    return [replace(smear, boxes=smear.boxes * zoom) for smear in smears]


class Covering:
    """Equal to seven scales whose 8732 boxes cover WANTED of the cells of every class, at each of
    ZOOMS, and fit half of the red cells at least as well as MEDIAN.
    """

    def __init__(self) -> None:
        self.found = "seven numbers between 0 and 2, each larger than the one before"

    def __eq__(self, scales: Any) -> bool:
        self.__init__()
        try:
            scales = tuple(float(s) for s in scales)
        except (TypeError, ValueError):
            return False
        if (
            len(scales) != 7
            or list(scales) != sorted(set(scales))
            or not 0 < scales[0] < scales[-1] < 2
        ):
            return False
        spec = replace(SSD300_SCALES["paper-conv4_3"], scales=scales)
        for zoom in ZOOMS:
            found = coverage(_held_out(zoom), default_boxes(spec), 300)
            shares = [found.recall(found.labels == k) for k in range(3)]
            median = found.best[found.labels == 0].median().item()
            kinds = ("red cells", "white cells", "platelets")
            missed = [f"{WANTED:.0%} of the {k}" for k, s in zip(kinds, shares) if s < WANTED]
            missed += [f"a median of {MEDIAN} for the red cells"] if median < MEDIAN else []
            if missed:
                self.found = f"at zoom {zoom:g} at least " + " and ".join(missed)
                return False
        return True

    def __repr__(self) -> str:
        return self.found


def _map(
    why: str,
    grid: tuple[int, int],
    picture: tuple[int, int],
    scale: float,
    following: float,
    ratios: tuple[float, ...],
) -> Case:
    """One map's boxes by loops: row, column, then square, extra square,
    each ratio and its inverse.
    """
    (rows, columns), (height, width) = grid, picture
    extra = (scale * following) ** 0.5
    shapes = [(scale, scale), (extra, extra)]
    for r in ratios:
        shapes += [(scale * r**0.5, scale / r**0.5), (scale / r**0.5, scale * r**0.5)]
    boxes = []
    for row in range(rows):
        for column in range(columns):
            cx, cy = (column + 0.5) / columns, (row + 0.5) / rows
            boxes += [
                [
                    (cx - w / 2) * width,
                    (cy - h / 2) * height,
                    (cx + w / 2) * width,
                    (cy + h / 2) * height,
                ]
                for w, h in shapes
            ]
    return Case(why, (grid, picture, scale, following, ratios), torch.tensor(boxes))


def faulty_boxes(report: int) -> torch.Tensor:
    """SSD300's default boxes with the bug of the first or second report of 02.which_bug,
    (8732, 4).
    """
    released = SSD300_SCALES["caffe-voc"]
    if report == 0:
        return xyxy_to_cxcywh(default_boxes(released))
    return default_boxes(replace(released, strides=(8,) * len(released.grids)))


def _fresh_sizes(draw: random.Random) -> Case:
    """Objects that fill the windows of a drawn number of sizes but for a part of the last one."""
    overlap, wanted = draw.choice((0.4, 0.5, 0.6, 0.7)), draw.randint(2, 6)
    smallest = float(draw.randint(8, 40))
    largest = smallest * (1 / overlap) ** (wanted - draw.uniform(0.2, 0.8))
    why = f"objects of {smallest:g} to {largest:.1f} px, overlap {overlap}"
    return Case(why, (smallest, largest, overlap), wanted)


def _fresh_map(draw: random.Random) -> Case:
    grid = draw.randint(1, 4), draw.randint(1, 4)
    picture = 10 * draw.randint(8, 40), 10 * draw.randint(8, 40)
    scale = draw.uniform(0.1, 0.5)
    ratios = draw.choice(((), (2.0,), (2.0, 3.0), (1.5,)))
    why = f"a map of {grid} on a picture of {picture}, ratios {ratios}"
    return _map(why, grid, picture, scale, scale * draw.uniform(1.2, 2), ratios)


def _fresh_sides(draw: random.Random) -> Case:
    """Percents drawn anew; the step is found by counting, not by dividing."""
    maps, low, high = draw.randint(4, 8), draw.randint(10, 25), draw.randint(80, 95)
    step = max(s for s in range(high) if low + s * (maps - 2) <= high)
    first, size = draw.randint(3, 9), 100 * draw.randint(2, 8)
    sides = [size * percent / 100 for percent in (first, *(low + step * i for i in range(maps)))]
    why = f"{maps} maps of {size} px, {first} | {low} to {high} %"
    return Case(why, (size, maps, first, low, high), sides)


EXERCISES = {
    "02.scales_needed": Exercise(
        [
            Case("objects of 23 to 45 px, overlap 0.5: less than an octave", (23.0, 45.0, 0.5), 1),
            Case("objects of 18 to 130 px, overlap 0.5", (18.0, 130.0, 0.5), 3),
            Case(
                "objects of 20 to 80 px, overlap 0.5: two octaves to the pixel",
                (20.0, 80.0, 0.5),
                2,
            ),
            Case("the same objects, overlap 0.7", (18.0, 130.0, 0.7), 6),
            Case("objects of 16 to 300 px, overlap 0.5", (16.0, 300.0, 0.5), 5),
            Case("all objects of one size", (40.0, 40.0, 0.5), 1),
        ],
        "you can now say how many sizes of box a data set asks for at the least.",
        fresh=_fresh_sizes,
        hints=(
            "By what factor may the largest object that one box serves exceed the smallest one?",
            "A second size takes over where the first one stops: the factors multiply.",
            "Count how often the factor goes into largest / smallest: a logarithm, rounded up.",
        ),
    ),
    "02.release_sides": Exercise(
        [  # the released prototxt files' min_size and max_size
            Case("SSD300 for VOC", (300, 6, 10, 20, 90), [30, 60, 111, 162, 213, 264, 315]),
            Case("SSD300 for COCO", (300, 6, 7, 15, 90), [21, 45, 99, 153, 207, 261, 315]),
            Case(
                "SSD512 for VOC",
                (512, 7, 7, 15, 90),
                [35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8, 537.6],
            ),
            Case(
                "SSD512 for COCO",
                (512, 7, 4, 10, 90),
                [20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72],
            ),
        ],
        "these are the numbers in the authors' files, to the last digit.",
        fresh=_fresh_sides,
        refused=("release_scales",),
        hints=(
            "The first number is given; of the others there are as many as maps, one beyond "
            "the last.",
            "The step is a whole percent: which way is it rounded?",
            "Work in percents all the way, and turn them into px at the very end.",
        ),
    ),
    "02.which_bug": Exercise(
        [
            Case(
                "the bug of each report",
                (),
                Secret(
                    "two letters, each from A to E",
                    ("B", "every kind is lost there; make that suspect and compare"),
                    ("E", "platelets keep their boxes there; make that suspect and compare"),
                ),
            )
        ],
        "and bug A leaves hardly a trace in such a report, C none: it lays the same boxes in "
        "another order, which only the head would notice.",
        hints=(
            "Which kind of cell suffers most in each report, and which bug could do that?",
            "Large boxes stand on coarse maps: where would they be, were these laid wrongly?",
            "Bend `default_boxes(spec)`, or `spec` by `dataclasses.replace`, in five ways and "
            "print five reports; two equal those above.",
        ),
    ),
    "02.my_scales": Exercise(
        [Case("both objectives, smears you have not seen", (), Covering())],
        f"at least {WANTED:.0%} of every class by both, on smears that you did not tune for.",
        hints=(
            "Multiplying all of `paper-conv4_3` by 0.7 carries over what it lacks for platelets.",
            "The first scale serves the platelets. The second and third serve the red cells, one "
            "for each objective, and the extra squares lie between them.",
            "Red cells of 0.7 have a side near 39 px, those of 1.0 one near 55: what must the "
            "second scale and the extra squares be, to lie on both sides of these?",
        ),
    ),
    "02.boxes_of_map": Exercise(
        [
            _map("one position, no ratio but 1: two squares", (1, 1), (100, 100), 0.25, 0.36, ()),
            _map("a 2 x 2 map: the order is row, column, box", (2, 2), (100, 100), 0.25, 0.36, ()),
            _map(
                "ratio 2: four boxes a position, all of one area but the extra one",
                (1, 1),
                (100, 100),
                0.25,
                0.36,
                (2.0,),
            ),
            _map(
                "2 rows and 5 columns on a picture 200 wide and 100 high",
                (2, 5),
                (100, 200),
                0.1,
                0.4,
                (2.0,),
            ),
            _map(
                "conv9_2 of SSD300: 5 x 5 positions, 6 boxes each",
                (5, 5),
                (300, 300),
                0.54,
                0.71,
                (2.0, 3.0),
            ),
        ],
        "this is what every SSD in the world does before it looks at a picture.",
        fresh=_fresh_map,
        refused=("boxes_of_map", "default_boxes"),
        serves="boxes_of_map",
        hints=(
            "Two loops over rows and columns, and inside them one over the shapes, made once.",
            "The centre of a column depends on the width only, that of a row on the height only.",
            "Widths are shares of the width, heights of the height: a square scale is no "
            "square there.",
        ),
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "How many default boxes has SSD300?",
        ("8,732", "8,096", "5,776"),
        "5,776 + 2,166 + 600 + 150 + 36 + 4. A port that rounds every pooling down gets 8,096.",
    ),
    Question(
        "Of how many sizes are RetinaNet's nine anchors at a position?",
        ("three, each in three shapes", "nine, one shape", "one, in nine shapes"),
        "2^0, 2^(1/3), 2^(2/3) times ratios 1:2, 1:1, 2:1.",
    ),
    Question(
        "An aspect ratio of 2 at scale s: what are width and height?",
        ("s sqrt(2) and s / sqrt(2)", "2 s and s", "s and s / 2"),
        "The area stays s squared.",
    ),
    Question(
        (
            "On SSD's 38 x 38 map, where does the paper's rule for centres end up, against the "
            "receptive fields?"
        ),
        (
            "it drifts, to 4 px at the last position",
            "it is exact everywhere",
            "it is off by a constant 4 px",
        ),
        (
            "(i + .5)/38 of 300 px are steps of 7.89 px, the fields stand 8 px apart. The release"
            " steps by 8 and is exact there."
        ),
    ),
    Question(
        "Why do SSD's fine maps carry the small boxes?",
        (
            "their positions stand close together, so that one is near every small object",
            "their channels are fewer",
            "they are computed last",
        ),
        "A small object reaches an overlap of .5 only with a box that stands close by.",
    ),
]
