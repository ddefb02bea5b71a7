"""The papers' ablations, each reduced to three or four settings that a laptop can train.

One command runs all:

    python -m lesson_lib.course.experiments run --budget laptop      every setting over three seeds

Stop it at any time: each finished run is in results/experiments.json at once, and the same command
goes on with those that are missing; the runs that come with the course count as done. `--only NAME`
takes one table or setting, `--seeds` is how many of each (`--first` the first of them), `--most N`
stops after N runs, `--out FILE` writes elsewhere.

FL is arXiv:1708.02002 (COCO), SSD arXiv:1512.02325 (VOC 2007); here a network of under a million
parameters learns small synthetic smears: settings may be compared with each other, never with the
paper's AP. QUESTIONS are the course's own: what they compare has no partner in a paper, and is
judged by differences seed by seed (`paired.py`).
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lesson_lib.anchors import PyramidAnchors
from lesson_lib.config import BUDGETS, CELL_CLASSES, REPOSITORY, hardware
from lesson_lib.course.paired import Seeds
from lesson_lib.data.samples import Sample
from lesson_lib.data.smears import Smears
from lesson_lib.detectors.ohem import OHEMRetinaNet
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSDConfig
from lesson_lib.evaluation import coco_evaluate
from lesson_lib.files import write_whole
from lesson_lib.training.loop import Recipe, predict, train

RESULTS = REPOSITORY / "results" / "experiments.json"
#: Ten seeds more of each setting, which had no part in the choice of a question or of a rate: 3 to
#: 12, and 4 to 13 of the two of RARE whose rate was chosen on seed 0.
NEW_SEEDS = REPOSITORY / "results" / "new_seeds.json"
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
    labels     see `labelled`
    only       the classes that are labelled at all; empty: every class
    way_down   whether the pyramid adds its coarse maps to the finer ones (`NoWayDown`)
    lr         AdamW's learning rate;  batch: pictures a step
    enlarged   pictures are this many times as wide as the budget's
    """

    model: str = "retinanet"
    criterion: dict[str, Any] = field(default_factory=dict)
    scales: int = 3
    ratios: int = 3
    augment: str = "mirror"
    labels: str = "all"
    only: tuple[int, ...] = ()
    way_down: bool = True
    lr: float = 4e-3
    batch: int = 8
    enlarged: float = 1


LOSSES = {"ce": {"gamma": 0, "alpha": 0.75}, "fl": {"gamma": 2.0, "alpha": 0.25}}
RATES = (2.5e-4, 1e-3, 4e-3, 1.6e-2)
#: One object to a picture: white cells alone, in pictures that hold almost three times the anchors.
RARE = {
    f"rare-{loss}-{rate:g}": Setting(
        criterion=criterion, only=(1,), lr=rate, batch=4, enlarged=5 / 3
    )
    for loss, criterion in LOSSES.items()
    for rate in RATES
}
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
    # Once more on a second machine: ce-.10, whose first seeds are its lowest, and fl-2-.25,
    # recorded with the three below, since seeds pair within one recording only.
    "ce-.10-again": Setting(criterion={"gamma": 0, "alpha": 0.1}),
    "fl-2-.25-again": Setting(criterion=LOSSES["fl"]),
    "no-way-down": Setting(criterion=LOSSES["fl"], way_down=False),
    "labels-few": Setting(criterion=LOSSES["fl"], labels="few"),
    "labels-missing": Setting(criterion=LOSSES["fl"], labels="missing"),
    **RARE,
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


#: The settings that stand beside a paper's.
IN_TABLES = frozenset(row[1] for table in TABLES.values() for row in table.rows)
#: The course's own: (label, setting); the first row is what the others are held against.
QUESTIONS = {
    "pyramid": (("with the way down", "fl-2-.25-again"), ("without", "no-way-down")),
    "labels": (
        ("every box", "fl-2-.25-again"),
        ("half of the pictures", "labels-few"),
        ("half of the boxes", "labels-missing"),
    ),
    "rare": tuple((name.removeprefix("rare-"), name) for name in RARE),
}


class NoWayDown(RetinaNet):
    """A RetinaNet with all its weights, whose levels are computed each from its own map alone:
    FPN without the addition (arXiv:1612.03144, section 3).
    """

    def features(self, images: Tensor) -> list[Tensor]:
        maps = self.backbone(images)
        levels = [
            output(lateral(own))
            for own, lateral, output in zip(maps, self.fpn.lateral, self.fpn.output)
        ]
        p6 = self.fpn.p6(maps[-1] if self.fpn.p6_from == "C5" else levels[-1])
        return [*levels, p6, self.fpn.p7(F.relu(p6))]


