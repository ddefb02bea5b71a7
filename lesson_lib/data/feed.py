"""The feed: batches for training, from memory or from worker processes, always the same for the
same seed.

Which pictures are in step s of epoch n, and what augmentation does to each, depends on the seed, n,
s and the picture's number only: not on the number of processes, nor on where a run was stopped and
went on, nor on whether pictures are kept decoded.
"""

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lesson_lib.data.ahead import one_ahead
from lesson_lib.data.augment import Augment, draw_change, find_augment, key
from lesson_lib.data.changes import (
    Change,
    change_boxes,
    change_colours,
    change_pictures,
    colour_matrices,
    put_window,
)
from lesson_lib.data.objects import Objects
from lesson_lib.data.resizing import Resizing, as_resizing, like_shapes, picture_sizes
from lesson_lib.data.samples import Sample, resize
from lesson_lib.data.sampling import drawn, labels_of, repeat_factors
from lesson_lib.data.store import Block, Gather, views

CACHE_BYTES = 4 * 2**30
SHARED = Path("/dev/shm")  # where Linux keeps memory that processes share
AHEAD = 2  # batches that each worker makes before they are wanted
MOST_WORKERS = 8
Batch = tuple[Tensor, Objects]
Size2 = tuple[int, int]  # height, width


class Step(NamedTuple):
    """What a process has to make a batch of: pictures by their numbers, the input's (height,
    width).
    """

    epoch: int
    rows: list[int]
    canvas: Size2


def fits_in_memory(samples: Sequence[Sample], stored: int) -> bool:
    """Whether pictures are kept decoded where nobody says whether they are.

    stored: their side, 0 where they keep their own size.
    """
    return decoded_bytes(samples, stored) <= CACHE_BYTES


def decoded_bytes(samples: Sequence[Sample], stored: int) -> int:
    """What all pictures take decoded, as uint8; stored: as for `fits_in_memory`."""
    if stored:
        return 3 * stored**2 * len(samples)
    return sum(3 * height * width for height, width in picture_sizes(samples))


def usual_workers() -> int:
    """Processes that read where nobody says how many: one for each core but one, at most
    MOST_WORKERS.
    """
    return min(MOST_WORKERS, max(1, (os.cpu_count() or 1) - 1))


