"""The linear probe: what lies at a point, by hand; a classifier that must find what is there."""

import torch

from lesson_lib.course import probe
from lesson_lib.data.samples import Sample


def sample():
    """A red cell of 40 px with a platelet of 16 px inside it, in a picture of 64 px."""
    boxes = torch.tensor([[0.0, 0.0, 40.0, 40.0], [16.0, 16.0, 32.0, 32.0]])
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    return Sample(image=image, boxes=boxes, labels=torch.tensor([0, 2]), id="two")


def test_the_smaller_of_two_lies_on_top():
    found = probe.what_lies_there(sample())
    assert found.shape == (8, 8)
    assert found[2, 2] == 3 and found[1, 2] == 1  # (20, 20) in both, (20, 12) in the cell alone
    assert found[0, 0] == 0 and found[6, 6] == 0  # outside the ellipse; outside the box


def test_the_points_of_each_box_are_those_of_its_ellipse():
    inside = probe.points_in(sample().boxes, 64)
    assert inside.shape == (2, 8, 8) and inside[1].nonzero().tolist() == [
        [2, 2],
        [2, 3],
        [3, 2],
        [3, 3],
    ]  # centres 20 and 28, within 8 of 24
    assert not probe.points_in(torch.zeros(0, 4), 64).any()


def test_coarse_features_are_copied_to_the_fine_grid():
    fine = torch.arange(64.0).reshape(1, 1, 8, 8)
    coarse = torch.arange(16.0).reshape(1, 1, 4, 4)
    (a, b), truth = probe.read([sample()], lambda _: [fine, coarse])
    assert a.shape == b.shape == (64, 1) and truth.shape == (64,)
    assert b[9, 0] == 0 and b[10, 0] == 1  # row 1, columns 1 and 2


def test_a_feature_that_tells_all_is_read_and_one_that_tells_nothing_is_not():
    truth = torch.arange(4).repeat(50)
    telling = torch.nn.functional.one_hot(truth, 4).double() + 0.01 * torch.randn(
        200, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    weights, bias = probe.fit(telling, truth)
    assert probe.shares_right(probe.guess(telling, weights, bias), truth) == [1.0] * 4
    noise = torch.randn(200, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    right = probe.shares_right(probe.guess(noise, *probe.fit(noise, truth)), truth)
    assert sum(right) / 4 < 0.5


def test_each_patch_has_a_place_for_its_letter():
    """A white patch of 3 x 5, a platelet of four points, and a speck of red, too small for one."""
    answers = torch.zeros(8, 8, dtype=torch.int64)
    answers[:3, :5] = 2
    answers[5:7, 5:7] = 3
    answers[7, 0] = 1
    assert probe.patches(answers) == [(1, 2, 2), (5, 5, 3)]
    assert probe.patches(answers, least=1) == [(7, 0, 1), (1, 2, 2), (5, 5, 3)]
    assert probe.patches(torch.zeros(8, 8, dtype=torch.int64)) == []


def test_patches_that_touch_at_a_corner_are_one_and_the_border_is_an_edge():
    answers = torch.zeros(6, 6, dtype=torch.int64)
    answers[:2, :2] = answers[2:5, 2:5] = 1
    assert probe.patches(answers) == [(3, 3, 1)]
    answers = torch.ones(5, 5, dtype=torch.int64)
    assert probe.patches(answers) == [(2, 2, 1)]
