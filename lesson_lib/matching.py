"""Matching: which anchor answers for which object, and which anchors learn that they hold none.

Objects are compared with anchors, never with predictions: the answer is known before the network
runs. Both rules take one picture, gt_boxes (G, 4), or a padded batch (B, G, 4) with a mask `valid`
(B, G), and give the same bits either way. All is done in float32, whatever autocast says.

Some objects at a time are compared with all anchors, and each anchor keeps its best so far: memory
grows with B x A, not with B x G x A. `dense` says how many, and whether the host may look at values
in between; the result is the same. False: as many as stay in a processor's cache, and a look where
it saves work. True, what a GPU needs: 32, so that the operations are the same for any batch and for
3 or 30 objects, and no look (except in `match_ssd` with over 128 objects). None: True on a GPU.

An object without area or with a coordinate that is not finite matches nothing, like padding: its
offsets would be -inf or NaN. It is not reported here; `boxes.check_boxes` does that where data
enters.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lesson_lib.boxes import box_area

POSITIVE, NEGATIVE, IGNORE = 1, 0, -1

#: What overlaps by no more is no pair for best="bipartite" (Caffe's MatchBBox).
LEAST_OVERLAP = 1e-6
#: Dense: how many objects are compared at once, and up to how many nobody waits for the device.
DENSE_OBJECTS, DENSE_WITHOUT_WAITING = 32, 128
#: Otherwise: how many overlaps are computed at once (256 KB), and how long a list of wishes is.
OVERLAPS_AT_ONCE, FIRST_WISHES = 2**16, 32


class Match(NamedTuple):
    """gt_index (..., A) int64: the object of each positive anchor, -1 elsewhere; label (..., A)
    int8.
    """

    gt_index: Tensor
    label: Tensor


def pad_boxes(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pictures with unlike numbers of objects as one batch: B tensors (G_b, 4) -> (B, G, 4) and
    valid (B, G).

    G is the largest G_b; rows that stand for no object are 0.
    """
    gt = torch.nn.utils.rnn.pad_sequence(list(boxes), batch_first=True)
    real = [b.new_ones(len(b), dtype=torch.bool) for b in boxes]  # nothing is copied from the host
    return gt, torch.nn.utils.rnn.pad_sequence(real, batch_first=True)


def take_matched(values: Tensor, gt_index: Tensor, default: Tensor | float) -> Tensor:
    """What each anchor shall learn: `values` of its object, or `default` where it has none.

    values (..., G) or (..., G, 4), gt_index (..., A) of a Match -> (..., A) or (..., A, 4). Boxes
    take the anchors themselves as default: the offsets of the unmatched are then 0 instead of -inf
    or NaN.
    """
    dim, extra = gt_index.ndim - 1, values.shape[gt_index.ndim :]  # extra: () or (4,)
    index = gt_index.reshape(gt_index.shape + (1,) * len(extra)).expand(gt_index.shape + extra)
    nothing = values.new_zeros(values.shape[:dim] + (1,) + extra)  # row 0, for index -1
    return torch.where(
        index >= 0, torch.cat((nothing, values), dim).gather(dim, index + 1), default
    )


