"""The training loop, as a generator of plain records.

for record in train(model, samples, Recipe(epochs=3)):
    print(record["step"], record["loss"])
predictions = predict(model, samples)

`fit` is `train` run to its end. Both take any `detectors.detector.Detector`, the library's or your
own.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lesson_lib.data.feed import Feed
from lesson_lib.data.samples import Sample
from lesson_lib.detectors.detector import Detector, anchors_of, as_module
from lesson_lib.training import checkpoints
from lesson_lib.training.checkpoints import BEST, Progress
from lesson_lib.training.distributed import (
    all_gather,
    all_reduce,
    broadcast,
    rank_and_world,
    wrap_ddp,
)
from lesson_lib.training.prediction import Resized, evaluate, ground_truth, predict
from lesson_lib.training.recipes import Recipe
from lesson_lib.training.schedule import learning_rate
from lesson_lib.training.step import PARTS, Diverged, check_finite, in_bfloat16, one_step
from lesson_lib.training.update import Update

__all__ = [
    "Diverged",
    "Recipe",
    "evaluate",
    "fit",
    "ground_truth",
    "in_bfloat16",
    "predict",
    "train",
]


def train(  # noqa: PLR0913  what is done beside the training, all by name
    model: Detector,
    samples: Sequence[Sample],
    recipe: Recipe,
    val: Sequence[Sample] | None = None,
    checkpoint: Path | None = None,
    save_every: int = 0,
    every: int = 0,
    stop: Callable[[], bool] | None = None,
) -> Iterator[dict[str, float]]:
    """Train `model` in place on its device, one record a step.

    val         is evaluated after every `recipe.evaluate` epochs, and at the end
    checkpoint  a file: training goes on from it where it exists, and is saved there after every
                `save_every` steps, or, with 0, at ends of epochs: where val is evaluated, and every
                so many epochs as have `every` steps, on the CPU so after each. The state of highest
                AP on val is saved beside it, as best.pt
    every       steps in a record, the means of which it holds; 0: 1 on the CPU, 20 on a GPU, which
                would have to wait for each. A record that ends before is one after which val is
                evaluated or the state saved, and the last: an epoch's end alone makes none, or a
                small set of 4 steps an epoch would have the GPU wait after every 4
    stop        is asked after each record, in the first of several processes: True saves the state
                and ends the training there, to go on from it another time
    With averaged weights (recipe.ema) these are evaluated, saved for predicting, and at the end in
    `model`.
    Records: {"step", "epoch" (both count from 1), "steps" (of all), "loss" = "cls" + "box", "lr",
    "grad_norm"}; where `val` was evaluated also `evaluate`'s figures ("AP", ..., "val_loss", ...).
    It ends before the last step where `recipe.patience` evaluations brought no better AP.
    Raises Diverged (a ValueError) before anything is saved that is not finite.
    """
    module, rank = as_module(model), rank_and_world()[0]
    device = next(module.parameters()).device
    feed = _feed(model, samples, recipe, device)
    every = every or (20 if device.type == "cuda" else 1)
    plan = _plan(recipe, len(feed), save_every, every, val is not None, checkpoint is not None)
    module.to(memory_format=torch.channels_last)
    update, anchors = Update(module, recipe), anchors_of(model, device)
    progress = checkpoints.resume(checkpoint, update, recipe) if checkpoint else Progress()
    network, seen, losses, ids, record = wrap_ddp(module), None, [], [], None
    judged = update.averaged.model if update.averaged else model
    if val is not None:
        seen = Resized(val, recipe.resizing)
    left = range(progress.step + 1, 1 if progress.ended(recipe) else plan.steps + 1)
    for step, (images, targets) in zip(left, feed.batches(progress.step), strict=False):
        rate, own = learning_rate(step - 1, plan.steps, recipe), anchors(images.shape[-2:])
        update.prepare(step, rate)
        losses.append(one_step(network, model, images, targets, own, update, recipe))
        ids.append(targets.ids)
        if not plan.reports(step):
            continue
        values = all_reduce(torch.stack(losses)).tolist()  # the GPU is waited for here
        check_finite(values, ids, step, record)
        record = plan.record(step, values, rate)
        losses, ids, progress.step = [], [], step
        stopping = stop is not None and step < plan.steps and broadcast(stop())
        save = checkpoint if rank == 0 and (stopping or plan.saves(step)) else None
        if save:
            checkpoints.save(save, update, recipe, progress)
        figures = evaluate(judged, seen, recipe) if seen is not None and plan.judges(step) else {}
        if figures and progress.judged(figures["AP"]) and checkpoint and rank == 0:
            checkpoints.save(checkpoint.with_name(BEST), update, recipe, progress)
        if figures and save:  # once more, now that it is known how good it is
            checkpoints.save(save, update, recipe, progress)
        yield record | figures
        if stopping or progress.ended(recipe):
            break
    if update.averaged:
        update.averaged.give(module)


def fit(
    model: Detector,
    samples: Sequence[Sample],
    recipe: Recipe,
    val: Sequence[Sample] | None = None,
    checkpoint: Path | None = None,
    save_every: int = 0,
) -> dict[str, float]:
    """`train` to its end, for those who want no record in between -> the last one.

    ValueError where nothing was left to train.
    """
    last = deque(train(model, samples, recipe, val, checkpoint, save_every), maxlen=1)
    if not last:
        raise ValueError("Nothing was trained: the checkpoint has all steps of the recipe already.")
    return last.pop()


def _feed(model: Detector, samples: Sequence[Sample], recipe: Recipe, device: torch.device) -> Feed:
    rank, world = rank_and_world()
    return Feed(
        samples,
        recipe.resizing,
        recipe.batch,
        recipe.seed,
        recipe.augment,
        device,
        rare=recipe.rare,
        cache=None if recipe.cache == "auto" else recipe.cache == "memory",
        rank=rank,
        world=world,
        gather=all_gather if world > 1 else None,
        workers=None if recipe.workers < 0 else recipe.workers,
        stored=recipe.stored_side,
        num_classes=getattr(getattr(model, "config", None), "num_classes", None),
    )


@dataclass(frozen=True)
class _Plan:
    """What is due after which step, all numbers in steps.

    judge, save  None: never; save 0: by itself, at ends of epochs
    """

    steps: int
    epoch: int
    report: int
    judge: int | None
    save: int | None

    def reports(self, step: int) -> bool:
        due = step % self.report == 0 or step == self.steps
        return due or self.judges(step) or self.saves(step)

    def judges(self, step: int) -> bool:
        return self.judge is not None and (step == self.steps or step % self.judge == 0)

    def saves(self, step: int) -> bool:
        if self.save is None:
            return False
        if self.save > 0:
            return step == self.steps or step % self.save == 0
        apart = self.epoch * math.ceil(self.report / self.epoch)
        return step == self.steps or step % apart == 0 or self.judges(step)

    def record(self, step: int, values: list[list[float]], lr: float) -> dict[str, float]:
        """The means of PARTS over the steps that end with `step`, and where the training is."""
        sums = (sum(column) / len(values) for column in zip(*values, strict=True))
        means = dict(zip(PARTS, sums, strict=True))
        place = {"step": step, "steps": self.steps, "epoch": math.ceil(step / self.epoch)}
        return place | {"loss": means["cls"] + means["box"]} | means | {"lr": lr}


def _plan(
    recipe: Recipe, epoch: int, save_every: int, report: int, judged: bool = True, kept: bool = True
) -> _Plan:
    """judged: whether there is a val to evaluate; kept: whether the state is saved."""
    steps = recipe.steps or recipe.epochs * epoch
    judge = recipe.evaluate * epoch if judged else None
    return _Plan(steps, epoch, report, judge, save_every if kept else None)
