"""`python -m lesson_lib rehearse`: what it says in words, in JSON and as a picture."""

import json
import re
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
from PIL import Image
from tiny_data import voc_folder

from lesson_lib import cli
from lesson_lib.cli import rehearse, rehearsed
from lesson_lib.cli.rehearsed import clock, fitting, gpu_lines, loader_report, memory_figure
from lesson_lib.data import catalog
from lesson_lib.data.smears import Smears
from lesson_lib.training import checkpoints, rehearsal, trial
from lesson_lib.training.loop import _plan, fit
from lesson_lib.training.recipes import MODELS, NAMED, Recipe, build_model, overridden
from lesson_lib.training.rehearsal import GIB, GPUS, plan, step_costs
from lesson_lib.training.update import Update

CI = ["rehearse", "--data", "bccd", "--recipe", "bccd-ci"]


@pytest.fixture
def away(monkeypatch):
    """No data set is on this machine, and nothing is done in earnest on it."""
    monkeypatch.setenv("LESSON_DATASETS", "none")
    monkeypatch.setattr(trial, "_timed", lambda samples, recipe: (10, 2.0))
    monkeypatch.setattr(trial, "fit", lambda *what: {"loss": 1.0})


def said(capsys, *words):
    """What the command prints, without the breaks of its lines."""
    assert cli.main(list(words)) == 0
    return re.sub(r"\n  +", " ", capsys.readouterr().out)


def reported(capsys, *words):
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_answers_in_words_and_json(capsys, monkeypatch):
    """Nothing stands for anything here: a step is taken, and the loader is measured."""
    monkeypatch.setenv("LESSON_DATASETS", "none")
    monkeypatch.setattr(trial, "MOST_SECONDS", 0.1)
    command = [*CI, "--gpu", "t4", "--set", "cache=workers"]
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("  ")[0] for line in lines[1:] if line[0] != " "]
    assert rows == ["network", "memory", "time", "loader", "data", "disk", "one step"]
    assert max(map(len, lines)) <= 100
    report = reported(capsys, *command)
    assert report["classes"] == 3 and report["plan"]["fits"] is True
    parts = report["plan"]["memory"]
    assert sum(v for k, v in parts.items() if k != "total") == parts["total"]
    assert report["loader"]["rate"] > 0 and report["one_step"]["loss"] > 0


# ------------------------------------------------------------------- memory, and a batch in parts


def test_the_accumulation_that_is_recommended_can_be_given_back(capsys, monkeypatch):
    """The small step is taken in earnest: a batch norm must not be left with one picture."""
    monkeypatch.setenv("LESSON_DATASETS", "none")
    command = [*CI, "--set", "batch=16", "--gpu", "t4"]
    costs = rehearsal.recipe_costs(*overridden_ci())
    room = costs.memory(6, "adamw", kept=3 * 128**2 * 292).total / GIB
    monkeypatch.setitem(GPUS, "t4", replace(GPUS["t4"], memory=room))
    told = said(capsys, *command)
    assert "It does not fit; 6 pictures do" in told
    setting = re.search(r"--set (accumulate=\d+)", told)[1]
    again = said(capsys, *command, "--set", setting)
    assert setting == "accumulate=4" and "at batch 16 in 4 parts" in again and "It fits" in again
    assert "in 2 parts in fp32: loss" in again


def overridden_ci():
    config, recipe = overridden(MODELS["ssd-tiny"], NAMED["bccd-ci"].recipe, [])
    return config, 3, recipe, "fp32"


def test_memory_grows_with_averaged_weights_and_kept_pictures(away, capsys):
    """292 pictures of 128 px, learned from train and val; as workers read them, none is kept."""
    less, ema, more = (
        reported(capsys, *CI, "--gpu", "a100", *settings)["plan"]["memory"]
        for settings in (
            ("--set", "cache=workers"),
            ("--set", "cache=workers", "--set", "ema=.99"),
            ("--set", "ema=.99"),
        )
    )
    assert (less["averaged"], less["pictures"]) == (0, 0)
    assert ema["averaged"] == step_costs(*overridden_ci()[:2], 128).weight_bytes
    assert more["pictures"] == 3 * 128**2 * 292
    assert ema["total"] == less["total"] + ema["averaged"]
    assert more["total"] == ema["total"] + more["pictures"]


def test_the_words_name_the_parts_that_there_are(away, capsys):
    assert "averaged" not in said(capsys, *CI, "--set", "cache=workers")
    assert re.search(r"averaged 0.\d\d, pictures 0.01\.", said(capsys, *CI, "--set", "ema=.9"))


