"""A lesson as the book shows it: figures slide, predictions ask and judge, links lead to pages.

`tools/book.py` lays the pages; book/static holds what brings them to life.
"""

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from html import escape
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_output

from lesson_lib.course import predictions
from lesson_lib.course.checks import TODO, find
from tools.page_text import how, linked, linked_html, words

#: How `reveal` judges a guess; the page's script is told where a lesson says it.
RULES = ("within", "digits")
#: What is written on the fold over a solution; over other code book/conf.py says it.
SOLUTION = {"code_prompt_show": "Show a solution", "code_prompt_hide": "Hide the solution"}
#: Where a cell would show pictures of others.
NO_PICTURES = "The book shows no picture of this data set; with it at hand the notebook does.\n"
#: What a check says of an answer that nobody has given: on a page nobody can.
_WAITING = re.compile(rf"^{TODO} .*not attempted yet.*\n?", re.MULTILINE)


def page(
    notebook: NotebookNode, number: str, drawn: dict[str, Any], files: str = ""
) -> NotebookNode:
    """The lesson for its page.

    drawn  its figures' frames by the id of their cells
    files  the address below which the repository's files lie, for links to them; "" where it is
           not known
    """
    solved = any("solution" in cell.metadata.get("tags", []) for cell in notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = linked(words(cell.source), files)
            continue
        tags = cell.metadata.get("tags", [])
        if only_asks(cell.source):
            cell.metadata["tags"] = [*tags, "remove-input"]
        if "solution" in tags:
            cell.metadata["mystnb"] = SOLUTION
        shown = with_hints(cell)
        rules = judging(cell.source)
        cell.outputs = [asking(figures(one, cell.id, number, drawn), rules) for one in shown]
    if notebook.cells[0].cell_type == "markdown":
        notebook.cells[0].source += f"\n\n{how(folds=solved)}"
    return notebook


#: How a cell says that a data set is not there.
_ABSENT = re.compile(r"^\w+ is not on this machine\b.*\n?", re.MULTILINE)


def said(cell: NotebookNode) -> str:
    """The words that a cell prints."""
    return "".join(output.get("text", "") for output in cell.get("outputs", []))


def digest(source: str) -> str:
    """A short name of a cell's source, another one when it changes."""
    return sha256(source.encode()).hexdigest()[:16]


def says_absent(cell: NotebookNode) -> bool:
    """Whether the cell says that a data set is not there."""
    return bool(_ABSENT.search(said(cell)))


def with_real(notebook: NotebookNode, real: dict[str, dict[str, str]]) -> NotebookNode:
    """The lesson whose cells that found no data set show what they say where it is, if that is
    known of the cell as it is now: {id: {"source", "says"}}; no picture of it is in the book."""
    for cell in notebook.cells:
        if says_absent(cell):
            known = real.get(cell.id, {})
            told = known["says"] if known.get("source") == digest(cell.source) else ""
            first = "With the data set at hand this cell says:\n" if told else NO_PICTURES
            cell.outputs = [new_output("stream", text=first + told)]
    return notebook


def with_hints(cell: NotebookNode) -> list[NotebookNode]:
    """The outputs of a cell; under an exercise its hints, and no check's "not attempted"."""
    if not _WAITING.search(said(cell)):
        return cell.outputs
    for output in cell.outputs:
        if "text" in output:
            output.text = _WAITING.sub("", output.text).rstrip("\n")
    kept = [output for output in cell.outputs if output.get("text", "-")]
    names = re.findall(r'^check\("(\d\d\.\w+)"', cell.source, re.MULTILINE)
    folds = hints(names)
    return [*kept, html_output(folds)] if folds else kept


def hints(names: list[str]) -> str:
    """The hints of exercises, each folded."""
    folds = []
    for name in names:
        steps = getattr(find(name), "hints", ())
        of = f"{name}, hint" if len(names) > 1 else "Hint"
        for number, step in enumerate(steps, start=1):
            text = re.sub("`([^`]+)`", r"<code>\1</code>", escape(step, quote=False))
            text = re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)
            summary = f"<summary>{of} {number} of {len(steps)}</summary>"
            folds.append(f'<details class="lesson-hint">{summary}<p>{text}</p></details>')
    return "".join(folds)


def figures(output: NotebookNode, cell: str, number: str, drawn: dict[str, Any]) -> NotebookNode:
    """A drawing whose frames are known, as a figure that the page's script brings to life."""
    data = output.get("data", {})
    if "image/svg+xml" in data and cell in drawn:
        shown = figure(number, cell, "".join(data["image/svg+xml"]))
        return html_output(shown + left_out(drawn[cell].get("controls", ())))
    return output


