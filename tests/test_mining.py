import math
from fractions import Fraction
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lesson_lib import mining
from lesson_lib.mining import hard_negative_mask, hard_negative_mask_by_rank, ohem_mask
from lesson_lib.nms import greedy_nms

BY_PICTURE, AT_ONCE = (partial(hard_negative_mask, dense=dense) for dense in (False, True))
ALL = (BY_PICTURE, AT_ONCE, hard_negative_mask_by_rank)
every_way = pytest.mark.parametrize("mine", ALL, ids=["by picture", "at once", "by rank"])
refusing = pytest.mark.parametrize("mine", ALL[:2], ids=["by picture", "at once"])


def mined_by_sorting(loss, positive, negative, ratio, min_negatives):
    """Plain Python, one picture after the other."""
    masks = []
    for row, pos, neg in zip(loss.tolist(), positive.tolist(), negative.tolist()):
        order = sorted((i for i in range(len(row)) if neg[i]), key=lambda i: (-row[i], i))
        chosen = set(order[: max(int(Fraction(str(ratio)) * sum(pos)), min_negatives)])
        masks.append([i in chosen for i in range(len(row))])
    return masks


@st.composite
def batches(draw):
    """Losses with few different values, so with many ties; each anchor is positive, candidate or
    neither.
    """
    b, a = draw(st.integers(1, 3)), draw(st.integers(1, 30))
    loss = draw(st.lists(st.integers(0, 3), min_size=b * a, max_size=b * a))
    kind = draw(st.lists(st.sampled_from([1, 0, 0, 0, -1]), min_size=b * a, max_size=b * a))
    kind = torch.tensor(kind).view(b, a)
    return torch.tensor(loss).view(b, a) / 4, kind == 1, kind == 0


@settings(max_examples=200, deadline=None)
@given(batches(), st.sampled_from([0, 0.5, 1, 2.7, 3, 1000]), st.sampled_from([0, 4]))
def test_mining_keeps_the_ratio_and_all_ways_agree(batch, ratio, min_negatives):
    loss, positive, negative = batch
    for mine in ALL:
        mask = mine(loss, positive, negative, ratio, min_negatives)
        assert mask.dtype == torch.bool and not (mask & ~negative).any()
        assert mask.tolist() == mined_by_sorting(loss, positive, negative, ratio, min_negatives)
        if min_negatives == 0:
            counts = zip(mask.sum(1).tolist(), positive.sum(1).tolist())
            assert all(kept <= Fraction(str(ratio)) * count for kept, count in counts)


DECIMALS = [f"{tenths / 10:.1f}" for tenths in range(1, 101)] + ["0.01", "0.29", "0.35", "1.15"]


def test_the_quota_is_the_product_of_the_decimals_rounded_down():
    positive = torch.arange(400) < torch.arange(400)[:, None]  # a picture for each count 0 .. 399
    candidates = torch.ones(1, 1, dtype=torch.bool).expand(400, 4000)
    for text in DECIMALS:
        quota = mining._quota(positive, candidates, float(text), 0).flatten().tolist()
        assert quota == [math.floor(Fraction(text) * count) for count in range(400)], text


@pytest.mark.parametrize("ratio", [float(text) for text in DECIMALS])
def test_all_ways_have_the_same_quota(ratio):
    positive = torch.arange(400) < torch.arange(0, 400, 13)[:, None]
    loss = torch.arange(400.0).expand(positive.shape)
    kept = [mine(loss, positive, ~positive, ratio).sum(1) for mine in ALL]
    assert torch.equal(kept[0], kept[1]) and torch.equal(kept[0], kept[2])


