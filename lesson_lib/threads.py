"""How many threads torch takes, and how they wait for each other; loads no torch itself.

torch's wheels for Linux bring libgomp, whose threads wait by spinning, very long by default. Beside
a busy program that takes the time which the late thread needs. Measured on two cores, one of them
kept busy: with 10,000 turns a training step and RetinaNet's loss take on average 15 % less than
with the default; with 1,000 or none a quiet machine suffers. Two threads beside a busy program
still take about twice as long as alone, since torch deals the work out in equal parts and waits for
the last. One thread fewer than that does not: so whoever starts beside busy programs leaves them
their cores. That was measured by `python -m benchmarks.neighbour` (results/neighbour.json, a record
for each machine): beside a busy core the loss and a step take 1.4 to 1.7 times their quiet time,
which is what one thread takes for the work of two, and a whole lesson 1.1 to 1.2 times; three or
four threads that sleep while they wait were no faster. OMP_NUM_THREADS=N is obeyed, and makes
results independent of what else was running.
"""

import os
import sys
from collections.abc import MutableMapping

import psutil

SETTINGS = {"GOMP_SPINCOUNT": "10000"}
#: Whoever has said how threads wait, has said it.
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
NUMBER = "OMP_NUM_THREADS"


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Puts SETTINGS into the environment, unless its owner has chosen something else.

    To be called before torch is loaded.
    """
    if not any(name in environment for name in CHOICES):
        environment.update(SETTINGS)


def idle_cores(seconds: float = 0.2) -> int:
    """Cores that no program keeps busy, looked at for so long; at least 1."""
    shares = psutil.cpu_percent(interval=seconds, percpu=True)
    return max(1, round(len(shares) - sum(shares) / 100))


def leave_busy_cores(environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets torch take fewer threads where other programs keep cores busy, unless NUMBER is set.

    It may be loaded already; if it is not, NUMBER is written into the environment.
    """
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    if NUMBER in environment or (idle := idle_cores()) >= cores:
        return
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(min(idle, sys.modules["torch"].get_num_threads()))
    else:
        environment[NUMBER] = str(idle)
