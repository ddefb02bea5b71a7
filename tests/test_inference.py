import math

import pytest
import torch
from torch import tensor

from lesson_lib.anchors import PyramidAnchors, level_slices, pyramid_anchors
from lesson_lib.boxes import pairwise_iou, xyxy_to_cxcywh
from lesson_lib.coding import NO_VARIANCES, VARIANCES, encode
from lesson_lib.detectors.criterion import Outputs
from lesson_lib.detectors.inference import retinanet_detections, ssd_detections
from lesson_lib.evaluation import recall_at
from lesson_lib.matching import match_ssd, take_matched

SPEC = PyramidAnchors(strides=(8, 16), sizes=(12, 24), scales=(1, 2), aspect_ratios=(1,))
SIZE = (64, 80)
ANCHORS = pyramid_anchors(SIZE, SPEC)
COUNTS = SPEC.counts(SIZE)
KINDS = {
    "ssd": (ssd_detections, 1, VARIANCES),
    "retinanet": (retinanet_detections, 0, NO_VARIANCES),
}
both = pytest.mark.parametrize("detect, background, variances", KINDS.values(), ids=KINDS)
TRUTH = {
    "boxes": tensor([[3.0, 4, 15, 17], [20, 10, 46, 33], [22, 10, 46, 33], [50, 30, 80, 64]]),
    "labels": tensor([2, 0, 1, 0]),
}


def silent(pictures, background, classes=3, anchors=None):
    """Outputs that see nothing: background, or no class."""
    anchors = len(ANCHORS) if anchors is None else anchors
    logits = torch.full((pictures, anchors, classes + background), -9.0)
    if background:
        logits[..., 0] = 9.0
    return Outputs(logits, torch.zeros(pictures, anchors, 4))


def tell_truth(target, background, variances):
    """Outputs of a perfect network: every positive anchor gives its object's class and offsets."""
    out = silent(1, background)
    match = match_ssd(target["boxes"], ANCHORS)
    boxes = take_matched(target["boxes"], match.gt_index, default=ANCHORS)
    out.box_deltas[0] = encode(xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(ANCHORS), variances)
    for row in (match.label == 1).nonzero().flatten():
        if background:
            out.cls_logits[0, row, 0] = -9.0
        out.cls_logits[0, row, target["labels"][match.gt_index[row]] + background] = 9.0
    return out


def speak(out, picture, row, label, background, logit=0.0):
    """One anchor of `out` says one class at sigmoid or softmax of `logit` against the rest."""
    out.cls_logits[picture, row] = -99.0
    if background:
        out.cls_logits[picture, row, 0] = 0.0
    out.cls_logits[picture, row, label + background] = logit


@both
def test_outputs_made_of_the_ground_truth_give_it_back(detect, background, variances):
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    outputs = [tell_truth(t, background, variances) for t in (TRUTH, empty)]
    out = Outputs(*(torch.cat(parts) for parts in zip(*outputs)))
    found, nothing = detect(out, ANCHORS, SIZE, variances=variances, score_threshold=0.05)
    assert len(nothing["boxes"]) == 0 and nothing["boxes"].shape == (0, 4)
    order = (found["boxes"][:, 0] * 100 + found["labels"]).argsort()
    torch.testing.assert_close(found["boxes"][order], TRUTH["boxes"], atol=1e-4, rtol=0)
    assert found["labels"][order].tolist() == TRUTH["labels"].tolist()
    assert found["scores"].min() > 0.99


@both
@pytest.mark.parametrize("label", [0, 1, 2])
def test_labels_and_scores(detect, background, variances, label):
    out = silent(2, background)
    speak(out, 1, 57, label, background, logit=1.0)
    none, one = detect(out, ANCHORS, SIZE)
    assert len(none["scores"]) == 0
    assert one["labels"].tolist() == [label]
    assert one["scores"].item() == pytest.approx(
        1 / (1 + math.exp(-1))
    )  # sigmoid; softmax of (0, 1)
    torch.testing.assert_close(one["boxes"], ANCHORS[[57]].clamp(min=0))


@both
def test_threshold_is_exclusive_and_may_be_zero(detect, background, variances):
    out = silent(1, background)
    speak(out, 0, 40, 1, background, logit=0.0)  # a score of .5
    assert len(detect(out, ANCHORS, SIZE, score_threshold=0.5)[0]["scores"]) == 0
    assert len(detect(out, ANCHORS, SIZE, score_threshold=0.499)[0]["scores"]) == 1
    everything = detect(
        out, ANCHORS, SIZE, score_threshold=0.0, nms_threshold=1.0, max_detections=10**6
    )[0]
    assert len(everything["scores"]) == len(ANCHORS) * 3


