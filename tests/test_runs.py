"""Runs are saved by their fields: those of earlier versions load, another run's folder is refused
with what differs.
"""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from tiny_data import coco_file, voc_folder

from lesson_lib import cli
from lesson_lib.data.coco import CocoJson
from lesson_lib.data.smears import Smears
from lesson_lib.data.voc import VocFolder
from lesson_lib.detectors.retinanet import RETINANET_CONFIGS
from lesson_lib.detectors.ssd import SSD_CONFIGS
from lesson_lib.training import fields as saved
from lesson_lib.training import runs
from lesson_lib.training.loop import predict, train
from lesson_lib.training.recipes import MODELS, NAMED, Recipe, build_model

OLD = Path(__file__).parent / "data" / "old_runs"
HERE = Path("run.json")
SMALL = [
    "--budget",
    "ci",
    "--norm=group",
    "--set=backbone=tiny-8",
    "--set=batch=2",
    "--set=size=64",
]


@pytest.mark.parametrize("model", ["ssd-tiny", "retinanet-tiny"])
def test_runs_of_an_earlier_version_load_and_predict(model):
    network, recipe, about = runs.load(OLD / model)
    assert (about["step"], about["classes"]) == (2, ["RBC", "WBC", "Platelets"])
    assert network.config.backbone == "tiny-8" and not network.training
    assert (recipe.size, recipe.optimizer, recipe.lr, recipe.warmup) == (128, "sgd", 0.004, 0.25)
    assert list(recipe.inference.values()) == [0.5] and set(recipe.inference) <= saved._options()
    found = predict(network, Smears("test", 2, 128), recipe.size, **recipe.inference)
    assert len(found) == 2 and all(p["boxes"].isfinite().all() for p in found)


def test_an_earlier_config_is_read_with_all_that_it_says():
    about = json.loads((OLD / "retinanet-tiny" / "run.json").read_text())
    config = saved.read_config(about["config"], HERE)
    small = dict(backbone="tiny-8", norm="group", channels=16)
    wanted = replace(MODELS["retinanet-tiny"], **small, beta=1 / 9)  # the default of then
    assert config == wanted
    text = about["config"].replace("64, 128, 256), scales", "64, 128, 300), scales")
    changed = saved.differences(config, saved.read_config(text, HERE))
    ((name, then, now),) = changed
    assert name.endswith(".sizes") and (then[-1], now[-1]) == (256, 300)
    again = saved.read_config(about["config"].replace("keep=100", "keep=77"), HERE)
    assert 77 in [value for _, _, value in saved.differences(config, again)]


@pytest.mark.parametrize("model", ["ssd-tiny", "retinanet-tiny"])
def test_an_earlier_run_is_evaluated_and_predicts_on_the_command_line(model, tmp_path, capsys):
    data = f"coco:{tmp_path}"
    coco_file(tmp_path, "test")
    assert (
        cli.main(["evaluate", str(OLD / model), "--data", data]) == 1
    )  # other classes: told, no crash
    assert "RBC" in capsys.readouterr().err
    picture = next((tmp_path / "images" / "test").iterdir())
    out = str(tmp_path / "found")
    assert cli.main(["predict", str(OLD / model), str(picture), "--out", out]) == 0
    assert (tmp_path / "found" / "predictions.json").is_file()


def test_an_earlier_run_goes_on(tmp_path):
    shutil.copytree(OLD / "ssd-tiny", tmp_path / "run")
    file = tmp_path / "run" / runs.LAST
    state = torch.load(file, weights_only=True)
    torch.save(state | {"step": 1}, file)  # as if it had been stopped in between
    model, recipe, _ = runs.load(tmp_path / "run")
    samples = Smears("train", 4, 128)
    about = runs.describe("smears", "train", samples, "ssd-tiny", model.config, recipe)
    about["config"]["num_classes"] = 20  # the command line's config, before it knows the classes
    about["config"]["image_size"] = 300
    runs.begin(tmp_path / "run", about)
    records = list(runs.logged(train(model, samples, recipe, None, file), tmp_path / "run", about))
    assert [record["step"] for record in records] == [2]
    assert "version" not in json.loads(
        (tmp_path / "run" / runs.ABOUT).read_text()
    )  # kept as it was
    log = (tmp_path / "run" / runs.LOG).read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2]
    with pytest.raises(ValueError, match=r"of another lr \(there 0.004, now 0.1\)"):
        runs.begin(tmp_path / "run", about | {"recipe": about["recipe"] | {"lr": 0.1}})


