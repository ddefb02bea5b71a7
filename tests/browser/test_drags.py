"""Boxes dragged in the book, with mouse and keys: what stands under the picture and what is drawn
over it is what the lesson's own Python answers for the same boxes.
"""

import functools
import re
from typing import Any, NamedTuple

import nbformat
import pytest
import torch
from live_lab import Playground
from playwright.sync_api import Locator, Page
from trim import needed

import lab
from lesson_lib.course import widgets
from lesson_lib.course.widgets import BoxPlayground
from tools import book


class Place(NamedTuple):
    """A playground of a lesson."""

    stem: str
    cell: str


def places() -> list[Place]:
    """Every playground that the published lessons show."""
    return [
        Place(path.stem, cell.id)
        for path in lab.lessons()
        for cell in nbformat.read(path, 4).cells
        for output in cell.get("outputs", [])
        if output.get("data", {}).get("text/plain") == "BoxPlayground"
    ]


PLACES = places()


@functools.cache
def in_python(place: Place) -> BoxPlayground:
    """The widget itself, made by the lesson's own cells."""
    made = []

    class Kept(BoxPlayground):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    notebook, scope = nbformat.read(book.ROOT / "notebooks" / f"{place.stem}.ipynb", 4), {}
    kept = needed(notebook, place.cell)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(widgets, "BoxPlayground", Kept)
        patch.setenv("LESSON_PROGRESS", "none")
        patch.setenv("LESSON_BUDGET", "ci")
        for cell in notebook.cells:
            if cell.id in kept:
                exec(compile(cell.source, cell.id, "exec"), scope)
    return made[-1]


#: What is drawn over the picture, as `svg.shape` names it; lines under lines are left out.
DRAWN = """(root) => [...root.querySelectorAll('path[data-kind]')].map((path) => ({
    kind: path.dataset.kind, d: path.getAttribute('d'), stroke: path.getAttribute('stroke'),
    width: Number(path.getAttribute('stroke-width')), dash: path.getAttribute('stroke-dasharray'),
    fill: path.getAttribute('fill'), opacity: Number(path.getAttribute('fill-opacity')),
    owner: path.dataset.owner === undefined ? null : Number(path.dataset.owner),
}))"""


def same(playground: Playground, asked: BoxPlayground) -> str:
    """Asserts that the page shows what Python answers for its boxes; the sentence."""
    request = {"seq": asked.canvas.request["seq"] + 1, "boxes": playground.boxes()}
    asked.canvas.request = request
    answer = asked.canvas.answer
    assert playground.readout() == answer["readout"]
    expected = [{"owner": None} | {k: v for k, v in shape.items() if k != "casing"}
                for shape in answer["shapes"]]  # fmt: skip
    assert playground.root.evaluate(DRAWN) == expected
    return answer["readout"]


def choose(control: Locator, place: int) -> None:
    """Moves a control of the page to one of its places, as a hand does."""
    kind = control.evaluate("(node) => node.type")
    if kind == "checkbox":
        control.set_checked(place == 1)
    elif kind == "range":
        control.fill(str(place))
    else:
        control.select_option(index=place)


