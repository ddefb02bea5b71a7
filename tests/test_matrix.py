"""Runs over machines, Pythons and torch pairs: tools/matrix.py, without running anything long."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lab
from tools import matrix
from tools.matrix import Case

ROOT = Path(lab.__file__).parent
REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_boxes" name="test_iou[1]"/>
<testcase classname="tests.test_boxes" name="test_giou"><failure message="no"/></testcase>
<testcase classname="notebooks/01.ipynb" name="Cell 3"><error message="no"/></testcase>
<testcase classname="tests.test_browser" name="test_page"><skipped message="none"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, "RECORD", tmp_path / "matrix.json")
    monkeypatch.setattr(matrix, "PAGE", tmp_path / "page.md")
    return tmp_path


def result(case: Case, failures: list[str] | None = None) -> dict:
    more = {"versions": "2.14.1 0.29.2", "passed": 1204, "skipped": 2, "failures": failures or []}
    return case._asdict() | more | {"seconds": 9, "date": "2026-11-28", "processor": "a machine"}


def test_the_oldest_pair_is_the_one_that_the_package_begins_with():
    project = (ROOT / "pyproject.toml").read_text()
    oldest = matrix.PAIRS["oldest"]
    for name in ("torch", "torchvision"):
        assert oldest[name].startswith(re.search(rf'"{name}>=([\d.]+),', project)[1])
    for name, version in oldest.items():
        assert f"\n{name}=={version}\n" in matrix.requirements("oldest")
    newest = matrix.requirements("newest")
    pinned = (ROOT / "requirements.txt").read_text()
    assert newest == pinned.replace("-e .", f"-e {ROOT}") and newest != pinned


def test_a_python_is_found_on_the_path_or_among_pyenvs(place, monkeypatch):
    here = "{}.{}".format(*sys.version_info)
    monkeypatch.setattr(matrix.shutil, "which", lambda name: None)
    monkeypatch.setenv("PYENV_ROOT", str(place))
    assert matrix.find_python(here) is None
    inner = place / "versions" / f"{here}.9" / "bin" / "python"
    inner.parent.mkdir(parents=True)
    inner.symlink_to(sys.executable)
    assert matrix.find_python(here) == str(inner)
    wrong = place / "versions" / "3.99.1" / "bin" / "python"  # a shim that starts another version
    wrong.parent.mkdir(parents=True)
    wrong.symlink_to(sys.executable)
    assert matrix.find_python("3.99") is None


def test_a_report_is_counted():
    assert matrix.outcome(REPORT) == {
        "passed": 1,
        "skipped": 1,
        "failures": ["notebooks/01.ipynb::Cell 3", "tests.test_boxes::test_giou"],
    }


@pytest.fixture
def measured(monkeypatch):
    """The cases that were run; 3.13 is missing here, and so are the instructions of avx512."""
    done = []

    def measure(case: Case, python: str) -> dict:
        done.append(case)
        return result(case, ["a::b"] if case.machine == "default" else [])

    def imitation(machine: str) -> dict:
        return sys.exit("it lacks avx512f") if machine == "avx512" else {machine: "1"}

    monkeypatch.setattr(matrix, "measure", measure)
    monkeypatch.setattr(matrix.lab, "imitation", imitation)
    monkeypatch.setattr(
        matrix, "environment", lambda folder, python, pair: None if python == "3.13" else python
    )
    return done


def test_what_is_missing_is_run_and_what_is_impossible_is_told(place, measured, capsys):
    assert matrix.main(["run", "--envs", str(place), "--only", "oldest", "native"]) == 0
    assert measured == [Case("3.11", "oldest", "native"), Case("3.12", "oldest", "native")]
    said = capsys.readouterr().out
    assert "3.13 oldest native: left out, there is no Python 3.13 here." in said
    measured.clear()
    assert matrix.main(["run", "--envs", str(place), "--only", "3.11", "newest"]) == 1
    assert measured.pop(0) == Case("3.11", "newest", "native")
    assert [case.machine for case in measured] == ["default", "avx2", "threads1", "threads2"]
    said = capsys.readouterr().out
    assert "3.11 newest avx512: left out, it lacks avx512f" in said
    assert "3.11 newest default\n  **1 failed**, 1,204 passed\n  a::b" in said
    measured.clear()
    matrix.main(["run", "--envs", str(place), "--only", "3.11", "oldest", "native", "--again"])
    assert measured == [Case("3.11", "oldest", "native")]


def test_the_table_stands_in_the_page(place, measured):
    with pytest.raises(SystemExit, match="Nothing was measured yet"):
        matrix.main(["table"])
    matrix.PAGE.write_text(f"before\n{matrix.MARKS[0]}\nold\n{matrix.MARKS[1]}\nafter\n")
    matrix.main(["run", "--envs", str(place), "--only", "3.11", "newest"])
    assert matrix.main(["table"]) == matrix.main(["table"]) == 0
    lines = matrix.PAGE.read_text().splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in lines
    assert lines[4] == (
        "| 3.11 | 2.14.1, 0.29.2 | 1,204 passed | **1 failed**, 1,204 passed | 1,204 passed | "
        "- | 1,204 passed | 1,204 passed |"
    )
    assert "Measured 2026-11-28 on a machine, by `tools/matrix.py`." in lines
    missing = next(line for line in lines if line.startswith("Not run: "))
    assert "3.12 oldest native" in missing and "3.11 newest avx512" in missing
    assert "3.11 newest native" not in missing


def test_an_imitated_machine_leaves_out_what_it_cannot_change(monkeypatch):
    """Every name left out exists, and nothing is left out on this machine as it is."""
    assert all((ROOT / "tests" / name).exists() for name in matrix.UNTOUCHED)
    commands = []

    def run(command: list[str], **_):
        commands.append(command)
        if "pytest" in command:
            report = next(word for word in command if word.startswith("--junitxml="))
            Path(report.partition("=")[2]).write_text(REPORT)
        return subprocess.CompletedProcess(command, 0, stdout="2.14.1 0.29.2\n")

    monkeypatch.setattr(matrix.subprocess, "run", run)
    for machine in ("native", "threads2"):
        matrix.measure(Case("3.11", "newest", machine), sys.executable)
    native, imitated = (command for command in commands if "pytest" in command)
    assert not any(word.startswith("--ignore") for word in native)
    assert [word for word in imitated if word.startswith("--ignore")] == [
        f"--ignore=tests/{name}" for name in matrix.UNTOUCHED
    ]
    lessons = {str(path) for path in lab.lessons()}
    assert lessons < set(native) and lessons < set(imitated)


def test_the_contributing_page_has_a_place_for_the_table():
    page = (ROOT / "docs" / "contributing.md").read_text()
    assert page.index(matrix.MARKS[0]) < page.index(matrix.MARKS[1])
