"""What a detector is: the contract between a model and all that trains, judges, draws or exports
it.

`Detector` is a protocol: whatever has these methods is one, the learner's own among them.
`OneStage` is what the library's two models have in common.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lesson_lib.anchors import AnchorSpec, Size, as_pair
from lesson_lib.detectors.criterion import Outputs, Targets
from lesson_lib.detectors.inference import Detections
from lesson_lib.detectors.views import outputs_in_views

#: From this process's positives, a scalar, to those of all processes that share the batch.
Normaliser = Callable[[Tensor], Tensor]


class DetectorConfig(Protocol):
    """What must be known of a detector beside its weights. The library's are frozen dataclasses."""

    @property
    def num_classes(self) -> int:
        """K, the objects' classes, without a background."""
        ...

    @property
    def image_size(self) -> Size:
        """The size of the pictures that it is made for, pixels."""
        ...


@runtime_checkable
class Detector(Protocol):
    """An nn.Module that turns pictures (B, 3, H, W), float in 0..1, into raw outputs, and more.

    model(images)   (cls_logits (B, A, C), box_deltas (B, A, 4)), C = K or, background first, K + 1
    config          a DetectorConfig; needed where `train` is to evaluate, and for `predict` without
                    a size
    """

    config: Any
    training: bool  # this and the next three are nn.Module's

    def train(self, mode: bool = True) -> Any:
        """Into training, or out of it."""
        ...

    def eval(self) -> Any:
        """train(False)"""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is learned."""
        ...

    def __call__(self, images: Tensor) -> Outputs:
        """See above."""
        ...

    def anchors(self, image_size: Size, device: torch.device | str | None = None) -> Tensor:
        """(A, 4) xyxy pixels for pictures of this size, in the order of the outputs' rows."""
        ...

    def criterion(
        self,
        outputs: Outputs,
        anchors: Tensor,
        targets: Targets,
        normaliser: Normaliser | None = None,
    ) -> dict[str, Tensor]:
        """{"cls", "box"}: sums over the batch, divided by max(1, its positives).

        normaliser: where several processes share a batch, or it comes in parts, what makes the
        positives of all from those of this one; both losses are divided by what it returns, and
        summed over all they are those of the whole batch. It must be called exactly once, by every
        process, and before anything that could fail in one of them alone.
        A detector without this argument trains with several processes, too: see `batch_loss`.
        """
        ...

    def detections(self, outputs: Outputs, anchors: Tensor, size: tuple[int, int]) -> Detections:
        """For each picture {"boxes" (N, 4) xyxy, "scores" (N,), "labels" (N,)}, best first.

        size: (height, width) of the pictures, in pixels. The library's detectors also take `sizes`,
        those of the pictures themselves where they are filled up to `size`; without it boxes are
        cut there afterwards.
        """
        ...


def as_module(model: Detector) -> nn.Module:
    """The same object, for what torch does with modules. TypeError where it is none."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{type(model).__name__} is no nn.Module: derive it from torch.nn.Module.")
    return model


def batch_loss(
    model: Any,
    outputs: Outputs,
    anchors: Tensor,
    targets: Targets,
    normaliser: Normaliser | None,
    shares: int = 1,
    **options: Any,
) -> dict[str, Tensor]:
    """This share's summand of the whole batch's losses: over all `shares` they add up to it.

    shares: the processes times the parts in which each goes through its pictures. A criterion that
    takes no `normaliser` divides by the positives of its own share. Then the mean over the shares
    is taken, as most trainers do: about the same, exact where all have as many positives.
    """
    if shares == 1:
        return model.criterion(outputs, anchors, targets, **options)
    if takes_normaliser(model):
        return model.criterion(outputs, anchors, targets, normaliser=normaliser, **options)
    losses = model.criterion(outputs, anchors, targets, **options)
    return {name: value / shares for name, value in losses.items()}


def takes_normaliser(model: Any) -> bool:
    """Whether the model's criterion has the argument, or takes any."""
    return _takes(model.criterion, "normaliser")


def takes_sizes(model: Any) -> bool:
    """Whether the model's detections have the argument `sizes`, or take any."""
    return _takes(model.detections, "sizes")


def _takes(function: Callable, argument: str) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == argument or p.kind is p.VAR_KEYWORD for p in parameters)


def anchors_of(
    model: Any, device: torch.device | str
) -> Callable[[tuple[int, int] | torch.Size], Tensor]:
    """From (height, width) of an input to the model's anchors for it, made once for each size."""

    @cache
    def made(height: int, width: int) -> Tensor:
        return model.anchors(height if height == width else (height, width), device)

    return lambda size: made(int(size[0]), int(size[1]))


def own_size(model: Any) -> Size:
    """The picture size that a model is made for. ValueError where it does not say."""
    size = getattr(getattr(model, "config", None), "image_size", None)
    if size is None:
        raise ValueError(
            f"{type(model).__name__} does not say for which picture size it is made (it has no "
            "config.image_size): give the size."
        )
    return size


class OneStage(nn.Module):
    """What SSD and RetinaNet share; `anchor_spec`, `forward`, `detections` are their own."""

    config: Any

    def anchor_spec(self, image_size: Size | None = None) -> AnchorSpec:
        """The specification of the anchors for pictures of this size; None: the config's."""
        raise NotImplementedError

    def detections(
        self, outputs: Outputs, anchors: Tensor, size: tuple[int, int], **options: Any
    ) -> Detections:
        """See `Detector`."""
        raise NotImplementedError

    def anchors(
        self, image_size: Size | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """(A, 4) xyxy, float32 pixels, for pictures of image_size (None: the config's).

        Computed once for each specification and size; every caller gets a tensor of its own.
        """
        size = as_pair(self.config.image_size if image_size is None else image_size)
        with torch.inference_mode(False):  # or training could not use them
            return _anchors(self.anchor_spec(size), size).to(device or "cpu", copy=True)

    def predict(self, images: Tensor, **options: Any) -> Detections:
        """Detections in a batch (B, 3, H, W), float in 0..1, on the model's device.

        options: those of inference, before the config's; views: so many of each picture are
        looked at, see `outputs_in_views`. The model is left in the mode it was in.
        """
        height, width = images.shape[-2:]
        training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                outputs, anchors = outputs_in_views(
                    self, anchors_of(self, images.device), images, options.get("views", 1)
                )
                return self.detections(outputs, anchors, (height, width), **options)
        finally:
            self.train(training)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # a tensor made in inference mode could not serve training afterwards
def _anchors(spec: AnchorSpec, size: tuple[int, int]) -> Tensor:
    return spec.make(size)
