"""The training loop, as a generator of plain records, and prediction.

for record in train(model, samples, Recipe(epochs=3)):
    print(record["step"], record["loss"])
predictions = predict(model, samples)

`fit` is `train` run to its end. Both take any `detectors.detector.Detector`, the library's or your own.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lesson_lib.anchors import Size, as_pair
from lesson_lib.data.feed import Feed
from lesson_lib.data.samples import Sample, resize
from lesson_lib.detectors.criterion import Outputs
from lesson_lib.detectors.detector import batch_loss, own_size
from lesson_lib.evaluation import coco_evaluate
from lesson_lib.training import checkpoints
from lesson_lib.training.distributed import all_gather, all_reduce, rank_and_world, wrap_ddp
from lesson_lib.training.recipes import Recipe
from lesson_lib.training.schedule import learning_rate, make_optimizer

PARTS = ("cls", "box", "grad_norm")


class Diverged(ValueError):
    """Training came to numbers that are not finite; the message names the pictures and the likely cause."""


def train(
    model: nn.Module,
    samples: Sequence[Sample],
    recipe: Recipe,
    val: Sequence[Sample] | None = None,
    checkpoint: Path | None = None,
    save_every: int = 0,
    every: int = 0,
) -> Iterator[dict[str, float]]:
    """Train `model` in place on its device, one record a step.

    val         is evaluated after every `recipe.evaluate` epochs, and at the end
    checkpoint  a file: training goes on from it where it exists, and is saved there at the end of an epoch,
                or after every `save_every` steps
    every       steps in a record, the means of which it holds; 0: 1 on the CPU, 20 on a GPU, which would
                have to wait for each
    Records: {"step", "epoch" (both count from 1), "steps" (of all), "loss" = "cls" + "box", "lr", "grad_norm"};
    where `val` was evaluated also coco_evaluate's figures ("AP", "AP50", ...).
    Raises Diverged (a ValueError) before anything is saved that is not finite.
    """
    device, (rank, world) = next(model.parameters()).device, rank_and_world()
    feed = Feed(
        samples,
        recipe.size,
        recipe.batch,
        recipe.seed,
        recipe.augment,
        device,
        cache=None,
        rank=rank,
        world=world,
        num_classes=getattr(getattr(model, "config", None), "num_classes", None),
    )
    steps = recipe.steps or recipe.epochs * len(feed)
    every, save_every = every or (20 if device.type == "cuda" else 1), save_every or len(feed)
    model.to(memory_format=torch.channels_last)
    optimizer, anchors = make_optimizer(model, recipe), model.anchors(recipe.size, device)
    done = checkpoints.resume(checkpoint, model, optimizer, recipe) if checkpoint else 0
    network, losses, ids, last = wrap_ddp(model), [], [], None
    for step, (images, targets) in zip(range(done + 1, steps + 1), batches(feed, done)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step - 1, steps, recipe)
        losses.append(one_step(network, model, images, targets, anchors, optimizer, recipe))
        ids.append([target["id"] or "?" for target in targets])
        epoch_ends = step % len(feed) == 0 or step == steps
        judge = val is not None and (step == steps or step % (recipe.evaluate * len(feed)) == 0)
        save = checkpoint and (step % save_every == 0 or step == steps)
        if step % every == 0 or epoch_ends or save:
            values = all_reduce(torch.stack(losses)).tolist()  # the GPU is waited for here
            check_finite(values, ids, step, last)
            means = dict(zip(PARTS, (sum(column) / len(values) for column in zip(*values))))
            last = {
                "step": step,
                "steps": steps,
                "epoch": math.ceil(step / len(feed)),
                "loss": means["cls"] + means["box"],
                **means,
                "lr": optimizer.param_groups[0]["lr"],
            }
            losses, ids = [], []
            if save and rank == 0:
                checkpoints.save(checkpoint, model, optimizer, recipe, step)
            yield last | (evaluate(model, val, recipe) if judge else {})


def fit(
    model: nn.Module,
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


def batches(feed: Feed, done: int) -> Iterator[tuple[Tensor, list[dict]]]:
    """All batches of all epochs without end, after the first `done`."""
    for epoch in itertools.count(done // len(feed)):
        yield from feed.epoch(epoch, done % len(feed) if epoch == done // len(feed) else 0)


def one_step(
    network: nn.Module,
    model: nn.Module,
    images: Tensor,
    targets: list[dict],
    anchors: Tensor,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
) -> Tensor:
    """Forward, loss, backward, update -> (3,): PARTS, each this process's summand of the whole batch's.

    network is `model`, or what shares it with other processes.
    """
    model.train()
    with torch.autocast(
        images.device.type, torch.bfloat16, in_bfloat16(recipe.precision, images.device)
    ):
        outputs = Outputs(*network(images.to(memory_format=torch.channels_last)))
    world = rank_and_world()[1]
    try:
        losses = batch_loss(model, outputs, anchors, targets, all_reduce, world, **recipe.criterion)
    except ValueError:
        if all(x.isfinite().all() for x in outputs):
            raise  # a wrong label, a wrong option
        losses = {
            "cls": outputs.cls_logits.sum(),
            "box": outputs.box_deltas.sum(),
        }  # for check_finite
    optimizer.zero_grad()
    (
        world * (losses["cls"] + losses["box"])
    ).backward()  # gradients are averaged over the processes
    norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip or math.inf)
    optimizer.step()
    return torch.stack((losses["cls"].detach(), losses["box"].detach(), norm / world)).float()


def check_finite(
    values: list[list[float]], ids: list[list[str]], step: int, last: dict[str, float] | None
) -> None:
    """Raises Diverged for the first step that holds NaN or infinity.

    values: PARTS of the steps that end with `step`; ids: their pictures; last: the good record before.
    """
    for number, row, names in zip(itertools.count(step - len(values) + 1), values, ids):
        if all(map(math.isfinite, row)):
            continue
        if last is None:
            cause = (
                "the weights that it began with, or a box of these pictures, are no finite numbers"
            )
        elif math.isfinite(row[0] + row[1]):
            cause = "the loss is finite, its gradient is not: a gamma below 1, or a weight of the loss too high"
        else:
            cause = (
                f"the learning rate, {last['lr']:.2g}, is too high (before, the loss was {last['loss']:.3g} and "
                f"its gradient {last['grad_norm']:.3g} long): halve it, or clip the gradient shorter"
            )
        numbers = ", ".join(f"{value:.3g}" for value in row)
        raise Diverged(
            f"Training diverged in step {number}: cls, box and gradient are {numbers}. Its pictures: "
            f"{', '.join(names)}. Likely cause: {cause}."
        )


def in_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether the network is to run in bfloat16: if asked for, or "auto" and this machine is faster in it. CPUs are
    where they have AMX; with AVX512_BF16 alone convolutions took 1.8 times as long as in float32."""
    if precision == "auto" and device.type == "cpu":
        return bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16"))
    return precision == "bf16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )


