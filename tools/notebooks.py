"""Run the lessons: store what they show, or compare it with what is stored. Only `refresh` writes
notebooks.

    python tools/notebooks.py refresh [01 02 ...]                     what exact cells show, at `ci`
    python tools/notebooks.py refresh --budget laptop [01 02 ...]     what trained cells show
    python tools/notebooks.py check [01 02 ...]                       which cell differs, and how

The kinds of cell and how each is compared: compare.py. Each refresh leaves the other's cells as
they are, and says where an exact cell shows something else at another budget. A cell that varies
keeps what is stored as long as that is of the right kind and of the last commit's source. Beside
trained outputs a line says with which budget, when, on which machine and in how many seconds they
were made.

All run with the settings of `lab.py test` and as if no data set were on the disk, so that a cell
that would show somebody else's pictures stores its one sentence. --machine NAME imitates a machine
(see `lab.py test`), --seed N moves the seeds inside trained cells: whatever else changes then
depends on a training and lacks the tag.

`lab.py test` does not run `check`, which would run every lesson twice: conftest.py beside lab.py
compares with the same functions while nbval runs the cells. `check` is for authors.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.output_widget import OutputWidget
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_output

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import lab  # noqa: E402  the settings that lessons are run with, in one place
from tools.compare import (  # noqa: E402
    NOTE,
    WIDGET_VIEW,
    differences,
    is_note,
    sanitise,
    tags,
    values_count,
)

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
FORMER = "the outputs are its former source's; `refresh --budget laptop` makes them anew"
PROGRESS = re.compile(r"^.*\r(?=[^\n])", flags=re.MULTILINE)
SHIFT = """
import numpy as _np, torch as _torch
_plain = _torch.manual_seed, _np.random.default_rng
def _moved(seed):
    if isinstance(seed, _np.random.SeedSequence):
        return _np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, {seed}))
    return seed + 1000 * {seed} if isinstance(seed, int) else seed
_shifted = (lambda seed: _plain[0](_moved(seed))), (lambda seed=None: _plain[1](_moved(seed)))
def _seeds(functions):
    _torch.manual_seed, _np.random.default_rng = functions
"""


def normalise(notebook: NotebookNode) -> NotebookNode:
    """The notebook as `refresh` writes it: a copy with metadata, counts and outputs in their normal
    form."""
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
    return _node({"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5})


def _node(plain: dict[str, Any]) -> NotebookNode:
    """A copy with attributes."""
    node = nbformat.from_dict(plain)
    assert isinstance(node, NotebookNode), "from_dict makes a node of a dict"
    return node


def normalise_outputs(
    outputs: list[NotebookNode], widgets: dict | None = None
) -> list[NotebookNode]:
    """Outputs with the still of each widget only, areas opened, streams merged, text sanitised."""
    kept: list[NotebookNode] = []
    for output in map(_node, outputs):
        if output.output_type == "stream":
            streams = []  # since the last figure: whether stdout or stderr comes first is chance
            while kept and kept[-1].output_type == "stream":
                streams.insert(0, kept.pop())
            text = "".join(
                stream.text for stream in [*streams, output] if stream.name == output.name
            )
            output.text = sanitise(PROGRESS.sub("", text))
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


def inside(model: str, widgets: dict) -> list[NotebookNode]:
    """What the output areas in a widget and its children show (`interact` puts its output into
    one)."""
    state = widgets.get(model, {}).get("state", {})
    children = [child.removeprefix("IPY_MODEL_") for child in state.get("children", [])]
    return [
        *state.get("outputs", []),
        *(output for child in children for output in inside(child, widgets)),
    ]


def as_text(notebook: NotebookNode) -> str:
    """The bytes of the file: sorted keys, one space of indentation, a newline at the end."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


class SilentArea(OutputWidget):
    """An output area that sends nothing to the kernel: when it does, nbclient now and then misses
    the reply that it waits for (jupyter/nbclient issue 312), and the run stands still until the
    timeout."""

    def send(self, *_: object, **__: object) -> None:
        pass


