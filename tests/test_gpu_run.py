"""The GPU script, tried whole at toy size: it stops where its state is saved, goes on, and judges
as the command line does; its columns with a stand-in for CUDA; its figures where pages show them.
"""

import json
import subprocess
import sys
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_run, gpu_speed
from benchmarks.gpu_speed import COLUMNS, NEEDS_CUDA, Asked, Setting
from lesson_lib import cli
from lesson_lib.cli import train as cli_train
from lesson_lib.config import REPOSITORY
from lesson_lib.course import plans
from lesson_lib.training import checkpoints
from tools import record

TOY = Setting("retina", 64, 1, 1, "smears")
WITHOUT_CUDA = {"compiled", "graph", "synchronisations", "memory_measured"}


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# ---- the whole script at toy size ----


def test_the_whole_script_stops_goes_on_and_judges_as_the_command_line(  # long: one dear run
    tmp_path, monkeypatch, capsys
):
    out, arguments = tmp_path / "out", ["--small", "--out", str(tmp_path / "out")]
    assert gpu_run.main([*arguments, "--minutes", "0"]) is False
    first = json.loads((out / "speed-ssd.json").read_text())
    assert list(first["columns"]) == ["theirs"]  # no time, and one column all the same

    asked = []
    monkeypatch.setattr(gpu_run, "SAVE_EVERY", 2)
    with monkeypatch.context() as patch:  # the time is up at step 3, between two that save
        patch.setattr(cli_train, "_clock", lambda _: lambda: asked.append(1) or len(asked) >= 3)
        assert gpu_run.main([*arguments, "--minutes", "1e4"]) is False
    assert "ssd-tiny-smears-0: step 3 of 16; run it again to go on" in capsys.readouterr().out
    run = out / "runs" / "ssd-tiny-smears-0"
    assert checkpoints.read(run / "last.pt")["step"] == 3 == log(run)[-1]["step"]
    assert not (out / "ssd-tiny-smears-0.json").exists()
    assert gpu_run.main([*arguments, "--minutes", "0"]) is False  # no time, and a step all the same
    assert checkpoints.read(run / "last.pt")["step"] == 4

    assert gpu_run.main([*arguments, "--minutes", "1e4"]) is True
    assert "all done" in capsys.readouterr().out
    assert [row["step"] for row in log(run)] == list(range(1, 17))  # none lost, none twice
    for kind in ("ssd", "retina"):
        found = json.loads((out / f"speed-{kind}.json").read_text())
        assert list(found["columns"]) == list(COLUMNS) and found["small"] and found["machine"]
        for name, value in found["columns"].items():
            word = name in WITHOUT_CUDA and gpu_speed.DEVICE.type == "cpu"
            assert value == NEEDS_CUDA if word else value > 0, (kind, name)
    for model in ("ssd-tiny", "retinanet-tiny"):
        kept = json.loads((out / f"{model}-smears-0.json").read_text())
        assert cli.main(kept["evaluate"].split()[3:]) == 0
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert kept["figures"] == {
            name: round(value, 4) for name, value in said.items() if name in kept["figures"]
        }
        assert cli.main(kept["train"].split()[3:]) == 0  # the command that it says is the one
        assert "Was trained before" in capsys.readouterr().out
    assert kept["figures"]["AR100"] > 0
    monkeypatch.setattr(gpu_run, "command", None)
    assert gpu_run.main(arguments) is True  # nothing is done twice


def test_a_command_that_fails_ends_the_script(capsys):
    with pytest.raises(RuntimeError, match="evaluate nowhere failed"):
        gpu_run.command("evaluate", "nowhere")
    assert "is no run" in capsys.readouterr().err


def test_full_trainings_are_those_of_the_papers_networks_on_both_sets():
    found = gpu_run.trainings(False, [0, 1])
    names = {training.name for training in found}
    assert len(names) == len(found) == 8 and "retinanet-r50-aquarium-1" in names
    for training in found:
        assert {setting.partition("=")[0] for setting in training.settings} == {
            "pretrained",
            "size",
            "augment",
        }