def test_a_run_goes_on_with_other_workers_and_not_with_other_pictures(tmp_path):
    """Where pictures are read changes no number; what augmentation begins with does."""
    recipe, samples = Recipe(steps=2, batch=2, size=64), Smears("train", 4, 64)
    last = tmp_path / runs.LAST

    def about(recipe):
        return runs.describe("smears", "train", samples, "ssd-tiny", MODELS["ssd-tiny"], recipe)

    def records(recipe):
        torch.manual_seed(0)
        model = build_model(MODELS["ssd-tiny"], 3, 64)
        kept = runs.logged(train(model, samples, recipe, None, last), tmp_path, about(recipe))
        return [record["step"] for record in kept]

    assert records(recipe) == [1, 2]
    torch.save(torch.load(last, weights_only=True) | {"step": 1}, last)
    elsewhere = replace(recipe, cache="workers", workers=0)
    runs.begin(tmp_path, about(elsewhere))
    assert records(elsewhere) == [2]
    other = replace(recipe, stored=2.0)
    with pytest.raises(ValueError, match=r"another stored \(there 1.0, now 2.0\)"):
        runs.begin(tmp_path, about(other))
    with pytest.raises(ValueError, match=r"stored=1.0 \(now 2.0\)"):
        records(other)


@pytest.mark.parametrize(
    "config", [*MODELS.values(), *SSD_CONFIGS.values(), *RETINANET_CONFIGS.values()]
)
def test_configs_come_back_equal(config):
    text = json.dumps(saved.config_fields(config))
    assert saved.read_config(json.loads(text), HERE) == config
    assert saved.read_config(repr(config), HERE) == config  # as the first version wrote it


@pytest.mark.parametrize("name", NAMED)
def test_recipes_come_back_equal(name):
    recipe = replace(NAMED[name].recipe, criterion={"variances": (0.1, 0.2)})
    assert saved.read_recipe(json.loads(json.dumps(saved.recipe_fields(recipe))), HERE) == recipe


def test_a_field_that_was_added_since_takes_its_default():
    config, recipe = MODELS["ssd-tiny"], NAMED["bccd-laptop"].recipe
    for name in (f.name for f in fields(config)):
        older = saved.config_fields(config)
        del older[name]
        read = saved.read_config(older, HERE)
        assert getattr(read, name) == getattr(type(config)(), name)
        assert replace(read, **{name: getattr(config, name)}) == config
    older = saved.recipe_fields(recipe)
    del older["clip"]
    assert saved.read_recipe(older, HERE) == replace(recipe, clip=Recipe().clip)


def test_old_names_are_read_and_unknown_ones_told():
    assert saved._known_names("Recipe", {"drops": 1}, {"milestones"}, HERE) == {"milestones": 1}
    for kind, names in saved.RENAMED.items():
        for old, new in names.items():
            assert saved._known_names(kind, {old: 1}, {new}, HERE) == {new: 1}
    config = saved.config_fields(MODELS["ssd-tiny"])
    sentence = r"^run.json was written by another version .* SSDConfig.dilation: take the version"
    with pytest.raises(ValueError, match=sentence):
        saved.read_config(config | {"dilation": 2}, HERE)
    with pytest.raises(ValueError, match="does not know NewSSD:"):
        saved.read_config({"kind": "NewSSD"}, HERE)
    with pytest.raises(ValueError, match="does not know Recipe.magic:"):
        saved.read_recipe(saved.recipe_fields(Recipe()) | {"magic": 0.9}, HERE)
    with pytest.raises(ValueError, match="does not know inference.soft:"):
        saved.read_recipe(saved.recipe_fields(Recipe()) | {"inference": {"soft": 1}}, HERE)


