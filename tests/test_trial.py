"""What a rehearsal does in earnest: one small step, and a look at the loader that ends soon."""

import itertools
import os

import pytest
import torch
from PIL import Image
from torch import nn

from lesson_lib.data.feed import MOST_WORKERS, Feed
from lesson_lib.data.smears import Smears
from lesson_lib.detectors.norms import FrozenBatchNorm, GroupNorm
from lesson_lib.training import trial
from lesson_lib.training.recipes import MODELS, NAMED, Recipe, overridden


def chosen(name, *settings):
    return overridden(MODELS[NAMED[name].model], NAMED[name].recipe, settings)


@pytest.fixture
def stepped(monkeypatch):
    """(model, samples, recipe) of the steps that would have been taken."""
    taken = []

    def fit(*what):
        taken.append(what)
        return {"loss": 1.0}

    monkeypatch.setattr(trial, "fit", fit)
    return taken


@pytest.mark.parametrize(
    "named, norm", [("ssd300-voc", nn.BatchNorm2d), ("retinanet-r50-coco-1x", GroupNorm)]
)
def test_the_small_step_is_taken_by_the_network_that_trains_without_weights(named, norm, stepped):
    """Also where the recipe asks for weights: batch norm for VGG16, group norm for ResNet."""
    trial.one_step(*chosen(named), 3)
    model = stepped[0][0]
    kinds = {type(module) for module in model.modules()}
    assert kinds & {nn.BatchNorm2d, GroupNorm, FrozenBatchNorm} == {norm}
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize(
    "named, settings, size",
    [
        ("ssd300-voc", (), 264),
        ("ssd300-voc", ("size=600",), 264),
        ("ssd512-coco", (), 264),
        ("retinanet-r50-coco-1x", ("size=1200",), 128),
        ("bccd-laptop", (), 128),
        ("bccd-ci", ("size=64",), 64),
    ],
)
def test_the_small_step_is_small_whatever_the_recipes_size(named, settings, size, stepped):
    report = trial.one_step(*chosen(named, *settings), 3)
    _, samples, recipe = stepped[0]
    assert [sample.size for sample in samples] == [(size, size)] * 2
    assert recipe.resizing.canvas((size, size)) == (size, size)
    assert (recipe.steps, recipe.batch, report["size"], report["batch"]) == (1, 2, size, 2)


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_a_batch_in_parts_is_one_in_the_small_step_too(parts, stepped):
    report = trial.one_step(*chosen("ssd300-voc", f"accumulate={parts}"), 3)
    _, samples, recipe = stepped[0]
    assert (len(samples), recipe.batch, recipe.accumulate) == (4, 4, 2)
    assert (report["batch"], report["accumulate"]) == (4, 2)


@pytest.mark.parametrize("classes", [1, 2, 20])
def test_a_real_step_is_taken_in_parts_and_with_any_number_of_classes(classes):
    """Batch norm has a map of one cell here, which one picture alone would leave one number."""
    report = trial.one_step(*chosen("bccd-ci", "accumulate=3"), classes)
    assert 0 < report["loss"] < float("inf")


@pytest.mark.parametrize(
    "named, settings", [("bccd-ci", ()), ("ssd300-voc", ()), ("bccd-ci", ("cache=memory",))]
)
def test_kept_bytes_are_what_the_feed_keeps(named, settings):
    """Squares of the recipe's size or, with `stored` 0, the pictures' own 48 x 64."""
    recipe, samples = chosen(named, *settings)[1], Smears("train", 5, (48, 64))
    feed = Feed(samples, recipe.resizing, 2, cache=None, stored=recipe.stored_side)
    next(feed.epoch(0))
    held = sum(picture.nbytes for picture in feed._pictures)
    assert trial.kept_bytes(samples, recipe, (0, 0), 0) == held > 0
    assert trial.kept_bytes(None, recipe, (48, 64), 5) == held


