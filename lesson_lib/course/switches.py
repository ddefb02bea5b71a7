"""What came after RetinaNet, one switch at a time, on BCCD: the runs that lesson 14 reads.

    python -m lesson_lib.course.switches            every switch over three seeds
    python -m lesson_lib.course.switches --most 3   the first three that are missing

Stop it at any time: each finished run is in results/switches.json at once, and the same command
goes on with those that are missing, seed by seed (`--seeds 3 4 5`: of other seeds). These are short
runs of a very small network (SHORT), not a recipe of anybody's: switches may be compared with the
baseline of the same seed, and with nothing else.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from lesson_lib.anchors import PyramidAnchors
from lesson_lib.config import REPOSITORY, hardware
from lesson_lib.course.experiments import append, read
from lesson_lib.course.paired import Difference, paired
from lesson_lib.data.catalog import open_dataset
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.training.loop import evaluate, train
from lesson_lib.training.recipes import Recipe

RESULTS = REPOSITORY / "results" / "switches.json"
SEEDS = (0, 1, 2)
#: Run once a row had been picked from the table of SEEDS, for that row and its parts alone.
FRESH = (3, 4, 5)
BASELINE = "baseline"
#: Of every run: 128 px, 200 steps of 8 pictures; BCCD's train has 205, so that each is seen about
#: eight times.
SHORT = Recipe(
    steps=200,
    batch=8,
    size=128,
    lr=4e-3,
    warmup=0.25,
    augment="flips",
    weight_decay=0.05,
    evaluate=1000,
    inference={"nms_threshold": 0.55},
)
NETWORK = RetinaNetConfig(
    num_classes=3,
    backbone="tiny-8",
    norm="batch",
    channels=32,
    anchors=PyramidAnchors(sizes=(8, 16, 32, 64, 128)),
)


@dataclass(frozen=True)
class Switch:
    """One change to the baseline.

    told     what a reader is told; settings: the same as `--set` of the command line would have it
    config, recipe   fields of `RetinaNetConfig` and `Recipe` that are another
    """

    told: str
    settings: str
    config: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)


_ATSS = {"matcher": "atss"}
_GIOU = {"box_loss": "giou", "loc_weight": 2.0}
SWITCHES = {
    BASELINE: Switch("RetinaNet as in lesson 9 (group norm, P6 from C5, flips)", ""),
    "atss": Switch(
        "ATSS chooses the positives", "criterion.matcher=atss", recipe={"criterion": _ATSS}
    ),
    "giou": Switch(
        "GIoU instead of smooth L1",
        "criterion.box_loss=giou criterion.loc_weight=2",
        recipe={"criterion": _GIOU},
    ),
    "atss-giou": Switch(
        "ATSS and GIoU",
        "criterion.matcher=atss criterion.box_loss=giou criterion.loc_weight=2",
        recipe={"criterion": _ATSS | _GIOU},
    ),
    "plain-heads": Switch("heads without group norm", "head_norm=none", config={"head_norm": None}),
    "p6-p5": Switch("P6 from P5", "p6_from=P5", config={"p6_from": "P5"}),
    "ema": Switch("averaged weights", "ema=.98", recipe={"ema": 0.98}),
    "jitter": Switch(
        "scale jitter, .8 to 1.25", "augment=flips-jitter", recipe={"augment": "flips-jitter"}
    ),
}


def run(name: str, seed: int) -> dict[str, Any]:
    """Train one switch once on BCCD's train -> its record, with the figures on val."""
    switch = SWITCHES[name]
    recipe = replace(SHORT, seed=seed, **switch.recipe)
    torch.manual_seed(seed)
    model = RetinaNet(replace(NETWORK, image_size=recipe.size, **switch.config))
    started = time.perf_counter()
    records = list(train(model, open_dataset("bccd", "train"), recipe))
    seconds = time.perf_counter() - started
    found = evaluate(model, open_dataset("bccd", "val"), recipe)
    return {
        "switch": name,
        "seed": seed,
        **{key: round(found[key], 4) for key in ("AP", "AP50", "AP75")},
        "loss": round(statistics.mean(record["loss"] for record in records[-20:]), 4),
        "steps": len(records),
        "size": recipe.size,
        "seconds": round(seconds, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{hardware()}, torch {torch.__version__.split('+')[0]}",
        "command": "python -m lesson_lib.course.switches",
    }


def missing(
    names: Sequence[str] = (), file: Path = RESULTS, seeds: Sequence[int] = SEEDS
) -> list[tuple[str, int]]:
    """(switch, seed) that are not recorded yet, seed by seed; of all switches, or of `names`."""
    done = {(record["switch"], record["seed"]) for record in read(file)}
    wanted = names or SWITCHES
    return [(name, seed) for seed in seeds for name in wanted if (name, seed) not in done]


def gain(
    records: Sequence[dict[str, Any]],
    name: str,
    figure: str = "AP",
    seeds: Sequence[int] = SEEDS,
) -> Difference:
    """What the switch `name` brings beside the baseline of the same seeds, in points (percent).

    ValueError where fewer than two seeds have both.
    """
    plain, switched = (
        {r["seed"]: 100 * r[figure] for r in records if r["switch"] == which and r["seed"] in seeds}
        for which in (BASELINE, name)
    )
    return paired(plain, switched)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit status 0; 1 with a sentence where BCCD is not there."""
    parser = argparse.ArgumentParser(
        prog="python -m lesson_lib.course.switches", description="Single switches, short runs."
    )
    parser.add_argument("--only", nargs="+", choices=SWITCHES, default=(), metavar="SWITCH")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="SEED")
    parser.add_argument("--most", type=int, metavar="N", help="stop after N runs")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    options = parser.parse_args(arguments)
    left = missing(options.only, options.out, options.seeds)
    for number, (name, seed) in enumerate(left[: options.most], 1):
        try:
            record = run(name, seed)
        except ValueError as error:
            parser.exit(1, f"{error}\n")
        append(record, options.out)
        figures = json.dumps({key: record[key] for key in ("AP", "AP50", "seconds")})
        print(f"{number} of {len(left)}: {name}, seed {seed}: {figures}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
