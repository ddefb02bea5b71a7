"""What tools/pages.py makes of a lesson for the book: questions with their choices, answers with
their rules.
"""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import lab
from lesson_lib.course import predictions
from lesson_lib.course.checks import find
from tools import book, page_text, pages


def made_page(source: str, *outputs: dict) -> list[str]:
    """The HTML that the page shows of one cell's outputs; "" where an output is no HTML."""
    cell = new_code_cell(source, outputs=list(outputs))
    (seen,) = pages.page(new_notebook(cells=[cell]), "03", {}).cells
    return [output.get("data", {}).get("text/html", "") for output in seen.outputs]


def html(text: str) -> dict:
    return new_output("display_data", data={"text/html": text})


def test_each_choice_of_a_question_is_an_element():
    question = predictions.Prediction("03.a", "Which?<br>One only.", "", ("a < b", "c's", "both"))
    still = question._repr_mimebundle_()["text/html"]
    (seen,) = made_page("", html(still))
    assert re.findall("<span>(.*?)</span>", seen) == ["a &lt; b", "c&#x27;s", "both"]
    assert seen.startswith(still.rpartition("<br>")[0]) and seen.count("<div") == 2


def test_a_question_for_a_number_stays_as_it_is():
    question = predictions.Prediction("03.a", "How many?<br>Count.", "px", ())
    still = question._repr_mimebundle_()["text/html"]
    assert made_page("", html(still)) == [still]


@pytest.mark.parametrize(
    ("source", "rules"),
    [
        ('reveal("03.a", 4)', ""),
        ('reveal("03.a", 4, within=0)', ' data-within="0"'),
        ('reveal("03.a", 4, "so", 0.25, digits=5)', ' data-within="0.25" data-digits="5"'),
        ('for name in names:\n    reveal(name, 4, within=0.4)', ' data-within="0.4"'),
        ('reveal("03.b", 4, within=0)\nreveal("03.a", 4, within=.3)', ' data-within="0.3"'),
    ],
)  # fmt: skip
def test_an_answer_carries_the_rule_that_stands_in_its_cell(source, rules):
    (seen,) = made_page(source, html('<details class="reveal" data-predict="03.a"><b>4</b>'))
    assert seen == f'<details class="reveal" data-predict="03.a"{rules}><b>4</b>'


def test_a_rule_that_is_no_number_in_the_cell_is_refused():
    with pytest.raises(ValueError, match="03.a.*within"):
        made_page('reveal("03.a", 4, within=tolerance)')


@pytest.mark.parametrize(
    ("source", "hidden"),
    [
        ('predict("03.a", "How many?")', True),
        ('import x\n\npredict("03.a", "?")\npredict("03.b", "?", choices=KINDS)', True),
        ('seen = 3\npredict("03.a", f"{seen} are seen. How many?")', False),
        ('model.predict(pictures)', False),
        ('predict("03.a", "?")\nprint(3)', False),
        ('"""A sentence about predict()"""', False),
    ],
)  # fmt: skip
def test_code_that_only_asks_is_left_out(source, hidden):
    (cell,) = pages.page(new_notebook(cells=[new_code_cell(source)]), "03", {}).cells
    assert cell.metadata.get("tags", []) == ["remove-input"] * hidden


def test_the_score_is_counted_by_the_page():
    said = new_output("stream", text=f"{predictions.NONE_YET}\n")
    other = new_output("stream", text="AP50 0.9\n")
    seen = made_page('score("03")', said, other)
    assert seen == ['<p class="lesson-score"></p>', ""]


@pytest.mark.parametrize("path", lab.lessons(), ids=lambda path: path.name[:2])
def test_every_question_and_answer_of_a_lesson_reaches_its_page(path):
    stored = nbformat.read(path, 4)
    asked = sum(cell.source.count("choices=") for cell in stored.cells if "predict(" in cell.source)
    shown = str(pages.page(stored, path.name[:2], {}))
    assert shown.count("lesson-choices") == asked
    assert predictions.NONE_YET not in shown


WAITS = "○ not attempted yet: 03.match\n"


@pytest.mark.parametrize("before", ["", "a table\n"])
def test_an_exercise_has_its_hints_folded_and_waits_for_nobody(before):
    said = new_output("stream", text=before + WAITS)
    cell = new_code_cell('check("03.match", my_match)', outputs=[said])
    (seen,) = pages.page(new_notebook(cells=[cell]), "03", {}).cells
    *shown, folds = seen.outputs
    assert [output.text for output in shown] == ([before.strip()] if before else [])
    steps = find("03.match").hints
    assert re.findall("<summary>(.*?)</summary>", folds.data["text/html"]) == [
        f"Hint {k} of {len(steps)}" for k in range(1, len(steps) + 1)
    ]
    assert folds.data["text/html"].count("<details") == len(steps) >= 3


def test_a_solved_check_keeps_its_line_and_has_no_hints():
    said = new_output("stream", text="✓ 03.match: so it is\n")
    cell = new_code_cell('check("03.match", my_solution)', outputs=[said])
    (seen,) = pages.page(new_notebook(cells=[cell]), "03", {}).cells
    assert seen.outputs == [said]


