"""Measure by how much trained numbers keep the bounds that lessons set with `expect`.

    python tools/margins.py run [05 08 ...] [--budget ci]   what results/margins.json still lacks
    python tools/margins.py table                           each bound, the numbers and the margin

Each lesson is run with the seeds 0 to 4, as this machine is and as an x86 processor without AVX
would compute it (see `lab.py test --machine`). Stop it at any time: every finished run is in the
file at once, and the same command goes on. A bound that was moved, or a cell that changed what it
measures, is measured anew with `run --again NN`.
"""

import argparse
import ast
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import lab  # noqa: E402  the settings that lessons are run with, in one place
from lesson_lib.course.bounds import RECORD, UNSEEDED, VARIABLE, recorded  # noqa: E402
from lesson_lib.files import write_whole  # noqa: E402
from tools.notebooks import execute  # noqa: E402

MACHINES = ("native", "default")
SEEDS = range(5)
#: The mean must lie this many standard deviations from the bound, and no run beyond it.
DEVIATIONS = 2


class Bound(NamedTuple):
    """One `expect` of a lesson."""

    name: str
    relation: str
    bound: float


def bounds(path: Path) -> Iterator[Bound]:
    """Every bound that a lesson sets, read off its sources."""
    for cell in nbformat.read(path, 4).cells:
        for node in ast.walk(ast.parse(cell.source)) if cell.cell_type == "code" else ():
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "expect":
                name, _, _, relation, bound = node.args
                yield Bound(*(ast.literal_eval(part) for part in (name, relation, bound)))


def weaknesses(bound: Bound, rows: list[dict[str, Any]]) -> list[str]:
    """One sentence for each reason why the recorded rows do not carry a bound."""
    asked = list(SEEDS)[: 1 if bound.name in UNSEEDED else None]
    rows = [
        row
        for row in rows
        if row["name"] == bound.name and row["budget"] == "ci" and row["seed"] in asked
    ]
    for machine in MACHINES:
        seeds = {row["seed"] for row in rows if row["machine"] == machine}
        if len(seeds) < len(asked):
            return [
                f"{bound.name}: {len(seeds)} of {len(asked)} seeds recorded on {machine}: "
                f"python tools/margins.py run {bound.name[:2]}"
            ]
    values = [row["value"] for row in rows]
    sign = 1 if bound.relation == ">" else -1
    worst = min(sign * (value - bound.bound) for value in values)
    mean = sign * (statistics.mean(values) - bound.bound)
    deviation = statistics.stdev(values)
    found = []
    if worst <= 0:
        found.append(f"{bound.name}: a recorded run breaks {bound.relation} {bound.bound:g}")
    if mean <= DEVIATIONS * deviation:
        found.append(
            f"{bound.name}: its mean lies {mean:.3g} from {bound.bound:g}, and {DEVIATIONS} "
            f"standard deviations are {DEVIATIONS * deviation:.3g}"
        )
    return found


def measure(path: Path, machine: str, seed: int, budget: str) -> list[dict[str, Any]]:
    """Run a lesson and return what its bounds were compared with."""
    settings = lab.REPRODUCIBLE | {"LESSON_BUDGET": budget, "LESSON_DATASETS": "none"}
    settings |= lab.imitation(machine) if machine != "native" else {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bounds.jsonl"
        before = dict(os.environ)
        os.environ |= settings | {VARIABLE: str(file)}
        try:
            execute(path, seed)
        finally:
            os.environ.clear()
            os.environ |= before
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    # The bound stays the lesson's alone: a copy of it here would be wrong once it moves.
    where = {"budget": budget, "machine": machine, "seed": seed}
    return [{"name": row["name"], "value": row["value"]} | where for row in rows]


def run(paths: list[Path], budget: str, again: bool) -> None:
    """Measure what is missing, seed by seed, and write it down after every lesson."""
    if again:
        numbers = {path.name[:2] for path in paths}
        keep([row for row in recorded() if row["name"][:2] not in numbers])
    for seed in SEEDS:
        for machine in MACHINES:
            for path in paths:
                names = {bound.name for bound in bounds(path)}
                done = {
                    row["name"]
                    for row in recorded()
                    if (row["budget"], row["machine"], row["seed"]) == (budget, machine, seed)
                }
                if names <= done:
                    continue
                print(f"{path.name}, {machine}, seed {seed}:", end=" ", flush=True)
                started = time.perf_counter()
                try:
                    rows = measure(path, machine, seed, budget)
                except CellExecutionError as error:  # a bare assertion, which `expect` should be
                    print(error, flush=True)
                    continue
                keep([row for row in recorded() if not same_run(row, rows)] + rows)
                print(f"{time.perf_counter() - started:.0f} s", flush=True)


def same_run(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Was this number measured again?"""
    keys = ("name", "budget", "machine", "seed")
    return any(all(row[key] == other[key] for key in keys) for other in rows)


def keep(rows: list[dict[str, Any]]) -> None:
    """Write the record, a run a line, in an order that does not depend on when it was made."""
    rows = sorted(rows, key=lambda r: (r["name"], r["budget"], r["machine"], r["seed"]))
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_whole(RECORD, f"[\n{lines}\n]\n".encode())


def table(paths: list[Path]) -> None:
    """Print each bound with what was recorded, and whether that carries it."""
    for path in paths:
        for bound in bounds(path):
            values = [row["value"] for row in recorded() if row["name"] == bound.name]
            told = f"{min(values):.3g} to {max(values):.3g}" if values else "nothing recorded"
            state = "; ".join(weaknesses(bound, recorded())) or "carried"
            print(f"{bound.name:<22} {bound.relation} {bound.bound:<6g} {told:<20} {state}")


def main(line: list[str]) -> None:
    """Measure or show the margins of the lessons with these numbers (all without a number)."""
    parser = argparse.ArgumentParser(
        prog="tools/margins.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("lessons", nargs="*", metavar="NN")
    parser.add_argument("--budget", choices=["ci", "laptop"], default="ci")
    parser.add_argument("--again", action="store_true", help="forget what these lessons recorded")
    options = parser.parse_intermixed_args(line)
    paths = [
        path for path in lab.lessons() if path.name[:2] in options.lessons or not options.lessons
    ]
    paths = [path for path in paths if any(bounds(path))]
    if options.command == "run":
        run(paths, options.budget, options.again)
    else:
        table(paths)


if __name__ == "__main__":
    main(sys.argv[1:])
