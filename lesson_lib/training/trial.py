"""What a rehearsal does in earnest on this machine, in seconds: one step of the training that is
planned, at small size, and a look at what the loader gives.

    one_step(config, recipe, classes)                     {"loss", "seconds", "size", ...}
    loader_rate(samples, recipe, (480, 640))              {"rate", "workers", "total", ...}
"""

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch
import torch.nn.functional as F
from PIL import Image

from lesson_lib.data.feed import CACHE_BYTES, Feed, decoded_bytes, usual_workers
from lesson_lib.data.pictures import read_picture
from lesson_lib.data.samples import Sample
from lesson_lib.data.smears import draw_smear
from lesson_lib.training.loop import fit
from lesson_lib.training.recipes import Config, Recipe, build_model, from_scratch

Size2 = tuple[int, int]  # height, width

#: Pixels of the pictures of the one step: VGG16's SSDs have a map left to 264, the others to 64.
SMALL, SMALL_VGG = 128, 264
MOST_SECONDS, MOST_PICTURES = 3.0, 400  # after which the loader's measurement ends
JPEGS = 8  # files, read again and again
#: Pixels of a cell of noise, and its strength in levels: with these a JPEG of 480 x 640 px has
#: about 150 kB, as COCO's have on average (19.3 GB, 118,287 pictures).
DETAIL = ((128, 50), (32, 25), (8, 16), (2, 20))
QUALITY = 95


def one_step(config: Config, recipe: Recipe, classes: int) -> dict[str, float]:
    """The same code for one real step on this machine, small: {"loss", "seconds", "size",
    "batch", "accumulate"}.

    A batch that comes in parts does so here as well, in two of two pictures: what is left of one
    picture on a map of one cell is no batch for a norm.
    """
    size = min(recipe.size, SMALL_VGG if config.backbone == "vgg16" else SMALL)
    parts = min(2, recipe.accumulate)
    small = replace(recipe, steps=1, batch=2 * parts, accumulate=parts, size=size, longest=0)
    small = replace(small, precision="fp32", augment="none", cache="memory", rare=0.0)
    config, small = from_scratch(config, small)
    torch.manual_seed(0)
    model = build_model(config, classes, size)
    smears = [draw_smear(0, index, size=size) for index in range(small.batch)]
    # a smear's labels are 0, 1 and 2; there may be fewer classes
    samples = [replace(smear, labels=smear.labels % classes) for smear in smears]
    begin = time.perf_counter()
    record = fit(model, samples, small)
    return {
        "loss": record["loss"],
        "seconds": time.perf_counter() - begin,
        "size": size,
        "batch": small.batch,
        "accumulate": parts,
    }


def kept_bytes(samples: Sequence[Sample] | None, recipe: Recipe, picture: Size2, count: int) -> int:
    """Bytes of the pictures that the training keeps decoded, where the model is; 0: none is.

    Where `samples` is None: of `count` pictures of (height, width) `picture`.
    """
    stored = recipe.stored_side
    if samples is None:
        height, width = (stored, stored) if stored else picture
        size = 3 * height * width * count
    else:
        size = decoded_bytes(samples, stored)
    fits = recipe.cache == "auto" and size <= CACHE_BYTES
    return size if recipe.cache == "memory" or fits else 0


def loader_rate(
    samples: Sequence[Sample] | None, recipe: Recipe, picture: Size2, kept: bool = False
) -> dict[str, Any]:
    """What workers of this machine read, augment and resize, in pictures a second:
    {"of", "rate", "workers", "total", "cores", "pictures", "seconds"}.

    rate      of one worker: of the data or, where `samples` is None, of JPEGs of (height, width)
              `picture`
    workers   that the training would start here; total: what they give together
    pictures  that it was measured on, in `seconds`
    kept      the training keeps all pictures decoded: no worker starts, and nothing is measured
    """
    found = {"of": "", "rate": None, "workers": 0, "total": None, "cores": os.cpu_count() or 1}
    if kept:
        return found | {"pictures": 0, "seconds": 0.0}
    with tempfile.TemporaryDirectory(prefix="lesson-lib-") as folder:
        shown = Jpegs(Path(folder), picture) if samples is None else samples
        pictures, seconds = _timed(shown, recipe)
    rate, workers = pictures / seconds, recipe.workers if recipe.workers >= 0 else usual_workers()
    height, width = picture
    return found | {
        "of": f"JPEGs of {height} x {width} px" if samples is None else "the data",
        "rate": rate,
        "workers": workers,
        "total": rate * max(1, workers),  # without any the training reads itself
        "pictures": pictures,
        "seconds": seconds,
    }


def _timed(samples: Sequence[Sample], recipe: Recipe) -> tuple[int, float]:
    """Pictures that one worker gave, and seconds that it took: until both or one are enough."""
    feed = Feed(
        samples,
        recipe.resizing,
        1,
        recipe.seed,
        recipe.augment,
        cache=False,
        workers=1,
        stored=recipe.stored_side,
    )
    batches, number, seconds = feed.batches(), 0, 0.0
    next(batches)  # the first picture waits for the worker to start
    begin = time.perf_counter()
    while number < MOST_PICTURES and seconds < MOST_SECONDS:
        next(batches)
        number, seconds = number + 1, time.perf_counter() - begin
    return number, seconds  # with the last reference to `batches` the worker ends


class Jpegs(Sequence[Sample]):
    """MOST_PICTURES samples of (height, width) `size` that are read from JPEGs in `folder`, which
    are written once: what stands for photographs that are not on this machine.
    """

    def __init__(self, folder: Path, size: Size2):
        self.size = size
        self.files = [folder / f"{number}.jpg" for number in range(JPEGS)]
        for number, file in enumerate(self.files):
            pixels = textured(number, size).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(file, quality=QUALITY)

    def __len__(self) -> int:
        return MOST_PICTURES

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        file, (height, width) = self.files[index % len(self.files)], self.size
        box = torch.tensor([[0.2 * width, 0.2 * height, 0.7 * width, 0.6 * height]])
        return Sample(read_picture(file, self.size), box, torch.zeros(1, dtype=torch.int64))

    def sizes(self) -> list[Size2]:
        """(height, width) of all."""
        return [self.size] * len(self)


def textured(seed: int, size: Size2) -> torch.Tensor:
    """A picture, uint8 (3, H, W), with detail at all scales as a photograph has: cells of noise,
    large ones strong and small ones weak, grey rather than coloured.
    """
    chance = torch.Generator().manual_seed(seed)
    image = torch.full((1, 3, *size), 128.0)
    for cell, strength in DETAIL:
        cells = [max(2, side // cell) for side in size]
        noise = torch.randn(1, 1, *cells, generator=chance)
        noise = noise + 0.4 * torch.randn(1, 3, *cells, generator=chance)
        image += strength * F.interpolate(noise, size, mode="bilinear")
    return image[0].clamp(0, 255).byte()
