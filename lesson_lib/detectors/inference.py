"""Inference: from raw outputs to detections. Threshold, decode the survivors, clip, NMS by class, keep the best.

Each function gives, for every picture, {"boxes" (N, 4) xyxy pixels, "scores" (N,), "labels" (N,) int64 in
0..K-1}, best score first: what lesson_lib.evaluation reads. Scores and boxes are float32 or more.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lesson_lib.boxes import (
    at_least_float32,
    clip_boxes,
    cxcywh_to_xyxy,
    pairwise_iou,
    xyxy_to_cxcywh,
)
from lesson_lib.coding import NO_VARIANCES, VARIANCES, decode
from lesson_lib.detectors.criterion import Outputs, check_outputs
from lesson_lib.nms import class_aware_nms

Detections = list[dict[str, Tensor]]


@torch.no_grad()
def ssd_detections(
    outputs: Outputs,
    anchors: Tensor,
    size: tuple[int, int],
    *,
    score_threshold: float = 0.01,
    nms_threshold: float = 0.45,
    max_detections: int = 200,
    topk: int = 400,
    vote: float = 0.0,
    variances: tuple[float, float] = VARIANCES,
) -> Detections:
    """SSD's inference (arXiv:1512.02325, section 3): confidence over `score_threshold`, NMS, the best
    `max_detections` a picture.

    outputs: cls_logits (B, A, K + 1), channel 0 background; anchors (A, 4) xyxy; size (height, width) pixels.
    The score of label k is channel k + 1 of the softmax; an anchor may give a detection for several classes.
    topk: at most so many of a class and picture go into NMS, as in the authors' release; no part of the paper.
    vote: if not 0, what NMS keeps is moved by `box_vote` at this IoU; no part of the paper either.
    ValueError for outputs that are not finite or do not fit the anchors.
    """
    check_outputs(outputs, anchors)
    scores = at_least_float32(outputs.cls_logits).softmax(-1)[..., 1:]  # (B, A, K)
    return [
        _best(
            picture,
            score_threshold,
            lambda row, label: label,
            topk,
            deltas,
            anchors,
            size,
            variances,
            nms_threshold,
            max_detections,
            vote,
        )
        for picture, deltas in zip(scores, outputs.box_deltas)
    ]


@torch.no_grad()
def retinanet_detections(
    outputs: Outputs,
    anchors: Tensor,
    size: tuple[int, int],
    *,
    score_threshold: float = 0.05,
    topk: int = 1000,
    counts: Sequence[int] | None = None,
    nms_threshold: float = 0.5,
    max_detections: int = 100,
    vote: float = 0.0,
    variances: tuple[float, float] = NO_VARIANCES,
) -> Detections:
    """RetinaNet's inference (FL, arXiv:1708.02002, section 4.1): score over `score_threshold`, the best `topk` of each
    level, NMS.

    outputs: cls_logits (B, A, K); anchors (A, 4) xyxy; size (height, width) pixels.
    counts: anchors of each level (`PyramidAnchors.counts`), which sum to A; None takes all for one level.
    max_detections: at most so many a picture; the paper names no limit, COCO's evaluation reads 100. vote: as for SSD.
    ValueError for outputs that are not finite or do not fit the anchors, for counts that do not sum to A.
    """
    check_outputs(outputs, anchors)
    if counts is not None and sum(counts) != len(anchors):
        raise ValueError(f"counts sum to {sum(counts)}, but there are {len(anchors)} anchors.")
    ends = torch.tensor(counts or [len(anchors)], device=anchors.device).cumsum(0)
    least = (
        -math.inf if score_threshold <= 0 else math.log(score_threshold / (1 - score_threshold))
    )  # sigmoid(least) = it
    found = [
        _best(
            picture,
            least,
            lambda row, label: torch.bucketize(row, ends, right=True),
            topk,
            deltas,
            anchors,
            size,
            variances,
            nms_threshold,
            max_detections,
            vote,
            torch.sigmoid,
        )
        for picture, deltas in zip(at_least_float32(outputs.cls_logits), outputs.box_deltas)
    ]
    return [detections | {"scores": detections["scores"].sigmoid()} for detections in found]


def _best(
    scores: Tensor,
    least: float,
    group: Callable[[Tensor, Tensor], Tensor],
    topk: int,
    deltas: Tensor,
    anchors: Tensor,
    size: tuple[int, int],
    variances: tuple[float, float],
    nms_threshold: float,
    max_detections: int,
    vote: float,
    probability: Callable[[Tensor], Tensor] = lambda scores: scores,
) -> dict[str, Tensor]:
    """The `max_detections` best detections of one picture.

    scores (A, K), of which those over `least` count; group: rows and labels (N,) -> (N,) group numbers, of each
    of which only the best `topk` take part; deltas, anchors (A, 4). A box that lies wholly outside is dropped.
    The best few candidates decide: what NMS leaves of them does not change when worse ones join. So a few go
    first, and four times as many only where too little was left. In a vote all of them count.
    """
    tried = 4 * max_detections if not vote else scores.numel()
    while True:
        scored, rows, labels = _highest(scores, tried)  # each (N,), falling
        all_tried = tried >= scores.numel() or bool(scored[-1] <= least)
        over = (scored > least) & (_rank_within(group(rows, labels)) < topk)
        scored, rows, labels = scored[over], rows[over], labels[over]
        boxes = decode(deltas[rows], xyxy_to_cxcywh(anchors[rows]), variances)  # (N, 4)
        boxes = clip_boxes(cxcywh_to_xyxy(boxes), size)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes, scored, labels = boxes[inside], scored[inside], labels[inside]
        kept = class_aware_nms(boxes, scored, labels, nms_threshold)[:max_detections]
        if len(kept) == max_detections or all_tried:
            final = (
                box_vote(boxes, probability(scored), labels, kept, vote) if vote else boxes[kept]
            )
            return {"boxes": final, "scores": scored[kept], "labels": labels[kept]}
        tried *= 4


def box_vote(boxes: Tensor, scores: Tensor, labels: Tensor, kept: Tensor, iou: float) -> Tensor:
    """What NMS keeps, each box drawn to the others that found the same object: their mean, weighted by score.

    boxes (N, 4) xyxy, scores (N,) over 0, labels (N,) of all candidates; kept (M,): indices of what NMS kept.
    Returns (M, 4). Those of the same class with an IoU of `iou` or more vote, the kept one among them, so scores
    stay, and several anchors agree on each edge better than the surest alone ("bounding box voting" of Gidaris and
    Komodakis, arXiv:1505.01749). ValueError unless 0 < iou <= 1.
    """
    if not 0 < iou <= 1:
        raise ValueError(f"vote is {iou}; give an IoU over 0 and at most 1, or 0 for no vote.")
    same = labels[kept].unsqueeze(1) == labels  # (M, N)
    weights = scores * (same & (pairwise_iou(boxes[kept], boxes) >= iou))
    return weights @ boxes / weights.sum(1, keepdim=True)


def _highest(scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` highest of (A, K), falling, with their rows and columns.

    They lie in the `count` rows of highest maximum, so that few are sorted.
    """
    rows = scores.amax(1).topk(min(count, len(scores))).indices
    part = scores[rows].flatten()
    values, place = part.topk(min(count, len(part)))
    return values, rows[place // scores.shape[1]], place % scores.shape[1]


def _rank_within(groups: Tensor) -> Tensor:
    """How many of the same group stand before: (N,) -> (N,)."""
    order = groups.argsort(stable=True)
    first = torch.searchsorted(groups[order], groups)  # where each one's group begins
    return (
        torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        - first
    )
