"""What a busy neighbour costs: the same work in fresh processes, quiet and beside a busy core.

    python -m benchmarks.neighbour [--rounds 3] [--only loss,step,lesson] [--out FILE]

Each process chooses its threads at its start, as the command line and every lesson do
(lesson_lib/threads.py), after the neighbour has begun. Quiet and busy take turns; a figure is the
median over the rounds, and `ratio` is busy by quiet: at most 1.6 is asked. `free` is the quiet time
with the number of threads left to torch and its default way of waiting, so quiet / free says what
the settings cost where nobody disturbs: at most 1.05 is asked. Say what machine it was measured on,
and that nothing else ran: the figures are worth as much as its silence. FILE keeps the records of
other machines and days; rows measured again on one day replace those before.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lesson_lib.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
MUST_BUSY, MUST_QUIET = 1.6, 1.05


def loss() -> float:
    """ms of RetinaNet's loss, forward and backward, of two pictures with 49,104 anchors."""
    import torch

    from lesson_lib.losses import retinanet_loss

    torch.manual_seed(0)
    anchors, classes = 49_104, 20
    logits = (torch.randn(2, anchors, classes) - 4).requires_grad_()
    deltas = torch.randn(2, anchors, 4, requires_grad=True)
    label = (torch.rand(2, anchors) < 0.001).to(torch.int8)
    classes_of, offsets = torch.randint(classes, (2, anchors)), torch.randn(2, anchors, 4)

    def once() -> None:
        found = retinanet_loss(logits, deltas, classes_of, offsets, label)
        torch.autograd.grad(sum(found.values()), (logits, deltas))

    return median_ms(once, 15)


def step() -> float:
    """ms of a training step of ssd-tiny with eight smears of 288 px."""
    import torch

    from lesson_lib.data.smears import draw_smear
    from lesson_lib.training.loop import train
    from lesson_lib.training.recipes import MODELS, Recipe, build_model

    torch.manual_seed(0)
    smears = [draw_smear(0, i, size=288) for i in range(16)]
    recipe = Recipe(epochs=8, batch=8, size=288)
    moments = [
        time.perf_counter() for _ in train(build_model(MODELS["ssd-tiny"], 3, 288), smears, recipe)
    ]
    return 1e3 * statistics.median(b - a for a, b in zip(moments[2:], moments[3:]))


def lesson() -> float:
    """ms of lesson 4's cells at `ci`, in a kernel as the tests run it."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(next(ROOT.glob("notebooks/04_*.ipynb")), as_version=4)
    started = time.perf_counter()
    NotebookClient(
        book, timeout=600, resources={"metadata": {"path": ROOT / "notebooks"}}
    ).execute()
    return 1e3 * (time.perf_counter() - started)


WORK = {"loss": loss, "step": step, "lesson": lesson}


def median_ms(work: Callable[[], Any], rounds: int) -> float:
    """Median duration of a call, ms; the first three are not counted."""
    spent = []
    for _ in range(rounds + 3):
        start = time.perf_counter()
        work()
        spent.append(1e3 * (time.perf_counter() - start))
    return statistics.median(spent[3:])


def in_a_process(name: str, busy: bool, free: bool) -> float:
    """ms that the work says in a process of its own."""
    from benchmarks.timing import busy_core

    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    env |= {"LESSON_BUDGET": "ci", "LESSON_DATASETS": "none"}
    if free:
        import torch

        env |= {"OMP_NUM_THREADS": str(torch.get_num_threads()), "GOMP_SPINCOUNT": ""}
    with busy_core() if busy else nullcontext():
        time.sleep(0.5)
        command = [sys.executable, "-m", "benchmarks.neighbour", "--work", name]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout.splitlines()[-1])


def compare(name: str, rounds: int) -> dict[str, Any]:
    """One kind of work, quiet and busy in turns, as a record.

    {"name", "rounds", "quiet_ms", "busy_ms", "free_ms", "ratio", "cost", "holds"}
    """
    found: dict[str, list[float]] = {"quiet": [], "busy": [], "free": []}
    for _ in range(rounds):
        for kind, times in found.items():
            times.append(in_a_process(name, kind == "busy", kind == "free"))
    quiet, busy, free = (statistics.median(times) for times in found.values())
    return {
        "name": name,
        "rounds": rounds,
        "quiet_ms": round(quiet, 1),
        "busy_ms": round(busy, 1),
        "free_ms": round(free, 1),
        "ratio": round(busy / quiet, 2),
        "cost": round(quiet / free, 2),
        "holds": busy / quiet <= MUST_BUSY and quiet / free <= MUST_QUIET,
    }


def keep(path: Path, machine: str, date: str, rows: list[dict[str, Any]]) -> None:
    """Write rows into the record of this machine and day, beside those of others.

    path   a list of {"machine", "date", "rows"}; made if it is not there
    """
    records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    today = {"machine": machine, "date": date}
    before = [record for record in records if today.items() <= record.items()]
    others = [record for record in records if record not in before]
    found = {row["name"]: row for record in before for row in record["rows"]}
    found |= {row["name"]: row for row in rows}
    records = [*others, today | {"rows": list(found.values())}]
    write_whole(path, (json.dumps(records, indent=1) + "\n").encode())


def main() -> None:
    """Measure what was asked, print a line for each and write --out."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.neighbour", description=__doc__)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--only", default=",".join(WORK))
    p.add_argument("--out", type=Path)
    p.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    asked = p.parse_args()
    if asked.work:
        from lesson_lib.threads import leave_busy_cores, prepare

        prepare()
        if asked.work != "lesson":  # its kernel chooses for itself
            leave_busy_cores()
        print(WORK[asked.work]())
        return
    rows = []
    for name in asked.only.split(","):
        rows.append(compare(name, asked.rounds))
        print(json.dumps(rows[-1]), flush=True)
    if asked.out:
        from lesson_lib.config import hardware

        keep(asked.out, hardware(), f"{datetime.now(UTC):%Y-%m-%d}", rows)


if __name__ == "__main__":
    main()
