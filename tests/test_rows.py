"""The drawing of channels and rows: what it shows is what the library's flattening does."""

import torch

from lesson_lib.course.rows import rows_drawing, rows_of
from lesson_lib.detectors.heads import flatten_predictions


def test_rows_are_the_librarys_and_without_permute_they_are_strangers():
    positions = torch.arange(6).reshape(1, 2, 3).expand(4, 2, 3)
    right, wrong = rows_of(positions, 2, True), rows_of(positions, 2, False)
    assert torch.equal(right, flatten_predictions(positions[None], 2)[0])
    assert all(len(set(row)) == 1 for row in right.tolist())
    assert wrong[0].tolist() == [0, 1] and wrong.shape == right.shape == (12, 2)


def test_the_drawing_counts_the_strangers():
    drawn = rows_drawing()
    assert "another position than their own: 0 reordered, 12 as it lies." in drawn
    assert drawn.count("<rect") == 4 * 6 + 2 * 24