class Feed:
    """Batches of `samples`, all pictures of a batch of one size.

    size        pixels: pictures become squares, aspect not kept; or a `Resizing`. With "shorter"
                the pictures of a batch have like shapes, see `like_shapes`.
    batch       pictures of one step, over all ranks together
    augment     "none", "mirror", "flips", "crops", "ssd", "smears", or an `Augment`
    device      where the batches are wanted
    cache       True: all pictures are decoded once and stay on the device as uint8, where
                augmentation happens, on a GPU one batch ahead. False: worker processes read and
                augment them each time. None: True up to 4 GiB. What comes out is the same, but for
                the rounding of a GPU.
    rank, world  this process, of how many: each gets batch / world pictures of every step, and
                together they get what one process alone would
    gather      of several processes, their `all_gather`: those of one machine then decode each
                picture once, and keep it once in its memory
    workers     processes, without a cache; 0: none, this one reads; None: one for each core but
                one, at most 8
    stored      augmentation begins with pictures of stored x stored pixels; None: of `size`; 0: of
                their own size, so that a crop shows all their detail. It does so too where the
                resizing keeps the aspect.
    rare        if not 0, pictures with classes that fewer than this share of them show come up more
                often, see `data.sampling`; twice in an epoch they are changed in the same way
    num_classes if given, a label outside 0..num_classes - 1 is a ValueError, told here, on the CPU:
                on a GPU it would only stop the device
    len(feed) is the number of steps in an epoch. The pictures that do not fill a last batch wait
    for another epoch, whose order is another; a set smaller than one batch is one batch.
    """

    def __init__(  # noqa: PLR0913  what a batch is, and how it is come by: all by name
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
        gather: Gather | None = None,
        workers: int | None = None,
        stored: int | None = None,
        num_classes: int | None = None,
        rare: float = 0.0,
    ):
        if len(samples) == 0:
            raise ValueError("There is nothing to train on: the set has no picture.")
        batch = min(batch, len(samples)) if world == 1 else batch
        if batch < 1 or batch % world or batch > len(samples) or not 0 <= rank < world:
            raise ValueError(
                f"A batch of {batch} of {len(samples)} pictures cannot be shared by {world} "
                f"processes (this is {rank}): take a multiple of {world}, at most {len(samples)}."
            )
        self.batch, self.seed, self.device = batch, seed, torch.device(device)
        self.rank, self.world, self.gather, self.workers = rank, world, gather, workers
        self.resizing = resizing = as_resizing(size)
        stored = resizing.size if stored is None else stored
        stored = 0 if resizing.keeps_aspect else stored
        self.reading = _Reading(samples, find_augment(augment), resizing, stored, seed, num_classes)
        self.cache = fits_in_memory(samples, stored) if cache is None else cache
        self.rare = rare
        self._weights: np.ndarray | None = None  # of each picture, where some are rare
        self._canvases: list[Size2] = []  # of each picture, where they differ
        self._pictures: list[Tensor] = []  # uint8 (3, h, w), on the device
        self._targets: list[dict] = []

    def __len__(self) -> int:
        return len(self.reading) // self.batch

    def order(self, epoch: int) -> list[list[int]]:
        """The pictures of every step of an epoch, for this rank: len(self) lists of batch / world
        numbers.
        """
        return [rows[self.rank :: self.world] for rows, _ in self._shared(epoch)]

    def _shared(self, epoch: int) -> list[tuple[list[int], Size2]]:
        """The pictures of every step, for all ranks, and the (height, width) of its input."""
        chance = np.random.default_rng(key(self.seed, epoch))
        numbers = self._numbers(chance)
        if self.resizing.how != "shorter":
            canvas = self.resizing.largest()
            starts = range(0, len(self) * self.batch, self.batch)
            return [(numbers[start : start + self.batch], canvas) for start in starts]
        if not self._canvases:
            sizes = picture_sizes(self.reading.samples)
            self._canvases = [self.resizing.canvas(size) for size in sizes]
        steps = like_shapes(numbers, self._canvases, self.batch)
        return [steps[at] for at in chance.permutation(len(steps))]

    def _numbers(self, chance: np.random.Generator) -> list[int]:
        """As many pictures as there are: each once, or the rare ones more often."""
        if not self.rare:
            return chance.permutation(len(self.reading)).tolist()
        if self._weights is None:
            self._weights = repeat_factors(labels_of(self.reading.samples), self.rare)
        return drawn(self._weights, chance)

    def epoch(self, n: int, start: int = 0) -> Iterator[Batch]:
        """The steps of epoch n from `start` on: images float (B, 3, H, W) in 0..1, and B targets.

        The targets are `Objects`, on the device: padded for all, or one by one, each with "boxes"
        (G, 4) xyxy pixels, "labels" (G,), "difficult" (G,) and "id".
        Crowds are left out: a region of many objects is no object to learn.
        """
        return self._batches(self._steps(n, start))

    def batches(self, done: int = 0) -> Iterator[Batch]:
        """The steps of all epochs without end, after the first `done`: see `epoch`.

        Worker processes start once, and read on from one epoch into the next.
        """
        epoch, start = divmod(done, len(self))
        later = (self._steps(n) for n in itertools.count(epoch + 1))
        return self._batches(
            itertools.chain(self._steps(epoch, start), itertools.chain.from_iterable(later))
        )

    def _steps(self, n: int, start: int = 0) -> Iterator[Step]:
        steps = self._shared(n)[start:]
        return (Step(n, rows[self.rank :: self.world], canvas) for rows, canvas in steps)

    def _batches(self, steps: Iterable[Step]) -> Iterator[Batch]:
        if not self.cache:
            return self._from_workers(steps)
        self._fill()
        if self.device.type == "cuda":  # which would have nothing to do meanwhile
            return one_ahead(self._from_memory, steps, self.device)
        return map(self._from_memory, steps)

    def _fill(self) -> None:
        """Decodes all pictures, or this process's share of them, onto the device."""
        if self._pictures:
            return
        samples, stored = self.reading.samples, self.reading.stored
        sizes = [(stored, stored)] * len(samples) if stored else picture_sizes(samples)
        block = Block(sum(3 * height * width for height, width in sizes), self.gather)
        pictures, targets = views(block.bytes, sizes), []
        for row in range(block.part, len(samples), block.parts):
            try:
                image, target = self.reading.decoded(row)
                pictures[row].copy_(image)
                targets.append(target)
            except (OSError, ValueError) as error:
                targets.append(error)
        self._targets = block.complete(targets)
        for target in self._targets:
            if isinstance(target, Exception):
                raise target
        self._pictures = views(block.bytes.to(self.device), sizes)

    def _from_memory(self, step: Step) -> Batch:
        changes, parts, targets = [], [], []
        for row in step.rows:
            size = _size(self._pictures[row])
            change, part, target = self.reading.changed(self._targets[row], size, step, row)
            changes.append(change)
            parts.append(part)
            targets.append(target)
        antialias = self.resizing.antialias
        images = change_pictures(self._pictures, step.rows, changes, step.canvas, parts, antialias)
        return images, Objects.of(targets).to(self.device)

    def _from_workers(self, steps: Iterable[Step]) -> Iterator[Batch]:
        workers = usual_workers() if self.workers is None else self.workers
        if workers > 0:
            height, width = self.resizing.largest()
            _need_shared(self.batch // self.world * 3 * height * width, workers)
        loader = DataLoader(
            self.reading,
            batch_sampler=steps,  # pyright: ignore[reportArgumentType]  more than numbers
            num_workers=workers,
            prefetch_factor=AHEAD if workers > 0 else None,
            collate_fn=_as_it_is,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),
        )  # its own: or it would draw from the global one
        for batch in loader:
            if isinstance(batch, Exception):
                raise batch
            matrices = batch.colours
            if matrices is not None:
                matrices = matrices.to(self.device, non_blocking=True)
            pictures = batch.pictures.to(self.device, non_blocking=True)
            yield change_colours(pictures, matrices), batch.objects.to(self.device)


