"""Differences seed by seed: the pairs, the interval, and how often it holds the truth."""

import math

import pytest
import torch

from lesson_lib.course.paired import Seeds, held, paired, student, unpaired_t


@pytest.mark.parametrize(
    "freedom, quantile",
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (999, 1.962)],
)
def test_student_as_in_printed_tables(freedom, quantile):
    assert student(0.95, freedom) == pytest.approx(quantile, abs=0.002)


def test_of_three_values_in_closed_form():
    """Two degrees of freedom: t = sqrt(2) p / sqrt(1 - p^2) for the two-sided probability p."""
    for sure in (0.5, 0.9, 0.99):
        assert student(sure, 2) == pytest.approx(
            math.sqrt(2) * sure / math.sqrt(1 - sure**2), rel=1e-3
        )


def test_seeds_are_paired_by_their_number_and_strangers_left_out():
    found = paired({0: 10.0, 1: 20.0, 7: 0.0}, {1: 23.0, 0: 11.0, 2: 99.0})
    assert found.by_seed == [1.0, 3.0] and found.mean == 2.0
    assert found.half == pytest.approx(12.706, abs=0.002)  # standard error 1 of two values
    assert found.says == "not decided"


@pytest.mark.parametrize(
    "second, says", [({0: 5.0, 1: 5.1, 2: 4.9}, "more"), ({0: -5.0, 1: -5.1, 2: -4.9}, "less")]
)
def test_an_interval_without_zero_decides(second, says):
    assert paired(dict.fromkeys(range(3), 0.0), second).says == says


@pytest.mark.parametrize("second", [{}, {0: 1.0}, {5: 1.0, 6: 2.0}])
def test_one_difference_says_nothing_of_its_scatter(second):
    with pytest.raises(ValueError, match="two seeds in common"):
        paired({0: 1.0, 1: 2.0}, second)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    """By simulation: no arithmetic is shared with the quantile."""
    values = torch.randn(100_000, 4, generator=torch.Generator().manual_seed(0)) + 3
    half = student(0.95, 3) * values.std(1) / 2
    assert ((values.mean(1) - 3).abs() < half).float().mean().item() == pytest.approx(
        0.95, abs=0.004
    )


def test_two_recordings_are_no_pair():
    here, there = Seeds({0: 1.0, 1: 2.0}, "a laptop"), Seeds({0: 3.0, 1: 4.0}, "a GPU")
    with pytest.raises(ValueError, match="one side ran on a laptop, the other on a GPU"):
        paired(here, there)
    assert paired(here, Seeds({0: 2.0, 1: 4.0}, "a laptop")).by_seed == [1.0, 2.0]
    assert paired(here, {0: 2.0, 1: 4.0}).by_seed == [1.0, 2.0]


def test_two_settings_apart_and_the_words_for_a_paper_s_order():
    first, second = [30.0, 31.0, 32.0], [31.0, 32.0, 33.0]
    assert unpaired_t(first, second) == pytest.approx(1 / math.sqrt(2 / 3))
    assert unpaired_t([10.0, 12.0], [9.0, 9.0, 9.0]) == pytest.approx(-2)
    assert [held(first, second, bound) for bound in (1.2, 1.3)] == ["holds", "cannot be said"]
    assert [held(second, first, bound) for bound in (1.2, 1.3)] == [
        "is turned round",
        "cannot be said",
    ]


def test_between_whole_degrees_of_freedom_the_quantile_lies_between():
    assert student(0.95, 4) < student(0.95, 3.5) < student(0.95, 3)
