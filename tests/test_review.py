"""The questions that open a lesson: from one, three and six lessons ago, answered with a reason."""

import random

import pytest

from lesson_lib.course import review
from lesson_lib.course.review import Question, Review, drawn

BANK = {
    f"{n:02d}": [Question(f"q{n}{i}", ("right", "wrong"), f"because {n}") for i in range(3)]
    for n in range(9)
}


@pytest.fixture
def bank(monkeypatch):
    monkeypatch.setattr(review, "questions", lambda lesson: BANK.get(lesson, []))


@pytest.mark.parametrize(
    ("lesson", "sources"),
    [("07", ["06", "06", "04", "04", "01"]), ("06", ["05", "05", "03", "03", "00"]), ("00", [])],
)
def test_where_they_come_from(bank, lesson, sources):
    assert [source for source, _ in drawn(lesson, random.Random(0))] == sources


def test_the_first_lessons_fill_up_with_what_there_is(bank):
    picked = drawn("02", random.Random(0))
    assert [source for source, _ in picked[:2]] == ["01", "01"] and len(picked) == 5
    assert len({question for _, question in picked}) == 5


def test_another_draw_asks_other_things(bank):
    assert drawn("07", random.Random(0)) != drawn("07", random.Random(3))


def test_an_answer_is_told_right_or_why_not(bank):
    widget = Review(drawn("07", random.Random(0)), random.Random(0))
    _, buttons, said = widget.children[0].children
    buttons.value = "wrong"
    assert "It is right." in said.value and "because 6" in said.value
    buttons.value = "right"
    assert said.value.startswith("<b>Right.")


def test_a_page_without_a_kernel_folds_the_answers(bank):
    still = Review(drawn("07", random.Random(0)), random.Random(0))._repr_mimebundle_()["text/html"]
    assert still.count("<details>") == 5 and "because 6" in still


def test_a_question_needs_choices():
    with pytest.raises(ValueError, match="two or more"):
        Question("q", ("a", "a"), "")


@pytest.mark.parametrize("lesson", [f"{n:02d}" for n in range(15)])
def test_the_lessons_own_questions_are_well_formed(lesson):
    texts = [question.text for question in review.questions(lesson)]
    assert len(set(texts)) == len(texts)
