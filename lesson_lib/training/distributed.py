"""Several processes, on one machine or many, that train one model: started by torchrun, joined
here.

    torchrun --nproc-per-node 4 -m lesson_lib train --data bccd --out RUN

Each takes its share of every batch; gradients are averaged by torch's DistributedDataParallel.
Without torchrun all functions here do what is right for one process, so that the loop needs no
second path.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

#: Up to so many shapes of inputs cuDNN tries its algorithms for each.
FEW_SHAPES = 8


@contextmanager
def processes(shapes: int = 0) -> Iterator[torch.device]:
    """Joins the processes that torchrun started, if it did; gives the device of this one.

    shapes: how many the inputs will have, 0 for who knows. Where they are few, cuDNN tries its
    algorithms for each and takes the fastest; sums are then rounded as that one does it.
    They part at the end together. An error passes without that: in NCCL to part is to wait for the
    others, who may wait for this process elsewhere. It is told, the process ends, torchrun ends the
    others; until then it cannot join again.
    ValueError where torchrun started more processes here than there are GPUs.
    """
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", _own_gpu())
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = 0 < shapes <= FEW_SHAPES
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield device
    dist.destroy_process_group()


@contextmanager
def algorithms_chosen(wanted: bool) -> Iterator[None]:
    """Whether cuDNN tries its algorithms and takes the fastest, inside; afterwards as before."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _own_gpu() -> int:
    """The number of this process among those of its machine, and so of its GPU."""
    number, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= count:
        raise ValueError(
            f"Process {number + 1} of this machine has no GPU for itself (to be seen: {count}); "
            f"start torchrun with --nproc-per-node {count}."
        )
    return number


def rank_and_world() -> tuple[int, int]:
    """(number of this process, how many there are): (0, 1) without torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def wrap_ddp(model: nn.Module, sync_norm: bool | None = None) -> nn.Module:
    """The model, or, with several processes, one that averages the gradients over them.

    All begin with the first one's weights. sync_norm: whether batch norm goes over the whole batch,
    which torch can on GPUs alone; None: there it does. On the CPU each process sees only its share,
    so that "frozen" or "group" is the norm to choose there.
    The gradients lie in the pieces that travel, and not beside them once more.
    """
    if rank_and_world()[1] == 1:
        return model
    sync_norm = next(model.parameters()).is_cuda if sync_norm is None else sync_norm
    network = nn.SyncBatchNorm.convert_sync_batchnorm(model) if sync_norm else model
    return DistributedDataParallel(network, gradient_as_bucket_view=True)


def norm_note(model: nn.Module) -> str:
    """What `wrap_ddp` makes of the batch norms by itself and what that costs, in a sentence; "" for
    nothing.

    torch's SyncBatchNorm leaves out processes without pictures, and to know them the host waits for
    the GPU in each layer (nn/modules/_functions.py, at "force a synchronization").
    """
    if rank_and_world()[1] == 1 or not next(model.parameters()).is_cuda:
        return ""
    count = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    if count == 0:
        return ""
    return (
        f"{count} batch norms go over the pictures of all processes (SyncBatchNorm), and each "
        "makes the host wait for its GPU in every step: --norm group does not."
    )


def without_sync(network: Any, wanted: bool) -> AbstractContextManager[None]:
    """Inside, if `wanted`, gradients stay in this process: those of a batch's parts but the last,
    which are added up before they travel.
    """
    shared = wanted and isinstance(network, DistributedDataParallel)
    return network.no_sync() if shared else nullcontext()


def all_reduce(value: Tensor) -> Tensor:
    """Sum of a tensor over the processes; no gradient goes through it."""
    value = value.detach().clone()
    if rank_and_world()[1] > 1:
        dist.all_reduce(value)
    return value


def sync_buffers(model: nn.Module) -> None:
    """Gives all the first process's buffers: each has batch norm's statistics of its share."""
    if rank_and_world()[1] > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def broadcast(value: Any) -> Any:
    """The first process's value, in all of them."""
    box = [value]
    if rank_and_world()[1] > 1:
        dist.broadcast_object_list(box)
    return box[0]


def all_gather(mine: Sequence[Any]) -> list[Any]:
    """Lists of items rank, rank + world, rank + 2 world, ... -> all items in order, in every
    process.
    """
    world = rank_and_world()[1]
    if world == 1:
        return list(mine)
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, list(mine))
    return [parts[i % world][i // world] for i in range(sum(map(len, parts)))]


class _Outline(NamedTuple):
    """What stands for a tensor until its numbers come."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def broadcast_tensors(value: Any, device: torch.device) -> Any:
    """The first process's nested dicts and lists, in all of them; tensors travel one at a time.

    No tensor is pickled, which would copy it several times: an optimizer is larger than its model.
    """
    if rank_and_world()[1] == 1:
        return value
    return _received(broadcast(_outline(value)), value, device)


def _outline(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Outline(tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, dict):
        return {name: _outline(part) for name, part in value.items()}
    return [_outline(part) for part in value] if isinstance(value, list) else value


def _received(outline: Any, mine: Any, device: torch.device) -> Any:
    """outline with its tensors; `mine` is what the first process has, and is not looked at in
    others.
    """
    first = rank_and_world()[0] == 0
    if isinstance(outline, _Outline):
        plain = torch.empty(outline.shape, dtype=outline.dtype, device=device)
        if first:
            plain.copy_(mine)
        dist.broadcast(plain, 0)
        # Laid out as it was: fused optimizers go through weight and state in the order of memory.
        return torch.empty_strided(
            outline.shape, outline.stride, dtype=outline.dtype, device=device
        ).copy_(plain)
    if isinstance(outline, dict):
        return {k: _received(v, mine[k] if first else None, device) for k, v in outline.items()}
    if isinstance(outline, list):
        return [_received(v, mine[i] if first else None, device) for i, v in enumerate(outline)]
    return outline
