"""The map of the package, read from its imports:
a room uses the rooms below it, never one above.
"""

import ast
import graphlib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = {  # the first part of a module's name after lesson_lib -> its room
    "threads": 0,
    "allocator": 0,
    "boxes": 0,
    "config": 0,
    "colours": 0,
    "files": 0,
    "anchors": 1,
    "coding": 1,
    "matching": 1,
    "atss": 1,
    "mining": 1,
    "losses": 1,
    "nms": 1,
    "evaluation": 1,
    "breakdown": 1,
    "data": 2,
    "weights": 2,
    "detectors": 3,
    "training": 4,
    "cli": 5,
    "__main__": 5,
    "course": 6,
}


def module_name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, name: str, known: set[str]) -> set[str]:
    """The modules of the package that a file imports, wherever in the file it does so."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            base = ".".join([*above, *([node.module] if node.module else [])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= (inner & known) | ({base} if not inner <= known else set())
    return {module for module in found if module.split(".")[0] == "lesson_lib"}


def graph(root: Path) -> dict[str, set[str]]:
    paths = {module_name(path, root): path for path in sorted((root / "lesson_lib").rglob("*.py"))}
    return {name: imports(path, name, set(paths)) - {name} for name, path in paths.items()}


def room(name: str) -> int:
    return ROOMS[name.split(".")[1]] if "." in name else -1  # lesson_lib itself: below everything


def faults(modules: dict[str, set[str]]) -> list[str]:
    """One sentence for each module without a room, each import that points up,
    and the first cycle.
    """
    strange = sorted(n for n in modules if "." in n and n.split(".")[1] not in ROOMS)
    if strange:
        return [f"{name} has no room; add it to ROOMS" for name in strange]
    found = [
        f"{name} (room {room(name)}) imports {used} (room {room(used)}), which is above it"
        for name, uses in modules.items()
        for used in sorted(uses)
        if room(used) > room(name)
    ]
    try:
        graphlib.TopologicalSorter(modules).prepare()
    except graphlib.CycleError as error:
        found.append("cycle: " + " -> ".join(error.args[1]))
    return found


def test_imports_point_down_and_never_in_a_circle():
    modules = graph(REPOSITORY)
    assert "lesson_lib.boxes" in modules["lesson_lib.matching"]  # the reader reads
    assert faults(modules) == []


@pytest.mark.parametrize(
    "files, words",
    [
        ({"boxes": "from lesson_lib.anchors import x", "anchors": ""}, ["boxes (room 0) imports"]),
        (
            {"losses": "def f():\n    import lesson_lib.course as p", "course/__init__": ""},
            ["losses (room 1) imports"],
        ),
        (
            {"nms": "from . import data", "data/__init__": ""},
            ["nms (room 1) imports lesson_lib.data (room 2)"],
        ),
        (
            {"data/__init__": "", "data/voc": "from ..cli import main", "cli": ""},
            ["data.voc (room 2) imports"],
        ),
        ({"nms": "from lesson_lib import mining", "mining": "from .nms import x"}, ["cycle"]),
        (
            {"data/__init__": "from .voc import a", "data/voc": "from lesson_lib.data import b"},
            ["cycle"],
        ),
        ({"misc": ""}, ["misc has no room"]),
        ({"nms": "from lesson_lib.boxes import a\nimport torch", "boxes": "import math"}, []),
    ],
)
def test_faults_are_found(tmp_path, files, words):
    for name, text in {"__init__": "", **files}.items():
        path = tmp_path / "lesson_lib" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = faults(graph(tmp_path))
    assert len(found) == len(words) and all(word in fault for word, fault in zip(words, found)), (
        found
    )
