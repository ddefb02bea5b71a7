"""The fast version of augment.py: pictures of one size, as they lie in memory, become a batch.

What happens to a picture is drawn with numpy and depends on (seed, epoch, picture) alone; the
pixels never leave their device. Windows are whole pixels, so that boxes and pixels move by exactly
the same numbers.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lesson_lib.data.augment import MEAN_COLOUR, Augment, key

TRIALS = 40  # windows that are tried for a crop
LEAST_IOU = np.array([0, 0.1, 0.3, 0.5, 0.7, 0.9])
GREY = torch.tensor([0.299, 0.587, 0.114])  # brightness of R, G, B, as the eye weighs them


class Change(NamedTuple):
    """What happens to one picture.

    window     x1, y1, x2, y2 in pixels of the stored picture, whole; it may reach past the border
    views      mirror, vertical_flip, transpose: what is done to the window, in this order
    colour     (3, 4): new colour = colour[:, :3] @ old + colour[:, 3], colours 0..1
    """

    window: tuple[int, int, int, int]
    views: tuple[bool, bool, bool]
    colour: np.ndarray


def draw_change(augment: Augment, boxes: np.ndarray, side: int, *numbers: int) -> Change:
    """The change of the picture side x side, with boxes (G, 4) xyxy, that `numbers` (seed, ...)
    stand for.
    """
    if augment == Augment():
        return Change((0, 0, side, side), (False, False, False), np.eye(3, 4))
    rng = np.random.default_rng(key(*numbers))
    colour, zoom, crop, mirror, flip, transpose = rng.random(6) < (
        augment.colour,
        augment.zoom,
        augment.crop,
        augment.mirror,
        augment.vertical_flip,
        augment.transpose,
    )
    window = np.array([0, 0, side, side])
    if zoom:
        width = int(side * rng.uniform(1, 4))
        left, top = rng.integers(0, width - side + 1, 2)
        window = np.array([-left, -top, width - left, width - top])
    if crop and len(boxes):
        window = crop_window(window, boxes, rng)
    return Change(
        tuple(window.tolist()),
        (bool(mirror), bool(flip), bool(transpose)),
        colour_matrix(rng) if colour else np.eye(3, 4),
    )


def crop_window(window: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """SSD's crop: a part of the window, as `augment.iou_crop` describes it, or all of it.

    As in torchvision each limit has forty attempts, made at once here, before another limit is
    drawn.
    """
    side = window[2] - window[0]
    centres, areas = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).prod(1)
    while (choice := rng.integers(len(LEAST_IOU) + 1)) < len(LEAST_IOU):
        sizes = (side * rng.uniform(0.3, 1, (TRIALS, 2))).astype(int).clip(min=1)  # (T, 2) w, h
        corners = window[:2] + (rng.random((TRIALS, 2)) * (side - sizes)).astype(int)
        crops = np.concatenate((corners, corners + sizes), 1)[:, None]  # (T, 1, 4)
        inside = ((centres > crops[..., :2]) & (centres < crops[..., 2:])).all(-1)  # (T, G)
        overlap = np.minimum(crops[..., 2:], boxes[:, 2:]) - np.maximum(
            crops[..., :2], boxes[:, :2]
        )
        shared = overlap.clip(min=0).prod(-1)
        iou = shared / (sizes.prod(1)[:, None] + areas - shared)  # (T, G)
        good = (inside & (iou >= LEAST_IOU[choice])).any(1) & (sizes.max(1) <= 2 * sizes.min(1))
        if good.any():
            return crops[good.argmax(), 0]
    return window


def colour_matrix(rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast (about mid-grey), saturation, hue as one (3, 4), each with a chance of
    .5.

    Departs from `photometric`, which clips after every step, takes contrast about the picture's own
    mean and turns the hue in HSV; here it is turned about the grey axis, and all is clipped once.
    """
    bright, contrast, saturation = np.where(
        rng.random(3) < 0.5, rng.uniform((0.875, 0.5, 0.5), (1.125, 1.5, 1.5)), 1
    )
    angle = rng.uniform(-0.05, 0.05) * 2 * np.pi * (rng.random() < 0.5)
    axis = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    hue = axis + np.cos(angle) * (np.eye(3) - axis) + np.sin(angle) * cross  # Rodrigues
    grey = np.tile(GREY.numpy(), (3, 1))
    linear = hue @ (grey + saturation * (np.eye(3) - grey)) * (contrast * bright)
    return np.concatenate((linear, np.full((3, 1), 0.5 * (1 - contrast))), 1)


