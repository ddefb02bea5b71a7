"""export, and the example that needs no PyTorch: they find what predict finds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from tiny_data import coco_file, picture

from lesson_lib import cli

ROOT = Path(__file__).resolve().parent.parent
KINDS = {"ssd-tiny": ("backbone=tiny-8", "inference.vote=0.6"), "retinanet-tiny": ("channels=16",)}


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory):
    """A run of one epoch, and its file with NMS."""
    root = tmp_path_factory.mktemp("run")
    small = ("norm=group", "batch=2", "size=64", "epochs=1", *KINDS[request.param])
    command = ["train", "--data", f"coco:{coco_file(root)}", "--train-split", "train"]
    command += ["--val-split", "train", "--budget", "ci", "--model", request.param]
    command += ["--out", str(root / "run"), *(f"--set={setting}" for setting in small)]
    assert cli.main(command) == 0
    file = root / "model.onnx"
    options = ["--nms", "--score", "0.01", "--out", str(file)]
    assert cli.main(["export", str(root / "run"), *options]) == 0
    return root / "run", file


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def predicted(run, *files):
    """Rows (class, score, x1, y1, x2, y2) of each file, by predict."""
    command = ["predict", str(run), *map(str, files), "--out", "found", "--score", "0.01"]
    assert cli.main([*command, "--no-drawings"]) == 0
    tree = json.loads(Path("found/predictions.json").read_text())
    names = {category["id"]: category["name"] for category in tree["categories"]}
    rows = {image["id"]: [] for image in tree["images"]}
    for a in tree["annotations"]:
        x, y, w, h = a["bbox"]
        rows[a["image_id"]].append((names[a["category_id"]], a["score"], x, y, x + w, y + h))
    return list(rows.values())


def test_the_file_finds_what_predict_finds(run):
    folder, file = run
    for seed in range(3):
        picture(Path(f"{seed}.png"), 64, 64, seed=seed)  # of the model's size: nothing is resized
    expected = predicted(folder, *(f"{seed}.png" for seed in range(3)))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    classes = json.loads(about["classes"])
    assert classes == ["bus", "fox", "cup"] and json.loads(about["size"]) == [64, 64]
    pixels = [np.asarray(Image.open(f"{seed}.png"), np.float32) / 255 for seed in range(3)]
    boxes, scores, labels = session.run(None, {"images": np.stack(pixels).transpose(0, 3, 1, 2)})
    for i, rows in enumerate(expected):
        count = int((labels[i] >= 0).sum())
        assert count == len(rows) > 10
        assert (scores[i, count:] == 0).all() and (labels[i, count:] == -1).all()
        assert [classes[k] for k in labels[i, :count]] == [row[0] for row in rows]
        np.testing.assert_allclose(scores[i, :count], [row[1] for row in rows], atol=1e-4)
        np.testing.assert_allclose(boxes[i, :count], [row[2:] for row in rows], atol=2e-2)


def without_pytorch(file, name):
    """What the example prints: rows (class, score, x1, y1, x2, y2)."""
    example = str(ROOT / "examples" / "detect_onnx.py")
    code = (
        "import runpy, sys\n"
        "sys.modules['torch'] = None\n"
        f"sys.argv = ['detect_onnx.py', {str(file)!r}, {name!r}]\n"
        f"runpy.run_path({example!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return [(name, *map(float, numbers)) for name, *numbers in lines]


def test_the_example_finds_the_same_without_pytorch(run):
    folder, file = run
    picture(Path("square.png"), 64, 64, seed=5)
    picture(Path("wide.png"), 256, 64, seed=6)
    rows, found = predicted(folder, "square.png")[0], without_pytorch(file, "square.png")
    assert [row[0] for row in found] == [row[0] for row in rows] and len(rows) > 10
    numbers = np.array([row[1:] for row in found]), np.array([row[1:] for row in rows])
    np.testing.assert_allclose(*numbers, atol=0.08)  # it prints one decimal
    wide = np.array([row[2:] for row in without_pytorch(file, "wide.png")])
    assert wide.min() >= 0 and wide[:, 3].max() <= 64 and 128 < wide[:, 2].max() <= 256


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--score", "2", "--nms"], "--score is 2"),
        (["--score", "0.3"], "--score is for --nms"),
        (["--out", "."], "is a folder"),
        (["--checkpoint", "best", "--out", "nowhere/x.onnx"], None),
    ],
)
def test_options_are_looked_at(run, arguments, words, capsys):
    folder, _ = run
    given = arguments if "--out" in arguments else [*arguments, "--out", "x.onnx"]
    code = cli.main(["export", str(folder), *given])
    assert (code == 0) is (words is None) and (words or "") in capsys.readouterr().err


def test_what_is_no_run_is_told(capsys):
    assert cli.main(["export", "nowhere", "--out", "x.onnx"]) == 1
    assert "is no run" in capsys.readouterr().err
