"""Mining: which of the many background anchors may speak, so that the few objects are heard.

SSD is arXiv:1512.02325, section 2.2 "Hard negative mining"; OHEM is arXiv:1604.03540, here as
"Focal Loss for Dense Object Detection" (FL, arXiv:1708.02002, section 5.1) uses it on anchors.

Rules that the papers leave open, the same in every function here: each picture is mined by itself;
of equal losses the lower anchor index comes first; the result is a bool mask, so no gradient flows
through the choice.
"""

import math
from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lesson_lib.boxes import at_least_float32
from lesson_lib.nms import nms

#: Added before ratio x positives is rounded down: in floats 0.7 x 90 is 62.999..., and 63 is meant.
HAIR = 1e-6
NAN = "cls_loss holds NaN: training has diverged, or a target is broken."


def hard_negative_mask(
    cls_loss: Tensor,
    positive: Tensor,
    negative: Tensor,
    ratio: float = 3.0,
    min_negatives: int = 0,
    dense: bool | None = None,
) -> Tensor:
    """The negatives of highest confidence loss, `ratio` for each positive of the picture
    (SSD section 2.2).

    cls_loss (B, A): the loss of each anchor if it is background; positive (B, A) bool;
    negative (B, A) bool: the candidates. Leave out what may be part of an object: Match's IGNORE
    and, as in SSD's released code, every anchor of IoU >= .5 with an object. Returns (B, A) bool.
    ratio x positives is rounded down (0.7 x 90 is 63, see `HAIR`); min_negatives is the least for a
    picture, with or without objects; never more than the candidates. SSD has min_negatives 0 and
    learns nothing where there is no object.
    ValueError for a negative ratio, or a NaN among the losses it looks at.
    dense=False goes picture by picture, which is faster on a CPU; dense=True takes all at once,
    what a GPU needs. The masks are the same. None: True but on a CPU, and under torch.compile.
    A GPU is waited for twice: for the largest quota, and for equal losses or NaN.
    """
    _check_numbers(ratio, min_negatives)
    if _is_dense(cls_loss, dense):
        return _highest(cls_loss, negative, _quota(positive, negative, ratio, min_negatives))
    counts = (int(np.count_nonzero(row)) for row in positive.numpy())
    quotas = (max(math.floor(ratio * count + HAIR), min_negatives) for count in counts)
    return _highest_by_picture(cls_loss, negative, quotas)


def hard_negative_mask_by_rank(
    cls_loss: Tensor, positive: Tensor, negative: Tensor, ratio: float = 3.0, min_negatives: int = 0
) -> Tensor:
    """The same mask by sorting twice, as most ports do it: slower, but the GPU never waits for the
    host.

    The first argsort lists the anchors by falling loss. The second inverts the list: it gives each
    anchor its place there, its rank; chosen is whose rank is below the quota. NaN, not looked for,
    is first.
    """
    _check_numbers(ratio, min_negatives)
    loss = cls_loss.masked_fill(~negative, -math.inf)
    rank = loss.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < _quota(positive, negative, ratio, min_negatives)


