"""The GPU script, tried whole at toy size: it stops where its state is saved, goes on, and judges
as the command line does; what fails costs nothing else; its figures where pages show them.
"""

import io
import json
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
import torch

from benchmarks import gpu_columns, gpu_run, gpu_speed
from benchmarks.gpu_columns import COLUMNS, NEEDS_CUDA
from benchmarks.gpu_speed import Asked, Card, Setting
from lesson_lib import cli
from lesson_lib.cli import train as cli_train
from lesson_lib.config import REPOSITORY
from lesson_lib.course import plans
from lesson_lib.training import checkpoints
from lesson_lib.training.recipes import MODELS, NAMED, overridden
from lesson_lib.training.rehearsal import recipe_costs
from tools import record

TOY = Setting("retina", 64, 1, 1, 1, "smears")
WITHOUT_CUDA = {"graph", "synchronisations", "memory_measured"}
T4, H200 = Card("Tesla T4", 14.6, (7, 5)), Card("NVIDIA H200", 139.8, (9, 0))
NUMBERS = {"synchronisations", "memory_rehearsed", "memory_measured"}
PAIR = {"ours": 380.0, "theirs": 200.0, "ratio": 1.9, "noise": 1.01}


def made_up(name, *_):
    """Stands for `in_a_process`."""
    return 1.0 if name in NUMBERS else PAIR


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# ---- the whole script at toy size ----


def column_here(name, setting, log, elsewhere=gpu_speed.in_a_process):
    """In this process, which has loaded torch; of SSD300 only what is not as for RetinaNet."""
    if setting.kind == "ssd" and name not in ("scratch", "memory_rehearsed", *WITHOUT_CUDA):
        return PAIR
    if name == "compiled":  # the compiler's own warnings are none of ours
        return elsewhere(name, setting, log)
    return gpu_columns.measured(name, setting)


def train_here(out, *arguments, listening=False, elsewhere=gpu_run.command):
    """Training in this process, whose clock a test can turn; the rest in one of its own."""
    if arguments[0] != "train":
        return elsewhere(out, *arguments, listening=listening)
    with redirect_stdout(io.StringIO()):
        assert cli.main(arguments) == 0
    return ""


def test_the_whole_script_stops_goes_on_and_judges_as_the_command_line(  # long: one dear run
    tmp_path, monkeypatch, capsys
):
    out, arguments = tmp_path / "out", ["--small", "--out", str(tmp_path / "out")]
    assert gpu_run.main([*arguments, "--minutes", "0"]) is False
    first = json.loads((out / "speed-retina.json").read_text())
    assert list(first["columns"]) == ["shipped"]  # no time, and one column all the same
    assert first["columns"]["shipped"].keys() == PAIR.keys()
    training = gpu_run.trainings(True, [0])[0]
    assert gpu_run.train_part(training, out, True, -1.0) is False  # no time, and a step
    run = out / "runs" / "ssd-tiny-smears-0"
    said = json.loads((run / "run.json").read_text())["command"]
    assert said.startswith("train --data smears --model ssd-tiny") and "--minutes 0" in said

    asked = []
    monkeypatch.setattr(gpu_run, "SAVE_EVERY", 2)
    monkeypatch.setattr(gpu_speed, "in_a_process", column_here)
    monkeypatch.setattr(gpu_run, "command", train_here)
    with monkeypatch.context() as patch:  # the time is up at step 3, between two that save
        patch.setattr(cli_train, "_clock", lambda _: lambda: asked.append(1) or len(asked) >= 2)
        assert gpu_run.main([*arguments, "--minutes", "1e4"]) is False
    heard = capsys.readouterr().out
    assert "ssd-tiny-smears-0: step 3 of 16\nthe time is up: run it again to go on" in heard
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
            if name in WITHOUT_CUDA and not gpu_columns.ON_GPU:
                assert value == NEEDS_CUDA
                continue
            values = value.values() if isinstance(value, dict) else [value]
            assert all(one > 0 for one in values), (kind, name)
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


