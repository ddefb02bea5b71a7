"""Criterion: from raw outputs and ground truth to the two losses.

Only glue between the core's modules:

    pad the objects -> match them with the anchors -> each anchor's class and offsets -> (mine)
                    -> joint loss

Labels are 0..K-1. SSD's outputs have K + 1 channels: 0 is background, label k is channel k + 1;
this shift is made here and undone in inference.py, nowhere else. RetinaNet's have K and no
background. Anchors, matching and losses are float32 even where autocast makes the outputs bfloat16.
On a GPU nothing here waits for the device: values are looked at where they are on the CPU, shapes
everywhere.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lesson_lib.atss import match_atss
from lesson_lib.boxes import at_least_float32, cxcywh_to_xyxy, xyxy_to_cxcywh
from lesson_lib.coding import NO_VARIANCES, VARIANCES, decode, encode
from lesson_lib.data.objects import Objects
from lesson_lib.losses import BETA, retinanet_loss, ssd_loss
from lesson_lib.matching import (
    NEGATIVE,
    POSITIVE,
    Match,
    match_retinanet,
    match_ssd,
    take_matched,
)
from lesson_lib.mining import hard_negative_mask, hard_negative_mask_by_rank

#: One dict a picture: "boxes" (G, 4) xyxy pixels, "labels" (G,) int64, both on the outputs' device;
#: "id" if known. Or all of them at once, as `Objects`, with nothing to be done for each picture.
Targets = Sequence[dict[str, Any]]


class Outputs(NamedTuple):
    """What a network says of every anchor: cls_logits (B, A, C), C = K or K + 1; box_deltas
    (B, A, 4).
    """

    cls_logits: Tensor
    box_deltas: Tensor


#: Two ways to the same negatives: the highest alone, faster on a CPU; ranks, for which a GPU never
#: waits.
MINING = {"topk": hard_negative_mask, "rank": hard_negative_mask_by_rank}
MINING["sort"] = MINING["topk"]  # its name in 0.1.0


def ssd_criterion(  # noqa: PLR0913  the options of one loss, all by name
    outputs: Outputs,
    anchors: Tensor,
    targets: Targets,
    *,
    threshold: float = 0.5,
    best: str = "bipartite",
    inclusive: bool = True,
    ratio: float = 3.0,
    min_negatives: int = 0,
    mining: str = "topk",
    variances: tuple[float, float] = VARIANCES,
    loc_weight: float = 1.0,
    class_weights: tuple[float, ...] | None = None,
    normaliser: Callable[[Tensor], Tensor] | None = None,
    dense: bool | None = None,
) -> dict[str, Tensor]:
    """SSD's loss (arXiv:1512.02325, section 2.2) -> {"cls", "box"}: sums over the batch by the
    positives.

    outputs: cls_logits (B, A, K + 1), channel 0 background; anchors (A, 4) xyxy pixels; B targets.
    threshold, best, inclusive: see `match_ssd`; ratio, min_negatives: `hard_negative_mask`;
    mining: "topk" or "rank", which find the same; loc_weight: the paper's alpha.
    class_weights: for rare classes, a factor of each class's class loss, in the order of the
    classes; the background's is 1, and mining and the divisor know nothing of it. Neither paper has
    it. Twice the weight is about twice as many such objects, so a rare class is found more often,
    and more often where it is not: recall is bought with precision. See `data.sampling` for the
    other way, more pictures of it.
    A picture without objects has no positive, so no negative is mined from it and it teaches
    nothing, unless min_negatives says otherwise; where the whole batch has no object both losses
    are 0.
    normaliser: where several processes share a batch, from this one's positives to those of all:
    what both losses are divided by. Summed over the processes they are then those of the whole
    batch. It is called before anything that may fail in one process alone.
    ValueError for outputs that are not finite (with the picture's name), for unknown labels, for
    shapes that do not fit. Values are looked at where they are on the CPU, and nowhere else.
    dense: whether matching, mining and loss go the way of a GPU, see `match_ssd`,
    `hard_negative_mask` and `ssd_loss`; the results are the same. None: as the device needs it.
    """
    if mining not in MINING:
        raise ValueError(f"mining is {mining!r}; choose 'topk' or 'rank'.")
    _check_shapes(outputs, anchors, targets)
    weights = _on_device(class_weights, outputs.cls_logits, outputs.cls_logits.shape[-1] - 1)
    objects = Objects.of(targets)
    gt, valid = objects.boxes, objects.valid  # (B, G, 4), (B, G)
    match = match_ssd(gt, anchors, threshold, best, inclusive, valid, dense)  # (B, A)
    positive, negative = match.label == POSITIVE, match.label == NEGATIVE
    count = normaliser(positive.sum()) if normaliser else None
    _check_values(outputs, objects, outputs.cls_logits.shape[-1] - 1)
    with torch.no_grad():
        if_background = _background_loss(
            at_least_float32(outputs.cls_logits), dense
        )  # (B, A), -log c^0
        how = {} if mining == "rank" else {"dense": dense}
        mined = MINING[mining](if_background, positive, negative, ratio, min_negatives, **how)
    labels = objects.labels  # (B, G)
    if not (dense if dense is not None else not mined.is_cpu):
        count = positive.sum() if count is None else count
        mined, outputs, match, gt, labels, anchors = _speaking(
            positive | mined, mined, outputs, match, gt, labels, anchors
        )
    labels, box_targets = _anchor_targets(match, gt, labels, anchors, variances)
    return ssd_loss(
        outputs.cls_logits,
        outputs.box_deltas,
        labels + 1,
        box_targets,
        match.label == POSITIVE,
        mined,
        loc_weight,
        count,
        dense=True,
        class_weights=weights,
    )


def retinanet_criterion(  # noqa: PLR0913  the options of one loss, all by name
    outputs: Outputs,
    anchors: Tensor,
    targets: Targets,
    *,
    positive: float = 0.5,
    negative: float = 0.4,
    force_best: bool = True,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    beta: float = BETA,
    class_weights: tuple[float, ...] | None = None,
    per_image: bool = False,
    variances: tuple[float, float] = NO_VARIANCES,
    normaliser: Callable[[Tensor], Tensor] | None = None,
    dense: bool | None = None,
    matcher: str = "iou",
    candidates: int = 9,
    levels: Tensor | None = None,
    box_loss: str = "smooth_l1",
    loc_weight: float = 1.0,
) -> dict[str, Tensor]:
    """RetinaNet's loss (FL, arXiv:1708.02002, section 4) -> {"cls", "box"}.

    Sums over the batch, divided by max(1, positives).
    outputs: cls_logits (B, A, K), no background; anchors (A, 4) xyxy pixels; B targets.
    positive, negative, force_best: see `match_retinanet`; alpha, gamma, beta, per_image:
    `retinanet_loss`. gamma=0 with alpha=None is plain cross entropy of K sigmoids.
    class_weights: as in `ssd_criterion`, but factors of alpha: the objects' side alone.
    A picture without objects teaches its background.
    ValueError, normaliser and dense as in `ssd_criterion`; per_image is for one process.
    What came after the paper, each off unless asked for:
    matcher="atss": `atss.match_atss` chooses the positives, of `candidates` positions a level;
    levels (L, P): the positions of each level, see there. box_loss="giou": `giou_loss` of the boxes
    that the offsets make, instead of smooth L1 of the offsets. loc_weight: a factor of "box".
    """
    if per_image and normaliser:
        raise ValueError(
            "per_image divides by each picture's positives: several processes, or a batch in "
            "parts (accumulate), need per_image=False."
        )
    _check_shapes(outputs, anchors, targets)
    weights = _on_device(class_weights, outputs.cls_logits, outputs.cls_logits.shape[-1])
    objects = Objects.of(targets)
    gt, valid = objects.boxes, objects.valid  # (B, G, 4), (B, G)
    if matcher == "atss":
        match = _match_atss(gt, anchors, levels, candidates, valid)
    elif matcher == "iou":
        match = match_retinanet(gt, anchors, positive, negative, force_best, valid, dense)
    else:
        raise ValueError(f"matcher is {matcher!r}; choose 'iou' (the paper's) or 'atss'.")
    count = normaliser((match.label == POSITIVE).sum()) if normaliser else None
    _check_values(outputs, objects, outputs.cls_logits.shape[-1])
    labels, box_targets = anchor_targets(match, gt, objects, anchors, variances)
    box_deltas = outputs.box_deltas
    if box_loss == "giou":
        box_deltas, box_targets = _as_boxes(match, box_deltas, gt, anchors, variances)
    losses = retinanet_loss(
        outputs.cls_logits,
        box_deltas,
        labels,
        box_targets,
        match.label,
        alpha,
        gamma,
        beta,
        per_image,
        count,
        dense,
        weights,
        box_loss,
    )
    return {"cls": losses["cls"], "box": loc_weight * losses["box"]}


def _match_atss(
    gt: Tensor, anchors: Tensor, levels: Tensor | None, candidates: int, valid: Tensor
) -> Match:
    if levels is None:
        raise ValueError(
            "matcher='atss' needs `levels`, the positions of each level: call the model's "
            "criterion, which knows them."
        )
    return match_atss(gt, anchors, levels, candidates, valid)


def _as_boxes(
    match: Match, deltas: Tensor, gt: Tensor, anchors: Tensor, variances: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """The boxes (B, A, 4) xyxy that positive anchors predict, and those of their objects.

    All others predict themselves, are their own target, and have no gradient.
    """
    positive = (match.label == POSITIVE).unsqueeze(-1)
    deltas = torch.where(positive, at_least_float32(deltas), 0)
    boxes = cxcywh_to_xyxy(decode(deltas, xyxy_to_cxcywh(anchors), variances))
    return boxes, take_matched(gt, match.gt_index, default=anchors)


def anchor_targets(
    match: Match, gt: Tensor, targets: Targets, anchors: Tensor, variances: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """What each positive anchor shall say: its object's label (B, A) and offsets (B, A, 4); 0
    elsewhere.
    """
    return _anchor_targets(match, gt, Objects.of(targets).labels, anchors, variances)


def _anchor_targets(
    match: Match, gt: Tensor, labels: Tensor, anchors: Tensor, variances: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """The same of labels (B, G)."""
    boxes = take_matched(gt, match.gt_index, default=anchors)  # (B, A, 4)
    offsets = encode(xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(anchors), variances)
    return take_matched(labels, match.gt_index, default=0), offsets


def _speaking(
    chosen: Tensor,
    mined: Tensor,
    outputs: Outputs,
    match: Match,
    gt: Tensor,
    labels: Tensor,
    anchors: Tensor,
) -> tuple[Tensor, Outputs, Match, Tensor, Tensor, Tensor]:
    """The n chosen anchors of all pictures as a batch of one picture, which has all the objects.

    chosen (B, A) bool. Returns what follows it, with B = 1, A = n and B x G objects. The losses of
    the others are 0, and so are their gradients: of some 8,732 anchors a picture a few hundred are
    left to encode and to differentiate.
    """
    rows = chosen.flatten().nonzero().squeeze(1)  # (n,) of B x A
    picture, anchor = rows // len(anchors), rows % len(anchors)
    taken = [x.flatten(0, 1).index_select(0, rows)[None] for x in (mined, *match, *outputs)]
    mined, index, label, cls_logits, box_deltas = taken  # (1, n, ...) each
    index = torch.where(index >= 0, picture * gt.shape[1] + index, -1)
    gt, labels = gt.flatten(0, 1)[None], labels.flatten()[None]  # (1, B G, 4), (1, B G)
    outputs, match = Outputs(cls_logits, box_deltas), Match(index, label)
    return mined, outputs, match, gt, labels, anchors[anchor]


def _background_loss(logits: Tensor, dense: bool | None = None) -> Tensor:
    """-log softmax(logits)[0] = log sum exp(x - x_0): (B, A, C) -> (B, A).

    Not dense, on a CPU: picture by picture, into memory that stays in the cache.
    """
    if not (dense if dense is not None else not logits.is_cpu) and len(logits):
        log_p = torch.empty_like(logits[:1])
        return torch.cat([-torch.log_softmax(x, -1, out=log_p)[..., 0] for x in logits.split(1)])
    return logits.logsumexp(-1) - logits[..., 0]


def check_outputs(outputs: Outputs, anchors: Tensor, targets: Targets = ()) -> None:
    """ValueError unless each of the A anchors has its logits and 4 offsets, all of them finite."""
    _check_fit(outputs, anchors)
    _check_finite(outputs, targets)


def _check_fit(outputs: Outputs, anchors: Tensor) -> None:
    cls, box = outputs.cls_logits.shape, outputs.box_deltas.shape
    if len(cls) != 3 or box != (*cls[:2], 4) or anchors.shape != (cls[1], 4):
        raise ValueError(
            f"cls_logits {tuple(cls)}, box_deltas {tuple(box)} and anchors {tuple(anchors.shape)} "
            "do not fit: make them (B, A, C), (B, A, 4), (A, 4), the anchors for this picture size."
        )


def _check_finite(outputs: Outputs, targets: Targets) -> None:
    total = outputs.cls_logits.sum() + outputs.box_deltas.sum()  # one pass
    if total.isfinite():
        return
    finite = outputs.cls_logits.isfinite().all(-1) & outputs.box_deltas.isfinite().all(-1)  # (B, A)
    broken = (~finite.all(1)).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"The outputs for {_name(broken[0], targets)} hold NaN or infinity: training has "
            "diverged (lower the learning rate), or the picture itself holds such numbers."
        )


def _on_device(
    class_weights: tuple[float, ...] | None, like: Tensor, num_classes: int
) -> Tensor | None:
    """(K,) float32 where `like` is: K numbers that a device writes itself, none is copied to it."""
    if class_weights is None:
        return None
    if len(class_weights) != num_classes or any(not 0 <= w < math.inf for w in class_weights):
        raise ValueError(
            f"class_weights is {class_weights}; give {num_classes} numbers of 0 or more, one for "
            "each class in their order (1: as it is)."
        )
    return torch.cat([like.new_full((1,), w, dtype=torch.float32) for w in class_weights])


def _check_shapes(outputs: Outputs, anchors: Tensor, targets: Targets) -> None:
    _check_fit(outputs, anchors)
    if len(targets) != len(outputs.cls_logits):
        raise ValueError(
            f"{len(targets)} targets for {len(outputs.cls_logits)} pictures; give one for each."
        )


def _check_values(outputs: Outputs, objects: Objects, num_classes: int) -> None:
    """Of what is on the CPU: a GPU would have to be waited for."""
    if outputs.cls_logits.is_cpu:
        _check_finite(outputs, objects)
    if not objects.labels.is_cpu:
        return
    strange = objects.valid & ((objects.labels < 0) | (objects.labels >= num_classes))
    if strange.any():
        picture, row = strange.nonzero()[0].tolist()
        raise ValueError(
            f"{_name(picture, objects)} has the label {int(objects.labels[picture, row])}; the "
            f"outputs are for {num_classes} classes, labels 0 to {num_classes - 1} (background is "
            "no label)."
        )


def _name(picture: int, targets: Targets) -> str:
    name = targets[picture].get("id") if picture < len(targets) else None
    return f"picture {picture} of the batch" + (f" ({name})" if name else "")
