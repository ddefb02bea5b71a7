"""The instructor's table is made from the lessons. `python tests/test_instructor.py` writes it
anew.
"""

import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import lab  # noqa: E402

PAGE, MARKS = ROOT / "docs" / "instructor.md", ("<!-- table -->", "<!-- end of table -->")


def row(path: Path) -> str:
    """One lesson: link, minutes and what it needs by its own first cells, exercises with the ids of
    their solutions.
    """
    cells = nbformat.read(path, 4).cells
    first = "\n".join(cell.source for cell in cells[:2] if cell.cell_type == "markdown")
    title = re.search(r"^# (.+)$", first, re.MULTILINE)[1]
    minutes = re.search(r"(\d+) minutes", first)[1]
    needs = re.search(r"(?:You need|Before this).*", first)
    after = re.findall(r"lessons? ((?:\d+(?:, | and | to )?)+)", needs[0] if needs else "")
    exercises, solutions = (
        [
            name
            for cell in cells
            if ("solution" in cell.metadata.get("tags", [])) == solved
            for name in re.findall(r'^check\("\d\d\.(\w+)"', cell.source, re.MULTILINE)
        ]
        for solved in (False, True)
    )
    ids = {
        name: cell.id
        for cell in cells
        if "solution" in cell.metadata.get("tags", [])
        for name in re.findall(r'^check\("\d\d\.(\w+)"', cell.source, re.MULTILINE)
    }
    assert path.name[:2] == "00" or sorted(exercises) == sorted(solutions), (
        f"{path.name}: a solution for each exercise"
    )
    told = ", ".join(f"{name} (`{ids[name]}`)" if name in ids else name for name in exercises)
    return (
        f"| [{title}](../notebooks/{path.name}) | {minutes} | "
        f"{'; '.join(dict.fromkeys(after)) or 'none'} | {told} |"
    )


def page(text: str) -> str:
    """The page with the table of today's lessons."""
    before, _, rest = text.partition(MARKS[0])
    table = [
        "| lesson | minutes | rests on | exercises (cell of the solution) |",
        "|---|---|---|---|",
        *map(row, lab.lessons()),
    ]
    return "\n".join([f"{before}{MARKS[0]}", *table, f"{MARKS[1]}{rest.partition(MARKS[1])[2]}"])


def test_the_table_is_that_of_the_lessons():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run: .venv/bin/python tests/test_instructor.py"
    assert page(text).count("\n| [") == len(lab.lessons())


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