def predict(
    model: nn.Module,
    samples: Sequence[Sample],
    size: int | None = None,
    batch: int = 8,
    **options: Any,
) -> list[dict[str, Tensor]]:
    """Detections of every picture: {"boxes" (N, 4) xyxy in the picture's own pixels, "scores", "labels"}, on the CPU.

    size: pictures are brought to size x size; None: the size that the model is made for.
    options go to model.detections. The model is left in the mode it was in. Of several processes each does a
    share of the pictures, each picture once, and all get all.
    """
    device, training, (rank, world) = (
        next(model.parameters()).device,
        model.training,
        rank_and_world(),
    )
    size = _square(own_size(model)) if size is None else size
    anchors, found, mine = model.anchors(size, device), [], range(rank, len(samples), world)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(mine), batch):
            part = [samples[i] for i in mine[start : start + batch]]
            pictures = torch.stack([resize(s, size).image for s in part]).to(device) / 255
            for sample, p in zip(
                part, model.detections(model(pictures), anchors, (size, size), **options)
            ):
                height, width = sample.size
                boxes = p["boxes"].cpu() * (torch.tensor([width, height, width, height]) / size)
                found.append(
                    {"boxes": boxes, "scores": p["scores"].cpu(), "labels": p["labels"].cpu()}
                )
    model.train(training)
    return all_gather(found)


def _square(size: Size) -> int:
    height, width = as_pair(size)
    if height != width:
        raise ValueError(
            f"The model is made for pictures of {height} x {width} pixels; these are made square: give a size."
        )
    return height


def evaluate(model: nn.Module, samples: Sequence[Sample], recipe: Recipe) -> dict[str, float]:
    """coco_evaluate's figures, AP, AP50, AP75, ..., with the recipe's size and options of inference."""
    predictions = predict(model, samples, recipe.size, **recipe.inference)
    figures = coco_evaluate(predictions, ground_truth(samples), model.config.num_classes)
    return {name: value for name, value in figures.items() if isinstance(value, float)}


def ground_truth(samples: Sequence[Sample]) -> list[dict[str, Tensor]]:
    """The targets of all pictures, none of which is decoded for it where that can be avoided."""
    return (
        samples.targets()
        if hasattr(samples, "targets")
        else [sample.target() for sample in samples]
    )
