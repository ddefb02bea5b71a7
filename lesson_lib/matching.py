"""Matching: which anchor answers for which object, and which anchors learn that they hold none.

Objects are compared with anchors, never with predictions: the answer is known before the network runs. Both
rules take one picture, gt_boxes (G, 4), or a padded batch (B, G, 4) with a mask `valid` (B, G), and give the
same bits either way. A loop over the objects keeps the best so far, so memory grows with B x A, not with
B x G x A. All is done in float32, whatever autocast says, and on CUDA without waiting for the device.

An object without area or with a coordinate that is not finite matches nothing, like padding: its offsets
would be -inf or NaN. It is not reported here; `boxes.check_boxes` does that where data enters.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lesson_lib.boxes import box_area

POSITIVE, NEGATIVE, IGNORE = 1, 0, -1


class Match(NamedTuple):
    """gt_index (..., A) int64: the object of each positive anchor, -1 elsewhere.  label (..., A) int8."""

    gt_index: Tensor
    label: Tensor


def pad_boxes(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pictures with unlike numbers of objects as one batch: B tensors (G_b, 4) -> (B, G, 4) and valid (B, G).

    G is the largest G_b; rows that stand for no object are 0.
    """
    gt = torch.nn.utils.rnn.pad_sequence(list(boxes), batch_first=True)
    counts = torch.tensor([len(b) for b in boxes], device=gt.device)
    return gt, torch.arange(gt.shape[1], device=gt.device) < counts[:, None]


def take_matched(values: Tensor, gt_index: Tensor, default: Tensor | float) -> Tensor:
    """What each anchor shall learn: `values` of its object, or `default` where it has none.

    values (..., G) or (..., G, 4), gt_index (..., A) of a Match -> (..., A) or (..., A, 4). Boxes take the
    anchors themselves as default: the offsets of the unmatched are then 0 instead of -inf or NaN.
    """
    dim, extra = gt_index.ndim - 1, values.shape[gt_index.ndim :]  # extra: () or (4,)
    index = gt_index.reshape(gt_index.shape + (1,) * len(extra)).expand(gt_index.shape + extra)
    nothing = values.new_zeros(values.shape[:dim] + (1,) + extra)  # row 0, for index -1
    return torch.where(
        index >= 0, torch.cat((nothing, values), dim).gather(dim, index + 1), default
    )


class _Overlaps:
    """IoUs of the objects of a padded batch with all anchors, one object at a time, and the best so far."""

    def __init__(self, gt_boxes: Tensor, anchors: Tensor, valid: Tensor | None) -> None:
        gt, anchors = gt_boxes.float(), anchors.float()
        if gt.ndim not in (2, 3) or gt.shape[-1] != 4 or anchors.ndim != 2 or not len(anchors):
            raise ValueError(
                f"gt_boxes {tuple(gt.shape)}, anchors {tuple(anchors.shape)}; make them (G, 4) "
                "or (B, G, 4), and (A, 4) with at least one anchor, both xyxy."
            )
        if valid is not None and valid.shape != gt.shape[:-1]:
            raise ValueError(
                f"valid is {tuple(valid.shape)}; give {tuple(gt.shape[:-1])}, a bool a box."
            )
        self.batched = gt.ndim == 3
        real = gt.isfinite().all(-1) & (gt[..., 2:] > gt[..., :2]).all(-1)
        real = real if valid is None else real & valid
        self.real, gt = (real, gt) if self.batched else (real[None], gt[None])  # (B, G), (B, G, 4)
        # What is no object gets no extent but area 1: its IoU is 0 with everything and never 0 / 0.
        self.gt = gt.masked_fill(~self.real[..., None], 0)
        self.gt_area = box_area(self.gt).masked_fill(~self.real, 1)
        self.corners = anchors.T.contiguous()  # (4, A): each coordinate in one run of memory
        self.area = box_area(anchors)
        self.best = gt.new_zeros(len(gt), len(anchors))  # (B, A) highest IoU so far
        self.owner = torch.zeros_like(self.best)  # (B, A) whose it is; a float, see rows

    def rows(self) -> Iterator[Tensor]:
        """For g = 0, 1, ...: (B, A), IoU of object g of every picture; bit for bit `boxes.pairwise_iou`."""
        ax1, ay1, ax2, ay2 = self.corners
        for g in range(self.gt.shape[1]):
            x1, y1, x2, y2 = self.gt[:, g, :, None].unbind(1)  # each (B, 1)
            w = torch.minimum(ax2, x2).sub_(torch.maximum(ax1, x1)).clamp_(min=0)
            h = torch.minimum(ay2, y2).sub_(torch.maximum(ay1, y1)).clamp_(min=0)
            intersection = w.mul_(h)
            union = (self.area + self.gt_area[:, g, None]).sub_(intersection)
            iou = intersection.div_(union)
            # owner = g where iou > best, by arithmetic, which is faster than a mask: a gain in (0, 1] rounds
            # up to 1, and g is above all before it. Equal IoUs gain 0: the earlier object stays.
            gain = (iou - self.best).clamp_(min=0).ceil_()
            torch.maximum(self.owner, gain.mul_(g), out=self.owner)
            torch.maximum(self.best, iou, out=self.best)
            yield iou

    def match(self, gt_index: Tensor, label: Tensor) -> Match:
        match = Match(gt_index.masked_fill_(label != POSITIVE, -1), label)
        return match if self.batched else Match(*(x[0] for x in match))


