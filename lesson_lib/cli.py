"""The command line, `python -m lesson_lib COMMAND`; each command is one add_... function below."""
import argparse
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from tqdm import tqdm

from lesson_lib.breakdown import class_table, counting_table, error_costs, error_counts, judge
from lesson_lib.config import BUDGETS, budget
from lesson_lib.data import catalog
from lesson_lib.data.annotated import read_picture
from lesson_lib.data.inspect import inspect_dataset
from lesson_lib.data.samples import Sample
from lesson_lib.data.voc import ENDINGS
from lesson_lib.evaluation import coco_evaluate
from lesson_lib.training import runs
from lesson_lib.training.checkpoints import write_whole
from lesson_lib.training.distributed import processes, rank_and_world
from lesson_lib.training.loop import ground_truth, predict, train
from lesson_lib.training.recipes import MODELS, NAMED, build_model, find_recipe, overridden

COLOURS = ("#D55E00", "#0072B2", "#CC79A7", "#009E73", "#E69F00", "#56B4E9", "#F0E442")     # as in plots


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Exit status 0; 1 for problems found or an error, told in a sentence; 2 for misuse."""
    parser = argparse.ArgumentParser(prog="python -m lesson_lib", description="One-stage object detection.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_train(commands)
    add_evaluate(commands)
    add_predict(commands)
    add_data(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (OSError, ValueError, ImportError) as error:         # what the package raises for its user is one sentence
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on with a download or a training from where it is.", file=sys.stderr)
        return 130


def add_train(commands) -> None:
    """train --data DATA --out RUN [--model M] [--budget B | --recipe R] [--seed N] [--set FIELD=VALUE ...]"""
    command = commands.add_parser("train", help="train a detector; the same command goes on with a stopped run")
    command.add_argument("--data", required=True, help="a name of `data list`, voc:DIR or coco:ANNOTATIONS.json")
    command.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder of the run")
    command.add_argument("--model", choices=MODELS, help="default: the recipe's")
    command.add_argument("--budget", choices=BUDGETS, help="default: LESSON_BUDGET, else gpu with CUDA, else laptop")
    command.add_argument("--recipe", choices=NAMED, metavar="NAME", help=f"instead of a budget: {', '.join(NAMED)}")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--train-split", help="default: trainval where there is one, else train")
    command.add_argument("--val-split", help="evaluated while training; default: val with --train-split train")
    command.add_argument("--norm", choices=("frozen", "batch", "group"), help="short for --set norm=...")
    command.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="settings",
                         help="any field of the recipe or the model, as often as needed")
    command.set_defaults(run=run_training)


def run_training(options: argparse.Namespace) -> int:
    name, recipe = NAMED[options.recipe or find_recipe(options.data, options.budget or budget(), options.model)]
    name = options.model or name
    settings = options.settings + ([f"norm={options.norm}"] if options.norm else [])
    config, recipe = overridden(MODELS[name], replace(recipe, seed=options.seed), settings)
    samples, split = open_for_training(options.data, options.train_split)
    val_split = options.val_split or ("val" if split == "train" == options.train_split else None)
    val = catalog.open_dataset(options.data, val_split) if val_split else None
    about = {"data": options.data, "split": split, "classes": samples.classes, "model": name, "settings": settings,
             "config": repr(config), "recipe": asdict(recipe)}
    with processes() as device:
        runs.begin(options.out, about)
        torch.manual_seed(recipe.seed)
        model = build_model(config, len(samples.classes), recipe.size).to(device)
        records = train(model, samples, recipe, val, options.out / runs.LAST)
        if rank_and_world()[0] > 0:
            deque(records, maxlen=0)                                # the first process speaks for all
            return 0
        print(f"{name} on {options.data} {split}, {len(samples)} pictures\n{recipe}", flush=True)
        trained = deque(shown(runs.logged(records, options.out)), maxlen=1)
    print(f"{'Trained' if trained else 'Was trained before'}: python -m lesson_lib evaluate {options.out}")
    return 0


def open_for_training(data: str, split: str | None) -> tuple[Sequence[Sample], str]:
    """The split, or, where none is named, trainval if the data set has it, else train."""
    if split is None:
        try:
            return catalog.open_dataset(data, "trainval"), "trainval"
        except ValueError:
            split = "train"
    return catalog.open_dataset(data, split), split


def shown(records: Iterable[dict]) -> Iterator[dict]:
    """A bar with the time left; a line for each evaluation, and where nobody watches for each tenth too."""
    bar = None
    for record in records:
        step, steps = record["step"], record["steps"]
        if bar is None:
            bar, before = tqdm(total=steps, initial=step - 1, unit="step", disable=None), step - 1
        bar.update(step - before)
        bar.set_postfix(loss=f"{record['loss']:.3f}", epoch=record["epoch"])
        if "AP" in record or (bar.disable and step * 10 // steps > before * 10 // steps):
            figures = ", ".join(f"{key} {record[key]:.3f}" for key in ("loss", "AP", "AP50", "AP75") if key in record)
            bar.write(f"step {step}/{steps}, {record['seconds']:.0f} s: {figures}", file=sys.stdout)
        before = step
        yield record
    if bar is not None:
        bar.close()


def add_evaluate(commands) -> None:
    """evaluate RUN --data DATA [--split test] [--json]"""
    command = commands.add_parser("evaluate", help="AP and the rest of a run, and what went wrong")
    command.add_argument("folder", type=Path, metavar="RUN")
    command.add_argument("--data", help="default: what it was trained on")
    command.add_argument("--split", default="test")
    command.add_argument("--json", action="store_true", help="one line with everything")
    command.set_defaults(run=run_evaluation)


def run_evaluation(options: argparse.Namespace) -> int:
    with processes() as device:
        model, recipe, about = runs.load(options.folder, device)
        data, classes = options.data or about["data"], about["classes"]
        samples = catalog.open_dataset(data, options.split)
        if list(samples.classes) != classes:
            raise ValueError(f"The run knows classes {', '.join(classes)}, {data} has {', '.join(samples.classes)}: "
                             "evaluate it on pictures with its own classes.")
        predictions, targets = predict(model, samples, recipe.size, **recipe.inference), ground_truth(samples)
        if rank_and_world()[0] > 0:
            return 0
    figures, judged = coco_evaluate(predictions, targets, len(classes)), judge(predictions, targets)
    means = {key: value for key, value in figures.items() if isinstance(value, float)}
    rows, counts = class_table(figures, classes), counting_table(predictions, targets, classes)
    cost = error_costs(judged, len(classes))
    if options.json:
        report = means | {"classes": rows, "counting": counts, "errors": error_counts(judged, classes), "cost": cost,
                          "data": data, "split": options.split, "pictures": len(samples), "step": about["step"]}
        print(json.dumps(json.loads(json.dumps(report), parse_constant=lambda _: None)))       # JSON knows no NaN
        return 0
    print("  ".join(f"{key} {value:.3f}" for key, value in means.items()))
    for row, count in zip(rows, counts):
        print(f"{row['class']:14} AP {row['AP']:.3f}  AP50 {row['AP50']:.3f}  F1 {row['F1']:.3f} at {row['score']:.2f};"
              f" at .5 {count['predicted']} counted of {count['annotated']}, off by {count['MAE']:.2f} a picture")
    print("AP50 would gain without these errors:  " + "  ".join(f"{k} {v:.3f}" for k, v in cost.items() if k != "AP"))
    return 0


def add_predict(commands) -> None:
    """predict RUN PICTURES... --out DIR [--score S]"""
    command = commands.add_parser("predict", help="find objects: pictures with boxes, and COCO JSON")
    command.add_argument("folder", type=Path, metavar="RUN")
    command.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="files, or folders of them")
    command.add_argument("--out", required=True, type=Path, metavar="DIR")
    command.add_argument("--score", type=float, default=0.4, help="lowest score of a box, default .4")
    command.set_defaults(run=run_prediction)


def run_prediction(options: argparse.Namespace) -> int:
    model, recipe, about = runs.load(options.folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    images, annotations = [], []
    options.out.mkdir(parents=True, exist_ok=True)
    files = [file for path in options.pictures for file in (sorted(path.iterdir()) if path.is_dir() else [path])
             if file == path or file.suffix in ENDINGS]
    for number, file in enumerate(files):
        sample = Sample(read_picture(file), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        p = predict(model, [sample], recipe.size, **recipe.inference | {"score": options.score})[0]
        rows = list(zip(*(p[name].tolist() for name in ("boxes", "scores", "labels"))))
        images.append({"id": number, "file_name": file.name, "height": sample.size[0], "width": sample.size[1]})
        for (x1, y1, x2, y2), score, label in rows:
            annotations.append({"id": len(annotations), "image_id": number, "category_id": label, "score": score,
                                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0})
        drawn(sample, rows, about["classes"]).save(options.out / f"{number:04d}-{file.stem}.png")
    categories = [{"id": label, "name": name} for label, name in enumerate(about["classes"])]
    write_whole(options.out / "predictions.json", json.dumps(
        {"images": images, "annotations": annotations, "categories": categories}).encode())
    print(f"{len(annotations)} objects in {len(images)} pictures: {options.out}")
    return 0


def drawn(sample: Sample, rows: list[tuple], classes: Sequence[str]) -> Image.Image:
    """The picture with its (box, score, label), each with its class above it, so that no object is hidden."""
    picture = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
    pen = ImageDraw.Draw(picture)
    for (x1, y1, x2, y2), score, label in rows:
        colour = COLOURS[label % len(COLOURS)]
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=2)
        words, size = f"{classes[label]} {score:.2f}", {"font_size": 13, "stroke_width": 2}
        x = max(2, min(x1, picture.width - pen.textlength(words, font_size=13) - 2))
        pen.text((x, max(1, y1 - 17)), words, fill=colour, stroke_fill="white", **size)
    return picture


def add_data(commands) -> None:
    """data list | card NAME | download NAME [--from DIR] | check NAME, voc:DIR, coco:FILE or a folder"""
    data = commands.add_parser("data", help="data sets: list, read a card, download, check")
    actions = data.add_subparsers(title="actions", required=True, metavar="ACTION")
    every = actions.add_parser("list", help="which there are, and where they lie on this machine")
    every.set_defaults(run=list_data)
    card = actions.add_parser("card", help="licence, counts, what is wrong with it")
    card.add_argument("name")
    card.set_defaults(run=show_card)
    download = actions.add_parser("download", help="fetch one, or take a copy that is on this disk")
    download.add_argument("name")
    download.add_argument("--from", dest="source", metavar="DIR", help="a folder with a copy or its archives")
    download.set_defaults(run=download_data)
    check = actions.add_parser("check", help="corrupt pictures, bad boxes, duplicates; exit status 1 if any")
    check.add_argument("what", help="a name, voc:DIR, coco:FILE, or a folder in one of these layouts")
    check.add_argument("--classes", metavar="A,B,...", help="classes to expect; others are a problem")
    check.add_argument("--all", action="store_true", help="name every file, not only the first ten of a kind")
    check.set_defaults(run=check_data)


def list_data(options: argparse.Namespace) -> int:
    for name in catalog.names():
        if name == "smears":
            print(f"{name:10} drawn by this package, any number; needs no download")
            continue
        about, folder = catalog.facts(name), catalog.find_dataset(name)
        count = ", ".join(f"{split} {number}" for split, number in about["pictures"].items())
        print(f"{name:10} {count}; {about['licence']}; {folder or 'not on this machine'}")
    return 0


def show_card(options: argparse.Namespace) -> int:
    catalog.facts(options.name)                    # an unknown name is told here
    print((catalog.CARDS / f"{options.name}.md").read_text(encoding="utf-8"))
    return 0


def download_data(options: argparse.Namespace) -> int:
    print(f"{options.name} lies in {catalog.download(options.name, options.source)}")
    return 0


def check_data(options: argparse.Namespace) -> int:
    report = inspect_dataset(options.what, options.classes.split(",") if options.classes else None)
    print(report.text(None if options.all else 10))
    return 1 if report.problems else 0
