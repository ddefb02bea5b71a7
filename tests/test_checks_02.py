"""The exercises of lesson 2: a right answer passes, and each wrong idea is told by the name of its
case.
"""

import math

import pytest
import torch

from lesson_lib.anchors import SSD300_SCALES
from lesson_lib.course.checks import find, verdict


def scales_needed(smallest, largest, overlap):
    return max(1, math.ceil(math.log(largest / smallest) / math.log(1 / overlap)))


def count_outputs(grids, per_position, c):
    boxes = sum(m * n * k for (m, n), k in zip(grids, per_position))
    return boxes, (4 + c) * boxes


def release_sides(size, maps, first, low, high):
    step = (high - low) // (maps - 2)
    return [size * percent / 100 for percent in [first] + [low + step * k for k in range(maps)]]


def boxes_of_map(grid, picture, scale, following, ratios, step=0.5, root=math.sqrt, turned=False):
    (rows, columns), (height, width) = grid, picture
    shapes = [(scale, scale), (math.sqrt(scale * following),) * 2]
    for r in ratios:
        shapes += [(scale * root(r), scale / root(r)), (scale / root(r), scale * root(r))]
    places = [(x, y) for y in range(rows) for x in range(columns)]
    places = sorted(places) if turned else places
    sides = torch.tensor([width, height] * 2)
    return (
        torch.tensor(
            [
                [
                    (x + step) / columns - w / 2,
                    (y + step) / rows - h / 2,
                    (x + step) / columns + w / 2,
                    (y + step) / rows + h / 2,
                ]
                for x, y in places
                for w, h in shapes
            ]
        )
        * sides
    )


RIGHT = {
    "scales_needed": scales_needed,
    "count_outputs": count_outputs,
    "release_sides": release_sides,
    "boxes_of_map": boxes_of_map,
    "my_scales": (0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9),
    "which_bug": "b",
}
WRONG = [
    ("scales_needed", lambda a, b, j: scales_needed(a, b, 0.5), "overlap 0.7"),
    ("scales_needed", lambda a, b, j: round(scales_needed(a, b, j) - 0.5), "23 to 45"),
    (
        "scales_needed",
        lambda a, b, j: math.ceil(math.log(b / a) / math.log(1 / j)),
        "all objects of one size",
    ),
    (
        "scales_needed",
        lambda a, b, j: max(1, math.floor(math.log(b / a) / math.log(1 / j))),
        "18 to 130 px",
    ),
    (
        "scales_needed",
        lambda a, b, j: math.floor(math.log(b / a) / math.log(1 / j)) + 1,
        "two octaves",
    ),
    (
        "count_outputs",
        lambda g, k, c: (count_outputs(g, k, c)[0], count_outputs(g, k, c + 1)[1]),
        "conv4_3",
    ),
    ("count_outputs", lambda g, k, c: count_outputs([(m, m) for m, _ in g], k, c), "not square"),
    ("count_outputs", lambda g, k, c: count_outputs(g, k[:1] * len(g), c), "SSD300"),
    (
        "release_sides",
        lambda z, m, f, lo, hi: [
            z * p / 100 for p in [f] + [lo + (hi - lo) / (m - 2) * k for k in range(m)]
        ],
        "SSD300 for VOC",
    ),
    ("release_sides", lambda z, m, f, lo, hi: release_sides(300, m, f, lo, hi), "SSD512 for VOC"),
    ("release_sides", lambda z, m, f, lo, hi: release_sides(z, 6, f, lo, hi), "SSD512 for VOC"),
    ("release_sides", lambda z, m, f, lo, hi: release_sides(z, m, 10, lo, hi), "SSD300 for COCO"),
    ("boxes_of_map", lambda *a: boxes_of_map(*a, step=0), "one position"),
    ("boxes_of_map", lambda *a: boxes_of_map(*a, turned=True), "2 x 2 map"),
    ("boxes_of_map", lambda *a: boxes_of_map(*a, root=lambda r: r), "ratio 2"),
    ("boxes_of_map", lambda g, p, *a: boxes_of_map(g, p[::-1], *a), "200 wide and 100 high"),
    *[
        ("my_scales", SSD300_SCALES[name].scales, words)
        for name, words in {  # none of the published sets will do
            "paper-eq4": "red 10%",
            "paper-conv4_3": "platelets 4%",
            "caffe-voc": "platelets 4%",
            "torchvision-coco": "platelets 68%",
        }.items()
    ],
    ("which_bug", "A", "make that suspect"),
    ("which_bug", "D", "make that suspect"),
    ("boxes_of_map", lambda *a: boxes_of_map(*a)[:, [1, 0, 3, 2]], "2 x 2 map"),
    ("boxes_of_map", lambda *a: boxes_of_map(*a).flip(0), "one position"),
    ("my_scales", (0.05, 0.15, 0.3), "seven numbers"),
    ("my_scales", (0.05, 0.3, 0.15, 0.45, 0.6, 0.75, 0.9), "seven numbers"),
    ("my_scales", 7, "seven numbers"),
    ("my_scales", ("a",) * 7, "seven numbers"),
    ("my_scales", torch.tensor([0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9]), "platelets 68%"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_an_exercise_has_three_hints(name):
    assert len(set(find(f"02.{name}").hints)) == 3


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name):
    assert verdict(f"02.{name}", RIGHT[name]).startswith("✓")
    assert verdict(f"02.{name}", ...).startswith("○")


@pytest.mark.parametrize("name, answer, words", WRONG)
def test_a_wrong_answer_is_told_with_its_case(name, answer, words):
    told = verdict(f"02.{name}", answer)
    assert told.startswith("✗") and words in told
    assert len(told) < 260 and "\n" not in told
