"""From each form of annotations into each other: what both hold comes back, the rest is counted."""

import json
import os

import pytest
import torch
from pycocotools.coco import COCO
from tiny_data import coco_file, picture, voc_folder, voc_object, voc_picture, voc_split
from torchvision.datasets import VOCDetection

from lesson_lib.cli import main
from lesson_lib.data.convert import convert
from lesson_lib.data.inspect import open_splits

ODD = [[0.3, 0.7, 1999.9, 3.2], [1234.567, 1.1, 1300.891, 9.013], [0, 0, 2001, 11]]


def into(what: str, form: str, out) -> str:
    """The words for the data set that was written."""
    convert(open_splits(what), form, out)
    return f"{form}:{out}"


def assert_same(one: str, other: str, keys=("difficult", "crowd"), atol: float = 0.002) -> None:
    before, after = open_splits(one), open_splits(other)
    assert list(before) == list(after)
    for split, data in before.items():
        again = after[split]
        assert again.classes == data.classes and not again.problems
        ids = {entry.id: entry for entry in again.entries}
        assert ids.keys() == {entry.id for entry in data.entries}
        for entry in data.entries:
            found = ids[entry.id]
            assert found.path.read_bytes() == entry.path.read_bytes()
            assert found.path.suffix == entry.path.suffix and found.size == entry.size
            torch.testing.assert_close(
                found.target["boxes"], entry.target["boxes"], atol=atol, rtol=0
            )
            for key in ("labels", *keys):
                assert found.target[key].tolist() == entry.target[key].tolist(), key


@pytest.fixture
def voc(tmp_path) -> str:
    """Three splits, a difficult object, boxes with decimals, a picture without objects."""
    root = voc_folder(tmp_path / "voc")
    voc_picture(
        root,
        "d e.1",
        "".join(voc_object("ant", box) for box in [(1.25, 1, 2000.5, 3), (7.75, 2.5, 9, 11)]),
        2001,
        11,
        ending=".jpg",
    )
    voc_split(root, "train", "a", "d e.1")
    return f"voc:{root}"


@pytest.fixture
def coco(tmp_path) -> str:
    """Classes that are not in alphabetical order, a crowd, areas of masks, folders in names."""
    root = tmp_path / "coco"
    for k, split in enumerate(("train", "val")):
        coco_file(root, split, seed=10 * k)
    picture(root / "images" / "train" / "sub" / "x.jpg", 2001, 11, seed=5)
    file = root / "annotations" / "train.json"
    tree = json.loads(file.read_text())
    tree["images"].append({"id": 3, "file_name": "sub/x.jpg", "width": 2001, "height": 11})
    for k, (x1, y1, x2, y2) in enumerate(ODD):
        box = [x1, y1, x2 - x1, y2 - y1]
        row = {"id": 7 + k, "image_id": 3, "category_id": 3, "bbox": box, "area": 5.5 + k}
        tree["annotations"].append(row | {"iscrowd": 0})
    file.write_text(json.dumps(tree))
    return f"coco:{root}"


def test_voc_comes_back_from_coco_and_yolo(voc, tmp_path):
    there = into(voc, "coco", tmp_path / "there")
    assert_same(voc, into(there, "voc", tmp_path / "back"))
    there = into(voc, "yolo", tmp_path / "yolo")
    assert_same(voc, into(there, "voc", tmp_path / "again"), keys=("crowd",))


def test_coco_comes_back_from_voc_and_yolo_less_crowds_and_areas(coco, tmp_path):
    there = into(coco, "voc", tmp_path / "there")
    data = open_splits(into(there, "coco", tmp_path / "back"))["train"]
    assert data.classes == ("bus", "fox", "cup"), "not alphabetical"
    assert [entry.id for entry in data.entries] == ["train0", "train1", "sub_x"]
    torch.testing.assert_close(data.boxes(2), torch.tensor(ODD), atol=0.002, rtol=0)
    assert data.entries[0].target["difficult"].tolist() == [False, True], "the crowd"
    there = into(coco, "yolo", tmp_path / "yolo")
    data = open_splits(into(there, "coco", tmp_path / "again"))["train"]
    assert data.classes == ("bus", "fox", "cup")
    assert {entry.id for entry in data.entries} == {"train0", "train1", "sub/x"}
    boxes = {entry.id: entry.target["boxes"] for entry in data.entries}
    assert boxes["train0"].tolist() == [[1, 2, 4, 6]], "less the crowd"
    torch.testing.assert_close(boxes["sub/x"], torch.tensor(ODD), atol=0.002, rtol=0)