@every_way
@pytest.mark.parametrize(("ratio", "kept"), [(1.3, 117), (0.7, 63)])
def test_a_product_that_floats_miss_is_kept_in_full(mine, ratio, kept):
    positive = torch.arange(300)[None] < 90
    assert mine(torch.rand(1, 300), positive, ~positive, ratio).sum() == kept


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("anchors", [8729, 8732])
@pytest.mark.parametrize("many_equal", [False, True])
def test_all_ways_agree_at_ssd300s_size(seed, anchors, many_equal):
    g = torch.Generator().manual_seed(seed)
    loss = torch.rand(5, anchors, generator=g)
    loss = (loss * 50).round() if many_equal else loss
    share = torch.tensor([[0.001], [0.01], [0.2], [0.4], [0.0]])
    positive = torch.rand(5, anchors, generator=g) < share
    masks = [mine(loss, positive, ~positive) for mine in ALL]
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])
    assert (
        masks[0].sum(1).tolist() == torch.minimum(3 * positive.sum(1), (~positive).sum(1)).tolist()
    )
    assert not masks[0][4].any()


@every_way
def test_of_equal_losses_the_first_are_taken(mine):
    loss = torch.tensor([[9.0, 1, 2, 1, 1, 2, 1]])
    positive = torch.tensor([[True, False, False, False, False, False, False]])
    assert mine(loss, positive, ~positive, 4).int().tolist() == [[0, 1, 1, 1, 0, 1, 0]]


@every_way
def test_pictures_without_objects_and_without_anchors(mine):
    loss, none = torch.tensor([[0.3, 0.1, 0.2]]), torch.zeros(1, 3, dtype=torch.bool)
    assert mine(loss, none, ~none).sum() == 0
    assert mine(loss, none, ~none, min_negatives=2).tolist() == [[True, False, True]]
    assert mine(loss, none, none, min_negatives=2).sum() == 0  # no candidate either
    assert mine(loss[:, :0], none[:, :0], none[:, :0], min_negatives=2).shape == (1, 0)
    assert mine(loss[:0], none[:0], none[:0]).shape == (0, 3)


@every_way
def test_infinite_losses_come_first_and_the_mask_has_no_gradient(mine):
    loss = torch.tensor([[0.0, float("inf"), 5.0, 7.0]], requires_grad=True)
    positive = torch.tensor([[True, False, False, False]])
    mask = mine(loss, positive, ~positive, 2)
    assert mask.tolist() == [[False, True, False, True]] and not mask.requires_grad


@refusing
@pytest.mark.parametrize("place", [7, 49])
def test_one_nan_is_refused_among_many_other_losses(mine, place):
    """Also where neither the last that gets in nor the next one is NaN."""
    loss = torch.arange(100.0).view(2, 50)
    loss[1, place] = float("nan")
    positive = torch.zeros(2, 50, dtype=torch.bool)
    positive[:, 0] = True
    with pytest.raises(ValueError, match="NaN"):
        mine(loss, positive, ~positive)
    positive[1, place] = True  # it is no candidate: nobody looks at it
    assert mine(loss, positive, ~positive).sum() == 9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_of_any_precision_are_mined(dtype):
    loss, positive = torch.arange(40.0)[None].to(dtype), torch.arange(40)[None] == 3
    masks = [mine(loss, positive, ~positive) for mine in ALL]
    assert all(mask.nonzero()[:, 1].tolist() == [37, 38, 39] for mask in masks)


def test_a_processor_goes_picture_by_picture_and_a_gpu_takes_all_at_once(monkeypatch):
    taken = []
    for name in ("_highest", "_highest_by_picture"):
        monkeypatch.setattr(mining, name, lambda *_, name=name: taken.append(name))
    loss, none = torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.bool)
    for dense in (None, False, True):
        hard_negative_mask(loss, none, ~none, dense=dense)
    hard_negative_mask(*(x.to("meta") for x in (loss, none, ~none)))
    assert taken == ["_highest_by_picture"] * 2 + ["_highest"] * 2


