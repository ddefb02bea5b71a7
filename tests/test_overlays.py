"""Drawings of lessons 0 to 2: what is shaded, dotted and pointed at is where the boxes say."""

import re

import pytest
import torch

from lesson_lib.anchors import SSD300_SCALES
from lesson_lib.course.overlays import (
    T_X,
    T_Y,
    centre_errors,
    formats_drawing,
    grids_drawing,
    hull_shapes,
    offset_shapes,
    overlap_shapes,
    position_boxes,
)
from lesson_lib.course.story import running_smear

APART = torch.tensor([[10.0, 20.0, 30.0, 40.0], [50.0, 20.0, 70.0, 60.0]])
TOGETHER = torch.tensor([[10.0, 20.0, 30.0, 40.0], [20.0, 30.0, 60.0, 50.0]])


@pytest.mark.parametrize("boxes, kinds", [(APART, ["union"]), (TOGETHER, ["union", "shared"])])
def test_only_what_is_shared_is_shaded_as_shared(boxes, kinds):
    assert [shape["kind"] for shape in overlap_shapes(boxes)] == kinds


def test_the_shared_part_is_the_intersection():
    assert overlap_shapes(TOGETHER)[1]["d"] == "M20 30H30V40H20Z"


def test_the_hull_holds_both_boxes():
    assert hull_shapes(APART)[-1]["d"] == "M10 20H70V60H10Z"


@pytest.mark.parametrize("boxes", [APART, TOGETHER, APART.flip(0), APART[:1].expand(2, 4)])
def test_what_is_shaded_of_the_hull_is_what_neither_box_fills(boxes):
    tiles = re.findall(r"M([\d.]+) ([\d.]+)H([\d.]+)V([\d.]+)", hull_shapes(boxes)[0]["d"])
    painted = torch.zeros(80, 80, dtype=torch.int)
    for x1, y1, x2, y2 in (map(int, tile) for tile in tiles):
        painted[y1:y2, x1:x2] += 1
    hull, filled = torch.zeros(2, 80, 80, dtype=torch.bool)
    x1, y1, x2, y2 = map(int, [*boxes[:, :2].amin(0), *boxes[:, 2:].amax(0)])
    hull[y1:y2, x1:x2] = True
    for x1, y1, x2, y2 in boxes.int().tolist():
        filled[y1:y2, x1:x2] = True
    assert torch.equal(painted, (hull & ~filled).int())


def test_the_arrow_goes_from_centre_to_centre():
    (_, arrow, legs, *_) = offset_shapes(*APART)
    assert arrow["d"].startswith("M20 30L60 40M60 40") and legs["d"] == "M20 30H60V40"


@pytest.mark.parametrize(
    "pair, t_x, t_y",
    [(APART, "M46 24", "M65 37"), (APART.flip(0), "M26 52", "M7 37")],  # above, right; below, left
)
def test_the_legs_names_stand_where_the_arrow_is_not(pair, t_x, t_y):
    names = offset_shapes(*pair)[3:]
    assert [name["d"] for name in names] == [t_x + T_X, t_y + T_Y]


def test_an_arrow_of_no_length_has_no_head():
    assert offset_shapes(APART[0], APART[0])[1]["d"] == "M20 30L20 30"


def test_each_format_says_its_own_numbers():
    drawing = formats_drawing(
        torch.zeros(3, 200, 200, dtype=torch.uint8), torch.tensor([40.0, 50.0, 100.0, 90.0])
    )
    said = re.findall(r">(\w+: [\d, .]+)</text>", drawing)
    assert said == ["xyxy: 40, 50, 100, 90", "xywh: 40, 50, 60, 40", "cxcywh: 70, 70, 60, 40"]


def test_the_release_sits_on_the_fields_of_two_maps_and_is_off_by_a_constant_on_two():
    off = centre_errors(SSD300_SCALES["caffe-voc"])
    assert [set(level) for level in off[:4]] == [{0}, {0}, {8}, {24}]
    assert off[4:] == [[-22, 14, 50], [14]]


def test_the_paper_drifts():
    off = centre_errors(SSD300_SCALES["paper-conv4_3"])
    ends = [(round(level[0], 2), round(level[-1], 2)) for level in off[:4]]
    assert ends == [(-0.05, -3.95), (-0.11, -3.89), (7, -11), (22, 6)]


def test_a_positions_boxes_share_its_centre():
    boxes = position_boxes(SSD300_SCALES["caffe-voc"], 2, row=1, column=3)
    assert ((boxes[:, :2] + boxes[:, 2:]) / 2).unique(dim=0).tolist() == [[112, 48]]
    assert boxes.shape == (6, 4)


def test_every_map_is_drawn_with_its_positions():
    drawing = grids_drawing(running_smear().image, SSD300_SCALES["caffe-voc"], at=(168, 168))
    said = re.findall(r">(\d+) × \d+ positions, (\d) boxes each</text>", drawing)
    assert said == [("38", "4"), ("19", "6"), ("10", "6"), ("5", "6"), ("3", "4"), ("1", "4")]
    sides = re.findall(r">\(square (\d+) px[,)]", drawing)
    assert sides == ["30", "60", "111", "162", "213", "264"]
    assert drawing.count(" px, magnified 2.5 ×)</text>") == 2  # the maps of small boxes
    assert drawing.count('viewBox="0 0 300 300"') == 1  # of the others, boxes leave the picture
