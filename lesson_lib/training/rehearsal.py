"""A GPU training rehearsed on any machine: does it fit, how many hours, what must the loader give?

    costs = step_costs(config, num_classes=80, image_size=800, precision="fp16")
    costs.memory(batch=16, optimizer="sgd").total / 2**30           GiB on the GPU
    costs.largest_batch(GPUS["t4"], "sgd")

The networks and their losses run on fake tensors (torch's FakeTensorMode), which have shapes, types
and a device but no
memory: no GPU is needed, and a step at 800 px takes seconds. What the backward pass will need is
added up as autograd
saves it, the floating-point operations as they are called. Hours follow from published shares of a
GPU's peak.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from lesson_lib.anchors import Size, as_pair
from lesson_lib.detectors.detector import Detector, as_module
from lesson_lib.detectors.retinanet import RetinaNet
from lesson_lib.detectors.ssd import SSD
from lesson_lib.training.recipes import Config, Recipe, build_model

GIB = 2**30
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
OBJECTS = (
    8  # in each picture of the rehearsal; with matching in one pass their number hardly matters
)
USUAL_PICTURE = (480, 640)  # (height, width) of COCO's commonest
STATES = {"sgd": 1, "adamw": 2}  # numbers that an optimizer keeps for each parameter
CONTEXT = (
    GIB  # CUDA's own context and kernels, and cuDNN's workspace: an allowance, not a measurement
)


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU, by its maker's data sheet.

    memory   GiB that a program can have
    tflops   {"fp32", "fp16", "bf16"}: dense peak, 10^12 floating-point operations a second. Where
             the GPU has TF32,
             "fp32" is TF32's, in which PyTorch's convolutions run unless told otherwise. A type
             that is missing is
             not calculated by the GPU itself.
    shares   {"fp32", "half"}: (low, high) shares of that peak; see SHARES_WHY
    """

    name: str
    memory: float
    tflops: dict[str, float]
    shares: dict[str, tuple[float, float]]


#: High, in half precision: MLPerf Training's RetinaNet-RNeXt50 at 800 px with the 264 classes of
#: its OpenImages, 121 pictures/s on an A100 (v2.0), 291 on an H100 and 301 on an H200 (v4.0), times
#: the 1,155 GFLOP of RetinaNet-R50's step with as many classes, over the peak. For TF32 no such run
#: is known here: the same share is an assumption. Without tensor cores in fp32: detectron2's
#: RetinaNet-R50, 9.8 pictures/s of 1,451 GFLOP on a V100 (cuDNN's Winograd convolutions need fewer
#: operations than are counted). Low: a tenth, what ordinary code reaches that waits for its loader
#: and for itself.
SHARES_WHY = "low: ordinary code, 10 % of peak; high: the best published run of the kind"
#: Pictures a second on one GPU, MLPerf.
PUBLISHED_RATES = {"a100": 121, "h100": 291, "h200": 301}
PUBLISHED_CLASSES, PUBLISHED_SIDE = 264, 800
_CORES = {"fp32": (0.10, 0.45), "half": (0.10, 0.45)}
_HOPPER = {"fp32": (0.10, 0.34), "half": (0.10, 0.34)}
_OLD = {"fp32": (0.40, 0.90), "half": (0.10, 0.45)}
GPUS = {
    "t4": Gpu("T4", 14.6, {"fp32": 8.1, "fp16": 65}, _OLD),
    "v100": Gpu("V100 (16 GB)", 15.8, {"fp32": 15.7, "fp16": 125}, _OLD),
    "a100": Gpu("A100 (80 GB)", 79.1, {"fp32": 156, "fp16": 312, "bf16": 312}, _CORES),
    "h100": Gpu("H100 (80 GB)", 79.1, {"fp32": 494, "fp16": 989, "bf16": 989}, _HOPPER),
    "h200": Gpu("H200 (141 GB)", 139.8, {"fp32": 494, "fp16": 989, "bf16": 989}, _HOPPER),
}


