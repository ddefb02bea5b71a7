"""Offsets: how a box is written relative to its anchor, and read back; what a box head learns to
predict.
"""

import math

import torch
from torch import Tensor

VARIANCES = (0.1, 0.2)
#: The papers' equations as printed.
NO_VARIANCES = (1.0, 1.0)


def encode(boxes: Tensor, anchors: Tensor, variances: tuple[float, float] = VARIANCES) -> Tensor:
    """Offsets of matched boxes from their anchors (SSD, arXiv:1512.02325, eq. 2).

        t_xy = (g_xy - d_xy) / d_wh / v_xy        t_wh = log(g_wh / d_wh) / v_wh

    boxes, anchors: (..., A, 4) cxcywh in one unit, broadcast together.
    Returns (..., A, 4), unitless.
    Departs from the paper: divides by the variances (v_xy, v_wh), as the authors' released code
    does; that brings the four targets to about unit spread. NO_VARIANCES gives the paper's
    equation. torchvision's BoxCoder takes the reciprocals: (10, 10, 5, 5) for its SSD, (1, 1, 1, 1)
    for its RetinaNet. A box without width or height has offset -inf, NaN stays NaN: `matching`
    gives such boxes to no anchor.
    """
    v_xy, v_wh = variances
    xy = (boxes[..., :2] - anchors[..., :2]) / anchors[..., 2:] / v_xy
    wh = torch.log(boxes[..., 2:] / anchors[..., 2:]) / v_wh
    return torch.cat((xy, wh), -1)


def decode(
    deltas: Tensor,
    anchors: Tensor,
    variances: tuple[float, float] = VARIANCES,
    max_log_wh: float | None = math.log(1000 / 16),
) -> Tensor:
    """Boxes from offsets: the inverse of `encode` with the same variances.

        g_xy = d_xy + t_xy v_xy d_wh        g_wh = d_wh exp(t_wh v_wh)

    deltas (..., A, 4) unitless, anchors (..., A, 4) cxcywh, broadcast together. Returns (..., A, 4)
    cxcywh in the anchors' unit and at least their precision: bfloat16 deltas are widened before
    exp.
    Departs from the paper: t_wh v_wh is cut at max_log_wh, so that an untrained network cannot
    overflow exp: no box exceeds 1000 / 16 = 62.5 times its anchor's width or height, as in
    torchvision. None: no cut.
    """
    v_xy, v_wh = variances
    deltas = deltas.to(torch.promote_types(deltas.dtype, anchors.dtype))
    xy = anchors[..., :2] + deltas[..., :2] * v_xy * anchors[..., 2:]
    log_wh = deltas[..., 2:] * v_wh
    if max_log_wh is not None:
        log_wh = log_wh.clamp(max=max_log_wh)
    return torch.cat((xy, anchors[..., 2:] * log_wh.exp()), -1)
