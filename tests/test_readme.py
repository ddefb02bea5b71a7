"""The README is always true: its map names what exists and all that exists, its table is that of
results/.
"""

import json
import re
from pathlib import Path

import pytest

import lab
from tools import record

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "data").rglob("*.md")),
]
MAP = README.partition("lesson_lib/\n")[2].partition("```")[0]


def lesson_rows() -> list[list[str]]:
    rows = [line.strip("| ").split(" | ") for line in README.splitlines() if line.startswith("| [")]
    return [row for row in rows if "(notebooks/" in row[0]]


def test_every_lesson_has_one_row_in_order():
    named = [re.search(r"\(notebooks/([^)]+)\)", row[0])[1] for row in lesson_rows()]
    assert named == [path.name for path in lab.lessons()]


def test_a_lessons_row_says_what_the_lesson_says_and_names_modules_that_exist():
    for row, path in zip(lesson_rows(), lab.lessons()):
        lesson, modules, _, minutes = row
        opening = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        assert re.match(r"\[([^\]]+)\]", lesson)[1] == opening.splitlines()[0].removeprefix("# "), (
            lesson
        )
        assert minutes == re.search(r"(?i)about (\d+) minutes", opening)[1], lesson
        found = re.findall(r"`([\w/]+)`", modules)
        assert found, lesson
        for module in found:
            assert (ROOT / "lesson_lib" / module.rstrip("/")).exists() or (
                ROOT / "lesson_lib" / f"{module}.py"
            ).exists(), f"{lesson}: {module}"


def test_the_map_names_every_module():
    missing = [
        path.relative_to(ROOT)
        for path in sorted((ROOT / "lesson_lib").rglob("*.py"))
        if not path.stem.startswith(("__", "lesson"))
        and path.parent.name != "checks"
        and not re.search(rf"\b{path.stem}\b", MAP)
    ]
    assert not missing


def test_the_results_are_those_of_the_recorded_runs():
    assert record.readme(README) == README, "run tools/record.py readme"


def test_no_two_recipes_share_a_folder():
    recipes = {train for _, train, _ in record.RUNS.values()}
    assert len({record.folder_of(train, 0) for train in recipes}) == len(recipes)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target