@dataclass(frozen=True)
class Memory:
    """Bytes on the GPU at the fullest moment of a step, part by part.

    weights       parameters and buffers in float32, and with half precision the copies that
                  autocast makes
    gradients     one for each trained parameter; optimizer: its states
    activations   what autograd keeps from forward and criterion for the backward pass, with the
                  pictures
    transient     gradients of activations, of which a few are alive at once: twice the largest one
    context       CUDA's own, an allowance
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    transient: int
    context: int = CONTEXT

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
    largest               bytes of the largest activation of one picture
    flops                 floating-point operations (a multiplication and an addition are two) of
                          forward, criterion
                          and backward for one picture
    anchors               a picture's
    precision             "fp32", "fp16" or "bf16"
    """

    parameters: int
    trained: int
    weight_bytes: int
    fixed: int
    per_picture: int
    largest: int
    flops: int
    anchors: int
    precision: str

    def memory(self, batch: int, optimizer: str = "sgd") -> Memory:
        """Of a step of `batch` pictures; `optimizer` as a recipe calls it."""
        return Memory(
            weights=self.weight_bytes,
            gradients=4 * self.trained,
            optimizer=4 * STATES[optimizer] * self.trained,
            activations=self.fixed + batch * self.per_picture,
            transient=2 * batch * self.largest,
        )

    def largest_batch(self, gpu: Gpu, optimizer: str = "sgd") -> int:
        """Pictures in the largest step that fits; 0 where one does not."""
        empty, one = self.memory(0, optimizer).total, self.memory(1, optimizer).total
        return max(0, int((gpu.memory * GIB - empty) // (one - empty)))


@lru_cache(maxsize=64)
def step_costs(
    config: Config, num_classes: int, image_size: Size, precision: str = "fp32"
) -> StepCosts:
    """The costs of a detector's training step on a GPU, counted on fake tensors; no weights are
    loaded.

    image_size: pixels of the input, (height, width) or one number for a square.
    precision: "fp32", or "bf16" or "fp16" by autocast.
    ValueError for another precision.
    """
    if precision not in ("fp32", *HALF):
        raise ValueError(f"precision is {precision!r}; rehearse with fp32, bf16 or fp16.")
    config = _without_weights(config)
    # Not one picture: batch norm of a map with one position refuses it.
    two = _held(config, num_classes, image_size, 2, HALF.get(precision))
    four = _held(config, num_classes, image_size, 4, HALF.get(precision))
    model, flops = _counted(config, num_classes, image_size)
    parameters = list(model.parameters())
    tensors = [*parameters, *model.buffers()]
    per_picture = (four.bytes - two.bytes) // 2
    return StepCosts(
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        weight_bytes=sum(t.nbytes for t in tensors),
        fixed=two.bytes - 2 * per_picture,
        per_picture=per_picture,
        largest=two.largest,
        flops=flops,
        anchors=two.anchors,
        precision=precision,
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
    return replace(costs, flops=_counted(_without_weights(config), num_classes, usual)[1])


@dataclass(frozen=True)
class Held:
    """What autograd keeps of one forward pass: bytes in all, of the largest tensor of one
    picture; and the anchors.
    """

    bytes: int
    largest: int
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
    sizes = [storage.nbytes() for storage in kept.values()]
    return Held(sum(sizes), max(sizes) // len(images), len(anchors))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _forward(model: Detector, images: Tensor, half: torch.dtype | None) -> Any:
    """The network under autocast. torch.autocast would switch itself off where there is no GPU:
    set by hand.
    """
    if half is None:
        return model(images)
    torch.set_autocast_dtype("cuda", half)
    torch.set_autocast_enabled("cuda", True)
    try:
        return model(images)
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


@lru_cache(maxsize=64)
def _counted(config: Config, num_classes: int, size: Size) -> tuple[SSD | RetinaNet, int]:
    """The network without memory (device "meta"), and the operations of one picture's whole
    step: as many in any precision.
    """
    with torch.device("meta"):
        model = _built(config, num_classes, size)
        images = _pictures(2, size)
        model.train()
        with FlopCounterMode(display=False) as counter:
            _loss(model, model(images), _anchors(model, size), 2).backward()
    return model, counter.get_total_flops() // 2


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
    largest_batch   pictures in the largest step that fits
    accumulate      parts into which the recipe's batch is to be cut, so that each fits; 0: not even
                    one picture does
    pictures        that the whole training sees
    hours           (at the high share of peak, at the low one); see SHARES_WHY
    rate            pictures a second that the loader must give: (at the low share, at the high one)
    """

    gpu: Gpu
    precision: str
    memory: Memory
    fits: bool
    largest_batch: int
    accumulate: int
    pictures: int
    hours: tuple[float, float]
    rate: tuple[float, float]


def plan(costs: StepCosts, recipe: Recipe, gpu: Gpu, steps: int) -> Plan:
    """What `recipe` asks of `gpu`, for a training of `steps` steps.

    ValueError where the GPU does not calculate in the precision of `costs` itself.
    """
    if costs.precision not in gpu.tflops:
        raise ValueError(
            f"A {gpu.name} does not calculate in {costs.precision} itself (PyTorch would imitate "
            f"it, slowly): rehearse "
            f"with --set precision={' or '.join(gpu.tflops)}."
        )
    kind = "half" if costs.precision in HALF else "fp32"
    low, high = (
        share * gpu.tflops[costs.precision] * 1e12 / costs.flops for share in gpu.shares[kind]
    )
    pictures, at_once = steps * recipe.batch, -(-recipe.batch // recipe.accumulate)
    memory = costs.memory(at_once, recipe.optimizer)
    largest = costs.largest_batch(gpu, recipe.optimizer)
    return Plan(
        gpu=gpu,
        precision=costs.precision,
        memory=memory,
        fits=memory.total <= gpu.memory * GIB,
        largest_batch=largest,
        accumulate=_parts(recipe.batch, largest),
        pictures=pictures,
        hours=(pictures / high / 3600, pictures / low / 3600),
        rate=(low, high),
    )


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
