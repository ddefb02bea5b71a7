"""Prediction, and evaluation while training: detections, AP, and the loss of pictures not learned
from.

predictions = predict(model, samples, size=128)
figures = evaluate(model, val, recipe)
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lesson_lib.anchors import Size, as_pair
from lesson_lib.boxes import clip_boxes
from lesson_lib.breakdown import best_threshold
from lesson_lib.data.resizing import Resizing, as_resizing, picture_sizes
from lesson_lib.data.samples import Dataset, Sample
from lesson_lib.detectors.criterion import Outputs
from lesson_lib.detectors.detector import Detector, anchors_of, as_module, own_size, takes_sizes
from lesson_lib.detectors.views import outputs_in_views
from lesson_lib.evaluation import coco_evaluate
from lesson_lib.training.distributed import (
    algorithms_chosen,
    all_gather,
    all_reduce,
    broadcast,
    rank_and_world,
    sync_buffers,
)
from lesson_lib.training.recipes import Recipe
from lesson_lib.training.step import forward

BATCH = 8  # pictures at a time where no gradient is wanted
KEPT_BYTES = 2 * 2**30
THREADS = min(4, os.cpu_count() or 1)  # that decode and shrink pictures


class Resized:
    """Samples as the network's input, each with its (height, width) before.

    size: pixels of squares, or a `Resizing`.
    What was asked for is kept, up to KEPT_BYTES in all: the next evaluation decodes nothing.
    """

    def __init__(self, samples: Sequence[Sample], size: int | Resizing):
        self.samples, self.resizing = samples, as_resizing(size)
        self.keeps = len(samples) * 3 * math.prod(self.resizing.largest()) <= KEPT_BYTES
        self._kept = dict[int, tuple[Sample, tuple[int, int]]]()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Sample, tuple[int, int]]:
        if index in self._kept:
            return self._kept[index]
        sample = self.samples[index]
        pair = self.resizing.apply(sample), sample.size
        if self.keeps:
            self._kept[index] = pair
        return pair

    def rows(self, batch: int) -> list[list[int]]:
        """The pictures of every batch, for all processes; those of a batch have one size as input.

        Where only "shorter" makes sizes differ, and then those of one size come first.
        """
        numbers = list(range(len(self)))
        if self.resizing.how != "shorter":
            return [numbers[start : start + batch] for start in range(0, len(self), batch)]
        groups: dict[tuple[int, int], list[int]] = {}
        for number, size in enumerate(picture_sizes(self.samples)):
            groups.setdefault(self.resizing.canvas(size), []).append(number)
        return [
            group[start : start + batch]
            for group in groups.values()
            for start in range(0, len(group), batch)
        ]

    def batches(self, batch: int) -> Iterator[list[tuple[Sample, tuple[int, int]]]]:
        """This process's share: every world-th of `rows`.

        The next one is read while one is worked on.
        """
        rank, world = rank_and_world()
        with ThreadPoolExecutor(THREADS) as pool:
            ahead = deque()
            for rows in self.rows(batch)[rank::world]:
                ahead.append(pool.map(self.__getitem__, rows))
                if len(ahead) > 1:
                    yield list(ahead.popleft())
            for rest in ahead:
                yield list(rest)


def predict(
    model: Detector,
    samples: Sequence[Sample],
    size: int | Resizing | None = None,
    batch: int = BATCH,
    precision: str = "fp32",
    **options: Any,
) -> list[dict[str, Tensor]]:
    """Detections of every picture, on the CPU: {"boxes" (N, 4) xyxy in its own pixels, "scores",
    "labels"}.

    size: pictures are brought to size x size, or as a `Resizing` says; None: the size that the
    model is made for. precision: the recipe's, for what `evaluate` finds while training.
    options go to model.detections; views=2, 4 or 8 of them has each picture looked at so often, see
    `detectors.views`. The model is left in the mode it was in. Of several processes
    each does a share of the pictures, each picture once, and all get all.
    """
    resized = Resized(samples, _square(own_size(model)) if size is None else size)
    training, anchors = model.training, anchors_of(model, next(model.parameters()).device)
    recipe = Recipe(precision=precision, inference=options)
    model.eval()
    try:
        with torch.inference_mode():
            found = [
                _detected(model, part, *_seen(model, part, recipe, anchors), resized, options)
                for part in resized.batches(batch)
            ]
    finally:
        model.train(training)
    return _gathered(found, resized.rows(batch))


def evaluate(
    model: Detector, samples: Sequence[Sample] | Resized, recipe: Recipe
) -> dict[str, float]:
    """What a detector does on pictures that it does not learn from, with the recipe's size and
    options.

    AP, AP50, AP75, ...    coco_evaluate's figures
    F1, threshold          the best F1 of all classes together, and the score that gives it
    val_loss = val_cls + val_box   the criterion's, of the network as it predicts: the mean over the
                           pictures of the loss of their batch of 8
    cuDNN takes the algorithms that it thinks best, also where training has it try them all: for
    each shape and size of a last batch it would try anew, in memory that the training has left.
    """
    resized = samples if isinstance(samples, Resized) else Resized(samples, recipe.resizing)
    device = next(model.parameters()).device
    anchors = anchors_of(model, device)
    sync_buffers(as_module(model))
    found, training = [], model.training
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    model.eval()
    try:
        with torch.inference_mode(), algorithms_chosen(False):
            for part in resized.batches(BATCH):
                outputs, turned = _seen(model, part, recipe, anchors)
                found.append(_detected(model, part, outputs, turned, resized, recipe.inference))
                targets = [_learnable(sample, device) for sample, _ in part]
                own = anchors(part[0][0].size)
                first = Outputs(*(values[:, : len(own)] for values in outputs))
                losses = model.criterion(first, own, targets, **recipe.criterion)
                both = torch.stack([losses["cls"], losses["box"]]).double()
                sums += torch.cat([both, both.new_ones(1)]) * len(part)
    finally:
        model.train(training)
    sums = all_reduce(sums)
    cls, box = (sums[:2] / sums[2]).tolist()
    predictions = _gathered(found, resized.rows(BATCH))
    figures = None
    if rank_and_world()[0] == 0:  # the matching is done once, whatever the number of processes
        truth = ground_truth(resized.samples)
        figures = _figures(predictions, truth, model.config.num_classes)
    losses = {"val_loss": cls + box, "val_cls": cls, "val_box": box}
    return broadcast(figures) | losses


def _seen(
    model: Detector,
    part: Sequence[tuple[Sample, tuple[int, int]]],
    recipe: Recipe,
    anchors: Callable[[tuple[int, int]], Tensor],
) -> tuple[Outputs, Tensor]:
    """Raw outputs for a batch of `Resized` and their anchors, in as many views as the recipe's
    inference asks for, on the model's device, in the recipe's precision.
    """
    device = next(model.parameters()).device
    pictures = torch.stack([sample.image for sample, _ in part]).to(device) / 255
    look = partial(forward, model, recipe=recipe)
    return outputs_in_views(look, anchors, pictures, recipe.inference.get("views", 1))


def _detected(
    model: Detector,
    part: Sequence[tuple[Sample, tuple[int, int]]],
    outputs: Outputs,
    anchors: Tensor,
    resized: Resized,
    options: dict[str, Any],
) -> list[dict[str, Tensor]]:
    """The detections of a batch of `resized`, boxes in the pictures' own pixels."""
    canvas, found, resizing = part[0][0].size, [], resized.resizing
    inner = [resizing.inner(size) for _, size in part]
    if resizing.keeps_aspect and takes_sizes(model):
        options = {"sizes": inner} | options
    detections = model.detections(outputs, anchors, canvas, **options)
    for (_, size), seen, p in zip(part, inner, detections, strict=True):
        p = {name: p[name].cpu() for name in ("boxes", "scores", "labels")}
        if resizing.keeps_aspect:
            boxes = clip_boxes(p["boxes"], seen)
            left = (boxes[:, 2:] > boxes[:, :2]).all(1)
            p = {name: value[left] for name, value in (p | {"boxes": boxes}).items()}
        found.append(p | {"boxes": resizing.restore(p["boxes"], size)})
    return found


