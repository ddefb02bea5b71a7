"""Drawings of lessons 0 to 2: what is shaded, dotted and pointed at is where the boxes say."""

import re

import pytest
import torch

from lesson_lib.course.overlays import (
    formats_drawing,
    hull_shapes,
    offset_shapes,
    overlap_shapes,
)

APART = torch.tensor([[10.0, 20.0, 30.0, 40.0], [50.0, 20.0, 70.0, 60.0]])
TOGETHER = torch.tensor([[10.0, 20.0, 30.0, 40.0], [20.0, 30.0, 60.0, 50.0]])


@pytest.mark.parametrize("boxes, kinds", [(APART, ["union"]), (TOGETHER, ["union", "shared"])])
def test_only_what_is_shared_is_shaded_as_shared(boxes, kinds):
    assert [shape["kind"] for shape in overlap_shapes(boxes)] == kinds


def test_the_shared_part_is_the_intersection():
    assert overlap_shapes(TOGETHER)[1]["d"] == "M20 30H30V40H20Z"


def test_the_hull_holds_both_boxes():
    assert hull_shapes(APART)[-1]["d"] == "M10 20H70V60H10Z"


def test_the_arrow_goes_from_centre_to_centre():
    (_, arrow) = offset_shapes(*APART)
    assert arrow["d"].startswith("M20 30L60 40M60 40")


def test_an_arrow_of_no_length_has_no_head():
    assert offset_shapes(APART[0], APART[0])[1]["d"] == "M20 30L20 30"


def test_each_format_says_its_own_numbers():
    drawing = formats_drawing(
        torch.zeros(3, 200, 200, dtype=torch.uint8), torch.tensor([40.0, 50.0, 100.0, 90.0])
    )
    said = re.findall(r">(\w+: [\d, .]+)</text>", drawing)
    assert said == ["xyxy: 40, 50, 100, 90", "xywh: 40, 50, 60, 40", "cxcywh: 70, 70, 60, 40"]
