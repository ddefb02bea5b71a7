"""`evaluate`: AP and the rest of a run, and what went wrong."""

import argparse
import json

from lesson_lib.breakdown import class_table, counting_table, error_costs, error_counts, judge
from lesson_lib.data import catalog
from lesson_lib.evaluation import coco_evaluate
from lesson_lib.training import runs
from lesson_lib.training.distributed import processes, rank_and_world
from lesson_lib.training.loop import ground_truth, predict


def add_evaluate(commands) -> None:
    """evaluate RUN|NAME --data DATA [--split test] [--json]"""
    command = commands.add_parser("evaluate", help="AP and the rest of a run, and what went wrong")
    command.add_argument("folder", metavar="RUN", help=runs.HELP)
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
            raise ValueError(
                f"The run knows classes {', '.join(classes)}, {data} has {', '.join(samples.classes)}: "
                "evaluate it on pictures with its own classes."
            )
        predictions, targets = (
            predict(model, samples, recipe.size, **recipe.inference),
            ground_truth(samples),
        )
        if rank_and_world()[0] > 0:
            return 0
    figures, judged = coco_evaluate(predictions, targets, len(classes)), judge(predictions, targets)
    means = {key: value for key, value in figures.items() if isinstance(value, float)}
    rows, counts = class_table(figures, classes), counting_table(predictions, targets, classes)
    cost = error_costs(judged, len(classes))
    if options.json:
        report = means | {
            "classes": rows,
            "counting": counts,
            "errors": error_counts(judged, classes),
            "cost": cost,
            "data": data,
            "split": options.split,
            "pictures": len(samples),
            "step": about["step"],
        }
        print(
            json.dumps(json.loads(json.dumps(report), parse_constant=lambda _: None))
        )  # JSON knows no NaN
        return 0
    print("  ".join(f"{key} {value:.3f}" for key, value in means.items()))
    for row, count in zip(rows, counts):
        print(
            f"{row['class']:14} AP {row['AP']:.3f}  AP50 {row['AP50']:.3f}  F1 {row['F1']:.3f} at {row['score']:.2f};"
            f" at .5 {count['predicted']} counted of {count['annotated']}, off by {count['MAE']:.2f} a picture"
        )
    print(
        "AP50 would gain without these errors:  "
        + "  ".join(f"{k} {v:.3f}" for k, v in cost.items() if k != "AP")
    )
    return 0
