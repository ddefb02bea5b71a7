"""Slow, obvious answers.

Nothing here imports the package: an oracle shares no code with what it checks.
"""

from fractions import Fraction

import torch
from torch import Tensor


def cells(box: list[int]) -> set[tuple[int, int]]:
    """The unit squares of the pixel grid that a box with whole-number corners covers."""
    x1, y1, x2, y2 = (int(v) for v in box)
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


def iou_by_counting(a: Tensor, b: Tensor) -> Tensor:
    """(N, 4), (M, 4) whole-number xyxy -> (N, M): squares in both over squares in either."""
    return torch.tensor(
        [
            [len(cells(p) & cells(q)) / max(1, len(cells(p) | cells(q))) for q in b.tolist()]
            for p in a.tolist()
        ]
    ).reshape(len(a), len(b))


def exact_iou(a: list[float], b: list[float]) -> Fraction:
    """IoU of two boxes without rounding."""
    ax1, ay1, ax2, ay2 = map(Fraction, a)
    bx1, by1, bx2, by2 = map(Fraction, b)
    both = max(0, min(ax2, bx2) - max(ax1, bx1)) * max(0, min(ay2, by2) - max(ay1, by1))
    return both / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both)


def greedy_bipartite(iou: list[list[float]]) -> dict[int, int]:
    """iou[object][anchor] -> {object: anchor}: again and again the best pair of those still free.

    Equal overlaps: the lower anchor first, then the lower object. Overlaps up to 1e-6 are no pair.
    """
    free_objects, free_anchors, pairs = (
        set(range(len(iou))),
        set(range(len(iou[0]) if iou else 0)),
        {},
    )
    while free_objects and free_anchors:
        overlap, anchor, g = min((-iou[g][a], a, g) for g in free_objects for a in free_anchors)
        if -overlap <= 1e-6:
            break
        pairs[g] = anchor
        free_objects.remove(g)
        free_anchors.remove(anchor)
    return pairs


def finite_differences(f, x: Tensor, step: float = 1e-6) -> Tensor:
    """Gradient of the scalar f at the float64 tensor x by central differences,
    one entry at a time.
    """
    gradient = torch.zeros_like(x)
    for i in range(x.numel()):
        nudge = torch.zeros_like(x)
        nudge.view(-1)[i] = step
        gradient.view(-1)[i] = (f(x + nudge) - f(x - nudge)) / (2 * step)
    return gradient