@pytest.mark.parametrize("pretrained", [True, False])
def test_weights_that_are_fetched_when_training_starts_are_told(away, capsys, pretrained):
    asked = ["--recipe", "ssd300-voc", "--set", f"pretrained={pretrained}"]
    words = " ".join(said(capsys, "rehearse", "--data", "bccd", *asked).split())
    told = "fetched when the training starts; without them it trains from scratch another network"
    assert (told in words) == pretrained


def test_what_fits_by_less_than_the_error_only_just_fits():
    costs = replace(step_costs(MODELS["ssd-tiny"], 3, 128), per_picture=GIB)
    recipe, memory = Recipe(batch=8), costs.memory(8, "adamw")
    for share, just in ((0.14, True), (0.16, False)):
        room = (memory.total + share * memory.activations) / GIB
        made = plan(costs, recipe, replace(GPUS["t4"], memory=room), 1)
        assert made.fits and made.tight is just
        assert ("It just fits, within the error of 15%" in fitting(made, recipe)) is just


def test_the_averaged_weights_have_the_bytes_that_training_keeps():
    model = build_model(MODELS["retinanet-r18"], 3, 64)
    update = Update(model, Recipe(ema=0.9))
    held = [*update.averaged.model.parameters(), *update.averaged.model.buffers()]
    costs = step_costs(MODELS["retinanet-r18"], 3, 64)
    assert costs.memory(1, averaged=True).averaged == sum(tensor.nbytes for tensor in held)
    assert costs.memory(1).averaged == 0


@pytest.mark.parametrize("pictures, caution", [(2, False), (1, True)])
def test_parts_of_one_picture_are_told_to_do_without_batch_norm(pictures, caution):
    costs = replace(step_costs(MODELS["ssd-tiny"], 3, 128), per_picture=GIB)
    room = (costs.memory(pictures).total + GIB / 2) / GIB
    made = plan(costs, Recipe(batch=8), replace(GPUS["t4"], memory=room), 1)
    told = fitting(made, Recipe(batch=8))
    assert f"--set accumulate={8 // pictures}." in told
    assert ("--set norm=group" in told) is caution


# ------------------------------------------------------------------------------ hours and shares


@pytest.mark.parametrize(
    "gpu, precision, words",
    [
        ("t4", "fp32", "at 90% of peak, assumed as of a V100, and at 40%, assumed of"),
        ("t4", "fp16", "at 45% of peak, assumed as of an A100, and at 10%, assumed of"),
        ("v100", "fp32", "at 90% of peak, detectron2's 9.8 pictures/s on a V100, and at 40%"),
        (
            "a100",
            "bf16",
            "at 45% of peak, as MLPerf 2.0's RetinaNet, 121 pictures/s at 800 px, and at 10%",
        ),
        ("h200", "fp32", "at 34% of peak, assumed as in half precision, and at 10%"),
    ],
)
def test_the_shares_that_are_printed_are_those_that_are_used(away, capsys, gpu, precision, words):
    command = [*CI, "--gpu", gpu, "--precision", precision]
    assert words in said(capsys, *command)
    planned = reported(capsys, *command)["plan"]
    low, high = GPUS[gpu].share(precision)
    assert f"at {high:.0%} of peak" in words and f"at {low:.0%}" in words
    costs = step_costs(*overridden_ci()[:2], 128)
    peak = 1e12 * GPUS[gpu].tflops[precision]
    assert planned["rate"] == pytest.approx([low * peak / costs.flops, high * peak / costs.flops])
    assert planned["shares"] == [low, high]


def test_every_high_share_is_a_published_run_or_called_assumed():
    for name, gpu in GPUS.items():
        assert gpu.shares.keys() == gpu.sources.keys() == {"fp32", "half"}
        rate = rehearsal.PUBLISHED_RATES.get(name)
        assert ("assumed" not in gpu.sources["half"]) is (rate is not None)
        assert rate is None or f"{rate} pictures/s" in gpu.sources["half"]


@pytest.mark.parametrize("gpu, half", [("t4", "fp16"), ("a100", "bf16")])
def test_in_fp32_the_hours_in_half_precision_are_told(away, capsys, gpu, half):
    command = ["rehearse", "--data", "voc0712", "--recipe", "ssd300-voc", "--gpu", gpu]
    told = said(capsys, *command)
    hours = reported(capsys, *command, "--set", f"precision={half}")["plan"]["hours"]
    fast, slow = map(clock, hours)
    assert f"In {half} {fast} to {slow}: --set precision={half}" in told
    assert "--set precision" not in said(capsys, *command, "--set", f"precision={half}")


