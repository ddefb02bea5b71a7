"""What a lesson may rely on after a training: a number, the bound that it must keep, and how far it
lay from it.

A trained number moves with the seed and the processor, so a lesson asserts a bound and shows the
number beside it. The bounds are no guesses: `tools/margins.py` runs the lessons with several seeds
on imitated machines and writes every number into results/margins.json, and a test holds each bound
against what is recorded there.
"""

import json
import os
import statistics
from typing import Any

from lesson_lib.config import REPOSITORY, budget

RECORD = REPOSITORY / "results" / "margins.json"
#: Names the file that numbers are appended to, a JSON object a line; then no bound stops the
#: lesson.
VARIABLE = "LESSON_BOUNDS"
RELATIONS = {">": "more than", "<": "less than"}
#: Bounds on what no seed of the kernel reaches: their first seed alone counts, on both machines.
UNSEEDED = {
    "11.two_processes": "torchrun's two processes draw their own weights, so only seed 0 compares.",
}


def expect(name: str, what: str, value: float, relation: str, bound: float) -> None:
    """Print a trained number and the bound it must keep; AssertionError if it does not.

    name      "NN.what_it_is", once in a lesson;  what  the words printed before the number
    relation  ">" or "<": `value` must be strictly more, or less, than `bound`
    """
    if relation not in RELATIONS:
        raise ValueError(f"The relation of {name} is {relation!r}; it can be '>' or '<'.")
    value = float(value)
    kept = value > bound if relation == ">" else value < bound
    print(f"{what}: {shown(value)} (asked: {RELATIONS[relation]} {bound:g}{spread(name)})")
    if file := os.environ.get(VARIABLE):
        row = {"name": name, "value": value, "relation": relation, "bound": bound}
        with open(file, "a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
    elif not kept:
        raise AssertionError(
            f"{what} is {value:.6g}, and the lesson relies on {RELATIONS[relation]} {bound:g}."
        )


def shown(value: float) -> str:
    """Three significant digits without an exponent, as far as a lesson's numbers go."""
    if abs(value) >= 1e3:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 1e-4 or value == 0 else f"{value:.3g}"


def recorded() -> list[dict[str, Any]]:
    """Every number that tools/margins.py has written down, with name, budget, machine and seed."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else []


def spread(name: str) -> str:
    """Words for the mean and the standard deviation of the recorded runs at this budget; "" without
    any, and where seeds are no repetitions."""
    if name in UNSEEDED:
        return ""
    rows = [row for row in recorded() if row["name"] == name and row["budget"] == budget()]
    if len(rows) < 2:
        return ""
    values = [row["value"] for row in rows]
    seeds = len({row["seed"] for row in rows})
    return (
        f"; {seeds} seeds gave {shown(statistics.mean(values))} "
        f"\u00b1 {shown(statistics.stdev(values))}"
    )
