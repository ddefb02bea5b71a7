"""Each page of the book as a guest may meet it: in the dark, on a phone, on paper, by a screen
reader; and the first page.
"""

import io
import json
import re
import subprocess
import sys

import nbformat
import pypdf
import pytest
from live_lab import Playground
from playwright.sync_api import Page

import lab
from tools import book
from tools.dead_links import dead_links

PAGES = ["index", *(f"notebooks/{path.stem}" for path in lab.lessons())]

#: What axe finds in the lesson itself (the frame around it is the theme's) that stops a reader.
AXE = """async (theme) => {
    document.documentElement.dataset.theme = theme;
    await new Promise((done) => setTimeout(done, 300));            // the theme's colours fade over
    const found = await axe.run({ include: ['article'] }, { resultTypes: ['violations'] });
    return found.violations.filter(({ impact }) => ['serious', 'critical'].includes(impact))
        .map(({ id, nodes }) => `${id}: ${nodes[0].html.slice(0, 200)}`);
}"""


#: Pictures that are named by a file, or drawn in another shape than theirs.
MISTOLD = """() => [...document.querySelectorAll("article .cell_output img")].filter((picture) => {
    const { alt, naturalWidth, naturalHeight } = picture;
    const style = getComputedStyle(picture);
    const inner = (side, ...edges) => parseFloat(style[side]) - (style.boxSizing === "border-box"
        ? edges.reduce((sum, edge) => sum + parseFloat(style[`padding${edge}`]), 0) : 0);
    const shape = inner("width", "Left", "Right") / inner("height", "Top", "Bottom");
    const stretched = Math.abs(shape * naturalHeight / naturalWidth - 1) > 0.02;
    return !alt || alt.includes("_images/") || stretched;
}).map(({ alt, src }) => `${src}: ${alt}`)"""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_barrier_and_fits_a_phone(page: Page, site, faults, name):
    page.emulate_media(reduced_motion="reduce")
    page.goto(f"{site}/{name}.html")
    figures = page.locator(".lesson-figure").count()
    page.wait_for_function(
        "(n) => document.querySelectorAll('.lesson-figure[data-live]').length === n", arg=figures
    )
    assert page.locator("article p", has_text=re.compile(r"^\|")).count() == 0  # a table as text
    page.add_script_tag(path=book.libraries() / "axe-core" / "axe.min.js")
    for theme in ("light", "dark"):
        assert page.evaluate(AXE, theme) == [], theme
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(MISTOLD) == []
    assert faults == []


def test_axe_sees_a_planted_barrier(page: Page, site):
    page.goto(f"{site}/notebooks/{lab.lessons()[3].stem}.html")
    page.add_script_tag(path=book.libraries() / "axe-core" / "axe.min.js")
    page.evaluate("document.querySelector('article').append(document.createElement('button'))")
    (found,) = page.evaluate(AXE, "light")
    assert found.startswith("button-name")


def test_on_paper_the_folds_are_open_and_the_sliders_are_gone(page: Page, site, faults):
    lesson = lab.lessons()[3]
    page.goto(f"{site}/notebooks/{lesson.stem}.html")
    page.wait_for_selector(".lesson-figure[data-live]")
    assert not page.locator("details.reveal[open]").count()
    words = paper(page)
    for cell in nbformat.read(lesson, 4).cells:
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            if 'class="reveal"' in html:
                answer = re.search("<b>([^<]*)</b>(.*)</details>", html, re.DOTALL)
                told = re.sub("<[^>]+>", "", answer[2]).strip()[:25]
                assert "".join(told.split()) in words, told
    assert "Dragaboxoracorner" not in words
    page.emulate_media(media="print")
    assert not page.locator(".lesson-control:visible, .predict form:visible").count()
    assert page.locator(".box-playground svg:visible, .lesson-drawing svg:visible").count()
    assert "positive,0ignored" in words
    assert faults == []


def paper(page: Page) -> str:
    """The words of the page as Chromium prints it, without spaces."""
    printed = pypdf.PdfReader(io.BytesIO(page.pdf()))
    return "".join("".join(sheet.extract_text().split()) for sheet in printed.pages)


def boxes(page: Page) -> list[list[float]]:
    return json.loads(page.locator(".box-playground").get_attribute("data-boxes"))


