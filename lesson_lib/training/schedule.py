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
    releases. With a `recipe.backbone_lr` other than 1 the parameters of `model.backbone` are groups
    of their own, behind the others; "share" of a group is that part of the rate which it gets.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    backbone = [p for name, p in named if name.startswith("backbone.")]
    if recipe.backbone_lr == 1 or not backbone:
        groups = _decaying([p for _, p in named], recipe, 1.0)
    else:
        others = [p for name, p in named if not name.startswith("backbone.")]
        groups = _decaying(others, recipe, 1.0) + _decaying(backbone, recipe, recipe.backbone_lr)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.lr, recipe.momentum, fused=True)
    return torch.optim.AdamW(groups, recipe.lr, fused=True)


def _decaying(parameters: list[nn.Parameter], recipe: Recipe, share: float) -> list[dict[str, Any]]:
    """Two groups: weights, which decay, and what has one dimension, which does not."""
    weights, others = ([p for p in parameters if (p.ndim > 1) is many] for many in (True, False))
    common = {"lr": recipe.lr * share, "share": share}
    return [
        {"params": weights, "weight_decay": recipe.weight_decay, **common},
        {"params": others, "weight_decay": 0.0, **common},
    ]
