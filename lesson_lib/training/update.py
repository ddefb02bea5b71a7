"""From a loss to new weights: backward, fp16's scaling, clipping, optimizer, averaged weights."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from lesson_lib.training.recipes import Recipe
from lesson_lib.training.schedule import make_optimizer


class Update:
    """What changes the weights of a model, and all that is kept for it from step to step.

        update.prepare(number, rate)
        update.backward(loss)                once or, for a batch in parts, several times
        length = update.step(factor)

    averaged   an `Averaged`, where the recipe asks for one (ema)
    """

    def __init__(self, model: nn.Module, recipe: Recipe):
        device = next(model.parameters()).device
        self.model, self.clip = model, recipe.clip or math.inf
        self.optimizer = make_optimizer(model, recipe)
        self.scaler = GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.averaged = Averaged(model, recipe.ema) if recipe.ema else None
        self.number = 1

    def prepare(self, number: int, rate: float) -> None:
        """The next step's number, from 1, and its learning rate, of which a group of parameters
        gets its "share".
        """
        self.number = number
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss, which fp16 needs enlarged: its smallest number is 6e-8."""
        self.scaler.scale(loss).backward()

    def step(self, factor: Tensor | None = None) -> Tensor:
        """New weights from the gradients -> (), the gradients' length before clipping.

        factor (): multiplies the gradients first.
        In fp16 a step whose gradient has overflowed changes nothing, its length is 0, and the next
        is enlarged half as much; it stays infinite where nothing was enlarged any more.
        """
        self.scaler.unscale_(self.optimizer)
        if factor is not None:
            for gradient in (p.grad for p in self.model.parameters() if p.grad is not None):
                gradient.mul_(factor)
        length = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        if self.scaler.is_enabled():
            enlarged = self.scaler.scale(torch.ones_like(length)) >= 1
            length = torch.where(enlarged & ~length.isfinite(), 0, length)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged is not None:
            self.averaged.update(self.model, self.number)
        return length

    def more(self) -> dict[str, Any]:
        """What a checkpoint holds beside model and optimizer, by name, each with a `state_dict`."""
        scaler = {"scaler": self.scaler} if self.scaler.is_enabled() else {}
        return scaler | ({"averaged": self.averaged} if self.averaged is not None else {})


class Averaged:
    """The running mean of a model's weights and of its norms' statistics, in a model of its own.

        mean <- d mean + (1 - d) new,     d = min(decay, t / (t + 10)) after t steps

    as TensorFlow's ExponentialMovingAverage, by whose rule the first steps are soon forgotten;
    after the first the mean is the model itself. (Averages of weights: Polyak and Juditsky, 1992;
    in detectors since EfficientDet, arXiv:1911.09070.)
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model: Any = copy.deepcopy(model).requires_grad_(False)  # of the same class
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, number: int) -> None:
        """Takes the weights in after step `number`, counted from 1."""
        decay = min(self.decay, (number - 1) / (number + 9))
        new = model.state_dict()
        pairs = [(mean, new[name]) for name, mean in self.model.state_dict().items()]
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        means, values = [mean for mean, _ in floats], [value for _, value in floats]
        # One operation for all, as torch's own averaged models do it; there is no public name.
        torch._foreach_lerp_(means, values, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]  see above
        for mean, value in pairs:
            if not mean.is_floating_point():
                mean.copy_(value)

    def give(self, model: nn.Module) -> None:
        """Puts the mean into the model."""
        model.load_state_dict(self.model.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.model.load_state_dict(state)
