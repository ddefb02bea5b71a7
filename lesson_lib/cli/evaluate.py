"""`evaluate`: AP and the rest of a run, what went wrong, and the score to predict with."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lesson_lib.breakdown import (
    best_threshold,
    class_table,
    confusion_matrix,
    counting_table,
    error_costs,
    error_counts,
    judge,
)
from lesson_lib.cli.confusion import confusion_svg, confusion_text
from lesson_lib.cli.opening import add_reading, open_for_evaluation, reading, told
from lesson_lib.cli.predict import check_score
from lesson_lib.data import catalog
from lesson_lib.evaluation import coco_evaluate, voc_evaluate
from lesson_lib.files import write_whole
from lesson_lib.training import runs
from lesson_lib.training.distributed import processes, rank_and_world
from lesson_lib.training.loop import ground_truth, predict

IOU = 0.5  # of counting, confusing and VOC's AP
VOC_METHODS = {"voc07": "voc11", "voc": "voc-all"}  # --metric -> `average_precision`'s method


def add_evaluate(commands) -> None:
    """evaluate RUN|NAME [--data DATA] [--split test] [--json] [--confusion FILE.svg]"""
    command = commands.add_parser("evaluate", help="AP and the rest of a run, and what went wrong")
    command.add_argument("folder", metavar="RUN", help=runs.HELP)
    command.add_argument("--data", help="default: what it was trained on")
    command.add_argument("--split", help="default: test (COCO: val); with --choose-threshold val")
    add_reading(command)
    command.add_argument(
        "--metric",
        choices=("coco", *VOC_METHODS),
        default="coco",
        help="voc07 and voc: the mAP of PASCAL VOC's challenges of 2007 and since 2010, difficult "
        "objects neither rewarded nor punished",
    )
    command.add_argument("--json", action="store_true", help="one line with everything")
    command.add_argument("--checkpoint", choices=("best", "last"), help="default: best, if any")
    command.add_argument(
        "--score",
        type=float,
        help="of what is counted, not of AP; default: what was chosen on val, else .5",
    )
    command.add_argument(
        "--confusion", type=Path, metavar="FILE.svg", help="write the confusion matrix as a picture"
    )
    command.add_argument(
        "--choose-threshold",
        action="store_true",
        help="keep the score of highest F1 with the run, for predict; never on the test split",
    )
    command.set_defaults(run=run_evaluation)


def run_evaluation(options: argparse.Namespace) -> int:
    if options.choose_threshold and options.split == "test":
        raise ValueError(
            "--choose-threshold is for --split val: on the test split it would flatter the run."
        )
    check_score(options.score)
    with processes() as device:
        model, recipe, about = runs.load(options.folder, device, options.checkpoint)
        data, classes = options.data or about["data"], about["classes"]
        usual = "val" if options.choose_threshold else catalog.usual_split(data, "judge") or "test"
        split = options.split or usual
        read = reading(options, data)
        if data == about["data"]:
            read = about.get("reading", {}) | read
        samples = open_for_evaluation(data, split, classes, **read)
        predictions = predict(
            model, samples, recipe.resizing, precision=recipe.precision, **recipe.inference
        )
        targets = ground_truth(samples)
        if rank_and_world()[0] > 0:
            return 0
    if note := told(samples, split, data, read):
        print(note, file=sys.stderr)
    if options.metric != "coco":
        return _report_voc(options, predictions, targets, classes, {"data": data, "split": split})
    figures = coco_evaluate(predictions, targets, len(classes))
    if options.choose_threshold:
        return _choose(options.folder, about, best_threshold(figures, targets), split)
    score = about.get("threshold", 0.5) if options.score is None else options.score
    report = describe(figures, predictions, targets, classes, score)
    report |= {"data": data, "split": split, "pictures": len(samples), "step": about["step"]}
    _tell(report | {"checkpoint": about.get("checkpoint")}, classes, options)
    return 0


def _tell(report: dict[str, Any], classes: Sequence[str], options: argparse.Namespace) -> None:
    """Prints the report, as text or JSON, and writes the picture that was asked for."""
    if options.confusion:
        where = f"{report['data']} {report['split']}"
        title = f"{where}, scores over {report['score']:.2f}, IoU {IOU} or more"
        picture = confusion_svg(np.array(report["confusion"]["matrix"]), classes, title)
        write_whole(options.confusion, picture.encode())
    if options.json:  # which knows no NaN
        print(json.dumps(json.loads(json.dumps(report), parse_constant=lambda _: None)))
    else:
        print(as_text(report, classes))


def _report_voc(
    options: argparse.Namespace,
    predictions: Sequence[dict],
    targets: Sequence[dict],
    classes: Sequence[str],
    about: dict[str, str],
) -> int:
    """Prints the mAP and the AP of each class as PASCAL VOC defines them."""
    method = VOC_METHODS[options.metric]
    figures = voc_evaluate(predictions, targets, classes, IOU, method)
    if options.json:
        report = {"metric": options.metric} | about | {"pictures": len(targets)}
        report |= {key: figures[key] for key in ("mAP", "per_class")}
        print(json.dumps(json.loads(json.dumps(report), parse_constant=lambda _: None)))  # no NaN
        return 0
    print(f"mAP {figures['mAP']:.3f}  ({options.metric}, IoU {IOU}, difficult objects ignored)")
    for name, ap in figures["per_class"].items():
        print(f"{name:14} AP {ap:.3f}")
    return 0


def _choose(run: str, about: Mapping, found: dict[str, float], split: str) -> int:
    name = about.get("checkpoint", "last")
    runs.keep_thresholds(run, {name: found})
    print(
        f"{name}.pt: F1 on {split} is highest, {found['F1']:.3f}, with detections that score over "
        f"{found['threshold']:.3f}; predict takes these where it gets no --score."
    )
    return 0


def describe(
    figures: Mapping,
    predictions: Sequence[dict],
    targets: Sequence[dict],
    classes: Sequence[str],
    score: float,
) -> dict[str, Any]:
    """Everything that `evaluate` says, as JSON holds it; score: of what is counted as found."""
    judged = judge(predictions, targets, IOU)
    matrix = confusion_matrix(predictions, targets, len(classes), score, IOU)
    means = {key: value for key, value in figures.items() if isinstance(value, float)}
    return means | {
        "classes": class_table(figures, classes),
        "counting": counting_table(predictions, targets, classes, score),
        "errors": error_counts(judged, classes, score),
        "cost": error_costs(judged, len(classes)),
        "score": score,
        "confusion": {
            "rows": [*classes, "background"],
            "columns": [*classes, "missed"],
            "matrix": matrix.tolist(),
            "score": score,
            "iou": IOU,
        },
    }


def as_text(report: Mapping, classes: Sequence[str]) -> str:
    """The report in lines."""
    means = {key: value for key, value in report.items() if isinstance(value, float)}
    score = means.pop("score")
    lines = ["  ".join(f"{key} {value:.3f}" for key, value in means.items())]
    for row, count in zip(report["classes"], report["counting"], strict=True):
        lines.append(
            f"{row['class']:14} AP {row['AP']:.3f}  AP50 {row['AP50']:.3f}  F1 {row['F1']:.3f} at "
            f"{row['score']:.2f}; at {score:.2f} {count['predicted']} counted of "
            f"{count['annotated']}, off by {count['MAE']:.2f} a picture"
        )
    cost = "  ".join(f"{k} {v:.3f}" for k, v in report["cost"].items() if k != "AP")
    lines.append(f"AP50 would gain without these errors:  {cost}")
    table = confusion_text(np.array(report["confusion"]["matrix"]), classes)
    lines.append(f"Rows the truth, columns predicted, scores over {score:.2f}:\n{table}")
    return "\n".join(lines)
