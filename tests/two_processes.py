"""How the tests start two processes under torchrun: on the CPU, also where there is a GPU.

One GPU has no room for a second process, and on two the run would be another.
"""

import os
import sys

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--nproc-per-node=2", "--standalone"),
)


def environment(**more: str) -> dict[str, str]:
    """This process's, with one thread each and without GPUs, and with `more`."""
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | more