def left_out(controls: Sequence[dict[str, Any]]) -> str:
    """In small print which sliders of a figure have fewer stops here than in the notebook."""
    told = [
        f"<i>{escape(one['label'])}</i> has {len(one['texts'])} of its {one['of']} stops"
        for one in controls
        if "of" in one
    ]
    return (
        f'<p class="lesson-left-out">On this page {", ".join(told)}; in the notebook all.</p>'
        if told
        else ""
    )


def figure(number: str, cell: str, still: str, more: str = "") -> str:
    """Where a page's scripts bring a figure to life; without them its still stands there."""
    place = f'data-lesson="{number}" data-cell="{escape(cell)}"{more}'
    return f'<div class="lesson-figure" {place}>{still}</div>'


def html_output(html: str) -> NotebookNode:
    """An output that shows this HTML."""
    return new_output("display_data", data={"text/html": html}, metadata={})


def asking(output: NotebookNode, rules: dict[str | None, dict[str, float]]) -> NotebookNode:
    """A question, an answer or a score as the page's script finds it; another output as it is."""
    html = "".join(output.get("data", {}).get("text/html", ""))
    if ".ipynb" in html:
        return html_output(without_done(linked_html(html)))
    if output.get("text") == f"{predictions.NONE_YET}\n":
        return html_output('<p class="lesson-score"></p>')
    if 'class="predict"' in html:
        return html_output(with_choices(html))
    if 'class="reveal"' in html:
        return html_output(with_rules(html, rules))
    return output


def without_done(table: str) -> str:
    """The map of lessons without its last column, what a reader of the notebooks has done."""
    return table.replace("<th>done</th>", "").replace("<td></td></tr>", "</tr>")


def only_asks(source: str) -> bool:
    """Whether a cell's code does nothing but ask: the page shows the question itself below it."""
    if "predict(" not in source:
        return False
    body = ast.parse(source).body
    calls = [one.value for one in body if isinstance(one, ast.Expr)]
    imports = [one for one in body if isinstance(one, ast.Import | ast.ImportFrom)]
    return len(calls) + len(imports) == len(body) and all(
        isinstance(call, ast.Call) and getattr(call.func, "id", "") == "predict" for call in calls
    )


#: The choices at the end of a question.
_CHOICES = re.compile(f"<br>([^<]*{re.escape(predictions.BESIDE)}[^<]*)</div>$")


def with_choices(question: str) -> str:
    """A question whose choices, if it has any, are elements that become buttons."""

    def apart(found: re.Match) -> str:
        choices = "".join(f"<span>{one}</span> " for one in found[1].split(predictions.BESIDE))
        return f'<div class="lesson-choices">{choices}</div></div>'

    return _CHOICES.sub(apart, question)


def judging(source: str) -> dict[str | None, dict[str, float]]:
    """What the calls of `reveal` in a cell say on judging: name -> {"within": 0.25}; None for names
    that the cell works out. ValueError where a rule is no number that stands in the cell."""
    return {name: rules for name, rules in _reveals(source) if rules}


def _reveals(source: str) -> Iterator[tuple[str | None, dict[str, float]]]:
    if "reveal(" not in source:
        return
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "reveal":
            named = {one.arg: one.value for one in call.keywords if one.arg}
            given = inspect.signature(predictions.reveal).bind(*call.args, **named).arguments
            name = given["name"]
            rules = {rule: _number(given[rule], rule, name) for rule in RULES if rule in given}
            yield str(name.value) if isinstance(name, ast.Constant) else None, rules


def _number(value: ast.expr, rule: str, name: ast.expr) -> float:
    if isinstance(value, ast.Constant) and isinstance(value.value, (int, float)):
        return value.value
    raise ValueError(
        f"The answer {ast.unparse(name)} is judged by {rule}={ast.unparse(value)}: a page of the "
        "book needs the number itself there."
    )


def with_rules(answer: str, rules: dict[str | None, dict[str, float]]) -> str:
    """An answer that carries how a guess is judged."""

    def told(found: re.Match) -> str:
        mine = rules.get(found[1], rules.get(None, {}))
        return found[0] + "".join(f' data-{rule}="{value}"' for rule, value in mine.items())

    return re.sub(r'class="reveal" data-predict="([^"]*)"', told, answer)