def test_what_the_feed_would_not_keep_has_no_bytes():
    many = 5000
    assert trial.kept_bytes(None, Recipe(stored=0, cache="auto"), (480, 640), many) == 0
    assert trial.kept_bytes(None, Recipe(cache="workers"), (48, 64), 5) == 0
    forced = trial.kept_bytes(None, Recipe(stored=0, cache="memory"), (480, 640), many)
    assert forced == 3 * 480 * 640 * many


def ticking(monkeypatch, seconds):
    """A clock that goes on by so much each time that it is read."""
    times = itertools.count(0, seconds)
    monkeypatch.setattr(trial.time, "perf_counter", lambda: next(times))


def test_the_loaders_measurement_ends_after_its_time(monkeypatch):
    """However many pictures there are: here a second each."""
    ticking(monkeypatch, 1.0)
    found = trial.loader_rate(Smears("train", 50, 32), Recipe(size=32), (32, 32))
    assert found["pictures"] == found["seconds"] == trial.MOST_SECONDS
    assert found["rate"] == 1.0


def test_the_loaders_measurement_ends_after_enough_pictures(monkeypatch):
    """More than the data set has: it reads on in the next epoch."""
    ticking(monkeypatch, 1e-3)
    monkeypatch.setattr(trial, "MOST_PICTURES", 7)
    found = trial.loader_rate(Smears("train", 3, 32), Recipe(size=32), (32, 32))
    assert found["pictures"] == 7 and found["rate"] == pytest.approx(1000)


def test_without_the_data_jpegs_are_timed_whatever_a_cache_holds(monkeypatch, tmp_path):
    monkeypatch.setenv("LESSON_CACHE", str(tmp_path))
    ticking(monkeypatch, 1.0)
    formats = []
    opened = Image.open

    def noted(*what, **options):
        formats.append(opened(*what, **options).format)
        return opened(*what, **options)

    monkeypatch.setattr(Image, "open", noted)
    found = trial.loader_rate(None, Recipe(size=64, augment="ssd", stored=0), (120, 160))
    assert found["of"] == "JPEGs of 120 x 160 px" and found["rate"] == 1.0
    assert list(tmp_path.iterdir()) == []  # no smear was painted for it
    pictures = trial.Jpegs(tmp_path, (120, 160))
    assert [pictures[at].size for at in (0, len(pictures) - 1)] == [(120, 160)] * 2
    assert set(formats) == {"JPEG"}


def test_a_jpeg_has_about_the_bytes_of_a_photograph(tmp_path):
    """COCO's have 163 kB on average: train2017.zip's 19,336,861,798 bytes, 118,287 pictures."""
    files = trial.Jpegs(tmp_path, (480, 640)).files
    assert len({file.read_bytes() for file in files}) == trial.JPEGS
    assert all(100e3 < file.stat().st_size < 250e3 for file in files)


@pytest.mark.parametrize(
    "cores, asked, workers, total",
    [
        (65, -1, MOST_WORKERS, 8.0),
        (4, -1, 3, 3.0),
        (1, -1, 1, 1.0),
        (4, 12, 12, 12.0),
        (4, 0, 0, 1),
    ],
)
def test_the_loader_gives_what_the_workers_give_that_training_starts(
    monkeypatch, cores, asked, workers, total
):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(trial, "_timed", lambda samples, recipe: (3, 3.0))
    found = trial.loader_rate(Smears("train", 3, 32), Recipe(workers=asked), (32, 32))
    assert (found["workers"], found["total"], found["cores"]) == (workers, total, cores)


def test_where_all_pictures_are_kept_no_worker_is_timed(monkeypatch):
    monkeypatch.setattr(trial, "_timed", None)
    found = trial.loader_rate(Smears("train", 3, 32), Recipe(), (32, 32), kept=True)
    assert (found["rate"], found["total"], found["workers"]) == (None, None, 0)


def test_textured_pictures_have_detail_of_all_sizes():
    """Halves of the picture differ in mean, and neighbours differ."""
    picture = trial.textured(0, (256, 256)).float()
    means = picture.unfold(1, 64, 64).unfold(2, 64, 64).mean((3, 4))
    assert means.std() > 10 and picture.diff(dim=2).abs().mean() > 5
    assert torch.equal(picture, trial.textured(0, (256, 256)).float())