def _gathered(mine: list, rows: list[list[int]]) -> list[dict[str, Tensor]]:
    """Each process's lists of detections by batch, rows of pictures -> all, in their order."""
    found: dict[int, dict[str, Tensor]] = {}
    for numbers, part in zip(rows, all_gather(mine), strict=True):
        found.update(zip(numbers, part, strict=True))
    return [found[number] for number in range(len(found))]


def _learnable(sample: Sample, device: torch.device) -> dict[str, Any]:
    """The target as the criterion takes it, without crowds, which are no objects to learn."""
    real = ~sample.crowd
    boxes, labels = sample.boxes[real].to(device), sample.labels[real].to(device)
    return {"boxes": boxes, "labels": labels, "id": sample.id}


def _figures(predictions: list, truth: list, num_classes: int) -> dict[str, float]:
    figures = coco_evaluate(predictions, truth, num_classes)
    means = {name: value for name, value in figures.items() if isinstance(value, float)}
    return means | best_threshold(figures, truth)


def ground_truth(samples: Sequence[Sample]) -> list[dict[str, Tensor]]:
    """The targets of all pictures, none of which is decoded for it where that can be avoided."""
    if isinstance(samples, Dataset):
        return samples.targets()
    return [sample.target() for sample in samples]


def _square(size: Size) -> int:
    height, width = as_pair(size)
    if height != width:
        raise ValueError(
            f"The model is made for pictures of {height} x {width} pixels; these are made square: "
            "give a size."
        )
    return height
