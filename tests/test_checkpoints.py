"""Checkpoints: runs that are killed, cut short, out of disk, or another's."""

import errno
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lesson_lib import files
from lesson_lib.data.smears import draw_smear
from lesson_lib.detectors.ssd import SSD, SSDConfig
from lesson_lib.training import checkpoints
from lesson_lib.training.loop import train
from lesson_lib.training.recipes import Recipe

RECIPE = Recipe(epochs=3, batch=2, size=64, lr=2e-3, augment="ssd")  # 3 steps an epoch, 9 in all
SMEARS = [draw_smear(0, i, size=64) for i in range(6)]


def ssd(backbone="tiny-8"):
    torch.manual_seed(0)
    return SSD(SSDConfig(num_classes=3, backbone=backbone, norm="batch", image_size=64))


def states(model):
    return torch.cat(
        [v.flatten().double() for v in model.state_dict().values()]
    )  # weights and statistics


@pytest.fixture
def one_thread():
    """Sums are added in one order here and in the processes that are killed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


KILLED = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    import torch
    sys.path.insert(0, sys.argv[1])
    import test_checkpoints as t
    torch.set_num_threads(1)
    file, how, when = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    def die():
        os.kill(os.getpid(), signal.SIGKILL)
    calls = 0
    def at_call(function, before):
        def wrapped(*arguments):
            global calls
            calls += 1
            if calls == when:
                before(*arguments)
                die()
            return function(*arguments)
        return wrapped
    if how == "writing":                                 # half of the bytes have reached the file
        half = lambda number: os.ftruncate(number, os.fstat(number).st_size // 2)
        os.fsync = at_call(os.fsync, half)
    if how == "renaming":
        os.replace = at_call(os.replace, lambda *_: None)
    for record in t.train(t.ssd(), t.SMEARS, t.RECIPE, checkpoint=file, save_every=2):
        if how == "training" and record["step"] == when:
            die()
    """)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, one_thread):
    kills = {
        "training": (3, 2),
        "writing": (2, 2),
        "renaming": (3, 4),
    }  # when, and the step then saved
    running = {
        how: subprocess.Popen(
            [
                sys.executable,
                "-c",
                KILLED,
                str(Path(__file__).parent),
                str(tmp_path / how),
                how,
                str(when),
            ],
            stderr=subprocess.PIPE,
        )
        for how, (when, _) in kills.items()
    }
    model = ssd()
    records = list(train(model, SMEARS, RECIPE))
    for how, process in running.items():
        assert (
            process.communicate(timeout=120)[1] == b"" and process.returncode == -signal.SIGKILL
        ), how
        assert checkpoints.read(tmp_path / how)["step"] == kills[how][1], how
        again = ssd()
        rest = list(train(again, SMEARS, RECIPE, checkpoint=tmp_path / how, save_every=2))
        assert rest == records[kills[how][1] :], how
        assert torch.equal(states(again), states(model)), how


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [1, 3, 8, 9])
def test_every_step_is_a_place_to_go_on_from(tmp_path, optimizer, stop):
    recipe, model = replace(RECIPE, optimizer=optimizer), ssd()
    list(train(model, SMEARS, recipe))
    records = train(ssd(), SMEARS, recipe, checkpoint=tmp_path / "x", save_every=1)
    for _ in range(stop):
        next(records)
    again = ssd("tiny-8")
    assert len(list(train(again, SMEARS, recipe, checkpoint=tmp_path / "x"))) == 9 - stop
    assert torch.equal(states(again), states(model))


def saved(tmp_path, steps=1):
    file = tmp_path / "last.pt"
    list(zip(train(ssd(), SMEARS, RECIPE, checkpoint=file, save_every=1), range(steps)))
    return file


def test_what_is_no_checkpoint_gets_one_sentence(tmp_path):
    file = saved(tmp_path)
    whole = file.read_bytes()

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "hacked"),))

    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    for data in (
        b"",
        b"PK",
        whole[:100],
        whole[: len(whole) // 2],
        whole[:-1],
        b"hello" * 1000,
        pickle.dumps(Evil()),
        pickle.dumps({"step": 3}),
        (tmp_path / "other.pt").read_bytes(),
    ):
        file.write_bytes(data)
        with pytest.raises(ValueError) as told:
            list(train(ssd(), SMEARS, RECIPE, checkpoint=file))
        assert re.search(
            r"no checkpoint that can be read.*delete it|was not written by this version",
            str(told.value),
        )
        assert file.read_bytes() == data and "\n" not in str(told.value)
    assert not (tmp_path / "hacked").exists()
    with pytest.raises(FileNotFoundError, match="train first"):
        checkpoints.read(tmp_path / "none.pt")


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_the_last_good_one(tmp_path, monkeypatch, where):
    file = saved(tmp_path, 2)
    before = file.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(files.os, where, full)
        with pytest.raises(
            OSError, match="No space left on device.*last good one is kept.*same command"
        ):
            list(train(ssd(), SMEARS, RECIPE, checkpoint=file, save_every=1))
    assert file.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["last.pt"]
    model, again = ssd(), ssd()
    list(train(model, SMEARS, RECIPE))
    list(train(again, SMEARS, RECIPE, checkpoint=file))
    assert torch.equal(states(again), states(model))


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="nothing was saved yet"):
        list(train(ssd(), SMEARS, RECIPE, checkpoint=tmp_path / "file" / "last.pt", save_every=1))


def test_another_run_or_model_is_refused(tmp_path):
    file = saved(tmp_path)
    with pytest.raises(ValueError, match=r"another run, with batch=2 \(now 3\), seed=0 \(now 1\)"):
        list(train(ssd(), SMEARS, replace(RECIPE, batch=3, seed=1), checkpoint=file))
    with pytest.raises(ValueError, match="another model"):
        list(train(ssd("tiny"), SMEARS, RECIPE, checkpoint=file))
