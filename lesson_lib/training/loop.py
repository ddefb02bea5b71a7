"""The training loop, as a generator of plain records, and prediction.

    for record in train(model, samples, Recipe(epochs=3)):
        print(record["step"], record["loss"])
    predictions = predict(model, samples, size=128)
"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lesson_lib.data.samples import Sample, resize
from lesson_lib.evaluation import coco_evaluate


@dataclass(frozen=True)
class Recipe:
    """How to train: all that, beside the model and the data, decides the result.

    epochs        times that every picture is seen
    batch         pictures in a step; what is left over at the end of an epoch waits for another shuffle
    size          pixels: pictures are brought to size x size, aspect not kept
    lr            highest learning rate; it rises over the first 10 % of the steps, then falls along a cosine
    weight_decay  AdamW's
    clip          longest gradient: a longer one is shortened to it
    flip          mirror each picture with probability 1/2
    seed          of the order of pictures and of the flips; the same seed gives the same run
    criterion     options for model.criterion, {"gamma": 0.0} for one
    """
    epochs: int = 10
    batch: int = 8
    size: int = 128
    lr: float = 2e-3
    weight_decay: float = 1e-2
    clip: float = 10.0
    flip: bool = True
    seed: int = 0
    criterion: dict[str, Any] = field(default_factory=dict)


def train(model: nn.Module, samples: Sequence[Sample], recipe: Recipe,
          val: Sequence[Sample] | None = None) -> Iterator[dict[str, float]]:
    """Train `model` in place on its device, one record a step.

    Records: {"step", "epoch", "steps" (of all), "loss" = "cls" + "box", "lr", "grad_norm"}; the last one of an
    epoch holds coco_evaluate's figures for `val` too ("AP", "AP50", ...). Steps and epochs count from 1.
    """
    device = next(model.parameters()).device
    images, targets = load(samples, recipe.size)
    anchors = model.anchors(recipe.size, device)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    batch = min(recipe.batch, len(samples))
    per_epoch = len(samples) // batch
    steps = recipe.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, steps, pct_start=0.1)
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            generator = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
            order = torch.randperm(len(samples), generator=generator)
        chosen = order[place * batch:(place + 1) * batch]
        pictures = images[chosen].to(device) / 255
        truth = [{name: value.to(device) for name, value in targets[i].items()} for i in chosen]
        if recipe.flip:
            for i in (torch.rand(batch, generator=generator) < 0.5).nonzero().flatten():
                pictures[i], truth[i] = pictures[i].flip(-1), mirrored(truth[i], recipe.size)

        model.train()
        losses = model.criterion(model(pictures), anchors, truth, **recipe.criterion)
        loss = losses["cls"] + losses["box"]
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        record = {"step": step + 1, "steps": steps, "epoch": epoch + 1, "loss": loss.item(),
                  "cls": losses["cls"].item(), "box": losses["box"].item(),
                  "lr": optimizer.param_groups[0]["lr"], "grad_norm": norm.item()}
        schedule.step()
        if val is not None and place == per_epoch - 1:
            record |= evaluate(model, val, recipe.size)
        yield record


def predict(model: nn.Module, samples: Sequence[Sample], size: int = 128, batch: int = 8,
            **options: Any) -> list[dict[str, Tensor]]:
    """Detections of every picture: {"boxes" (N, 4) xyxy in the picture's own pixels, "scores", "labels"}, on the
    CPU. options go to model.detections. The model is left in the mode it was in."""
    device, training = next(model.parameters()).device, model.training
    anchors, found = model.anchors(size, device), []
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(samples), batch):
            part = [samples[i] for i in range(start, min(start + batch, len(samples)))]
            pictures = torch.stack([resize(s, size).image for s in part]).to(device) / 255
            for sample, p in zip(part, model.detections(model(pictures), anchors, (size, size), **options)):
                height, width = sample.size
                boxes = p["boxes"].cpu() * (torch.tensor([width, height, width, height]) / size)
                found.append({"boxes": boxes, "scores": p["scores"].cpu(), "labels": p["labels"].cpu()})
    model.train(training)
    return found


def evaluate(model: nn.Module, samples: Sequence[Sample], size: int) -> dict[str, float]:
    """coco_evaluate's figures: AP, AP50, AP75, ..."""
    predictions = predict(model, samples, size)
    figures = coco_evaluate(predictions, [sample.target() for sample in samples], model.config.num_classes)
    return {name: value for name, value in figures.items() if isinstance(value, float)}


def load(samples: Sequence[Sample], size: int) -> tuple[Tensor, list[dict[str, Any]]]:
    """Pictures as uint8 (N, 3, size, size) and their targets: the whole set in memory, resized once."""
    resized = [resize(sample, size) for sample in samples]
    targets = [{"boxes": sample.boxes, "labels": sample.labels} for sample in resized]
    return torch.stack([sample.image for sample in resized]), targets


def mirrored(target: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """The target of a picture that was flipped left to right."""
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    return target | {"boxes": torch.stack((width - x2, y1, width - x1, y2), dim=1)}
