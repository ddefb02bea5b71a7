"""One trained run on the command line: figures, thresholds, checkpoints, confusion, options."""

import contextlib
import io
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lesson_lib import cli
from lesson_lib.cli.confusion import confusion_svg, confusion_text
from lesson_lib.data.smears import draw_smear
from lesson_lib.training import runs

IDS = (20, 3, 7)  # of the categories, in the order of the labels that the smears have
SMALL = ("backbone=tiny-8", "norm=group", "batch=4", "size=96", "lr=4e-3", "augment=none")


def smears_as_coco(root, split, count, seed):
    """Smears of 96 pixels as a COCO file; pictures are numbered from 900 down."""
    images, annotations = [], []
    (root / "images" / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    for k in range(count):
        sample = draw_smear(seed, k, size=96)
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(
            root / "images" / split / f"s{k}.png"
        )
        images.append({"id": 900 - k, "file_name": f"s{k}.png", "width": 96, "height": 96})
        for (x1, y1, x2, y2), label in zip(sample.boxes.tolist(), sample.labels, strict=True):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            more = {"id": len(annotations) + 1, "image_id": 900 - k, "category_id": IDS[label]}
            annotations.append(box | more)
    names = ("red", "white", "platelet")
    tree = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in zip(IDS, names, strict=True)],
    }
    (root / "annotations" / f"{split}.json").write_text(json.dumps(tree))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on smears, evaluated on their val split four times."""
    root = tmp_path_factory.mktemp("smears")
    for seed, (split, count) in enumerate({"train": 8, "val": 4, "test": 4}.items()):
        smears_as_coco(root, split, count, seed)
    settings = [f"--set={setting}" for setting in (*SMALL, "epochs=40", "evaluate=10")]
    command = ["train", "--data", f"coco:{root}", "--out", str(root / "run"), "--budget", "ci"]
    assert cli.main([*command, "--train-split", "train", "--tensorboard", *settings]) == 0
    return root / "run"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def evaluated(run, *options, capsys):
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_pycocotools_finds_evaluates_figures_in_predictions_json(run, capsys):
    root = run.parent
    pictures = str(root / "images" / "test")
    command = ["predict", str(run), pictures, "--out", "found", "--score", "0.01", "--no-drawings"]
    assert cli.main(command) == 0
    report = evaluated(run, capsys=capsys)
    found = json.loads(Path("found/predictions.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(root / "annotations" / "test.json"))
        assert {c["id"]: c["name"] for c in found["categories"]} == {
            c["id"]: c["name"] for c in truth.dataset["categories"]
        }
        number = {image["file_name"]: image["id"] for image in truth.dataset["images"]}
        own = {image["id"]: number[image["file_name"]] for image in found["images"]}
        results = [a | {"image_id": own[a["image_id"]]} for a in found["annotations"]]
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    assert report["AP50"] > 0.05  # there is something to compare
    assert [report[name] for name in names] == pytest.approx(judge.stats.tolist(), abs=1e-6)


def test_the_threshold_of_val_is_kept_and_taken(run, capsys):
    rows = [row for row in log(run) if "AP" in row]
    best, last = max(rows, key=lambda row: row["AP"]), rows[-1]
    kept = json.loads((run / "run.json").read_text())["thresholds"]
    assert kept["best"] == {name: best[name] for name in ("threshold", "F1")}
    assert kept["last"] == {name: last[name] for name in ("threshold", "F1")}
    found = {}
    for name, row in (("best", best), ("last", last)):
        about = runs.load(run, "cpu", name)[2]
        assert about["step"] == row["step"] and about["threshold"] == row["threshold"]
        pictures = str(run.parent / "images" / "val")
        command = ["predict", str(run), pictures, "--out", name, "--checkpoint", name]
        assert cli.main([*command, "--no-drawings"]) == 0
        tree = json.loads(Path(name, "predictions.json").read_text())
        found[name] = [a["score"] for a in tree["annotations"]]
        assert found[name] and min(found[name]) > row["threshold"]
    assert runs.load(run)[2]["checkpoint"] == "best"  # unless another is asked for
    report = evaluated(run, "--split", "val", "--checkpoint", "last", capsys=capsys)
    assert report["AP"] == pytest.approx(last["AP"]) and report["score"] == last["threshold"]


def test_a_threshold_can_be_chosen_afterwards_on_val_alone(run, tmp_path, capsys):
    about = json.loads((run / "run.json").read_text())
    (tmp_path / "copy").mkdir()
    for name in ("last.pt", "log.jsonl"):
        (tmp_path / "copy" / name).write_bytes((run / name).read_bytes())
    text = json.dumps({k: v for k, v in about.items() if k != "thresholds"})
    (tmp_path / "copy" / "run.json").write_text(text)
    assert cli.main(["evaluate", "copy", "--choose-threshold", "--split", "test"]) == 1
    assert "--split val" in capsys.readouterr().err
    assert "threshold" not in runs.load("copy")[2]
    assert cli.main(["evaluate", "copy", "--choose-threshold"]) == 0
    chosen = json.loads((tmp_path / "copy" / "run.json").read_text())["thresholds"]["last"]
    assert chosen == pytest.approx(about["thresholds"]["last"], abs=1e-6)
    assert cli.main(["evaluate", "copy", "--checkpoint", "best"]) == 1
    assert "has no best.pt" in capsys.readouterr().err


def test_the_confusion_matrix_in_all_forms(run, capsys):
    report = evaluated(run, "--confusion", "out.svg", "--score", "0.2", capsys=capsys)
    confusion = report["confusion"]
    matrix = np.array(confusion["matrix"])
    objects = [count["objects"] for count in report["errors"].values()]
    assert confusion["rows"] == ["white", "platelet", "red", "background"]
    assert confusion["columns"][-1] == "missed" and confusion["score"] == 0.2
    assert matrix[:-1].sum(1).tolist() == objects
    texts = [e.text for e in ElementTree.parse("out.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("background") == 1 and texts.count("missed") == 1
    assert all(str(count) in texts for count in matrix.flatten())
    assert cli.main(["evaluate", str(run), "--score", "0.2"]) == 0
    out = capsys.readouterr().out
    assert "missed" in out and "background" in out


def test_large_and_strange_matrices():
    many = np.zeros((31, 31), int)
    many[3, 4], many[30, 7] = 5, 9
    names = [f"class{i}" for i in range(30)]
    lines = confusion_text(many, names).splitlines()
    assert [line.split() for line in lines] == [
        ["9", "background", "->", "class7"],
        ["5", "class3", "->", "class4"],
    ]
    svg = confusion_svg(np.zeros((2, 2), int), ["<&猫" * 10], "a & b")
    assert ElementTree.fromstring(svg) is not None


def test_what_is_neither_there_nor_said_is_not_counted():
    matrix = np.array([[7, 2], [3, 0]])
    assert [line.split() for line in confusion_text(matrix, ["cell"]).splitlines()[1:]] == [
        ["cell", "7", "2"],
        ["background", "3"],
    ]
    root = ElementTree.fromstring(confusion_svg(matrix, ["cell"], "a"))
    numbers = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [word for word in numbers if word and word.isdigit()] == ["7", "2", "3"]


def test_tensorboard_has_the_log(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    for tag, name in {"train/loss": "loss", "val/AP": "AP", "val/loss": "val_loss"}.items():
        expected = {row["step"]: row[name] for row in log(run) if name in row}
        written = {event.step: event.value for event in events.Scalars(tag)}
        assert written == pytest.approx(expected, rel=1e-5)


def test_without_tensorboard_it_is_told(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    command = ["train", "--data", "smears", "--out", "other", "--budget", "ci", "--tensorboard"]
    assert cli.main(command) == 1
    assert 'pip install "lesson-lib[tensorboard]"' in capsys.readouterr().err
    assert not Path("other/run.json").exists()


@pytest.mark.parametrize("score", ["1", "-3", "nan"])
def test_a_score_that_is_none_is_refused(run, score, capsys):
    assert cli.main(["evaluate", str(run), "--score", score]) == 1
    assert "--score is" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, words",
    [
        (("--set", "lr=nan"), "lr is nan"),
        (("--set", "lr=inf"), "lr is inf"),
        (("--set", "warmup=nan"), "warmup is nan"),
        (("--patience", "-1"), "patience is -1"),
    ],
)
def test_numbers_that_are_none_are_refused_by_name(options, words, capsys):
    assert cli.main(["train", "--data", "smears", "--out", "x", "--budget", "ci", *options]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-2", "many"])
def test_save_every_is_a_number_of_steps(number, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--data", "smears", "--out", "x", "--save-every", number])
    assert "give 1 or more" in capsys.readouterr().err


def test_early_stopping_is_told(run, tmp_path, capsys):
    data = f"coco:{run.parent}"
    settings = [f"--set={s}" for s in (*SMALL[:4], "epochs=9", "evaluate=1", "lr=1e-9")]
    command = [
        "train",
        "--data",
        data,
        "--out",
        "short",
        "--budget",
        "ci",
        "--train-split",
        "train",
    ]
    assert cli.main([*command, *settings, "--patience", "1", "--save-every", "1"]) == 0
    assert "Stopped after step 4 of 18" in capsys.readouterr().out
    state = torch.load("short/last.pt", weights_only=True)
    assert state["step"] == 4 == log(Path("short"))[-1]["step"]
