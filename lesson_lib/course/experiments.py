"""The papers' ablations, each reduced to three or four settings that a laptop can train.

One command runs all:

    python -m lesson_lib.course.experiments run --budget laptop      every setting over three seeds

Stop it at any time: each finished run is in results/experiments.json at once, and the same command
goes on with those that are missing. `--only NAME` takes one table or setting, `--most N` stops
after N runs, `--out FILE` writes elsewhere. FL is arXiv:1708.02002 (COCO), SSD arXiv:1512.02325
(VOC 2007); here a network of under a million parameters learns small synthetic smears: settings may
be compared with each other, never with the paper's AP.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lesson_lib.anchors import PyramidAnchors
from lesson_lib.config import BUDGETS, CELL_CLASSES, REPOSITORY, hardware
from lesson_lib.data.smears import Smears
from lesson_lib.detectors.ohem import OHEMRetinaNet
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSDConfig
from lesson_lib.evaluation import coco_evaluate
from lesson_lib.files import write_whole
from lesson_lib.training.loop import Recipe, predict, train

RESULTS = REPOSITORY / "results" / "experiments.json"
#: Pixels a side, pictures to train RetinaNet on, and SSD, steps of 8 pictures, pictures to judge
#: by.
SIZES = {
    "ci": (96, 48, 24, 48, 24),
    "laptop": (96, 96, 24, 240, 96),
    "gpu": (256, 512, 64, 4096, 256),
}


@dataclass(frozen=True)
class Setting:
    """What one run trains; all that is not named here is the same in every run.

    model      "retinanet", "ohem" (RetinaNet under OHEM instead of focal loss) or "ssd"
    criterion  options of its loss;  augment: see `data.augment.AUGMENTS`
    scales, ratios   anchors of a position, 1 or 3 of each; of SSD `ratios` alone: 1, 3 or 5, as in
                     SSD's table 2
    """

    model: str = "retinanet"
    criterion: dict[str, Any] = field(default_factory=dict)
    scales: int = 3
    ratios: int = 3
    augment: str = "mirror"


SETTINGS = {
    **{f"ce-.{a:02}": Setting(criterion={"gamma": 0, "alpha": a / 100}) for a in (10, 50, 75, 99)},
    **{
        f"fl-{g}-{a}": Setting(criterion={"gamma": float(g), "alpha": float(a)})
        for g, a in ((".5", ".50"), ("2", ".25"), ("5", ".25"))
    },
    **{f"anchors-{s}x{r}": Setting(scales=s, ratios=r) for s, r in ((1, 1), (3, 1), (1, 3))},
    **{
        f"ohem-{name}": Setting("ohem", {"keep": 128, **options})
        for name, options in {
            ".7": {"nms_threshold": 0.7},
            ".5": {"nms_threshold": 0.5},
            "1:3": {"nms_threshold": 0.5, "ratio": 3.0},
        }.items()
    },
    **{
        f"ssd-{name}": Setting("ssd", ratios=5, augment=augment)
        for name, augment in {
            "none": "none",
            "mirror": "mirror",
            "crop": "crops",
            "full": "ssd",
        }.items()
    },
    **{f"ssd-ratios-{r}": Setting("ssd", ratios=r, augment="ssd") for r in (1, 3)},
}


class Table(NamedTuple):
    """One ablation: rows of (label, name of the setting, the paper's AP or None where it prints
    none).
    """

    source: str
    question: str
    rows: tuple[tuple[str, str, float | None], ...]


TABLES = {
    "ce-alpha": Table(
        "FL table 1a",
        "cross entropy: how heavy shall the positives be?",
        (
            ("CE, α .10", "ce-.10", 0.0),
            ("CE, α .50", "ce-.50", 30.2),
            ("CE, α .75", "ce-.75", 31.1),
            ("CE, α .99", "ce-.99", 28.7),
        ),
    ),
    "focal-gamma": Table(
        "FL table 1b",
        "focal loss: how fast shall the easy ones fade?",
        (
            ("γ 0, α .75", "ce-.75", 31.1),
            ("γ .5, α .50", "fl-.5-.50", 32.9),
            ("γ 2, α .25", "fl-2-.25", 34.0),
            ("γ 5, α .25", "fl-5-.25", 32.2),
        ),
    ),
    "anchors": Table(
        "FL table 1c",
        "how many anchors a position, scales × ratios?",
        (
            ("1 × 1", "anchors-1x1", 30.3),
            ("3 × 1", "anchors-3x1", 31.8),
            ("1 × 3", "anchors-1x3", 32.4),
            ("3 × 3", "fl-2-.25", 34.0),
        ),
    ),
    "ohem": Table(
        "FL table 1d",
        "mine the hard ones, or fade the easy ones?",
        (
            ("OHEM, NMS .7", "ohem-.7", 31.1),
            ("OHEM, NMS .5", "ohem-.5", 32.8),
            ("OHEM 1:3", "ohem-1:3", 31.1),
            ("focal loss", "fl-2-.25", 36.0),
        ),
    ),
    # SSD, section 3.2: others mirror, and so most likely does the row of 65.5, "without more data
    # augmentation". 77.2 (section 3.6) has zoom-out and twice the steps. No row here is the paper's
    # 74.3, all but zoom-out: "crops" has no colours, and flips in both directions.
    "ssd-augment": Table(
        "SSD table 2, section 3.6",
        "what does augmentation buy?",
        (
            ("none", "ssd-none", None),
            ("mirrored", "ssd-mirror", 65.5),
            ("flips, crops", "ssd-crop", None),
            ("all of it", "ssd-full", 77.2),
        ),
    ),
    "ssd-ratios": Table(
        "SSD table 2",
        "which shapes of default boxes?",
        (
            ("1 only", "ssd-ratios-1", 71.6),
            ("1, 2, 1/2", "ssd-ratios-3", 73.7),
            ("all", "ssd-full", 74.3),
        ),
    ),
}


def build(setting: Setting, side: int) -> SSD | RetinaNet:
    """The detector of a setting for pictures of side x side pixels;
    torch's seed draws its weights.
    """
    if setting.model == "ssd":
        config = SSDConfig(num_classes=len(CELL_CLASSES), backbone="tiny-8", image_size=side)
        spec, allowed = SSD(config).spec, (2, 3)[: setting.ratios // 2]
        ratios = tuple(
            tuple(ratio for ratio in usual if ratio in allowed) for usual in spec.aspect_ratios
        )
        return SSD(replace(config, anchors=replace(spec, aspect_ratios=ratios)))
    spec = PyramidAnchors(
        sizes=(12, 24, 48, 96, 192),
        scales=tuple(2 ** (i / 3) for i in range(setting.scales)),
        aspect_ratios=(0.5, 1, 2) if setting.ratios == 3 else (1,),
    )
    config = RetinaNetConfig(
        num_classes=len(CELL_CLASSES), backbone="tiny-8", channels=32, anchors=spec
    )
    return (OHEMRetinaNet if setting.model == "ohem" else RetinaNet)(config)


def run(name: str, seed: int, budget: str) -> dict[str, Any]:
    """Train one setting once -> its record: what was run, where and when, the loss of each epoch,
    AP on val.
    """
    setting, (side, many, few, steps, judged) = SETTINGS[name], SIZES[budget]
    pictures, val = (
        Smears("train", few if setting.model == "ssd" else many, side),
        Smears("val", judged, side),
    )
    recipe = Recipe(
        epochs=steps * 8 // len(pictures),
        batch=8,
        size=side,
        lr=4e-3,
        augment=setting.augment,
        seed=seed,
        criterion=setting.criterion,
    )
    torch.manual_seed(seed)
    gpu = torch.cuda.is_available()
    model = build(setting, side).to("cuda" if gpu else "cpu")
    started, records = time.perf_counter(), list(train(model, pictures, recipe, every=1))
    seconds = time.perf_counter() - started
    found = coco_evaluate(
        predict(model, val, side), [sample.target() for sample in val], len(CELL_CLASSES)
    )
    losses = torch.tensor([record["loss"] for record in records]).reshape(recipe.epochs, -1).mean(1)
    return {
        "setting": name,
        "seed": seed,
        "budget": budget,
        **{k: round(found[k], 4) for k in ("AP", "AP50", "AP75")},
        "per_class": [round(x, 4) if x == x else None for x in found["per_class"]],
        "loss": [round(x, 4) for x in losses.tolist()],
        "steps": len(records),
        "seconds": round(seconds, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{hardware()}, torch {torch.__version__.split('+')[0]}",
        "command": f"python -m lesson_lib.course.experiments run --budget {budget} --only {name}",
    }


def read(file: Path = RESULTS) -> list[dict[str, Any]]:
    """The recorded runs; none where there is no file yet."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def append(record: dict[str, Any], file: Path = RESULTS) -> None:
    """Add one run, a line for each; the file is at no time half written."""
    lines = [json.dumps(one, ensure_ascii=False) for one in [*read(file), record]]
    write_whole(file, ("[\n" + ",\n".join(lines) + "\n]\n").encode())


