"""The benchmarks: results are compared before they are timed."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest
import torch

from benchmarks import neighbour, run, timing
from benchmarks.run import match_rows, mine_rows, post_rows, same_detections, ssd_loss_row
from benchmarks.timing import Row, busy_core, close, measure, table


def row(ours, theirs, must=2.0) -> Row:
    return Row("row", "small", ours, theirs, close, must, 3.0)


def test_a_row_is_measured_turn_by_turn(monkeypatch):
    calls = []

    def ours():
        calls.append("ours")
        return torch.ones(2)

    def theirs():
        calls.append("theirs")
        time.sleep(0.004)
        return torch.ones(2)

    monkeypatch.setattr(timing, "LEAST_SECONDS", 0)
    found = measure(row(ours, theirs), 3)
    assert calls == ["ours", "theirs", *["theirs", "ours", "theirs"] * 3]
    assert found["holds"] and found["ratio"] > 2 and found["theirs_ms"] >= 4 and found["noise"] >= 1
    slow = measure(row(theirs, theirs), 3)
    assert not slow["holds"] and 0.5 < slow["ratio"] < 2
    assert "below must" in table([found, slow]).splitlines()[2] and "below" not in table([found])


@pytest.mark.parametrize("least, rounds", [(0, 2), (60, 7)])
def test_a_short_row_gets_more_rounds(monkeypatch, least, rounds):
    """Until LEAST_SECONDS have gone, and never more than MOST_ROUNDS; a long one gets what was
    asked for.
    """
    monkeypatch.setattr(timing, "LEAST_SECONDS", least)
    monkeypatch.setattr(timing, "MOST_ROUNDS", 7)
    calls = []
    measure(row(lambda: calls.append(1) or torch.ones(1), lambda: torch.ones(1)), 2)
    assert len(calls) == 1 + rounds  # and one for the comparison


def test_unequal_results_are_not_timed():
    with pytest.raises(AssertionError):
        measure(row(lambda: torch.zeros(2), lambda: torch.ones(2)), 1)
    with pytest.raises(AssertionError):
        close({"a": [torch.ones(1)]}, {"a": [torch.ones(1) + 0.01]})
    with pytest.raises(ValueError):
        close([torch.ones(1)], [])


def test_the_same_detections_in_another_order_of_equal_scores():
    boxes = torch.arange(240.0).view(60, 4)
    ours = [{"boxes": boxes, "scores": torch.full((60,), 0.5), "labels": torch.arange(60)}]
    turned = [{name: value.flip(0) for name, value in ours[0].items()}]
    same_detections(ours, turned)
    with pytest.raises(AssertionError):
        same_detections(ours, [turned[0] | {"boxes": boxes}])
    with pytest.raises(AssertionError, match="too little"):
        same_detections(
            [{k: v[:4] for k, v in ours[0].items()}], [{k: v[:4] for k, v in turned[0].items()}]
        )


@pytest.mark.parametrize("rows", [match_rows, mine_rows, post_rows, lambda _: [ssd_loss_row()]])
def test_rows_compare_equal(rows):
    """What main() asserts before it times; the first row of each group, and the SSD loss."""
    first = next(iter(rows(False)))
    first.equal(first.ours(), first.theirs())


def test_our_default_boxes_lie_beside_torchvision_s_by_rounding_alone():
    theirs = run._their_default_boxes(run.ssd300_vgg16(weights=None, weights_backbone=None))
    assert (run.anchors_of("ssd") - theirs).abs().max() < 1e-4


def test_a_row_that_fails_loses_none_of_those_before(tmp_path, monkeypatch):
    def rows(compiled):
        yield from mine_rows(compiled)
        raise AssertionError("not the same result")

    monkeypatch.setitem(run.GROUPS, "mine", rows)
    out, threads = tmp_path / "found.json", str(torch.get_num_threads())
    command = ["benchmarks", "--rows", "mine", "--rounds", "1", "--threads", threads]
    monkeypatch.setattr("sys.argv", [*command, "--out", str(out)])
    with pytest.raises(AssertionError, match="not the same"):
        run.main()
    assert [row["name"] for row in json.loads(out.read_text())["rows"]] == ["mine"] * 2


def test_a_busy_neighbour_runs_as_long_as_it_is_wanted():
    with pytest.raises(ZeroDivisionError), busy_core() as neighbour:
        assert neighbour.poll() is None
        raise ZeroDivisionError
    assert neighbour.poll() is not None


@pytest.mark.parametrize("late", [0, 2], ids=["running", "not_yet_begun"])
def test_a_busy_neighbour_ends_with_a_benchmark_that_is_killed(late, tmp_path):
    """Also where Python's start, which takes long on a busy machine, ends after the benchmark."""
    slow_start = f"import os, time\nif 'LATE' in os.environ: time.sleep({late})\n"
    (tmp_path / "sitecustomize.py").write_text(slow_start)
    work = f"""
import os, time
from benchmarks.timing import busy_core
os.environ |= {{"LATE": "", "PYTHONPATH": {str(tmp_path)!r}}}
with busy_core() as neighbour:
    time.sleep({0 if late else 2})
    print(neighbour.pid, flush=True)
    input()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", work], cwd=neighbour.ROOT, **pipes) as killed:
        left = psutil.Process(int(killed.stdout.readline()))
        killed.kill()
    left.wait(timeout=60)  # psutil.TimeoutExpired where it goes on


def test_busy_measures_each_row_twice(tmp_path, monkeypatch, capsys):
    """The whole command with the real mining rows: plain, then beside a busy core, which then is
    gone.
    """
    neighbours = []

    @contextmanager
    def watched():
        with busy_core() as neighbour:
            neighbours.append(neighbour)
            yield neighbour

    monkeypatch.setattr(run, "busy_core", watched)
    out = tmp_path / "found.json"
    threads = str(torch.get_num_threads())
    command = ["benchmarks", "--rows", "mine", "--rounds", "1", "--threads", threads]
    monkeypatch.setattr("sys.argv", [*command, "--busy", "--out", str(out)])
    run.main()
    names = [row["name"] for row in json.loads(out.read_text())["rows"]]
    assert names == ["mine", "mine busy"] * 2
    assert len(neighbours) == 2 and all(n.poll() is not None for n in neighbours)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["row"] + [
        "mine"
    ] * 4


def test_a_neighbour_is_judged_by_the_medians_of_turns(monkeypatch):
    """quiet, busy and free take turns, each in a process of its own."""
    asked = []
    times = iter([10, 15, 9, 12, 90, 11, 11, 16, 12])

    def in_a_process(name, busy, free):
        asked.append((name, busy, free))
        return next(times)

    monkeypatch.setattr(neighbour, "in_a_process", in_a_process)
    found = neighbour.compare("loss", 3)
    assert asked == [("loss", False, False), ("loss", True, False), ("loss", False, True)] * 3
    assert (found["quiet_ms"], found["busy_ms"], found["free_ms"]) == (11, 16, 11)
    assert (found["ratio"], found["cost"], found["holds"]) == (1.45, 1.0, True)
    times = iter([10, 17, 10])
    assert not neighbour.compare("loss", 1)["holds"]


def test_a_record_of_one_machine_and_day_leaves_the_others(tmp_path):
    path = tmp_path / "neighbour.json"
    slow, fast = {"name": "loss", "ratio": 1.7}, {"name": "loss", "ratio": 1.4}
    step = {"name": "step", "ratio": 1.3}
    neighbour.keep(path, "a laptop", "2026-11-28", [slow])
    neighbour.keep(path, "a laptop", "2026-11-29", [slow, step])
    neighbour.keep(path, "a laptop", "2026-11-29", [fast])
    assert json.loads(path.read_text()) == [
        {"machine": "a laptop", "date": "2026-11-28", "rows": [slow]},
        {"machine": "a laptop", "date": "2026-11-29", "rows": [fast, step]},
    ]


def test_the_work_beside_a_neighbour_is_done_in_a_process_of_its_own():
    assert neighbour.in_a_process("loss", busy=True, free=False) > 0