class Run(NamedTuple):
    """A lesson as stored, as it ran (normal form), and the seconds that each of its cells took, by
    id."""

    stored: NotebookNode
    fresh: NotebookNode
    seconds: dict[str, float]


def execute(path: Path, seed: int = 0) -> Run:
    """Run a notebook in its folder; `seed` moves the seeds that its trained cells set."""
    stored, fresh = nbformat.read(path, 4), nbformat.read(path, 4)
    fresh.cells = list(with_moved_seeds(fresh.cells, seed)) if seed else fresh.cells
    started, seconds = {}, {}

    def start(cell: NotebookNode, cell_index: int) -> None:
        started[cell.id] = time.perf_counter()

    def end(cell: NotebookNode, cell_index: int, **_: object) -> None:
        seconds[cell.id] = time.perf_counter() - started[cell.id]

    client = NotebookClient(
        fresh,
        timeout=600 if os.environ.get("LESSON_BUDGET") == "ci" else 7200,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        record_timing=False,
        resources={"metadata": {"path": path.parent}},
        on_cell_execute=start,
        on_cell_executed=end,
    )
    client.widget_registry["@jupyter-widgets/output"]["OutputModel"] = SilentArea
    client.execute()
    fresh.cells = [cell for cell in fresh.cells if "helper" not in cell.metadata]
    return Run(stored, normalise(fresh), seconds)


def with_moved_seeds(cells: list[NotebookNode], seed: int) -> Iterator[NotebookNode]:
    """The cells, with helpers between them that move the seeds of torch and numpy inside trained
    cells only."""

    def helper(source: str) -> NotebookNode:
        return new_code_cell(source, metadata={"helper": True})

    yield helper(SHIFT.format(seed=seed))
    for cell in cells:
        moved = cell.cell_type == "code" and "trained" in tags(cell)
        yield from [helper("_seeds(_shifted)"), cell, helper("_seeds(_plain)")] if moved else [cell]


def trained_groups(notebook: NotebookNode) -> list[list[NotebookNode]]:
    """The trained cells, those of one section (from one `## ` to the next) together: they share one
    note."""
    groups: list[list[NotebookNode]] = [[]]
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            groups.append([])
        elif cell.cell_type == "code" and "trained" in tags(cell):
            groups[-1].append(cell)
    return [group for group in groups if group]


def note(budget: str, seconds: float) -> NotebookNode:
    """The line beside trained outputs, as an output: facts in its metadata, and the same as a
    sentence."""
    made = {
        "budget": budget,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": processor(),
        "seconds": round(seconds),
    }
    return new_output("display_data", data={"text/html": note_text(made)}, metadata={NOTE: made})


def note_text(made: dict) -> str:
    """The sentence that a page shows of a note's facts."""
    words = (
        f"Trained here with the budget {made['budget']}, on one thread of {made['machine']}, "
        f"in {made['seconds']} s ({made['date']})."
    )
    return f'<p style="max-width:46em;margin:.2em 0 1em"><small>{escape(words)}</small></p>'