@pytest.mark.parametrize("tags", [["solution", "hide-cell"], ["hide-input"]])
def test_a_solution_is_called_one(tags):
    cell = new_code_cell("3", metadata={"tags": tags})
    (seen,) = pages.page(new_notebook(cells=[cell]), "03", {}).cells
    assert seen.metadata.get("mystnb", {}).get("code_prompt_show", "") == (
        "Show a solution" if "solution" in tags else ""
    )


def test_the_map_of_a_cell_leads_to_pages():
    row = '<a href="02_b.ipynb">2</a></td><td>90</td><td></td></tr>'
    (seen,) = made_page("", html(f"<th>min</th><th>done</th>{row}"))
    assert seen == '<th>min</th><a href="02_b.html">2</a></td><td>90</td></tr>'


@pytest.mark.parametrize(
    ("link", "unknown", "known"),
    [
        ("[a](01_b.ipynb#c)", "[a](01_b.ipynb#c)", "[a](01_b.ipynb#c)"),
        ("[a](../notebooks/01_b.ipynb)", "[a](01_b.ipynb)", "[a](01_b.ipynb)"),
        ("[`x.py`](../lesson_lib/x.py)", "`lesson_lib/x.py`", "[`x.py`](F/lesson_lib/x.py)"),
        ("([its card](../w/x.md))", "(its card)", "([its card](F/w/x.md))"),
        ("[`capstone/`](capstone/)", "`notebooks/capstone`", "[`capstone/`](F/notebooks/capstone)"),
        ("[a](https://b.invalid/c)", "[a](https://b.invalid/c)", "[a](https://b.invalid/c)"),
        ("[a](#b)", "[a](#b)", "[a](#b)"),
    ],
)
def test_links_lead_to_pages_to_the_repository_or_nowhere(link, unknown, known):
    assert page_text.linked(link) == unknown
    assert page_text.linked(link, "F") == known


@pytest.mark.parametrize("path", lab.lessons(), ids=lambda path: path.name[:2])
def test_a_page_says_how_exercises_are_done_there_and_asks_for_no_kernel(path):
    stored = nbformat.read(path, 4)
    waiting = sum("not attempted" in str(cell.get("outputs", "")) for cell in stored.cells)
    made = pages.page(stored, path.name[:2], {})
    assert "python3 lab.py" in made.cells[0].source
    told = "\n".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    for asked in ("hint(", "<kbd>Enter</kbd>", "un the next ", "bar on its left", "](../les"):
        assert asked not in told, asked
    shown = str([cell.get("outputs") for cell in made.cells])
    assert waiting and "not attempted" not in shown
    assert shown.count("Hint 1 of") + shown.count("hint 1 of") >= (
        waiting - 1 if path.name[:2] != "00" else 0
    )


def test_every_sentence_that_a_page_says_otherwise_stands_in_a_lesson():
    told = "\n".join(
        cell.source
        for path in lab.lessons()
        for cell in nbformat.read(path, 4).cells
        if cell.cell_type == "markdown"
    )
    for said in page_text.INSTEAD:
        assert re.search(said, told), said


def test_a_page_without_text_at_its_top_has_no_note():
    cells = [new_code_cell("3"), new_markdown_cell("a")]
    assert [cell.source for cell in pages.page(new_notebook(cells=cells), "03", {}).cells] == [
        "3",
        "a",
    ]


def test_a_figure_with_fewer_stops_says_so_in_small_print():
    still = new_output("display_data", data={"image/svg+xml": "<svg/>"})
    cell = new_code_cell("3", id="c", outputs=[still])
    controls = [{"label": "s min", "texts": ["0", "1"], "of": 49}, {"label": "a", "texts": ["0"]}]
    drawn = {"c": {"controls": controls, "frames": []}}
    (seen,) = pages.page(new_notebook(cells=[cell]), "03", drawn).cells
    (told,) = re.findall('<p class="lesson-left-out">(.*?)</p>', str(seen.outputs))
    assert told == "On this page <i>s min</i> has 2 of its 49 stops; in the notebook all."
    assert pages.left_out(controls[1:]) == ""


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ({"c": {"source": pages.digest("3"), "says": "12 boxes\n"}}, "this cell says:\n12 boxes\n"),
        ({"c": {"source": pages.digest("4"), "says": "12 boxes\n"}}, "no picture"),
        ({}, "no picture"),
    ],
)
def test_a_cell_without_its_data_set_says_what_it_says_with_it(known, says):
    absent = new_output("stream", text="BCCD is not on this machine, so this cell is empty.\n")
    cell = new_code_cell("3", id="c", outputs=[absent])
    other = new_code_cell("3", id="d", outputs=[new_output("stream", text="12 boxes\n")])
    seen = pages.with_real(new_notebook(cells=[cell, other]), known).cells
    assert says in seen[0].outputs[0].text and "not on this machine" not in str(seen)
    assert seen[1].outputs[0].text == "12 boxes\n"


def test_what_is_kept_of_data_sets_is_words():
    kept = book.stored_real()
    assert {"real-counts", "missing-real"} <= {cell for cells in kept.values() for cell in cells}
    for cells in kept.values():
        for known in cells.values():
            assert set(known) == {"source", "says"} and len(known["says"]) < 500
