"""The learner's own copies of the lessons: my_course/, made, updated and reset without losing a
cell. Standard library only.

    make(root)            every lesson that is not there yet, and the capstone; nothing that exists
                          is touched
    update(root)          brings a newer course in, cell by cell: what the learner did not touch
                          becomes the new cell, what the learner changed stays, with the new one
                          beside it where that changed, too
    reset(root, "03")     lesson 03 afresh; the learner's copy is kept as
                          my_course/kept/03_matching_1.ipynb

    progress(root)        what is solved and guessed, as text

A copy has no outputs, so that no answer stands below a question, and its solutions are folded and
silent: their first line is IPython's `%%capture`, which takes what they print. my_course/.base
holds each lesson as it was copied, which tells apart what the learner changed from what the course
did.
"""

import copy
import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]
FOLDER, BASE, KEPT = "my_course", ".base", "kept"
SILENT = "%%capture\n"
BESIDE = (
    "**The course has a newer version of the cell above** (yours is kept as it is). Below is the "
    "new one: take from it what you like, then delete the one that you do not need."
)


def lessons(root: Path) -> list[Path]:
    """The published lessons in their order."""
    return sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def learners(notebook: Notebook) -> Notebook:
    """A published lesson as a learner gets it:
    no outputs, no counts, solutions folded and silent.
    """
    cells = []
    for cell in copy.deepcopy(notebook["cells"]):
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
            if "solution" in cell["metadata"].get("tags", ()):
                cell["source"] = _lines(SILENT + text_of(cell))
                cell["metadata"].setdefault("jupyter", {})["source_hidden"] = True
        cells.append(cell)
    return {**notebook, "cells": cells}


def make(root: Path) -> list[str]:
    """Make my_course/ or what is missing in it; returns the names of the lessons that are new
    there.
    """
    folder, new = root / FOLDER, []
    for path in lessons(root):
        if not (folder / path.name).exists():
            _lay(root, path)
            new.append(path.name)
    for path in sorted((root / "notebooks" / "capstone").glob("*.py")):
        target = folder / "capstone" / path.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return new


def reset(root: Path, number: str) -> str:
    """Lesson `number` afresh; returns the sentence that says where the learner's copy is.

    LookupError: no such lesson.
    """
    found = [path for path in lessons(root) if path.name.startswith(f"{number.zfill(2)}_")]
    if not found:
        names = ", ".join(path.name[:2] for path in lessons(root))
        raise LookupError(f"There is no lesson {number}: there are {names}.")
    path, said = root / FOLDER / found[0].name, ""
    if path.exists():
        (path.parent / KEPT).mkdir(exist_ok=True)
        copies = (path.parent / KEPT / f"{path.stem}_{i}.ipynb" for i in itertools.count(1))
        kept = next(place for place in copies if not place.exists())
        shutil.copy2(path, kept)
        said = f"Yours is kept as {FOLDER}/{KEPT}/{kept.name}. "
    _lay(root, found[0])
    return (
        f"{said}{found[0].name} is as published. If it is open in JupyterLab: File > Reload "
        "Notebook from Disk."
    )


def update(root: Path) -> list[str]:
    """Bring every lesson up to the published one; one sentence for each that changed, or that could
    not be read.
    """
    said = [f"{name} is new." for name in make(root)]
    for path in lessons(root):
        mine, base = root / FOLDER / path.name, root / FOLDER / BASE / path.name
        published = learners(_read(path))
        try:
            own, before = _read(mine), _read(base)
        except (OSError, ValueError, KeyError, TypeError):
            said.append(
                f"{path.name}: yours cannot be read as a notebook, or its base is gone; it stays "
                "as it is."
            )
            continue
        if _sources(before) == _sources(published):
            continue
        merged, beside = merge(own, before, published)
        _write(mine, merged)
        _write(base, published)
        where = f"; {beside} cells of yours stay, with the new ones beside them" if beside else ""
        said.append(f"{path.name} is up to date{where}.")
    return said


