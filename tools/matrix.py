"""Run the tests and the lessons on every kind of machine, Python and torch that are supported.

    python tools/matrix.py run --envs DIR [--only WORD ...] [--again]   what is still missing
    python tools/matrix.py table                                        into the contributing page

A run is one (Python, pair of torch and torchvision, machine): everything on this machine as it is,
with each Python and pair; and all that computes on imitated machines, with one of them. --only
keeps those that have every word ("3.12 oldest", "native"). DIR holds an environment for each Python
and pair, 6 GB each, made when a run first needs it; keep it outside of the repository. Stop it at
any time: each finished run is in the file at once, and the same command goes on. Machines are
imitated as in `lab.py test --machine`; what this one cannot imitate, and a Python that it lacks, is
told and left out.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import lab  # noqa: E402  the settings that tests are run with, in one place
from lesson_lib.files import write_whole  # noqa: E402
from tools.marks import put  # noqa: E402
from tools.notebooks import processor  # noqa: E402

RECORD = ROOT / "results" / "matrix.json"
PAGE = ROOT / "docs" / "contributing.md"
MARKS = "<!-- matrix: written by tools/matrix.py -->", "<!-- end of the matrix -->"
PYTHONS = ("3.11", "3.12", "3.13")
#: What replaces pins of requirements.txt: the pair that pyproject.toml begins its ranges with (that
#: torch asks for setuptools below 82), and nothing.
PAIRS = {
    "oldest": {"torch": "2.11.0", "torchvision": "0.26.0", "setuptools": "81.0.0"},
    "newest": {},
}
MACHINES = ("native", *lab.MACHINES)


class Case(NamedTuple):
    """One run of everything."""

    python: str
    pair: str
    machine: str


#: Every Python with every pair as this machine is; and on one of them what another processor or
#: number of threads changes, which lies in torch's kernels and not in the Python above them.
CASES = [Case(python, pair, "native") for python in PYTHONS for pair in PAIRS]
CASES += [Case("3.11", "newest", machine) for machine in lab.MACHINES]
#: Tests that compute nothing a processor could change (texts, files, pages, tools, the browser):
#: an imitated machine runs the lessons and all the others.
UNTOUCHED = (
    "browser",
    "test_catalog.py",
    "test_coco.py",
    "test_convert.py",
    "test_corruptions.py",
    "test_instructor.py",
    "test_inspect.py",
    "test_lab.py",
    "test_lesson_map.py",
    "test_margins.py",
    "test_matrix.py",
    "test_notebook_tools.py",
    "test_notebooks.py",
    "test_odd_input.py",
    "test_package.py",
    "test_published_sets.py",
    "test_readme.py",
    "test_rooms.py",
    "test_style.py",
    "test_text.py",
    "test_types.py",
    "test_voc.py",
    "test_workspace.py",
    "test_yolo.py",
)


def recorded() -> list[dict[str, Any]]:
    """Every finished run."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else []


def keep(runs: list[dict[str, Any]]) -> None:
    """Write the runs in the order of CASES."""
    runs = sorted(runs, key=lambda r: CASES.index(case_of(r)))
    write_whole(RECORD, (json.dumps(runs, indent=1) + "\n").encode())


def case_of(run: dict[str, Any]) -> Case:
    """Which of the cases a record belongs to."""
    return Case(run["python"], run["pair"], run["machine"])


def find_python(version: str) -> str | None:
    """A Python of this version: on the path, or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [shutil.which(f"python{version}")]
    found += sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python")), reverse=True)
    for python in filter(None, found):
        ask = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.run(ask, capture_output=True, text=True)
        if answer.stdout.strip() == version:
            return python
    return None


def requirements(pair: str) -> str:
    """requirements.txt with the pair's versions in place of the pinned ones."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for name, version in PAIRS[pair].items():
        text = re.sub(rf"^{name}==.*$", f"{name}=={version}", text, flags=re.MULTILINE)
    return text.replace("-e .", f"-e {ROOT}")


def environment(folder: Path, python: str, pair: str) -> str | None:
    """Path of the Python in the environment of a version and a pair, made if need be; None without
    it."""
    home = folder / f"{python}-{pair}"
    inner, stamp = home / "bin" / "python", home / "requirements.txt"
    wanted = requirements(pair)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return str(inner)
    base = find_python(python)
    if base is None:
        return None
    print(f"Making the environment {home.name} ...", flush=True)
    home.mkdir(parents=True, exist_ok=True)
    listed = home / "wanted.txt"
    listed.write_text(wanted, encoding="utf-8")
    if uv := shutil.which("uv"):
        make = [uv, "venv", "--quiet", "--seed", "--allow-existing", "--python", base, str(home)]
        fill = [uv, "pip", "install", "--quiet", "--python", str(inner), "-r", str(listed)]
    else:
        make = [base, "-m", "venv", str(home)]
        fill = [str(inner), "-m", "pip", "install", "--quiet", "-r", str(listed)]
    for command in (make, fill):
        if subprocess.run(command, cwd=ROOT).returncode:
            sys.exit(f"The environment {home} could not be made; the reason stands above.")
    listed.rename(stamp)
    return str(inner)


