"""How Sphinx builds the book; tools/book.py lays the sources and calls it."""

import os
import re
from html import unescape
from typing import Any

from docutils import nodes
from myst_nb.core.render import MimeData, NbElementRenderer
from sphinx.application import Sphinx

project = "One-stage object detection"
author = "the course's authors"
html_title = project
extensions = ["myst_nb"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
nb_render_markdown_format = "myst"  # tables that a cell displays, too
# A widget shows itself as a picture too: the page takes that, never the widget.
nb_mime_priority_overrides = [
    ("html", "application/vnd.jupyter.widget-view+json", None),
    ("html", "text/html", 0),
    ("html", "image/svg+xml", 10),
    ("html", "image/png", 20),
]
suppress_warnings = ["mystnb.unknown_mime_type", "toc.not_readable"]
mathjax_path = "mathjax.js"
html_theme = "sphinx_book_theme"
html_static_path = ["static"]
html_favicon = "static/favicon.svg"
html_context = {"default_mode": "auto"}
html_copy_source = True
html_css_files = ["book.css"]
html_js_files = ["served.js", ("book.js", {"type": "module"})]
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": True,
    "home_page_in_toc": True,
    "repository_url": os.environ.get("BOOK_REPOSITORY", ""),
    "repository_branch": os.environ.get("BOOK_BRANCH", "main"),
    "repository_provider": "github",  # the only kind that Colab opens, whatever its host is called
    "launch_buttons": {"colab_url": os.environ.get("BOOK_COLAB", "")},
}


def described(data: MimeData) -> str:
    """What a lesson says that its picture shows: beside a PNG, or as an SVG's title."""
    told = data.output_metadata.get(data.mime_type, {}).get("alt")
    title = re.search("<title>(.*?)</title>", data.string) if "svg" in data.mime_type else None
    return told or (unescape(title[1]) if title else "")


render_image = NbElementRenderer.render_image


def render_described(self: NbElementRenderer, data: MimeData) -> list[nodes.Element]:
    """myst-nb's picture with the lesson's description, where it has none but its file's name."""
    pictures = render_image(self, data)
    for picture in pictures:
        picture["alt"] = described(data)
    return pictures


# Another class of renderer can only be named as an entry point of an installed package.
NbElementRenderer.render_image = render_described


def say_what_it_needs(app: Sphinx, name: str, template: str, context: dict, doctree: Any) -> None:
    """A downloaded notebook does not run by itself: its button says so."""
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("label") == "download-source-button":
                button["tooltip"] = "The notebook: it needs the course's repository"


def setup(app: Sphinx) -> None:
    """Called by Sphinx; after the theme has laid its buttons."""
    app.connect("html-page-context", say_what_it_needs, priority=900)
