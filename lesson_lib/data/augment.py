"""Augmentation: other pictures of the same objects, made by chance, the boxes moved with the
pixels.

SSD's (arXiv:1512.02325, section 2.2 and 3.6), one function a step, each on one `Sample`; the work
is done by torchvision.transforms.v2. Steps draw from torch's global generator: `seeded` pins it to
(seed, epoch, picture), so that the same picture comes out in every process and after every restart.
feed.py has a second, faster version for whole batches; both read the same `Augment`.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from lesson_lib.boxes import box_area, clip_boxes
from lesson_lib.data.samples import Sample

MEAN_COLOUR = (123, 117, 104)  # of ImageNet, 0..255: what SSD's larger canvas is filled with


@dataclass(frozen=True)
class Augment:
    """How likely each step is, 0..1.

    colour     brightness, contrast, saturation, hue
    zoom       a canvas of up to 16 times the area around the picture: small objects
    crop       a part of the picture that still shows an object: large objects
    mirror     left and right; vertical_flip: top and bottom; transpose: rows and columns. All three
               at .5 give the eight views of a square with equal chance: right for a smear under a
               microscope, where no direction is special, wrong for street scenes.
    """

    colour: float = 0.0
    zoom: float = 0.0
    crop: float = 0.0
    mirror: float = 0.0
    vertical_flip: float = 0.0
    transpose: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) <= 1:
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


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Inside, torch's global CPU generator stands where `numbers` say; afterwards where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(key(*numbers).generate_state(1, np.uint64)[0]))
        yield


def augmented(
    sample: Sample, augment: str | Augment, seed: int, epoch: int, picture: int
) -> Sample:
    """The sample after all steps, in SSD's order; the same for the same (seed, epoch, picture)
    anywhere.
    """
    augment = find_augment(augment)
    steps: dict[str, Callable[[Sample], Sample]] = dict(
        colour=photometric,
        zoom=zoom_out,
        crop=iou_crop,
        mirror=mirror,
        vertical_flip=vertical_flip,
        transpose=transpose,
    )
    with seeded(seed, epoch, picture):
        for name, step in steps.items():
            if torch.rand(()) < getattr(augment, name):
                sample = step(sample)
    return sample


def photometric(sample: Sample, shuffle: bool = False) -> Sample:
    """Brightness, contrast, saturation and hue, each changed with a chance of .5.

    shuffle: as torchvision's transform does it, the three colours change places in half of the
    pictures. The authors' release can, too, but never does (random_order_prob 0): where colour
    tells red cells from white ones it would teach the wrong thing.
    """
    distort = v2.RandomPhotometricDistort()
    image = tv_tensors.Image(sample.image)
    params = distort.make_params([image])
    params["channel_permutation"] = params["channel_permutation"] if shuffle else None
    return replace(sample, image=distort.transform(image, params).as_subclass(torch.Tensor))


def zoom_out(sample: Sample, fill: tuple[int, int, int] = MEAN_COLOUR, most: float = 4.0) -> Sample:
    """The picture somewhere on a canvas 1 to `most` times as wide and high,
    filled with one colour.
    """
    return _moved(sample, v2.RandomZoomOut(fill, (1.0, most), p=1.0))


def iou_crop(sample: Sample) -> Sample:
    """The whole picture, or a part that has IoU 0, .1, .3, .5, .7 or .9 (by chance) or more with an
    object.

    Only parts that hold the centre of such an object will do; the objects whose centre is inside
    stay, cut at the border. Width and height are .3 to 1 of the picture's and at most 2:1.
    Departs from the paper, as the authors' release and torchvision do: there parts of .1 to 1 of
    its size.
    """
    if len(sample.boxes) == 0:
        return sample  # no part could hold an object
    return _moved(sample, v2.RandomIoUCrop())


def mirror(sample: Sample) -> Sample:
    """Left becomes right."""
    return _moved(sample, v2.RandomHorizontalFlip(p=1))


def vertical_flip(sample: Sample) -> Sample:
    """Top becomes bottom."""
    return _moved(sample, v2.RandomVerticalFlip(p=1))


def transpose(sample: Sample) -> Sample:
    """Rows become columns: pixel (x, y) goes to (y, x)."""
    return replace(sample, image=sample.image.mT.contiguous(), boxes=sample.boxes[:, [1, 0, 3, 2]])


def _moved(sample: Sample, transform: v2.Transform) -> Sample:
    """The sample after a transform that moves pixels. Boxes are first cut at the picture's border.

    An object of which less than a pixel is left goes, with its label and marks; an area from a mask
    shrinks as its box does.
    """
    old = clip_boxes(sample.boxes, sample.size)
    image, boxes = transform(
        tv_tensors.Image(sample.image),
        tv_tensors.BoundingBoxes(  # pyright: ignore[reportCallIssue]  Tensor's __init__, not its __new__
            old, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=sample.size
        ),
    )
    image, boxes = (x.as_subclass(torch.Tensor) for x in (image, boxes))
    boxes = clip_boxes(boxes, image.shape[1:])
    kept = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    area = (
        sample.area
        if sample.area is None
        else (sample.area * box_area(boxes) / box_area(old))[kept]
    )
    return replace(
        sample,
        image=image,
        boxes=boxes[kept],
        labels=sample.labels[kept],
        area=area,
        difficult=sample.difficult[kept],
        crowd=sample.crowd[kept],
    )