def ohem_mask(
    cls_loss: Tensor,
    boxes: Tensor,
    keep: int = 128,
    nms_threshold: float | None = None,
    ratio: float | None = None,
    positive: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Online hard example mining: the `keep` anchors of highest loss in each picture, whatever they
    show.

    cls_loss (B, A); boxes (A, 4) or (B, A, 4) xyxy, read for NMS only; valid (B, A) bool: who may
    be chosen (pass label != IGNORE). Returns (B, A) bool. FL's table 1d has keep 128, 256, 512 with
    NMS at .7 and .5.
    nms_threshold: first drop what overlaps an anchor of higher loss by more: NMS with the loss as
    score.
    ratio: the 1:ratio variant. The hardest keep / (1 + ratio) positives, then at most ratio times
    as many negatives; it needs `positive` (B, A) bool, and chooses nothing in a picture that has
    none.
    """
    left = torch.ones_like(cls_loss, dtype=torch.bool) if valid is None else valid
    if nms_threshold is not None:
        left = _survivors(cls_loss, boxes.expand(*cls_loss.shape, 4), left, nms_threshold)
    if ratio is None:
        return _highest(cls_loss, left, left.sum(1, keepdim=True).clamp(max=keep))
    if positive is None:
        raise ValueError(
            "A ratio of negatives to positives needs the positives; pass positive, (B, A) bool."
        )
    hardest = (left & positive).sum(1, keepdim=True).clamp(max=int(keep / (1 + ratio)))
    chosen = _highest(cls_loss, left & positive, hardest)
    return chosen | hard_negative_mask(cls_loss, chosen, left & ~positive, ratio)


def _check_numbers(ratio: float, min_negatives: int) -> None:
    if ratio < 0 or min_negatives < 0:
        raise ValueError(f"ratio is {ratio} and min_negatives {min_negatives}; give 0 or more.")


def _quota(positive: Tensor, negative: Tensor, ratio: float, min_negatives: int) -> Tensor:
    """How many negatives each picture may have: (B, A), (B, A) -> (B, 1) int64."""
    count = partial(torch.sum, dim=1, keepdim=True, dtype=torch.int32)  # half the memory of int64
    exact = ratio * count(positive).double()
    wanted = (exact + HAIR).long().clamp(min=min_negatives)
    return torch.minimum(wanted, count(negative))


def _is_dense(loss: Tensor, dense: bool | None) -> bool:
    """Whether all pictures are to be mined at once."""
    if dense is not None:
        return dense
    return not loss.is_cpu or torch.compiler.is_compiling()


def _highest(cls_loss: Tensor, candidates: Tensor, quota: Tensor) -> Tensor:
    """Mask of the quota[b] candidates of highest loss in row b, of equal ones the first: (B, A)
    bool.

    Every loss from the lowest that gets in upwards is in; where others equal it, of these only the
    first. (Scattering topk's indices would be shorter, but which of two equal entries it lists is
    undefined.)
    """
    most = int(quota.max()) if quota.numel() else 0
    if most == 0:
        return torch.zeros_like(candidates)
    loss = torch.where(candidates, cls_loss, -math.inf)
    # One more than gets in, to see whether it is as high as the last that does.
    highest = loss.topk(min(most + 1, loss.shape[1])).values  # falling, NaN first
    last = highest.gather(1, quota.clamp(min=1) - 1).masked_fill(quota == 0, math.inf)  # (B, 1)
    next_one = highest.gather(1, quota.clamp(max=highest.shape[1] - 1))
    usual = (next_one < last) & ~highest[:, :1].isnan()
    if usual.all():
        return loss >= last
    if highest.isnan().any():
        raise ValueError(NAN)
    above, equal = loss > last, loss == last
    room = quota - above.sum(1, keepdim=True)
    return above | (equal & (equal.cumsum(1) <= room))


def _highest_by_picture(cls_loss: Tensor, candidates: Tensor, quotas: Iterable[int]) -> Tensor:
    """The same mask as `_highest`, picture by picture in NumPy, whose operations on a few thousand
    numbers cost a fraction of torch's.
    """
    losses = at_least_float32(cls_loss).numpy(force=cls_loss.requires_grad)
    allowed = candidates.numpy()
    masks = torch.empty_like(candidates)
    for mask, loss, rows, quota in zip(masks.numpy(), losses, allowed, quotas, strict=True):
        _highest_of_picture(loss, rows, quota, mask)
    return masks


def _highest_of_picture(
    loss: np.ndarray, candidates: np.ndarray, quota: int, mask: np.ndarray
) -> None:
    """Fills the mask (A,) of the `quota` candidates of highest loss, of equal ones the first; quota
    may be more than there are.
    """
    count = int(np.count_nonzero(candidates))
    quota = min(quota, count)
    if quota == 0:
        mask[:] = False
        return
    # One more than gets in, and as many again as are no candidates, should these be the highest.
    bound = _below_the_highest(loss, quota + 1 + len(loss) - count)
    highest = loss[candidates > (loss < bound)]  # candidates that are not below it, and every NaN
    highest.sort()  # NaN last
    if math.isnan(highest[-1]):
        raise ValueError(NAN)
    last = highest[-quota]
    if len(highest) > quota and highest[-quota - 1] < last:
        np.greater_equal(loss, last, out=mask)
        mask &= candidates
        return
    above, equal = candidates & (loss > last), candidates & (loss == last)
    mask[:] = above | (equal & (equal.cumsum() <= quota - np.count_nonzero(above)))


def _below_the_highest(loss: np.ndarray, k: int, size: int = 16) -> float:
    """A bound that the k highest of (A,) reach and few others do; NaN or -inf where it knows none.

    The anchors are cut into groups of up to `size`, at least twice as many as k. The k-th highest
    of their maxima is no higher than the k-th highest loss.
    """
    size = max(1, min(size, len(loss) // (2 * k)))
    groups = len(loss) // size
    if k > groups:
        return -math.inf
    maxima = loss[: groups * size].reshape(size, groups).max(0)
    maxima.partition(groups - k)
    return maxima[-k]


def _survivors(loss: Tensor, boxes: Tensor, candidates: Tensor, threshold: float) -> Tensor:
    """The candidates that NMS leaves in each picture: (B, A), (B, A, 4), (B, A) -> (B, A) bool."""
    left = torch.zeros_like(candidates)
    for picture, rows in enumerate(candidates):
        index = rows.nonzero().squeeze(1)
        left[
            picture, index[nms(boxes[picture, index], loss[picture, index].detach(), threshold)]
        ] = True
    return left