@torch.no_grad()
def match_retinanet(
    gt_boxes: Tensor,
    anchors: Tensor,
    positive: float = 0.5,
    negative: float = 0.4,
    force_best: bool = True,
    valid: Tensor | None = None,
) -> Match:
    """RetinaNet's rule (FL, arXiv:1708.02002, section 4): each anchor looks for its best object.

    IoU >= positive: positive, for the object it overlaps most (first of equals). IoU < negative: negative.
    Between: ignored, no part of the loss.  gt_boxes (G, 4) or (B, G, 4), anchors (A, 4), xyxy in one unit.

    force_best: the anchors that overlap an object most, all of them if equal, are positive at any IoU over 0.
    Each answers for its own best object, which may be another: an object can still end with none. The paper
    ("RPN's rule, modified") leaves this open; torchvision does it, but there an object overlapping no anchor,
    its best IoU 0, makes every anchor of IoU 0 positive. Here it forces none.
    """
    if not 0 < negative <= positive <= 1:
        raise ValueError(
            f"negative is {negative}, positive {positive}; give 0 < negative <= positive <= 1."
        )
    overlaps = _Overlaps(gt_boxes, anchors, valid)
    chosen = torch.zeros_like(overlaps.best, dtype=torch.bool)
    for iou in overlaps.rows():
        if force_best:
            most = iou.amax(1, keepdim=True)  # (B, 1)
            chosen |= iou == most.masked_fill(most == 0, 2)  # no IoU is 2
    label = torch.full_like(chosen, NEGATIVE, dtype=torch.int8)
    label.masked_fill_(overlaps.best >= negative, IGNORE)
    label.masked_fill_(chosen | (overlaps.best >= positive), POSITIVE)
    return overlaps.match(overlaps.owner.long(), label)