def test_coco_keeps_crowds_and_areas(coco, tmp_path):
    again = into(coco, "coco", tmp_path / "again")
    assert_same(coco, again)
    first = open_splits(again)["train"].entries[0].target
    assert first["crowd"].tolist() == [False, True] and first["area"].tolist() == [7.5, 9]


def test_yolo_comes_back_from_coco_and_voc(coco, tmp_path):
    yolo = into(coco, "yolo", tmp_path / "yolo")
    assert_same(yolo, into(into(yolo, "coco", tmp_path / "a"), "yolo", tmp_path / "b"))
    flat = into(into(yolo, "voc", tmp_path / "c"), "yolo", tmp_path / "d")
    assert [entry.id for entry in open_splits(flat)["train"].entries][0] == "sub_x"


def test_what_a_form_cannot_hold_is_counted(coco, voc, tmp_path):
    crowds = "crowd regions, left out: they would be taken for objects"
    lost = convert(open_splits(coco), "yolo", tmp_path / "1").lost
    assert +lost == {"areas of masks": 7, crowds: 2}
    lost = convert(open_splits(coco), "voc", tmp_path / "2").lost
    assert +lost == {"areas of masks": 7, "marks of crowds, now difficult objects": 2}
    assert +convert(open_splits(voc), "yolo", tmp_path / "3").lost == {
        "marks of difficult objects": 1
    }
    assert not +convert(open_splits(voc), "coco", tmp_path / "4").lost


def test_boxes_of_a_pixel_and_pictures_that_do_not_fit_are_left_out_and_counted(tmp_path):
    file = coco_file(tmp_path / "coco", pictures=4)
    tree = json.loads(file.read_text())
    tree["annotations"][0]["bbox"] = [1, 2, 0.5, 4]
    file.write_text(json.dumps(tree))
    picture(tmp_path / "coco" / "images" / "train" / "train2.png", 10, 20)
    (tmp_path / "coco" / "images" / "train" / "train3.png").write_bytes(b"")
    done = convert(open_splits(f"coco:{tmp_path / 'coco'}"), "voc", tmp_path / "voc")
    assert done.pictures == {"train": 2} and done.objects == {"train": 1}
    assert done.lost["objects of no more than a pixel's width or height, left out"] == 1
    assert done.lost["pictures of another size than annotated, left out"] == 1
    assert done.lost["pictures that are missing or cannot be read, left out"] == 1
    assert (tmp_path / "voc/ImageSets/Main/train.txt").read_text() == "train0\ntrain1\n"