def merge(own: Notebook, before: Notebook, new: Notebook) -> tuple[Notebook, int]:
    """The learner's notebook brought up to `new`, and how many of its cells have the new one beside
    them.

    By cell id. Untouched cells become the new ones; changed ones stay; cells of the learner's own
    stay behind the cell that they stood behind; a published cell that the course dropped goes
    unless the learner changed it.
    """
    old, fresh = _by_id(before), _by_id(new)
    kept = {cell["id"]: cell for cell in own["cells"] if cell.get("id") in old}
    followers = _followers(own, {*old, *fresh})
    cells, beside = list(followers.get("", [])), 0
    for cell in new["cells"]:
        mine = kept.get(cell["id"])
        if mine is None:
            cells.append(cell)
        elif text_of(mine) == text_of(old[cell["id"]]):
            cells.append(mine if text_of(mine) == text_of(cell) else cell)
        else:
            cells.append(mine)
            if text_of(cell) not in (text_of(old[cell["id"]]), text_of(mine)):
                cells += _beside(cell)
                beside += 1
        cells += followers.get(cell["id"], [])
    for cell in own["cells"]:
        name = cell.get("id")
        if name in old and name not in fresh:
            cells += [cell] if text_of(cell) != text_of(old[name]) else []
            cells += followers.get(name, [])
    return {**new, "cells": cells}, beside


def _beside(cell: dict[str, Any]) -> list[dict[str, Any]]:
    note = {
        "id": f"{cell['id']}-note",
        "cell_type": "markdown",
        "metadata": {},
        "source": _lines(BESIDE),
    }
    return [note, {**copy.deepcopy(cell), "id": f"{cell['id']}-new"}]


def _followers(own: Notebook, published: set[str]) -> dict[str, list[dict[str, Any]]]:
    """The learner's own cells by the id of the published cell that they stand behind; "" at the
    top.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    last = ""
    for cell in own["cells"]:
        if cell.get("id") in published:
            last = cell["id"]
        else:
            found.setdefault(last, []).append(cell)
    return found


def text_of(cell: dict[str, Any]) -> str:
    """A cell's source as one text, however the file holds it."""
    source = cell["source"]
    return (source if isinstance(source, str) else "".join(source)).rstrip()


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _by_id(notebook: Notebook) -> dict[str, dict[str, Any]]:
    return {cell["id"]: cell for cell in notebook["cells"] if "id" in cell}


def _sources(notebook: Notebook) -> list[tuple[str, str]]:
    return [(cell.get("id", ""), text_of(cell)) for cell in notebook["cells"]]


def _lay(root: Path, path: Path) -> None:
    notebook = learners(_read(path))
    _write(root / FOLDER / path.name, notebook)
    _write(root / FOLDER / BASE / path.name, notebook)


def _read(path: Path) -> Notebook:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    _sources(notebook)  # KeyError or TypeError for what is JSON and no notebook
    return notebook


def _write(path: Path, notebook: Notebook) -> None:
    """Whole or not at all: a full disk must not cost a learner's notebook."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def progress(root: Path) -> str:
    """A line for each lesson: exercises solved of all, predictions that were hits of all
    guessed.
    """
    try:
        kept = json.loads((root / FOLDER / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = {}
    solved, guesses = kept.get("exercises", {}), kept.get("guesses", {})
    lines = []
    for path in lessons(root):
        number = path.name[:2]
        of_all = exercises(_read(path))
        done = len(of_all & set(solved))
        mine = [guess for name, guess in guesses.items() if name.startswith(f"{number}.")]
        hits = sum(bool(guess.get("hit")) for guess in mine)
        guessed = f", {hits} of {len(mine)} guesses were hits" if mine else ""
        title = path.stem[3:].replace("_", " ")
        lines.append(f"{number} {title:<32}{done} of {len(of_all)} exercises{guessed}")
    return "\n".join(lines)


def exercises(notebook: Notebook) -> set[str]:
    """Names of the exercises that a lesson checks."""
    found = (re.findall(r'\bcheck\("([\w.]+)"', text_of(cell)) for cell in notebook["cells"])
    return {name for names in found for name in names}
