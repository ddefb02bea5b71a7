"""ATSS: positives chosen by each object's own overlaps instead of one threshold for all.

ATSS is "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training
Sample Selection", arXiv:1912.02424. Its answer to which anchors answer for an object takes the
place of `matching.match_retinanet`, and nothing else of RetinaNet changes.
"""

import torch
from torch import Tensor

from lesson_lib.boxes import pairwise_iou
from lesson_lib.matching import Match

#: Rank of what is no candidate: beyond any distance.
FAR = 2**62
#: Overlaps that differ by less are one: of nine equal ones none shall miss their mean by rounding.
ROUNDING = 1e-6


@torch.no_grad()
def match_atss(
    gt_boxes: Tensor,
    anchors: Tensor,
    levels: Tensor,
    k: int = 9,
    valid: Tensor | None = None,
) -> Match:
    """ATSS's choice of positives (arXiv:1912.02424, algorithm 1): positive or negative, none
    ignored.

    Of every level the k positions nearest to an object's centre are its candidates, with all
    anchors that stand there. t = mean + standard deviation of their overlaps with the object; those
    candidates are positive that overlap it by t or more and whose centre lies in it. An anchor that
    several objects want is the one's that it overlaps most (of equals the first's).

    gt_boxes (G, 4) or (B, G, 4), anchors (A, 4), xyxy in one unit; valid (G,) or (B, G) bool.
    levels (L, P) bool: which of the P positions each level has (`PyramidAnchors.levels_of`); the
    A / P anchors of a position are neighbours in `anchors` and share their centre. All that is
    compared is of fixed shape, so a GPU is not waited for.
    An object that holds no position's centre gets no anchor, and no threshold can be set to help
    it. ValueError for shapes that do not fit.
    Departs from the paper: its model has one anchor a position; with several the authors' code
    takes k for each of them, as here. The deviation is theirs, of a sample (n - 1).
    """
    _check(gt_boxes, anchors, levels, k, valid)
    batched = gt_boxes.ndim == 3
    gt, anchors = gt_boxes.float() if batched else gt_boxes.float()[None], anchors.float()
    real = gt.isfinite().all(-1) & (gt[..., 2:] > gt[..., :2]).all(-1)  # (B, G)
    if valid is not None:
        real = real & valid.reshape(real.shape)
    gt = gt.masked_fill(~real[..., None], 0)
    candidate, exists = _candidates(gt, anchors, levels, k)  # (B, G, C) each
    boxes = anchors[candidate]  # (B, G, C, 4)
    iou = pairwise_iou(gt[:, :, None], boxes)[:, :, 0]  # (B, G, C)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    corners = gt[:, :, None]  # (B, G, 1, 4)
    inside = ((centres > corners[..., :2]) & (centres < corners[..., 2:])).all(-1)
    enough = iou >= adaptive_threshold(iou, exists)[..., None] - ROUNDING
    positive = enough & inside & exists & real[..., None]
    owner = _owners(iou, positive, candidate, len(anchors))  # (B, A)
    match = Match(owner, (owner >= 0).to(torch.int8))
    return match if batched else Match(*(x[0] for x in match))


def adaptive_threshold(iou: Tensor, exists: Tensor | None = None) -> Tensor:
    """Mean + standard deviation (n - 1) of an object's candidates: (..., C) -> (...).

    exists (..., C) bool: which of them there are; None: all. With one candidate the deviation is 0.
    """
    exists = torch.ones_like(iou, dtype=torch.bool) if exists is None else exists
    n = exists.sum(-1).clamp(min=1)
    mean = (iou * exists).sum(-1) / n
    squares = ((iou - mean[..., None]).square() * exists).sum(-1)
    return mean + (squares / (n - 1).clamp(min=1)).sqrt()


def centreness(anchors: Tensor, boxes: Tensor) -> Tensor:
    """How central an anchor's centre lies in a box (FCOS, arXiv:1904.01355, eq. 3): 1 in the
    middle, 0 at an edge and beyond.

        sqrt( min(l, r) / max(l, r)  *  min(t, b) / max(t, b) )

    l, t, r, b: from the centre to the box's four edges. anchors, boxes (..., 4) xyxy -> (...).
    """
    centre = (anchors[..., :2] + anchors[..., 2:]) / 2
    near, far = centre - boxes[..., :2], boxes[..., 2:] - centre  # l, t and r, b
    share = torch.minimum(near, far).clamp(min=0) / torch.maximum(near, far)
    return share.prod(-1).sqrt()


def _candidates(gt: Tensor, anchors: Tensor, levels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The anchors at the k positions of each level nearest to each object, and whether they exist.

    gt (B, G, 4) -> (B, G, C) each, C = L * k * A / P. A level of fewer positions than k leaves
    places empty. Of equally near positions the first is taken: the bits of a distance, read as an
    integer, have its order, and the position is their last digits.
    """
    positions = levels.shape[1]
    per_position = len(anchors) // positions
    first = anchors[::per_position]  # (P, 4)
    across = (gt[..., None, 0] + gt[..., None, 2] - first[:, 0] - first[:, 2]) / 2  # (B, G, P)
    along = (gt[..., None, 1] + gt[..., None, 3] - first[:, 1] - first[:, 3]) / 2
    distance = across.square() + along.square()
    place = torch.arange(positions, device=gt.device)
    rank = distance.view(torch.int32).long() * positions + place
    nearest = [
        rank.masked_fill(~own, FAR).topk(min(k, positions), largest=False).values for own in levels
    ]
    chosen = torch.cat(nearest, -1)[..., None]  # (B, G, L k, 1)
    shape = torch.arange(per_position, device=gt.device)
    candidate = (chosen % positions) * per_position + shape
    return candidate.flatten(-2), (chosen < FAR).expand(candidate.shape).flatten(-2)


def _owners(iou: Tensor, positive: Tensor, candidate: Tensor, anchors: int) -> Tensor:
    """Of the objects that want an anchor the one of highest IoU: (B, G, C) each -> (B, anchors);
    -1: nobody.
    """
    objects = max(1, iou.shape[1])
    number = torch.arange(iou.shape[1], device=iou.device)[:, None]
    bid = iou.contiguous().view(torch.int32).long() * objects + (objects - 1 - number)
    bid = bid.masked_fill(~positive, -1)  # (B, G, C)
    held = bid.new_full((len(bid), anchors), -1)
    held.scatter_reduce_(1, candidate.flatten(1), bid.flatten(1), "amax")
    return torch.where(held >= 0, objects - 1 - held % objects, -1)


def _check(gt_boxes: Tensor, anchors: Tensor, levels: Tensor, k: int, valid: Tensor | None) -> None:
    if gt_boxes.ndim not in (2, 3) or gt_boxes.shape[-1] != 4 or anchors.shape[1:] != (4,):
        raise ValueError(
            f"gt_boxes {tuple(gt_boxes.shape)}, anchors {tuple(anchors.shape)}; make them (G, 4) "
            "or (B, G, 4), and (A, 4), both xyxy."
        )
    positions = levels.shape[-1]
    if levels.ndim != 2 or not positions or len(anchors) % positions:
        raise ValueError(
            f"{len(anchors)} anchors cannot stand at the positions of levels "
            f"{tuple(levels.shape)}, as many at each: give a row a level, a column a position."
        )
    if valid is not None and valid.shape != gt_boxes.shape[:-1]:
        raise ValueError(
            f"valid is {tuple(valid.shape)}; give {tuple(gt_boxes.shape[:-1])}, a bool a box."
        )
    if k < 1:
        raise ValueError(f"k is {k}; give at least 1 position of each level.")
