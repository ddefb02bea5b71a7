"""Lesson 13's stage: what a command may not tell yet, and a part of a large picture."""

import re

import pytest
import torch

from lesson_lib.course import handover
from lesson_lib.data.samples import Sample


@pytest.mark.parametrize("without, told", [((), ["a 1", "AP 2", "b"]), (("AP", "c"), ["a 1", "b"])])
def test_lines_that_would_tell_are_left_out(monkeypatch, capsys, without, told):
    def main(words):
        print("a", 1)
        print("AP", 2)
        print("b")
        return 3

    monkeypatch.setattr(handover, "main", main)
    assert handover.terminal("train", without=without) == 3
    assert capsys.readouterr().out.splitlines() == ["python -m lesson_lib train", *told]


def test_a_part_is_drawn_in_its_own_pixels_and_all_is_counted():
    sample = Sample(
        torch.zeros(3, 90, 90, dtype=torch.uint8),
        torch.tensor([[30.0, 40.0, 50.0, 60.0], [0.0, 0.0, 9.0, 9.0]]),
        torch.zeros(2, dtype=torch.int64),
    )
    found = {
        "boxes": torch.tensor(
            [[30.0, 40.0, 50.0, 60.0], [0.0, 0.0, 9.0, 9.0], [1.0, 1.0, 2.0, 2.0]]
        ),
        "scores": torch.tensor([0.9, 0.8, 0.1]),
        "labels": torch.tensor([0, 1, 2]),
    }
    drawing = handover.part_drawn(
        sample, found, 0.5, (20, 20, 80, 80), "Half", tile=(25, 25, 45, 45)
    )
    assert "Half: 2 boxes over 0.5 in the whole field, 2 objects." in drawing
    paths = set(re.findall(r'd="([^"]+)"', drawing))
    assert {"M10 20H30V40H10Z", "M5 5H25V25H5Z"} <= paths
    assert re.findall(r">([RWP])</text>", drawing) == ["R"]  # the other box lies outside the part


def test_a_box_with_another_class_is_too_many_and_its_object_not_found():
    boxes = torch.tensor([[30.0, 40.0, 50.0, 60.0], [0.0, 0.0, 9.0, 9.0]])
    sample = Sample(torch.zeros(3, 90, 90, dtype=torch.uint8), boxes, torch.tensor([0, 2]))
    found = {
        "boxes": torch.cat((boxes, boxes)),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.1]),
        "labels": torch.tensor([0, 1, 0, 2]),
    }
    drawing = handover.drawn(sample, found, 0.5, 90)
    assert "1 of 2 objects found, 2 boxes too many." in re.sub(
        r"\s*</text><text[^>]*>", " ", drawing
    )
    assert re.findall(r">([RWP])</text>", drawing) == ["R", "W", "R"]


def test_the_smears_without_an_error_are_counted_and_the_right_boxes_measured():
    boxes = torch.tensor([[30.0, 40.0, 50.0, 60.0], [0.0, 0.0, 9.0, 9.0]])
    sample = Sample(torch.zeros(3, 90, 90, dtype=torch.uint8), boxes, torch.tensor([0, 2]))
    wide = torch.tensor([[29.0, 40.0, 51.0, 60.0], [0.0, 0.0, 9.9, 9.0], [60.0, 60.0, 80.0, 80.0]])
    found = {
        "boxes": wide,
        "scores": torch.tensor([0.9, 0.8, 0.1]),
        "labels": torch.tensor([0, 2, 0]),
    }
    surer = found | {"scores": torch.tensor([0.9, 0.8, 0.7])}
    said = handover.at_best([sample, sample], [found, surer], 0.5)
    assert said.startswith("everything found and no box too many on 1 of 2 smears")
    assert said.endswith("its object's: 1.10")
