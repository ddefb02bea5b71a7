"""`train`: a detector, and going on with a stopped run."""

import argparse
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from lesson_lib.cli.choosing import add_choice, choose
from lesson_lib.cli.memory import fits
from lesson_lib.cli.opening import add_reading, open_for_training, reading
from lesson_lib.config import budget
from lesson_lib.training import checkpoints, runs
from lesson_lib.training.distributed import (
    broadcast,
    norm_note,
    processes,
    rank_and_world,
)
from lesson_lib.training.loop import train
from lesson_lib.training.recipes import (
    Config,
    Recipe,
    build_model,
    from_scratch,
    with_weights,
)
from lesson_lib.training.step import half_note
from lesson_lib.training.tensorboard import to_tensorboard
from lesson_lib.training.warm_start import Source, read_source, take_weights


def add_train(commands) -> None:
    """train --data DATA --out RUN [--model M] [--budget B | --recipe R] [--set FIELD=VALUE ...]"""
    command = commands.add_parser(
        "train", help="train a detector; the same command goes on with a stopped run"
    )
    command.add_argument(
        "--data",
        required=True,
        help="a name of `data list`, voc:DIR, coco:ANNOTATIONS.json or yolo:DIR",
    )
    command.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder of the run")
    add_choice(command, "LESSON_BUDGET, else gpu with CUDA, else laptop")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--train-split", help="default: trainval where there is one, else train")
    command.add_argument(
        "--val-split", help="evaluated while training; default: val where train is learnt"
    )
    add_reading(command)
    command.add_argument(
        "--init",
        metavar="NAME|RUN|FILE",
        help="begin with these weights, whatever their classes: of a detector that comes with the "
        "package, a run, a file of torchvision's",
    )
    command.add_argument(
        "--norm", choices=("frozen", "batch", "group"), help="short for --set norm=..."
    )
    _add_keeping(command)
    command.set_defaults(run=run_training)


def _add_keeping(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--save-every",
        type=_count,
        default=0,
        metavar="N",
        help="steps; default: each epoch, on a GPU those after 20 steps and those that evaluate",
    )
    command.add_argument(
        "--minutes",
        type=_minutes,
        metavar="N",
        help="after so many minutes the state is saved and the training stops; the same command "
        "goes on with it",
    )
    command.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="stop after N evaluations without a better AP; short for --set patience=N",
    )
    command.add_argument(
        "--tensorboard", action="store_true", help="curves for it too, in RUN/tensorboard"
    )


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps; give 1 or more")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 <= minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes; give 0 or more")
    return minutes


def run_training(options: argparse.Namespace) -> int:
    time_is_up = _clock(options.minutes)
    source = read_source(options.init) if options.init else None
    name, config, recipe, settings = chosen(options, source)
    read = reading(options, options.data)
    opened = open_for_training(
        options.data, options.train_split, options.val_split, recipe.stored_side, **read
    )
    samples, split = opened.samples, opened.split
    with processes(shapes=len(recipe.resizing.canvases())) as device, fits(recipe):
        note = ""
        if source is None:
            config, recipe, note = broadcast(_weights(options.out, config, recipe, settings))
        about = runs.describe(options.data, split, samples, name, config, recipe)
        about |= {"reading": read} | ({"init": options.init} if source else {})
        runs.begin(options.out, about)
        torch.manual_seed(recipe.seed)
        model = build_model(config, len(samples.classes), recipe.size).to(device)
        if source is not None:
            note = take_weights(model, source, samples.classes)
        costly = norm_note(model), half_note(recipe.precision, device)
        opened.notes += [line for line in (note, *costly) if line]
        last = options.out / checkpoints.LAST
        records = train(
            model, samples, recipe, opened.val, last, options.save_every, stop=time_is_up
        )
        if rank_and_world()[0] > 0:
            deque(records, maxlen=0)  # the first process speaks for all
            return 0
        print(f"{name} on {options.data} {split}, {len(samples)} pictures\n{recipe}", flush=True)
        print("".join(f"{note}\n" for note in opened.notes), end="", flush=True)
        records = runs.logged(records, options.out, about)
        if options.tensorboard:
            records = to_tensorboard(records, options.out)
        trained = deque(shown(records), maxlen=1)
    stopped = time_is_up is not None and time_is_up()
    _finish(options.out, trained[0] if trained else None, stopped)
    return 0


def _clock(minutes: float | None) -> Callable[[], bool] | None:
    """Says whether so many minutes have passed since it was made; None: it is never asked."""
    if minutes is None:
        return None
    end = time.monotonic() + 60 * minutes
    return lambda: time.monotonic() > end


def _weights(
    folder: Path, config: Config, recipe: Recipe, settings: list[str]
) -> tuple[Config, Recipe, str] | None:
    """As `with_weights`, in the first process, whose word counts; a run that goes on keeps its own.

    One that began from scratch does not become another because there is a network now.
    """
    if rank_and_world()[0] > 0:
        return None
    if runs.began_from_scratch(folder) and not any("pretrained=" in word for word in settings):
        names = {word.partition("=")[0] for word in settings}
        return *from_scratch(config, recipe, names), ""
    return with_weights(config, recipe, settings)


def chosen(
    options: argparse.Namespace, source: Source | None
) -> tuple[str, Config, Recipe, list[str]]:
    """Name and config of the model, and the recipe, as the options have it; all FIELD=VALUE."""
    settings = options.settings + ([f"norm={options.norm}"] if options.norm else [])
    settings += [] if options.patience is None else [f"patience={options.patience}"]
    return *choose(options, budget(), settings, options.seed, source), settings


def _finish(folder: Path, last: dict | None, stopped: bool) -> None:
    """Keeps the thresholds that were chosen on val, and says what there is now.

    stopped: by the clock.
    """
    thresholds = runs.thresholds_of_log(folder)
    runs.keep_thresholds(folder, thresholds)
    if last and last["step"] < last["steps"]:
        why = "the time is up; the same command goes on" if stopped else "AP on val rose no more"
        print(f"Stopped after step {last['step']} of {last['steps']}: {why}.")
    for name, found in thresholds.items():
        print(
            f"{name}.pt: F1 on val is highest, {found['F1']:.3f}, with detections that score over "
            f"{found['threshold']:.3f}; predict takes these where it gets no --score."
        )
    done = "Trained" if last else "Was trained before"
    print(f"{done}: python -m lesson_lib evaluate {folder}")


def shown(records: Iterable[dict]) -> Iterator[dict]:
    """A bar with the time left; a line for each evaluation, and each tenth where nobody watches."""
    bar, before = None, 0
    for record in records:
        step, steps = record["step"], record["steps"]
        if bar is None:
            bar, before = tqdm(total=steps, initial=step - 1, unit="step", disable=None), step - 1
        bar.update(step - before)
        bar.set_postfix(loss=f"{record['loss']:.3f}", epoch=record["epoch"])
        if "AP" in record or (bar.disable and step * 10 // steps > before * 10 // steps):
            figures = ", ".join(
                f"{key} {record[key]:.3f}"
                for key in ("loss", "val_loss", "AP", "AP50", "AP75")
                if key in record
            )
            bar.write(f"step {step}/{steps}, {record['seconds']:.0f} s: {figures}", file=sys.stdout)
        before = step
        yield record
    if bar is not None:
        bar.close()
