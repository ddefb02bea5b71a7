import math
import statistics
from itertools import groupby

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import exact_iou
from torch import Tensor, tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lesson_lib.anchors import PyramidAnchors
from lesson_lib.atss import adaptive_threshold, centreness, match_atss
from lesson_lib.matching import NEGATIVE, POSITIVE

SPEC = PyramidAnchors(
    strides=(8, 16), sizes=(16, 32), scales=(1, 2 ** (1 / 3)), aspect_ratios=(0.5, 1, 2)
)
#: One square anchor of 16 px at each of 4 x 4 positions, 8 px apart, the first at (4, 4).
PLAIN = PyramidAnchors(strides=(8,), sizes=(16,), scales=(1,), aspect_ratios=(1,))
EVERY = torch.ones(1, 16, dtype=torch.bool)


def by_the_book(gt: Tensor, anchors: Tensor, counts: list[int], per_position: int, k: int):
    """Algorithm 1 in plain Python: {anchor: object}, and how near it came to a tie: the smallest
    difference of an overlap from its threshold or from a rival's, of a centre from an edge, of two
    distances around rank k. Where it is tiny, rounding decides.
    """
    held: dict[int, tuple[float, int]] = {}
    slack = math.inf
    for g, box in enumerate(gt.tolist()):
        candidates, start = [], 0
        for count in counts:
            rows = range(start, start + count, per_position)
            near = sorted(
                (math.dist(middle(box), middle(anchors[row].tolist())), row) for row in rows
            )
            for _, row in near[:k]:
                candidates += range(row, row + per_position)
            if len(near) > k:
                slack = min(slack, near[k][0] - near[k - 1][0])
            start += count
        overlaps = {a: float(exact_iou(box, anchors[a].tolist())) for a in candidates}
        threshold = statistics.mean(overlaps.values()) + statistics.stdev(overlaps.values())
        for a, overlap in overlaps.items():
            x, y = middle(anchors[a].tolist())
            edges = abs(x - box[0]), abs(x - box[2]), abs(y - box[1]), abs(y - box[3])
            rival = abs(overlap - held[a][0]) if a in held else math.inf
            slack = min(slack, abs(overlap - threshold), rival, *edges)
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            if overlap >= threshold and inside and overlap > held.get(a, (0, 0))[0]:
                held[a] = (overlap, g)
    return {a: g for a, (_, g) in held.items()}, slack


