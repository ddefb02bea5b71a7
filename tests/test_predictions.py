"""Predictions: asked before, answered after; and what is kept of them."""

import json

import pytest

from lesson_lib.course import predictions, progress
from lesson_lib.course.predictions import judged, number, predict, reveal, score, shown


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """A progress file of its own for each test, and no guess of another one."""
    monkeypatch.setenv("LESSON_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.setattr(predictions, "GUESSES", {})
    monkeypatch.setattr(predictions, "ASKED", {})
    return tmp_path / "progress.json"


@pytest.fixture
def shown_html(monkeypatch):
    """What was displayed, in order."""
    displayed = []
    monkeypatch.setattr(predictions, "display", displayed.append)
    return displayed


def guess(widget, value):
    widget.field.value = value


def test_without_a_guess_question_and_answer_are_a_fold(shown_html, kept):
    predict("03.share", "What share is background?", unit="%")
    reveal("03.share", 98.98, "Most say 90.")
    question, answer = shown_html
    still = question._repr_mimebundle_()
    assert "What share is background?" in still["text/html"]
    assert "98" not in still["text/html"]
    assert (
        answer.data.startswith("<details")
        and "99.0 %" in answer.data
        and "Most say 90." in answer.data
    )
    assert not kept.exists()


def test_the_working_stands_in_the_fold_below_the_answer(shown_html):
    predict("03.share", "What share is background?", unit="%")
    reveal("03.share", 98.98, "Most say 90.", working="SSD      98.98 <of all>\nRetina   99.20\n")
    fold = shown_html[1].data
    assert fold.startswith("<details") and fold.endswith("</pre></details>")
    assert fold.index("99.0 %") < fold.index("SSD      98.98 &lt;of all&gt;\nRetina   99.20</pre>")
    guess(shown_html[0], "99")
    reveal("03.share", 98.98, working="SSD      98.98")
    assert shown_html[2].data.startswith("<div") and "SSD      98.98</pre>" in shown_html[2].data


@pytest.mark.parametrize(
    ("said", "words", "hit"),
    [
        ("99", "You said 99 %, it is 98.98 %: a hit.", True),
        ("80 %", "You said 80 %, it is 98.98 %: 18.98 % off.", False),
        ("9", "You said 9 %, it is 98.98 %: 11 times too small.", False),
        ("1,000", "You said 1,000 %, it is 98.98 %: 10.1 times too large.", False),
        ("1e6", "You said 1,000,000 %, it is 98.98 %: 10,100 times too large.", False),
    ],
)
def test_a_guess_is_told_how_far_off_it_was_and_is_kept(shown_html, kept, said, words, hit):
    predict("03.share", "What share is background?", unit="%")
    guess(shown_html[0], said)
    reveal("03.share", 98.98, digits=4)
    assert shown_html[1].data.startswith("<div") and words in shown_html[1].data
    assert json.loads(kept.read_text())["guesses"]["03.share"]["hit"] is hit


def test_the_first_guess_counts(shown_html, kept):
    for said in ("9", "99"):
        predict("03.share", "What share?", unit="%")
        guess(shown_html[-1], said)
        reveal("03.share", 98.98)
    assert progress.summary() == {"03": {"solved": 0, "guessed": 1, "hits": 0}}


def test_choices(shown_html, kept):
    predict("02.map", "Which map?", choices=("38 x 38", "19 x 19"))
    guess(shown_html[0], "38 x 38")
    reveal("02.map", "19 x 19", "Red cells have 47 px.")
    assert "You said 38 x 38; it is 19 x 19." in shown_html[1].data
    with pytest.raises(ValueError, match="none of its choices"):
        reveal("02.map", "5 x 5")


def test_what_is_no_number_is_asked_for_again(shown_html):
    predict("03.share", "What share?")
    guess(shown_html[0], "many")
    assert "A number, please" in shown_html[0].said.value
    assert predictions.GUESSES == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,000", 1000),
        ("0.5 %", 0.5),
        ("1e4 px", 1e4),
        ("-2", -2),
        ("", None),
        ("x", None),
        ("nan", None),
    ],
)
def test_numbers_as_people_write_them(text, value):
    assert number(text) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8732.0, "8,732 px"),
        (0.12345, "0.123 px"),
        (98.98, "99.0 px"),
        (0.0, "0 px"),
        (12345.6, "12,346 px"),
    ],
)
def test_shown(value, text):
    assert shown(value, "px") == text


def test_zero_is_compared_by_distance():
    assert judged(0.05, 0, "", 0.1, 3)[0] and not judged(0.5, 0, "", 0.1, 3)[0]


def test_score_counts_hits(shown_html, capsys):
    score("03")
    predict("03.a", "How many?")
    guess(shown_html[0], "3")
    reveal("03.a", 3)
    score("03")
    none, one = capsys.readouterr().out.splitlines()
    assert "none yet" in none and one.endswith("1 of 1 were hits.")


def test_progress_none_keeps_nothing(shown_html, monkeypatch, tmp_path):
    monkeypatch.setenv("LESSON_PROGRESS", "none")
    progress.record_exercise("01.iou")
    assert progress.read() == progress.EMPTY and not list(tmp_path.iterdir())


def test_a_broken_file_is_no_end(kept):
    kept.write_text("{")
    progress.record_exercise("01.iou")
    assert progress.summary() == {"01": {"solved": 1, "guessed": 0, "hits": 0}}