def processor() -> str:
    """The name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    names = re.findall(
        r"^model name\s*: (.*)$", info.read_text() if info.exists() else "", re.MULTILINE
    )
    return names[0] if names else platform.processor() or platform.machine()


def edited(path: Path) -> set[str]:
    """Ids of the cells whose source differs from the last commit's; none outside of a repository,
    or of a lesson that is new."""
    show = ["git", "show", f"HEAD:./{path.name}"]
    before = subprocess.run(show, cwd=path.parent, capture_output=True, text=True)
    if before.returncode:
        return set()
    sources = {cell.id: cell.source for cell in nbformat.reads(before.stdout, as_version=4).cells}
    cells = nbformat.read(path, as_version=4).cells
    return {cell.id for cell in cells if sources.get(cell.id, cell.source) != cell.source}


def combined(
    run: Run, budget: str, changed: Collection[str] = ()
) -> tuple[NotebookNode, list[str]]:
    """What `refresh` writes after a run with `budget`, and what an author should know: the exact
    cells that differ between budgets, and the trained ones of `changed` that keep the outputs of
    their former source."""
    stored = {cell.id: normalise_outputs(cell.get("outputs", [])) for cell in run.stored.cells}
    problems = []
    for cell in (cell for cell in run.fresh.cells if cell.cell_type == "code"):
        before = stored.get(cell.id, [])
        if "varies" in tags(cell) and cell.id not in changed and keeps(before, cell):
            cell.outputs = before
        if values_count(cell) and budget != "ci":
            problems += named(cell, differences(before, cell.outputs))
            cell.outputs = before
    for group in trained_groups(run.fresh):
        shown = [cell for cell in group if cell.outputs]
        noted = any(is_note(output) for cell in shown for output in stored.get(cell.id, []))
        if budget == "ci" and noted and all(keeps(stored.get(cell.id, []), cell) for cell in shown):
            for cell in shown:
                cell.outputs = stored[cell.id]
                problems += named(cell, [FORMER] if cell.id in changed else [])
        elif shown:
            shown[0].outputs.append(note(budget, sum(run.seconds[cell.id] for cell in group)))
    return run.fresh, problems


def keeps(stored: list[NotebookNode], fresh: NotebookNode) -> bool:
    """Is what a cell has stored of the kind that it shows now?"""
    return bool(stored) and not differences(stored, fresh.outputs, values=False)


def named(cell: NotebookNode, sentences: list[str]) -> list[str]:
    """The sentences, each with the cell's name in front."""
    return [f"cell {cell.id}: {sentence}" for sentence in sentences]


def refresh(path: Path, options: argparse.Namespace) -> list[str]:
    """Run a notebook and write it in normal form."""
    notebook, problems = combined(execute(path), options.budget, edited(path))
    path.write_text(as_text(notebook), encoding="utf-8", newline="\n")
    return problems


def check(path: Path, options: argparse.Namespace) -> list[str]:
    """Run a notebook; one sentence for each difference from what is stored."""
    run = execute(path, options.seed)
    return [
        sentence
        for old, new in zip(run.stored.cells, run.fresh.cells, strict=True)
        if old.cell_type == "code"
        for sentence in named(
            old, differences(normalise_outputs(old.outputs), new.outputs, values_count(old))
        )
    ]


def arguments(line: list[str]) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="tools/notebooks.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["refresh", "check"])
    parser.add_argument(
        "lessons", nargs="*", metavar="NN", help="numbers of lessons; all without one"
    )
    parser.add_argument("--budget", choices=["ci", "laptop", "gpu"], default="ci")
    parser.add_argument("--machine", choices=lab.MACHINES, help="imitate this kind of machine")
    parser.add_argument(
        "--seed", type=int, default=0, help="check: move the seeds inside trained cells"
    )
    options = parser.parse_intermixed_args(line)  # numbers may stand behind options
    if options.command == "refresh" and (options.seed or options.machine):
        parser.error(
            "--seed and --machine are for check: what is stored comes from seed 0, unimitated."
        )
    return options


def main(line: list[str]) -> int:
    """Refresh or check the lessons with these numbers (all without a number). 0 when nothing is
    wrong."""
    options = arguments(line)
    paths = [
        path for path in lab.lessons() if path.name[:2] in options.lessons or not options.lessons
    ]
    if not paths:
        sys.exit("There is no such lesson.")
    os.environ |= lab.REPRODUCIBLE | {"LESSON_BUDGET": options.budget, "LESSON_DATASETS": "none"}
    os.environ |= lab.imitation(options.machine) if options.machine else {}
    command = {"refresh": refresh, "check": check}[options.command]
    wrong = 0
    for path in paths:
        started = time.perf_counter()
        try:
            problems = command(path, options)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            problems = [str(error)]
        print(
            f"{path.name}: {options.command} took {time.perf_counter() - started:.0f} s, "
            f"{path.stat().st_size // 1000} kB, {len(problems)} problems",
            *problems,
            sep="\n",
            flush=True,
        )
        wrong += len(problems)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
