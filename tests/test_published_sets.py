"""voc0712 and coco2017 as they are laid out by their makers, and mAP as PASCAL VOC defines it."""

import json
import math
from xml.etree import ElementTree

import pytest
import torch
from tiny_data import picture, voc_object, voc_picture, voc_split

from lesson_lib import cli
from lesson_lib.cli import evaluate as evaluate_command
from lesson_lib.cli.opening import open_for_training
from lesson_lib.data import catalog
from lesson_lib.data.catalog import download, facts, find_dataset, open_dataset, usual_split
from lesson_lib.data.splits import NoSplit


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of data sets; nothing else is found on this machine."""
    monkeypatch.setattr(catalog, "dataset_roots", lambda: [tmp_path / "sets"])
    monkeypatch.setattr(catalog, "DOWNLOADS", tmp_path / "downloads")
    return tmp_path / "sets"


def voc_year(folder, *names: str, test: str | None = None) -> None:
    """Two pictures, the first in train, the second in val; and one in test."""
    for seed, name in enumerate((*names, *([test] if test else []))):
        voc_picture(folder, name, voc_object("cat", (2 + seed, 3, 12, 9)), seed=seed, ending=".jpg")
    for split, name in zip(("train", "val", "test"), (*names, test), strict=True):
        if name:
            voc_split(folder, split, name)
    voc_split(folder, "trainval", *names)


def coco_release(folder, train: int = 3, val: int = 2) -> None:
    """annotations/instances_train2017.json, train2017/000000000001.jpg, ...; ids with holes."""
    (folder / "annotations").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        names = [f"{number:012d}.jpg" for number in range(1, count + 1)]
        for seed, name in enumerate(names):
            picture(folder / f"{split}2017" / name, seed=seed)
        data = {
            "images": [
                {"id": k, "file_name": name, "width": 20, "height": 10}
                for k, name in enumerate(names)
            ],
            "annotations": [
                {"id": k, "image_id": k, "category_id": 90, "bbox": [1, 2, 8, 6], "area": 48}
                for k in range(count)
            ],
            "categories": [
                {"id": 1 + k + 10 * (k == 79), "name": name}
                for k, name in enumerate(facts("coco2017")["classes"])
            ],
        }
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(data))


# --------------------------------------------------------------------------------------- VOC07+12


def test_07_and_12_are_learned_from_and_07_is_the_test(root):
    voc_year(root / "voc2007", "000005", "000007", test="000001")
    assert find_dataset("voc0712") is None
    with pytest.raises(FileNotFoundError, match="voc2012 is not on this machine"):
        open_dataset("voc0712", "trainval")
    voc_year(root / "VOCdevkit" / "VOC2012", "2008_000002", "2008_000003")
    assert find_dataset("voc0712") == find_dataset("voc2007")
    opened = open_for_training("voc0712")
    assert opened.split == "trainval" and opened.val is None
    names = ["000005", "000007", "2008_000002", "2008_000003"]
    assert [sample.id for sample in opened.samples] == names
    assert [sample.id for sample in open_dataset("voc0712", "test")] == ["000001"]
    assert [s.id for s in open_dataset("voc0712", "train")] == ["000005", "2008_000002"]
    assert opened.samples[3].labels.tolist() == [facts("voc0712")["classes"].index("cat")]
    with pytest.raises(NoSplit, match="voc0712 has no split 'minival' .there: train, val"):
        open_dataset("voc0712", "minival")


def test_its_card_adds_up():
    both, first, second = (facts(name) for name in ("voc0712", "voc2007", "voc2012"))
    assert both["classes"] == first["classes"] == second["classes"]
    for split in ("train", "val"):
        assert both["pictures"][split] == first["pictures"][split] + second["pictures"][split]
    assert both["pictures"]["test"] == first["pictures"]["test"]


def test_both_are_fetched(root, monkeypatch):
    asked = []
    real = catalog.download

    def fetched(name, source=None):
        asked.append(name)
        return real(name, source) if name == "voc0712" else root / name

    monkeypatch.setattr(catalog, "download", fetched)
    assert catalog.download("voc0712") == root / "voc2007"
    assert asked == ["voc0712", "voc2007", "voc2012"]


def test_the_word_works_on_the_command_line(root, tmp_path, capsys):
    voc_year(root / "voc2007", "000005", "000007", test="000001")
    voc_year(root / "voc2012", "2008_000002", "2008_000003")
    assert cli.main(["data", "list"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("voc0712")]
    assert row.endswith(str(root / "voc2007"))
    assert cli.main(["data", "card", "voc0712"]) == 0
    assert facts("voc0712")["title"] in capsys.readouterr().out


# -------------------------------------------------------------------------------------- COCO 2017


@pytest.mark.parametrize("word", ["coco2017", "coco:{}"])
def test_train2017_is_learned_from_and_val2017_is_evaluated_on(root, word):
    coco_release(root / "coco")
    opened = open_for_training(word.format(root / "coco"))
    assert opened.split == "train" and len(opened.samples) == 3
    assert opened.val is not None and len(opened.val) == 2
    assert opened.samples[0].labels.tolist() == [79] and len(opened.samples.classes) == 80
    assert opened.samples.category_ids[-1] == 90
    both = open_for_training(word.format(root / "coco"), "trainval")
    assert both.split == "trainval" and len(both.samples) == 5


def test_evaluate_takes_val2017_where_nothing_is_said(root, tmp_path, capsys):
    coco_release(root / "coco2017")
    small = ["--budget", "ci", "--set", "steps=1", "--set", "size=64", "--set", "batch=2"]
    run = str(tmp_path / "run")
    assert cli.main(["train", "--data", "coco2017", *small, "--out", run]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", run, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["split"], report["pictures"]) == ("val", 2)


def test_what_is_not_fetched_says_how_to_get_it(root):
    for way in (open_dataset, download):
        with pytest.raises(FileNotFoundError, match=r"train2017\.zip.*FOLDER/coco2017.*coco:DIR"):
            way("coco2017")


@pytest.mark.parametrize(
    "word, learn, judge",
    [("coco2017", "train", "val"), ("voc2007", None, None), ("smears", None, None)]
    + [(f"{kind}:DIR", None, None) for kind in catalog.READERS],
)
def test_customs_are_those_of_the_card(word, learn, judge):
    assert (usual_split(word, "learn"), usual_split(word, "judge")) == (learn, judge)


@pytest.mark.parametrize("name", ["coco2017", "voc0712"])
def test_cards_without_sources_are_complete(name):
    about = facts(name)
    assert {"title", "licence", "format", "classes", "pictures"} <= about.keys()
    card = (catalog.CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert about["title"] in card and "licence" in card
    for number in about["pictures"].values():
        assert f"{number:,}" in card


# --------------------------------------------------------------------------------- mAP as VOC does


def overlap(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


def annotated(folder, names, cls):
    """{picture: [[box, difficult, found]]} of one class, from the XML files."""
    truth = {}
    for name in names:
        truth[name] = []
        for thing in ElementTree.parse(folder / "Annotations" / f"{name}.xml").iter("object"):
            if thing.find("name").text == cls:
                x1, y1, x2, y2 = (int(part.text) for part in thing.find("bndbox"))
                hard = thing.find("difficult").text == "1"
                truth[name].append([(x1 - 1, y1 - 1, x2, y2), hard, False])
    return truth


def area_under(points, eleven):
    """AP of a curve of (recall, precision), at eleven recalls or under the falling envelope."""
    if eleven:
        heights = [max([p for r, p in points if r >= t / 10], default=0) for t in range(11)]
        return sum(heights) / 11
    area, before = 0.0, 0.0
    for k, (recall, _) in enumerate(points):
        area += (recall - before) * max(precision for _, precision in points[k:])
        before = recall
    return area


def reference(folder, names, found, label, cls, eleven):
    """AP of one class by the challenge's definition, from the XML files, in plain loops."""
    truth = annotated(folder, names, cls)
    wanted = sum(not hard for things in truth.values() for _, hard, _ in things)
    rows = []
    for name, p in zip(names, found, strict=True):
        for box, score, k in zip(p["boxes"].tolist(), p["scores"].tolist(), p["labels"].tolist()):
            if k == label:
                rows.append((score, name, box))
    points, right, wrong = [], 0, 0
    for _, name, box in sorted(rows, reverse=True):
        best = max(truth[name], key=lambda thing: overlap(box, thing[0]), default=None)
        if best is not None and overlap(box, best[0]) >= 0.5:
            if best[1]:
                continue  # difficult: neither right nor wrong
            right, wrong = (right, wrong + 1) if best[2] else (right + 1, wrong)
            best[2] = True
        else:
            wrong += 1
        points.append((right / wanted, right / (right + wrong)))
    return area_under(points, eleven)


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """A run on a VOC folder, and detections near its objects, difficult ones too."""
    folder, generator = tmp_path / "voc", torch.Generator().manual_seed(3)
    boxes = torch.tensor([[2, 3, 16, 14], [14, 5, 30, 20], [4, 16, 15, 28], [18, 20, 31, 31]])
    names, classes = [f"{k:06d}" for k in range(9)], ("cat", "dog")
    for k, name in enumerate(names):
        things = [
            voc_object(classes[(k + j) % 2], tuple(box), difficult=int((k + j) % 3 == 0))
            for j, box in enumerate(boxes[: 1 + k % 4].tolist())
        ]
        voc_picture(folder, name, "".join(things), width=32, height=32, seed=k)
    for split in ("train", "test"):
        voc_split(folder, split, *names)
    found = []
    for _ in names:
        near = boxes[torch.randint(4, (12,), generator=generator)].float()
        near += 3 * torch.randn(12, 4, generator=generator)
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 2)
        order = torch.rand(12, generator=generator).sort(descending=True).values
        labels = torch.randint(2, (12,), generator=generator)
        found.append({"boxes": near, "scores": order, "labels": labels})
    small = ["--budget", "ci", "--set", "steps=1", "--set", "size=64", "--set", "batch=2"]
    run = ["train", "--data", f"voc:{folder}", *small, "--out", str(tmp_path / "run")]
    assert cli.main(run) == 0
    monkeypatch.setattr(evaluate_command, "predict", lambda *_, **__: found)
    return tmp_path / "run", folder, names, found, classes


@pytest.mark.parametrize("metric, eleven", [("voc07", True), ("voc", False)])
def test_map_is_that_of_the_challenge(judged, capsys, metric, eleven):
    run, folder, names, found, classes = judged
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--metric", metric, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["per_class"]) == list(classes) and report["metric"] == metric
    for label, name in enumerate(classes):
        expected = reference(folder, names, found, label, name, eleven)
        assert 0 < expected < 1
        assert report["per_class"][name] == pytest.approx(expected, abs=1e-6)
    assert report["mAP"] == pytest.approx(sum(report["per_class"].values()) / 2)


def test_map_in_words_and_a_class_without_objects(judged, capsys):
    run, *_ = judged
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--metric", "voc07"]) == 0
    first, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("mAP 0.") and "difficult objects ignored" in first
    aps = [float(row.split()[-1]) for row in rows]
    assert len(aps) == 2 and math.isclose(sum(aps) / 2, float(first.split()[1]), abs_tol=2e-3)