@pytest.mark.parametrize(
    "text",
    ["", "3", "SSDConfig(", "SSDConfig(s_min=open('x'))", "os.system('x')", "(1, 2)", "None"],
)
def test_a_config_that_is_none_is_told(text):
    with pytest.raises(ValueError, match=r"^run\.json .*(no config that can be read|not know)"):
        saved.read_config(text, HERE)


def test_a_later_format_is_told(tmp_path):
    about = json.loads((OLD / "ssd-tiny" / "run.json").read_text()) | {"version": runs.VERSION + 1}
    (tmp_path / "run.json").write_text(json.dumps(about))
    with pytest.raises(
        ValueError, match="by a later version of lesson_lib .format 3, this one reads up to 2"
    ):
        runs.load(tmp_path)


def command(data: str, folder: Path, *more: str) -> list[str]:
    return ["train", "--data", data, "--out", str(folder), *SMALL, "--set=epochs=2", *more]


def test_a_start_that_failed_does_not_stand_in_the_way(tmp_path, capsys, monkeypatch):
    coco_file(tmp_path, "train")
    folder, data = tmp_path / "run", f"coco:{tmp_path}"

    def broken(*_, **_more):
        raise ValueError("Training diverged in step 1")
        yield

    with monkeypatch.context() as patch:
        patch.setattr("lesson_lib.cli.train.train", broken)
        assert cli.main(command(data, folder, "--set=lr=0.5")) == 1
    assert "diverged in step 1" in capsys.readouterr().err
    assert cli.main(command(data, folder)) == 0
    about = json.loads((folder / "run.json").read_text())
    assert about["recipe"]["lr"] == NAMED["any-ci"].recipe.lr and about["version"] == runs.VERSION
    log = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert log == [1, 2]


def test_nothing_is_written_before_the_first_step(tmp_path):
    def broken():
        raise ValueError("a picture that cannot be read")
        yield

    with pytest.raises(ValueError, match="cannot be read"):
        list(runs.logged(broken(), tmp_path, {"model": "ssd-tiny"}))
    assert list(tmp_path.iterdir()) == []


def test_other_pictures_are_noticed(tmp_path, capsys):
    coco_file(tmp_path, "train")
    file, folder = tmp_path / "annotations" / "train.json", tmp_path / "run"
    before = file.read_text()
    start = command(f"coco:{tmp_path}", folder)
    assert cli.main(start) == 0 and cli.main(start) == 0
    content = json.loads(before)
    content["images"] = content["images"][:1]
    content["annotations"] = [
        a for a in content["annotations"] if a["image_id"] == content["images"][0]["id"]
    ]
    capsys.readouterr()
    file.write_text(json.dumps(content))
    assert cli.main(start) == 1
    err = capsys.readouterr().err
    assert "has 1 pictures now, and had 2 when" in err and "another --out" in err
    content = json.loads(before)
    content["images"][1]["file_name"] = "test9.png"
    old = tmp_path / "images" / "train"
    shutil.copy(sorted(old.iterdir())[1], old / "test9.png")
    file.write_text(json.dumps(content))
    assert cli.main(start) == 1
    assert "as many pictures as when" in capsys.readouterr().err
    file.write_text(before)
    assert cli.main(start) == 0


def test_a_folder_without_a_run_is_told_with_the_names_there_are(tmp_path):
    with pytest.raises(ValueError, match="is no run: it has no run.json"):
        runs.load(tmp_path)


def test_ids_are_known_without_a_picture(tmp_path):
    smears = Smears("test", 3, 64, cache=False)
    assert smears.ids() == [sample.id for sample in smears]
    coco_file(tmp_path / "coco", "train")
    coco = CocoJson(tmp_path / "coco" / "annotations" / "train.json")
    voc = VocFolder(voc_folder(tmp_path / "voc"), "train")
    for data in (coco, voc):
        assert data.ids() == [sample.id for sample in data] and len(data.ids()) > 0
