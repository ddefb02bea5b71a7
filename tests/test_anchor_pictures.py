"""Drawings of lesson 2: what is said under them is what an oracle in plain Python finds."""

import re
from dataclasses import replace

import pytest
import torch

from lesson_lib.anchors import RETINANET, SSD300_SCALES, default_boxes, level_slices, ssd_scales
from lesson_lib.boxes import pairwise_iou
from lesson_lib.course.anchor_pictures import (
    best_overlaps,
    boxes_of_map,
    corners_drawing,
    head_drawing,
    position_drawing,
    pyramid_drawing,
    scales_drawing,
    shapes_drawing,
    slip_drawing,
    squares_drawing,
)
from lesson_lib.course.story import running_smear
from lesson_lib.data.smears import Smears


def words(drawing: str) -> str:
    """All text of a drawing, its lines joined."""
    return " ".join(re.findall(r">([^<>]+)</text>", drawing))


RELEASE, PAPER = SSD300_SCALES["caffe-voc"], SSD300_SCALES["paper-conv4_3"]


@pytest.mark.parametrize("level", range(6))
def test_the_boxes_of_one_map_are_those_of_the_whole_specification(level):
    made = boxes_of_map(
        (PAPER.grids[level],) * 2,
        (300, 300),
        *PAPER.scales[level : level + 2],
        PAPER.aspect_ratios[level],
    )
    assert torch.equal(made, default_boxes(PAPER)[level_slices(PAPER)[level]])


@pytest.mark.parametrize("name", SSD300_SCALES)
@pytest.mark.parametrize("zoom", [1.0, 0.5])
def test_the_nearest_positions_boxes_are_enough_for_the_best_overlap(name, zoom):
    boxes = torch.cat([sample.boxes for sample in Smears("train", count=6, size=300)]) * zoom
    every = pairwise_iou(boxes, default_boxes(SSD300_SCALES[name])).amax(1)
    torch.testing.assert_close(best_overlaps(boxes, SSD300_SCALES[name]), every)


def test_no_object_has_no_best_overlap():
    assert best_overlaps(torch.zeros(0, 4), RELEASE).shape == (0,)


def test_squares_on_one_centre_say_the_ratio_of_their_areas():
    drawing = squares_drawing(60, (30, 43, 60, 84, 120))
    said = re.findall(r"(\d+) px: IoU (\d\.\d\d)", words(drawing))
    expected = [min(cell, 60) ** 2 / max(cell, 60) ** 2 for cell in (30, 43, 60, 84, 120)]
    assert [float(overlap) for _, overlap in said] == pytest.approx(expected, abs=0.006)
    assert drawing.count(", covered</text>") == 3
    same = re.findall(
        r'<path d="M36 36H96V96H36Z" fill="none"[^>]*stroke-width="([\d.]+)"', drawing
    )
    assert "4" in same and "2" in same  # a cell as large as its box is drawn as large, over it


def test_the_worst_slip_is_half_a_step_or_the_room_that_is_left():
    said = re.findall(
        r">([\d.]+) px, ([\d.]+) px off: IoU (\d\.\d\d)</text>", slip_drawing(RELEASE)
    )
    assert len(said) == 6
    for (side, off, overlap), step in zip(said, RELEASE.strides):
        side, off = float(side), float(off)
        assert off == pytest.approx(min(step / 2, (300 - side) / 2))
        kept = (side - off) ** 2
        assert float(overlap) == pytest.approx(kept / (2 * side**2 - kept), abs=0.006)


def test_the_shapes_say_their_area_alone():
    drawing = shapes_drawing(default_boxes(RELEASE)[level_slices(RELEASE)[1]][:6])
    assert drawing.count(">3,600 px²</text>") == 5
    assert " px<" not in drawing  # a side is asked for, below it


def test_every_scale_has_its_mark_and_every_kind_its_bars():
    sizes = torch.tensor([20.0, 21.0, 24.0, 60.0, 99.0])
    labels, kinds = torch.tensor([2, 2, 2, 0, 1]), ("red", "white", "platelets")
    drawing = scales_drawing({"one": [30, 60.0, 112.5], "two": [45, 96]}, sizes, labels, kinds)
    assert drawing.count("<circle") == 5 and drawing.count('fill="#ffffff"') == 2
    for said in ("one", "two", "30", "60", "112.5", "45", "96", *kinds):
        assert f">{said}</text>" in drawing
    marks = re.findall(r'<circle cx="([\d.]+)"', drawing)
    found = re.findall(r'd="(M[^"]+Z)"', drawing)
    bars = [re.findall(r"M([\d.]+) [\d.]+v-([\d.]+)h", path) for path in found]
    assert bars[0] == [(marks[1], "22")] and bars[1] == [(marks[4], "22")]  # 60, and 96 to 100 px
    assert [height for _, height in bars[2]] == ["22", "11"]  # two platelets in a bin, then one


def test_a_head_has_a_square_for_each_number():
    assert head_drawing(4, 21).count("<rect") == 4 * (4 + 21)


def test_the_papers_centres_drift_away_from_the_fields_and_the_releases_do_not():
    said = words(corners_drawing(running_smear().image, {"paper": PAPER, "release": RELEASE}))
    off = [float(px) for px in re.findall(r"dots up to ([\d.]+) px off", said)]
    near, far = off[:2]
    assert near < 1 and far == pytest.approx(4 + 8 * 37 - 37.5 * 300 / 38, abs=0.006)
    assert off[2:] == [0, 0]


def test_the_pyramid_is_drawn_at_its_steps():
    drawing = pyramid_drawing(running_smear().image, at=(168, 168))
    said = re.findall(r"P(\d), every (\d+) px:", words(drawing))
    assert said == [(str(level + 3), str(RETINANET.strides[level])) for level in (1, 0, 2)]
    p4 = 38 * 38 * 9 + (10 * 19 + 10) * 9  # the position around 168, after all of P3
    for x1, y1, x2, _ in RETINANET.make((300, 300))[p4 : p4 + 9].tolist():
        assert f"M{round(x1, 1):g} {round(y1, 1):g}H{round(x2, 1):g}" in drawing
    for side in ("64", "81", "102", "128", "161", "203"):
        assert f">{side}</text>" in drawing


def test_the_explorer_says_how_many_boxes_and_ends_at_the_last_position():
    drawing = position_drawing(running_smear(), RELEASE, 5, share=1.0)
    assert "8,732 boxes on 6 maps" in words(drawing) and "Map 6, 1 x 1" in words(drawing)


def test_the_explorer_draws_what_it_is_given():
    spec = replace(PAPER, scales=ssd_scales(6))
    wrong = position_drawing(
        running_smear(), spec, 1, 0.5, make=lambda *args: boxes_of_map(*args) * 0
    )
    assert "the best has IoU 0.00 with a cell" in words(wrong)
    assert wrong != position_drawing(running_smear(), spec, 1, 0.5)