def test_without_cuda_only_the_small_form_runs(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_run.main([])
    assert "there is no CUDA here; --small tries" in capsys.readouterr().err


# ---- speed ----


def test_speed_comes_a_column_further_however_short_the_time(monkeypatch):
    monkeypatch.setattr(gpu_speed, "measured", lambda name, _: float(len(name)))
    known, kept = {}, []
    for number in range(1, len(COLUMNS) + 1):
        done = gpu_speed.speed_part(TOY, True, known, TOY.lacking(known), kept.append, -1.0)
        known = kept[-1]["columns"]
        assert len(known) == number and done == (number == len(COLUMNS))
    assert len(kept) == len(COLUMNS) and TOY.lacking(known) == []


def test_a_column_that_fails_says_why(monkeypatch):
    def broken(_):
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setitem(COLUMNS, "graph", broken)
    assert gpu_speed.measured("graph", TOY) == "RuntimeError: no kernel"
    monkeypatch.setitem(COLUMNS, "graph", lambda _: 12.34567)
    assert gpu_speed.measured("graph", TOY) == 12.35


def test_only_torchvision_as_shipped_has_its_algorithms_unchosen(monkeypatch):
    before = torch.backends.cudnn.benchmark
    for name in ("theirs", "theirs_tuned", "library"):
        monkeypatch.setitem(COLUMNS, name, lambda _: float(torch.backends.cudnn.benchmark))
    asked = [gpu_speed.measured(name, TOY) for name in ("theirs", "theirs_tuned", "library")]
    assert asked == [0, 1, 1] and torch.backends.cudnn.benchmark == before


def test_the_table_of_what_was_to_be_reached():
    columns = {"theirs": 100.0, "theirs_tuned": 200.0, "library": 380.0, "compiled": "broke"}
    columns |= {"graph": 400.0, "loader_memory": 361.0, "loader_workers": "no files"}
    columns |= {"synchronisations": 0.0, "memory_measured": 20.0, "memory_rehearsed": 16.0}
    found = gpu_speed.rows(TOY, columns)
    assert [row["found"] for row in found] == [400, 2, 4, 5, "no files", 0, 20]
    assert [row["holds"] for row in found] == [True, True, True, True, None, True, False]
    words = {row["found"] for row in gpu_speed.rows(TOY, {})}
    assert words == {"nothing ran", "not measured"}
    assert gpu_speed.row("x", 1.0, Asked(2, 3))["holds"] is False
    assert gpu_speed.row("x", NEEDS_CUDA, Asked(2, 3))["holds"] is None


class Cuda:
    """What the columns ask of torch.cuda, in the order of the calls."""

    def __init__(self):
        self.calls, self.replay = [], lambda: self.calls.append("replay")

    def Stream(self):
        return SimpleNamespace(wait_stream=lambda _: self.calls.append("wait"))

    current_stream = Stream

    def stream(self, _):
        return nullcontext()

    def CUDAGraph(self):
        return SimpleNamespace(replay=self.replay)

    def graph(self, _):
        self.calls.append("capture")
        return nullcontext()

    def synchronize(self):
        self.calls.append("synchronize")

    def get_sync_debug_mode(self):
        return 0

    def set_sync_debug_mode(self, mode):
        self.calls.append(f"mode {mode}")
        if mode:
            warnings.warn("Synchronization debug mode is a prototype", stacklevel=1)

    def memory_allocated(self):
        return 2**30

    def reset_peak_memory_stats(self):
        self.calls.append("reset")

    def max_memory_allocated(self):
        return 4 * 2**30


@pytest.fixture
def cuda(monkeypatch):
    stand_in = Cuda()
    monkeypatch.setattr(gpu_speed.torch, "cuda", stand_in)
    return stand_in


def test_a_step_becomes_a_graph_after_three_to_warm_up(cuda):
    gpu_speed.graphed(lambda: cuda.calls.append("step"))()
    assert cuda.calls == ["wait", *["step"] * 3, "wait", "capture", "step", "replay"]


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_waits_of_a_step_are_counted_and_nothing_else(cuda):
    def step():
        for _ in range(2):  # the second of the same place counts too
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("lr_scheduler before optimizer", stacklevel=1)

    assert gpu_speed.waits_of(step) == 2 and gpu_speed.waits_of(lambda: None) == 0
    assert cuda.calls == ["synchronize", "mode warn", "mode 0"] * 2


def test_memory_is_measured_of_one_step_when_all_is_made(cuda, monkeypatch):
    monkeypatch.setattr(gpu_speed, "library", lambda _: lambda: cuda.calls.append("step"))
    assert gpu_speed.memory_measured(TOY) == 3
    assert cuda.calls == ["step", "reset", "step", "synchronize"]


def test_the_compiled_network_goes_through_the_librarys_step(monkeypatch):
    made, seen = [], []
    monkeypatch.setattr(torch, "compile", lambda model: made.append(model) or seen.append)
    step = gpu_speed.compiled(TOY)
    network, model = step.args[:2]
    assert step.func is gpu_speed.one_step and made == [model] and network == seen.append


# ---- where it is shown ----


def a_gpu_was_there(folder):
    """Made up: one model's speed, three trainings, and a trial at toy size."""
    about = {"machine": "NVIDIA H200, 140 GiB", "torch": "2.14.1", "date": "2026-12-01"}
    rows = gpu_speed.rows(TOY, {"library": 380.0, "theirs": 200.0, "graph": "broke"})
    gpu_run.write(folder / "speed-retina.json", about | {"small": False, "rows": rows})
    for seed, ap in enumerate((0.625, 0.585)):
        training = gpu_run.Training("ssd300-vgg16", "bccd", seed, ("size=300",))
        run = {"name": "gpu-bccd-ssd300-vgg16", "told": "bccd, ssd300-vgg16 from scratch"}
        run |= {"small": False, "seed": seed, "seconds": 600 + seed}
        run["train"] = f"python -m lesson_lib {' '.join(training.train(folder / 'runs'))}"
        run["evaluate"] = f"python -m lesson_lib {' '.join(training.evaluate(folder / 'runs'))}"
        run["figures"] = {"AP": ap, "AP50": 0.9, "AP75": 0.7}
        run["rows"] = [gpu_speed.row("bccd test AP, ssd300-vgg16", ap, Asked(0.6, 0.66))]
        gpu_run.write(folder / f"{training.name}.json", about | run)
    toy = {"small": True, "rows": [gpu_speed.row("toy", 1.0, Asked(1, 1))], "train": "x"}
    gpu_run.write(folder / "ssd-tiny-smears-0.json", about | toy)


def test_what_a_gpu_reached_stands_in_the_readme(tmp_path, monkeypatch):
    before = record.table()
    monkeypatch.setattr(record, "GPU", tmp_path / "gpu")
    assert record.table() == before  # no such folder
    a_gpu_was_there(tmp_path / "gpu")
    text = record.table()
    assert set(before.splitlines()[2:]) - set(text.splitlines()) == {before.splitlines()[-1]}
    command = "`train --data bccd --model ssd300-vgg16 --recipe any-gpu --set size=300`"
    trained = f"| bccd, ssd300-vgg16 from scratch, on a GPU | {command} | 2 | 0.605 ± 0.028 | 0.900"
    assert trained in text and "| 600 s |" in text and "toy" not in text
    assert "NVIDIA H200, 140 GiB, torch 2.14.1, 2026-12-01" in text
    assert "| RetinaNet-R50, 64 px, bf16, training, images/s | 380 | 300 | 400 | NVIDIA" in text
    assert "times torchvision as shipped | **1.9** | 3.5 | 5 |" in text
    assert "host synchronisations in a step | not measured | 0 | 0 |" in text
    assert "| bccd test AP, ssd300-vgg16, seed 1 | **0.585** | 0.6 | 0.66 |" in text


def test_lessons_show_what_a_gpu_reached(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "RESULTS", tmp_path)
    assert plans.gpu_rows() is None and plans.recorded() == []
    a_gpu_was_there(tmp_path / "gpu")
    rows = plans.gpu_rows()
    assert rows == plans.gpu_rows(tmp_path / "gpu") and len(rows) == 9
    assert rows[0].startswith("| RetinaNet-R50, 64 px") and "seed 1" in rows[-1]
    assert [run["seed"] for run in plans.recorded("--model ssd300-vgg16", "--data bccd")] == [0, 1]
    assert plans.results_rows("--model ssd300") == [
        "| `ssd300-vgg16` on bccd by `any-gpu`: size=300 | bccd test | 60.5 | 2 seeds, "
        "NVIDIA H200, 140 GiB |"
    ]


def test_a_checkout_needs_no_platformdirs():
    """A rented GPU's image may lack it; where data lies in a checkout is known without."""
    script = (
        "import sys; sys.modules['platformdirs'] = None\n"
        "import benchmarks.gpu_run\n"
        "from lesson_lib.config import cache_dir, dataset_roots\n"
        "print(cache_dir(), dataset_roots())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 0, done.stderr