def test_a_command_that_fails_says_so(tmp_path, capfd):
    with pytest.raises(gpu_run.CommandFailed, match="evaluate nowhere ended with status 1"):
        gpu_run.command(tmp_path, "evaluate", "nowhere")
    assert "is no run" in capfd.readouterr().err


def test_full_trainings_are_those_of_the_papers_networks_on_both_sets():
    found = gpu_run.trainings(False, [0, 1], H200)
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


# ---- what fails ----


@pytest.fixture
def no_trainings(monkeypatch):
    monkeypatch.setattr(gpu_run, "trainings", lambda *_: [])


def small(out, minutes="1e4"):
    return gpu_run.main(["--small", "--out", str(out), "--minutes", minutes])


def test_what_fails_costs_no_other_column_and_is_tried_again_last(
    tmp_path, monkeypatch, no_trainings, capsys
):
    tried = []

    def column(name, setting, _):
        tried.append(f"{setting.kind} {name}")
        return "OutOfMemoryError: none left" if name == "tuned" else made_up(name)

    monkeypatch.setattr(gpu_speed, "in_a_process", column)
    assert small(tmp_path) is False
    assert tried == [f"{kind} {name}" for kind in ("retina", "ssd") for name in COLUMNS]
    said = capsys.readouterr().out
    log = tmp_path / "runs" / "logs" / "ssd-tuned.txt"
    assert (
        f"SSD300-VGG16, tuned: failed, and is tried again the next time; see {log}: "
        "OutOfMemoryError: none left" in said
    )
    assert said.endswith("done, but for what failed above: run it again to try that again\n")
    tried.clear()
    (tmp_path / "speed-retina.json").unlink()
    assert small(tmp_path, "0") is False
    assert tried == ["retina shipped"]  # what was never tried comes first
    monkeypatch.setattr(gpu_speed, "in_a_process", lambda *_: tried.append(_[0]) or made_up(*_))
    assert small(tmp_path) is True
    assert tried[-1] == "tuned" and len(tried) == len(COLUMNS) + 1
    assert "all done" in capsys.readouterr().out


def test_a_training_that_fails_costs_no_other(tmp_path, monkeypatch, capsys):
    tried = []

    def command(_, *arguments, listening=False):
        tried.append(arguments[4])
        raise gpu_run.CommandFailed("python -m lesson_lib train ended with status 1, see above.")

    monkeypatch.setattr(gpu_run, "columns_left", lambda *_: ([], []))
    monkeypatch.setattr(gpu_run, "command", command)
    for minutes, expected in (("0", 1), ("1e4", 2)):  # the one that failed comes last then
        tried.clear()
        assert small(tmp_path, minutes) is False and len(tried) == expected
    assert tried == ["retinanet-tiny", "ssd-tiny"]
    assert "ssd-tiny-smears-0 failed, and is tried again the next time: " in capsys.readouterr().out


@pytest.fixture
def columns_by(tmp_path, monkeypatch):
    """columns_by(source): a module of this source stands for `gpu_columns`."""

    def put(source):
        (tmp_path / "pretended_columns.py").write_text(source)
        monkeypatch.setattr(gpu_speed, "MODULE", "pretended_columns")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return put


def test_a_column_that_kills_its_process_leaves_the_next_one_measured(
    tmp_path, columns_by, monkeypatch
):
    columns_by(
        "import os, sys\n"
        "if sys.argv[1] == 'shipped':\n"
        "    print('no kernel', flush=True)\n"
        "    os.abort()\n"
        "open(sys.argv[-1], 'w').write('12.5')\n"
    )
    assert gpu_speed.speed_part(tmp_path, TOY, True, ["shipped", "memory_measured"], 1e12)
    found = json.loads((tmp_path / "speed-retina.json").read_text())["columns"]
    assert "Its process ended with " in found["shipped"] and found["memory_measured"] == 12.5
    assert "no kernel" in (tmp_path / "runs" / "logs" / "retina-shipped.txt").read_text()
    assert gpu_speed.columns_left(tmp_path, TOY, True)[1] == ["shipped"]


