"""train, evaluate and predict on the command line, in this process."""

import json
import re

import pytest
import torch
from PIL import Image
from tiny_data import coco_file, voc_folder

from lesson_lib import cli
from lesson_lib.anchors import RETINANET
from lesson_lib.cli import opening
from lesson_lib.cli import train as cli_train
from lesson_lib.data.coco import CocoJson
from lesson_lib.detectors.retinanet import RetinaNet
from lesson_lib.detectors.ssd import SSD
from lesson_lib.training import checkpoints, runs
from lesson_lib.training.recipes import MODELS, NAMED, Recipe, build_model, find_recipe, overridden

SMALL = [
    "--budget",
    "ci",
    "--norm",
    "group",
    "--set=backbone=tiny-8",
    "--set=batch=2",
    "--set=size=64",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on the train split of a tiny data set, evaluated on it while training."""
    root = tmp_path_factory.mktemp("data")
    for seed, split in enumerate(("train", "val", "test")):
        coco_file(root, split, seed=10 * seed)
    command = [
        "train",
        "--data",
        f"coco:{root}",
        "--out",
        str(root / "run"),
        "--seed",
        "3",
        *SMALL,
        "--set=epochs=3",
    ]
    assert cli.main([*command, "--train-split", "train"]) == 0
    return root, command


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_says_what_it_is(trained, capsys):
    root, command = trained
    about = json.loads((root / "run" / "run.json").read_text())
    assert (about["model"], about["split"], about["classes"]) == (
        "ssd-tiny",
        "train",
        ["bus", "fox", "cup"],
    )
    assert (
        about["recipe"]["seed"] == 3
        and about["recipe"]["epochs"] == 3
        and about["config"]["backbone"] == "tiny-8"
    )
    assert [r["step"] for r in log(root / "run")] == [1, 2, 3] and "AP" in log(root / "run")[-1]


def test_a_training_stops_when_its_time_is_up_and_goes_on(trained, tmp_path, capsys):
    root, command = trained
    own = [*command[:4], str(tmp_path / "run"), *command[5:], "--train-split", "train"]
    for done in (1, 2):  # no time at all: one step each all the same, saved though no epoch's end
        assert cli.main([*own, "--set=batch=1", "--minutes", "0"]) == 0
        told = capsys.readouterr().out
        assert f"Stopped after step {done} of 6: the time is up; the same command goes on." in told
        assert checkpoints.read(tmp_path / "run" / "last.pt")["step"] == done
    assert cli.main([*own, "--set=batch=1", "--minutes", "1e6"]) == 0
    assert "Trained:" in capsys.readouterr().out
    assert [record["step"] for record in log(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    for wrong in ("-1", "soon", "nan", "inf"):
        with pytest.raises(SystemExit):
            cli.main([*own, f"--minutes={wrong}"])
        assert "is no number of minutes; give 0 or more" in capsys.readouterr().err


def test_what_costs_time_on_a_gpu_is_told_beside_the_recipe(trained, monkeypatch, capsys):
    _, command = trained
    monkeypatch.setattr(cli_train, "norm_note", lambda model: f"{type(model).__name__} waits.")
    monkeypatch.setattr(cli_train, "half_note", lambda *given: f"{given} is slow.")
    assert cli.main([*command, "--train-split", "train"]) == 0
    assert "\nSSD waits.\n('fp32', device(type='cpu')) is slow.\n" in capsys.readouterr().out


def test_the_same_command_goes_on_and_another_is_refused(trained, capsys):
    root, command = trained
    assert cli.main([*command, "--train-split", "train"]) == 0
    assert "Was trained before" in capsys.readouterr().out
    assert cli.main([*command, "--set=lr=0.5", "--train-split", "train"]) == 1
    assert "of another lr (there 0.004, now 0.5)" in (err := capsys.readouterr().err)
    assert "another --out" in err
    assert (
        cli.main([*command, "--train-split", "trainval"]) == 1
        and "of another split (there train, now trainval)" in capsys.readouterr().err
    )


def test_a_run_goes_on_with_its_log(trained, tmp_path, capsys):
    root, command = trained
    command = [*command[:4], str(tmp_path / "run"), *command[5:], "--train-split", "train"]
    assert cli.main(command) == 0
    whole, file = log(tmp_path / "run"), tmp_path / "run" / "log.jsonl"
    first = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["model"]
    (tmp_path / "run" / "last.pt").unlink()  # stopped before the first checkpoint
    file.write_text(file.read_text() + '{"step": 4, "lo')  # and in the middle of a line
    assert cli.main(command) == 0
    again = log(tmp_path / "run")
    assert [r | {"seconds": 0} for r in again] == [r | {"seconds": 0} for r in whole]
    assert all(
        torch.equal(v, first[k])
        for k, v in torch.load(tmp_path / "run" / "last.pt", weights_only=True)["model"].items()
    )


def test_train_and_val_are_joined_only_where_that_is_asked_for(tmp_path, trained):
    root, _ = trained
    opened = opening.open_for_training(f"coco:{root}")
    assert (opened.split, len(opened.samples), len(opened.val)) == ("train", 2, 2)
    assert "--train-split trainval learns from both" in " ".join(opened.notes)
    opened = opening.open_for_training(f"coco:{root}", "trainval")
    assert (opened.split, len(opened.samples), opened.val) == ("trainval", 4, None)
    opened = opening.open_for_training("smears")
    assert (opened.split, opened.val) == ("train", None)


def test_evaluate(trained, capsys):
    root, _ = trained
    assert (
        cli.main(
            [
                *("evaluate", str(root / "run"), "--data", f"coco:{root}", "--split", "train"),
                *("--json", "--checkpoint", "last"),
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[0])
    last = log(root / "run")[-1]
    assert len(lines) == 1 and report["pictures"] == 2 and report["split"] == "train"
    assert (
        [r["class"] for r in report["classes"]]
        == ["bus", "fox", "cup"]
        == [r["class"] for r in report["counting"]]
    )
    assert {"AP", "AP50", "AP75", "APs", "AR100", "errors", "cost"} <= report.keys() and report[
        "step"
    ] == last["step"]
    assert cli.main(["evaluate", str(root / "run"), "--split", "val"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("AP ") and "counted" in out and "localisation" in out


def test_predict(trained, tmp_path, capsys):
    root, _ = trained
    pictures = sorted(map(str, (root / "images" / "test").iterdir()))
    assert (
        cli.main(
            [
                "predict",
                str(root / "run"),
                *pictures,
                "--out",
                str(tmp_path / "new"),
                "--score",
                "0.02",
            ]
        )
        == 0
    )
    found = json.loads((tmp_path / "new" / "predictions.json").read_text())
    assert [i["file_name"] for i in found["images"]] == ["test0.png", "test1.png"] and len(
        found["annotations"]
    ) > 0
    assert [a["id"] for a in found["annotations"]] == list(range(1, len(found["annotations"]) + 1))
    read = CocoJson(
        tmp_path / "new" / "predictions.json", root / "images" / "test"
    )  # a file that readers take
    assert (
        read.classes == ("bus", "fox", "cup")
        and not read.problems
        and read[0].boxes[:, 2].max() <= 20
    )
    drawn = Image.open(tmp_path / "new" / "0000-test0.png")
    assert (
        drawn.size == (20, 10)
        and drawn.tobytes() != Image.open(pictures[0]).convert("RGB").tobytes()
    )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["train", "--data", "smears", "--out", "x", "--set", "learn=1"], "'learn=1' sets nothing"),
        (
            ["train", "--data", "smears", "--out", "x", "--set", "epoch=1"],
            "did you mean epochs=...?",
        ),
        (
            ["train", "--data", "smears", "--out", "x", "--set", "criterion.gama=1"],
            "did you mean criterion",
        ),
        (
            ["train", "--data", "smears", "--out", "x", "--set", "epochs=many"],
            "epochs is 'many'; give a value of type int",
        ),
        (
            ["train", "--data", "smears", "--out", "x", "--set", "epochs"],
            "did you mean epochs=...?",
        ),
        (["train", "--data", "smear", "--out", "x"], "did you mean 'smears'?"),
        (
            [
                "train",
                "--data",
                "smears",
                "--out",
                "x",
                "--model",
                "ssd300-vgg16",
                "--set",
                "batch=1",
                "--set",
                "norm=none",
            ],
            "norm='group'",
        ),
        (["evaluate", "nowhere"], "nowhere is no run"),
        (["predict", "nowhere", "a.png", "--out", "x"], "is no run"),
    ],
)
def test_errors_are_one_sentence(tmp_path, monkeypatch, arguments, sentence, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LESSON_BUDGET", "ci")
    assert cli.main(arguments) == 1
    err = capsys.readouterr().err
    assert sentence in err and "Traceback" not in err and err.strip().count("\n") == 0


FULL = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
    torch.AcceleratorError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
)


@pytest.mark.parametrize("error", FULL)
def test_a_training_that_does_not_fit_the_gpu_is_one_sentence(
    error, tmp_path, trained, monkeypatch, capsys
):
    def train(*args, **options):
        raise error
        yield

    _, command = trained
    monkeypatch.setattr(cli_train, "train", train)
    command = [*command[:4], str(tmp_path / "run"), *command[5:], "--train-split", "train"]
    assert cli.main([*command, "--set=accumulate=2"]) == 1
    told = capsys.readouterr().err
    for word in ("batch=2 with accumulate=2", "--set accumulate=4", "`rehearse`"):
        assert word in told
    assert told.count("\n") == 1 and "Traceback" not in told


@pytest.mark.parametrize("error", FULL)
def test_other_commands_that_do_not_fit_the_gpu_are_one_sentence(
    error, tmp_path, monkeypatch, capsys
):
    def full(*_):
        raise error

    monkeypatch.setattr(runs, "load", full)
    assert cli.main(["evaluate", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "memory is too small (CUDA" in told and "CUDA_VISIBLE_DEVICES" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError])
def test_what_is_no_full_memory_stays_as_it_is(kind, tmp_path, monkeypatch):
    def broken(*_):
        raise kind("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(runs, "load", broken)
    with pytest.raises(kind, match="illegal"):
        cli.main(["evaluate", str(tmp_path)])


def test_a_run_is_evaluated_on_its_own_classes_only(trained, tmp_path, capsys):
    root, _ = trained
    assert cli.main(["evaluate", str(root / "run"), "--data", f"voc:{voc_folder(tmp_path)}"]) == 1
    assert "knows the classes bus, fox, cup" in capsys.readouterr().err


def test_a_model_that_changed_since_is_refused(trained, tmp_path):
    root, _ = trained
    about = json.loads((root / "run" / "run.json").read_text())
    (tmp_path / "last.pt").write_bytes((root / "run" / "last.pt").read_bytes())
    for change, sentence in (
        ({"backbone": "tiny"}, "are of another model"),
        ({"backbone": "gone"}, "gone"),
        ({"gone": 3}, "does not know SSDConfig.gone"),
    ):
        changed = about | {"config": about["config"] | change}
        (tmp_path / "run.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=sentence):
            runs.load(tmp_path, torch.device("cpu"))


def test_settings_go_where_they_belong():
    config, recipe = overridden(
        MODELS["retinanet-tiny"],
        Recipe(),
        [
            "lr=1e-3",
            "augment=none",
            "norm=batch",
            "prior=0.02",
            "criterion.gamma=0",
            "criterion.alpha=none",
            "inference.score_threshold=0.1",
            "milestones=(0.5,)",
            "criterion.force_best=False",
        ],
    )
    assert (config.norm, config.prior) == ("batch", 0.02) and (recipe.lr, recipe.augment) == (
        1e-3,
        "none",
    )
    assert recipe.criterion == {
        "gamma": 0,
        "alpha": None,
        "force_best": False,
    } and recipe.milestones == (0.5,)
    assert recipe.inference == {"score_threshold": 0.1}


def test_retinanets_anchors_are_set_for_small_objects():
    """A finest square of 16 px, as the platelets of the course need; what is left out is kept."""
    settings = ["anchors.sizes=(16, 32, 64, 128, 256)", "anchors.aspect_ratios=(1,)"]
    config, recipe = overridden(MODELS["retinanet-r18"], Recipe(size=96), settings)
    anchors = build_model(config, 3, recipe.size).anchors(96)  # (A, 4)
    sides = (anchors[:, 2:] - anchors[:, :2]).prod(1).sqrt()
    assert sides.min().item() == pytest.approx(16) and config.anchors.scales == RETINANET.scales
    assert len(anchors) == 3 * sum(rows * columns for rows, columns in config.anchors.grids_for(96))


@pytest.mark.parametrize(
    ("model", "setting", "sentence"),
    [
        ("retinanet-r18", "anchors.sizes=(16, 32)", "5 strides, 2 sizes; give as many of each"),
        ("retinanet-r18", "anchors.sizes=16", "anchors.sizes is 16; give"),
        ("retinanet-r18", "anchors.strides=(4, 8)", "'anchors.strides=(4, 8)' sets nothing"),
        ("ssd-tiny", "anchors.sizes=(16, 32)", "'anchors.sizes=(16, 32)' sets nothing"),
    ],
)
def test_anchors_that_cannot_be(model, setting, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        overridden(MODELS[model], Recipe(), [setting])


def test_the_papers_recipes():
    model, voc = NAMED["ssd300-voc"]
    assert (voc.batch, voc.lr, voc.momentum, voc.weight_decay, voc.optimizer) == (
        32,
        1e-3,
        0.9,
        5e-4,
        "sgd",
    )
    assert [round(d * voc.steps) for d in voc.milestones] == [
        80_000,
        100_000,
    ] and voc.steps == 120_000
    assert model == "ssd300-vgg16" and voc.augment == "ssd" and voc.size == 300
    model, coco = NAMED["retinanet-r50-coco-1x"]
    assert (coco.batch, coco.lr, coco.momentum, coco.weight_decay, coco.steps) == (
        16,
        0.01,
        0.9,
        1e-4,
        90_000,
    )
    assert [round(d * coco.steps) for d in coco.milestones] == [
        60_000,
        80_000,
    ] and coco.augment == "mirror"


def test_every_budget_has_a_recipe_for_every_data_set():
    assert (
        find_recipe("bccd", "laptop") == "bccd-laptop-ssd-tiny"  # of the model that it is for
        and find_recipe("voc:somewhere", "gpu") == "any-gpu"
    )
    assert find_recipe("bccd", "laptop", "ssd-tiny") == "bccd-laptop-ssd-tiny"
    assert find_recipe("bccd", "laptop", "ssd300-vgg16") == "bccd-laptop"
    assert find_recipe("aquarium", "laptop", "ssd-lite0") == "any-laptop-ssd-lite0"
    assert find_recipe("aquarium", "laptop", "retinanet-tiny") == "aquarium-laptop"
    assert find_recipe("bccd", "laptop", "retinanet-tiny") == "bccd-laptop-retinanet-tiny"
    for data in ("smears", "bccd", "aquarium", "coco:x"):
        for budget in ("ci", "laptop", "gpu"):
            assert NAMED[find_recipe(data, budget)].model in MODELS


@pytest.mark.parametrize("name", ["ssd300-vgg16", "ssd-tiny", "retinanet-r18", "retinanet-tiny"])
def test_models_by_name(name):
    config, recipe = overridden(MODELS[name], Recipe(size=96), ["norm=group"])
    model = build_model(config, 5, recipe.size)
    assert recipe.size == (300 if name == "ssd300-vgg16" else 96)
    assert (
        isinstance(model, SSD if name.startswith("ssd") else RetinaNet)
        and model.config.num_classes == 5
    )