def aps(runs: Sequence[dict[str, Any]], budget: str, figure: str = "AP") -> dict[str, list[float]]:
    """{setting: its AP for each recorded seed}, in percent as the papers print it."""
    found: dict[str, list[float]] = {}
    for record in sorted(runs, key=lambda record: record["seed"]):
        if record["budget"] == budget:
            found.setdefault(record["setting"], []).append(100 * record[figure])
    return found


def missing(
    budget: str, only: str = "", seeds: int = 3, file: Path = RESULTS
) -> list[tuple[str, int]]:
    """(setting, seed) that are not recorded yet, seed by seed;
    `only` names a table or a setting.
    """
    if only and only not in TABLES and only not in SETTINGS:
        raise ValueError(
            f"There is no {only!r}; tables: {', '.join(TABLES)}; settings: {', '.join(SETTINGS)}."
        )
    names = (
        [row[1] for row in TABLES[only].rows]
        if only in TABLES
        else [only]
        if only
        else list(SETTINGS)
    )
    done = {
        (record["setting"], record["seed"]) for record in read(file) if record["budget"] == budget
    }
    return [(name, seed) for seed in range(seeds) for name in names if (name, seed) not in done]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit status 0; 1 with a sentence for a name that does not exist."""
    parser = argparse.ArgumentParser(
        prog="python -m lesson_lib.course.experiments", description="Ablations, small."
    )
    parser.add_argument("action", choices=("run",))
    parser.add_argument("--budget", choices=BUDGETS, default="laptop")
    parser.add_argument(
        "--only", default="", metavar="NAME", help=f"one of {', '.join(TABLES)}, or a setting"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--most", type=int, metavar="N", help="stop after N runs")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        left = missing(options.budget, options.only, options.seeds, options.out)
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    for number, (name, seed) in enumerate(left[: options.most], 1):
        record = run(name, seed, options.budget)
        append(record, options.out)
        print(
            f"{number} of {len(left)}: {name}, seed {seed}: AP {100 * record['AP']:.1f}, "
            f"{record['seconds']:.0f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
