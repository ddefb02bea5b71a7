"""Bounds on trained numbers: what `expect` prints, stops and writes down."""

import json

import pytest

from lesson_lib.course import bounds
from lesson_lib.course.bounds import expect


@pytest.fixture(autouse=True)
def record(tmp_path, monkeypatch):
    """record(rows): what tools/margins.py is said to have written; nothing before the first
    call."""
    monkeypatch.setattr(bounds, "RECORD", tmp_path / "margins.json")
    monkeypatch.setenv("LESSON_BUDGET", "ci")
    monkeypatch.delenv(bounds.VARIABLE, raising=False)
    return lambda rows: (tmp_path / "margins.json").write_text(json.dumps(rows))


@pytest.mark.parametrize(
    ("value", "relation", "bound", "line"),
    [
        (0.8274, ">", 0.5, "AP50: 0.827 (asked: more than 0.5)\n"),
        (0.8, ">", 0.5, "AP50: 0.800 (asked: more than 0.5)\n"),
        (0, "<", 1e-3, "AP50: 0.00 (asked: less than 0.001)\n"),
        (123.4, ">", 100, "AP50: 123 (asked: more than 100)\n"),
        (98765.0, ">", 100, "AP50: 98,800 (asked: more than 100)\n"),
        (2e-7, "<", 1e-3, "AP50: 2e-07 (asked: less than 0.001)\n"),
    ],
)
def test_a_number_is_shown_beside_its_bound(capsys, value, relation, bound, line):
    expect("08.gate", "AP50", value, relation, bound)
    assert capsys.readouterr().out == line


@pytest.mark.parametrize(
    ("value", "relation", "bound"),
    [(0.5, ">", 0.5), (0.4, ">", 0.5), (0.5, "<", 0.5), (0.6, "<", 0.5), (float("nan"), "<", 1)],
)
def test_a_number_that_breaks_its_bound_stops_the_lesson(capsys, value, relation, bound):
    with pytest.raises(AssertionError, match="AP50 is .*, and the lesson relies on"):
        expect("08.gate", "AP50", value, relation, bound)
    assert "AP50: " in capsys.readouterr().out


def test_a_relation_that_is_none():
    with pytest.raises(ValueError, match="can be '>' or '<'"):
        expect("08.gate", "AP50", 1, ">=", 0)


def test_while_margins_are_measured_numbers_are_written_down_and_stop_nothing(
    tmp_path, monkeypatch
):
    file = tmp_path / "bounds.jsonl"
    monkeypatch.setenv(bounds.VARIABLE, str(file))
    expect("08.gate", "AP50", 0.4, ">", 0.5)
    expect("08.loss", "loss", 3, "<", 4)
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"name": "08.gate", "value": 0.4, "relation": ">", "bound": 0.5},
        {"name": "08.loss", "value": 3.0, "relation": "<", "bound": 4},
    ]


def test_mean_and_spread_of_the_recorded_seeds_stand_beside_a_number(record, capsys):
    rows = [
        {"name": name, "budget": budget, "machine": machine, "seed": seed, "value": value}
        for name, budget, machine, seed, value in [
            ("08.gate", "ci", "native", 0, 0.7),
            ("08.gate", "ci", "default", 0, 0.8),
            ("08.gate", "ci", "native", 1, 0.9),
            ("08.gate", "laptop", "native", 0, 0.1),
            ("08.loss", "ci", "native", 0, 0.1),
        ]
    ]
    record(rows)
    expect("08.gate", "AP50", 0.75, ">", 0.5)
    expect("08.loss", "loss", 0.2, ">", 0.1)
    assert capsys.readouterr().out.splitlines() == [
        "AP50: 0.750 (asked: more than 0.5; 2 seeds gave 0.800 \u00b1 0.100)",
        "loss: 0.200 (asked: more than 0.1)",  # one run has no spread
    ]


def test_no_spread_stands_where_seeds_are_no_repetitions(record, capsys):
    name = next(iter(bounds.UNSEEDED))
    row = {"name": name, "budget": "ci", "machine": "native"}
    record([row | {"seed": seed, "value": seed * 0.05} for seed in range(3)])
    expect(name, "apart", 1e-6, "<", 1e-3)
    assert "seeds" not in capsys.readouterr().out