def labelled(
    samples: Sequence[Sample], labels: str = "all", only: tuple[int, ...] = ()
) -> list[Sample]:
    """What an annotator with less time has left of the labels.

    labels   "all"; "few": every second picture, with all its boxes; "missing": every picture with
             every second of its boxes, counted through all pictures. The last two cost the same.
    only     the classes that are kept; empty: every class
    """
    samples = list(samples)[:: 2 if labels == "few" else 1]
    kept, count = [], 0
    for sample in samples:
        rows = torch.ones(len(sample.labels), dtype=torch.bool)
        if labels == "missing":
            rows = (torch.arange(len(rows)) + count) % 2 == 0
            count += len(rows)
        if only:
            rows &= torch.isin(sample.labels, torch.tensor(only))
        kept.append(replace(sample, **{name: x[rows] for name, x in sample.target().items()}))
    return kept


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
    if setting.model == "ohem":
        return OHEMRetinaNet(config)
    return (RetinaNet if setting.way_down else NoWayDown)(config)


def run(name: str, seed: int, budget: str) -> dict[str, Any]:
    """Train one setting once -> its record: what was run, where and when, the loss of each epoch,
    AP on val.
    """
    setting, (side, many, few, steps, judged) = SETTINGS[name], SIZES[budget]
    side = round(setting.enlarged * side)
    smears = Smears("train", few if setting.model == "ssd" else many, side)
    pictures = labelled(smears, setting.labels, setting.only)
    val = labelled(Smears("val", judged, side), only=setting.only)
    recipe = Recipe(
        epochs=steps * setting.batch // len(pictures),
        batch=setting.batch,
        size=side,
        lr=setting.lr,
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


def by_seed(runs: Sequence[dict[str, Any]], budget: str, figure: str = "AP") -> dict[str, Seeds]:
    """{setting: {seed: its AP}}, in percent as the papers print it, seeds in their order; `paired`
    refuses two settings of two machines.
    """
    found: dict[str, Seeds] = {}
    for record in sorted(runs, key=lambda record: record["seed"]):
        if record["budget"] == budget:
            seeds = found.setdefault(record["setting"], Seeds({}))
            seeds[record["seed"]] = 100 * record[figure]
            machines = {*seeds.recording.split(" and "), record.get("machine", "")} - {""}
            seeds.recording = " and ".join(sorted(machines))
    return found


def aps(runs: Sequence[dict[str, Any]], budget: str, figure: str = "AP") -> dict[str, list[float]]:
    """{setting: its AP for each recorded seed}, in percent as the papers print it."""
    found = by_seed(runs, budget, figure)
    return {setting: list(seeds.values()) for setting, seeds in found.items()}


def rate_chosen(seeds: Mapping[str, Mapping[int, float]], loss: str) -> str:
    """Of RARE's settings of a loss, "ce" or "fl", the one that is best on seed 0: its other seeds
    are those to judge it by, for they had no part in the choice.

    seeds   {setting: {seed: AP}}, as from `by_seed`
    """
    return max(
        (name for name in RARE if name.startswith(f"rare-{loss}-")), key=lambda name: seeds[name][0]
    )


def missing(
    budget: str, only: str = "", seeds: int = 3, file: Path = RESULTS, first: int = 0
) -> list[tuple[str, int]]:
    """(setting, seed) that are not recorded yet, seed by seed;
    `only` names a table or a setting.
    """
    groups = {name: [row[1] for row in table.rows] for name, table in TABLES.items()}
    groups |= {name: [row[1] for row in rows] for name, rows in QUESTIONS.items()}
    groups |= {name: [name] for name in SETTINGS} | {"": list(SETTINGS)}
    if only not in groups:
        raise ValueError(
            f"There is no {only!r}; tables: {', '.join(TABLES)}; questions: "
            f"{', '.join(QUESTIONS)}; settings: {', '.join(SETTINGS)}."
        )
    names = groups[only]
    done = {
        (record["setting"], record["seed"]) for record in read(file) if record["budget"] == budget
    }
    asked = range(first, first + seeds)
    return [(name, seed) for seed in asked for name in names if (name, seed) not in done]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit status 0; 1 with a sentence for a name that does not exist."""
    parser = argparse.ArgumentParser(
        prog="python -m lesson_lib.course.experiments", description="Ablations, small."
    )
    parser.add_argument("action", choices=("run",))
    parser.add_argument("--budget", choices=BUDGETS, default="laptop")
    groups = ", ".join((*TABLES, *QUESTIONS))
    parser.add_argument("--only", default="", metavar="NAME", help=f"one of {groups}, or a setting")
    parser.add_argument("--seeds", type=int, default=3, help="how many of each setting")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--most", type=int, metavar="N", help="stop after N runs")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        left = missing(options.budget, options.only, options.seeds, options.out, options.first)
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    if not left:
        print(
            f"Nothing to train: all these runs are recorded in {options.out}. "
            "To train them anew, name a file of your own: --out mine.json"
        )
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
