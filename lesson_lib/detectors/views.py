"""Several views of a picture, and one answer: test-time augmentation.

Under a microscope no direction is special. A smear that is mirrored or turned is as good as the
first, and a network that sees it so errs a little differently. Its anchors and offsets are turned
back, and what all views found goes through one NMS; with `box_vote` they agree on each box, and on
how sure it is.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lesson_lib.detectors.criterion import Outputs

#: mirror, vertical flip, transpose, in this order: as `data.changes.Change` has them.
View = tuple[bool, bool, bool]
#: How a picture is looked at so many times.
VIEWS: dict[int, tuple[View, ...]] = {
    1: ((False, False, False),),
    2: ((False, False, False), (True, False, False)),
    4: tuple((mirror, flip, False) for flip in (False, True) for mirror in (False, True)),
    8: tuple(
        (mirror, flip, transpose)
        for transpose in (False, True)
        for flip in (False, True)
        for mirror in (False, True)
    ),
}


def outputs_in_views(
    forward: Callable[[Tensor], Outputs],
    anchors: Callable[[tuple[int, int]], Tensor],
    pictures: Tensor,
    count: int = 1,
) -> tuple[Outputs, Tensor]:
    """What a network says of `count` views, and the anchors of which it says so, all turned back.

    forward: pictures (B, 3, H, W) -> Outputs of A anchors; anchors: (height, width) -> (A, 4) xyxy
    pixels. count: 1, the picture as it is; 2, and mirrored, where left and right are alike; 4, and
    both upside down; 8, and all four transposed, where no direction is special.
    Returns Outputs of count x A anchors, view after view, and these (count * A, 4): what
    `detections` takes with views=count. It takes `count` times as long.
    ValueError for another count.
    """
    check_views(count)
    seen, turned = [], []
    for view in VIEWS[count]:
        picture = _turn(pictures, view)
        seen.append(_deltas_back(forward(picture), view))
        own = anchors((picture.shape[-2], picture.shape[-1]))
        turned.append(_boxes_back(own, view, (pictures.shape[-2], pictures.shape[-1])))
    return Outputs(*(torch.cat(parts, 1) for parts in zip(*seen))), torch.cat(turned)


def check_views(count: int) -> None:
    """ValueError unless there are so many views."""
    if count not in VIEWS:
        *few, most = VIEWS
        raise ValueError(f"views is {count}; give {', '.join(map(str, few))} or {most}.")


def _turn(pictures: Tensor, view: View) -> Tensor:
    """(..., H, W), mirrored and so on; transposed, it is (..., W, H)."""
    mirror, vertical_flip, transpose = view
    axes = [axis for axis, wanted in ((-1, mirror), (-2, vertical_flip)) if wanted]
    pictures = pictures.flip(axes) if axes else pictures
    return pictures.mT.contiguous() if transpose else pictures


def _deltas_back(outputs: Outputs, view: View) -> Outputs:
    """Offsets (..., 4) of centre and size, x before y, as they are before the picture is turned."""
    mirror, vertical_flip, transpose = view
    dx, dy, dw, dh = outputs.box_deltas.unbind(-1)
    if transpose:
        dx, dy, dw, dh = dy, dx, dh, dw
    dx, dy = -dx if mirror else dx, -dy if vertical_flip else dy
    return outputs._replace(box_deltas=torch.stack((dx, dy, dw, dh), -1))


def _boxes_back(boxes: Tensor, view: View, size: tuple[int, int]) -> Tensor:
    """Boxes (A, 4) xyxy of the turned picture -> of the picture itself, of (height, width)."""
    mirror, vertical_flip, transpose = view
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(1)
    if transpose:
        x1, y1, x2, y2 = y1, x1, y2, x2
    if mirror:
        x1, x2 = width - x2, width - x1
    if vertical_flip:
        y1, y2 = height - y2, height - y1
    return torch.stack((x1, y1, x2, y2), 1)
