"""Run the lessons: store what they show, or compare it with what is stored. Only `refresh` writes notebooks.

    .venv/bin/python tools/notebooks.py refresh [01 02 ...]   run, normalise, write; twice gives equal bytes
    .venv/bin/python tools/notebooks.py check [01 02 ...]     run, and say which cell differs and how

Both run with the settings of `lab.py test` and as if no data set were on the disk, so that a cell that would
show somebody else's pictures stores its one sentence. Tags of cells that the comparison reads:

    tolerance             trained numbers: decimals may differ by 5 % or one unit of the last digit, whole
                          numbers not at all, pictures by 5 % of their pixels, an SVG by 5 % or 4 units
    varies                time or machine: never compared, and refresh keeps what is stored
    nbval-ignore-output   what nbval cannot compare: real pictures, output areas; compared here all the same

`lab.py test` does not run `check`, which would run every lesson twice: conftest.py beside lab.py compares
pictures and tolerant cells with the functions below while nbval runs the cells. `check` is for authors.
"""

import base64
import io
import math
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.output_widget import OutputWidget
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import lab  # noqa: E402  the settings that lessons are run with, in one place

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PIXEL_STEP, PIXEL_SHARE = (
    64,
    0.001,
)  # a pixel differs beyond this step, a picture beyond this share of pixels
TOLERANCE = 0.05
RULES = [
    (re.compile(rule), replacement)
    for rule, replacement in re.findall(
        r"^regex: (.*)\nreplace: (.*)$",
        (ROOT / "tools" / "nbval_sanitize.cfg").read_text(),
        flags=re.MULTILINE,
    )
]
EMBEDDED = re.compile(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=]+)")
NUMBER = re.compile(r"([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)")


