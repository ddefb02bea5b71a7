"""The training cells of lessons 10 and 11: a plan as a command, and what results/ holds of it."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from lesson_lib.config import REPOSITORY
from lesson_lib.training.recipes import find_recipe

RESULTS = REPOSITORY / "results"


class Plan(NamedTuple):
    """A training on smears: model, recipe and what is changed of it, as `--set` takes it."""

    model: str
    recipe: str
    settings: list[str]


def command_of(plan: Plan, out: str) -> str:
    """The same on the command line, in lines that a page can hold."""
    lines = [
        f"python -m lesson_lib train --data smears --train-split train --out {out}",
        f"--model {plan.model} --recipe {plan.recipe}",
    ]
    changes = [f"--set {setting}" for setting in plan.settings]
    lines += [" ".join(changes[start : start + 4]) for start in range(0, len(changes), 4)]
    return " \\\n    ".join(lines)


def recorded(*words: str) -> list[dict[str, Any]]:
    """Runs in results/detectors.json, then those of a GPU, whose training command holds all the
    words.
    """
    file = RESULTS / "detectors.json"
    runs = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    runs += gpu_runs(RESULTS / "gpu")
    return [run for run in runs if all(word in run["train"] for word in words)]


def gpu_runs(folder: Path) -> list[dict[str, Any]]:
    """The trainings in a folder that benchmarks/gpu_run.py wrote, as results/detectors.json has
    them; none where there is no such folder.
    """
    return [found for found in _of_gpu(folder) if "train" in found]


def gpu_rows(folder: Path | None = None) -> list[str] | None:
    """What a GPU reached of what was asked of it, as rows of a Markdown table: what, found, must,
    aim (– where nothing was asked), and on which GPU; bold: it misses what it must. None where no
    GPU run is recorded.

    folder: as benchmarks/gpu_run.py writes it; None: results/gpu.
    """
    lines = list[str]()
    for found in _of_gpu(RESULTS / "gpu" if folder is None else folder):
        seed = f", seed {found['seed']}" if "seed" in found else ""
        for row in found["rows"]:
            value = row["found"] if isinstance(row["found"], str) else f"{row['found']:,.4g}"
            told = f"**{value}**" if row["holds"] is False else value
            asked = " | ".join("–" if x is None else f"{x:,g}" for x in (row["must"], row["aim"]))
            lines.append(f"| {row['what']}{seed} | {told} | {asked} | {found['machine']} |")
    return lines or None


def _of_gpu(folder: Path) -> list[dict[str, Any]]:
    """What the files of a folder hold, speed first, without trials at toy size."""
    files = sorted(folder.glob("*.json"), key=lambda file: (file.stem[:6] != "speed-", file.stem))
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return [one for one in found if not one["small"]]


def mean_ap(runs: list[dict[str, Any]]) -> float:
    """The mean AP of runs, in percent."""
    return 100 * sum(run["figures"]["AP"] for run in runs) / len(runs)


def results_rows(words: str) -> list[str]:
    """A row of a Markdown table for each recorded training whose command holds `words`: what was
    trained by which recipe, on which pictures it was judged, AP in percent, how often and where.
    """
    runs, rows = recorded(words), list[str]()
    for name in dict.fromkeys(run["name"] for run in runs):
        of = [run for run in runs if run["name"] == name]
        data = of[0]["evaluate"].split("--data ")[1].split()[0]
        rows.append(
            f"| {_short(of[0]['train'])} | {data} test | {mean_ap(of):.1f} | "
            f"{len(of)} seed{'s' * (len(of) > 1)}, {of[0]['machine']} |"
        )
    return rows


def _short(command: str) -> str:
    """A training command as a table can hold it: model, data, recipe, and what else was set."""
    words = command.split()
    of = dict(pairwise(words))
    model, data = of["--model"], of["--data"]
    recipe = of.get("--recipe") or find_recipe(data, of["--budget"], model)
    rest = [word for flag, word in pairwise(words) if flag == "--set"]
    settings = f": {', '.join(rest)}" if rest else ""
    return f"`{model}` on {data} by `{recipe}`{settings}"


def known_about(plan: Plan, budget: str) -> str:
    """AP and minutes of the recorded runs of a plan, from the shortest run's to the longest's; ""
    without any.
    """
    runs = [
        run
        for run in recorded("--data smears", f"--model {plan.model}", *plan.settings)
        if "--data smears" in run["evaluate"]
        and run["train"].count("--set ") == len(plan.settings)
        and (plan.recipe in run["train"] or f"--budget {budget}" in run["train"])
    ]
    if not runs:
        return ""
    minutes = sorted({f"{run['seconds'] / 60:.1f}" for run in runs}, key=float)
    busy = ", beside other work" if any(run.get("busy") for run in runs) else ""
    return (
        f"AP {mean_ap(runs):.1f} in {' to '.join(minutes[:: max(1, len(minutes) - 1)])} minutes, "
        f"mean of {len(runs)} seeds ({runs[0]['machine']}{busy})"
    )
