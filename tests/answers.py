"""The tests that the exercises of a lesson get, whatever they are about."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import pytest

from lesson_lib.course.checks import DONE, TODO, WRONG, verdict


class Tests(NamedTuple):
    """For a test file to give names that begin with test_."""

    tried: Callable
    right: Callable
    mistake: Callable
    stub: Callable


def exercise_tests(
    exercises: Mapping[str, Any],
    right: Mapping[str, Callable],
    mistakes: Iterable[tuple[str, Callable, str]],
) -> Tests:
    """exercises  those of the lesson, by name: "08.ssd_loss"
    right      an answer to each that passes
    mistakes   (name, a likely wrong answer, words of the sentence that names the case it misses)
    """
    mistakes = list(mistakes)

    def tried():
        assert set(right) == set(exercises) == {name for name, _, _ in mistakes}

    @pytest.mark.parametrize("name", exercises)
    def passes(name):
        assert verdict(name, right[name]).startswith(DONE)

    @pytest.mark.parametrize(("name", "answer", "case"), mistakes)
    def is_named(name, answer, case):
        said = verdict(name, answer)
        assert said.startswith(f"{WRONG} {name}") and case in said, said

    @pytest.mark.parametrize("name", exercises)
    def not_attempted(name):
        assert verdict(name, lambda *_: ...).startswith(TODO)

    return Tests(tried, passes, is_named, not_attempted)
