"""Review: five questions from one, three and six lessons ago open each lesson.

    review("07")      two from lesson 6, two from lesson 4, one from lesson 1, drawn anew each time

What was learned a while ago is asked for again when it is nearly forgotten. The questions of lesson
NN stand in lesson_lib/course/checks/lessonNN.py, in a list REVIEW. Nothing is recorded: a wrong
answer is told why, and that is all.
"""

import importlib
import random
from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets
from IPython.display import display

from lesson_lib.course.widgets import plain_bundle

AGO = ((1, 2), (3, 2), (6, 1))  # lessons ago, questions from there
COUNT = sum(count for _, count in AGO)


@dataclass(frozen=True)
class Question:
    """One question with its right answer first among `choices`; they are shown in another order.

    `why` follows an answer.
    """

    text: str
    choices: tuple[str, ...]
    why: str

    def __post_init__(self) -> None:
        if len(self.choices) < 2 or len(set(self.choices)) != len(self.choices):
            raise ValueError(
                f"{self.text!r} needs two or more different choices, the right one first."
            )


def questions(lesson: str) -> list[Question]:
    """REVIEW of a lesson; empty where it has none yet."""
    try:
        module = importlib.import_module(f"lesson_lib.course.checks.lesson{lesson}")
    except ModuleNotFoundError:
        return []
    return list(getattr(module, "REVIEW", ()))


def drawn(lesson: str, draw: random.Random) -> list[tuple[str, Question]]:
    """(lesson that it comes from, question), at most COUNT; where a lesson lies too far back,
    earlier ones fill up.
    """
    number, picked = int(lesson), list[tuple[str, Question]]()
    for ago, count in AGO:
        source = f"{number - ago:02d}"
        if number >= ago:
            pool = questions(source)
            picked += [(source, q) for q in draw.sample(pool, min(count, len(pool)))]
    rest = [
        (f"{n:02d}", q)
        for n in range(number)
        for q in questions(f"{n:02d}")
        if q not in [question for _, question in picked]
    ]
    return picked + draw.sample(rest, min(COUNT - len(picked), len(rest)))


class Review(ipywidgets.VBox):
    """Questions with their choices as buttons; made by `review`."""

    def __init__(self, picked: list[tuple[str, Question]], draw: random.Random) -> None:
        self.picked = picked
        super().__init__([_asked(source, question, draw) for source, question in picked])

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = plain_bundle(super()._repr_mimebundle_(**kwargs))
        rows = "".join(
            f"<li><details><summary>{q.text} <small>(lesson {int(source)})</small></summary>"
            f"<b>{q.choices[0]}</b>. {q.why}</details></li>"
            for source, q in self.picked
        )
        return bundle | {"text/plain": "Review", "text/html": f'<ol class="review">{rows}</ol>'}


def _asked(source: str, question: Question, draw: random.Random) -> ipywidgets.VBox:
    order = draw.sample(question.choices, len(question.choices))
    buttons = ipywidgets.ToggleButtons(options=order, value=None, style={"button_width": "auto"})
    said = ipywidgets.HTML()

    def answered(change: dict[str, Any]) -> None:
        right = change["new"] == question.choices[0]
        said.value = (
            f"<b>{'Right' if right else f'It is {escape(question.choices[0])}'}.</b> {question.why}"
        )

    buttons.observe(answered, names="value")
    text = ipywidgets.HTML(f"{question.text} <small>(lesson {int(source)})</small>")
    return ipywidgets.VBox([text, buttons, said])


def review(lesson: str, seed: int | None = None) -> None:
    """Show the questions that open a lesson. seed: to have the same ones again, as the stored page
    does.
    """
    draw = random.Random(seed)
    display(Review(drawn(lesson, draw), draw))