def measure(case: Case, python: str) -> dict[str, Any]:
    """Run all tests and lessons once; on an imitated machine without those that it leaves as they
    are.
    """
    imitated = {} if case.machine == "native" else lab.imitation(case.machine)
    env = lab.clean_environment(**lab.REPRODUCIBLE | imitated)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = "-q -n 2 --dist loadscope --nbval --nbval-current-env --nbval-cell-timeout=1200"
        command = [python, "-m", "pytest", *options.split(), f"--junitxml={report}", "tests"]
        if imitated:
            command += [f"--ignore=tests/{name}" for name in UNTOUCHED]
        subprocess.run([*command, *map(str, lab.lessons())], cwd=ROOT, env=env)
        found = outcome(report.read_text(encoding="utf-8"))
    versions = "import torch, torchvision; print(torch.__version__, torchvision.__version__)"
    pair = subprocess.run([python, "-c", versions], capture_output=True, text=True, check=True)
    return case._asdict() | {
        "versions": re.sub(r"\+\w+", "", pair.stdout.strip()),
        **found,
        "seconds": round(time.perf_counter() - started),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": processor(),
    }


def outcome(report: str) -> dict[str, Any]:
    """What pytest's report (JUnit's XML) says: how many passed and were skipped, and which
    failed."""
    cases = list(ElementTree.fromstring(report).iter("testcase"))
    failures = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(failures) - skipped,
        "skipped": skipped,
        "failures": sorted(failures),
    }


def impossible(case: Case) -> str:
    """Why this machine cannot run a case, or ""."""
    if case.machine != "native":
        try:
            lab.imitation(case.machine)
        except SystemExit as reason:
            return str(reason)
    return ""


def run(folder: Path, words: list[str], again: bool) -> int:
    """Run what is missing; 1 when something failed."""
    chosen = [case for case in CASES if set(words) <= set(case)]
    done = [] if again else [case_of(run) for run in recorded()]
    failed = False
    for case in (case for case in chosen if case not in done):
        python = environment(folder, case.python, case.pair)
        reason = impossible(case) if python else f"there is no Python {case.python} here."
        if reason or python is None:
            print(f"{' '.join(case)}: left out, {reason}", flush=True)
            continue
        found = measure(case, python)
        keep([other for other in recorded() if case_of(other) != case] + [found])
        print(" ".join(case), told(found), *found["failures"], sep="\n  ", flush=True)
        failed |= bool(found["failures"])
    return int(failed)


def told(run: dict[str, Any]) -> str:
    """A run in a cell of the table."""
    count = len(run["failures"])
    return f"**{count} failed**, {run['passed']:,} passed" if count else f"{run['passed']:,} passed"


def table() -> str:
    """Markdown: a row for each Python and pair, a column for each machine, and when it was
    measured."""
    runs = {case_of(run): run for run in recorded()}
    rows = [
        f"| Python | torch, torchvision | {' | '.join(MACHINES)} |",
        "|---|---|" + "---|" * len(MACHINES),
    ]
    for python in PYTHONS:
        for pair in PAIRS:
            cells = [runs.get(Case(python, pair, machine)) for machine in MACHINES]
            versions = next((run["versions"] for run in cells if run), None)
            if versions:
                shown = " | ".join(told(run) if run else "-" for run in cells)
                rows.append(f"| {python} | {versions.replace(' ', ', ')} | {shown} |")
    dates = sorted({run["date"] for run in runs.values()})
    where = " and ".join(sorted({run["processor"] for run in runs.values()}))
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    rows += ["", f"Measured {when} on {where}, by `tools/matrix.py`."]
    if missing := [" ".join(case) for case in CASES if case not in runs]:
        rows.append(f"Not run: {', '.join(missing)}.")
    return "\n".join(rows)


def write_table() -> int:
    """Put the table between its two marks in the contributing page."""
    if not recorded():
        sys.exit("Nothing was measured yet: python tools/matrix.py run --envs DIR")
    text = PAGE.read_text(encoding="utf-8")
    write_whole(PAGE, put(text, MARKS, table()).encode())
    return 0


def main(line: list[str]) -> int:
    """Run what is missing, or write the table."""
    parser = argparse.ArgumentParser(
        prog="tools/matrix.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    options = commands.add_parser("run", help="run what is missing")
    options.add_argument("--envs", type=Path, required=True, help="folder of the environments")
    options.add_argument("--only", nargs="*", default=[], metavar="WORD")
    options.add_argument("--again", action="store_true", help="run what was run before, too")
    commands.add_parser("table", help="write the table into docs/contributing.md")
    asked = parser.parse_args(line)
    if asked.command == "table":
        return write_table()
    return run(asked.envs.resolve(), asked.only, asked.again)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