def sanitise(text: str) -> str:
    """`text` without what may differ between runs (tools/nbval_sanitize.cfg)."""
    for rule, replacement in RULES:
        text = rule.sub(replacement, text)
    return text


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def normalise(notebook: NotebookNode) -> NotebookNode:
    """The notebook as `refresh` writes it: a copy with metadata, counts and outputs in their normal form."""
    widgets = notebook.metadata.get("widgets", {}).get(
        "application/vnd.jupyter.widget-state+json", {}
    )
    cells, count = [], 0
    for cell in notebook.cells:
        metadata = {
            key: cell.metadata[key] for key in ("tags", "jupyter") if cell.metadata.get(key)
        }
        plain = {
            "id": cell.id,
            "cell_type": cell.cell_type,
            "metadata": metadata,
            "source": cell.source.rstrip(),
        }
        if cell.cell_type == "code":
            ran = cell.execution_count is not None
            count += ran
            plain |= {
                "execution_count": count if ran else None,
                "outputs": normalise_outputs(cell.outputs, widgets.get("state", {})),
            }
            for output in plain["outputs"]:
                if output.output_type == "execute_result":
                    output.execution_count = count
        cells.append(plain)
    return nbformat.from_dict(
        {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    )


def normalise_outputs(
    outputs: list[NotebookNode], widgets: dict | None = None
) -> list[NotebookNode]:
    """Outputs with the still of each widget only, areas opened, streams merged, text sanitised."""
    kept: list[NotebookNode] = []
    for output in map(nbformat.from_dict, outputs):
        if output.output_type == "stream":
            streams = []  # those since the last figure: which of stdout and stderr comes first is chance
            while kept and kept[-1].output_type == "stream":
                streams.insert(0, kept.pop())
            text = "".join(
                stream.text for stream in [*streams, output] if stream.name == output.name
            )
            output.text = sanitise(re.sub(r"^.*\r(?=[^\n])", "", text, flags=re.MULTILINE))
            others = [stream for stream in streams if stream.name != output.name]
            kept += sorted(
                [*others, output], key=lambda stream: stream.name, reverse=True
            )  # stdout first
            continue
        if output.output_type == "error":
            output.evalue = sanitise(output.evalue)
            output.traceback = [sanitise(line) for line in output.traceback]
        else:
            view = output.data.pop(WIDGET_VIEW, None)
            if "text/plain" in output.data:
                output.data["text/plain"] = sanitise(output.data["text/plain"])
            if view and widgets:
                kept += [output, *normalise_outputs(inside(view["model_id"], widgets))]
                continue
        kept.append(output)
    return kept


def inside(model: str, widgets: dict) -> list[dict]:
    """What the output areas in a widget and its children show (`interact` puts its output into one)."""
    state = widgets.get(model, {}).get("state", {})
    children = [child.removeprefix("IPY_MODEL_") for child in state.get("children", [])]
    return [
        *state.get("outputs", []),
        *(output for child in children for output in inside(child, widgets)),
    ]


def as_text(notebook: NotebookNode) -> str:
    """The bytes of the file: sorted keys, one space of indentation, a newline at the end."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def differences(
    stored: list[NotebookNode], fresh: list[NotebookNode], tolerant: bool = False
) -> list[str]:
    """One sentence for each way in which the fresh outputs of a cell differ from the stored ones."""
    (old_texts, old_pictures), (new_texts, new_pictures) = split(stored), split(fresh)
    old_kinds = [kind for kind, _ in old_texts] + ["picture"] * len(old_pictures)
    new_kinds = [kind for kind, _ in new_texts] + ["picture"] * len(new_pictures)
    if old_kinds != new_kinds:
        return [
            f"stored: {', '.join(old_kinds) or 'nothing'}; now: {', '.join(new_kinds) or 'nothing'}"
        ]
    found = [
        text_difference(old, new, 4 if "svg" in kind else 0)
        if tolerant
        else text_difference(old, new)
        for (kind, old), (_, new) in zip(old_texts, new_texts)
    ]
    found += [
        picture_difference(old, new, TOLERANCE if tolerant else PIXEL_SHARE)
        for old, new in zip(old_pictures, new_pictures)
    ]
    return [sentence for sentence in found if sentence]


def split(outputs: list[NotebookNode]) -> tuple[list[tuple[str, str]], list[str]]:
    """Texts with their kind, and pictures in base64: those of their own and those inside SVG and HTML."""
    texts, pictures = [], []
    for output in outputs:
        if output.output_type == "stream":
            texts.append((output.name, output.text))
        elif output.output_type == "error":
            texts.append(("error", f"{output.ename}: {output.evalue}"))
        for kind, value in sorted(output.get("data", {}).items()):
            if kind in ("image/png", "image/jpeg"):
                pictures.append(value)
            elif kind != WIDGET_VIEW:
                pictures += EMBEDDED.findall(str(value))
                texts.append((kind, sanitise(str(value))))
    return texts, pictures


def text_difference(old: str, new: str, slack: float | None = None) -> str:
    """The first line that differs, or "". With `slack` numbers may differ as `close` says."""
    for before, after in zip(f"{old}\n".splitlines(), f"{new}\n".splitlines()):
        a, b = NUMBER.split(before), NUMBER.split(after)
        alike = (
            before == after
            if slack is None or len(a) != len(b)
            else all(close(x, y, slack) if i % 2 else x == y for i, (x, y) in enumerate(zip(a, b)))
        )
        if not alike:
            return f"stored: {before[:300]}\n   now: {after[:300]}"
    lines = old.count("\n"), new.count("\n")
    return f"stored: {lines[0]} line breaks, now: {lines[1]}" if lines[0] != lines[1] else ""


def close(old: str, new: str, slack: float) -> bool:
    """Equal within TOLERANCE, one unit of the last digit, or `slack`? Whole ones without slack: equal."""
    if not slack and old.lstrip("+-").isdigit() and new.lstrip("+-").isdigit():
        return old == new
    mantissa, _, exponent = old.lower().partition("e")
    digit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return math.isclose(
        float(old), float(new), rel_tol=TOLERANCE, abs_tol=max(slack, 1.001 * digit)
    )


def picture_difference(old: str, new: str, allowed: float) -> str:
    """How many pixels differ, or "". A mean over the picture would miss a curve that is gone."""
    a, b = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(code))).convert("RGBA"), int)
        for code in (old, new)
    )
    if a.shape != b.shape:
        return (
            f"stored picture: {a.shape[1]} x {a.shape[0]} pixels, now: {b.shape[1]} x {b.shape[0]}"
        )
    share = float((abs(a - b) > PIXEL_STEP).any(axis=-1).mean())
    return (
        f"{share:.2%} of the picture's pixels differ (allowed: {allowed:.1%})"
        if share > allowed
        else ""
    )


class SilentArea(OutputWidget):
    """An output area that sends nothing to the kernel: when it does, nbclient now and then misses the reply
    that it waits for (jupyter/nbclient issue 312), and the run stands still until the timeout."""

    def send(self, *_: object, **__: object) -> None:
        pass


def execute(path: Path) -> tuple[NotebookNode, NotebookNode]:
    """The stored notebook and, in normal form, the one that was run in its folder."""
    stored, fresh = nbformat.read(path, 4), nbformat.read(path, 4)
    client = NotebookClient(
        fresh,
        timeout=600,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        record_timing=False,
        resources={"metadata": {"path": path.parent}},
    )
    client.widget_registry["@jupyter-widgets/output"]["OutputModel"] = SilentArea
    client.execute()
    fresh = normalise(fresh)
    for old, new in zip(stored.cells, fresh.cells):
        if "varies" in tags(old) and old.get("outputs"):
            new.outputs = normalise_outputs(old.outputs)
    return stored, fresh


def refresh(path: Path) -> list[str]:
    """Run a notebook and write it in normal form."""
    path.write_text(as_text(execute(path)[1]), encoding="utf-8", newline="\n")
    return []


def check(path: Path) -> list[str]:
    """Run a notebook; one sentence for each difference from what is stored."""
    stored, fresh = execute(path)
    return [
        f"cell {old.id}: {sentence}"
        for old, new in zip(stored.cells, fresh.cells)
        if old.cell_type == "code"
        for sentence in differences(old.outputs, new.outputs, "tolerance" in tags(old))
    ]


def main(arguments: list[str]) -> int:
    """Refresh or check the lessons with these numbers (all without a number). 0 when nothing is wrong."""
    command = {"refresh": refresh, "check": check}.get(arguments[0] if arguments else "")
    paths = [path for path in lab.lessons() if path.name[:2] in arguments[1:] or not arguments[1:]]
    if command is None or not paths:
        sys.exit(__doc__ if command is None else "There is no such lesson.")
    os.environ |= lab.REPRODUCIBLE | {"LESSON_DATASETS": "none"}
    wrong = 0
    for path in paths:
        started = time.perf_counter()
        try:
            problems = command(path)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            problems = [str(error)]
        print(
            f"{path.name}: {arguments[0]} took {time.perf_counter() - started:.0f} s, "
            f"{path.stat().st_size // 1000} kB, {len(problems)} problems",
            *problems,
            sep="\n",
            flush=True,
        )
        wrong += len(problems)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
