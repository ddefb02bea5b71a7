"""A GPU training rehearsed on any machine: does it fit, how many hours, what must the loader give?

    costs = step_costs(config, num_classes=80, image_size=800, precision="fp16")
    costs.memory(batch=16, optimizer="sgd").total / 2**30           GiB on the GPU
    costs.largest_batch(GPUS["t4"], "sgd")

The networks and their losses run on tensors that have shapes and types but no memory: no GPU is
needed, and a step at 800 px takes seconds. On fake ones (torch's FakeTensorMode), which have the
GPU's device too, what the backward pass will need is added up as autograd saves it. On those of the
device "meta", where alone a backward pass runs without a GPU, the fullest moment of the step is
found as tensors come and go, and the floating-point operations are counted as they are called.
Hours follow from shares of a GPU's peak (`gpus`), published or assumed.
"""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from lesson_lib.anchors import Size, as_pair
from lesson_lib.detectors.detector import Detector, as_module
from lesson_lib.detectors.retinanet import RetinaNet
from lesson_lib.detectors.ssd import SSD
from lesson_lib.training.gpus import (
    GPUS,
    PUBLISHED_CLASSES,
    PUBLISHED_RATES,
    PUBLISHED_SIDE,
    Gpu,
)
from lesson_lib.training.recipes import Config, Recipe, build_model

__all__ = [
    "GIB",
    "GPUS",
    "HALF",
    "PUBLISHED_CLASSES",
    "PUBLISHED_RATES",
    "PUBLISHED_SIDE",
    "Gpu",
    "Held",
    "Memory",
    "Plan",
    "StepCosts",
    "held_for_backward",
    "hours_in",
    "plan",
    "precision_on",
    "recipe_costs",
    "speeds",
    "step_costs",
]

GIB = 2**30
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
OBJECTS = (
    8  # in each picture of the rehearsal; with matching in one pass their number hardly matters
)
USUAL_PICTURE = (480, 640)  # (height, width) of COCO's commonest
ERROR = 0.15  # of the activations: how far a step's memory may be from what is rehearsed
STATES = {"sgd": 1, "adamw": 2}  # numbers that an optimizer keeps for each parameter
CONTEXT = (
    GIB  # CUDA's own context and kernels, and cuDNN's workspace: an allowance, not a measurement
)


@dataclass(frozen=True)
class Memory:
    """Bytes on the GPU at the fullest moment of a step, part by part.

    weights       parameters and buffers in float32, and with half precision the copies that
                  autocast makes
    gradients     one for each trained parameter; optimizer: its states
    activations   what autograd keeps from forward and criterion for the backward pass; with the
                  pictures, where the first layer is trained
    transient     what is alive beside these at the fullest moment: in RetinaNet's losses, what they
                  calculate with while all activations are held; in SSD's backward pass, gradients
                  of activations, less the activations that are no longer needed by then
    context       CUDA's own, an allowance
    averaged      the running mean of the weights, where the recipe asks for one (ema)
    pictures      of the data set, where all are kept decoded beside the network (cache)
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    transient: int
    context: int = CONTEXT
    averaged: int = 0
    pictures: int = 0

    def parts(self) -> dict[str, int]:
        """{"weights": bytes, ...} in the order in which a picture stacks them."""
        return dict(vars(self))

    @property
    def total(self) -> int:
        return sum(self.parts().values())


@dataclass(frozen=True)
class StepCosts:
    """What one training step costs, from two rehearsals: batches of 2 and of 4 pictures; all else
    grows in a line.

    parameters, trained   numbers in the network, and those of them that are trained
    weight_bytes          of parameters and buffers
    fixed, per_picture    bytes that autograd holds whatever the batch, and for each picture of it
    transient             bytes alive beside these and the weights' gradients at the fullest moment,
                          for each picture
    flops                 floating-point operations (a multiplication and an addition are two) of
                          forward, criterion
                          and backward for one picture
    anchors               a picture's
    precision             "fp32", "fp16" or "bf16"
    forward               of `flops`, those of the network alone, as an evaluation takes them
    transient_fixed       as `transient`, whatever the batch
    """

    parameters: int
    trained: int
    weight_bytes: int
    fixed: int
    per_picture: int
    transient: int
    flops: int
    anchors: int
    precision: str
    forward: int = 0
    transient_fixed: int = 0

    def memory(
        self, batch: int, optimizer: str = "sgd", averaged: bool = False, kept: int = 0
    ) -> Memory:
        """Of a step of `batch` pictures; `optimizer` as a recipe calls it.

        averaged: the weights have a running mean; kept: bytes of pictures beside the network.
        """
        return Memory(
            weights=self.weight_bytes,
            gradients=4 * self.trained,
            optimizer=4 * STATES[optimizer] * self.trained,
            activations=self.fixed + batch * self.per_picture,
            transient=self.transient_fixed + batch * self.transient,
            averaged=self.weight_bytes if averaged else 0,
            pictures=kept,
        )

    def largest_batch(
        self, gpu: Gpu, optimizer: str = "sgd", averaged: bool = False, kept: int = 0
    ) -> int:
        """Pictures in the largest step that fits; 0 where one does not. The rest as in `memory`."""
        empty, one = (self.memory(batch, optimizer, averaged, kept).total for batch in (0, 1))
        return max(0, int((gpu.memory * GIB - empty) // (one - empty)))

    def checkpoint_bytes(self, optimizer: str = "sgd", averaged: bool = False) -> int:
        """Of a file that a training goes on from: weights, the optimizer's states, the mean."""
        memory = self.memory(0, optimizer, averaged)
        return memory.weights + memory.optimizer + memory.averaged


