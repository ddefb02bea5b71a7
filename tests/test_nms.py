import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from lesson_lib.nms import class_aware_nms, greedy_nms, nms


def scene(seed, count=60, levels=None, shift=0.0):
    """Overlapping boxes with scores; levels: so few different scores that many are equal."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=g) * 50 + shift
    boxes = torch.cat((corner, corner + 15 + torch.rand(count, 2, generator=g) * 15), 1)
    scores = torch.rand(count, generator=g)
    if levels:
        scores = (scores * levels).floor() / levels
    return boxes, scores, torch.randint(0, 4, (count,), generator=g)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("levels", [None, 3, 1])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_is_torchvisions_also_for_equal_scores(seed, levels, threshold):
    boxes, scores, _ = scene(seed, levels=levels)
    kept = greedy_nms(boxes, scores, threshold)
    assert kept.tolist() == torchvision.ops.nms(boxes, scores, threshold).tolist()
    assert kept.tolist() == nms(boxes, scores, threshold).tolist()
    if threshold < 1:
        assert len(kept) < len(boxes)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("seed", range(3))
def test_class_aware_is_torchvisions_batched_nms(seed, levels, fast):
    boxes, scores, labels = scene(seed, levels=levels)
    kept = class_aware_nms(boxes, scores, labels, 0.5, fast)
    assert kept.tolist() == torchvision.ops.batched_nms(boxes, scores, labels, 0.5).tolist()
    assert len(kept) > len(nms(boxes, scores, 0.5))


def test_class_aware_is_torchvisions_batched_nms_when_that_goes_class_by_class():
    boxes, scores, labels = scene(
        5, count=1200
    )  # beyond 1000 boxes batched_nms takes its other path
    kept = class_aware_nms(boxes, scores, labels, 0.5)
    assert kept.tolist() == torchvision.ops.batched_nms(boxes, scores, labels, 0.5).tolist()


@pytest.mark.parametrize("shift", [-200.0, -40.0, 0.0, 1e6])
def test_the_fast_way_is_the_class_by_class_way_anywhere_in_the_plane(shift):
    boxes, scores, labels = scene(7, levels=5, shift=shift)
    labels = labels * 100_000
    assert (
        class_aware_nms(boxes, scores, labels, 0.4).tolist()
        == class_aware_nms(boxes, scores, labels, 0.4, fast=False).tolist()
    )


@pytest.mark.parametrize("fast", [True, False])
def test_torchvision_lets_classes_meet_at_negative_coordinates(fast):
    boxes = torch.tensor([[0.0, 0, 10, 10], [-11, -11, -1, -1]])
    scores, labels = torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
    assert torchvision.ops.batched_nms(boxes, scores, labels, 0.5).tolist() == [0]
    assert class_aware_nms(boxes, scores, labels, 0.5, fast).tolist() == [0, 1]


boxes_on_a_grid = st.lists(st.tuples(*[st.integers(0, 6)] * 4, st.integers(0, 3)), max_size=25)


@settings(max_examples=80, deadline=None)
@given(boxes_on_a_grid, st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_twice_is_once_and_the_best_stays(rows, threshold):
    rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    boxes = torch.cat((rows[:, :2], rows[:, :2] + rows[:, 2:4]), 1)  # zero areas among them
    for suppress in (
        greedy_nms,
        nms,
        lambda b, s, t: class_aware_nms(b, s, torch.ones(len(b)).long(), t),
    ):
        kept = suppress(boxes, rows[:, 4], threshold)
        again = suppress(boxes[kept], rows[kept, 4], threshold)
        assert again.tolist() == list(range(len(kept)))
        assert len(rows) == 0 or kept[0] == rows[:, 4].argmax()
        assert kept.tolist() == greedy_nms(boxes, rows[:, 4], threshold).tolist()


def test_overlap_exactly_at_the_threshold_stays():
    boxes = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]])  # IoU 1/2
    scores = torch.tensor([0.5, 0.9])
    for suppress in (greedy_nms, nms):
        assert suppress(boxes, scores, 0.5).tolist() == [1, 0]
        assert suppress(boxes, scores, 0.49).tolist() == [1]


def test_none_and_one():
    empty, one = torch.zeros(0, 4), torch.tensor([[0.0, 0, 1, 1]])
    for suppress in (greedy_nms, nms):
        assert suppress(one, one[:, 2], 0.5).tolist() == [0]
        none = suppress(empty, empty[:, 0], 0.5)
        assert none.shape == (0,) and none.dtype == torch.int64
    for fast in (True, False):
        assert class_aware_nms(empty, empty[:, 0], empty[:, 0].long(), 0.5, fast).shape == (0,)


def test_half_precision_is_raised():
    boxes, scores, labels = scene(3)
    half, full = boxes.half(), boxes.half().float()
    for suppress in (nms, greedy_nms, lambda b, s, t: class_aware_nms(b, s, labels, t)):
        expected = suppress(full, scores.half().float(), 0.5)
        assert suppress(half, scores.half(), 0.5).tolist() == expected.tolist()


def test_refuses_nan_and_wrong_shapes():
    boxes, scores, labels = scene(0, count=4)
    for call in (greedy_nms, nms, lambda b, s, t: class_aware_nms(b, s, labels, t)):
        with pytest.raises(ValueError, match="NaN"):
            call(boxes, torch.tensor([0.1, float("nan"), 0.2, 0.3]), 0.5)
        with pytest.raises(ValueError, match=r"\(N, 4\) and \(N,\)"):
            call(boxes, scores[:3], 0.5)
    with pytest.raises(ValueError, match="labels"):
        class_aware_nms(boxes, scores, labels[:3], 0.5)
