"""One step of training, and what is said where it does not come to finite numbers."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lesson_lib.detectors.criterion import Outputs, Targets
from lesson_lib.detectors.detector import Detector, as_module, batch_loss
from lesson_lib.training.distributed import all_gather, all_reduce, rank_and_world, without_sync
from lesson_lib.training.recipes import Recipe
from lesson_lib.training.update import Update

PARTS = ("cls", "box", "grad_norm")
Network = Callable[[Tensor], tuple[Tensor, Tensor]]  # (B, 3, H, W) -> Outputs, or as a plain pair
ONE_VALUE = "Expected more than 1 value per channel"  # torch's batch norm, of one picture and cell


class Diverged(ValueError):
    """Training came to numbers that are not finite; the message names pictures and likely cause."""


class Positives:
    """The positives of a batch that comes in parts: what all its losses are to be divided by.

    Called as a criterion's normaliser, part by part. How many there are is known after the last;
    until then all is divided by an estimate, the first part's times the number of parts. (Where the
    whole batch has no object SSD's loss is 0 all the same, unless min_negatives are asked for.)
    """

    def __init__(self, parts: int):
        self.parts, self.counted = parts, torch.zeros(())
        self.estimate: Tensor | None = None

    def __call__(self, own: Tensor) -> Tensor:
        if self.parts == 1:
            return all_reduce(own)
        if self.estimate is None:
            self.estimate = (all_reduce(own) * self.parts).clamp(min=1)
            self.counted = torch.zeros_like(own)
        self.counted = self.counted + own
        return self.estimate

    def correction(self) -> Tensor | None:
        """What losses and gradients are to be multiplied by after the last part; None: nothing."""
        if self.estimate is None:
            return None
        return self.estimate / all_reduce(self.counted).clamp(min=1)


def one_step(
    network: Network,
    model: Detector,
    images: Tensor,
    targets: Targets,
    anchors: Tensor,
    update: Update,
    recipe: Recipe,
) -> Tensor:
    """Forward, loss, backward, update -> (3,): PARTS, each this process's summand of the batch's.

    network is `model`, or what shares it with other processes.
    `recipe.accumulate` parts of the batch go through it one after another, and their gradients are
    added up: losses and gradients are those of the whole batch, but that batch norm sees a part.
    On a GPU the host looks at no value, and what differs from step to step is in tensors (see
    `Update`): one process can capture the step as a CUDA graph, and replay it for batches that are
    written into the same tensors. Static are then the images' shape and the objects' G, which
    `Objects.to` rounds up to a multiple of 8; for another of either the graph is another.
    """
    as_module(model).train()
    update.optimizer.zero_grad()
    images = images.to(memory_format=torch.channels_last)
    parts = cut(images, targets, recipe.accumulate)
    positives, losses, world = Positives(len(parts)), [], rank_and_world()[1]
    for left, (some, their) in zip(range(len(parts) - 1, -1, -1), parts):
        with without_sync(network, left > 0):
            outputs = forward(network, some, recipe)
            part = _losses(model, outputs, anchors, their, recipe, positives)
            update.backward(world * (part["cls"] + part["box"]))  # DDP averages over the processes
        losses.append(torch.stack((part["cls"].detach(), part["box"].detach())))
    correction = positives.correction()
    norm = update.step(correction)
    total = torch.stack(losses).sum(0) * (1 if correction is None else correction)
    return torch.cat((total, norm.reshape(1) / world)).float()


def cut(images: Tensor, targets: Targets, parts: int) -> list[tuple[Tensor, Targets]]:
    """A batch in at most so many parts of as equal sizes as can be."""
    size, ends = -(-len(images) // min(parts, len(images))), len(images)
    return [(images[i : i + size], targets[i : i + size]) for i in range(0, ends, size)]


def forward(network: Network, images: Tensor, recipe: Recipe) -> Outputs:
    """Raw outputs of images (B, 3, H, W), the network in the recipe's precision.

    ValueError with one sentence where a batch norm in training is left with a single number.
    """
    half = half_precision(recipe.precision, images.device)
    try:
        with torch.autocast(images.device.type, half, half is not None):
            return Outputs(*network(images))
    except ValueError as error:
        if ONE_VALUE not in str(error):
            raise
        raise ValueError(
            f"A batch of {len(images)} pictures leaves batch norm one number a channel where a "
            "feature map is of one cell, and so no variance: set batch=2 or more (a process), or "
            "norm=group."
        ) from error


def half_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """In which type the network is to run, if not in float32."""
    if precision == "fp16":
        return torch.float16
    return torch.bfloat16 if in_bfloat16(precision, device) else None


def _losses(
    model: Detector,
    outputs: Outputs,
    anchors: Tensor,
    targets: Targets,
    recipe: Recipe,
    positives: Positives,
) -> dict[str, Tensor]:
    """The criterion's losses; where an output is not finite, NaN for both, which says that none was
    computed.

    All processes decide alike, so that none waits for one that has stopped: on a CPU they count the
    outputs that are not finite together, before the criterion looks. A GPU would have to be waited
    for, so there the criterion does not look, and check_finite does later.
    """
    if outputs.cls_logits.is_cpu:
        finite = all(bool(x.isfinite().all()) for x in outputs)
        if all_reduce(torch.tensor(float(not finite))) > 0:
            return {
                "cls": outputs.cls_logits.sum() * math.nan,
                "box": outputs.box_deltas.sum() * math.nan,
            }
    shares = rank_and_world()[1] * positives.parts
    return batch_loss(model, outputs, anchors, targets, positives, shares, **recipe.criterion)


def check_finite(
    values: list[list[float]],
    ids: Sequence[Sequence[str]],
    step: int,
    last: dict[str, float] | None,
) -> None:
    """Raises Diverged for the first step that holds NaN or infinity, in all processes alike.

    values: PARTS, summed over the processes, of the steps that end with `step`; ids: the pictures
    of this process in each of them; last: the good record before.
    """
    for number, row, mine in zip(
        itertools.count(step - len(values) + 1), values, ids, strict=False
    ):
        if all(map(math.isfinite, row)):
            continue
        world = rank_and_world()[1]
        names = mine if world == 1 else sum(map(list, all_gather([mine])), [])
        numbers = ", ".join(f"{value:.3g}" for value in row)
        raise Diverged(
            f"Training diverged in step {number}: cls, box and gradient are {numbers}. Its "
            f"pictures: {', '.join(names)}. Likely cause: {_cause(row, last)}."
        )


def _cause(row: Sequence[float], last: dict[str, Any] | None) -> str:
    if last is None:
        return "the weights that it began with, or a box of these pictures, are no finite numbers"
    if math.isfinite(row[0] + row[1]):
        return (
            "the loss is finite, its gradient is not: a gamma below 1, or a weight of the loss too "
            "high"
        )
    return (
        f"the learning rate, {last['lr']:.2g}, is too high (before, the loss was "
        f"{last['loss']:.3g} and its gradient {last['grad_norm']:.3g} long): halve it, or clip the "
        "gradient shorter"
    )


def in_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether the network is to run in bfloat16: if asked for, or "auto" and faster here.

    "auto" takes it on CPUs with AMX, whose matrix units multiply bfloat16 (a small network may lose
    by it all the same, lesson 11), and on no others: with AVX512_BF16 alone it made steps shorter
    or longer, by machine and layout. GPUs before Ampere only emulate it, slower than float32:
    there "auto" is float32.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cpu":
        return bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def half_note(precision: str, device: torch.device) -> str:
    """What "auto" leaves unused on a GPU before Ampere, in a sentence; "" for nothing.

    Before Volta, 7.0, there are no matrix units for fp16 either.
    """
    if precision != "auto" or device.type != "cuda" or in_bfloat16(precision, device):
        return ""
    if torch.cuda.get_device_capability(device) < (7, 0):
        return ""
    return (
        "precision=auto is fp32 here: this GPU has no bfloat16, but it has fp16 and is faster in "
        "it, with --set precision=fp16."
    )
