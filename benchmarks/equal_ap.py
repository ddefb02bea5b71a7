"""Time to equal AP: how long torchvision's SSD trains until it is as good as ours, and the reverse.

    LESSON_DATASETS=DIR python -m benchmarks.equal_ap [--seeds 3] [--every 20] [--out FOLDER]
                                                      [--threads 2] [--small]

Both learn BCCD's train split from scratch and are evaluated on val at the same moments, counted in
seconds of training: what evaluation takes does not count. Theirs is torchvision's SSD class with
its own matching, losses, transform and inference, on the same backbone and the same default boxes,
and trains as its reference scripts train SSD300 (SGD .002 for batches of 32, 120 epochs, a tenth at
80 and 110, weight decay 5e-4, "ssd" augmentation, the first epoch a warm-up from a thousandth); the
rate is scaled with the batch as those scripts ask for. Ours is the recipe bccd-laptop. Both read
their pictures from our feed, so that the difference is the model's and the recipe's alone.

Each training is a file in FOLDER and is not done again; when two of one seed are there, so are
equal_ap.json and equal_ap.svg. --small is the same at toy size, on smears.
"""

import argparse
import json
import math
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD as TheirSSD

from lesson_lib.colours import CURVES
from lesson_lib.config import describe_machine
from lesson_lib.course.plots import STYLE
from lesson_lib.data.catalog import open_dataset
from lesson_lib.data.feed import Feed
from lesson_lib.data.samples import Dataset
from lesson_lib.detectors.ssd import SSD
from lesson_lib.evaluation import coco_evaluate
from lesson_lib.files import write_whole
from lesson_lib.training.loop import evaluate, train
from lesson_lib.training.prediction import Resized
from lesson_lib.training.recipes import MODELS, NAMED, Recipe, build_model

MODEL = "ssd-tiny"
SIDES = ("ours", "theirs")
#: torchvision's reference recipe of SSD300: its rate is for this batch.
RATE, ITS_BATCH, EPOCHS, DROPS = 2e-3, 32, 120, (80, 110)
MUST = 1.8
Judge = Callable[[], dict[str, float]]


class Maps(nn.Module):
    """The maps of one of our SSDs, as torchvision's SSD takes them from a backbone."""

    def __init__(self, ours: SSD):
        super().__init__()
        self.backbone, self.extras = ours.backbone, ours.extras
        self.out_channels = [*ours.backbone.channels, *(extra.channels for extra in ours.layout)]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.backbone(images)
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return OrderedDict((str(level), x) for level, x in enumerate(maps))


def their_model(ours: SSD, size: int) -> TheirSSD:
    """torchvision's SSD on the backbone and with the default boxes of ours; its pictures stay as
    they are, since the backbone normalises.
    """
    spec = ours.anchor_spec(size)
    boxes = DefaultBoxGenerator(
        [list(ratios) for ratios in spec.aspect_ratios], scales=list(spec.scales), clip=spec.clip
    )
    return TheirSSD(
        Maps(ours),
        boxes,
        (size, size),
        ours.config.num_classes + 1,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    )


def their_rate(step: int, epoch: int, batch: int) -> float:
    """The rate of step 0, 1, ... with `epoch` steps in an epoch, as the reference scripts have it:
    in the first epoch (at most 1,000 steps) from a thousandth up, then a tenth after each drop.
    """
    rise = min(1000, epoch - 1)
    share = 0.1 ** sum(step >= drop * epoch for drop in DROPS)
    if step < rise:
        share *= 0.001 + 0.999 * step / rise
    return RATE * batch / ITS_BATCH * share


def their_steps(
    model: TheirSSD, samples: Dataset, recipe: Recipe, epochs: int = EPOCHS
) -> Iterator[None]:
    """Trains torchvision's SSD by its reference recipe, one step at a time."""
    feed = Feed(samples, recipe.size, recipe.batch, recipe.seed, "ssd", stored=recipe.stored_side)
    optimiser = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=5e-4)
    batches = feed.batches()
    for step in range(epochs * len(feed)):
        images, objects = next(batches)
        targets = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in objects]
        for group in optimiser.param_groups:
            group["lr"] = their_rate(step, len(feed), recipe.batch)
        model.train()
        losses = model(list(images), targets)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
        yield


@torch.inference_mode()
def judge_theirs(
    model: nn.Module, seen: Resized, truth: list[dict[str, Tensor]], classes: int
) -> dict[str, Any]:
    """coco_evaluate's figures of what torchvision's SSD finds in the pictures of `seen`."""
    model.eval()
    found = []
    for part in seen.batches(8):
        detections = model([sample.image / 255 for sample, _ in part])
        for (_, size), one in zip(part, detections, strict=True):
            boxes = seen.resizing.restore(one["boxes"], size)
            found.append(one | {"boxes": boxes, "labels": one["labels"] - 1})
    return coco_evaluate(found, truth, classes)


def curve(
    steps: Iterator[Any],
    judge: Judge,
    every: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, float]]:
    """Runs all steps -> rows {"step", "seconds" of the steps alone, "AP", "AP50"}, one whenever
    `every` more seconds have gone, and one at the end.
    """
    rows, spent, due, end = [], 0.0, every, object()
    for number in range(1, 10**9):
        start = clock()
        last = next(steps, end) is end
        spent += clock() - start
        done = number - last
        if (spent >= due or last) and (not rows or rows[-1]["step"] < done):
            figures = judge()
            row = {"step": done, "seconds": round(spent, 2)}
            rows.append(row | {name: float(figures[name]) for name in ("AP", "AP50")})
            due = every * (math.floor(spent / every) + 1)
        if last:
            break
    return rows