@pytest.mark.parametrize("place", PLACES, ids=lambda one: f"{one.stem[:2]} {one.cell}")
def test_dragged_boxes_are_answered_as_python_answers(page: Page, site, faults, place):
    asked = in_python(place)
    page.goto(f"{site}/notebooks/{place.stem}.html")
    figure = page.locator(f".lesson-figure[data-live][data-cell='{place.cell}']")
    playground = Playground(figure.locator(".box-playground"))
    said = {same(playground, asked)}
    for box in range(len(playground.boxes())):
        before = playground.boxes()
        playground.drag(box, 17 - 9 * box, 11)
        assert playground.boxes() != before
        said.add(same(playground, asked))
        playground.press(box, "ArrowRight", "Shift+ArrowUp", "Alt+ArrowDown")
        said.add(same(playground, asked))
    controls = figure.locator(".lesson-control :is(input, select)").all()
    stored = book.stored_frames(place.stem[:2])[place.cell]["controls"]
    assert len(controls) == len(stored) == len(asked.controls)
    for control, kept, widget in zip(controls, stored, asked.controls.values(), strict=True):
        for k in {0, len(kept["values"]) // 2, len(kept["values"]) - 1}:
            choose(control, k)
            widget.value = kept["values"][k]
            said.add(same(playground, asked))
    assert len(said) > 1
    assert faults == []


def test_a_corner_is_dragged(page: Page, site, faults):
    place = PLACES[0]
    asked = in_python(place)
    page.goto(f"{site}/notebooks/{place.stem}.html")
    figure = page.locator(f".lesson-figure[data-live][data-cell='{place.cell}']")
    playground = Playground(figure.locator(".box-playground"))
    before = playground.boxes()
    handle = figure.locator("[data-box='1'] circle").nth(2)
    handle.scroll_into_view_if_needed()
    corner = handle.bounding_box()
    x, y = (corner["x"] + corner["width"] / 2, corner["y"] + corner["height"] / 2)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y - 20, steps=5)
    page.mouse.up()
    after = playground.boxes()
    assert after[0] == before[0] and after[1][:2] == before[1][:2]
    assert after[1][2] > before[1][2] and after[1][3] < before[1][3]
    same(playground, asked)
    assert faults == []


#: The page's answers for many places of the boxes, without a hand that moves them.
ANSWERED = """async ([address, state, scenes]) => {
    const { Model } = await import(address);
    const model = new Model(state);
    return scenes.map(([boxes, values]) => {
        model.set("request", { seq: 1, boxes });
        Object.assign(model.values, values);
        model.save_changes();
        const { readout, shapes } = model.get("answer");
        return [readout, shapes.map(({ d }) => d)];
    });
}"""


def scenes(asked: BoxPlayground, count: int) -> list[tuple[list, dict]]:
    """Places for the boxes, to a tenth of a pixel, every third on whole pixels, where ties are;
    and values of the controls."""
    draw = torch.Generator().manual_seed(14)
    width, height = asked.canvas.size
    found = []
    for k in range(count):
        corner = torch.rand(len(asked.boxes), 2, generator=draw)
        side = torch.rand(len(asked.boxes), 2, generator=draw) ** 2 * 0.5 + 0.02
        low = (corner * (1 - side)) * torch.tensor([width, height])
        boxes = torch.cat((low, low + side * torch.tensor([width, height])), 1).double()
        boxes = boxes.round(decimals=1 if k % 3 else 0)
        found.append((boxes.tolist(), {}))
    return found


@pytest.mark.parametrize("place", PLACES, ids=lambda one: f"{one.stem[:2]} {one.cell}")
def test_two_hundred_places_are_answered_as_python_answers(page: Page, site, place):
    asked = in_python(place)
    kept = book.stored_frames(place.stem[:2])[place.cell]
    values = {one["name"]: one["values"] for one in kept["controls"]}
    drawn = [
        (boxes, {name: stops[k % len(stops)] for name, stops in values.items()})
        for k, (boxes, _) in enumerate(scenes(asked, 200))
    ]
    page.goto(site)
    given = [f"{site}/_static/drags.js", kept, drawn]
    for (boxes, chosen), (readout, paths) in zip(drawn, page.evaluate(ANSWERED, given)):
        words, shapes = asked.update(torch.tensor(boxes), **chosen)
        assert readout == words, (boxes, chosen)
        assert paths == [one["d"] for one in shapes], (boxes, chosen)


def test_every_playground_of_a_page_is_live(page: Page, site, faults):
    for stem in {place.stem for place in PLACES}:
        page.goto(f"{site}/notebooks/{stem}.html")
        cells = [place.cell for place in PLACES if place.stem == stem]
        page.wait_for_function(
            "(n) => document.querySelectorAll('[data-live] .box-playground').length === n",
            arg=len(cells),
        )
        seen = page.locator("[data-live]:has(.box-playground)")
        assert seen.evaluate_all("(nodes) => nodes.map((n) => n.dataset.cell)") == cells
    assert len(PLACES) == len(re.findall(r"BoxPlayground\(", sources())) > 0
    assert faults == []


def sources() -> str:
    """All code cells of all lessons."""
    return "\n".join(
        cell.source
        for path in lab.lessons()
        for cell in nbformat.read(path, 4).cells
        if cell.cell_type == "code"
    )
