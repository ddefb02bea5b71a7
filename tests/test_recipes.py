"""Recipes that start: each with its models, by the path of the command line, weights or none."""

import json
import typing
from dataclasses import replace
from urllib.error import URLError

import pytest
import torch
import torchvision
from tiny_data import coco_file

from lesson_lib import cli
from lesson_lib.anchors import SSD300_COCO, SSD512_COCO, default_boxes
from lesson_lib.detectors.backbones import VGG16
from lesson_lib.detectors.ssd import SSDConfig
from lesson_lib.training import checkpoints, loop, recipes, runs
from lesson_lib.training.recipes import MODELS, NAMED, Recipe, build_model, overridden
from lesson_lib.training.schedule import make_optimizer
from lesson_lib.training.settings import require_kind, value_of

#: Every recipe with its own model, and those of a GPU and a laptop with each of the others.
PAIRS = [(name, NAMED[name].model) for name in NAMED]
PAIRS += [
    (name, model)
    for name in ("any-gpu", "any-laptop")
    for model in MODELS
    if "vgg16" not in model and (name, model) not in PAIRS
]


@pytest.fixture
def data(tmp_path):
    for seed, split in enumerate(("train", "val")):
        coco_file(tmp_path, split, seed=seed)
    return f"coco:{tmp_path}"


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def unreachable(*_, **__):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)


@pytest.fixture
def imagenet(monkeypatch):
    """Weights that "arrive": of the right shapes, and no others; how often they were asked for."""
    asked = []

    def state(weights, *_, **__):
        asked.append(weights)
        torch.manual_seed(7)
        name = type(weights).__name__.removesuffix("_Weights").lower()
        return torchvision.models.get_model(name, weights=None).state_dict()

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", state)
    return asked


def small(model: str) -> list[str]:
    """The smallest pictures that leave something on each map, and a batch for its norm."""
    size = 264 if "vgg16" in model else 64
    return ["--set", f"size={size}", "--set", "batch=2", "--set", "steps=2"]


def train(data: str, out: object, recipe: str, model: str | None = None, *more: str) -> dict:
    """run.json of a run that the command line trained."""
    which = ["--model", model] if model else []
    code = cli.main(
        ["train", "--data", data, "--train-split", "train", "--recipe", recipe, *which]
        + [*small(model or NAMED[recipe].model), "--out", str(out), *more]
    )
    assert code == 0
    return json.loads((out / "run.json").read_text())


# ------------------------------------------------------------------------- each of them starts


@pytest.mark.parametrize("recipe, model", PAIRS)
def test_every_recipe_takes_two_steps_without_a_flag_or_a_network(
    data, no_network, tmp_path, capsys, recipe, model
):
    about = train(data, tmp_path / "run", recipe, model)
    assert checkpoints.read(tmp_path / "run" / "last.pt")["step"] == 2
    wanted = NAMED[recipe].recipe.pretrained and not model.endswith(("tiny", "lite0"))
    assert ("starts from scratch" in capsys.readouterr().out) is wanted
    assert about["config"]["norm"] in ("batch", "group")
    assert about["config"]["pretrained"] is model.endswith("lite0")  # its weights come from pip


def test_with_a_network_a_recipe_that_says_so_begins_with_weights(data, imagenet, tmp_path, capsys):
    about = train(data, tmp_path / "run", "any-gpu")
    assert "scratch" not in capsys.readouterr().out and imagenet
    assert about["config"]["pretrained"] is True and about["config"]["norm"] == "frozen"
    assert about["recipe"]["pretrained"] is True and about["recipe"]["backbone_lr"] == 0.1
    after = checkpoints.read(tmp_path / "run" / "last.pt")["model"]
    before = imagenet[0].get_state_dict()
    same = torch.equal(
        after["backbone.body.layer1.0.conv1.weight"], before["layer1.0.conv1.weight"]
    )
    moved = after["backbone.body.layer2.0.conv1.weight"], before["layer2.0.conv1.weight"]
    assert same and not torch.equal(*moved)


