"""To begin with the weights of another detector: what is taken, what is made anew, what is told."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_data import coco_file
from torchvision.models.detection import retinanet_resnet50_fpn

from lesson_lib import cli
from lesson_lib.detectors.retinanet import RETINANET_CONFIGS, RetinaNet
from lesson_lib.training import checkpoints, runs
from lesson_lib.training.recipes import MODELS, NAMED, Recipe, build_model
from lesson_lib.training.warm_start import beginning, read_source, take_weights

NAME = "ssd-tiny-bccd"
CELLS = ("RBC", "WBC", "Platelets")


def model_of(source, classes, **changes):
    torch.manual_seed(1)
    return build_model(replace(source.config, **changes), classes, 288)


def taken(model, source, before):
    """The names of the tensors that are the source's now; all others are as they were."""
    found = set()
    for name, value in model.state_dict().items():
        if torch.equal(value, source.weights.get(name, torch.empty(0))):
            found.add(name)
        else:
            assert torch.equal(value, before[name]), name
    return found


@pytest.mark.parametrize("classes", [("cat",), ("a", "b", "c"), ("RBC", "Platelets", "WBC")])
def test_all_but_the_classes_is_taken(classes):
    source = read_source(NAME)
    model = model_of(source, len(classes))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sentence = take_weights(model, source, classes)
    names = set(model.state_dict())
    assert taken(model, source, before) == {n for n in names if not n.startswith("heads.cls.")}
    counted = [n for n in names if "num_batches" not in n]
    left = sum(n.startswith("heads.cls.") for n in counted)
    assert f" of {len(names)} tensors" in sentence or f" of {len(counted)} tensors" in sentence
    assert left > 0 and sentence.endswith("made anew: heads.cls.")
    assert sentence.startswith(f"From {NAME} ")


def test_the_same_classes_are_taken_too():
    source = read_source(NAME)
    model = model_of(source, 3)
    assert "nothing is made anew" in take_weights(model, source, CELLS)
    assert all(torch.equal(v, source.weights[n]) for n, v in model.state_dict().items())


def test_offsets_of_other_anchors_are_made_anew():
    source = read_source(NAME)
    model = model_of(source, 3, s_min=source.config.s_min * 1.5)
    assert take_weights(model, source, CELLS).endswith("made anew: heads.box.")


def test_another_model_and_another_norm_are_refused():
    source = read_source(NAME)
    with pytest.raises(ValueError, match="fits no part .* give --model as it is there, ssd-tiny"):
        take_weights(build_model(MODELS["ssd-r18"], 3, 64), replace_norm(source), CELLS)
    with pytest.raises(ValueError, match="trained with norm=batch.*add --set norm=batch"):
        take_weights(model_of(source, 3, norm="group"), source, CELLS)
    with pytest.raises(ValueError, match="is no run"):
        read_source("nowhere")


def replace_norm(source):
    return replace(source, config=replace(source.config, norm="group"))


def test_torchvisions_file_of_other_classes(tmp_path):
    file, theirs = (
        tmp_path / "coco.pth",
        retinanet_resnet50_fpn(weights=None, weights_backbone=None),
    )
    torch.save(theirs.state_dict(), file)
    source = read_source(str(file))
    assert source.model is None and source.classes is None
    config = replace(RETINANET_CONFIGS["torchvision"], num_classes=3)
    model = RetinaNet(config)
    sentence = take_weights(model, source, CELLS)
    assert sentence.endswith("made anew: heads.cls, heads.box.")
    state = theirs.state_dict()
    assert torch.equal(model.backbone.body.conv1.weight, state["backbone.body.conv1.weight"])
    model.train()(torch.rand(1, 3, 64, 64))  # weights have arrived: it may train
    sentence = take_weights(RetinaNet(replace(config, p6_from="C5")), source, CELLS)
    assert "fpn.p6" in sentence  # made from another map
    (tmp_path / "x.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="holds no weights that can be read"):
        read_source(str(tmp_path / "x.pth"))


def test_the_norm_stays_and_the_backbones_share_too():
    recipe = NAMED["any-gpu"].recipe
    config, made = beginning(MODELS["retinanet-r50"], recipe, ["freeze=('conv1',)"])
    assert (config.norm, config.pretrained, config.freeze) == ("frozen", False, ("conv1",))
    assert made.backbone_lr == recipe.backbone_lr and made.pretrained is False
    config, made = beginning(MODELS["ssd-tiny"], Recipe(), ["backbone_lr=0.2", "head_lr=2"])
    assert (made.backbone_lr, made.head_lr, config.norm) == (0.2, 2, "batch")


def test_on_the_command_line_a_run_begins_with_it_and_goes_on(tmp_path, capsys):
    data = coco_file(tmp_path, pictures=3)
    command = [
        *("train", "--data", f"coco:{data}", "--init", NAME, "--budget", "ci"),
        *("--out", str(tmp_path / "run"), "--set=size=64", "--set=batch=2"),
    ]
    assert cli.main([*command, "--set=steps=1", "--set=lr=0.0"]) == 0
    out = capsys.readouterr().out
    assert "ssd-tiny on coco" in out and f"From {NAME} " in out
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["init"] == NAME and about["classes"] == ["bus", "fox", "cup"]
    state, source = checkpoints.read(tmp_path / "run" / "last.pt")["model"], read_source(NAME)
    for name, value in state.items():  # the rate was 0: what was taken is there
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(value, source.weights[name]) is not name.startswith("heads.cls.")
    assert cli.main([*command, "--set=steps=1", "--set=lr=0.0"]) == 0
    assert "Was trained before" in capsys.readouterr().out
    without = [word for word in command if word not in ("--init", NAME)]
    assert cli.main([*without, "--set=steps=1", "--set=lr=0.0"]) == 1
    assert "another init" in capsys.readouterr().err
    model, _, _ = runs.load(tmp_path / "run")
    again = read_source(str(tmp_path / "run" / "last.pt"))
    assert again.model == "ssd-tiny" and again.config == model.config
