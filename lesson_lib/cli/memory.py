"""What the commands say where a GPU's memory is too small."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lesson_lib.training.recipes import Recipe


class OutOfMemory(ValueError):
    """A training does not fit the GPU; the message says what to change."""


def out_of_memory(error: BaseException) -> bool:
    """Whether torch raised it because a GPU's memory is full: as its allocator says it, or CUDA."""
    if isinstance(error, torch.AcceleratorError):
        return "out of memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError)


@contextmanager
def fits(recipe: Recipe) -> Iterator[None]:
    """Inside, a full memory is an OutOfMemory with one sentence."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemory(
            f"The GPU's memory is too small for batch={recipe.batch} with accumulate="
            f"{recipe.accumulate}: --set accumulate={2 * recipe.accumulate} takes half as many "
            "pictures at a time, for the same gradients but for batch norm's, a smaller batch or "
            "size takes less, too; `rehearse` says before what fits which GPU."
        ) from error


def too_small(error: RuntimeError) -> str:
    """One sentence for the commands that do not train."""
    said = str(error).splitlines()[0].partition(". ")[0]
    return (
        f"The GPU's memory is too small ({said}): end what else runs on it, or set "
        'CUDA_VISIBLE_DEVICES="" to use the CPU.'
    )
