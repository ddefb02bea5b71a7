"""Opening data for the commands: which split, and what is said about it."""

import argparse
import json
import re

import pytest
from tiny_data import coco_file, renamed_categories, voc_folder, voc_object, voc_picture, voc_split

from lesson_lib import cli
from lesson_lib.cli.opening import (
    add_reading,
    open_for_evaluation,
    open_for_training,
    reading,
    words,
)
from lesson_lib.data import feed
from lesson_lib.data.annotated import NoObjects, NoPictures


def three(root):
    """Pictures a, b, c with a cat each, in train."""
    for seed, name in enumerate("abc"):
        voc_picture(root, name, voc_object("cat", (1, 1, 9, 9)), seed=seed)
    voc_split(root, "train", *"abc")
    return f"voc:{root}"


def cut(file):
    file.write_bytes(file.read_bytes()[:300])


def test_a_picture_that_cannot_be_decoded_is_left_out_before_training_and_told(tmp_path):
    data = three(tmp_path)
    cut(tmp_path / "JPEGImages" / "b.png")
    opened = open_for_training(data)
    assert (opened.samples.ids(), opened.split, opened.val) == (["a", "c"], "train", None)
    assert opened.notes == [
        "train: 1 of 3 pictures and 1 object are left out; "
        f"`python -m lesson_lib data check {data}` names them."
    ]


@pytest.mark.parametrize("stored, room", [(32, 3 * 3 * 32**2), (0, 3 * 3 * 20 * 10)])
def test_what_does_not_fit_into_memory_is_not_decoded_beforehand(
    tmp_path, monkeypatch, stored, room
):
    """At the size that is kept: squares of 32 px, or the pictures' own 20 x 10."""
    data = three(tmp_path)
    cut(tmp_path / "JPEGImages" / "b.png")
    monkeypatch.setattr(feed, "CACHE_BYTES", room)
    assert open_for_training(data, stored=stored).samples.ids() == ["a", "c"]
    monkeypatch.setattr(feed, "CACHE_BYTES", room - 1)
    opened = open_for_training(data, stored=stored)
    assert len(opened.samples) == 3 and opened.notes == []


def test_all_pictures_unusable(tmp_path):
    data = three(tmp_path)
    for name in "abc":
        cut(tmp_path / "JPEGImages" / f"{name}.png")
    with pytest.raises(NoPictures, match=r"train has no usable picture; the first problem: a\.png"):
        open_for_training(data)


@pytest.mark.parametrize("objects", ["", voc_object("cat", (5, 5, 5, 5))])
def test_nothing_to_learn_is_refused(tmp_path, objects):
    voc_picture(tmp_path, "a", objects)
    with pytest.raises(NoObjects, match="no objects, nothing to learn"):
        open_for_training(f"voc:{tmp_path}", "all")


def test_crowds_alone_are_nothing_to_learn(tmp_path):
    crowd = {"id": 1, "image_id": 10, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    with pytest.raises(NoObjects):
        open_for_training(f"coco:{coco_file(tmp_path, annotations=[crowd])}")


def test_val_is_mapped_by_name(tmp_path):
    coco_file(tmp_path, "train")
    file = coco_file(tmp_path, "val")
    renamed_categories(file, "cup", "fox", "bus")
    opened = open_for_training(f"coco:{tmp_path}", "train")
    assert opened.samples[0].labels.tolist() == [2, 0]
    assert opened.val[0].labels.tolist() == [0, 2] and opened.val.classes == opened.samples.classes
    renamed_categories(file, "x", "y", "z")
    with pytest.raises(ValueError, match="knows the classes bus, fox, cup; .* val has x, y, z"):
        open_for_training(f"coco:{tmp_path}", "train")


def test_a_broken_val_is_told_and_an_empty_one_is_not_used(tmp_path):
    for split in ("train", "val"):
        coco_file(tmp_path, split)
    file = tmp_path / "annotations" / "val.json"
    text = file.read_text()
    file.write_text(text[:-40])
    with pytest.raises(ValueError, match=r"val\.json is no JSON"):
        open_for_training(f"coco:{tmp_path}")
    file.write_text(json.dumps(json.loads(text) | {"annotations": []}))
    opened = open_for_training(f"coco:{tmp_path}")
    assert opened.val is None and opened.notes[0].startswith("val is not evaluated on: ")
    with pytest.raises(NoObjects):
        open_for_training(f"coco:{tmp_path}", "train")


def test_trainval_of_its_own_is_the_default(tmp_path):
    voc_split(voc_folder(tmp_path), "trainval", "b", "a")
    assert open_for_training(f"voc:{tmp_path}").split == "trainval"


def test_evaluation_leaves_out_what_cannot_be_used(tmp_path):
    data = three(tmp_path)
    cut(tmp_path / "JPEGImages" / "a.png")
    assert open_for_evaluation(data, "train", ("dog", "cat")).targets()[0]["labels"].tolist() == [1]


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    add_reading(parser)
    return parser.parse_args(arguments)


def test_how_the_files_are_read(tmp_path):
    options = parsed("--pictures", str(tmp_path), "--first-pixel", "0")
    read = reading(options, "voc:x")
    assert read == {"pictures": str(tmp_path), "one_based": False}
    assert words("voc:a b", read) == f"'voc:a b' --pictures {tmp_path} --first-pixel 0"
    assert reading(parsed(), "smears") == {}
    with pytest.raises(ValueError, match="--pictures is for voc:DIR and coco:FILE"):
        reading(options, "yolo:x")
    with pytest.raises(ValueError, match="--first-pixel is for the corners of voc:DIR"):
        reading(parsed("--first-pixel", "1"), "coco:x")


def test_a_run_remembers_how_its_files_are_read(tmp_path, capsys):
    data = three(tmp_path / "set")
    voc_picture(tmp_path / "set", "d", voc_object("cat", (1, 1, 9, 9)), seed=9)
    voc_split(tmp_path / "set", "test", "d")
    (tmp_path / "set" / "JPEGImages").rename(tmp_path / "far")
    more = ["--model", "ssd-tiny", "--budget", "ci", "--set", "size=64", "--set", "steps=1"]
    command = ["train", "--data", data, "--out", str(tmp_path / "run"), *more]
    assert cli.main(command) == 1
    assert "picture a is missing" in capsys.readouterr().err
    command += ["--pictures", str(tmp_path / "far"), "--first-pixel", "0"]
    assert cli.main(command) == 0
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0
    assert cli.main([*command[:-1], "1"]) == 1
    assert "of another reading" in capsys.readouterr().err
    assert cli.main(["data", "check", data, *command[-4:]]) == 0
    assert re.search(r"train\s+test", capsys.readouterr().out)
