"""What happens to one picture, carried out: boxes and pixels of a `Change`.

There is one definition and two executors. `augment.draw_change` draws the numbers, once for each
picture and epoch. `put_window` then moves the pixels of one picture on the CPU, in a worker
process; `change_pictures` those of a batch on the device where the pictures are kept. Both come to
the same levels, up to the rounding of a GPU. Colours are changed last, of the whole batch on the
device, whoever moved the pixels. Windows are whole pixels, so that boxes and pixels move by exactly
the same numbers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lesson_lib.anchors import Size, as_pair
from lesson_lib.data.objects import send

MEAN_COLOUR = (123, 117, 104)  # of ImageNet, 0..255: what SSD's larger canvas is filled with
SAME_COLOUR = np.eye(3, 4)


class Change(NamedTuple):
    """What happens to one picture.

    window     x1, y1, x2, y2 in pixels of the picture, whole; it may reach past the border
    views      mirror, vertical_flip, transpose: what is done to the window, in this order
    colour     (3, 4): new colour = colour[:, :3] @ old + colour[:, 3], colours 0..1
    """

    window: tuple[int, int, int, int]
    views: tuple[bool, bool, bool] = (False, False, False)
    colour: np.ndarray = SAME_COLOUR


def placement(window: tuple[int, ...], stored: Size, size: Size) -> tuple[list[int], list[int]]:
    """(the part of the picture inside the window, where it lies in the new one), both xyxy pixels.

    stored, size: (height, width) of the picture and of what the window becomes. However thin the
    part, it gets a pixel; a window beside the picture shows nothing of it, and both are empty.
    """
    source, target = [0] * 4, [0] * 4
    for axis, (side, wanted) in enumerate(zip(as_pair(stored)[::-1], as_pair(size)[::-1])):
        first, last = window[axis], window[axis + 2]
        low, high = (min(max(place, 0), side) for place in (first, last))
        if low >= high:
            return [0] * 4, [0] * 4
        start, end = (round((place - first) * (wanted / (last - first))) for place in (low, high))
        start = min(start, wanted - 1)
        source[axis::2] = low, high
        target[axis::2] = start, max(end, start + 1)
    return source, target


def change_boxes(boxes: Tensor, change: Change, stored: Size, size: Size) -> tuple[Tensor, Tensor]:
    """Boxes (G, 4) of the picture -> where they are in the new one, and which are left (G,).

    stored, size: (height, width) of the picture, and of the new one before it is transposed. Left
    is an object whose centre is in the window and of which a pixel in each direction is to be seen.
    """
    height, width = as_pair(size)
    # Few boxes: NumPy's operations cost a fraction of torch's.
    corners = boxes.numpy().reshape(-1, 2, 2)  # (G, upper left and lower right, x and y)
    window = np.array(change.window, np.float32)
    centre = (corners[:, 0] + corners[:, 1]) / 2
    inside = ((centre >= window[:2]) & (centre <= window[2:])).all(1)
    source, target = (np.array(x, np.float32) for x in placement(change.window, stored, size))
    ratio = (target[2:] - target[:2]) / np.maximum(source[2:] - source[:2], 1)
    moved = (corners - source[:2]) * ratio + target[:2]
    moved = np.minimum(np.maximum(moved, target[:2]), target[2:]).reshape(-1, 4)
    mirror, vertical_flip, transpose = change.views
    if mirror:
        moved[:, 0::2] = width - moved[:, 2::-2]
    if vertical_flip:
        moved[:, 1::2] = height - moved[:, 3::-2]
    if transpose:
        moved = moved[:, [1, 0, 3, 2]]
    kept = inside & (moved[:, 2:] - moved[:, :2] >= 1).all(1)
    return torch.from_numpy(moved), torch.from_numpy(kept)


def put_window(
    picture: Tensor,
    change: Change,
    out: Tensor,
    inner: Size | None = None,
    antialias: bool = True,
) -> None:
    """Fills `out`, uint8 (3, H, W), with the window of `picture`, uint8 (3, h, w), and its views.

    inner: (height, width) at the upper left of `out` that the window becomes; None: all of it. What
    is left of `out`, and what of the window lies outside the picture, becomes MEAN_COLOUR. On a CPU
    it is fastest where `picture` is laid out channels last.
    """
    mirror, vertical_flip, transpose = change.views
    if inner is not None and tuple(out.shape[1:]) != as_pair(inner):
        _fill(out)
        out = out[:, : as_pair(inner)[0], : as_pair(inner)[1]]
    view = out.mT if transpose else out
    height, width = view.shape[1:]
    (x1, y1, x2, y2), (tx1, ty1, tx2, ty2) = placement(
        change.window, (picture.shape[1], picture.shape[2]), (height, width)
    )
    part = resized(picture[:, y1:y2, x1:x2], (ty2 - ty1, tx2 - tx1), antialias)
    axes = [axis for axis, wanted in ((2, mirror), (1, vertical_flip)) if wanted]
    if mirror:
        tx1, tx2 = width - tx2, width - tx1
    if vertical_flip:
        ty1, ty2 = height - ty2, height - ty1
    if part.shape != view.shape:
        _fill(view)
    view[:, ty1:ty2, tx1:tx2] = part.flip(axes) if axes else part


def _fill(out: Tensor) -> None:
    """MEAN_COLOUR in all of (3, H, W): a device writes the numbers itself, none is copied to it."""
    for channel, level in zip(out, MEAN_COLOUR, strict=True):
        channel.fill_(level)


def change_pictures(
    stored: Sequence[Tensor] | Tensor,
    rows: Sequence[int],
    changes: Sequence[Change],
    size: Size,
    inner: Sequence[Size | None] | None = None,
    antialias: bool = True,
) -> Tensor:
    """uint8 (3, h, w) each, which of them, what happens to each -> float (B, 3, *size) in 0..1.

    All is done where the pictures are, for B = len(rows). inner, antialias: see `put_window`.
    """
    shape = (len(rows), 3, *as_pair(size))
    batch = torch.empty(shape, dtype=torch.uint8, device=stored[0].device)
    parts = [None] * len(rows) if inner is None else inner
    for out, row, change, part in zip(batch, rows, changes, parts, strict=True):
        put_window(stored[row], change, out, part, antialias)
    matrices = colour_matrices(changes)
    return change_colours(batch, None if matrices is None else send(matrices, batch.device))


def colour_matrices(changes: Sequence[Change]) -> Tensor | None:
    """The changes' colours as float32 (B, 3, 4), or None where none is changed."""
    matrices = np.stack([change.colour for change in changes])
    return None if (matrices == SAME_COLOUR).all() else torch.from_numpy(matrices).float()


def change_colours(batch: Tensor, matrices: Tensor | None) -> Tensor:
    """uint8 (B, 3, H, W), (B, 3, 4) as in `Change` on the same device -> float in 0..1.

    What was filled up around a picture changes with it.
    """
    images = batch.float().mul_(1 / 255)
    if matrices is None:
        return images
    turned = torch.baddbmm(matrices[..., 3:], matrices[..., :3], images.flatten(2))
    return turned.clamp_(0, 1).view_as(images)


def resized(
    part: Tensor, size: tuple[int, int], antialias: bool = True, by_float: bool | None = None
) -> Tensor:
    """(3, h, w) uint8 -> (3, *size): bilinear. A part that has the size stays as it is, bit for
    bit.

    by_float: by way of float32, for CUDA, which has no kernel with antialiasing for uint8; the
    levels differ by one at most. None: but on a CPU. Without antialiasing always.
    """
    if part.shape[1:] == size:
        return part
    by_float = not part.is_cpu or not antialias if by_float is None else by_float
    picture = part[None].float() if by_float else part[None]
    picture = F.interpolate(picture, size, mode="bilinear", antialias=antialias)[0]
    return picture.round_().to(torch.uint8) if by_float else picture
