"""What a recorded run keeps, and what the README says of it."""

import json
import statistics

import pytest

from tools import record


def test_a_curve_is_thinned_to_means_and_keeps_every_judgement():
    log = [{"step": k, "loss": float(k)} for k in range(1, 101)]
    log[49]["AP50"], log[99]["AP50"] = 0.5, 0.80213
    kept = record.curve(log, points=4)
    assert kept["loss"] == [[25, 13.0], [50, 38.0], [75, 63.0], [100, 88.0]]
    assert kept["val AP50"] == [[50, 0.5], [100, 0.8021]]
    assert record.curve(log[:3], points=40)["loss"] == [[1, 1.0], [2, 2.0], [3, 3.0]]


def test_every_recorded_run_is_one_that_can_be_made_again():
    for run in record.known_runs():
        told, train, evaluate = record.RUNS[run["name"]]
        assert f"train {train} --seed {run['seed']} " in run["train"], told
        assert run["evaluate"].endswith(f" {evaluate} --json")


def test_bccd_in_three_minutes_on_two_cores_as_recorded():
    """What the course says of its own recipe in float32: AP .60, AP50 .91, no seed above 180 s."""
    runs = [run for run in record.known_runs() if run["name"] == "bccd"]
    for name, least in (("AP", 0.60), ("AP50", 0.91)):
        assert statistics.mean(run["figures"][name] for run in runs) >= least
    assert len(runs) == 3 and max(run["seconds"] for run in runs) <= 180
    assert not any(run.get("busy") for run in runs)
    assert not any("precision" in run["train"] for run in runs)


def test_two_recipes_never_share_a_folder():
    trainings = {train for _, train, _ in record.RUNS.values()}
    assert len({record.folder_of(train, 0) for train in trainings}) == len(trainings)


def test_what_has_not_been_recorded_has_no_row(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path / "none.json")
    assert record.table() == "No run has been recorded yet."
    assert json.loads(json.dumps(record.curve([]))) == {"loss": [], "val AP50": []}


@pytest.mark.parametrize("busy", [False, True])
def test_a_run_beside_other_work_says_so(tmp_path, monkeypatch, busy):
    run = {"name": "bccd", "figures": {"AP": 0.5, "AP50": 0.9, "AP75": 0.6}, "seconds": 100}
    run |= {"machine": "a", "torch": "2.14.1", "date": "2026-01-01"} | (
        {"busy": True} if busy else {}
    )
    (tmp_path / "runs.json").write_text(json.dumps([run]))
    monkeypatch.setattr(record, "RESULTS", tmp_path / "runs.json")
    assert ("100 s, beside other work |" in record.table()) == busy


def test_a_run_that_was_judged_while_it_trained_tells_its_last_ap50_on_val(tmp_path, monkeypatch):
    run = {"name": "bccd", "figures": {"AP": 0.5, "AP50": 0.9, "AP75": 0.6}, "seconds": 100}
    run |= {"machine": "a", "torch": "2.14.1", "date": "2026-01-01"}
    judged = [run | {"curve": {"loss": [], "val AP50": [[5, 0.2], [9, ap]]}} for ap in (0.7, 0.8)]
    monkeypatch.setattr(record, "RESULTS", tmp_path / "runs.json")
    for runs, told in ((judged, "(val: AP50 0.750)"), ([run | {"curve": {"val AP50": []}}], "|")):
        (tmp_path / "runs.json").write_text(json.dumps(runs))
        row = record.table().splitlines()[2]
        assert row.startswith(f"| BCCD, from scratch {told}")
