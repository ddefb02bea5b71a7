"""Augmentation: other pictures of the same objects, made by chance, the boxes moved with the
pixels.

SSD's (arXiv:1512.02325, sections 2.2 and 3.6). `draw_change` is its one definition: what happens to
a picture is a handful of numbers, drawn from (seed, epoch, picture) alone, so that the same picture
comes out in every process and after every restart. `data.changes` carries it out, for whole batches
in `data.feed`; here `augmented` does it to one `Sample`, and each step alone is a function that
draws from torch's global generator, which `seeded` pins.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from lesson_lib.anchors import Size, as_pair
from lesson_lib.boxes import box_area, clip_boxes
from lesson_lib.data.changes import (
    MEAN_COLOUR,
    SAME_COLOUR,
    Change,
    change_boxes,
    change_colours,
    colour_matrices,
    put_window,
)
from lesson_lib.data.samples import Sample

__all__ = [
    "AUGMENTS",
    "MEAN_COLOUR",
    "Augment",
    "augmented",
    "draw_change",
    "find_augment",
    "iou_crop",
    "key",
    "mirror",
    "photometric",
    "seeded",
    "transpose",
    "vertical_flip",
    "zoom_out",
]
MOST_ZOOM = 4.0  # times as wide and high
TRIALS = 40  # windows that are tried for a crop
LEAST_IOU = np.array([0, 0.1, 0.3, 0.5, 0.7, 0.9])
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # how bright the eye sees R, G, B


@dataclass(frozen=True)
class Augment:
    """How likely each step is, 0..1, and how far sizes are jittered.

    colour     brightness, contrast, saturation, hue
    zoom       a canvas of up to 16 times the area around the picture: small objects
    crop       a part of the picture that still shows an object: large objects
    mirror     left and right; vertical_flip: top and bottom; transpose: rows and columns. All three
               at .5 give the eight views of a square with equal chance: right for a smear under a
               microscope, where no direction is special, wrong for street scenes.
    scales     least and most of what each picture is enlarged by, after the rest: over 1 a part of
               it is seen, below 1 it lies on a larger canvas; (1, 1): never. See `jitter_window`.
    """

    colour: float = 0.0
    zoom: float = 0.0
    crop: float = 0.0
    mirror: float = 0.0
    vertical_flip: float = 0.0
    transpose: float = 0.0
    scales: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        least, most = self.scales
        if not 0 < least <= most < float("inf"):
            raise ValueError(
                f"scales is {self.scales}; give the least and the most, both over 0, (1, 1) for "
                "pictures as they are."
            )
        for field in fields(self):
            if field.name != "scales" and not 0 <= getattr(self, field.name) <= 1:
                raise ValueError(
                    f"{field.name} is {getattr(self, field.name)}; give a probability, 0 to 1."
                )


AUGMENTS = {
    "none": Augment(),
    "mirror": Augment(mirror=0.5),  # RetinaNet's paper
    "flips": Augment(mirror=0.5, vertical_flip=0.5, transpose=0.5),
    "crops": Augment(crop=0.5, mirror=0.5, vertical_flip=0.5, transpose=0.5),
    "ssd": Augment(colour=1, zoom=0.5, crop=1, mirror=0.5),  # SSD's paper
    "smears": Augment(colour=0.5, zoom=0.2, crop=0.5, mirror=0.5, vertical_flip=0.5, transpose=0.5),
    "photos": Augment(colour=0.5, zoom=0.2, crop=0.5, mirror=0.5),  # an upper side, few pictures
    # Standard and large-scale jitter: Ghiasi et al., arXiv:2012.07177, section 3.
    "jitter": Augment(mirror=0.5, scales=(0.8, 1.25)),
    "large-jitter": Augment(mirror=0.5, scales=(0.1, 2.0)),
    "flips-jitter": Augment(mirror=0.5, vertical_flip=0.5, transpose=0.5, scales=(0.8, 1.25)),
}


def find_augment(augment: str | Augment) -> Augment:
    """An Augment, by its name or as it is. ValueError with the known names for another one."""
    if isinstance(augment, str) and augment not in AUGMENTS:
        raise ValueError(
            f"augment is {augment!r}; choose {', '.join(AUGMENTS)}, or give an Augment."
        )
    return AUGMENTS[augment] if isinstance(augment, str) else augment


def key(*numbers: int) -> np.random.SeedSequence:
    """What all chance for (seed, epoch, picture) comes from; whole numbers of 0 or more."""
    return np.random.SeedSequence(numbers)


def draw_change(augment: Augment, boxes: np.ndarray, size: Size, *numbers: int) -> Change:
    """The change of a picture of `size` (height, width), with boxes (G, 4) xyxy, that `numbers`
    (seed, ...) stand for, in SSD's order: colours, a larger canvas, a crop of it, views.
    """
    height, width = as_pair(size)
    window = np.array([0, 0, width, height])
    if augment == Augment():
        return Change(tuple(window.tolist()))
    rng = np.random.default_rng(key(*numbers))
    colour, zoom, crop, mirrored, flipped, transposed = rng.random(6) < (
        augment.colour,
        augment.zoom,
        augment.crop,
        augment.mirror,
        augment.vertical_flip,
        augment.transpose,
    )
    if zoom:
        window = zoom_window((height, width), rng)
    if crop:
        window = crop_window(window, _visible(boxes, (height, width)), rng)
    if augment.scales != (1, 1):
        window = jitter_window(window, augment.scales, rng)
    return Change(
        tuple(window.tolist()),
        (bool(mirrored), bool(flipped), bool(transposed)),
        colour_matrix(rng) if colour else SAME_COLOUR,
    )


def _visible(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The boxes cut at the picture's border; those that lie outside are left out."""
    height, width = size
    cut = boxes.clip(0, [width, height, width, height])
    return cut[(cut[:, 2:] > cut[:, :2]).all(1)]