def test_refuses_nan_and_negative_numbers():
    loss, positive = torch.tensor([[0.1, float("nan")]]), torch.tensor([[True, False]])
    for mine in (BY_PICTURE, AT_ONCE):
        with pytest.raises(ValueError, match="NaN"):
            mine(loss, positive, ~positive)
    with pytest.raises(ValueError, match="NaN"):
        ohem_mask(loss, torch.zeros(2, 4))
    for mine in ALL:
        for wrong in ({"ratio": -1}, {"min_negatives": -1}):
            with pytest.raises(ValueError, match="0 or more"):
                mine(torch.zeros(1, 2), positive, ~positive, **wrong)
    with pytest.raises(ValueError, match="pass positive"):
        ohem_mask(torch.zeros(1, 2), torch.zeros(2, 4), ratio=3)


# ---- OHEM ----


def ohem_case(seed=0, anchors=400):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, anchors, 2, generator=g) * 60
    boxes = torch.cat((corner, corner + 10 + torch.rand(2, anchors, 2, generator=g) * 20), -1)
    return torch.rand(2, anchors, generator=g), boxes, torch.rand(2, anchors, generator=g) < 0.1


@pytest.mark.parametrize("keep", [128, 256, 512])
def test_ohem_takes_the_highest_losses_whatever_their_label(keep):
    loss, boxes, _ = ohem_case()
    mask = ohem_mask(loss, boxes, keep)
    assert mask.sum(1).tolist() == [min(keep, 400)] * 2
    assert keep > 400 or all(row[m].min() > row[~m].max() for row, m in zip(loss, mask))


@pytest.mark.parametrize("threshold", [0.7, 0.5])
def test_ohem_after_nms(threshold):
    loss, boxes, ignored = ohem_case()
    mask = ohem_mask(loss, boxes, 128, threshold, valid=~ignored)
    for row, box, out, got in zip(loss, boxes, ignored, mask):
        rows = (~out).nonzero().squeeze(1)
        expected = rows[greedy_nms(box[rows], row[rows], threshold)][:128]  # by falling loss
        assert got.nonzero().squeeze(1).tolist() == expected.sort().values.tolist()
    assert not torch.equal(mask, ohem_mask(loss, boxes, 128, valid=~ignored))
    shared = boxes[0]  # (A, 4), as anchors are
    assert torch.equal(
        ohem_mask(loss, shared, 128, threshold),
        ohem_mask(loss, torch.stack((shared, shared)), 128, threshold),
    )


def test_ohem_with_a_ratio():
    loss, boxes, positive = ohem_case()
    positive[1] = False
    mask = ohem_mask(loss, boxes, 64, ratio=3, positive=positive)
    assert (mask & positive).sum(1).tolist() == [16, 0] and (mask & ~positive).sum(1).tolist() == [
        48,
        0,
    ]
    for kind in (positive[0], ~positive[0]):
        assert loss[0][mask[0] & kind].min() > loss[0][~mask[0] & kind].max()
    few = ohem_mask(loss, boxes, 400, ratio=3, positive=positive)
    assert (few & positive).sum() == positive.sum() and (
        few & ~positive
    ).sum() == 3 * positive.sum()


def test_ohem_with_a_ratio_leaves_the_ignored_out():
    loss, boxes, positive = ohem_case()
    ignored = loss > 0.6
    mask = ohem_mask(loss, boxes, 64, ratio=3, positive=positive, valid=~ignored)
    assert not (mask & ignored).any() and mask.sum(1).tolist() == [64, 64]
    assert not (
        ohem_mask(loss, boxes, 400, ratio=3, positive=positive, valid=~ignored) & ignored
    ).any()


def test_ohem_with_nothing_to_choose_from():
    nobody = torch.zeros(2, 5, dtype=torch.bool)
    assert not ohem_mask(torch.ones(2, 5), torch.zeros(5, 4), 3, 0.5, valid=nobody).any()
    assert ohem_mask(torch.ones(2, 0), torch.zeros(0, 4), 3, 0.5).shape == (2, 0)
