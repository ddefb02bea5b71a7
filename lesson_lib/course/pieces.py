"""The pieces that learners write in lessons 7 to 9, in the form of their exercises.

Each stands for the learner's own where none is kept (see `course.mine`), so that a later lesson can
put either into a whole detector.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from lesson_lib import losses
from lesson_lib.anchors import anchor_address
from lesson_lib.detectors.fpn import enlarge
from lesson_lib.mining import hard_negative_mask


def l2norm(x: Tensor, scale: Tensor) -> Tensor:
    """x (B, C, H, W), scale (C,): each position's vector to length 1, then times `scale`
    (SSD section 3.1).
    """
    return F.normalize(x, dim=1, eps=1e-12) * scale[:, None, None]


def top_down(maps: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """maps (B, C_l, H_l, W_l), finest first; weights (D, C_l), the lateral of each. Returns the
    merged maps m_l, (B, D, H_l, W_l), before the 3 x 3 convolutions (FPN section 3).
    """
    merged = [F.conv2d(x, w[:, :, None, None]) for x, w in zip(maps, weights)]
    for level in range(len(merged) - 2, -1, -1):
        merged[level] = merged[level] + enlarge(merged[level + 1], like=merged[level])
    return merged


def address(row: int, maps: Sequence[tuple[int, int, int]]) -> tuple[int, int, int, int]:
    """(map, y, x, box), from 0, of row number `row` of all maps' rows in one list; maps: (rows,
    columns, boxes at a position), finest first.
    """
    return anchor_address(row, [place[:2] for place in maps], [place[2] for place in maps])


def ssd_loss(
    cls_logits: Tensor, box_deltas: Tensor, labels: Tensor, box_targets: Tensor, positive: Tensor
) -> tuple[Tensor, Tensor]:
    """SSD's loss (section 2.2) of rows that are matched already -> L_conf / N, L_loc / N.

    cls_logits (B, A, K + 1), box_deltas and box_targets (B, A, 4), labels (B, A) from 0, positive
    (B, A) bool; labels and targets are read where positive. Mined 3:1 in each picture; both are 0
    where nothing is positive.
    """
    if_background = -cls_logits.detach().log_softmax(dim=-1)[..., 0]
    mined = hard_negative_mask(if_background, positive, ~positive)
    found = losses.ssd_loss(cls_logits, box_deltas, labels + 1, box_targets, positive, mined)
    return found["cls"], found["box"]


def retinanet_loss(
    cls_logits: Tensor, box_deltas: Tensor, labels: Tensor, box_targets: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """RetinaNet's loss (FL section 4) of rows that are matched already -> class and box loss, by
    max(1, positives).

    cls_logits (B, A, K); state (B, A): 1 positive, 0 negative, -1 ignored; the rest as in
    `ssd_loss`.
    """
    found = losses.retinanet_loss(cls_logits, box_deltas, labels, box_targets, state)
    return found["cls"], found["box"]
