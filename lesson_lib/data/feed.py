"""The feed: batches for training, from memory or from worker processes, always the same for the
same seed.

Which pictures are in step s of epoch n, and what augmentation does to each, depends on the seed, n,
s and the picture's number only: not on the number of processes, nor on where a run was stopped and
went on.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lesson_lib.data.augment import Augment, augmented, find_augment, key
from lesson_lib.data.batch_augment import change_boxes, change_pictures, draw_change
from lesson_lib.data.resizing import Resizing, as_resizing, like_shapes, picture_sizes
from lesson_lib.data.samples import Sample, resize

CACHE_BYTES = 4 * 2**30
Batch = tuple[Tensor, list[dict]]


def fits_in_memory(count: int, side: int) -> bool:
    """Whether `count` pictures of side x side pixels are kept decoded, where nobody says whether they are."""
    return count * 3 * side**2 <= CACHE_BYTES


class Feed:
    """Batches of `samples`, all of one size.

    size        pixels: pictures become squares, aspect not kept; or a `Resizing`. With "shorter"
                the pictures of a batch have like shapes, see `like_shapes`.
    batch       pictures of one step, over all ranks together
    augment     "none", "mirror", "flips", "crops", "ssd", "smears", or an `Augment`
    device      where the batches are wanted
    cache       True: all pictures are decoded and resized once and stay on the device as uint8, and
                augmentation happens there. False: worker processes read, augment by augment.py and
                resize each time. None: True up to 4 GiB. Only squares are kept.
    rank, world  this process, of how many: each gets batch / world pictures of every step, and
                together they get what one process alone would
    workers     processes, without a cache; None: one for each core but one, at most 8
    stored      side of the cached pictures, None: size. Crops show more detail from larger ones.
    num_classes if given, a label outside 0..num_classes - 1 is a ValueError, told here, on the CPU:
                on a GPU it would only stop the device
    len(feed) is the number of steps in an epoch. The pictures that do not fill a last batch wait
    for another epoch, whose order is another; a set smaller than one batch is one batch.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: int | Resizing,
        batch: int,
        seed: int = 0,
        augment: str | Augment = "none",
        device: torch.device | str = "cpu",
        cache: bool | None = True,
        rank: int = 0,
        world: int = 1,
        workers: int | None = None,
        stored: int | None = None,
        num_classes: int | None = None,
    ):
        if len(samples) == 0:
            raise ValueError("There is nothing to train on: the set has no picture.")
        batch = min(batch, len(samples)) if world == 1 else batch
        if batch < 1 or batch % world or batch > len(samples) or not 0 <= rank < world:
            raise ValueError(
                f"A batch of {batch} of {len(samples)} pictures cannot be shared by {world} "
                f"processes (this is {rank}): take a multiple of {world}, at most {len(samples)}."
            )
        self.resizing = as_resizing(size)
        size = self.resizing.size
        self.samples, self.size, self.batch, self.seed = samples, size, batch, seed
        self.augment, self.device = find_augment(augment), torch.device(device)
        self.rank, self.world, self.workers, self.stored = rank, world, workers, stored or size
        self.num_classes = num_classes
        self.cache = fits_in_memory(len(samples), self.stored) if cache is None else cache
        self.cache = self.cache and not self.resizing.keeps_aspect
        self._canvases: list[tuple[int, int]] | None = None  # of each picture, where they differ
        self._pictures: Tensor | None = None  # uint8 (N, 3, stored, stored)
        self._targets: list[dict] = []

    def __len__(self) -> int:
        return len(self.samples) // self.batch

    def order(self, epoch: int) -> list[list[int]]:
        """The pictures of every step of an epoch, for this rank: len(self) lists of batch / world
        numbers.
        """
        return [rows[self.rank :: self.world] for rows, _ in self._steps(epoch)]

    def _steps(self, epoch: int) -> list[tuple[list[int], tuple[int, int]]]:
        """The pictures of every step, for all ranks, and the (height, width) of its input."""
        chance = np.random.default_rng(key(self.seed, epoch))
        numbers = chance.permutation(len(self.samples)).tolist()
        if self.resizing.how != "shorter":
            canvas = self.resizing.largest()
            starts = range(0, len(self) * self.batch, self.batch)
            return [(numbers[start : start + self.batch], canvas) for start in starts]
        if self._canvases is None:
            self._canvases = [self.resizing.canvas(size) for size in picture_sizes(self.samples)]
        steps = like_shapes(numbers, self._canvases, self.batch)
        return [steps[at] for at in chance.permutation(len(steps))]

    def epoch(self, n: int, start: int = 0) -> Iterator[Batch]:
        """The steps of epoch n from `start` on: images float (B, 3, H, W) in 0..1, and B targets.

        A target has "boxes" (G, 4) xyxy pixels, "labels" (G,), "difficult" (G,), on the device, and
        "id".
        Crowds are left out: a region of many objects is no object to learn.
        """
        steps = [(rows[self.rank :: self.world], c) for rows, c in self._steps(n)[start:]]
        if self.cache:
            pictures = self._fill()
            return (self._from_memory(pictures, rows, n) for rows, _ in steps)
        return self._from_workers(steps, n)

    def _fill(self) -> Tensor:
        if self._pictures is not None:
            return self._pictures
        pictures = torch.empty(
            (len(self.samples), 3, self.stored, self.stored),
            dtype=torch.uint8,
            memory_format=torch.channels_last,
        )
        for row in range(len(self.samples)):
            sample = resize(self.samples[row], self.stored)
            pictures[row] = sample.image
            self._targets.append(_target(sample, row, self.num_classes))
        self._pictures = pictures.to(self.device)
        return self._pictures

    def _from_memory(self, pictures: Tensor, rows: list[int], epoch: int) -> Batch:
        changes, targets = [], []
        for row in rows:
            target = self._targets[row]
            change = draw_change(
                self.augment, target["boxes"].numpy(), self.stored, self.seed, epoch, row
            )
            boxes, kept = change_boxes(target["boxes"], change, self.stored, self.size)
            changes.append(change)
            targets.append(
                {
                    "boxes": boxes[kept],
                    "labels": target["labels"][kept],
                    "difficult": target["difficult"][kept],
                    "id": target["id"],
                }
            )
        images = change_pictures(pictures, rows, changes, self.size)
        return images, [_to(target, self.device) for target in targets]

    def _from_workers(
        self, steps: list[tuple[list[int], tuple[int, int]]], epoch: int
    ) -> Iterator[Batch]:
        workers = (
            min(8, max(1, (os.cpu_count() or 1) - 1)) if self.workers is None else self.workers
        )
        pictures = _Augmented(
            self.samples, self.augment, self.resizing, self.seed, epoch, self.num_classes
        )
        loader = DataLoader(
            pictures,
            batch_sampler=[[(row, canvas) for row in rows] for rows, canvas in steps],
            num_workers=min(workers, len(steps)),
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),
        )  # its own: or it would draw from the global one
        for batch in loader:
            if isinstance(batch, Exception):
                raise batch
            images, targets = batch
            images = images.to(self.device, non_blocking=True).float().mul_(1 / 255)
            yield images, [_to(target, self.device) for target in targets]