@lru_cache(maxsize=64)
def step_costs(
    config: Config, num_classes: int, image_size: Size, precision: str = "fp32"
) -> StepCosts:
    """The costs of a detector's training step on a GPU, counted on tensors without memory; no
    weights are loaded.

    image_size: pixels of the input, (height, width) or one number for a square.
    precision: "fp32", or "bf16" or "fp16" by autocast.
    ValueError for another precision.
    """
    if precision not in ("fp32", *HALF):
        raise ValueError(f"precision is {precision!r}; rehearse with fp32, bf16 or fp16.")
    config = _without_weights(config)
    # Not one picture: batch norm of a map with one position refuses it.
    two, four = (_held(config, num_classes, image_size, n, HALF.get(precision)) for n in (2, 4))
    beside_two, beside_four = (
        _alive(config, num_classes, image_size, n, HALF.get(precision)) - held.bytes
        for n, held in ((2, two), (4, four))
    )
    counted = _counted(config, num_classes, image_size)
    parameters = list(counted.model.parameters())
    tensors = [*parameters, *counted.model.buffers()]
    per_picture = (four.bytes - two.bytes) // 2
    # Of a small network the fullest moment may be one that does not grow with the batch.
    transient = max(0, (beside_four - beside_two) // 2)
    return StepCosts(
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        weight_bytes=sum(t.nbytes for t in tensors),
        fixed=two.bytes - 2 * per_picture,
        per_picture=per_picture,
        transient=transient,
        flops=counted.step,
        anchors=two.anchors,
        precision=precision,
        forward=counted.forward,
        transient_fixed=max(0, beside_two - 2 * transient),
    )


def recipe_costs(config: Config, num_classes: int, recipe: Recipe, precision: str) -> StepCosts:
    """`step_costs` of a recipe: memory for the largest input that it makes, operations for the one
    that most photos become, of shape 4 : 3 as in COCO.
    """
    resizing = recipe.resizing
    costs = step_costs(config, num_classes, resizing.largest(), precision)
    usual = resizing.canvas(USUAL_PICTURE)
    if usual == resizing.largest():
        return costs
    counted = _counted(_without_weights(config), num_classes, usual)
    return replace(costs, flops=counted.step, forward=counted.forward)


@dataclass(frozen=True)
class Held:
    """What autograd keeps of one forward pass and criterion: bytes in all; and the anchors."""

    bytes: int
    anchors: int


def _without_weights(config: Config) -> Config:
    return replace(config, pretrained=False) if config.pretrained else config


def _built(config: Config, num_classes: int, size: Size) -> SSD | RetinaNet:
    """The network as if its backbone's weights had come: without them some refuse to train."""
    model = build_model(config, num_classes, size)
    model.backbone.trainable = True
    return model


def _held(
    config: Config, num_classes: int, size: Size, batch: int, half: torch.dtype | None
) -> Held:
    """Bytes that autograd keeps of one forward pass and criterion, each storage once, weights
    apart.
    """
    with FakeTensorMode(), torch.device("cuda"):
        model = _built(config, num_classes, size)
        return held_for_backward(model, _pictures(batch, size), _anchors(model, size), half)


def held_for_backward(
    model: Detector, images: Tensor, anchors: Tensor, half: torch.dtype | None = None
) -> Held:
    """The same of any detector, pictures (B, 3, H, W) and anchors (A, 4), on the device that
    they are on.
    """
    known = {_storage(t) for t in (*model.parameters(), *as_module(model).buffers(), anchors)}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in known:
            kept[_storage(tensor)] = tensor.untyped_storage()
        return tensor

    model.train()
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = _forward(model, images, half)
        _loss(model, outputs, anchors, len(images))
    return Held(sum(storage.nbytes() for storage in kept.values()), len(anchors))


def _alive(
    config: Config, num_classes: int, size: Size, batch: int, half: torch.dtype | None
) -> int:
    """The most bytes alive at once in forward, criterion and backward, beside the weights and their
    gradients.

    All gradients are there from the beginning, as in the later parts of a batch that comes in
    parts: `Memory` counts them whole. Left out is what a GPU's kernels take for themselves.
    """
    with torch.device("meta"):
        model = _built(config, num_classes, size)
        images, anchors = _pictures(batch, size), _anchors(model, size)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)
    model.train()
    known = [*model.parameters(), *model.buffers()]
    with Alive([*known, *(p.grad for p in known if p.grad is not None)]) as alive:
        alive.add(images)
        alive.add(anchors)
        outputs = _forward(model, images, half)  # they live until the backward pass is done
        _loss(model, outputs, anchors, batch).backward()
    return alive.most


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that live, each storage once: `now`, and at `most`.

    beside: tensors that are there all the while and are not counted. torch's own
    torch.distributed._tools.mem_tracker finds the same, in five times the time, where all
    parameters are trained; a frozen one it refuses.
    """

    def __init__(self, beside: Iterable[Tensor] = ()):
        super().__init__()
        self.now = self.most = 0
        self.known = set(map(_storage, beside))

    def add(self, tensor: Tensor) -> None:
        """Counts its storage from now on, until nothing uses it any more."""
        storage, key = tensor.untyped_storage(), _storage(tensor)
        if key not in self.known:
            self.known.add(key)
            weakref.finalize(storage, self._drop, key, storage.nbytes())
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self.add(value)
        return made


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _forward(model: Detector, images: Tensor, half: torch.dtype | None) -> Any:
    if half is None:
        return model(images)
    with HalfOnMeta(half) if images.is_meta else as_autocast(half):
        return model(images)


@contextmanager
def as_autocast(half: torch.dtype) -> Iterator[None]:
    """A GPU's autocast, set by hand: torch.autocast switches itself off where there is none."""
    torch.set_autocast_dtype("cuda", half)
    torch.set_autocast_enabled("cuda", True)
    torch.autocast_increment_nesting()  # what is cast once is kept until the outermost ends
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