class _Overlaps:
    """IoUs of the objects of a padded batch with all anchors, the best of each anchor so far."""

    def __init__(
        self, gt_boxes: Tensor, anchors: Tensor, valid: Tensor | None, dense: bool | None
    ) -> None:
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
        self.owner = torch.zeros_like(self.best)  # (B, A) whose it is; a float, see _keep_one
        self.dense = not gt.is_cpu if dense is None else dense
        fit = OVERLAPS_AT_ONCE // max(1, self.best.numel())
        self.at_once = DENSE_OBJECTS if self.dense else min(max(fit, 1), DENSE_OBJECTS)

    def rows(self) -> Iterator[Tensor]:
        """For the first `at_once` objects of every picture, the next, ...: their IoUs (B, n, A)."""
        for first in range(0, self.gt.shape[1], self.at_once):
            part = slice(first, first + self.at_once)
            iou = self.iou(self.gt[:, part], self.gt_area[:, part])
            if iou.shape[1] == 1:
                self._keep_one(iou[:, 0], first)
            else:
                self._keep_best(iou, first)
            yield iou

    def iou(self, boxes: Tensor, area: Tensor) -> Tensor:
        """Of boxes (..., 4) with their areas (...): (..., A), bit for bit `boxes.pairwise_iou`."""
        ax1, ay1, ax2, ay2 = self.corners
        x1, y1, x2, y2 = boxes[..., None].unbind(-2)  # each (..., 1)
        w = torch.minimum(ax2, x2).sub_(torch.maximum(ax1, x1)).clamp_(min=0)
        h = torch.minimum(ay2, y2).sub_(torch.maximum(ay1, y1)).clamp_(min=0)
        intersection = w.mul_(h)
        union = (self.area + area[..., None]).sub_(intersection)
        return intersection.div_(union)

    def _keep_best(self, iou: Tensor, first: int) -> None:
        """Of the objects from `first` on, iou (B, n, A). Of equal IoUs the earlier object stays."""
        best, index = iou.max(1)  # (B, A) each; of equals the first
        self.owner = torch.where(best > self.best, (index + first).float(), self.owner)
        torch.maximum(self.best, best, out=self.best)

    def _keep_one(self, iou: Tensor, number: int) -> None:
        """The same for one object, iou (B, A), by arithmetic, which is faster than a mask.

        A gain in (0, 1] rounds up to 1, and `number` is above all before it. Equal IoUs gain 0.
        """
        gain = (iou - self.best).clamp_(min=0).ceil_()
        torch.maximum(self.owner, gain.mul_(number), out=self.owner)
        torch.maximum(self.best, iou, out=self.best)

    def match(self, gt_index: Tensor, label: Tensor) -> Match:
        """gt_index, label (B, A) as a Match, without the batch where none was given."""
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
    dense: bool | None = None,
) -> Match:
    """RetinaNet's rule (FL, arXiv:1708.02002, section 4): each anchor looks for its best object.

    IoU >= positive: positive, for the object it overlaps most (first of equals). IoU < negative:
    negative. Between: ignored, no part of the loss.
    gt_boxes (G, 4) or (B, G, 4), anchors (A, 4), xyxy in one unit; valid (G,) or (B, G) bool.
    dense is about speed alone: see the top of this file.

    force_best: the anchors that overlap an object most, all of them if equal, are positive at any
    IoU over 0. Each answers for its own best object, which may be another: an object can still end
    with none. The paper ("RPN's rule, modified") leaves this open; torchvision does it, but there
    an object overlapping no anchor, its best IoU 0, makes every anchor of IoU 0 positive. Here it
    forces none.
    """
    if not 0 < negative <= positive <= 1:
        raise ValueError(
            f"negative is {negative}, positive {positive}; give 0 < negative <= positive <= 1."
        )
    overlaps = _Overlaps(gt_boxes, anchors, valid, dense)
    chosen = torch.zeros_like(overlaps.best, dtype=torch.bool)
    for iou in overlaps.rows():  # (B, n, A)
        if force_best:
            most = iou.amax(2, keepdim=True)
            chosen |= (iou == most.masked_fill(most == 0, 2)).any(1)  # no IoU is 2
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
    dense: bool | None = None,
) -> Match:
    """SSD's rule (arXiv:1512.02325, section 2.2): one best default box an object, then a threshold.

    An anchor with IoU >= threshold is positive for the object it overlaps most; > with
    inclusive=False (the paper says "higher than", its release takes >=). None is ignored.
    Shapes, and dense, as in `match_retinanet`. Before that:
    best="bipartite"  the pair of object and anchor with the highest IoU is matched, then the best
                      pair of the objects and anchors still free, and so on (of equals the lower
                      anchor, then the lower object), down to an IoU of 1e-6: so does Caffe's
                      release (MatchBBox). Each object gets an anchor of its own while one that it
                      overlaps is free; an object that overlaps none gets none. Dense, up to 128
                      objects a picture take a fixed number of rounds, without a look at any value;
                      with more (DENSE_WITHOUT_WAITING) the host asks after each round whether all
                      are settled, and so waits for a GPU.
    best="overwrite"  as in many ports, torchvision's SSDMatcher among them: each object claims the
                      anchor it overlaps most, anchor 0 if it overlaps none; of two that claim the
                      same one the last wins, even with the smaller IoU (ports write by index at
                      once, and then torch leaves the winner open).
    best="none"       nothing: the threshold alone.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; give a number over 0, at most 1.")
    if best not in _CLAIMS:
        raise ValueError(f"best is {best!r}; choose 'bipartite', 'overwrite' or 'none'.")
    overlaps = _Overlaps(gt_boxes, anchors, valid, dense)
    claimed = _CLAIMS[best](overlaps)  # (B, G) anchors, found while the rows go by
    claimant = _last_claimant(claimed, overlaps.owner)  # (B, A) objects
    chosen = overlaps.best >= threshold if inclusive else overlaps.best > threshold
    chosen |= claimant >= 0
    gt_index = torch.where(claimant >= 0, claimant, overlaps.owner).long()
    return overlaps.match(gt_index, chosen.to(torch.int8))  # True is POSITIVE, False NEGATIVE


def _no_claims(overlaps: _Overlaps) -> Tensor:
    """(B, G) of -1."""
    for _ in overlaps.rows():
        pass
    return torch.full_like(overlaps.real, -1, dtype=torch.int64)


def _first_choices(overlaps: _Overlaps) -> Tensor:
    """(B, G): the anchor that each object overlaps most, the lower of equals; -1: no object."""
    nothing = overlaps.real.new_zeros(len(overlaps.real), 0, dtype=torch.int64)
    choices = torch.cat([nothing, *(iou.argmax(2) for iou in overlaps.rows())], 1)
    return choices.masked_fill_(~overlaps.real, -1)


def _last_claimant(claimed: Tensor, owner: Tensor) -> Tensor:
    """The anchors (B, G) that the objects claim, -1: none -> (B, A), like owner: who claims each.

    Of several the last; -1: nobody.
    """
    batch, count = owner.shape
    place = claimed.masked_fill(claimed < 0, count)  # into one column more, which is left out
    number = torch.arange(claimed.shape[1], dtype=owner.dtype, device=owner.device)
    result = owner.new_full((batch, count + 1), -1)
    return result.scatter_reduce_(1, place, number.expand(place.shape), "amax")[:, :count]


# ---- the best pair first -------------------------------------------------------------------------


class _Wishes(NamedTuple):
    """The k anchors that each object wants most of those that it may still get, best first.

    bid (..., k) int64: how much, comparable among the objects that want one anchor: higher for a
    higher IoU, of equals for the lower object; -1 where there is no pair.  anchor (..., k) int64.
    """

    bid: Tensor
    anchor: Tensor


def _best_pairs(overlaps: _Overlaps) -> Tensor:
    """Greedy bipartite matching: (B, G), the anchor of each object, -1 where it gets none.

    By deferred acceptance (Gale and Shapley, 1962). In each round every object bids for the first
    anchor of its list that no higher bid holds, and each anchor is then held by the highest bid for
    it. The pairs of a picture have one order; so the best of all holds from round 1 on, the best of
    what then is left from round 2 on at the latest, and so on: the outcome is that of taking the
    best pair again and again, after G rounds at most and usually after a few.
    """
    (batch, objects), count = overlaps.real.shape, overlaps.best.shape[1]
    if objects == 0:
        return _no_claims(overlaps)
    waits = not overlaps.dense or objects > DENSE_WITHOUT_WAITING
    k = min(objects, count, FIRST_WISHES) if waits else min(objects, count)
    number = torch.arange(objects, device=overlaps.gt.device)
    parts = [
        _wishes(iou, part, objects, k)
        for iou, part in zip(overlaps.rows(), number.split(overlaps.at_once))
    ]
    wishes = _Wishes(*(torch.cat(column, 1) for column in zip(*parts)))  # (B, G, k) each
    held = wishes.bid.new_zeros(batch, count)
    if waits:
        bid, anchor = _rounds_until_settled(overlaps, wishes, held)
    else:
        rounds = -(-objects // DENSE_OBJECTS) * DENSE_OBJECTS  # the same number for 1 to 32 objects
        bid, anchor = _round(wishes, held)
        for _ in range(min(rounds, count) - 1):
            bid, anchor = _round(wishes, held)
    return anchor.masked_fill(bid != held.gather(1, anchor), -1)


def _rounds_until_settled(
    overlaps: _Overlaps, wishes: _Wishes, held: Tensor
) -> tuple[Tensor, Tensor]:
    """Rounds until nobody is outbid; who is at the end of its list gets another. Like `_round`."""
    (_, objects, k), count = wishes.bid.shape, held.shape[1]
    while True:
        bid, anchor = _round(wishes, held)
        without = bid != held.gather(1, anchor)  # (B, G): outbid, or nothing to bid for
        if (without & (bid >= 0)).any():
            continue
        spent = without & (wishes.bid[..., -1] >= 0)  # its list was full, there may be more
        if k == count or not spent.any():
            return bid, anchor
        at_once = max(1, OVERLAPS_AT_ONCE // count)
        for b, g in zip(*(rows.split(at_once) for rows in spent.nonzero(as_tuple=True))):
            iou = overlaps.iou(overlaps.gt[b, g], overlaps.gt_area[b, g])  # (n, A)
            iou.masked_fill_(_rank(iou, g[:, None], objects) < held[b], 0)  # these are lost
            wishes.bid[b, g], wishes.anchor[b, g] = _wishes(iou, g, objects, k)


def _round(wishes: _Wishes, held: Tensor) -> tuple[Tensor, Tensor]:
    """(B, G) what each object bids now, -1: nothing, and for which anchor.

    held (B, A), the highest bid for each anchor, 0 at first, is raised.
    """
    within = wishes.bid >= held.gather(1, wishes.anchor.flatten(1)).view_as(wishes.bid)
    bid, place = torch.where(within, wishes.bid, -1).max(2)  # of equals the first, lower anchor
    anchor = wishes.anchor.gather(2, place[..., None]).squeeze(2)
    held.scatter_reduce_(1, anchor, bid, "amax")
    return bid, anchor


def _wishes(iou: Tensor, number: Tensor, objects: int, k: int) -> _Wishes:
    """From the IoUs (..., A) of the objects `number` (...), of `objects` in a picture; k <= A."""
    anchor = _best_anchors(iou, k)
    overlap = iou.gather(-1, anchor)
    bid = _rank(overlap, number[..., None], objects)
    return _Wishes(bid.masked_fill_(overlap <= LEAST_OVERLAP, -1), anchor)


def _rank(iou: Tensor, place: Tensor, count: int) -> Tensor:
    """A whole number for each IoU: higher for a higher one, of equals for the lower place < count.

    The bits of floats >= 0, read as integers, have the floats' order (abs: -0 has other bits than
    0).
    """
    return iou.abs().view(torch.int32).long() * count + (count - 1 - place)


def _best_anchors(iou: Tensor, k: int, width: int = 64) -> Tensor:
    """(..., A) IoUs -> (..., k), anchors of the k highest, falling, of equals the lower; k <= A.

    They lie in the k best blocks of `width` anchors, best by their maximum: only those are ranked
    one by one.
    """
    count = iou.shape[-1]
    blocks = torch.nn.functional.pad(iou, (0, -count % width)).unflatten(-1, (-1, width))
    n = blocks.shape[-2]  # (..., n, width)
    ranks = _rank(blocks.amax(-1), torch.arange(n, device=iou.device), n)  # (..., n)
    kept = n - 1 - ranks.topk(min(k, n), dim=-1).values[..., None] % n  # (..., min(k, n), 1)
    place = kept * width + torch.arange(width, device=iou.device)  # in the padding rank < 0
    ranks = _rank(blocks.take_along_dim(kept, -2), place, count).flatten(-2)
    return count - 1 - ranks.topk(k, dim=-1).values % count


_CLAIMS = {"bipartite": _best_pairs, "overwrite": _first_choices, "none": _no_claims}
