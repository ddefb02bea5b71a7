"""Inference: from raw outputs to detections.

Threshold, decode the survivors, clip, NMS by class, keep the best.

Each function gives, for every picture, {"boxes" (N, 4) xyxy pixels, "scores" (N,), "labels" (N,)
int64 in 0..K-1}, best score first: what lesson_lib.evaluation reads. Scores and boxes are float32
or more.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

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
#: The options of inference that a model's config holds.
OPTIONS = ("score_threshold", "nms_threshold", "max_detections", "topk", "vote")
#: Where several views vote, what scores over this in any of them takes part, whatever is asked of
#: the mean: else a threshold would change the mean itself.
VOTES_FROM = 0.01


def inference_options(config: Any) -> dict[str, Any]:
    """A config's own OPTIONS, as arguments."""
    return {name: getattr(config, name) for name in OPTIONS}


def check_config(config: Any) -> None:
    """ValueError with one sentence for what no detector's config may hold."""
    if config.num_classes < 1:
        raise ValueError(
            f"num_classes is {config.num_classes}; count the objects' classes, at least 1."
        )
    if len(config.variances) != 2 or not all(0 < v < math.inf for v in config.variances):
        raise ValueError(
            f"variances is {config.variances}; give two positive numbers, for centres and sizes."
        )
    for name in ("score_threshold", "nms_threshold", "vote"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; give a number from 0 to 1.")
    for name in ("max_detections", "topk"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; give 1 or more.")


class _Rule(NamedTuple):
    """How the detections of one picture are chosen, all but the grouping of their candidates."""

    size: tuple[int, int]  # (height, width), pixels
    least: float  # scores over it take part: a probability, or a logit
    score_threshold: float  # those of detections are over it: a probability
    views: int
    topk: int  # in all views together
    nms_threshold: float
    max_detections: int
    vote: float
    variances: tuple[float, float]


@torch.no_grad()
def ssd_detections(  # noqa: PLR0913  the options of one algorithm, all by name
    outputs: Outputs,
    anchors: Tensor,
    size: tuple[int, int],
    *,
    score_threshold: float = 0.01,
    nms_threshold: float = 0.45,
    max_detections: int = 200,
    topk: int = 400,
    vote: float = 0.0,
    views: int = 1,
    variances: tuple[float, float] = VARIANCES,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> Detections:
    """SSD's inference (arXiv:1512.02325, section 3): the best `max_detections` a picture after NMS.

    outputs: cls_logits (B, A, K + 1), channel 0 background; anchors (A, 4) xyxy; size
    (height, width) pixels. The score of label k is channel k + 1 of the softmax, and counts over
    `score_threshold`; an anchor may give a detection for several classes.
    topk: at most so many of a class and picture go into NMS, as in the authors' release; no part of
    the paper.
    vote: if not 0, what NMS keeps is moved by `box_vote` at this IoU; no part of the paper either.
    views: outputs and anchors are those of so many views of each picture, one after the other, see
    `views.outputs_in_views`; topk counts in each. With a vote scores are means, see `box_vote`.
    sizes: (height, width) of each picture itself, at the upper left of what fills up `size`: its
    boxes are clipped there. None: `size`.
    ValueError for outputs that are not finite or do not fit the anchors.
    """
    check_outputs(outputs, anchors)
    _check_views(views, anchors)
    least = _least(score_threshold, views, vote)
    rule = _Rule(
        size,
        least,
        score_threshold,
        views,
        views * topk,
        nms_threshold,
        max_detections,
        vote,
        variances,
    )
    scores = at_least_float32(outputs.cls_logits).softmax(-1)[..., 1:]  # (B, A, K)
    return [
        _detected(picture, deltas, anchors, own, lambda row, label: label)
        for picture, deltas, own in zip(scores, outputs.box_deltas, _rules(rule, scores, sizes))
    ]


@torch.no_grad()
def retinanet_detections(  # noqa: PLR0913  the options of one algorithm, all by name
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
    views: int = 1,
    variances: tuple[float, float] = NO_VARIANCES,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> Detections:
    """RetinaNet's inference (FL, arXiv:1708.02002, section 4.1): each level's best `topk`, then
    NMS.

    outputs: cls_logits (B, A, K); anchors (A, 4) xyxy; size (height, width) pixels.
    score_threshold: scores over it count; 1 leaves none.
    counts: anchors of each level (`PyramidAnchors.counts`), which sum to A, in one view; None takes
    all for one level.
    max_detections: of a picture; the paper names no limit, COCO's evaluation reads 100. vote,
    views, sizes: as for SSD.
    ValueError for outputs that are not finite or do not fit the anchors, for counts that do not sum
    to A.
    """
    check_outputs(outputs, anchors)
    _check_views(views, anchors)
    levels = views * list(counts or [len(anchors) // views])
    if sum(levels) != len(anchors):
        raise ValueError(f"counts sum to {sum(levels)}, but there are {len(anchors)} anchors.")
    ends = torch.tensor(levels, device=anchors.device).cumsum(0)
    least = _logit(_least(score_threshold, views, vote))
    rule = _Rule(
        size, least, score_threshold, views, topk, nms_threshold, max_detections, vote, variances
    )
    logits = at_least_float32(outputs.cls_logits)
    return [
        _detected(
            picture,
            deltas,
            anchors,
            own,
            lambda row, label: torch.bucketize(row, ends, right=True),
            torch.sigmoid,
        )
        for picture, deltas, own in zip(logits, outputs.box_deltas, _rules(rule, logits, sizes))
    ]


def _check_views(views: int, anchors: Tensor) -> None:
    if views < 1 or len(anchors) % views:
        raise ValueError(
            f"views is {views}, but there are {len(anchors)} anchors; give as many of each view."
        )


def _rules(
    rule: _Rule, pictures: Tensor, sizes: Sequence[tuple[int, int]] | None
) -> Iterator[_Rule]:
    """The rule of each picture (B, ...), which is to be clipped at a size of its own."""
    if sizes is not None and len(sizes) != len(pictures):
        raise ValueError(f"{len(sizes)} sizes for {len(pictures)} pictures; give one for each.")
    return (rule._replace(size=size) for size in sizes or [rule.size] * len(pictures))


def _least(score_threshold: float, views: int, vote: float) -> float:
    """The score over which a candidate takes part."""
    return min(score_threshold, VOTES_FROM) if vote and views > 1 else score_threshold


def _logit(probability: float) -> float:
    """The x of which sigmoid(x) = probability; infinite at and beyond 0 and 1."""
    if probability <= 0:
        return -math.inf
    if probability >= 1:
        return math.inf
    return math.log(probability / (1 - probability))


def _detected(  # a picture, and how its candidates are grouped and weighed
    scores: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    rule: _Rule,
    group: Callable[[Tensor, Tensor], Tensor],
    probability: Callable[[Tensor], Tensor] = lambda scores: scores,
) -> dict[str, Tensor]:
    """The best detections of one picture.

    scores (A, K); deltas, anchors (A, 4); group: rows and labels (N,) -> (N,) group numbers, of
    each of which only the best `topk` take part; probability: of scores. A box that lies wholly
    outside is dropped.
    The best few candidates decide: what NMS leaves of them does not change when worse ones join. So
    a few go first, and four times as many only where too little was left. In a vote all of them
    count.
    """
    tried = 4 * rule.max_detections
    while True:
        if rule.vote:
            scored, rows, labels = _over(scores, rule.least)
            all_tried = True
        else:
            scored, rows, labels = _highest(scores, tried)  # each (N,), falling
            all_tried = tried >= scores.numel() or bool(scored[-1] <= rule.least)
        counts = (scored > rule.least) & (_rank_within(group(rows, labels)) < rule.topk)
        scored, rows, labels = scored[counts], rows[counts], labels[counts]
        boxes = decode(deltas[rows], xyxy_to_cxcywh(anchors[rows]), rule.variances)  # (N, 4)
        boxes = clip_boxes(cxcywh_to_xyxy(boxes), rule.size)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes, scored, labels, rows = (x[inside] for x in (boxes, scored, labels, rows))
        kept = class_aware_nms(boxes, scored, labels, rule.nms_threshold)[: rule.max_detections]
        if len(kept) == rule.max_detections or all_tried:
            break
        tried *= 4
    surest = {"boxes": boxes[kept], "scores": probability(scored[kept]), "labels": labels[kept]}
    if not rule.vote:
        return surest
    view = rows // (len(anchors) // rule.views) if rule.views > 1 else None
    voters = boxes, probability(scored), labels
    means, sure = box_vote(*voters, kept, rule.vote, view, rule.views)
    order = sure.argsort(descending=True, stable=True)
    if view is not None:
        order = order[sure[order] > rule.score_threshold]
    return {"boxes": means[order], "scores": sure[order], "labels": labels[kept][order]}


def box_vote(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    kept: Tensor,
    iou: float,
    view: Tensor | None = None,
    views: int = 1,
) -> tuple[Tensor, Tensor]:
    """What NMS keeps, as all say who found the same object.

    boxes (N, 4) xyxy, scores (N,) over 0, labels (N,) of all candidates; kept (M,): indices of what
    NMS kept. Those of the same class with an IoU of `iou` or more vote, the kept one among them.
    view (N,): in which of so many `views` each was found; None: there is one.
    Returns boxes (M, 4), the mean of the voters' weighted by score: several anchors agree on each
    edge better than the surest alone ("bounding box voting" of Gidaris and Komodakis,
    arXiv:1505.01749); and scores (M,): of one view they stay, of several the mean of each view's
    surest voter, 0 where there is none (as in "weighted boxes fusion" of Solovyev et al.,
    arXiv:1910.13302, section 3: what few find counts less). ValueError unless 0 < iou <= 1.
    """
    if not 0 < iou <= 1:
        raise ValueError(f"vote is {iou}; give an IoU over 0 and at most 1, or 0 for no vote.")
    same = labels[kept].unsqueeze(1) == labels  # (M, N)
    weights = scores * (same & (pairwise_iou(boxes[kept], boxes) >= iou))
    means = weights @ boxes / weights.sum(1, keepdim=True)
    if view is None:
        return means, scores[kept]
    surest = weights.new_zeros(len(kept), views)
    return means, surest.scatter_reduce(1, view.expand_as(weights), weights, "amax").mean(1)


def _over(scores: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """All of (A, K) over `least`, falling, with their rows and columns;
    of equals the first first.
    """
    rows, labels = (scores > least).nonzero(as_tuple=True)
    values, order = scores[rows, labels].sort(descending=True, stable=True)
    return values, rows[order], labels[order]


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