class HalfOnMeta(TorchFunctionMode):
    """A GPU's autocast on the device "meta", where torch has none: convolutions and products of
    matrices take copies in 16 bits, the trained weights' once; lengths are of float32.

    Left out are all other operations that autocast has a rule for, of which the library's networks
    have none: a test compares what they keep with what they keep under `as_autocast`.
    """

    PRODUCTS = (torch.conv2d, F.linear, torch.matmul)

    def __init__(self, half: torch.dtype):
        super().__init__()
        self.half, self.copies = half, dict[Tensor, Tensor]()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.normalize:
            return self._normalized(*args, **kwargs)
        if func in self.PRODUCTS:
            return func(*tree_map(self._copy, args), **tree_map(self._copy, kwargs))
        return func(*args, **kwargs)

    def _copy(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not (value.requires_grad and value.is_leaf):
            return value.to(self.half)
        if value not in self.copies:
            self.copies[value] = value.to(self.half)
        return self.copies[value]

    @staticmethod
    def _normalized(
        input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
    ) -> Tensor:
        length = torch.linalg.vector_norm(input, p, dim, True, dtype=torch.float32)
        return input / length.clamp_min(eps).expand_as(input)


class Counted(NamedTuple):
    """The network without memory (device "meta"), and the operations of one picture: of its whole
    step, and of `forward` alone. They are as many in any precision.
    """

    model: SSD | RetinaNet
    step: int
    forward: int


@lru_cache(maxsize=64)
def _counted(config: Config, num_classes: int, size: Size) -> Counted:
    with torch.device("meta"):
        model = _built(config, num_classes, size)
        images = _pictures(2, size)
        model.train()
        with FlopCounterMode(display=False) as counter:
            outputs = model(images)
            forward = counter.get_total_flops() // 2
            _loss(model, outputs, _anchors(model, size), 2).backward()
    return Counted(model, counter.get_total_flops() // 2, forward)


def _anchors(model: SSD | RetinaNet, size: Size) -> Tensor:
    """As many anchors as the model has, without their places: those of a real size are kept and
    must not become fake.
    """
    return torch.zeros(model.anchor_spec(size).total(as_pair(size)), 4)


def _pictures(batch: int, size: Size) -> Tensor:
    return torch.zeros(batch, 3, *as_pair(size)).to(memory_format=torch.channels_last)


def _loss(model: Detector, outputs: Any, anchors: Tensor, batch: int) -> Tensor:
    """The sum of both losses, for pictures of OBJECTS objects each."""
    corners = torch.arange(OBJECTS, device=anchors.device, dtype=torch.float32) * 16
    boxes = torch.stack((corners, corners, corners + 40, corners + 32), 1)  # (OBJECTS, 4)
    labels = torch.zeros(OBJECTS, dtype=torch.int64, device=anchors.device)
    targets = [{"boxes": boxes, "labels": labels} for _ in range(batch)]
    losses = model.criterion(outputs, anchors, targets)
    return losses["cls"] + losses["box"]


@dataclass(frozen=True)
class Plan:
    """A recipe on a GPU: what `python -m lesson_lib rehearse` prints, and what its picture shows.

    fits            whether the recipe's batch does, in the parts that it comes in (accumulate)
    tight           it fits, and what is left is less than the memory may be wrong by: ERROR of the
                    activations
    largest_batch   pictures in the largest step that fits
    accumulate      parts into which the recipe's batch is to be cut, so that each fits; 0: not even
                    one picture does
    pictures        that the whole training sees
    judged          pictures that its evaluations see, all together
    hours           (at the high share of peak, at the low one), evaluations included
    judging         of these, the evaluations'; where detections are chosen is not counted
    rate            pictures a second that the loader must give: (at the low share, at the high one)
    shares          (low, high) shares of the GPU's peak in this precision; why: where from
    """

    gpu: Gpu
    precision: str
    memory: Memory
    fits: bool
    tight: bool
    largest_batch: int
    accumulate: int
    pictures: int
    judged: int
    hours: tuple[float, float]
    judging: tuple[float, float]
    rate: tuple[float, float]
    shares: tuple[float, float]
    why: str


def plan(
    costs: StepCosts, recipe: Recipe, gpu: Gpu, steps: int, kept: int = 0, judged: int = 0
) -> Plan:
    """What `recipe` asks of `gpu`, for a training of `steps` steps.

    kept: bytes of pictures beside the network; judged: pictures that are evaluated on the way.
    ValueError where the GPU does not calculate in the precision of `costs` itself.
    """
    if costs.precision not in gpu.tflops:
        raise ValueError(
            f"A {gpu.name} does not calculate in {costs.precision} itself (PyTorch would imitate "
            f"it, slowly): rehearse with --set precision={' or '.join(gpu.tflops)}."
        )
    low, high = speeds(costs.precision, gpu)
    pictures, at_once = steps * recipe.batch, -(-recipe.batch // recipe.accumulate)
    beside = recipe.optimizer, recipe.ema > 0, kept
    memory, largest = costs.memory(at_once, *beside), costs.largest_batch(gpu, *beside)
    left = gpu.memory * GIB - memory.total
    training, judging = pictures * costs.flops, judged * costs.forward
    return Plan(
        gpu=gpu,
        precision=costs.precision,
        memory=memory,
        fits=left >= 0,
        tight=0 <= left < ERROR * memory.activations,
        largest_batch=largest,
        accumulate=_parts(recipe.batch, largest),
        pictures=pictures,
        judged=judged,
        hours=((training + judging) / high / 3600, (training + judging) / low / 3600),
        judging=(judging / high / 3600, judging / low / 3600),
        rate=(low / costs.flops, high / costs.flops),
        shares=gpu.share(costs.precision),
        why=gpu.reason(costs.precision),
    )


def speeds(precision: str, gpu: Gpu) -> tuple[float, float]:
    """Floating-point operations a second at the low and the high share of peak."""
    low, high = gpu.share(precision)
    peak = 1e12 * gpu.tflops[precision]
    return low * peak, high * peak


def hours_in(planned: Plan, precision: str) -> tuple[float, float]:
    """The hours of a plan in another precision: as many operations at another speed."""
    own, other = (speeds(name, planned.gpu) for name in (planned.precision, precision))
    fast, slow = planned.hours
    return fast * own[1] / other[1], slow * own[0] / other[0]


def _parts(batch: int, largest: int) -> int:
    """The fewest equal parts of a batch that are no larger than `largest`; 0 where that is 0."""
    if largest == 0:
        return 0
    return next(n for n in range(1, batch + 1) if batch % n == 0 and batch // n <= largest)


def precision_on(precision: str, gpu: Gpu) -> str:
    """What a recipe's "auto" is on `gpu`: bf16 where the GPU calculates in it, else fp32."""
    if precision != "auto":
        return precision
    return "bf16" if "bf16" in gpu.tflops else "fp32"