def test_pycocotools_reads_the_coco_files(voc, tmp_path):
    into(voc, "coco", tmp_path / "out")
    coco = COCO(str(tmp_path / "out" / "annotations" / "train.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["ant", "cat", "dog"]
    rows = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert [(a["bbox"], a["area"], a["category_id"], a.get("ignore")) for a in rows] == [
        ([1, 2, 10, 7], 70, 3, 1),
        ([0, 0, 20, 10], 200, 2, None),
    ]
    ids = []
    for split in ("train", "val", "test"):
        tree = json.loads((tmp_path / "out" / "annotations" / f"{split}.json").read_text())
        ids += [image["id"] for image in tree["images"]]
    assert ids == [1, 2, 3, 4], "unlike in all splits"


def test_torchvision_reads_the_voc_folder(coco, tmp_path):
    into(coco, "voc", tmp_path / "VOCdevkit" / "VOC2012")
    for k, name in enumerate(("train0", "train1")):  # it wants JPEGs
        picture(tmp_path / "VOCdevkit/VOC2012/JPEGImages" / f"{name}.jpg", seed=k)
    data = VOCDetection(str(tmp_path), "2012", "train")
    image, target = data[2]
    assert image.size == (2001, 11) and target["annotation"]["filename"] == "sub_x.jpg"
    objects = target["annotation"]["object"]
    corners = [
        [float(o["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax")] for o in objects
    ]
    expected = [[x1 + 1, y1 + 1, x2, y2] for x1, y1, x2, y2 in ODD]
    assert corners == [pytest.approx(row, abs=0.001) for row in expected]
    assert [o["name"] for o in objects] == ["bus"] * 3


def test_names_that_clash_differ_afterwards(tmp_path):
    for k, name in enumerate(("a/x.png", "a/X.jpg", "b/x.png", "a_x.png")):
        picture(tmp_path / "coco/images/train" / name, seed=k)
    rows = [
        {"id": k, "file_name": name, "width": 20, "height": 10}
        for k, name in enumerate(("a/x.png", "a/X.jpg", "b/x.png", "a_x.png"))
    ]
    objects = [
        {"id": k, "image_id": k, "category_id": 1, "bbox": [k, 1, 3, 3], "area": 9, "iscrowd": 0}
        for k in range(4)
    ]
    categories = [{"id": 1, "name": "cat"}]
    tree = {"images": rows, "annotations": objects, "categories": categories}
    (tmp_path / "coco" / "annotations").mkdir()
    (tmp_path / "coco" / "annotations" / "train.json").write_text(json.dumps(tree))
    for form, names in (
        ("voc", {"a_x", "a_X_2", "b_x", "a_x_3"}),
        ("yolo", {"a/X_2", "a/x", "a_x", "b/x"}),
    ):
        data = open_splits(into(f"coco:{tmp_path / 'coco'}", form, tmp_path / form))["train"]
        assert {entry.id for entry in data.entries} == names
        left = {entry.id.lower(): float(entry.target["boxes"][0, 0]) for entry in data.entries}
        wanted = [left[name] for name in ("a/x", "a/x_2", "b/x", "a_x")] if form == "yolo" else None
        wanted = wanted or [left[name] for name in ("a_x", "a_x_2", "b_x", "a_x_3")]
        assert wanted == pytest.approx([0, 1, 2, 3], abs=1e-4), "each kept its own box"


@pytest.mark.parametrize(
    "names, form, found",
    [
        (["instances_train2017", "instances_val2017"], "coco", ["train", "val"]),
        (["valid", "train"], "voc", ["val", "train"]),
        (["all"], "yolo", ["train"]),
        (["labels"], "voc", ["train"]),
        (["trainval", "test"], "voc", ["trainval", "test"]),
        (["trainval", "test"], "yolo", ["train", "test"]),
        (["val", "valid"], "coco", ["val", "valid"]),
    ],
)
def test_splits_get_their_usual_names(voc, tmp_path, names, form, found):
    one = open_splits(voc)["val"]
    done = convert(dict.fromkeys(names, one), form, tmp_path / "out")
    assert list(done.pictures) == found and set(done.pictures.values()) == {1}


def test_links_share_the_file_and_copies_do_not(voc, tmp_path):
    for link in (True, False):
        convert(open_splits(voc), "yolo", tmp_path / str(link), link)
        file = tmp_path / str(link) / "images" / "train" / "a.png"
        assert os.path.samefile(file, tmp_path / "voc" / "JPEGImages" / "a.png") == link
    assert not list(tmp_path.rglob("*.part"))


def test_the_command_tells_what_it_wrote_and_what_it_lost(coco, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["data", "convert", coco, "--to", "yolo", "--out", out]) == 0
    said = capsys.readouterr().out
    assert "train: 3 pictures, 4 objects" in said and "val: 2 pictures, 1 objects" in said
    assert "not carried over: 2 crowd regions" in said and f"yolo:{out}" in said
    assert main(["data", "convert", coco, "--to", "voc", "--out", out]) == 1
    assert "is not empty; name a new folder" in capsys.readouterr().err
    assert main(["data", "convert", f"yolo:{out}", "--to", "yolo", "--out", f"{out}2"]) == 1
    assert "in yolo's form already" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no form 'x'; choose from coco, voc, yolo"):
        convert(open_splits(coco), "x", tmp_path / "x")


def test_problems_of_the_source_are_pointed_at(tmp_path, capsys):
    picture(tmp_path / "yolo" / "images" / "a.png")
    picture(tmp_path / "yolo" / "images" / "b.png", seed=1)
    (tmp_path / "yolo" / "labels").mkdir()
    (tmp_path / "yolo" / "labels" / "a.txt").write_text("0 0.1 0.1 0.4 0.4\n5 0 0 1 1\n")
    (tmp_path / "yolo" / "classes.txt").write_text("cat\n")
    what = f"yolo:{tmp_path / 'yolo'}"
    assert main(["data", "convert", what, "--to", "coco", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    for words in ("1 unknown class", "1 box across the border", "1 picture without a label file"):
        assert words in said
    assert f"`data check {what}` names them" in said


def test_a_split_that_cannot_be_opened_costs_no_other(tmp_path, capsys):
    picture(tmp_path / "yolo" / "images" / "train" / "a.png")
    (tmp_path / "yolo" / "labels" / "train").mkdir(parents=True)
    (tmp_path / "yolo" / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    yaml = tmp_path / "yolo" / "data.yaml"
    yaml.write_text("train: images/train\ntest: ../test/images\nnames: [cat]\n")
    command = ["data", "convert", f"yolo:{yaml}", "--to", "coco", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "train: 1 pictures, 1 objects" in said and "1 split unreadable" in said
    assert [f.name for f in (tmp_path / "out" / "annotations").iterdir()] == ["train.json"]
    (tmp_path / "yolo" / "images" / "train" / "a.png").write_bytes(b"")
    assert main([*command[:-1], str(tmp_path / "out2")]) == 1
    assert "test/images" in capsys.readouterr().err
    yaml.write_text("train: images/train\nnames: [cat]\n")
    assert main([*command[:-1], str(tmp_path / "out2")]) == 1
    said = capsys.readouterr().err
    assert "has no picture that can be used" in said and "a.png" in said


def test_a_class_that_cannot_be_written_is_refused(tmp_path):
    categories = [{"id": 20, "name": "a\x01b"}, {"id": 3, "name": "c"}, {"id": 7, "name": "d"}]
    file = coco_file(tmp_path, categories=categories)
    with pytest.raises(ValueError, match=r"The class 'a\\x01b' has no name that can be written"):
        convert(open_splits(f"coco:{file}"), "yolo", tmp_path / "out")


def test_corners_from_0_are_converted_as_what_they_are(tmp_path, capsys):
    outside = voc_object("ant", (90, 90, 95, 95))
    voc_picture(tmp_path / "voc", "a", voc_object("ant", (0, 2, 10, 8)) + outside)
    what, out = f"voc:{tmp_path / 'voc'}", str(tmp_path / "out")
    command = ["data", "convert", what, "--first-pixel", "0", "--to"]
    assert main([*command, "coco", "--out", out]) == 0
    assert f"`data check {what} --first-pixel 0` names them" in capsys.readouterr().out
    (data,) = open_splits(f"coco:{out}").values()
    assert data.boxes(0).tolist() == [[0, 2, 10, 8]]
    # Into VOC's own form too: the same boxes, now counted from 1.
    assert main([*command, "voc", "--out", f"{out}2"]) == 0
    (data,) = open_splits(f"voc:{out}2").values()
    assert data.boxes(0).tolist() == [[0, 2, 10, 8]]
    assert main(["data", "convert", what, "--to", "voc", "--out", f"{out}3"]) == 1
    assert "in voc's form already" in capsys.readouterr().err


def test_pictures_somewhere_else_are_converted_too(tmp_path, capsys):
    file = coco_file(tmp_path / "coco")
    (tmp_path / "coco" / "images" / "train").rename(tmp_path / "elsewhere")
    command = ["data", "convert", f"coco:{file}", "--to", "yolo", "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "name the folder of the pictures with --pictures DIR" in capsys.readouterr().err
    assert main([*command, "--pictures", str(tmp_path / "elsewhere")]) == 0
    assert "train: 2 pictures, 1 objects" in capsys.readouterr().out
    yolo = ["data", "convert", f"yolo:{tmp_path / 'out'}", "--to", "coco", "--out", str(tmp_path)]
    assert main([*yolo, "--pictures", str(tmp_path)]) == 1
    assert "--pictures is for voc:DIR and coco:FILE" in capsys.readouterr().err