def test_evaluations_are_counted_as_often_as_training_makes_them():
    about = replace(KNOWN, pictures=21, val=5)
    for steps, evaluate in ((10, 1), (12, 1), (13, 2), (1, 3)):
        recipe = Recipe(steps=steps, batch=4, evaluate=evaluate)
        due = _plan(recipe, 21 // 4, 0, 1)
        often = sum(due.judges(step) for step in range(1, steps + 1))
        assert rehearse.steps_of(recipe, about) == (steps, 5 * often)


KNOWN = rehearse.Known("abc", 0, 0, None, (480, 640), "", rehearse.Path("."), None, None)


def test_an_evaluations_forward_pass_is_in_the_hours(away, capsys):
    """The paper's RetinaNet: 90,000 steps are 12.2 epochs of COCO, and 13 evaluations."""
    command = ["rehearse", "--data", "coco2017", "--recipe", "retinanet-r50-coco-1x"]
    planned = (report := reported(capsys, *command))["plan"]
    costs, speed = report["costs"], 0.45 * 156e12
    assert planned["judged"] == 13 * 5000 and 0.3 < costs["forward"] / costs["flops"] < 0.4
    whole = 1_440_000 * costs["flops"] + 65_000 * costs["forward"]
    assert planned["hours"][0] == pytest.approx(whole / speed / 3600)
    words = f"Of it {clock(planned['judging'][0])} to {clock(planned['judging'][1])}"
    assert f"{words} for evaluations of 65,000 pictures" in said(capsys, *command)
    assert "evaluations" not in said(capsys, *CI)  # train and val are both learned from


def test_both_sizes_are_named_where_the_usual_input_is_smaller(away, capsys):
    command = ["rehearse", "--data", "coco2017", "--recipe", "retinanet-r50-coco-1x"]
    told = said(capsys, *command)
    assert "at 608 x 1024 px; 646 GFLOP for a picture's whole step at 608 x 800 px" in told
    assert reported(capsys, *command)["usual_input"] == [608, 800]
    assert "whole step at" not in said(capsys, *CI)


@pytest.mark.parametrize(
    ("hours", "words"), [(0.001, "1 min"), (0.66, "40 min"), (9.06, "9.1 h"), (1234, "1,234 h")]
)
def test_clock(hours, words):
    assert clock(hours) == words


# ---------------------------------------------------------------------------------- the loader


def loader(monkeypatch, rate, cores, recipe, pictures=36_000):
    """The report, and the words, where one worker gives `rate` and the GPU takes 10 to 45."""
    monkeypatch.setattr(trial.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(trial, "_timed", lambda samples, recipe: (rate, 1.0))
    costs = replace(step_costs(MODELS["ssd-tiny"], 3, 128), flops=125 * 10**10, precision="fp16")
    made = plan(costs, recipe, GPUS["v100"], pictures // recipe.batch)
    found = loader_report(trial.loader_rate(None, recipe, (48, 64)), made, recipe)
    return found, rehearsed._loader(found, made)


def test_a_slow_loader_is_the_limit_and_the_hours_follow(monkeypatch):
    """10 to 45 pictures a second; 3 workers of 5 give 15: 36,000 pictures take 40 minutes."""
    found, words = loader(monkeypatch, 5, 4, Recipe(batch=4))
    assert found["must"] == pytest.approx((10, 45))
    assert (found["needed"], found["total"]) == (9, 15)
    assert found["hours"] == pytest.approx(36_000 / 15 / 3600)
    assert "3 workers start here, one for each core but one and at most 8: 15, with which" in words
    assert words.endswith(
        "takes 40 min or more. The faster needs 9: --set workers=9, on as many cores"
    )


def test_more_cores_are_enough_where_training_starts_as_many_workers_of_itself(monkeypatch):
    found, words = loader(monkeypatch, 9, 2, Recipe(batch=4))
    assert "1 worker starts here" in words and "1 workers" not in words
    assert found["needed"] == 5 and words.endswith("needs 5, which start on 6 cores")


def test_workers_that_the_recipe_names_are_taken(monkeypatch):
    found, words = loader(monkeypatch, 5, 2, Recipe(batch=4, workers=9))
    assert found["hours"] is None and "9 workers start: 45, enough" in words
    _, words = loader(monkeypatch, 5, 2, Recipe(batch=4, workers=2))
    assert words.endswith("--set workers=9, on as many cores")
    _, words = loader(monkeypatch, 50, 2, Recipe(batch=4, workers=0))
    assert "The training reads itself: 50, enough" in words


def test_where_pictures_are_kept_decoded_there_is_no_worker(away, capsys, monkeypatch):
    assert "all pictures are kept decoded, no worker starts" in said(capsys, *CI)
    assert reported(capsys, *CI)["loader"]["rate"] is None
    monkeypatch.setattr(trial, "CACHE_BYTES", 3 * 128**2 * 292 - 1)
    assert "one worker of this machine gives 5.0 (JPEGs of 480 x 640 px)" in said(capsys, *CI)


def test_a_data_set_here_is_read_and_not_decoded_beforehand(away, tmp_path, capsys, monkeypatch):
    """Neither to look for broken pictures, as training does, nor of val."""
    data = f"voc:{voc_folder(tmp_path)}"
    monkeypatch.setattr("lesson_lib.data.pictures.picture_fault", None)
    monkeypatch.setattr("lesson_lib.data.annotated.Annotated.leave_out_unreadable", None)
    command = ["rehearse", "--data", data, "--recipe", "bccd-ci", "--set", "cache=workers"]
    told = said(capsys, *command)
    assert "(the data)" in told and "disk      data are there. A checkpoint" in told


# ------------------------------------------------------------------------------------ the disk


Usage = namedtuple("Usage", "total used free")


def test_the_disk_is_asked_where_the_data_and_the_run_go(away, capsys, monkeypatch, tmp_path):
    asked = []

    def usage(place):
        asked.append(place)
        return Usage(0, 0, 41 * 10**9)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr(catalog, "DOWNLOADS", tmp_path / "none" / "yet")
    monkeypatch.chdir(tmp_path)
    command = ["rehearse", "--data", "coco2017", "--recipe", "retinanet-r50-coco-1x"]
    disk = (report := reported(capsys, *command))["disk"]
    assert asked == [tmp_path, tmp_path]  # the nearest folder that there is
    assert (disk["fetch"], disk["data"]) == (20_405_354_669, 21 * 10**9)
    assert disk["data_free"] == disk["run_free"] == 41 * 10**9
    parts = report["plan"]["memory"]
    assert disk["checkpoint"] == parts["weights"] + parts["optimizer"]
    assert disk["run"] == 3 * disk["checkpoint"]  # last.pt, best.pt and one that is written
    told = said(capsys, *command)
    assert "20.4 GB of data to fetch, 21.0 GB unpacked; 41.0 GB free for them: too little" in told
    assert "of 41.0 GB free in this folder\n" in told
    assert "A checkpoint has 0.30 GB; a run keeps last.pt and best.pt" in told


def test_what_is_not_known_of_a_size_is_called_unknown(away, capsys):
    assert "an unknown size of data to fetch, 9 MB unpacked" in said(capsys, *CI)
    assert reported(capsys, *CI)["disk"]["fetch"] is None


def test_the_cards_say_what_data_sets_take_on_the_disk(real_datasets):
    sizes = {name: catalog.disk_bytes(name) for name in catalog.names() if name != "smears"}
    both = [sizes["voc2007"], sizes["voc2012"]]
    assert sizes["voc0712"] == tuple(sum(pair) for pair in zip(*both, strict=True))
    assert all(kept is not None and kept > 10**6 for _, kept in sizes.values())
    for name in ("bccd", "aquarium"):
        files = (file for file in real_datasets(name).rglob("*") if file.is_file())
        there = sum(file.stat().st_size for file in files)
        assert sizes[name][1] == pytest.approx(there, rel=0.03)


@pytest.mark.parametrize("optimizer, ema", [("sgd", 0.0), ("adamw", 0.0), ("adamw", 0.9)])
def test_a_checkpoint_has_the_bytes_that_are_foretold(tmp_path, optimizer, ema):
    config, file = MODELS["retinanet-r18"], tmp_path / checkpoints.LAST
    recipe = Recipe(steps=1, batch=2, size=64, optimizer=optimizer, ema=ema)
    fit(build_model(config, 3, 64), Smears("train", 2, 64), recipe, checkpoint=file)
    foretold = step_costs(config, 3, 64).checkpoint_bytes(optimizer, ema > 0)
    assert file.stat().st_size == pytest.approx(foretold, rel=0.02)


@pytest.mark.parametrize(
    "size, words",
    [
        (None, "an unknown size"),
        (4e5, "0.4 MB"),
        (9e6, "9 MB"),
        (2.9e8, "0.29 GB"),
        (2e10, "20.0 GB"),
    ],
)
def test_gigabytes(size, words):
    assert rehearsed.gigabytes(size) == words


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("data", ["coco:{}/nowhere", "voc:{}/nowhere", "yolo:{}/nowhere"])
def test_a_folder_that_is_missing_is_called_so_as_by_train(tmp_path, capsys, data):
    data = data.format(tmp_path)
    assert cli.main(["rehearse", "--data", data, "--recipe", "any-ci"]) == 1
    told = capsys.readouterr().err
    assert cli.main(["train", "--data", data, "--recipe", "any-ci", "--out", str(tmp_path)]) == 1
    assert told == capsys.readouterr().err
    assert "nowhere" in told and "No data set is called" not in told and told.count("\n") == 1


@pytest.mark.parametrize(
    "words, told",
    [
        (("--model", "ssd-tinny"), "There is no model 'ssd-tinny'; did you mean ssd-tiny? There"),
        (("--recipe", "bccd"), "There is no recipe 'bccd'; did you mean bccd-"),
        (("--gpu", "H-100"), "There is no GPU 'H-100'; did you mean h100? There are t4, v100,"),
        (("--data", "cocoo"), "No data set is called 'cocoo'; did you mean 'coco"),
        (("--picture", "x.foo"), "--picture x.foo: give a name that ends in .png or .svg."),
        (("--picture", "no/x.svg"), "--picture no/x.svg: there is no folder no; make it first."),
    ],
)
def test_a_wrong_word_is_refused_in_one_sentence_and_at_once(capsys, monkeypatch, words, told):
    monkeypatch.setattr(rehearsal, "recipe_costs", None)  # nothing is counted before
    assert cli.main(["rehearse", "--data", "smears", *words]) == 1
    out, error = capsys.readouterr()
    assert error.startswith(told) and error.count("\n") == 1 and not out


@pytest.mark.parametrize("words", [("--model", "ssd"), ("--recipe", "voc")])
def test_train_refuses_a_wrong_name_in_one_sentence(capsys, tmp_path, words):
    assert cli.main(["train", "--data", "smears", "--out", str(tmp_path / "run"), *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"There is no {words[0][2:]} ") and error.count("\n") == 1


# ---------------------------------------------------------------------------------- the picture


def test_the_picture_stacks_the_parts_of_each_batch_under_the_lines_of_all_gpus():
    costs, recipe = step_costs(MODELS["retinanet-r18"], 3, 256), Recipe(ema=0.9)
    axes = memory_figure(costs, recipe, 2 * GIB).axes[0]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == list(costs.memory(1).parts())
    assert len({bars.patches[0].get_facecolor() for bars in axes.containers}) == len(names)
    labels = [int(text.get_text()) for text in axes.get_xticklabels()]
    for place, batch in enumerate(labels):
        memory = costs.memory(batch, recipe.optimizer, True, 2 * GIB)
        bars = [bars.patches[place] for bars in axes.containers]
        assert [bar.get_height() * GIB for bar in bars] == pytest.approx([*memory.parts().values()])
        top = bars[-1].get_y() + bars[-1].get_height()
        assert top * GIB == pytest.approx(memory.total)
    assert labels == [1, 2, 4, 8, 16, 32, 64, 128]
    lines = {line.get_ydata()[0] for line in axes.lines}
    assert lines == set(gpu_lines()) and max(lines) < axes.get_ylim()[1]
    beside = "\n".join(text.get_text() for text in axes.texts)
    assert all(gpu.name in beside for gpu in GPUS.values())


def test_parts_that_are_empty_are_not_in_the_pictures_key():
    axes = memory_figure(step_costs(MODELS["ssd-tiny"], 3, 128), Recipe()).axes[0]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "activations" in names and not {"averaged", "pictures"} & set(names)


def test_the_command_writes_the_picture(away, tmp_path, capsys):
    file, drawing = tmp_path / "memory.png", tmp_path / "memory.SVG"
    said(capsys, *CI, "--picture", str(file))
    with Image.open(file) as image:
        assert image.size == (1280, 640)
        colours = {colour for _, colour in image.convert("RGB").getcolors(10**6)}
    assert {tuple(bytes.fromhex(code[1:])) for code in rehearsed.STACK[3:6]} <= colours
    said(capsys, *CI, "--picture", str(drawing))
    assert "<svg" in drawing.read_text()


def test_gpus_that_hold_the_same_share_a_line():
    assert len(gpu_lines()) == 3
    assert sum(names.count("\n") + 1 for names in gpu_lines().values()) == len(GPUS)
