"""How the tests start two processes under torchrun: on the CPU, also where there is a GPU.

One GPU has no room for a second process, and on two the run would be another.
"""

import os
import subprocess
import sys

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--nproc-per-node=2", "--standalone"),
)


def environment(**more: str) -> dict[str, str]:
    """This process's, with one thread each and without GPUs, and with `more`."""
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | more


def run_two(*arguments: str, timeout: float) -> tuple[int, str]:
    """The exit status of two processes of a script, and what they say on standard error."""
    with subprocess.Popen(
        [*TORCHRUN, *arguments],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            _, errors = running.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:  # they wait for each other
            running.terminate()  # torchrun ends them, where a kill would leave them
            _, errors = running.communicate()
    return running.returncode, errors