@both
def test_one_anchor_may_hold_two_classes_and_nms_stays_within_one(detect, background, variances):
    out = silent(1, background)
    for row, label in ((90, 0), (90, 1), (91, 0)):  # 90, 91: sizes of one cell
        speak(out, 0, row, label, background)
    out.cls_logits[0, 90, [0 + background, 1 + background]] = tensor([2.0, 1.0])
    overlap = pairwise_iou(ANCHORS[90:91], ANCHORS[91:92]).item()
    assert sorted(
        detect(out, ANCHORS, SIZE, nms_threshold=overlap + 0.01)[0]["labels"].tolist()
    ) == [0, 0, 1]
    assert sorted(
        detect(out, ANCHORS, SIZE, nms_threshold=overlap - 0.01)[0]["labels"].tolist()
    ) == [0, 1]


@both
def test_boxes_are_clipped_and_those_outside_dropped(detect, background, variances):
    out = silent(1, background)
    speak(out, 0, 1, 0, background)  # -8 .. 16 px
    speak(out, 0, 60, 0, background)
    out.box_deltas[0, 60, 0] = 100.0  # far to the right
    assert ANCHORS[1].tolist() == [-8, -8, 16, 16]
    assert detect(out, ANCHORS, SIZE)[0]["boxes"].tolist() == [[0, 0, 16, 16]]


@both
def test_keep_takes_the_best(detect, background, variances):
    out = silent(1, background)
    rows = range(0, 160, 20)
    for i, row in enumerate(rows):
        speak(out, 0, row, 0, background, logit=float(i))
    scores = detect(out, ANCHORS, SIZE, max_detections=3)[0]["scores"]
    assert scores.tolist() == pytest.approx([1 / (1 + math.exp(-i)) for i in (7, 6, 5)])


def test_topk_is_counted_by_level_in_retinanet_and_by_class_in_ssd():
    fine, coarse = level_slices(COUNTS)
    out = silent(1, 0)
    for i in range(8):
        speak(out, 0, fine.start + 10 * i, 0, 0, logit=3.0 + i)
    for i in range(4):
        speak(out, 0, coarse.start + 2 * i, 1, 0, logit=float(i))
    wide = dict(nms_threshold=1.0)
    assert retinanet_detections(out, ANCHORS, SIZE, topk=5, **wide)[0]["labels"].tolist() == [0] * 5
    by_level = retinanet_detections(out, ANCHORS, SIZE, topk=3, counts=COUNTS, **wide)[0]
    assert by_level["labels"].tolist() == [0, 0, 0, 1, 1, 1]
    assert by_level["scores"][:3].min() > torch.sigmoid(tensor(7.5))
    assert by_level["scores"][3:].tolist() == pytest.approx(
        [1 / (1 + math.exp(-i)) for i in (3, 2, 1)]
    )
    out = silent(1, 1)
    for i in range(8):
        speak(out, 0, 10 * i, i % 2, 1, logit=float(i))
    by_class = ssd_detections(out, ANCHORS, SIZE, topk=3, **wide)[0]
    assert sorted(by_class["labels"].tolist()) == [0, 0, 0, 1, 1, 1]


@both
@pytest.mark.parametrize(
    "spread, keep, topk", [(1.0, 5, 400), (0.02, 5, 400), (0.02, 20, 30), (0.2, 10**4, 10**4)]
)
def test_the_best_by_the_long_way(
    detect, background, variances, spread, keep, topk
):  # long: the long way
    """All classes and anchors one by one.

    Little spread puts all boxes on top of each other: of many candidates one survives, and the
    first few are not enough.
    """
    generator = torch.Generator().manual_seed(0)
    out = Outputs(
        torch.randn(2, len(ANCHORS), 3 + background, generator=generator),
        torch.zeros(2, len(ANCHORS), 4),
    )
    out.cls_logits[:, :160, background] += 3  # these come first, and are of one class
    spread = tensor([spread] * 160 + [1.0] * (len(ANCHORS) - 160))[:, None]
    middle = (
        tensor([32.0, 40, 20, 16])
        + spread * 20 * torch.randn(2, len(ANCHORS), 4, generator=generator).abs()
    )
    out.box_deltas[:] = encode(middle, xyxy_to_cxcywh(ANCHORS), variances)
    options = dict(counts=COUNTS) if detect is retinanet_detections else {}
    found = detect(
        out,
        ANCHORS,
        SIZE,
        score_threshold=0.3,
        max_detections=keep,
        topk=topk,
        nms_threshold=0.5,
        variances=variances,
        **options,
    )
    for picture in range(2):
        logits = out.cls_logits[picture]
        scores = logits.softmax(-1)[:, 1:] if background else logits.sigmoid()
        candidates = [
            (float(scores[row, label]), row, label)
            for row in range(len(ANCHORS))
            for label in range(3)
            if scores[row, label] > 0.3
        ]
        group = (lambda c: c[2]) if background else (lambda c: c[1] >= COUNTS[0])
        seen, kept, boxes = {}, [], middle[picture]
        corners = torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)
        corners = corners.clamp(min=0).minimum(tensor([80.0, 64, 80, 64]))
        iou, inside = pairwise_iou(corners, corners), (corners[:, 2:] > corners[:, :2]).all(1)
        for score, row, label in sorted(candidates, reverse=True):
            seen[group((score, row, label))] = seen.get(group((score, row, label)), 0) + 1
            allowed = seen[group((score, row, label))] <= topk and len(kept) < keep and inside[row]
            free = all(label != other or iou[row, place] <= 0.5 for _, place, other in kept)
            if allowed and free:
                kept.append((score, row, label))
        assert len(kept) >= 3 and found[picture]["labels"].tolist() == [
            label for _, _, label in kept
        ]
        assert torch.allclose(found[picture]["scores"], tensor([score for score, _, _ in kept]))
        assert torch.allclose(
            found[picture]["boxes"], corners[[row for _, row, _ in kept]], atol=1e-3
        )


