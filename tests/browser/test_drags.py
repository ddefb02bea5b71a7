"""Boxes dragged in the book, with mouse and keys: what stands under the picture and what is drawn
over it is what the lesson's own Python answers for the same boxes.
"""

import functools
import re
from contextlib import nullcontext
from typing import Any, NamedTuple

import nbformat
import pytest
import torch
from live_lab import Playground
from playwright.sync_api import Locator, Page, TimeoutError
from reading_book import replaced
from serving import served
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


def in_python(place: Place) -> BoxPlayground:
    """The widget itself, its controls where they start, as on a page that was just opened."""
    asked, starts = made_by_its_cells(place)
    for name, value in starts.items():
        asked.controls[name].value = value
    return asked


@functools.cache
def made_by_its_cells(place: Place) -> tuple[BoxPlayground, dict[str, Any]]:
    """The widget, made by the lesson's own cells, and what its controls hold at first."""
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
    return made[-1], {name: control.value for name, control in made[-1].controls.items()}


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


def check_drags(page: Page, place: Place) -> None:
    """Mouse and keys move each box by as much as they say, and each move is answered."""
    asked = in_python(place)
    playground = Playground(figure_of(page, place).locator(".box-playground"))
    said = {same(playground, asked)}
    for box in range(len(playground.boxes())):
        before = playground.boxes()
        playground.drag(box, 17 - 9 * box, 11)
        moved = shifted(before[box], 17 - 9 * box, 11, asked.canvas.size)
        after = playground.boxes()
        assert after[box] == pytest.approx(moved, abs=1)  # a mouse stops at whole pixels
        assert [*after[:box], *after[box + 1 :]] == [*before[:box], *before[box + 1 :]]
        said.add(same(playground, asked))
        before = playground.boxes()[box]
        playground.press(box, "ArrowRight", "Shift+ArrowUp")
        before = shifted(shifted(before, 1, 0, asked.canvas.size), 0, -10, asked.canvas.size)
        assert playground.boxes()[box] == pytest.approx(before)
        playground.press(box, "Alt+ArrowUp")
        assert playground.boxes()[box] == pytest.approx([*before[:3], before[3] - 1])
        said.add(same(playground, asked))
    assert len(said) > 1
    left = playground.boxes()[0]
    playground.press(0, *["Shift+ArrowLeft"] * (int(left[0] / 10) + 2))
    assert playground.boxes()[0] == pytest.approx([0, left[1], left[2] - left[0], left[3]])
    same(playground, asked)


def figure_of(page: Page, place: Place) -> Locator:
    """Where the playground lives, once it lives."""
    return page.locator(f".lesson-figure[data-live][data-cell='{place.cell}']")


def shifted(box: list[float], dx: float, dy: float, size: tuple[float, float]) -> list[float]:
    """The box moved as one, as far as the picture reaches."""
    dx = min(max(dx, -box[0]), size[0] - box[2])
    dy = min(max(dy, -box[1]), size[1] - box[3])
    return [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy]


def check_controls(page: Page, place: Place) -> None:
    """Every control of the playground is moved to its ends and its middle, and answered."""
    asked, said = in_python(place), set()
    figure = figure_of(page, place)
    playground = Playground(figure.locator(".box-playground"))
    controls = figure.locator(".lesson-control :is(input, select)").all()
    stored = book.stored_frames(place.stem[:2])[place.cell]["controls"]
    assert len(controls) == len(stored) == len(asked.controls)
    for control, kept, widget in zip(controls, stored, asked.controls.values(), strict=True):
        for k in {0, len(kept["values"]) // 2, len(kept["values"]) - 1}:
            choose(control, k)
            widget.value = kept["values"][k]
            said.add(same(playground, asked))
    assert len(said) > 1 or not controls


def check_corner(page: Page, place: Place) -> None:
    """A corner takes its two sides with it, and no other."""
    figure = figure_of(page, place)
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
    assert after[1][:2] == before[1][:2] and [after[0], *after[2:]] == [before[0], *before[2:]]
    assert after[1][2] > before[1][2] and after[1][3] < before[1][3]
    same(playground, in_python(place))


@pytest.mark.parametrize("place", PLACES, ids=lambda one: f"{one.stem[:2]} {one.cell}")
def test_dragged_boxes_are_answered_as_python_answers(page: Page, site, faults, place):
    page.goto(f"{site}/notebooks/{place.stem}.html")
    check_drags(page, place)
    check_controls(page, place)
    assert faults == []


def test_a_finger_on_bare_picture_scrolls_the_page_and_one_on_a_box_moves_it(browser, site):
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True)
    page = context.new_page()
    page.goto(f"{site}/notebooks/{RICHEST.stem}.html")
    playground = Playground(figure_of(page, RICHEST).locator(".box-playground"))
    playground.root.evaluate(
        "(node) => node.scrollIntoView({ block: 'center', behavior: 'instant' })"
    )
    before, top = playground.boxes(), page.evaluate("scrollY")
    size = playground.root.evaluate("(node) => node.querySelector('svg').viewBox.baseVal.width")
    swipe(page, playground.on_screen(0.9 * size, 0.9 * size))
    assert page.evaluate("scrollY") > top + 50 and playground.boxes() == before
    playground.root.evaluate(
        "(node) => node.scrollIntoView({ block: 'center', behavior: 'instant' })"
    )
    top, (x1, y1, x2, y2) = page.evaluate("scrollY"), before[1]
    swipe(page, playground.on_screen((x1 + x2) / 2, (y1 + y2) / 2))
    assert page.evaluate("scrollY") == top and playground.boxes()[1] != before[1]
    context.close()