def run_one(side: str, seed: int, every: float, small: bool) -> dict[str, Any]:
    """One training of one side, as its file holds it."""
    data, options = ("smears", dict(count=16, size=96)) if small else ("bccd", {})
    samples, val = (open_dataset(data, split, **options) for split in ("train", "val"))
    recipe = replace(NAMED["bccd-laptop"].recipe, seed=seed, evaluate=10**6)
    recipe = replace(recipe, size=96, batch=4, epochs=2) if small else recipe
    torch.manual_seed(seed)
    model = build_model(MODELS[MODEL], len(samples.classes), recipe.size)
    assert isinstance(model, SSD)
    seen = Resized(val, recipe.resizing)
    if side == "ours":
        steps, judge = train(model, samples, recipe), partial(evaluate, model, seen, recipe)
    else:
        theirs = their_model(model, recipe.size).to(memory_format=torch.channels_last)
        steps = their_steps(theirs, samples, recipe, 2 if small else EPOCHS)
        judge = partial(judge_theirs, theirs, seen, val.targets(), len(samples.classes))
    rows = curve(steps, judge, every)
    about = {"side": side, "seed": seed, "data": data, "machine": describe_machine()}
    return about | {"threads": torch.get_num_threads(), "curve": rows}


def first_time(rows: Sequence[dict[str, float]], ap: float) -> float:
    """Seconds until a curve first comes to an AP; inf: never."""
    return next((row["seconds"] for row in rows if row["AP"] >= ap), math.inf)


def compared(ours: Sequence[dict[str, float]], theirs: Sequence[dict[str, float]]) -> dict:
    """When both first come to the highest AP that both come to, and how many times sooner ours."""
    equal = min(max(row["AP"] for row in rows) for rows in (ours, theirs))
    mine, other = first_time(ours, equal), first_time(theirs, equal)
    return {"AP": equal, "ours_s": mine, "theirs_s": other, "ratio": round(other / mine, 2)}


def complete(runs: Sequence[dict[str, Any]]) -> list[int]:
    """The seeds that both sides have done."""
    ours, theirs = ({run["seed"] for run in runs if run["side"] == side} for side in SIDES)
    return sorted(ours & theirs)


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the seeds that both sides have done: each one's comparison, and the median ratio."""
    curves = {(run["side"], run["seed"]): run["curve"] for run in runs}
    found = [
        {"seed": seed} | compared(curves["ours", seed], curves["theirs", seed])
        for seed in complete(runs)
    ]
    ratio = statistics.median(row["ratio"] for row in found)
    return {"ratio": ratio, "must": MUST, "holds": ratio >= MUST, "seeds": found, "runs": runs}


def picture(found: dict[str, Any]) -> Figure:
    """AP on val over seconds of training, every seed of both sides."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.subplots()
        looks = {"ours": (CURVES["one"], "-", "o"), "theirs": (CURVES["two"], "--", "s")}
        names = {"ours": "ours, bccd-laptop", "theirs": "torchvision's SSD, its reference recipe"}
        for run in found["runs"]:
            colour, dash, marker = looks[run["side"]]
            x, y = ([row[name] for row in run["curve"]] for name in ("seconds", "AP"))
            label = names.pop(run["side"], None)
            axes.plot(x, y, dash, color=colour, marker=marker, markersize=3, label=label)
        axes.set(xlabel="seconds of training", ylabel="AP on val", xlim=(0, None), ylim=(0, None))
        axes.set_title(f"The same AP {found['ratio']:g} times sooner (median of the seeds)")
        axes.legend(loc="lower right")
    return figure


def write_summary(folder: Path) -> dict[str, Any] | None:
    """equal_ap.json and equal_ap.svg of what is in the folder; None where no seed is complete."""
    files = sorted(folder.glob("*-[0-9]*.json"))
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if not complete(runs):
        return None
    found = summary(runs)
    write_whole(folder / "equal_ap.json", json.dumps(found, indent=1).encode())
    alt = "AP on BCCD's val over seconds of training, ours and torchvision's SSD, every seed."
    picture(found).savefig(folder / "equal_ap.svg", metadata={"Title": alt, "Date": None})
    return found


def main(arguments: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.equal_ap", description=__doc__.partition("\n")[0]
    )
    p.add_argument("--out", type=Path, default=Path("results/equal_ap"))
    p.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    p.add_argument("--every", type=float, default=20.0, help="seconds between two evaluations")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--small", action="store_true")
    args = p.parse_args(arguments)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for side in SIDES:
            file = args.out / f"{side}-{seed}.json"
            if file.exists():
                continue
            done = run_one(side, seed, args.every, args.small)
            write_whole(file, json.dumps(done, indent=1).encode())
            best = max(row["AP"] for row in done["curve"])
            print(f"{file.name}: AP {best:.3f} in {done['curve'][-1]['seconds']:.0f} s", flush=True)
        found = write_summary(args.out)
        if found:
            row = found["seeds"][-1]
            print(f"seed {seed}: AP {row['AP']:.3f} {row['ratio']} times sooner", flush=True)


if __name__ == "__main__":
    main()
