"""The capstone's files start empty, and the ladder that they lead to can be climbed with torch
alone.
"""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lesson_lib.course.checks.ladder import RUNGS, ladder

ROOT = Path(__file__).resolve().parent.parent
KINDS = {"my_ssd": "ssd", "my_retinanet": "retinanet"}


@pytest.fixture
def solution(monkeypatch):
    """solution(name) -> the module from tests/capstone_solution."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "capstone_solution"))
    for name in KINDS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in KINDS:
        sys.modules.pop(name, None)


@pytest.fixture
def climb(capsys):
    """climb(detector, kind) -> the lines that the ladder prints."""

    def lines(detector, kind: str, until: str = "metric gate") -> list[str]:
        ladder(detector, kind, until)
        return capsys.readouterr().out.splitlines()

    return lines


@pytest.mark.parametrize("name", KINDS)
def test_the_published_file_is_empty_and_the_ladder_says_so(climb, name):
    """As published: a learner's own work in the file must fail nothing."""
    shown = subprocess.run(
        ["git", "show", f"HEAD:notebooks/capstone/{name}.py"], cwd=ROOT, capture_output=True
    )
    if shown.returncode:
        pytest.skip("without git nobody knows what the published file was")
    module = ModuleType(name)
    exec(shown.stdout.decode(), module.__dict__)
    assert climb(module, KINDS[name]) == ["○ 1 shapes: not attempted yet"]
    methods = {"forward", "anchors", "criterion", "detections"}
    assert methods <= vars(module.Detector).keys() and all(
        vars(module.Detector)[m].__doc__ for m in methods
    )


@pytest.mark.parametrize("name", KINDS)
def test_the_ladder_can_be_climbed(climb, solution, name):
    lines = climb(solution(name), KINDS[name])
    assert len(lines) == len(RUNGS) and all(line.startswith("✓") for line in lines), "\n".join(
        lines
    )
    source = (ROOT / "tests" / "capstone_solution" / f"{name}.py").read_text()
    assert "lesson_lib" not in source and "torchvision.models" not in source


@pytest.mark.parametrize(
    "name, method, break_it, rung",
    [
        ("my_ssd", "anchors", lambda right: lambda *a: right(*a).flip(0), "1 shapes"),
        (
            "my_ssd",
            "criterion",
            lambda right: lambda *a: {k: 1.1 * v for k, v in right(*a).items()},
            "2 known batch",
        ),
        (
            "my_retinanet",
            "criterion",
            lambda right: lambda o, a, t: right(o, a, t[:1] * len(t)),
            "2 known batch",
        ),
    ],
)
def test_a_broken_solution_falls(climb, solution, name, method, break_it, rung):
    detector = solution(name).Detector(3, 128)
    setattr(detector, method, break_it(getattr(detector, method)))
    assert climb(detector, KINDS[name], until="known batch")[-1].startswith(f"✗ {rung}")