@torch.no_grad()
def match_ssd(
    gt_boxes: Tensor,
    anchors: Tensor,
    threshold: float = 0.5,
    best: str = "bipartite",
    inclusive: bool = True,
    valid: Tensor | None = None,
) -> Match:
    """SSD's rule (arXiv:1512.02325, section 2.2): one best default box an object, then all over a threshold.

    An anchor with IoU >= threshold is positive for the object it overlaps most; > with inclusive=False (the
    paper says "higher than", its release takes >=). None is ignored. Shapes as in `match_retinanet`. Before:
    best="bipartite"  the pair of object and anchor with the highest IoU is matched, then the best pair of the
                      objects and anchors still free, and so on (of equals the lower anchor, then the lower
                      object). Every object gets an anchor of its own while there are any. Caffe's release
                      does this too, but leaves out pairs of IoU <= 1e-6; here they count, in the same order.
    best="overwrite"  as in many ports, torchvision's SSDMatcher among them: each object claims the anchor it
                      overlaps most; of two that claim the same one the last wins, even with the smaller IoU
                      (by a loop; ports write by index at once, and then torch leaves the winner open).
    best="none"       nothing: the threshold alone.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; give a number over 0, at most 1.")
    if best not in ("bipartite", "overwrite", "none"):
        raise ValueError(f"best is {best!r}; choose 'bipartite', 'overwrite' or 'none'.")
    overlaps, claims = _Overlaps(gt_boxes, anchors, valid), []
    objects, count = overlaps.real.shape[1], len(anchors)
    for iou in overlaps.rows():
        if best == "bipartite":
            claims.append(_best_ranks(iou, min(objects, count)))
        elif best == "overwrite":
            claims.append(iou.argmax(1, keepdim=True))
    gt_index = overlaps.owner.long()
    chosen = overlaps.best >= threshold if inclusive else overlaps.best > threshold
    if claims:
        claimed = torch.stack(claims, 1).masked_fill(
            ~overlaps.real[..., None], -1
        )  # (B, G, pairs or 1)
        claimed = (
            _assign(claimed, count) if best == "bipartite" else claimed[..., 0]
        )  # (B, G) anchors
        _give(gt_index, chosen, claimed)
    return overlaps.match(gt_index, chosen.to(torch.int8))  # True is POSITIVE, False NEGATIVE


def _rank(iou: Tensor, place: Tensor, count: int) -> Tensor:
    """A whole number for each IoU, no two alike: higher for a higher IoU, of equals for the lower place.

    The bits of floats >= 0, read as integers, have the floats' order (abs, because -0 has other bits than 0).
    """
    return iou.abs().view(torch.int32).long() * count + (count - 1 - place)


def _best_ranks(iou: Tensor, k: int, width: int = 64) -> Tensor:
    """(B, A) IoUs of one object -> (B, k) ranks of its k best anchors, falling; k <= A.

    They lie in the k best blocks of `width` anchors, best by their maximum: only those are ranked one by one.
    """
    count = iou.shape[1]
    blocks = torch.nn.functional.pad(iou, (0, -count % width)).unflatten(
        1, (-1, width)
    )  # (B, n, width)
    n = blocks.shape[1]
    ranks = _rank(blocks.amax(2), torch.arange(n, device=iou.device), n)  # (B, n)
    kept = n - 1 - ranks.topk(min(k, n), dim=1).values[..., None] % n  # (B, min(k, n), 1)
    place = kept * width + torch.arange(
        width, device=iou.device
    )  # padding: place >= count, rank < 0
    return _rank(blocks.take_along_dim(kept, 1), place, count).flatten(1).topk(k, dim=1).values


def _assign(ranks: Tensor, anchor_count: int) -> Tensor:
    """Greedy bipartite matching: each object's k best ranks (B, G, k), -1: none -> (B, G) its anchor or -1.

    k = min(G, A) is enough: the other objects can take G - 1 of an object's best anchors at most.
    """
    batch, objects, k = ranks.shape
    anchor = anchor_count - 1 - ranks % anchor_count  # (B, G, k)
    result = torch.full((batch, objects), -1, device=ranks.device)
    order = torch.arange(objects, device=ranks.device)
    for _ in range(min(objects, anchor_count)):
        first = ranks.flatten(1).argmax(1, keepdim=True)  # (B, 1) the best pair left
        left = ranks.flatten(1).gather(1, first) >= 0
        taken, winner = anchor.flatten(1).gather(1, first), order == first // k  # (B, 1), (B, G)
        result = torch.where(winner & left, taken, result)
        ranks = ranks.masked_fill(winner[..., None] | (anchor == taken[..., None]), -1)
    return result


def _give(gt_index: Tensor, chosen: Tensor, claimed: Tensor) -> None:
    """Writes into (B, A) each object's number at the anchor it claimed (B, G), in order; -1: none."""
    for g, anchor in enumerate(claimed.split(1, dim=1)):  # (B, 1)
        place, claims = anchor.clamp(min=0), anchor >= 0
        gt_index.scatter_(1, place, torch.where(claims, g, gt_index.gather(1, place)))
        chosen.scatter_(1, place, claims | chosen.gather(1, place))
