"""Plans of the training cells: a command says its plan, and what is known is of its own runs."""

import shlex

import pytest

from lesson_lib.course import plans
from lesson_lib.course.plans import Plan, command_of, known_about, results_rows


def run(command, ap, seconds, judged="evaluate x --data smears"):
    figures = {"AP": ap}
    return {
        "train": command,
        "evaluate": judged,
        "seconds": seconds,
        "machine": "m",
        "figures": figures,
    }


def test_a_run_with_more_changes_is_another_training(monkeypatch):
    runs = [run("train --data smears --model a --recipe b --set size=96", 0.5, 60) | {"busy": True}]
    monkeypatch.setattr(plans, "recorded", lambda *words: runs)
    assert known_about(Plan("a", "b", []), "laptop") == ""
    assert known_about(Plan("a", "b", ["size=96"]), "laptop").endswith("(m, beside other work)")


def test_a_command_is_one_command_with_every_change():
    line = command_of(Plan("a", "b", ["size=96", "lr=4e-3"]), "runs/x")
    words = shlex.split(line)
    assert words[words.index("--model") + 1] == "a" and words[words.index("--out") + 1] == "runs/x"
    assert [words[i + 1] for i, word in enumerate(words) if word == "--set"] == [
        "size=96",
        "lr=4e-3",
    ]


@pytest.mark.parametrize(
    "settings, judged, said",
    [
        ([], "smears", "AP 50.0 in 2.0 minutes, mean of 2 seeds (m)"),
        (["size=96"], "smears", ""),  # another training
        ([], "bccd", ""),  # judged on other pictures
    ],
)
def test_what_is_known_of_a_plan_is_the_mean_of_its_own_runs(monkeypatch, settings, judged, said):
    command = "train --data smears --model a --recipe b"
    runs = [run(command, ap, 120, f"evaluate x --data {judged}") for ap in (0.4, 0.6)]
    monkeypatch.setattr(
        plans, "recorded", lambda *words: [r for r in runs if all(w in r["train"] for w in words)]
    )
    assert known_about(Plan("a", "b", settings), "laptop") == said


def test_the_minutes_are_the_shortest_and_the_longest_runs(monkeypatch):
    """A mean of 272, 120 and 127 s would be of no run."""
    command = "train --data smears --model a --recipe b"
    runs = [run(command, 0.5, seconds) for seconds in (272, 120, 127)]
    monkeypatch.setattr(plans, "recorded", lambda *words: runs)
    assert "in 2.0 to 4.5 minutes, mean of 3 seeds" in known_about(Plan("a", "b", []), "laptop")


def test_a_row_of_results_says_what_was_trained_and_judged(monkeypatch):
    command = "train --data smears --model a --recipe b --set size=96 --set lr=1"
    first, second = (
        run(f"{command} --seed {seed}", ap, 60) | {"name": "own"}
        for seed, ap in enumerate((0.5, 0.6))
    )
    other = run("train --data smears --model a --budget laptop", 0.3, 60, "evaluate --data bccd")
    monkeypatch.setattr(plans, "recorded", lambda *words: [first, second, other | {"name": "c"}])
    assert results_rows("a") == [
        "| `a` on smears by `b`: size=96, lr=1 | smears test | 55.0 | 2 seeds, m |",
        "| `a` on smears by `smears-laptop` | bccd test | 30.0 | 1 seed, m |",
    ]


def test_two_recipes_are_two_rows_that_a_reader_can_tell_apart():
    """On BCCD's test split one view came to 58.4, eight views and ten negatives to 60.1."""
    trained = [row.split(" | ")[:2] for row in results_rows("--model")]
    assert len(trained) == len({tuple(row) for row in trained}) > 5
