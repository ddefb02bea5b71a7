"""Readable before short: the linter's rules, and functions that fit on a screen."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 40  # lines of a function's body, without its docstring
ROOMS = ("lesson_lib", "tools", "benchmarks", "tests", "notebooks/capstone")


def long_functions(source: str, longest: int = LONGEST) -> list[str]:
    """ "line name lines" of each function whose body is longer, and that gives no reason.

    The reason is a comment `# long: ...` on the line of the `def`, or of its closing parenthesis.
    """
    lines = source.splitlines()
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        if not body or node.end_lineno is None:
            continue
        length = node.end_lineno - body[0].lineno + 1
        head = lines[node.lineno - 1 : node.body[0].lineno - 1] or [lines[node.lineno - 1]]
        if length > longest and not any("# long: " in line for line in head):
            found.append(f"{node.lineno} {node.name} {length}")
    return found


def test_functions_are_short_or_say_why():
    files = [*(f for room in ROOMS for f in sorted((ROOT / room).rglob("*.py"))), ROOT / "lab.py"]
    assert len(files) > 100
    found = {
        str(file.relative_to(ROOT)): long_functions(file.read_text(encoding="utf-8"))
        for file in files
    }
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source, found",
    [
        ("", []),
        ("def f():\n    pass\n", []),
        ('def f():\n    """A."""\n', []),
        ("def f():\n    a\n    b\n    c\n", ["1 f 3"]),
        ("def f():  # long: a table\n    a\n    b\n    c\n", []),
        ("def f(\n    x,\n):  # long: a table\n    a\n    b\n    c\n", []),
        ('def f():\n    """A\n\n    b.\n    """\n    a\n    b\n', []),
        ("class C:\n    async def g(self):\n        a\n\n        b\n", ["2 g 3"]),
    ],
)
def test_long_functions_are_found(source, found):
    assert long_functions(source, longest=2) == found


def test_the_linter_finds_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--output-format", "concise", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = [line for line in done.stdout.splitlines() if line.partition(":")[0].endswith(".py")]
    assert done.returncode in (0, 1) and not done.stderr, done.stderr
    assert found == []


def test_the_code_is_formatted():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
