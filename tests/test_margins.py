"""Bounds of the lessons against what was measured: tools/margins.py, and results/margins.json as it
stands."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import lab
from lesson_lib.course import bounds
from tools import margins
from tools.margins import Bound, weaknesses

GATE = Bound("08.gate", ">", 0.5)


def rows(native: list[float], default: list[float], name: str = "08.gate") -> list[dict]:
    return [
        {"name": name, "budget": "ci", "machine": machine, "seed": seed, "value": value}
        for machine, values in (("native", native), ("default", default))
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("bound", "native", "default", "told"),
    [
        (GATE, [0.8, 0.82, 0.84, 0.8, 0.81], [0.8] * 5, ""),
        (GATE, [0.8, 0.82, 0.84, 0.8], [0.8] * 5, "4 of 5 seeds recorded on native"),
        (GATE, [0.8] * 5, [], "0 of 5 seeds recorded on default"),
        (GATE, [0.8] * 5, [0.8, 0.8, 0.8, 0.8, 0.5], "a recorded run breaks > 0.5"),
        (GATE, [0.51, 0.6, 0.55, 0.7, 0.52], [0.53] * 5, "standard deviations are"),
        (GATE._replace(relation="<"), [0.3] * 5, [0.31] * 5, ""),
        (GATE._replace(relation="<"), [0.3] * 5, [0.3, 0.3, 0.3, 0.3, 0.6], "breaks < 0.5"),
    ],
)
def test_a_bound_is_carried_by_five_seeds_on_two_machines(bound, native, default, told):
    found = weaknesses(bound, rows(native, default) + rows([0.1] * 5, [0.1] * 5, "08.other"))
    assert told in " ".join(found) and bool(found) == bool(told)


def test_a_bound_that_no_seed_reaches_is_carried_by_one_on_two_machines():
    bound = Bound(next(iter(margins.UNSEEDED)), "<", 0.001)
    found = rows([1e-8, 0.08, 0.08], [2e-8, 0.08, 0.08], bound.name)
    assert weaknesses(bound, found) == []
    assert "breaks" in weaknesses(bound, rows([0.08], [2e-8], bound.name))[0]
    assert "0 of 1 seeds recorded on default" in weaknesses(bound, rows([1e-8], [], bound.name))[0]


EXPECTING = """
from lesson_lib.course.bounds import expect
import torch, os
torch.manual_seed(0)
expect("01.chance", "a number", torch.rand(1), "<", 1)
""".strip()


def test_margins_are_measured_once_and_written_run_by_run(tmp_path, monkeypatch, capsys):
    lesson, record = tmp_path / "01_small.ipynb", tmp_path / "margins.json"
    cell = new_code_cell(EXPECTING, id="a", metadata={"tags": ["trained"]})
    nbformat.write(new_notebook(cells=[cell]), lesson)
    for module in (bounds, margins):
        monkeypatch.setattr(module, "RECORD", record)
    monkeypatch.setattr(margins, "SEEDS", range(2))
    monkeypatch.setattr(margins, "MACHINES", ("native", "threads1"))
    margins.run([lesson], "ci", again=False)
    found = json.loads(record.read_text())
    assert set(found[0]) == {"name", "value", "budget", "machine", "seed"}  # the bound may move
    assert [(row["machine"], row["seed"]) for row in found] == [
        ("native", 0),
        ("native", 1),
        ("threads1", 0),
        ("threads1", 1),
    ]
    by_seed = {row["seed"]: row["value"] for row in found}
    assert by_seed[0] != by_seed[1] and weaknesses(Bound("01.chance", "<", 1), found) == []
    assert capsys.readouterr().out.count("01_small.ipynb") == 4
    margins.run([lesson], "ci", again=False)
    assert capsys.readouterr().out == ""


BOUNDS = {bound.name: bound for path in lab.lessons() for bound in margins.bounds(path)}


def test_names_are_of_their_lesson_and_used_once():
    for path in lab.lessons():
        names = [bound.name for bound in margins.bounds(path)]
        assert len(set(names)) == len(names)
        assert all(name.startswith(f"{path.name[:2]}.") for name in names)


@pytest.mark.parametrize("name", BOUNDS)
def test_each_bound_of_a_lesson_is_carried_by_what_was_measured(name):
    recorded = [row for row in bounds.recorded() if row["name"] == name]
    if not recorded:
        pytest.skip(f"not measured yet: python tools/margins.py run {name[:2]}")
    assert weaknesses(BOUNDS[name], recorded) == []