def test_a_column_that_hangs_is_stopped(tmp_path, columns_by, monkeypatch):
    columns_by("import time\ntime.sleep(1e4)\n")
    monkeypatch.setattr(gpu_speed, "MOST_MINUTES", 0.01)
    found = gpu_speed.in_a_process("graph", TOY, tmp_path / "runs" / "logs" / "graph.txt")
    assert found == "It was stopped after 0.01 minutes."


def test_a_process_of_its_own_writes_below_out(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    found = gpu_speed.environment(tmp_path / "runs")
    assert found["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "runs" / "compiled")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    assert gpu_speed.environment(tmp_path)["TORCHINDUCTOR_CACHE_DIR"] == "mine"


# ---- on which machine ----


def test_speed_comes_a_column_further_however_short_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_speed, "in_a_process", made_up)
    for number in range(1, len(COLUMNS) + 1):
        left, _ = gpu_speed.columns_left(tmp_path, TOY, True)
        done = gpu_speed.speed_part(tmp_path, TOY, True, left, -1.0)
        known = gpu_speed.known_columns(tmp_path, TOY, True)
        assert list(known) == list(COLUMNS)[:number] and done == (number == len(COLUMNS))


@pytest.mark.parametrize("name, value", [("hardware", "NVIDIA H100"), ("batch", 2)])
def test_what_another_machine_measured_is_measured_anew(
    tmp_path, monkeypatch, no_trainings, capsys, name, value
):
    setting = TOY
    monkeypatch.setattr(gpu_speed, "in_a_process", made_up)
    monkeypatch.setattr(gpu_run, "settings", lambda *_: [setting])
    assert small(tmp_path) is True and gpu_speed.of_another(tmp_path, TOY, True) == ""
    if name == "batch":
        setting = TOY._replace(batch=value)
    else:
        monkeypatch.setattr(gpu_speed, name, lambda: value)
    assert gpu_speed.columns_left(tmp_path, setting, True) == (list(COLUMNS), [])
    assert small(tmp_path, "0") is False
    assert f"here {value}): all of it is measured anew" in capsys.readouterr().out
    assert list(gpu_speed.known_columns(tmp_path, setting, True)) == ["shipped"]


def test_a_small_old_gpu_measures_what_fits_in_fp16():
    ssd, retina = gpu_speed.settings(False, T4)
    assert (ssd.precision, retina.precision) == ("fp16", "fp16") and retina.recipe.batch < 32
    costs = gpu_speed.step_costs(gpu_columns.config_of(retina), 91, 800)
    assert costs.memory(retina.batch).total < T4.memory * 2**30
    assert retina.batch == 1 or costs.memory(4 * retina.batch).total > T4.memory * 2**30 / 1.5


def test_a_large_gpu_measures_what_was_asked(monkeypatch):
    monkeypatch.setattr(gpu_speed, "step_costs", None)
    found = gpu_speed.settings(False, H200)
    assert [(one.batch, one.precision) for one in found] == [(64, "bf16"), (32, "bf16")]


def test_a_training_is_cut_into_parts_that_fit():
    card = Card("small and old", 4.0, (7, 5))
    training = gpu_run.for_card(gpu_run.trainings(False, [0])[1], card)
    assert training.model == "retinanet-r50" and "precision=fp16" in training.settings
    config, recipe = overridden(MODELS["retinanet-r50"], NAMED["any-gpu"].recipe, training.settings)
    costs = recipe_costs(config, 3, recipe, "fp16")
    assert recipe.accumulate > 1 and recipe.precision == "fp16"
    assert costs.memory(-(-recipe.batch // recipe.accumulate)).total < card.memory * 2**30


@pytest.mark.parametrize("card, must", [(T4, None), (None, None), (H200, 1.7)])
def test_speed_is_judged_on_the_gpus_that_it_was_asked_of(tmp_path, monkeypatch, card, must):
    monkeypatch.setattr(gpu_speed, "in_a_process", made_up)
    monkeypatch.setattr(gpu_speed, "card", lambda: card)
    gpu_speed.speed_part(tmp_path, TOY, True, ["tuned", "loader_memory"], 1e12)
    rows = json.loads((tmp_path / "speed-retina.json").read_text())["rows"]
    found = {row["what"].partition(", ")[2]: row for row in rows}
    row = found["times torchvision tuned the same way"]
    assert row["must"] == must and row["holds"] is (None if must is None else True)
    assert found["real loader (memory) behind synthetic input, %"]["must"] == (must and 5)
    assert found["host synchronisations in a step"]["must"] == 0  # which no GPU excuses


# ---- the table ----


def pair(ours, theirs):
    return {"ours": ours, "theirs": theirs, "ratio": ours / theirs, "noise": 1.0}


def test_the_table_of_what_was_to_be_reached():
    columns = {"shipped": pair(400.0, 100.0), "tuned": pair(380.0, 200.0), "compiled": "broke"}
    columns |= {"scratch": pair(300.0, 380.0), "graph": pair(600.0, 400.0)}
    columns |= {"loader_memory": pair(361.0, 380.0), "loader_workers": "no files"}
    columns |= {"synchronisations": 0.0, "memory_measured": 20.0, "memory_rehearsed": 16.0}
    found = gpu_speed.rows(TOY, columns)
    assert [row["found"] for row in found] == [380, 1.9, 4, 300, "broke", 1.5, 5, "no files", 0, 20]
    holds = [True, True, True, None, None, None, True, None, True, False]
    assert [row["holds"] for row in found] == holds
    words = {row["found"] for row in gpu_speed.rows(TOY, {})}
    assert words == {"not measured"}
    assert gpu_speed.row("x", 1.0, Asked(2, 3))["holds"] is False
    assert gpu_speed.row("x", NEEDS_CUDA, Asked(2, 3))["holds"] is None


def test_what_train_cannot_do_is_not_called_training():
    """Compiled and as a graph the step may be faster: that reaches nothing for who trains."""
    slow = {"shipped": pair(110.0, 100.0), "tuned": pair(110.0, 100.0)}
    found = gpu_speed.rows(TOY, slow | {"graph": pair(900.0, 100.0), "compiled": pair(900.0, 80.0)})
    fast = [row["what"] for row in found if row["found"] in (900, 9, 11.25)]
    assert fast == [
        "RetinaNet-R50, compiled, times torchvision compiled",
        "RetinaNet-R50, one CUDA graph (not in train), times train's step",
    ]
    assert [row["holds"] for row in found[:3]] == [False] * 3


# ---- where it is shown ----


def a_gpu_was_there(folder):
    """Made up: one model's speed, three trainings, and a trial at toy size."""
    about = {"machine": "NVIDIA H200, 140 GiB", "torch": "2.14.1", "date": "2026-12-01"}
    rows = gpu_speed.rows(TOY, {"shipped": PAIR, "graph": "broke"})
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
    step = "RetinaNet-R50, 64 px, batch 1, bf16, training"
    assert f"| {step}, images/s | 380 | 300 | 400 | NVIDIA" in text
    assert f"| {step} with norms from scratch, images/s | not measured | – | – | NVIDIA" in text
    assert "times torchvision as shipped | **1.9** | 3.5 | 5 |" in text
    assert "host synchronisations in a step | not measured | 0 | 0 |" in text
    assert "| bccd test AP, ssd300-vgg16, seed 1 | **0.585** | 0.6 | 0.66 |" in text


def test_lessons_show_what_a_gpu_reached(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "RESULTS", tmp_path)
    assert plans.gpu_rows() is None and plans.recorded() == []
    a_gpu_was_there(tmp_path / "gpu")
    rows = plans.gpu_rows()
    assert rows == plans.gpu_rows(tmp_path / "gpu") and len(rows) == 12
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