@both
def test_the_vote_by_hand(detect, background, variances):
    """Three boxes of one class: the second overlaps the first by 18 / 22, the third by 10 / 30; one
    of another class lies where the second does, and has no say.
    """
    boxes = tensor([[10.0, 10, 30, 30], [12.0, 10, 32, 30], [20.0, 10, 40, 30], [12.0, 10, 32, 30]])
    scores, labels = (0.8, 0.4, 0.6, 0.7), (1, 1, 1, 2)
    out, rows = silent(1, background), [40, 50, 60, 70]
    for row, score, label in zip(rows, scores, labels):
        speak(out, 0, row, label, background, logit=math.log(score / (1 - score)))
    out.box_deltas[0, rows] = encode(
        xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(ANCHORS[rows]), variances
    )
    plain = detect(out, ANCHORS, SIZE, nms_threshold=0.45, variances=variances)[0]
    moved = detect(out, ANCHORS, SIZE, nms_threshold=0.45, variances=variances, vote=0.7)[0]
    assert plain["scores"].tolist() == moved["scores"].tolist() == pytest.approx([0.8, 0.7, 0.6])
    assert moved["labels"].tolist() == [1, 2, 1]
    torch.testing.assert_close(plain["boxes"], boxes[[0, 3, 2]], atol=1e-4, rtol=0)
    by_hand = (0.8 * 10 + 0.4 * 12) / 1.2  # the left edge
    expected = tensor([[by_hand, 10, by_hand + 20, 30], [12, 10, 32, 30], [20, 10, 40, 30]])
    torch.testing.assert_close(moved["boxes"], expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="vote is 1.5; give an IoU"):
        detect(out, ANCHORS, SIZE, variances=variances, vote=1.5)


@both
def test_bfloat16_outputs(detect, background, variances):
    out = Outputs(*(x.bfloat16() for x in tell_truth(TRUTH, background, variances)))
    found = detect(out, ANCHORS, SIZE)[0]
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    assert len(found["boxes"]) == 4


@both
def test_refusals(detect, background, variances):
    out = silent(2, background)
    with pytest.raises(ValueError, match="do not fit"):
        detect(out, ANCHORS[1:], SIZE)
    out.box_deltas[1, 0, 0] = math.nan
    with pytest.raises(ValueError, match="picture 1 of the batch hold NaN"):
        detect(out, ANCHORS, SIZE)


def test_counts_must_sum_to_the_anchors():
    with pytest.raises(ValueError, match="counts sum to 7"):
        retinanet_detections(silent(1, 0), ANCHORS, SIZE, counts=(3, 4))


# ---- recall ----


def test_recall_by_hand():
    objects = tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [40.0, 0.0, 50.0, 10.0]])
    targets = [{"boxes": objects, "labels": tensor([0, 0, 1])}]
    found = {
        "boxes": tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [40, 0, 50, 10], [20, 0, 30, 5]]),
        "scores": tensor([0.3, 0.9, 0.2, 0.1]),
        "labels": tensor([0, 0, 0, 0]),
    }
    names = ("a", "b", "c")
    assert recall_at([found], targets, names) == {"a": 1.0, "b": 0.0}  # c has no objects
    assert recall_at([found], targets, names, iou=0.6) == {
        "a": 0.5,
        "b": 0.0,
    }  # the last overlaps by .5
    assert (
        recall_at([found], targets, names, max_detections=3)["a"] == 0.5
    )  # one object counts once
    assert recall_at([found], targets, names, score_threshold=0.15)["a"] == 0.5
    assert recall_at([found], targets, names, max_detections=0) == {"a": 0.0, "b": 0.0}
