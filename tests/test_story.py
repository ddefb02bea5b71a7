"""The smear that goes through the course has what its lessons say of it."""

import pytest
import torch

from lesson_lib.course.story import running_smear


@pytest.mark.parametrize("size", [256, 300])
def test_it_has_fourteen_red_cells_a_white_one_and_two_platelets(size):
    smear = running_smear(size)
    assert smear.image.shape == (3, size, size)
    assert torch.bincount(smear.labels, minlength=3).tolist() == [14, 1, 2]
    white = smear.boxes[smear.labels == 1][0]
    assert (white[:2] > 0).all() and (white[2:] < size).all(), "the white cell is whole"
