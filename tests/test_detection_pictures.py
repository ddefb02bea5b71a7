"""Pictures of what a detector finds and misses: lessons 8 and 9."""

import re

import torch

from lesson_lib.course.detection_pictures import explained, found_picture, taken
from lesson_lib.data.samples import Sample

SAMPLE = Sample(
    image=torch.zeros(3, 64, 64, dtype=torch.uint8),
    boxes=torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]]),
    labels=torch.tensor([0, 1, 0]),
    id="three",
)


def found(*rows):
    """Rows of (box, score, label) as detections."""
    return {
        "boxes": torch.tensor([row[0] for row in rows]).reshape(-1, 4),
        "scores": torch.tensor([row[1] for row in rows]),
        "labels": torch.tensor([row[2] for row in rows], dtype=torch.int64),
    }


def test_what_nothing_of_its_class_overlaps_is_missed():
    said = found(
        ([0.0, 0, 10, 10], 0.9, 0),
        ([0.0, 0, 10, 9], 0.8, 0),  # a second one on the same cell takes no other
        ([20.0, 20, 40, 40], 0.9, 2),  # right place, wrong class
        ([50.0, 50, 60, 54.9], 0.9, 0),  # IoU .49
    )
    assert taken(said, SAMPLE.target()).tolist() == [0, -1, -1, -1]


def test_half_an_overlap_is_enough_and_nothing_found_takes_none():
    half = found(([50.0, 50, 60, 55], 0.4, 0))
    assert taken(half, SAMPLE.target()).tolist() == [2]
    assert taken(found(), SAMPLE.target()).tolist() == []


def test_a_second_detection_is_drawn_dotted():
    twice = found(([0.0, 0, 10, 10], 0.9, 0), ([0.0, 0, 10, 9], 0.8, 0))
    drawing = found_picture(SAMPLE, twice, title="Here:")
    assert "Here: 3 cells: 1 found (solid), 2 missed (dashed); 1 false or double" in drawing
    dashes = re.findall(r'd="M0 0H10V(10|9)[^>]*stroke-dasharray="([^"]*)"', drawing)
    assert dashes == [("10", ""), ("9", "2 3")]


def test_the_picture_counts_and_draws_missed_objects_alone():
    drawing = found_picture(SAMPLE, found(([0.0, 0, 10, 10], 0.9, 0)), letters=["P4"])
    assert "3 cells: 1 found (solid), 2 missed (dashed); 0 false or double (dotted)." in drawing
    assert "M20 20H40V40" in drawing and "M50 50H60V60" in drawing and ">P4<" in drawing
    assert drawing.count("M0 0H10V10") == 2  # the detection and its casing, no dashed box under it


def test_what_is_missed_or_false_is_said_with_what_stands_beside_it():
    """One found, one too unsure, one whose class nobody says, and a box on an unboxed cell."""
    said = found(
        ([0.0, 0, 10, 10], 0.9, 0),
        ([42.0, 0, 62, 20], 0.6, 0),
        ([50.0, 50, 60, 60], 0.3, 0),
        ([20.0, 20, 40, 40], 0.2, 2),
    )
    anchors, unboxed = torch.tensor([[20.0, 20, 40, 30]]), torch.tensor([[42.0, 0, 62, 25]])
    assert explained(SAMPLE, said, anchors, unboxed).splitlines() == [
        "  missed: WBC, its best anchor 0.50, overlaps a neighbour by 0.00, surest box that fits "
        "it: none",
        "  missed: RBC, its best anchor 0.00, overlaps a neighbour by 0.00, surest box that fits "
        "it: score 0.30",
        "  dotted: score 0.60, IoU 0.80 with a cell that nobody annotated",
    ]
    assert "dotted: score 0.60, IoU 0.00" in explained(SAMPLE, said, anchors, torch.zeros(0, 4))
    assert explained(SAMPLE, said, anchors, unboxed, least=0.2).count("missed: RBC") == 0