def test_the_papers_recipe_begins_with_the_first_weights_and_the_papers_pictures():
    recipe = NAMED["retinanet-r50-coco-1x"].recipe
    config, recipe = overridden(MODELS["retinanet-r50"], recipe, [])
    assert config.pretrained == "IMAGENET1K_V1" and recipe.warmup * recipe.steps == 504
    assert (recipe.resizing.size, recipe.resizing.how) == (600, "shorter")
    assert overridden(config, replace(recipe, optimizer="adamw"), [])[0].pretrained is True
    _, letterboxed = overridden(MODELS["ssd-tiny"], Recipe(), ["resize=letterbox", "longest=0"])
    assert letterboxed.resizing.how == "letterbox"
    with pytest.raises(ValueError, match="resize is 'wide'; choose square, letterbox, shorter"):
        overridden(MODELS["ssd-tiny"], Recipe(), ["resize=wide"])


def test_vgg16_begins_with_weights_too(imagenet):
    config, recipe = overridden(MODELS["ssd300-vgg16"], NAMED["ssd300-voc"].recipe, [])
    assert config.pretrained and config.norm is None
    model = build_model(config, 3, 300)
    (theirs, ours) = next(iter(VGG16.torchvision_names().items()))
    conv = model.backbone.body.get_submodule(ours)
    assert torch.equal(conv.weight, imagenet[0].get_state_dict()[f"{theirs}.weight"])


# ----------------------------------------------------------------------- what the settings leave


@pytest.mark.parametrize(
    "model, settings, pretrained, norm, freeze",
    [
        ("ssd300-vgg16", [], True, None, ()),
        ("ssd300-vgg16", ["norm=group"], False, "group", ()),
        ("ssd300-vgg16", ["pretrained=False"], False, "batch", ()),
        ("ssd300-vgg16", ["pretrained=False", "norm=none"], False, None, ()),
        ("ssd300-vgg16", ["backbone=resnet18"], True, "frozen", ("conv1", "layer1")),
        ("ssd300-vgg16", ["backbone=tiny"], False, "group", ()),
        ("retinanet-r50", [], True, "frozen", ("conv1", "layer1")),
        ("retinanet-r50", ["norm=batch"], True, "batch", ("conv1", "layer1")),
        ("retinanet-r50", ["freeze=()"], True, "frozen", ()),
        ("retinanet-r50", ["norm=group"], False, "group", ()),
        ("retinanet-lite0", [], True, "batch", ()),
        ("retinanet-tiny", [], False, "batch", ()),
    ],
)
def test_weights_and_norm_go_together_whatever_is_set(model, settings, pretrained, norm, freeze):
    config, recipe = overridden(MODELS[model], NAMED["any-gpu"].recipe, settings)
    assert (config.pretrained, config.norm, config.freeze) == (pretrained, norm, freeze)
    assert recipe.pretrained is pretrained
    assert recipe.backbone_lr == (0.1 if pretrained else 1)


@pytest.mark.parametrize("name, norm", [("ssd300-vgg16", "batch"), ("retinanet-r50", "group")])
def test_a_recipe_that_says_nothing_of_weights_trains_with_a_norm_that_learns(name, norm):
    config, recipe = overridden(MODELS[name], Recipe(), [])
    assert (config.pretrained, config.norm) == (False, norm)
    config, recipe = overridden(MODELS[name], Recipe(), ["backbone_lr=0.5"])
    assert recipe.backbone_lr == 0.5


def test_weights_that_were_asked_for_are_not_replaced(data, no_network, tmp_path, capsys):
    arguments = ["train", "--data", data, "--recipe", "any-gpu", "--set", "pretrained=True"]
    assert cli.main([*arguments, "--out", str(tmp_path / "run")]) == 1
    assert "could not be downloaded" in capsys.readouterr().err
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_run_that_began_from_scratch_goes_on_so_with_a_network(
    data, monkeypatch, tmp_path, capsys, request
):
    with monkeypatch.context() as without:
        without.setattr(recipes, "build_backbone", _fail)
        train(data, tmp_path / "run", "any-gpu", "ssd-r18")
    asked = request.getfixturevalue("imagenet")
    about = train(data, tmp_path / "run", "any-gpu", "ssd-r18")
    assert about["config"]["pretrained"] is False and not asked
    assert "Was trained before" in capsys.readouterr().out


