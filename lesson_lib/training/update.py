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

    averaged    an `Averaged`, where the recipe asks for one (ema)
    capturable  whether all that differs from step to step, the rate and the mean's decay, is in
                tensors on the device, which `prepare` fills: then `backward` and `step` are the
                same operations with the same plain numbers each time, so that a CUDA graph of them
                can be replayed. It rounds the rate to float32. None: on a GPU
    """

    def __init__(self, model: nn.Module, recipe: Recipe, capturable: bool | None = None):
        device = next(model.parameters()).device
        self.device = device
        self.capturable = device.type == "cuda" if capturable is None else capturable
        self.model, self.clip = model, recipe.clip or math.inf
        self.optimizer = make_optimizer(model, recipe)
        self.scaler = GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.averaged = Averaged(model, recipe.ema, self.capturable) if recipe.ema else None
        self.prepare(1, recipe.lr)

    def prepare(self, number: int, rate: float) -> None:
        """The next step's number, from 1, and its learning rate, of which a group of parameters
        gets its "share".
        """
        for group in self.optimizer.param_groups:
            own = rate * group.get("share", 1.0)
            group["lr"] = _written(group["lr"], own, self.device) if self.capturable else own
            if "capturable" in group:  # what AdamW asks for before it lets itself be captured
                group["capturable"] = self.capturable
        if self.averaged is not None:
            self.averaged.prepare(number)

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
            self.averaged.update(self.model)
        return length

    def more(self) -> dict[str, Any]:
        """What a checkpoint holds beside model and optimizer, by name, each with a `state_dict`."""
        scaler = {"scaler": self.scaler} if self.scaler.is_enabled() else {}
        return scaler | ({"averaged": self.averaged} if self.averaged is not None else {})


def _written(place: Any, value: float, device: torch.device) -> Tensor:
    """The value as a tensor () on the device: in `place`, where that is one, so that a graph finds
    it where it was.
    """
    if isinstance(place, Tensor) and place.device == device:
        return place.fill_(value)
    return torch.full((), value, device=device)


class Averaged:
    """The running mean of a model's weights and of its norms' statistics, in a model of its own.

        mean <- d mean + (1 - d) new,     d = min(decay, t / (t + 10)) after t steps

    as TensorFlow's ExponentialMovingAverage, by whose rule the first steps are soon forgotten;
    after the first the mean is the model itself. (Averages of weights: Polyak and Juditsky, 1992;
    in detectors since EfficientDet, arXiv:1911.09070.)
    """

    def __init__(self, model: nn.Module, decay: float, capturable: bool = False):
        self.model: Any = copy.deepcopy(model).requires_grad_(False)  # of the same class
        self.decay, self.device = decay, next(model.parameters()).device
        self.kept: Any = None  # d
        self.taken: Any = None  # 1 - d
        self.capturable = capturable
        self.prepare(1)

    def prepare(self, number: int) -> None:
        """What `update` does next is after step `number`, counted from 1."""
        self.kept, self.taken = self._shares(min(self.decay, (number - 1) / (number + 9)))

    def _shares(self, decay: float) -> tuple[Any, Any]:
        if not self.capturable:
            return decay, 1 - decay
        old = self.kept, self.taken
        kept, taken = (_written(*pair, self.device) for pair in zip(old, (decay, 1 - decay)))
        return kept, taken

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes the weights in after the step that was prepared."""
        new = model.state_dict()
        pairs = [(mean, new[name]) for name, mean in self.model.state_dict().items()]
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        means, values = [mean for mean, _ in floats], [value for _, value in floats]
        # One operation for all, as torch's own averaged models do it; there are no public names.
        if self.capturable:  # where the share is a tensor, torch has no such lerp
            torch._foreach_mul_(means, self.kept)  # pyright: ignore[reportPrivateImportUsage]  see above
            values = torch._foreach_mul(values, self.taken)  # pyright: ignore[reportPrivateImportUsage]  see above
            torch._foreach_add_(means, values)  # pyright: ignore[reportPrivateImportUsage]  see above
        else:
            torch._foreach_lerp_(means, values, self.taken)  # pyright: ignore[reportPrivateImportUsage]  see above
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