def change_boxes(boxes: Tensor, change: Change, stored: int, size: int) -> tuple[Tensor, Tensor]:
    """Boxes (G, 4) of the stored picture -> where they are in the new one (size x size), and which
    are left.

    Left is an object whose centre is in the window and of which a pixel in each direction is to be
    seen.
    """
    x1, y1, x2, y2 = change.window
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centre >= torch.tensor([x1, y1])) & (centre <= torch.tensor([x2, y2]))).all(1)
    (sx1, sy1, sx2, sy2), (tx1, ty1, tx2, ty2) = placement(change.window, stored, size)
    ratio = torch.tensor([(tx2 - tx1) / (sx2 - sx1), (ty2 - ty1) / (sy2 - sy1)]).repeat(2)
    moved = (boxes - torch.tensor([sx1, sy1, sx1, sy1])) * ratio + torch.tensor(
        [tx1, ty1, tx1, ty1]
    )
    low, high = torch.tensor([tx1, ty1]).repeat(2), torch.tensor([tx2, ty2]).repeat(2)
    moved = torch.minimum(torch.maximum(moved, low), high)
    mirror, vertical_flip, transpose = change.views
    if mirror:
        moved = torch.stack((size - moved[:, 2], moved[:, 1], size - moved[:, 0], moved[:, 3]), 1)
    if vertical_flip:
        moved = torch.stack((moved[:, 0], size - moved[:, 3], moved[:, 2], size - moved[:, 1]), 1)
    if transpose:
        moved = moved[:, [1, 0, 3, 2]]
    return moved, inside & (moved[:, 2:] - moved[:, :2] >= 1).all(1)


def placement(
    window: tuple[int, int, int, int], stored: int, size: int
) -> tuple[list[int], list[int]]:
    """(the part of the stored picture inside the window, where it lies in the new one), both xyxy
    pixels.
    """
    source = [min(max(v, 0), stored) for v in window]
    ratio = size / (window[2] - window[0]), size / (window[3] - window[1])
    target = [round((v - window[i % 2]) * ratio[i % 2]) for i, v in enumerate(source)]
    return source, target


def change_pictures(stored: Tensor, rows: list[int], changes: list[Change], size: int) -> Tensor:
    """uint8 (N, 3, S, S), which of them, what happens to each -> float (B, 3, size, size) in 0..1.

    On a CPU it is fastest where `stored` is channels_last.
    """
    batch = torch.empty(len(rows), 3, size, size, dtype=torch.uint8, device=stored.device)
    fill = stored.new_tensor(MEAN_COLOUR)[:, None, None]
    for picture, row, change in zip(batch, rows, changes):
        (x1, y1, x2, y2), (tx1, ty1, tx2, ty2) = placement(change.window, stored.shape[-1], size)
        mirror, vertical_flip, transpose = change.views
        part = _resized(stored[row, :, y1:y2, x1:x2], (ty2 - ty1, tx2 - tx1))
        part = (
            part.flip([axis for axis, wanted in ((2, mirror), (1, vertical_flip)) if wanted])
            if mirror or vertical_flip
            else part
        )
        if mirror:
            tx1, tx2 = size - tx2, size - tx1
        if vertical_flip:
            ty1, ty2 = size - ty2, size - ty1
        view = picture.mT if transpose else picture
        if part.shape != picture.shape:
            view.copy_(fill.expand_as(view))
        view[:, ty1:ty2, tx1:tx2] = part
    images = batch.float().mul_(1 / 255)
    matrices = np.stack([change.colour for change in changes])
    if (matrices == np.eye(3, 4)).all():
        return images
    matrices = torch.from_numpy(matrices).float().to(images.device, non_blocking=True)  # (B, 3, 4)
    return (
        torch.baddbmm(matrices[..., 3:], matrices[..., :3], images.flatten(2))
        .clamp_(0, 1)
        .view_as(images)
    )


def _resized(part: Tensor, size: tuple[int, int], by_float: bool | None = None) -> Tensor:
    """(3, h, w) uint8 -> (3, *size): bilinear, with antialiasing. A part that has the size stays as
    it is, bit for bit.

    by_float: by way of float32, for CUDA, which has no such kernel for uint8; the levels differ by
    one at most. None: but on a CPU.
    """
    if part.shape[1:] == size:
        return part
    by_float = not part.is_cpu if by_float is None else by_float
    picture = part[None].float() if by_float else part[None]
    picture = F.interpolate(picture, size, mode="bilinear", antialias=True)[0]
    return picture.round_().to(torch.uint8) if by_float else picture
