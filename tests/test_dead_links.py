"""A link of the book that leads nowhere is found, and no other."""

import pytest

from tools.dead_links import dead_links

GOOD = """<a href="#here">1</a><p id="here"><a href="notebooks/one.html#there">2</a>
<img src="data:image/png;base64,A"><a href="https://host.invalid/x">3</a><a href="a%20b.txt">4</a>
<script src="a b.txt?v=1"></script><a href="notebooks/">5</a><a href="#">6</a>"""


@pytest.fixture
def site(tmp_path):
    """Two pages and a file; a theme's template among the static files is no page."""
    for name, text in {
        "index.html": GOOD,
        "a b.txt": "",
        "notebooks/index.html": "",
        "notebooks/one.html": '<svg id="there"><use href="#there"/></svg><a href="../">0</a>',
        "_static/template.html": '<a href="{{ no page }}">0</a>',
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_whole_site_has_no_dead_link(site):
    assert dead_links(site) == []


@pytest.mark.parametrize(
    ("tag", "link"),
    [
        ('<a href="one.ipynb">', "one.ipynb"),
        ('<a href="#../lesson_lib/boxes.py">', "#../lesson_lib/boxes.py"),
        ('<a href="../index.html#gone">', "../index.html#gone"),
        ('<img src="../_images/gone.png">', "../_images/gone.png"),
        ('<svg><image href="gone.png"/></svg>', "gone.png"),
    ],
)
def test_a_planted_dead_link_is_named(site, tag, link):
    page = site / "notebooks" / "one.html"
    page.write_text(page.read_text() + tag)
    assert dead_links(site) == [f"notebooks/one.html: {link}"]