def middle(box: list[float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def as_dict(match) -> dict[int, int]:
    return {
        a: int(match.gt_index[a]) for a in (match.label == POSITIVE).nonzero().flatten().tolist()
    }


corner = st.floats(0, 50, width=32)
side = st.floats(3, 40, width=32)
boxes = st.lists(
    st.tuples(corner, corner, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(boxes, st.sampled_from([1, 4, 9]))
def test_it_is_the_papers_algorithm(rows, k):
    anchors = SPEC.make(64)
    found, slack = by_the_book(tensor(rows), anchors, list(SPEC.counts(64)), 6, k)
    if slack < 1e-4:  # a tie: rounding decides, another test holds what then happens
        return
    match = match_atss(tensor(rows), anchors, SPEC.levels_of(anchors), k)
    assert as_dict(match) == found
    assert ((match.gt_index >= 0) == (match.label == POSITIVE)).all()


def test_by_hand_on_a_grid():
    # An object of 16 px in the middle of four positions: each anchor there overlaps by
    # 12 * 12 / (2 * 256 - 144) = .39; the eight next to those by 4 * 12 / (512 - 48) = .10.
    anchors, gt = PLAIN.make(32), tensor([[8.0, 8.0, 24.0, 24.0]])
    match = match_atss(gt, anchors, EVERY, k=9)
    assert as_dict(match) == dict.fromkeys((5, 6, 9, 10), 0)
    # All four overlap alike: t is their overlap, and rounding must not leave one out.
    assert as_dict(match_atss(gt, anchors, EVERY, k=4)) == dict.fromkeys((5, 6, 9, 10), 0)
    # Of equally near ones the first.
    assert as_dict(match_atss(gt, anchors, EVERY, k=1)) == {5: 0}


def test_of_two_objects_the_one_that_overlaps_more_gets_the_anchor():
    anchors = PLAIN.make(32)
    gt = tensor([[0.0, 0.0, 20.0, 20.0], [4.0, 4.0, 20.0, 20.0]])  # anchor 5 is the second's box
    assert as_dict(match_atss(gt, anchors, EVERY, k=1)) == {5: 1}
    assert as_dict(match_atss(gt.flip(0), anchors, EVERY, k=1)) == {5: 0}
    assert as_dict(match_atss(gt[[1, 1]], anchors, EVERY, k=1)) == {5: 0}  # of equals the first


def test_an_object_between_all_positions_gets_none():
    match = match_atss(tensor([[5.0, 5.0, 9.0, 9.0]]), PLAIN.make(32), EVERY)
    assert (match.label == NEGATIVE).all()


def test_more_positions_wanted_than_a_level_has():
    anchors = SPEC.make(32)  # 16 and 4 positions
    gt = tensor([[3.0, 5.0, 26.0, 29.0]])
    levels = SPEC.levels_of(anchors)
    all_of_them = match_atss(gt, anchors, levels, 100)
    assert as_dict(all_of_them) == as_dict(match_atss(gt, anchors, levels, 16))
    assert as_dict(all_of_them) == by_the_book(gt, anchors, list(SPEC.counts(32)), 6, 100)[0]


def test_a_level_without_positions_gives_no_candidate():
    gt = tensor([[-17.5, -26.0, 42.5, 34.0]])  # it holds all anchors; nearest are 1 and then 2
    levels = torch.cat((EVERY, ~EVERY))
    assert as_dict(match_atss(gt, PLAIN.make(32), levels, k=2)) == {1: 0, 2: 0}


@pytest.mark.parametrize("side", range(40, 100, 3))
def test_nine_equal_overlaps_all_reach_their_mean(side):
    """Whatever the sum of nine equal numbers rounds to."""
    gt = tensor([[12.0 - side / 2, 12.0 - side / 2, 12.0 + side / 2, 12.0 + side / 2]])
    match = match_atss(gt, PLAIN.make(32), EVERY, k=9)
    assert as_dict(match) == dict.fromkeys((0, 1, 2, 4, 5, 6, 8, 9, 10), 0)


@pytest.mark.parametrize(
    "box", [[4, 4, 4, 20], [9, 9, 5, 5], [float("nan"), 0, 9, 9], [0, 0, float("inf"), 9]]
)
def test_what_is_no_object_gets_nothing_and_takes_nothing(box):
    anchors = SPEC.make(64)
    levels, real = SPEC.levels_of(anchors), tensor([[10.0, 12.0, 40.0, 44.0]])
    alone = match_atss(real, anchors, levels)
    both = match_atss(torch.cat((tensor([box]).float(), real)), anchors, levels)
    assert as_dict(both) == dict.fromkeys(as_dict(alone), 1) and as_dict(alone)
    assert (match_atss(real[:0], anchors, levels).label == NEGATIVE).all()


def test_a_padded_batch_is_its_pictures():
    anchors = SPEC.make(64)
    levels = SPEC.levels_of(anchors)
    gt = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)) * 30
    gt[..., 2:] += gt[..., :2] + 4
    valid = tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()
    batch = match_atss(gt, anchors, levels, valid=valid)
    for picture, mask in enumerate(valid):
        alone = match_atss(gt[picture], anchors, levels, valid=mask)
        assert torch.equal(batch.gt_index[picture], alone.gt_index)
        assert torch.equal(batch.label[picture], alone.label)
    kept = as_dict(match_atss(gt[1, [0, 2]], anchors, levels))
    assert as_dict(match_atss(gt[1], anchors, levels, valid=valid[1])) == {
        a: 2 * g for a, g in kept.items()
    }
    assert (batch.label[2] == NEGATIVE).all()


def test_nothing_is_read_where_a_gpu_would_have_to_be_waited_for():
    with FakeTensorMode():
        anchors = torch.empty(480, 4)
        match = match_atss(torch.empty(2, 5, 4), anchors, torch.empty(2, 80, dtype=torch.bool))
    assert match.label.shape == (2, 480)


def test_the_threshold_is_mean_and_deviation():
    iou = tensor([[0.1, 0.5, 0.6, 0.2], [0.3, 0.3, 0.3, 0.9]])
    expected = [statistics.mean(r) + statistics.stdev(r) for r in iou.tolist()]
    assert adaptive_threshold(iou).tolist() == pytest.approx(expected)
    some = tensor([[True, True, True, False], [True, False, False, False]])
    first = statistics.mean([0.1, 0.5, 0.6]) + statistics.stdev([0.1, 0.5, 0.6])
    assert adaptive_threshold(iou, some).tolist() == pytest.approx([first, 0.3])


def test_centreness_by_hand():
    box = tensor([0.0, 0.0, 40.0, 20.0])
    at = tensor([[20.0, 10.0], [10.0, 10.0], [10.0, 5.0], [0.0, 10.0], [50.0, 10.0]])
    anchors = torch.cat((at - 3, at + 3), 1)
    expected = [1, math.sqrt(10 / 30), math.sqrt(10 / 30 * 5 / 15), 0, 0]
    assert centreness(anchors, box).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("spec", [PyramidAnchors(), SPEC, PyramidAnchors(rounded=True)])
def test_levels_are_those_the_anchors_were_made_for(spec):
    size = (200, 328)
    levels = spec.levels_of(spec.make(size))
    assert (levels.sum(0) == 1).all()
    numbers = levels.int().argmax(0).tolist()
    runs = [(number, len(list(run))) for number, run in groupby(numbers)]
    assert runs == list(enumerate(c // spec.per_position[0] for c in spec.counts(size)))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"gt_boxes": torch.zeros(3)}, "or \\(B, G, 4\\)"),
        ({"anchors": torch.zeros(15, 4)}, "cannot stand at"),
        ({"levels": torch.ones(16, dtype=torch.bool)}, "a row a level"),
        ({"valid": torch.ones(2, dtype=torch.bool)}, "a bool a box"),
        ({"k": 0}, "at least 1 position"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    fine = {"gt_boxes": torch.zeros(1, 4), "anchors": PLAIN.make(32), "levels": EVERY}
    with pytest.raises(ValueError, match=words):
        match_atss(**fine | change)