def _fail(*_):
    raise RuntimeError("no network")


# ----------------------------------------------------------------------------- rates of their own


def test_the_backbone_gets_its_share_of_the_rate():
    model = build_model(replace(MODELS["ssd-tiny"]), 3, 64)
    names = dict(model.named_parameters())
    optimizer = make_optimizer(model, Recipe(lr=0.4, backbone_lr=0.25, optimizer="sgd"))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert len(rates) == len(names)
    for name, parameter in names.items():
        assert rates[id(parameter)] == (0.1 if name.startswith("backbone.") else 0.4), name
        assert (decays[id(parameter)] > 0) is (parameter.ndim > 1), name
    assert len(make_optimizer(model, Recipe()).param_groups) == 2


def test_training_uses_the_share_in_every_step(data, tmp_path):
    train(data, tmp_path / "run", "any-ci", None, "--set", "backbone_lr=0.5", "--set", "lr=0.01")
    groups = checkpoints.read(tmp_path / "run" / "last.pt")["optimizer"]["param_groups"]
    head, backbone = groups[0]["lr"], groups[2]["lr"]
    assert backbone == pytest.approx(head / 2) and head > 0


# ---------------------------------------------------------------------------------------- COCO's


def test_default_boxes_of_coco_are_those_of_section_3_4():
    """SSD300: conv4_3 .07, the others evenly from .15 to .9; SSD512: .04, and from .1."""
    for spec, first, low in ((SSD300_COCO, 0.07, 0.15), (SSD512_COCO, 0.04, 0.1)):
        count = len(spec.grids) - 1
        steps = [low + (0.9 - low) * k / (count - 1) for k in range(count)]
        assert spec.scales[: count + 1] == pytest.approx([first, *steps])
    counts = {"ssd300-coco": (SSD300_COCO, 8732), "ssd512-coco": (SSD512_COCO, 24564)}
    for name, (spec, count) in counts.items():
        assert MODELS[NAMED[name].model].anchors == spec
        assert len(default_boxes(spec)) == count


@pytest.mark.parametrize(
    "model, setting, words",
    [
        ("retinanet-tiny", "channels=abc", "channels is 'abc'; give a whole number"),
        ("retinanet-tiny", "channels=8.5", "channels is 8.5; give a whole number"),
        ("retinanet-tiny", "criterion.gamma=x", "criterion.gamma is 'x'; give a number"),
        ("ssd-tiny", "criterion.class_weights=3", r"class_weights is 3; give \(a number, a numb"),
        ("ssd-tiny", "backbone=7", "backbone is 7; give a word"),
        ("ssd-tiny", "norm=5", "norm is 5; give a word or None"),
        ("ssd-tiny", "freeze=layer1", r"freeze is 'layer1'; give \(a word, a word, ...\)"),
        ("ssd-tiny", "variances=.1", r"variances is 0.1; give \(a number, a number\)"),
        ("ssd-tiny", "variances=(.1,.2,.3)", "variances is .*; give"),
        ("ssd-tiny", "pretrained=3", "pretrained is 3; give True or False or a word"),
        ("ssd-tiny", "s_min=True", "s_min is True; give a number"),
        ("ssd-tiny", "inference.topk=(1,)", r"topk is \(1,\); give a whole number"),
        ("ssd-tiny", "inference.vote=7", "vote is 7; give a number from 0 to 1"),
        ("ssd-tiny", "inference.nms_threshold=-1", "nms_threshold is -1; give a number from 0"),
        ("ssd-tiny", "inference.max_detections=0", "max_detections is 0; give 1 or more"),
        ("ssd-tiny", "lr=" + "(" * 3000, "lr is '.{50,60}; give a value of type float"),
    ],
)
def test_a_setting_of_another_kind_is_told_before_anything_starts(model, setting, words):
    with pytest.raises(ValueError, match=words) as told:
        overridden(MODELS[model], Recipe(), [setting])
    assert len(str(told.value)) < 200


