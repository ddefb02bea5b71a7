"""A run becomes a detector that comes with the package: its weights and its card.

    .venv/bin/python tools/ship.py RUN NAME   from the folder of a run, on the machine that made it
    .venv/bin/python tools/ship.py --busy RUN NAME   where it had other work meanwhile
    .venv/bin/python tools/ship.py cards      write all cards anew, from what the files hold

The weights go into half precision, and are evaluated once on the test split as they will be loaded.
"""

import json
import sys
from pathlib import Path
from typing import Any

from lesson_lib import weights
from lesson_lib.breakdown import class_table
from lesson_lib.config import hardware
from lesson_lib.data import catalog
from lesson_lib.data.annotated import Annotated
from lesson_lib.data.smears import Smears
from lesson_lib.detectors.detector import Detector
from lesson_lib.evaluation import coco_evaluate
from lesson_lib.files import write_whole
from lesson_lib.training import runs
from lesson_lib.training.fields import config_fields, recipe_fields
from lesson_lib.training.loop import ground_truth, predict
from lesson_lib.training.recipes import Recipe

FRESH_SEEDS, FRESH_PICTURES = (1, 2, 3, 4, 5), 40
LICENCE = "that of this package (see LICENSE): trained here, from scratch"


def figures(
    model: Detector, samples: Smears | Annotated, recipe: Recipe
) -> tuple[dict[str, float], list[dict]]:
    """coco_evaluate's means, rounded, and a row for each class."""
    found = predict(model, samples, recipe.resizing, **recipe.inference)
    report = coco_evaluate(found, ground_truth(samples), len(samples.classes))
    means = {name: round(v, 4) for name, v in report.items() if isinstance(v, float)}
    rows = [
        {"class": row["class"]} | {name: round(row[name], 4) for name in ("AP", "AP50")}
        for row in class_table(report, samples.classes)
    ]
    return means, rows


def fresh_smears(model: Detector, recipe: Recipe) -> dict[str, Any]:
    """AP on test smears of seeds that no training uses: how far it varies between sets."""
    aps = {
        str(seed): figures(model, Smears("test", FRESH_PICTURES, seed=seed), recipe)[0]["AP"]
        for seed in FRESH_SEEDS
    }
    return {"pictures": FRESH_PICTURES, "AP": aps}


def ship(run: Path, name: str, busy: bool = False) -> str:
    """Writes both files; returns what to tell. busy: the machine had other work meanwhile."""
    model, recipe, about = runs.load(run)
    log = [json.loads(line) for line in (run / runs.LOG).read_text().splitlines()]
    test = catalog.open_dataset(about["data"], "test")
    trained_on = catalog.open_dataset(about["data"], about["split"])
    full, _ = figures(model, test, recipe)
    state = {key: value.cpu() for key, value in model.state_dict().items()}
    halves = {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}
    model.load_state_dict(halves)
    half, rows = figures(model, test, recipe)
    drawn = about["data"] == "smears"
    about = {
        "version": runs.VERSION,
        "name": name,
        **{key: about[key] for key in ("data", "split", "classes", "model", "step")},
        "pictures": {"count": len(trained_on)},
        "config": config_fields(model.config),
        "recipe": recipe_fields(recipe),
        "command": about["command"],
        "machine": hardware(),
        "date": about["begun"].split()[0],
        "seconds": round(log[-1]["seconds"]),
        "busy": busy,
        "parameters": sum(p.numel() for p in model.parameters()),
        "licence": LICENCE,
        "data_licence": "drawn by this package"
        if drawn
        else catalog.facts(about["data"])["licence"],
        "tested": len(test),
        "figures": half,
        "figures_float32": full,
        "by_class": rows,
    }
    if drawn:
        about["fresh"] = fresh_smears(model, recipe)
    write_whole(weights.file(name), weights.packed(about, state))
    write_card(name)
    return f"{weights.file(name)}: AP {half['AP']:.4f}, in float32 {full['AP']:.4f}"


def write_card(name: str) -> None:
    """The card, from what the file of weights says of itself."""
    text = weights.card(weights.read(weights.file(name))[0])
    write_whole(weights.FOLDER / f"{name}.md", text.encode())


if __name__ == "__main__":
    if sys.argv[1:] == ["cards"]:
        for each in weights.names():
            write_card(each)
    elif len(words := [word for word in sys.argv[1:] if word != "--busy"]) == 2:
        print(ship(Path(words[0]), words[1], busy="--busy" in sys.argv))
    else:
        sys.exit(__doc__)