def swipe(page: Page, start: tuple[float, float], by: float = -120) -> None:
    """A finger goes down, up the screen by so many pixels, and off."""
    hand, (x, y) = page.context.new_cdp_session(page), start
    for k in range(13):
        kind = "touchMove" if k else "touchStart"
        point = {"x": x, "y": y + by * k / 12}
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    hand.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.evaluate("new Promise((done) => setTimeout(done, 300))")


#: One that every kind of control and all default boxes belong to.
RICHEST = next(place for place in PLACES if place.stem.startswith("03"))


def test_a_corner_is_dragged(page: Page, site, faults):
    page.goto(f"{site}/notebooks/{RICHEST.stem}.html")
    check_corner(page, RICHEST)
    assert faults == []


#: Faults of the code that drags: (script, what stands there, what stands there when it is broken).
FAULTS = {
    "the mouse moves it the other way": (
        "playground.js",
        "to.x - from.x, to.y - from.y)); };",
        "from.x - to.x, from.y - to.y)); };",
    ),
    "a key moves it the other way": ("playground.js", "ArrowUp: [0, -step]", "ArrowUp: [0, step]"),
    "a key that resizes moves": ("playground.js", "event.altKey || event.ctrlKey", "event.ctrlKey"),
    "the border does not stop it": ("playground.js", "Math.max(dx, -box[0])", "dx"),
    "a corner takes other sides": ("playground.js", "[2, 3], [0, 3]];", "[0, 3], [2, 3]];"),
    "the sentence stands still": ("playground.js", "out.textContent =", "out.title ="),
    "the shapes stand still": ("playground.js", "shapes.replaceChildren(", "Array.of("),
    "only the first move is answered": (
        "playground.js",
        "answer.seq >= seq)",
        "answer.seq >= seq && seq < 2)",
    ),
    "a control is not heard": ("drags.js", "this.values[name] = value;", ""),
    "two rules are exchanged": ("answers.js", 'wins": "overwrite"', 'wins": "bipartite"'),
}


@pytest.mark.parametrize("name", [None, *FAULTS])
def test_a_fault_of_the_dragging_code_is_caught(page: Page, copy_of, name):
    """What every playground passes fails on broken code; unbroken, the copy passes."""
    copied = copy_of(RICHEST.stem)
    if name:
        script, old, new = FAULTS[name]
        replaced(copied / "_static" / script, old, new)
        page.set_default_timeout(10_000)
    caught = pytest.raises((AssertionError, TimeoutError)) if name else nullcontext()
    with served(copied) as address, caught:
        page.goto(f"{address}/notebooks/{RICHEST.stem}.html")
        check_corner(page, RICHEST)
        check_drags(page, RICHEST)
        check_controls(page, RICHEST)
        check_places(page, RICHEST, address)


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
    """Places for the boxes, to a tenth of a pixel, every third on whole pixels, where ties are,
    in every fourth the last nearly on the first; and values of the controls."""
    draw = torch.Generator().manual_seed(14)
    width, height = asked.canvas.size
    found = []
    for k in range(count):
        corner = torch.rand(len(asked.boxes), 2, generator=draw)
        side = torch.rand(len(asked.boxes), 2, generator=draw) ** 2 * 0.5 + 0.02
        low = (corner * (1 - side)) * torch.tensor([width, height])
        boxes = torch.cat((low, low + side * torch.tensor([width, height])), 1).double()
        if k % 4 == 1:
            boxes[-1] = boxes[0] - 0.2 * low[0].min().clamp(max=1)  # two that want one anchor
        boxes = boxes.round(decimals=1 if k % 3 else 0)
        found.append((boxes.tolist(), {}))
    return found


def check_places(page: Page, place: Place, address: str) -> None:
    """Two hundred places of the boxes are answered as Python answers them, whatever the controls
    say: also where two boxes want one anchor, which rules decide differently."""
    asked = in_python(place)
    kept = book.stored_frames(place.stem[:2])[place.cell]
    values = {one["name"]: one["values"] for one in kept["controls"]}
    drawn = [
        (boxes, {name: stops[k % len(stops)] for name, stops in values.items()})
        for k, (boxes, _) in enumerate(scenes(asked, 200))
    ]
    page.goto(address)
    given = [f"{address}/_static/drags.js", kept, drawn]
    for (boxes, chosen), (readout, paths) in zip(drawn, page.evaluate(ANSWERED, given)):
        words, shapes = asked.update(torch.tensor(boxes), **chosen)
        assert readout == words, (boxes, chosen)
        assert paths == [one["d"] for one in shapes], (boxes, chosen)


@pytest.mark.parametrize("place", PLACES, ids=lambda one: f"{one.stem[:2]} {one.cell}")
def test_two_hundred_places_are_answered_as_python_answers(page: Page, site, place):
    check_places(page, place, site)


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
