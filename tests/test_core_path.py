"""Lesson 2 has a core path that is short, and side rooms after it that are folded away."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell

import lab
from tools.compare import tags

CELLS, WORDS = 45, 2200
FOLDED = {"hide-input", "hide-cell"}
NOT_WORDS = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)|<[^>]+>", re.DOTALL)


def parts(cells: list) -> tuple[list, list]:
    """The cells before the heading "Side rooms", and those from it on."""
    start = next(
        (i for i, cell in enumerate(cells) if cell.source.startswith("## Side rooms")), len(cells)
    )
    return cells[:start], cells[start:]


def word_count(cells: list) -> int:
    """Words of the text cells; a formula, a link's address and a tag count as none."""
    texts = [NOT_WORDS.sub(" ", cell.source) for cell in cells if cell.cell_type == "markdown"]
    return sum(len(re.findall(r"\w[\w.,'’-]*", text)) for text in texts)


def faults(cells: list) -> list[str]:
    """What is wrong with a lesson of a core path and side rooms, in words."""
    core, rooms = parts(cells)
    found = [] if rooms else ["there are no side rooms"]
    if len(core) > CELLS:
        found.append(f"{len(core)} cells in the core, at most {CELLS}")
    if word_count(core) >= WORDS:
        found.append(f"{word_count(core)} words in the core, fewer than {WORDS} are wanted")
    found += [
        f"{cell.id} is not folded"
        for cell in rooms
        if cell.cell_type == "code" and not FOLDED & set(tags(cell))
    ]
    return found


def test_the_core_of_lesson_2_is_short():
    (path,) = (path for path in lab.lessons() if path.name.startswith("02"))
    assert faults(nbformat.read(path, 4).cells) == []


ROOMS = [
    new_markdown_cell("## Side rooms\nA"),
    new_code_cell("1", metadata={"tags": ["hide-input"]}),
]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([new_markdown_cell("a")] * (CELLS + 1) + ROOMS, "46 cells in the core"),
        ([new_markdown_cell("word " * WORDS), *ROOMS], "2200 words in the core"),
        ([*ROOMS, new_code_cell("2", id="bare")], "bare is not folded"),
        ([new_markdown_cell("a")], "no side rooms"),
    ],
)
def test_a_long_core_or_an_open_room_is_found(cells, said):
    (fault,) = faults(cells)
    assert said in fault


def test_a_formula_is_no_word():
    text = "two words $a + b$ [and](https://example.org/a-b) <b>four</b>\n$$c = \\frac{d}{e}$$"
    assert word_count([new_markdown_cell(text)]) == 4
