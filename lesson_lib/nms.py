"""Non-maximum suppression: of boxes that overlap much, only the one with the highest score stays.

Everywhere: a box is dropped if its IoU with a kept one is higher than (not equal to) the threshold;
of equal scores the lower index goes first; indices come back by falling score. NaN scores raise
ValueError.
"""

import torch
import torchvision
from torch import Tensor

from lesson_lib.boxes import pairwise_iou


def greedy_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """NMS as one reads it: take the best box left, drop what overlaps it too much, repeat.

    boxes (N, 4) xyxy, scores (N,).  Returns (kept,) int64 indices.
    Equal to `nms`, and much slower.
    """
    _check(boxes, scores)
    left = scores.argsort(dim=0, descending=True, stable=True)
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[~(pairwise_iou(boxes[best].unsqueeze(0), boxes[left])[0] > iou_threshold)]
    return torch.stack(kept) if kept else left


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The fast path: torchvision.ops.nms, in at least float32.  Shapes as in `greedy_nms`."""
    _check(boxes, scores)
    dtype = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
    return torchvision.ops.nms(boxes.to(dtype), scores.to(dtype), iou_threshold)


def class_aware_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, fast: bool = True
) -> Tensor:
    """NMS among the boxes of each class, because a white cell must not erase the platelet beside
    it.

    boxes (N, 4) xyxy, scores (N,), labels (N,) int64 >= 0.
    Returns (kept,) int64 indices over all classes.
    fast=False goes class by class. fast=True does all at once: it moves each class to its own
    place, so that boxes of two classes can but touch. Both compute in float64, where this shift is
    exact.
    Departs from torchvision.ops.batched_nms, whose shift starts at 0 and is made in the boxes' own
    precision: there, boxes with negative coordinates meet those of the next class, and far classes
    are rounded.
    """
    _check(boxes, scores)
    if labels.shape != scores.shape:
        raise ValueError(
            f"labels {tuple(labels.shape)}, scores {tuple(scores.shape)}: give (N,) and (N,)."
        )
    boxes = boxes.double()
    if fast:
        lowest, highest = (boxes.amin(), boxes.amax()) if len(boxes) else (0, 0)
        return nms(boxes + (labels * (highest - lowest)).unsqueeze(1), scores, iou_threshold)
    kept = [
        members[greedy_nms(boxes[members], scores[members], iou_threshold)]
        for members in ((labels == label).nonzero().squeeze(1) for label in labels.unique())
    ]
    kept = torch.cat(kept).sort().values if kept else labels[:0]
    return kept[scores[kept].argsort(dim=0, descending=True, stable=True)]


def _check(boxes: Tensor, scores: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ValueError(
            f"boxes {tuple(boxes.shape)}, scores {tuple(scores.shape)}: give (N, 4) and (N,)."
        )
    if scores.isnan().any():
        raise ValueError("scores hold NaN, which has no rank: look for where the network diverged.")
