"""What the text of a lesson says on its page of the book, where no code runs: how exercises are
done there, and where links lead.
"""

import posixpath
import re

#: What the page says of the repository when nobody has said where it is.
UNNAMED = "the repository that this book was built from"

#: Right under a lesson's title; the second sentence only where there are folds.
HOW = (
    "```{{admonition}} In this book\n:class: note\n"
    "You read, guess, slide and drag; no code runs and nothing is checked. {folds}To write "
    "the code and have it checked: `python3 lab.py`, see [the first page]"
    "(../index.md#to-write-the-code-yourself). The minutes above count that too.\n"
    "```"
)
FOLDS = "Do the exercises on paper: hints and a solution are folded below each. "

#: What a lesson says to somebody with a kernel -> what its page says instead.
INSTEAD = {
    r"Run the cell with <kbd>Shift</kbd>\+<kbd>Enter</kbd>\. Then untick": "Untick",
    r"before you run the next (?:two )?cells?\b": "before you look on",
    r" Then run the cell: the check names[^.]*\.": "",
    r"Stuck\? `hint\(\"[^\"]*\"\)`(?: gives three hints, one at a time)?\.": (
        "Stuck? The hints are folded below."
    ),
    r" A wrong one is told what [^;]*; `hint\(\"[^\"]*\"\)` helps\.": (
        " Stuck? The hints are folded below."
    ),
    r"What you solve and guess is kept in one file on this machine,[^.]*\.": (
        "In the notebook what you solve and guess is kept in one file on your machine, never sent."
    ),
    r"- \*\*Exercises\*\* check themselves [^\n]*": (
        "- **Exercises** check themselves in the notebook only. Here hints and a **solution** are "
        "folded below each: look when you have tried."
    ),
    r"Try a check: run the next cell, then write (`return 17`)[^\n]*": (
        "A check, as the notebook has it: there you would write \\1 in place of the three dots and "
        "run the cell, then try a wrong number."
    ),
}

#: Links of a notebook to notebooks beside it become links between pages.
_LESSON = re.compile(r"\]\((?:\.\./)?(?:notebooks/)?(\d\d_\w+)\.ipynb(#[^)]*)?\)")
#: The same in HTML that a cell displays.
_LESSON_HTML = re.compile(r'href="(?:\.\./)?(?:notebooks/)?(\d\d_\w+)\.ipynb(#[^"]*)?"')
#: Any other link that stays in the repository.
_FILE = re.compile(r"\[([^\]]+)\]\((?!#|\w+:)((?!\d\d_\w+\.ipynb)[^)]+)\)")


def how(folds: bool) -> str:
    """The note under a lesson's title; `folds`: whether hints and solutions are folded in it."""
    return HOW.format(folds=FOLDS * folds)


def words(source: str) -> str:
    """Markdown of a lesson as its page says it."""
    for said, instead in INSTEAD.items():
        source = re.sub(said, instead, source)
    return source


def linked(source: str, files: str = "") -> str:
    """Markdown whose links between lessons lead from page to page, and whose links to other files
    lead to the repository: below the address `files`, or nowhere where there is none."""
    source = _LESSON.sub(r"](\1.ipynb\2)", source)
    return _FILE.sub(lambda found: _file(found[1], found[2], files), source)


def _file(text: str, target: str, files: str) -> str:
    path = posixpath.normpath(posixpath.join("notebooks", target))
    if files:
        return f"[{text}]({files}/{path})"
    return f"`{path}`" if path.endswith(text.strip("`/")) else text


def linked_html(html: str) -> str:
    """The same for links between lessons in HTML that a cell displays."""
    return _LESSON_HTML.sub(r'href="\1.html\2"', html)
