"""What a reader does with a page of the book, and what must be seen: each widget is found, moved,
and shows what Python worked out.
"""

import re
from html import unescape

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


def check_predictions(page: Page, stem: str) -> None:
    """Every question whose answer the page tells is asked, and takes that answer for a hit."""
    html = "\n".join(data.get("text/html", "") for _, data in outputs(stem))
    asked = re.findall(r'class="predict" data-predict="([^"]+)"', html)
    answers = dict(re.findall(r'class="reveal" data-predict="([^"]+)".*?<b>([^<]*)</b>', html))
    boxes = page.locator(".predict").all()
    assert [box.get_attribute("data-predict") for box in boxes] == asked
    answered = 0
    for name, box in zip(asked, boxes, strict=True):
        field, number = box.locator("input"), re.match(r"[-\d.,e]+", answers.get(name, ""))
        if name not in answers or (field.count() and not number):
            continue
        if field.count():
            field.fill(number.group())
            box.locator("button").click()
        else:
            box.locator("button").get_by_text(unescape(answers[name]), exact=True).click()
        assert box.locator("output").text_content().endswith((": a hit.", ": right.")), name
        answered += 1
    assert answered >= len(answers) / 2
    if asked:
        said = page.locator(".lesson-score").text_content()
        assert f" {answered} hits of {answered} guesses" in said