class _Read(NamedTuple):
    """What a worker hands over: pictures uint8 (B, 3, H, W), colours (B, 3, 4) or None."""

    pictures: Tensor
    colours: Tensor | None
    objects: Objects


class _Reading(Dataset):
    """What is done to one picture, in whatever process."""

    def __init__(
        self,
        samples: Sequence[Sample],
        augment: Augment,
        resizing: Resizing,
        stored: int,
        seed: int,
        num_classes: int | None,
    ):
        self.samples, self.augment, self.resizing, self.stored = samples, augment, resizing, stored
        self.seed, self.num_classes = seed, num_classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, step: Step) -> _Read | Exception:
        """A batch; an error as a value, for the main process to raise it.

        Raised here, a worker's traceback would take the place of its one sentence. In a worker the
        pictures are written straight into memory that it shares with the main process.
        """
        pictures = torch.empty(len(step.rows), 3, *step.canvas, dtype=torch.uint8)
        if get_worker_info() is not None:
            pictures.share_memory_()
        changes, targets = [], []
        try:
            for row, out in zip(step.rows, pictures, strict=True):
                image, target = self.decoded(row)
                change, part, target = self.changed(target, _size(image), step, row)
                put_window(image, change, out, part, self.resizing.antialias)
                changes.append(change)
                targets.append(target)
        except (OSError, ValueError) as error:
            return error
        return _Read(pictures, colour_matrices(changes), Objects.of(targets))

    def decoded(self, row: int) -> tuple[Tensor, dict]:
        """A picture at the size that augmentation begins with, and its target."""
        sample = self.samples[row]
        if self.stored:
            sample = resize(sample, self.stored)
        return sample.image, _target(sample, row, self.num_classes)

    def changed(
        self, target: dict, size: Size2, step: Step, row: int
    ) -> tuple[Change, Size2, dict]:
        """What happens in this step to the picture of `size` (height, width); the (height, width)
        of the input that it takes; its target.
        """
        boxes = target["boxes"]
        change = draw_change(self.augment, boxes.numpy(), size, self.seed, step.epoch, row)
        x1, y1, x2, y2 = change.window
        height, width = (x2 - x1, y2 - y1) if change.views[2] else (y2 - y1, x2 - x1)
        part = high, wide = self.resizing.inner((height, width), step.canvas)
        before = (wide, high) if change.views[2] else part  # it is transposed
        boxes, kept = change_boxes(boxes, change, size, before)
        columns = {name: target[name][kept] for name in ("labels", "difficult")}
        return change, part, {"boxes": boxes[kept], **columns, "id": target["id"]}


def _need_shared(batch: int, workers: int) -> None:
    """ValueError with one sentence where the batches, of so many bytes each, that workers hold
    ready and the one in use have no room in shared memory: to write there ends in a bus error.
    """
    if not SHARED.is_dir():
        return
    free = shutil.disk_usage(SHARED).free
    batch *= int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # so many processes have workers here
    needed = (AHEAD * workers + 1) * batch
    if needed > free:
        fewer = max(0, (free // batch - 1) // AHEAD)
        raise ValueError(
            f"What {workers} workers read ahead takes {needed / 2**20:.0f} MB of shared memory, "
            f"and {SHARED} has {free / 2**20:.0f} MB free: give it more (docker run --shm-size="
            f"{-(-needed // 2**30)}g), or take --set workers={fewer}."
        )


def _size(image: Tensor) -> Size2:
    return image.shape[1], image.shape[2]


def _as_it_is(batch: Any) -> Any:
    """What stands for a collate_fn: batches come whole."""
    return batch


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
