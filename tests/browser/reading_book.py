"""What a reader does with a page of the book, and what must be seen: each widget is found, moved,
and shows what Python worked out.
"""

import re
from html import unescape
from pathlib import Path
from typing import NamedTuple

import nbformat
from playwright.sync_api import Page

from lesson_lib.course import frames
from tools import book

MOVE = """([node, k, place]) => {
    const input = node.querySelectorAll('input, select')[k];
    if (input.type === 'checkbox') input.checked = place === 1; else input.value = place;
    input.dispatchEvent(new Event(input.type === 'range' ? 'input' : 'change', { bubbles: true }));
    return node.querySelector('.lesson-drawing').innerHTML;
}"""
PARSED = (
    "(text) => { const d = document.createElement('div'); d.innerHTML = text; return d.innerHTML; }"
)


def outputs(stem: str) -> list[tuple[str, dict]]:
    """(id of the cell, what is shown by MIME type) of each output of a published lesson."""
    notebook = nbformat.read(book.ROOT / "notebooks" / f"{stem}.ipynb", 4)
    return [
        (cell.id, output.get("data", {}))
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    ]


def check_figures(page: Page, stem: str) -> None:
    """Every figure of the lesson stands in the page, in order and alive; every slider is moved to
    its ends and its middle, and shows the frame that Python drew."""
    kinds = ("SliderFigure", "BoxPlayground")
    expected = [cell for cell, data in outputs(stem) if data.get("text/plain") in kinds]
    packed = book.stored_frames(stem[:2])
    page.wait_for_function(
        "(n) => document.querySelectorAll('.lesson-figure[data-live]').length === n",
        arg=len(expected),
    )
    nodes = page.locator(".lesson-figure").all()
    assert [node.get_attribute("data-cell") for node in nodes] == expected
    for cell, node in zip(expected, nodes, strict=True):
        if "frames" not in packed[cell]:
            continue  # test_drags.py drags these
        controls = packed[cell]["controls"]
        places = [control["start"] for control in controls]
        for k, control in enumerate(controls):
            for place in {0, len(control["texts"]) - 1, len(control["texts"]) // 2}:
                places[k] = place
                seen = page.evaluate(MOVE, [node.element_handle(), k, place])
                drawn = frames.frame(packed[cell], places)
                assert seen == page.evaluate(PARSED, drawn), (cell, places)


class Asked(NamedTuple):
    """A question of a published lesson: where it is answered, and what with."""

    name: str
    cell: str
    answer: str
    choices: list[str]


def questions(stem: str) -> list[Asked]:
    """Every question that a published lesson asks and answers, in order."""
    stills, answers = {}, {}
    for cell, data in outputs(stem):
        html = data.get("text/html", "")
        if asked := re.search(r'class="predict" data-predict="([^"]+)".*?>(.*)</div>$', html):
            stills[asked[1]] = asked[2].partition("<br>")[2]
        elif told := re.search(r'class="reveal" data-predict="([^"]+)".*?<b>([^<]*)</b>', html):
            answers[told[1]] = cell, unescape(told[2])
    assert stills.keys() == answers.keys()
    return [
        Asked(name, *answers[name], re.split(r"\s+·\s+", unescape(still)) if still else [])
        for name, still in stills.items()
    ]


def check_predictions(page: Page, stem: str) -> None:
    """Every question is asked, with its choices as buttons or a field for its number; what answers
    it is out of sight until it is answered; the lesson's own answer is a hit."""
    asked = questions(stem)
    boxes = page.locator(".predict").all()
    assert [box.get_attribute("data-predict") for box in boxes] == [one.name for one in asked]
    for question, box in zip(asked, boxes, strict=True):
        fold = page.locator(f".reveal[data-predict='{question.name}']")
        code = page.locator(".cell", has=fold).locator(".cell_input")
        assert not fold.is_visible() and not code.is_visible(), question
        assert box.locator("form").count() == (not question.choices), question
        if question.choices:
            buttons = box.get_by_role("button")
            assert buttons.all_inner_texts() == question.choices
            buttons.nth(question.choices.index(question.answer)).click()
        else:
            box.locator("input").fill(re.match(r"[-\d.,e]+", question.answer).group())
            box.get_by_role("button").click()
        assert box.locator("output").inner_text().endswith((": a hit.", ": right.")), question
        others = {one.name for one in asked[: asked.index(question) + 1]}
        waits = {one.name for one in asked if one.cell == question.cell} - others
        solution = page.locator("details.hide", has=fold).count()  # stays folded
        assert fold.is_visible() == (not waits and not solution), question
    if asked:
        said = page.locator(".lesson-score").inner_text()
        one = len(asked) == 1
        hits, guesses = ("hit", "guess") if one else ("hits", "guesses")
        assert f" {len(asked)} {hits} of {len(asked)} {guesses}, {len(asked)} asked" in said


def replaced(file: Path, old: str, new: str) -> None:
    """Plants a fault in a script of a copied page."""
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
