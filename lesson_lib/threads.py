"""How torch's threads wait for each other: set before torch is loaded, so this imports none of it.

torch's wheels for Linux bring libgomp, whose threads wait by spinning, very long by default. Beside
a busy program that takes the time which the late thread needs. Measured on two cores, one of them
kept busy: with 10,000 turns a training step and RetinaNet's loss take on average 15 % less than
with the default, and on a quiet machine as long; with 1,000 or none the quiet machine suffers. Two
threads beside a busy program still take about twice as long as alone, since torch deals the work
out in equal parts: where that is the usual state of a machine with two cores, OMP_NUM_THREADS=1 is
faster.
"""

import os
from collections.abc import MutableMapping

SETTINGS = {"GOMP_SPINCOUNT": "10000"}
#: Whoever has said how threads wait, has said it.
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Puts SETTINGS into the environment, unless its owner has chosen something else."""
    if not any(name in environment for name in CHOICES):
        environment.update(SETTINGS)