@pytest.mark.parametrize(
    "settings",
    [
        ["criterion.matcher=atss", "criterion.candidates=5"],
        ["criterion.box_loss=giou", "criterion.loc_weight=2"],
        ["head_norm=none"],
        ["p6_from=P5"],
        ["augment=large-jitter"],
        ["ema=.9"],
    ],
)
def test_what_came_after_the_papers_is_a_switch_of_the_command_line(
    settings, data, tmp_path, capsys
):
    words = [word for setting in settings for word in ("--set", setting)]
    about = train(data, tmp_path / "run", "any-ci", "retinanet-tiny", *words)
    flat = about["config"] | about["recipe"]["criterion"] | about["recipe"]
    for setting in settings:
        name, value = setting.split("=")
        assert flat[name.removeprefix("criterion.")] == value_of(value)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--split", "val"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("model", ["ssd-tiny", "retinanet-tiny"])
def test_class_weights_are_set_on_the_command_line_and_kept(model, data, tmp_path, capsys):
    words = ["--set", "criterion.class_weights=(1, 4, 1)"]
    about = train(data, tmp_path / "run", "any-ci", model, *words)
    assert about["recipe"]["criterion"]["class_weights"] == [1, 4, 1]
    _, recipe, _ = runs.load(tmp_path / "run")
    assert recipe.criterion["class_weights"] == (1, 4, 1)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--split", "val"]) == 0
    capsys.readouterr()
    words = ["--set", "criterion.class_weights=(1, 4)", "--out", str(tmp_path / "other")]
    begun = ["train", "--data", data, "--train-split", "train", "--recipe", "any-ci"]
    assert cli.main([*begun, "--model", model, *small(model), *words]) != 0
    told = capsys.readouterr().err.strip()
    assert "class_weights is (1, 4); give 3 numbers" in told and "\n" not in told
    assert not (tmp_path / "other" / "run.json").exists()


@pytest.mark.parametrize(
    "setting, value",
    [
        ("norm=none", None),
        ("s_min=1", 1),
        ("variances=[.1, .2]", (0.1, 0.2)),
        ("freeze=('a',)", ("a",)),
        ("best=each", "each"),
    ],
)
def test_a_setting_of_its_kind_is_taken(setting, value):
    name = setting.partition("=")[0]
    given, kinds = value_of(setting.partition("=")[2]), typing.get_type_hints(SSDConfig)
    assert given == value and name in kinds
    require_kind(name, given, SSDConfig, name)


@pytest.mark.parametrize("name", ["ssd300-voc", "ssd512-voc", "ssd300-coco", "ssd512-coco"])
def test_the_papers_crops_come_from_pictures_of_full_size(name):
    assert NAMED[name].recipe.stored_side == 0


def test_what_pictures_are_made_from_and_who_reads_them_reaches_the_feed(monkeypatch):
    """Each field of the recipe, by --set, as it arrives."""
    asked = []

    def seen(samples, size, *_, **options):
        asked.append({"size": size} | options)
        raise StopIteration

    monkeypatch.setattr(loop, "Feed", seen)
    model = build_model(MODELS["ssd-tiny"], 3, 64)
    for settings in (
        [],
        ["stored=2", "cache=workers", "workers=0"],
        ["stored=0", "cache=memory", "workers=3"],
    ):
        _, recipe = overridden(MODELS["ssd-tiny"], Recipe(), ["size=64", *settings])
        with pytest.raises(RuntimeError):
            list(loop.train(model, [], recipe))
    found = [{key: one[key] for key in ("stored", "cache", "workers", "gather")} for one in asked]
    assert found == [
        {"stored": 64, "cache": None, "workers": None, "gather": None},
        {"stored": 128, "cache": False, "workers": 0, "gather": None},
        {"stored": 0, "cache": True, "workers": 3, "gather": None},
    ]
