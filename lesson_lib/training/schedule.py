"""How the learning rate runs over a training, and the optimizers.

The rate is a plain function of the step, so that nothing of it needs to be saved: a run that goes
on after a stop asks for the step it is at.
"""

import math
from typing import Any

import torch
from torch import nn

from lesson_lib.training.recipes import Recipe

START, END = 1 / 25, 1 / 250_000  # one-cycle begins and ends at these parts of the highest rate


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """The rate of step 0..steps - 1; `recipe.lr` is the highest.

    one-cycle  half a cosine up from lr / 25 over the share `warmup` of the steps, then half a
               cosine down to lr / 250,000 (arXiv:1708.07120, as torch's OneCycleLR, the momentum
               left alone)
    cosine     lr (1 + cos(pi x)) / 2, x from 0 to 1 after the warm-up (arXiv:1608.03983)
    step       lr, a tenth of it after each share in `milestones`; constant   lr
    The warm-up of the last three rises linearly to lr over the share `warmup` of the steps.
    """
    if recipe.schedule == "one-cycle":
        top = max(recipe.warmup * steps - 1, 0)  # the step with the highest rate
        if step <= top and top > 0:
            return recipe.lr * _between(START, 1, step / top)
        return recipe.lr * _between(1, END, (step - top) / max(steps - 1 - top, 1))
    rise = round(recipe.warmup * steps)
    if step < rise:
        return recipe.lr * (step + 1) / (rise + 1)
    if recipe.schedule == "cosine":
        return recipe.lr * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2
    if recipe.schedule == "step":
        return recipe.lr * 0.1 ** sum(step >= round(share * steps) for share in recipe.milestones)
    return recipe.lr


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW, fused into one operation a step.

    Biases and norm layers, whose parameters have one dimension, do not decay, as in the authors'
    releases. Parts of the model with a share of the rate of their own (`recipe.backbone_lr`,
    head_lr) are groups of their own, behind the others; "share" of a group is what it gets.
    """
    shares = {"heads": recipe.head_lr, "backbone": recipe.backbone_lr}
    parts: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = shares.get(name.partition(".")[0], 1.0)
            parts.setdefault(share, []).append(parameter)
    groups = [
        group for share, part in parts.items() if part for group in _pair(part, recipe, share)
    ]
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, recipe.lr, recipe.momentum, fused=True)
        if recipe.momentum:  # torch leaves it undefined where fp16 skips the first step
            for parameter in (p for group in groups for p in group["params"]):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    return torch.optim.AdamW(groups, recipe.lr, fused=True)


def _pair(parameters: list[nn.Parameter], recipe: Recipe, share: float) -> list[dict[str, Any]]:
    """Two groups: weights, which decay, and what has one dimension, which does not."""
    weights, others = ([p for p in parameters if (p.ndim > 1) is many] for many in (True, False))
    common = {"lr": recipe.lr * share, "share": share}
    return [
        {"params": weights, "weight_decay": recipe.weight_decay, **common},
        {"params": others, "weight_decay": 0.0, **common},
    ]
