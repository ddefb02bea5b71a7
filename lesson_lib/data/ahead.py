"""The next batch for a GPU, made by a thread while the one before is trained with."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Step = TypeVar("Step")
Made = TypeVar("Made")


def one_ahead(
    make: Callable[[Step], Made], steps: Iterable[Step], device: torch.device
) -> Iterator[Made]:
    """make(step) of each step in their order; with one that is handed out the next is begun.

    device: a GPU. A single thread makes them, one after the other, and queues the GPU's work in the
    stream that is the caller's when the first is asked for. So a batch is there before what is
    queued afterwards looks at it, and memory that one thread gives back is free for the other.
    What `make` raises is raised where its batch would be handed out.
    """
    stream = torch.cuda.current_stream(device)
    # Of a new thread the current GPU would be the first; set_stream sets it, too.
    with ThreadPoolExecutor(1, "batches", torch.cuda.set_stream, (stream,)) as pool:
        coming: Future[Made] | None = None
        for step in steps:
            before, coming = coming, pool.submit(make, step)
            if before is not None:
                yield before.result()
        if coming is not None:
            yield coming.result()