class _Augmented(Dataset):
    """What a worker does to one picture."""

    def __init__(
        self,
        samples: Sequence[Sample],
        augment: Augment,
        resizing: Resizing,
        seed: int,
        epoch: int,
        num_classes: int | None,
    ):
        self.samples, self.augment, self.resizing = samples, augment, resizing
        self.numbers = seed, epoch
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: tuple[int, tuple[int, int]]) -> tuple[Tensor, dict] | Exception:
        """The picture and its target, by number and size of the input; an error as a value, for the
        main process to raise it.

        Raised here, a worker's traceback would take the place of its one sentence.
        """
        row, canvas = place
        try:
            sample = augmented(self.samples[row], self.augment, *self.numbers, row)
            sample = self.resizing.apply(sample, canvas)
            return sample.image, _target(sample, row, self.num_classes)
        except (OSError, ValueError) as error:
            return error


def _target(sample: Sample, row: int, num_classes: int | None) -> dict:
    real = ~sample.crowd
    if num_classes is not None and len(sample.labels) and sample.labels.max() >= num_classes:
        raise ValueError(
            f"Picture {sample.id or f'number {row}'} has the label {int(sample.labels.max())}; the "
            f"model has {num_classes} classes, labels 0 to {num_classes - 1} (background is no "
            "label)."
        )
    return {
        "boxes": sample.boxes[real],
        "labels": sample.labels[real],
        "difficult": sample.difficult[real],
        "id": sample.id or f"number {row}",
    }


def _collate(pairs: list[tuple[Tensor, dict] | Exception]) -> Batch | Exception:
    images, targets = [], []
    for pair in pairs:
        if isinstance(pair, Exception):
            return pair
        image, target = pair
        images.append(image)
        targets.append(target)
    return torch.stack(images), targets


def _to(target: dict, device: torch.device) -> dict:
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in target.items()
    }
