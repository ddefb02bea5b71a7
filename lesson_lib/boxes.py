"""Boxes as tensors: formats, areas, overlaps, and a check for nonsense.

Unless a name says otherwise a box is xyxy: (x1, y1, x2, y2) in pixels, continuous, y pointing down.
A box from 2 to 5 is 3 wide (no "+ 1"). All functions take any leading dimensions, run on the device
of their input, and never compute an area or an overlap in less than float32: at 800 px bfloat16 is
off by up to 2 px.
"""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """x itself if it is float32 or float64, otherwise (half precision, integers) a float32 copy."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners -> (..., 4) centre x, centre y, width, height. Same unit."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), -1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height -> (..., 4) corners. Same unit."""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), -1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners -> (..., 4) left, top, width, height, as COCO's JSON files store boxes."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1, y1, x2 - x1, y2 - y1), -1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) left, top, width, height -> (..., 4) corners."""
    x, y, w, h = boxes.unbind(-1)
    return torch.stack((x, y, x + w, y + h), -1)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Moves corners outside a picture of size (height, width) to its edge: (..., 4) xyxy ->
    (..., 4).

    A box that lies wholly outside comes back with zero area.
    """
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    x1, x2 = x1.clamp(0, width), x2.clamp(0, width)
    y1, y2 = y1.clamp(0, height), y2.clamp(0, height)
    return torch.stack((x1, y1, x2, y2), -1)


def box_area(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy -> (...) areas (x2 - x1)(y2 - y1), square pixels."""
    x1, y1, x2, y2 = at_least_float32(boxes).unbind(-1)
    return (x2 - x1) * (y2 - y1)


def pairwise_intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area each box of a shares with each box of b: (..., N, 4), (..., M, 4) xyxy -> (..., N, M).

    The shared part is a box again: along x and along y it starts at the later start, ends at the
    earlier end.
    """
    ax1, ay1, ax2, ay2 = at_least_float32(a)[..., :, None, :].unbind(-1)  # each (..., N, 1)
    bx1, by1, bx2, by2 = at_least_float32(b)[..., None, :, :].unbind(-1)  # each (..., 1, M)
    w = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)  # (..., N, M)
    h = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    return w * h


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union of all pairs: (..., N, 4), (..., M, 4) xyxy -> two
    (..., N, M).
    """
    intersection = pairwise_intersection(a, b)
    return intersection, box_area(a)[..., :, None] + box_area(b)[..., None, :] - intersection


def _divide_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and 0 where the denominator is 0 (so is the numerator here).

    NaN stays NaN.
    """
    return numerator / denominator.masked_fill(denominator == 0, 1)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Jaccard overlap (intersection over union) of all pairs: (..., N, 4), (..., M, 4) xyxy ->
    (..., N, M).

        IoU(a, b) = |a n b| / |a u b| = |a n b| / (|a| + |b| - |a n b|),  from 0 to 1

    Departs from torchvision's box_iou: two boxes of zero area have IoU 0, where it gives NaN. NaN
    coordinates give NaN; inverted boxes (x2 < x1) give meaningless numbers: `check_boxes` finds
    both.
    """
    return _divide_or_zero(*_intersection_and_union(a, b))


def pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (arXiv:1902.09630) of all pairs: (..., N, 4), (..., M, 4) xyxy ->
    (..., N, M).

        GIoU(a, b) = IoU(a, b) - (|c| - |a u b|) / |c|,  from -1 to 1

    c is the smallest box that holds both.

    Unlike the IoU it still tells near from far when the boxes do not touch. Departs from
    torchvision's generalized_box_iou: a term with a zero denominator is 0 instead of NaN.
    """
    intersection, union = _intersection_and_union(a, b)
    ax1, ay1, ax2, ay2 = at_least_float32(a)[..., :, None, :].unbind(-1)
    bx1, by1, bx2, by2 = at_least_float32(b)[..., None, :, :].unbind(-1)
    hull_w = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    hull = hull_w * (torch.maximum(ay2, by2) - torch.minimum(ay1, by1))
    return _divide_or_zero(intersection, union) - _divide_or_zero(hull - union, hull)


def check_boxes(boxes: Tensor, size: tuple[int, int] | None = None, name: str = "boxes") -> None:
    """Raises ValueError, naming the first bad row, unless boxes is (G, 4), finite, and each box has
    an area.

    With size = (height, width) the boxes must also lie inside the picture. G may be 0.
    It reads values, so on CUDA it waits for the device: call it where data enters, not in a
    training step.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"{name} has shape {tuple(boxes.shape)}; make it (G, 4), or (0, 4) without objects."
        )
    x1, y1, x2, y2 = boxes.unbind(1)
    height, width = size if size is not None else (float("inf"), float("inf"))
    faults = {
        "holds NaN or infinity; repair or drop the annotation": ~boxes.isfinite().all(1),
        "is inverted; order it as x1 < x2 and y1 < y2": (x2 < x1) | (y2 < y1),
        "has zero area; drop it": (x2 == x1) | (y2 == y1),
        f"leaves the picture of (height, width) {size}; clip it with clip_boxes": (x1 < 0)
        | (y1 < 0)
        | (x2 > width)
        | (y2 > height),
    }
    faulty = torch.stack(tuple(faults.values()))  # (4 faults, G)
    if size is None:
        faulty = faulty[:3]
    if faulty.any():
        row = int(faulty.any(0).nonzero()[0])
        fault = list(faults)[int(faulty[:, row].nonzero()[0])]
        raise ValueError(f"{name}[{row}] = {[round(v, 3) for v in boxes[row].tolist()]} {fault}.")
