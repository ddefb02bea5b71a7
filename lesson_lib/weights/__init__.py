"""Detectors that come with the package: NAME.safetensors in half precision, and its card NAME.md.

A file holds the weights, and as metadata all that is known of the run that made them: config and
recipe by their fields, classes, data, command, machine, figures. The card is made of that by
`card`, so that nothing in it is typed by hand. `tools/ship.py` writes both from a run.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

FOLDER = Path(__file__).resolve().parent
METADATA = "lesson_lib"  # the key of the metadata, which safetensors keeps as text


def names() -> list[str]:
    """The detectors that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def file(name: str) -> Path:
    """Where the weights of `name` lie."""
    return FOLDER / f"{name}.safetensors"


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is known of a shipped detector, and its weights, in float32 again.

    ValueError with one sentence for a file that is cut short or no shipped detector.
    """
    try:
        with safe_open(path, "pt") as stored:
            about = json.loads((stored.metadata() or {})[METADATA])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} holds no weights of this package that can be read ({error}): take the file "
            "anew from where the package came from."
        ) from error
    return about, {
        name: value.float() if value.dtype == torch.float16 else value
        for name, value in tensors.items()
    }


def packed(about: dict[str, Any], state: dict[str, Tensor]) -> bytes:
    """The content of a file for `read`. ValueError where a weight is too large for a half."""
    halves = {
        name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in state.items()
    }
    beyond = [name for name, value in halves.items() if not value.isfinite().all()]
    if beyond:
        raise ValueError(f"{beyond[0]} holds numbers that are too large for half precision.")
    return save(halves, {METADATA: json.dumps(about)})


def card(about: dict[str, Any]) -> str:
    """The card of a shipped detector, Markdown, made of what its file says of itself."""
    recipe, data, full = about["recipe"], about["data"], about["figures_float32"]
    inference = ", ".join(f"{name} {value}" for name, value in recipe["inference"].items())
    facts = {
        "data": f"{data}, {about['data_licence']}",
        "licence of these weights": about["licence"],
        "command": f"`python -m lesson_lib {about['command']}`",
        "seed": recipe["seed"],
        "input": f"{recipe['size']} x {recipe['size']} px",
        "inference": inference,
        "machine": about["machine"],
        "training": f"{about['step']} steps in {about['seconds']} s"
        + (", beside other work on the same cores" if about.get("busy") else ""),
        "date": about["date"],
    }
    figures = [{"class": "all classes", **about["figures"]}, *about["by_class"]]
    rows = [f"| {row['class']} | {row['AP']:.3f} | {row['AP50']:.3f} |" for row in figures]
    lines = [
        f"# {about['name']}",
        "",
        f"{about['model']}, {about['parameters']:,} parameters in half precision, trained on the",
        f"{about['pictures']['count']} pictures of {data}'s {about['split']}. "
        f"Classes: {', '.join(about['classes'])}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.items()),
        "",
        f"| {data}, test, {about['tested']} pictures | AP | AP50 |",
        "|---|---|---|",
        *rows,
        "",
        f"AP is COCO's. In float32, as trained: AP {full['AP']:.3f}, AP50 {full['AP50']:.3f}.",
    ]
    fresh = about.get("fresh")
    if fresh:
        aps = ", ".join(f"{ap:.3f} ({seed})" for seed, ap in fresh["AP"].items())
        lines += ["", f"AP on {fresh['pictures']} test smears each of other seeds: {aps}."]
    return "\n".join(lines) + "\n"
