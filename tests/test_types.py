"""The static type check: of the whole library with the course, and of the tools."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pyright(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the checker says of a folder, by the settings in its pyproject.toml."""
    command = [sys.executable, "-m", "basedpyright", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")


def type_errors(folder: Path) -> list[str]:
    """Its lines, of what is wrong and where; the last one of each error names the rule."""
    done = pyright(folder, "--pythonpath", sys.executable)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: errors; above: settings
    lines = done.stdout.splitlines()
    assert lines and "0 notes" in lines[-1], done.stdout + done.stderr
    return lines[:-1]


@pytest.fixture(scope="module", autouse=True)
def checker():
    """The tests are skipped, with the reason, where basedpyright or its JavaScript cannot run, and
    with another torch than the pinned one, whose own annotations differ."""
    pytest.importorskip("basedpyright")
    pinned = re.search(
        r"^torch==(\S+)$", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE
    )
    assert pinned
    if version("torch").partition("+")[0] != pinned[1]:
        pytest.skip(f"types are checked with torch {pinned[1]}, and this is {version('torch')}")
    done = pyright(ROOT, "--version")
    if done.returncode != 0:
        pytest.skip(f"basedpyright cannot run here: {done.stderr.strip().splitlines()[-1:]}")


def test_the_types_agree():
    assert type_errors(ROOT) == []


@pytest.mark.parametrize(
    "source, rule",
    [
        ("", ""),
        ("def half(x: int) -> int:\n    return x // 2\n\n\nhalf('a')\n", "reportArgumentType"),
        ("def half(x: int) -> int:\n    return x / 2\n", "reportReturnType"),
        ("x = 1  # type: ignore\n", "reportIgnoreCommentWithoutRule"),
        ("x = 1  # pyright: ignore[reportReturnType]  no more\n", "reportUnnecessaryTypeIgnore"),
    ],
    ids=lambda value: value if value.startswith("report") else "",
)
def test_what_is_wrong_is_found(tmp_path, source, rule):
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(settings, encoding="utf-8")
    for name in ("lesson_lib", "tools"):  # what the settings include
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "lesson_lib" / "planted.py").write_text(source, encoding="utf-8")
    found = type_errors(tmp_path)
    assert bool(found) is bool(rule)
    assert any(rule in line for line in found) or not rule, found


def test_what_is_overruled_says_why():
    """A reason stands behind each rule that a line is let off from."""
    let_off = re.compile(r"# (?:type|pyright): ignore(?:\[\w+\])?(.*)")
    files = [file for room in ("lesson_lib", "tools") for file in (ROOT / room).rglob("*.py")]
    reasons = {
        f"{file.name}: {line.strip()}": found[1].strip()
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        if (found := let_off.search(line))
    }
    assert reasons and [line for line, reason in reasons.items() if not reason] == []