def zoom_window(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """SSD's larger canvas around a picture of `size` (height, width): 1 to 4 times as wide and
    high, the picture anywhere on it -> x1, y1, x2, y2 in the picture's pixels.
    """
    sides = np.array(size[::-1])
    canvas = (sides * rng.uniform(1, MOST_ZOOM)).astype(int)
    corner = rng.integers(0, canvas - sides + 1)
    return np.concatenate((-corner, canvas - corner))


def jitter_window(
    window: np.ndarray, scales: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Scale jitter (arXiv:2012.07177, section 3): what the network sees is enlarged by a number
    drawn evenly from `scales`, and a part of the old size, anywhere, is kept.

    window: x1, y1, x2, y2 -> another, of the same shape. Enlarged by s, a share 1 / s of each side
    is seen; reduced, all of it on a canvas 1 / s as wide and high.
    """
    sides = window[2:] - window[:2]
    new = (sides / rng.uniform(*scales)).round().astype(int).clip(min=1)
    room = sides - new  # negative where the canvas is larger
    corner = window[:2] + np.round(rng.random(2) * room).astype(int)
    return np.concatenate((corner, corner + new))


def crop_window(window: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """SSD's crop: the whole window, or a part that has IoU 0, .1, .3, .5, .7 or .9 (by chance) or
    more with an object.

    Only parts that hold the centre of such an object will do. Width and height are .3 to 1 of the
    window's, and at most 2:1. As in torchvision each limit has forty attempts, made at once here,
    before another limit is drawn. Without an object the window stays.
    Departs from the paper, as the authors' release and torchvision do: there parts of .1 to 1 of
    its size.
    """
    if len(boxes) == 0:
        return window
    sides = window[2:] - window[:2]
    centres, areas = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).prod(1)
    while (choice := rng.integers(len(LEAST_IOU) + 1)) < len(LEAST_IOU):
        sizes = (sides * rng.uniform(0.3, 1, (TRIALS, 2))).astype(int).clip(min=1)  # (T, 2) w, h
        corners = window[:2] + (rng.random((TRIALS, 2)) * (sides - sizes)).astype(int)
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

    Departs from the authors' release, and from torchvision, which clip after every step and turn
    the hue in HSV (torchvision takes contrast about the picture's own mean): here the hue is turned
    about the grey axis, and all is clipped once, so that a batch is one product of matrices.
    """
    bright, contrast, saturation = np.where(
        rng.random(3) < 0.5, rng.uniform((0.875, 0.5, 0.5), (1.125, 1.5, 1.5)), 1
    )
    angle = rng.uniform(-0.05, 0.05) * 2 * np.pi * (rng.random() < 0.5)
    axis = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    hue = axis + np.cos(angle) * (np.eye(3) - axis) + np.sin(angle) * cross  # Rodrigues
    grey = np.tile(GREY, (3, 1))
    linear = hue @ (grey + saturation * (np.eye(3) - grey)) * (contrast * bright)
    return np.concatenate((linear, np.full((3, 1), 0.5 * (1 - contrast))), 1)


# ---- one sample ----


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Inside, torch's global CPU generator stands where `numbers` say; afterwards where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(key(*numbers).generate_state(1, np.uint64)[0]))
        yield


def augmented(
    sample: Sample, augment: str | Augment, seed: int, epoch: int, picture: int
) -> Sample:
    """The sample after all steps, in SSD's order, at the size of its window; the same for the same
    (seed, epoch, picture) anywhere.
    """
    boxes = sample.boxes[~sample.crowd].numpy()
    change = draw_change(find_augment(augment), boxes, sample.size, seed, epoch, picture)
    return _changed(sample, change)


def photometric(sample: Sample, shuffle: bool = False) -> Sample:
    """Brightness, contrast, saturation and hue, each changed with a chance of .5.

    shuffle: as torchvision's transform does it, the three colours change places in half of the
    pictures. The authors' release can, too, but never does (random_order_prob 0): where colour
    tells red cells from white ones it would teach the wrong thing.
    """
    rng = _drawn()
    colour = colour_matrix(rng)
    if shuffle and rng.random() < 0.5:
        colour = colour[rng.permutation(3)]
    return _changed(sample, _whole(sample)._replace(colour=colour))


def zoom_out(sample: Sample) -> Sample:
    """The picture somewhere on a canvas 1 to 4 times as wide and high, filled with one colour."""
    window = zoom_window(sample.size, _drawn())
    return _changed(sample, _whole(sample)._replace(window=tuple(window.tolist())))


def iou_crop(sample: Sample) -> Sample:
    """The whole picture, or a part of it, see `crop_window`; the objects whose centre is inside
    stay, cut at the border.
    """
    whole = _whole(sample)
    boxes = _visible(sample.boxes.numpy(), sample.size)
    window = crop_window(np.array(whole.window), boxes, _drawn())
    return _changed(sample, whole._replace(window=tuple(window.tolist())))


def mirror(sample: Sample) -> Sample:
    """Left becomes right."""
    return _changed(sample, _whole(sample)._replace(views=(True, False, False)))


def vertical_flip(sample: Sample) -> Sample:
    """Top becomes bottom."""
    return _changed(sample, _whole(sample)._replace(views=(False, True, False)))


def transpose(sample: Sample) -> Sample:
    """Rows become columns: pixel (x, y) goes to (y, x)."""
    return _changed(sample, _whole(sample)._replace(views=(False, False, True)))


def _drawn() -> np.random.Generator:
    """A generator whose seed comes from torch's global one."""
    return np.random.default_rng(int(torch.randint(2**62, ())))


def _whole(sample: Sample) -> Change:
    """No change."""
    height, width = sample.size
    return Change((0, 0, width, height))


def _changed(sample: Sample, change: Change) -> Sample:
    """The sample after a change, at the size of its window. Boxes are first cut at the picture's
    border.

    An object of which less than a pixel is left goes, with its label and marks; an area from a mask
    shrinks as its box does.
    """
    x1, y1, x2, y2 = change.window
    size = (y2 - y1, x2 - x1)
    old = clip_boxes(sample.boxes, sample.size)
    boxes, kept = change_boxes(old, change, sample.size, size)
    area = sample.area
    if area is not None:
        area = (area * box_area(boxes) / box_area(old))[kept]
    return replace(
        sample,
        image=_changed_image(sample.image, change, size),
        boxes=boxes[kept],
        labels=sample.labels[kept],
        area=area,
        difficult=sample.difficult[kept],
        crowd=sample.crowd[kept],
    )


def _changed_image(image: Tensor, change: Change, size: tuple[int, int]) -> Tensor:
    """uint8 (3, h, w) -> uint8 of `size` (height, width), or of its transpose."""
    new = image.new_empty((3, *(size[::-1] if change.views[2] else size)))
    put_window(image, change, new)
    matrices = colour_matrices([change])
    if matrices is None:
        return new
    return change_colours(new[None], matrices)[0].mul_(255).round_().to(torch.uint8)
