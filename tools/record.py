"""Runs that the README reports: train, evaluate once on the test split, write down what came out.

    .venv/bin/python tools/record.py run NAME [NAME ...]   the seeds 0, 1, 2 that are still lacking
    .venv/bin/python tools/record.py seed0 NAME [NAME ...] the same for seed 0 alone
    .venv/bin/python tools/record.py run --busy NAME       where the machine has other work, too
    .venv/bin/python tools/record.py readme                put the table into README.md

A run is chosen on train -> val beforehand; here it is trained on trainval and the test split is
looked at once for each seed. Commands are the ones that anybody would type; NAME is a key of RUNS,
the results go to results/detectors.json. Below them stands what benchmarks/gpu_run.py left in
results/gpu, once a GPU was there.
"""

import json
import statistics
import subprocess
import sys
from datetime import date
from itertools import pairwise
from pathlib import Path

import torch

from lesson_lib.config import hardware
from lesson_lib.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from lesson_lib.course.plans import gpu_rows, gpu_runs  # noqa: E402
from tools.marks import put  # noqa: E402

RESULTS, README = ROOT / "results" / "detectors.json", ROOT / "README.md"
GPU = ROOT / "results" / "gpu"
MARKS = "<!-- results -->", "<!-- end of results -->"
SEEDS = (0, 1, 2)
RUNS = {  # name: (what a reader is told, options of train, options of evaluate)
    "bccd": (
        "BCCD, from scratch",
        "--data bccd --model ssd-tiny --budget laptop",
        "--data bccd --split test",
    ),
    "bccd-bf16": (
        "BCCD, from scratch, on a CPU that calculates in bf16",
        "--data bccd --model ssd-tiny --budget laptop --set precision=bf16 --set epochs=35",
        "--data bccd --split test",
    ),
    "bccd-one-view": (
        "BCCD, from scratch, three negatives and one view",
        "--data bccd --model ssd-tiny --recipe bccd-laptop",
        "--data bccd --split test",
    ),
    "bccd-retinanet": (
        "BCCD, RetinaNet from scratch",
        "--data bccd --model retinanet-tiny --budget laptop",
        "--data bccd --split test",
    ),
    "bccd-retinanet-r50": (
        "BCCD, the whole RetinaNet-R50-FPN from scratch, at 256 px",
        "--data bccd --model retinanet-r50 --train-split train --recipe bccd-laptop-retinanet-tiny "
        "--set pretrained=false --set norm=group --set size=256 --set batch=4 --set epochs=20 "
        "--set lr=1e-3 --set evaluate=5",
        "--data bccd --split test",
    ),
    "bccd-ssd300": (
        "BCCD, the whole SSD300-VGG16 from scratch",
        "--data bccd --model ssd300-vgg16 --train-split train --recipe bccd-laptop "
        "--set pretrained=false --set norm=batch --set size=300 --set batch=4 --set epochs=20 "
        "--set lr=5e-4 --set evaluate=5",
        "--data bccd --split test",
    ),
    "bccd-lite0": (
        "BCCD, from Lite0's ImageNet weights",
        "--data bccd --model ssd-lite0 --budget laptop",
        "--data bccd --split test",
    ),
    "smears": (
        "smears, from scratch",
        "--data smears --model ssd-tiny --budget laptop",
        "--data smears --split test",
    ),
    "smears-retinanet": (
        "smears, RetinaNet from scratch",
        "--data smears --model retinanet-tiny --budget laptop",
        "--data smears --split test",
    ),
    "smears-retinanet-192": (
        "smears, RetinaNet as in lesson 11",
        "--data smears --model retinanet-tiny --train-split train --recipe smears-laptop "
        "--set size=192 --set epochs=24 --set lr=4e-3",
        "--data smears --split test",
    ),
    "smears-to-bccd": (
        "trained on smears alone, tested on BCCD",
        "--data smears --model ssd-tiny --budget laptop",
        "--data bccd --split test",
    ),
    "aquarium": (
        "aquarium, from scratch",
        "--data aquarium --model ssd-tiny --budget laptop",
        "--data aquarium --split test",
    ),
    "aquarium-lite0": (
        "aquarium, from Lite0's ImageNet weights",
        "--data aquarium --model ssd-lite0 --budget laptop",
        "--data aquarium --split test",
    ),
}