@pytest.mark.parametrize("way", ["mouse", "key", "button"])
def test_the_first_page_moves_until_it_is_touched(page: Page, site, faults, way):
    page.goto(site)
    page.wait_for_selector("[data-moving] .box-playground")
    start = boxes(page)
    page.wait_for_function(
        "(start) => document.querySelector('.box-playground').dataset.boxes !== start",
        arg=json.dumps(start, separators=(",", ":")),
    )
    moved = boxes(page)
    assert moved[1] != start[1] and [moved[0], moved[2]] == [start[0], start[2]]
    if way == "button":
        page.get_by_role("button", name="Stop the motion").click()
    elif way == "key":
        page.locator("[data-box='0']").focus()
    else:
        Playground(page.locator(".box-playground")).drag(0, 12, 9)
    page.wait_for_function("!document.querySelector('[data-moving]')")
    rest = boxes(page)
    page.evaluate("new Promise((done) => setTimeout(done, 300))")
    assert boxes(page) == rest
    assert faults == []


def test_the_first_page_keeps_still_for_who_asks_for_it(page: Page, site, faults):
    page.emulate_media(reduced_motion="reduce")
    page.goto(site)
    page.wait_for_selector(".lesson-figure[data-live] .box-playground")
    start = boxes(page)
    page.evaluate("new Promise((done) => setTimeout(done, 300))")
    assert boxes(page) == start and not page.locator("[data-moving], .lesson-stop").count()
    assert faults == []


def test_the_first_page_says_what_one_learns(page: Page, site):
    page.goto(site)
    words = page.locator("article").inner_text()
    for number, title, _, minutes in book.readme_rows():
        assert f"{int(number)} · {title}" in words and minutes in words
    assert "python3 lab.py " in words and "python3 lab.py test" in words
    seen = page.locator(".box-playground").bounding_box()
    assert seen["y"] + seen["height"] / 2 < 900  # without scrolling


def test_the_lesson_is_downloaded_as_it_was_published(page: Page, site, faults):
    lesson = lab.lessons()[3]
    page.goto(f"{site}/notebooks/{lesson.stem}.html")
    page.locator(".dropdown-download-buttons > button").click()
    with page.expect_download() as download:
        page.locator(".btn-download-source-button").click()
    got, published = nbformat.read(download.value.path(), 4), nbformat.read(lesson, 4)
    assert [cell.id for cell in got.cells] == [cell.id for cell in published.cells]
    assert [c.source for c in got.cells if c.cell_type == "code"] == [
        c.source for c in published.cells if c.cell_type == "code"
    ]
    assert [cell.get("outputs") for cell in got.cells] == [
        cell.get("outputs") for cell in published.cells
    ]
    assert "lesson_lib" in got.cells[0].source and "python3 lab.py" in got.cells[0].source
    assert faults == []


def test_every_link_of_the_book_leads_to_a_part_of_it(site):
    assert len(list(book.SITE.glob("notebooks/*.html"))) == len(lab.lessons())
    assert dead_links(book.SITE) == []


def test_an_exercise_folds_its_hints_and_its_solution(page: Page, site, faults):
    page.goto(f"{site}/notebooks/{lab.lessons()[1].stem}.html")
    hint = page.locator("details.lesson-hint").first
    assert not hint.locator("p").is_visible()
    hint.locator("summary").click()
    assert hint.locator("p").is_visible()
    solutions = page.get_by_text("Show a solution", exact=True)
    assert solutions.count() == page.locator(".cell.tag_solution").count() > 3
    first = page.locator(".cell.tag_solution").first
    assert not first.locator("pre").first.is_visible()
    solutions.first.click()
    assert first.locator("pre").first.is_visible()
    assert faults == []


COLAB = """
import os
os.environ |= {"BOOK_COLAB": "https://colab.invalid", "BOOK_REPOSITORY": "https://host.invalid/me/it"}
"""


def test_the_colab_button_leads_to_the_configured_address(page: Page, tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "static").mkdir()
    settings = (book.BOOK / "conf.py").read_text(encoding="utf-8")
    (tmp_path / "conf.py").write_text(COLAB + settings, encoding="utf-8")
    (tmp_path / "index.md").write_text("# Book\n\n```{toctree}\nnotebooks/01_small\n```\n")
    small = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Small")])
    small.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(small, tmp_path / "notebooks" / "01_small.ipynb")
    for script in ("book.js", "book.css", "favicon.svg"):
        (tmp_path / "static" / script).write_text("")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", str(tmp_path), "site"]
    assert subprocess.run(command, cwd=tmp_path).returncode == 0
    page.goto((tmp_path / "site" / "notebooks" / "01_small.html").as_uri())
    leads = page.locator("a", has_text="Colab").first.get_attribute("href")
    assert leads == "https://colab.invalid/github/me/it/blob/main/notebooks/01_small.ipynb"
