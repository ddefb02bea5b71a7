"""Predictions: a question that is asked before the answer appears, and the answer, which says how
far off the guess was.

    predict("03.background", "What share of the 8,732 anchors is background?", unit="%")
    ...                                                            the learner's guess, then the
                                                                   cells that work it out
    reveal("03.background", 100 * share, "Most people say 90: they count places, not anchors.")

The value that is revealed is computed by the lesson, so no answer is written down anywhere. Without
a guess, as in Run All, and on a page without a kernel, both are a question and a fold.
`score("03")` at the end of a lesson counts the hits.
"""

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Context
from html import escape
from typing import Any

import ipywidgets
from IPython.display import HTML, display

from lesson_lib.colours import BLUE
from lesson_lib.course import progress
from lesson_lib.course.widgets import plain_bundle

STYLE = f"border-left:3px solid {BLUE};padding:.3em .8em;margin:.4em 0;max-width:46em"
WORKING = "overflow-x:auto;margin:.6em 0 .2em;white-space:pre"
#: What stands between two choices of a question that nobody can be asked: the book's pages make a
#: button of each.
BESIDE = " &nbsp;·&nbsp; "
#: Halves go up, as JavaScript rounds them, so that the book says the same number.
THREE_DIGITS = Context(prec=3, rounding=ROUND_HALF_UP)
#: What `score` says before the first guess; a page of the book counts in its place.
NONE_YET = (
    "Your predictions: none yet. Go back to a box that says Predict, and guess before you run."
)
#: What was guessed in this kernel: name -> number or choice.
GUESSES: dict[str, Any] = {}
#: What was asked in this kernel: name -> (unit, choices).
ASKED: dict[str, tuple[str, tuple[str, ...]]] = {}


class Prediction(ipywidgets.VBox):
    """A question with a field for a number, or with its choices as buttons; made by `predict`."""

    def __init__(self, name: str, question: str, unit: str, choices: Sequence[str]) -> None:
        self.name, self.question, self.choices = name, question, tuple(choices)
        self.field = (
            ipywidgets.ToggleButtons(
                options=self.choices, value=None, style={"button_width": "auto"}
            )
            if choices
            else ipywidgets.Text(placeholder=f"a number{f', in {unit}' if unit else ''}")
        )
        self.said = ipywidgets.HTML()
        self.field.observe(self._guessed, names="value")
        heading = ipywidgets.HTML(f"<b>Predict.</b> {question}")
        super().__init__([heading, self.field, self.said])

    def _guessed(self, change: dict[str, Any]) -> None:
        guess = change["new"] if self.choices else number(change["new"])
        if guess is None:
            self.said.value = "A number, please, such as 12, 0.5 or 1,000." if change["new"] else ""
            return
        GUESSES[self.name] = guess
        self.said.value = f"Noted: {escape(str(change['new']))}. Now run the next cells."

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = plain_bundle(super()._repr_mimebundle_(**kwargs))
        choices = f"<br>{BESIDE.join(map(escape, self.choices))}" if self.choices else ""
        still = f'<div class="predict" data-predict="{self.name}" style="{STYLE}">'
        still += f"<b>Predict.</b> {self.question}{choices}</div>"
        return bundle | {"text/plain": f"Predict: {self.question}", "text/html": still}


def predict(name: str, question: str, unit: str = "", choices: Sequence[str] = ()) -> None:
    """Ask for a guess before the answer is worked out.

    name      "NN.word", the same as in `reveal`
    question  one or two sentences, HTML; unit: of the number that is asked for, as in "%" or "px"
    choices   instead of a number: the answers to choose from
    """
    ASKED[name] = unit, tuple(choices)
    GUESSES.pop(name, None)
    display(Prediction(name, question, unit, choices))


def reveal(
    name: str,
    value: Any,
    remark: str = "",
    within: float = 0.1,
    digits: int = 3,
    working: str = "",
) -> None:
    """Show the answer, and what it means for the guess, if there was one.

    value   what the lesson worked out: a number, or one of the choices
            (ValueError for another word)
    remark  a sentence on what most people guess wrong, HTML
    within  a number counts as a hit at this relative distance (at 0 as an absolute one); digits:
            significant ones shown
    working the table or the lines that the answer stands in, plain text: below the answer and, as
            it does, in the fold. Printed, it would stand unfolded beside the question.
    """
    unit, choices = ASKED.get(name, ("", ()))
    if choices and value not in choices:
        raise ValueError(
            f"{name} reveals {value!r}, which is none of its choices {', '.join(choices)}."
        )
    answer = value if choices or isinstance(value, str) else shown(float(value), unit, digits)
    verdict = ""
    if name in GUESSES:
        hit, verdict = judged(GUESSES[name], value, unit, within, digits)
        progress.record_guess(name, GUESSES[name], value if choices else float(value), hit)
    body = f"<b>{verdict or escape(str(answer))}</b> {remark}".strip()
    if working:
        body += f'<pre style="{WORKING}">{escape(working.strip(chr(10)))}</pre>'
    fold = "" if verdict else "<summary>The answer to the prediction</summary>"
    tag = "div" if verdict else "details"
    display(
        HTML(f'<{tag} class="reveal" data-predict="{name}" style="{STYLE}">{fold}{body}</{tag}>')
    )


def judged(guess: Any, value: Any, unit: str, within: float, digits: int) -> tuple[bool, str]:
    """Whether a guess is a hit, and the sentence that says how far off it was."""
    if isinstance(value, str):
        hit = guess == value
        return (
            hit,
            f"You said {escape(guess)}: right."
            if hit
            else f"You said {escape(guess)}; it is {escape(value)}.",
        )
    value, guess = float(value), float(guess)
    hit = abs(guess - value) <= within * (abs(value) or 1)
    said, right = shown(guess, unit, digits), shown(value, unit, digits)
    if hit:
        return True, f"You said {said}, it is {right}: a hit."
    if guess > 0 and value > 0 and not 0.5 < guess / value < 2:
        ratio = max(guess / value, value / guess)
        times = shown(float(THREE_DIGITS.create_decimal(ratio)))
        return (
            False,
            f"You said {said}, it is {right}: {times} times too "
            f"{'large' if guess > value else 'small'}.",
        )
    return False, f"You said {said}, it is {right}: {shown(abs(guess - value), unit, digits)} off."


def number(text: str) -> float | None:
    """A number as people write it ("1,000", "0.5 %", "1e4"); None where it is none."""
    words = text.replace(",", "").replace("\u202f", "").strip().rstrip("%").split()
    try:
        value = float(words[0]) if words else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def shown(value: float, unit: str = "", digits: int = 3) -> str:
    """A number with its unit: 8,732; 99.0 %; 0.12."""
    if value == round(value) and abs(value) < 1e15:
        text = f"{value:,.0f}"
    else:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{decimals}f}"
    return f"{text} {unit}".strip()


def score(lesson: str) -> None:
    """One line at the end of a lesson: how many of its predictions were hits, here and before."""
    row = progress.summary().get(lesson, {"guessed": 0, "hits": 0})
    if not row["guessed"]:
        print(NONE_YET)
        return
    print(f"Your predictions in this lesson: {row['hits']} of {row['guessed']} were hits.")