def call(arguments: list[str]) -> str:
    """What `python -m lesson_lib ARGUMENTS` prints; a failure ends this program with its words."""
    done = subprocess.run(
        [sys.executable, "-m", "lesson_lib", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"lesson_lib {' '.join(arguments)}: {done.stderr.strip()[-600:]}")
    return done.stdout


def folder_of(train: str, seed: int) -> str:
    """Where a run goes: named by data, model and every change, so that no two recipes share one."""
    words = train.split()
    changes = [word for flag, word in pairwise(words) if "=" in word or flag == "--recipe"]
    return "runs/" + "-".join([words[1], words[3], *changes, str(seed)])


def curve(log: list[dict], points: int = 40) -> dict[str, list[list[float]]]:
    """The losses of a run, thinned to so many means of equal stretches, and what val said on the
    way: {"loss": [[last step, mean], ...], "val AP50": [[step, value], ...]}.
    """
    edges = [round(k * len(log) / points) for k in range(points + 1)]
    stretches = [log[a:b] for a, b in zip(edges, edges[1:]) if b > a]
    loss = [[part[-1]["step"], statistics.mean(r["loss"] for r in part)] for part in stretches]
    judged = [[row["step"], row["AP50"]] for row in log if "AP50" in row]
    return {
        "loss": [[step, round(value, 4)] for step, value in loss],
        "val AP50": [[step, round(value, 4)] for step, value in judged],
    }


def known_runs() -> list[dict]:
    """What has been recorded so far."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def run(names: list[str], seeds: tuple[int, ...] = SEEDS, busy: bool = False) -> None:
    """Makes every missing (name, seed) and appends it to the results, so that nothing is lost.

    busy: the machine had other work meanwhile, so that the seconds say little.
    """
    for name in names:
        _, train, evaluate = RUNS[name]
        for seed in seeds:
            if any((r["name"], r["seed"]) == (name, seed) for r in known_runs()):
                continue
            folder = folder_of(train, seed)
            command = f"train {train} --seed {seed} --out {folder}"
            call(command.split())
            log = [json.loads(line) for line in (ROOT / folder / "log.jsonl").open()]
            seconds = log[-1]["seconds"]
            figures = json.loads(
                call(["evaluate", folder, *evaluate.split(), "--json"]).splitlines()[-1]
            )
            known = known_runs()  # anew: another recorder may have written meanwhile
            known.append(
                {
                    "name": name,
                    "seed": seed,
                    "train": f"python -m lesson_lib {command}",
                    "evaluate": f"python -m lesson_lib evaluate {folder} {evaluate} --json",
                    "seconds": round(seconds),
                    "threads": torch.get_num_threads(),
                    **({"busy": True} if busy else {}),
                    "machine": hardware(),
                    "torch": torch.__version__.split("+")[0],
                    "date": date.today().isoformat(),
                    "figures": {k: round(v, 4) for k, v in figures.items() if isinstance(v, float)},
                    "curve": curve(log),
                }
            )
            write_whole(RESULTS, (json.dumps(known, indent=1) + "\n").encode())
            print(
                name,
                seed,
                f"{seconds:.0f} s",
                known[-1]["figures"]["AP"],
                known[-1]["figures"]["AP50"],
                flush=True,
            )


def table() -> str:
    """Markdown: a row a name, means over seeds with their deviation, and where it was measured;
    then what a GPU reached, where one was.
    """
    known, on_gpu = known_runs(), gpu_runs(GPU)
    rows = [
        _row(told, f"train {train}", [r for r in known if r["name"] == name])
        for name, (told, train, _) in RUNS.items()
        if any(r["name"] == name for r in known)
    ]
    for name in dict.fromkeys(run["name"] for run in on_gpu):
        runs = [run for run in on_gpu if run["name"] == name]
        command = runs[0]["train"].removeprefix("python -m lesson_lib ").partition(" --seed ")[0]
        rows.append(_row(f"{runs[0]['told']}, on a GPU", command, runs))
    return "\n".join([*_with_places(rows, known + on_gpu), *_gpu_table()])


def _row(told: str, command: str, runs: list[dict]) -> str:
    """The row of one training: means over its seeds; and AP50 on val, where it was judged there
    while it trained.
    """
    judged = [r["curve"]["val AP50"][-1][1] for r in runs if r.get("curve", {}).get("val AP50")]
    if judged:
        told += f" (val: AP50 {statistics.mean(judged):.3f})"
    cells = [told, f"`{command}`", str(len(runs))]
    for figure in ("AP", "AP50", "AP75"):
        values = [r["figures"][figure] for r in runs]
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.3f}{spread}")
    alone = " on one core" if any(r.get("threads") == 1 for r in runs) else ""
    busy = ", beside other work" if any(r.get("busy") for r in runs) else ""
    cells.append(f"{statistics.mean(r['seconds'] for r in runs):.0f} s{alone}{busy}")
    return f"| {' | '.join(cells)} |"


def _with_places(rows: list[str], runs: list[dict]) -> list[str]:
    """The rows with their head, and below them where and when they were measured."""
    if not rows:
        return ["No run has been recorded yet."]
    places = []
    for place in sorted({f"{r['machine']}, torch {r['torch']}" for r in runs}):
        days = sorted({r["date"] for r in runs if place == f"{r['machine']}, torch {r['torch']}"})
        places.append(f"{place}, {' and '.join(days)}")
    return [
        "| test split | command | seeds | AP | AP50 | AP75 | training |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        "AP is COCO's, mean over seeds ± standard deviation. Measured on "
        + "; ".join(places)
        + ". Every single run stands in [results/](results/).",
    ]


def _gpu_table() -> list[str]:
    """What a GPU reached of what was asked of it; nothing where none was."""
    rows = gpu_rows(GPU)
    if rows is None:
        return []
    return [
        "",
        "**On a GPU** (`python -m benchmarks.gpu_run`; bold: less than it must be):",
        "",
        "| what | found | must | aim | where |",
        "|---|---|---|---|---|",
        *rows,
    ]


def readme(text: str) -> str:
    """The text of README.md with today's table between its marks."""
    return put(text, MARKS, table())


if __name__ == "__main__":
    wanted = [word for word in sys.argv[2:] if word != "--busy"]
    if sys.argv[1:2] in (["run"], ["seed0"]) and wanted and set(wanted) <= set(RUNS):
        run(wanted, SEEDS if sys.argv[1] == "run" else (0,), busy="--busy" in sys.argv)
    elif sys.argv[1:] == ["readme"]:
        README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        sys.exit(f"{__doc__}\nNames: {', '.join(RUNS)}")
