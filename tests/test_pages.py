"""What tools/pages.py makes of a lesson for the book: questions with their choices, answers with
their rules.
"""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import lab
from lesson_lib.course import predictions
from tools import pages


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
