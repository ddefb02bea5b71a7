"""Time to equal AP: the parts of benchmarks/equal_ap.py, and the whole at toy size."""

import json
import math
from dataclasses import replace

import pytest
import torch

from benchmarks import equal_ap
from lesson_lib.data.smears import Smears
from lesson_lib.training.prediction import Resized
from lesson_lib.training.recipes import MODELS, Recipe, build_model


def rows(*points):
    return [{"seconds": seconds, "AP": ap} for seconds, ap in points]


def test_equal_ap_is_the_highest_that_both_come_to():
    ours, theirs = rows((10, 0.2), (20, 0.5), (30, 0.6)), rows((10, 0.1), (40, 0.3), (90, 0.4))
    found = equal_ap.compared(ours, theirs)
    assert found == {"AP": 0.4, "ours_s": 20, "theirs_s": 90, "ratio": 4.5}
    back = equal_ap.compared(theirs, ours)
    assert (back["AP"], back["ours_s"], back["theirs_s"]) == (0.4, 90, 20) and back["ratio"] < 1
    assert equal_ap.first_time(ours, 0.61) == math.inf


def test_moments_are_counted_in_seconds_of_training():
    """Steps of 3 s, evaluations of 100 s, one due after each 5: after 6, 12, 15 and at the end."""
    now, asked = [0.0], []

    def steps():
        for _ in range(6):
            now[0] += 3
            yield

    def judge():
        now[0] += 100
        asked.append(now[0])
        return {"AP": len(asked) / 10, "AP50": 0.5, "more": 1}

    found = equal_ap.curve(steps(), judge, 5, clock=lambda: now[0])
    assert [row["seconds"] for row in found] == [6, 12, 15, 18]
    assert [row["step"] for row in found] == [2, 4, 5, 6] and found[1]["AP"] == 0.2
    assert set(found[0]) == {"step", "seconds", "AP", "AP50"}


def test_the_reference_rate_rises_in_its_first_epoch_and_drops_twice():
    rates = [equal_ap.their_rate(step, 25, 8) for step in range(120 * 25)]
    assert rates[0] == pytest.approx(5e-7) and rates[24] == pytest.approx(5e-4)
    assert all(b > a for a, b in zip(rates[:24], rates[1:25]))
    assert rates[80 * 25 - 1] == pytest.approx(5e-4)
    assert rates[80 * 25] == pytest.approx(5e-5) and rates[110 * 25] == pytest.approx(5e-6)


def test_theirs_has_our_backbone_and_our_boxes():
    ours = build_model(MODELS["ssd-tiny"], 3, 96)
    theirs = equal_ap.their_model(ours, 96)
    images = torch.rand(2, 3, 96, 96)
    maps = list(theirs.eval().backbone(images).values())
    for one, other in zip(maps, ours.eval().features(images), strict=True):
        assert torch.equal(one, other)
    batch, _ = theirs.transform(list(images))
    assert torch.equal(batch.tensors, images)
    boxes = theirs.anchor_generator(batch, maps)[0]
    torch.testing.assert_close(boxes, ours.anchors(96), rtol=0, atol=1e-3)


def test_what_theirs_finds_is_judged_in_our_labels_and_in_the_pictures_pixels(monkeypatch):
    val = Smears("val", 2, (128, 192))
    seen = Resized(val, 96)
    answers = iter([val[0], val[1]])

    class Perfect(torch.nn.Module):
        def forward(self, images):
            assert images[0].shape == (3, 96, 96) and not self.training
            found = []
            for sample in (next(answers) for _ in images):
                shrunk = sample.boxes * torch.tensor([0.5, 0.75, 0.5, 0.75])
                scores = torch.ones(len(shrunk))
                found.append({"boxes": shrunk, "labels": sample.labels + 1, "scores": scores})
            return found

    assert equal_ap.judge_theirs(Perfect(), seen, val.targets(), 3)["AP"] == pytest.approx(1.0)


def test_their_steps_train_their_model():
    ours = build_model(replace(MODELS["ssd-tiny"], backbone="tiny-8"), 3, 64)
    theirs = equal_ap.their_model(ours, 64)
    before = [p.detach().clone() for p in theirs.parameters()]
    recipe = Recipe(batch=4, size=64)
    assert len(list(equal_ap.their_steps(theirs, Smears("train", 8, 64), recipe, 2))) == 4
    changed = [not torch.equal(a, b) for a, b in zip(before, theirs.parameters())]
    assert sum(changed) > 0.9 * len(changed)


def test_the_whole_at_toy_size_goes_on_with_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LESSON_CACHE", str(tmp_path / "cache"))
    threads = str(torch.get_num_threads())
    command = ["--small", "--out", str(tmp_path), "--threads", threads]
    run_one = equal_ap.run_one

    def stopped(side, seed, *options):
        if side == "theirs":
            raise KeyboardInterrupt
        return run_one(side, seed, *options)

    monkeypatch.setattr(equal_ap, "run_one", stopped)
    with pytest.raises(KeyboardInterrupt):
        equal_ap.main([*command, "--seeds", "1"])
    assert not (tmp_path / "equal_ap.json").exists()
    done = []
    monkeypatch.setattr(
        equal_ap, "run_one", lambda *options: done.append(options[:2]) or run_one(*options)
    )
    equal_ap.main([*command, "--seeds", "1"])
    assert done == [("theirs", 0)]
    found = json.loads((tmp_path / "equal_ap.json").read_text())
    assert [run["side"] for run in found["runs"]] == ["ours", "theirs"]
    assert all(run["curve"][-1]["step"] == 8 for run in found["runs"])
    assert found["seeds"][0]["seed"] == 0 and found["must"] == 1.8
    svg = (tmp_path / "equal_ap.svg").read_text()
    assert "<svg" in svg and "AP on BCCD" in svg
    assert "times sooner" in capsys.readouterr().out
