"""Odd files by the command line: none ends in a traceback, none is passed over in silence."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as masks
from tiny_data import coco_file, picture, voc_object

from lesson_lib.cli import main
from lesson_lib.data.coco import CocoJson, mask_box, run_lengths
from lesson_lib.data.inspect import open_splits
from lesson_lib.data.yolo import YoloFolder


def check(what: str, capsys) -> tuple[int, str]:
    """Exit status of `data check` and all that it said."""
    code = main(["data", "check", what])
    said = capsys.readouterr()
    return code, said.out + said.err


def found(out: Path) -> dict:
    return json.loads((out / "predictions.json").read_text())


# ---- pictures ----


def kinds(folder: Path) -> tuple[set[str], set[str]]:
    """Pictures of many kinds in `folder`: the names of those that can be used, and of others."""
    drawn = Image.fromarray(picture(folder / "plain.png", 40, 30))
    drawn.convert("CMYK").save(folder / "cmyk.jpg")
    drawn.convert("P").save(folder / "palette.png", transparency=3)
    drawn.convert("LA").save(folder / "grey_alpha.png")
    drawn.convert("1").save(folder / "bits.png")
    drawn.convert("YCbCr").save(folder / "ycbcr.jpg")
    drawn.save(folder / "a.gif")
    more = [Image.fromarray(picture(folder / "other.png", 40, 30, seed=1))]
    drawn.save(folder / "moving.webp", save_all=True, append_images=more)
    drawn.save(folder / "pages.tif", save_all=True, append_images=more)
    turned = Image.Exif()
    turned[0x0112] = 6
    drawn.save(folder / "turned.jpg", exif=turned)
    Image.new("RGB", (1, 1), "red").save(folder / "pixel.png")
    Image.new("RGB", (20000, 20), "blue").save(folder / "wide.png")
    Image.new("RGB", (20, 20000), "blue").save(folder / "high.png")
    good = {file.stem for file in folder.iterdir()}
    levels = np.random.default_rng(0).integers(0, 2**16, (30, 40), dtype=np.uint16)
    Image.fromarray(levels).save(folder / "sixteen.png")
    Image.new("F", (40, 30)).save(folder / "floats.tif")
    (folder / "empty.jpg").touch()
    return good, {file.stem for file in folder.iterdir()} - good


def test_predict_looks_at_pictures_of_every_kind_and_names_the_others(tmp_path, capsys):
    good, bad = kinds(tmp_path / "in")
    out = tmp_path / "out"
    assert main(["predict", "ssd-tiny-bccd", str(tmp_path / "in"), "--out", str(out)]) == 1
    said = capsys.readouterr()
    named = {Path(row["file_name"]).stem for row in found(out)["images"]}
    assert named == good and f"in {len(good)} pictures" in said.out
    assert all(f"{name}." in said.err for name in bad) and "Traceback" not in said.err
    sizes = {Path(r["file_name"]).stem: (r["width"], r["height"]) for r in found(out)["images"]}
    assert sizes["turned"] == (30, 40) and sizes["wide"] == (20000, 20)  # upright


@pytest.mark.parametrize("stored", ["1", "0"])
def test_train_learns_from_them_with_every_augmentation(tmp_path, capsys, stored):
    good, bad = kinds(tmp_path / "images" / "train")
    rows, things = [], []
    for number, file in enumerate(sorted((tmp_path / "images" / "train").iterdir())):
        width, height = 40, 30
        if file.stem != "empty":
            with Image.open(file) as opened:
                width, height = opened.size
        if file.stem == "turned":
            width, height = height, width
        box = [0, 0, width, height]
        rows.append({"id": number, "file_name": file.name, "width": width, "height": height})
        things.append({"id": number, "image_id": number, "category_id": 1, "bbox": box})
    file = tmp_path / "annotations" / "train.json"
    file.parent.mkdir()
    tree = {"images": rows, "annotations": things, "categories": [{"id": 1, "name": "x"}]}
    file.write_text(json.dumps(tree))
    settings = ["steps=8", "batch=4", "size=64", "augment=ssd", "workers=0", f"stored={stored}"]
    command = ["train", "--data", f"coco:{file}", "--model", "ssd-tiny", "--budget", "ci"]
    command += [f"--set={setting}" for setting in settings]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert f"{len(bad)} of {len(good) + len(bad)} pictures and {len(bad)} objects are left" in said


def test_links_that_lead_back_or_nowhere_cost_no_picture(tmp_path, capsys):
    picture(tmp_path / "in" / "a.png")
    deep = tmp_path / "in" / "/".join(["abcdefgh"] * 40)
    picture(deep / "b.png")
    for name, target in (("up", tmp_path / "in"), ("self.png", "self.png"), ("gone.png", "no")):
        (tmp_path / "in" / name).symlink_to(target)
    out = tmp_path / "out"
    assert main(["predict", "ssd-tiny-bccd", str(tmp_path / "in"), "--out", str(out)]) == 1
    names = [row["file_name"] for row in found(out)["images"]]
    assert sorted(Path(name).name for name in names) == ["a.png", "b.png"]
    said = capsys.readouterr().err
    assert "self.png is missing" in said and "gone.png is missing" in said


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows keeps no such folder")
def test_where_nothing_can_be_written_is_said_in_a_sentence(tmp_path, capsys):
    picture(tmp_path / "a.png")
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        small = ["--budget", "ci", "--set=steps=1", "--set=size=64", "--set=batch=2"]
        for command in (
            ["predict", "ssd-tiny-bccd", str(tmp_path / "a.png")],
            ["train", "--data", "smears", *small],
            ["data", "convert", f"coco:{coco_file(tmp_path / 'coco')}", "--to", "voc"],
        ):
            assert main([*command, "--out", str(out)]) == 1
            said = capsys.readouterr().err
            assert str(out) in said and "Traceback" not in said and "Error" not in said


# ---- annotations ----


def test_endings_ids_and_numbers_as_somebody_typed_them(tmp_path, capsys):
    """File names in capitals, ids and numbers as text."""
    rows = [
        {"id": "10", "file_name": "TRAIN0.PNG", "width": "20", "height": "10"},
        {"id": "11", "file_name": "Train1.JPG", "width": "20", "height": "10"},
    ]
    thing = {"id": "1", "image_id": 10, "category_id": "7", "iscrowd": "0", "area": "12"}
    categories = [{"id": 7, "name": "fox"}]
    things = [thing | {"bbox": ["1", "2", 3, "4"]}]
    file = coco_file(tmp_path, images=rows, annotations=things, categories=categories)
    assert check(f"coco:{file}", capsys)[0] == 0
    data = CocoJson(file)
    assert data.boxes(0).tolist() == [[1, 2, 4, 6]] and len(data) == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_json_in_other_encodings(encoding, tmp_path, capsys):
    file = coco_file(tmp_path)
    text = file.read_text()
    file.write_bytes((b"\xfe\xff" if encoding == "utf-16-be" else b"") + text.encode(encoding))
    assert "no problems" in check(f"coco:{file}", capsys)[1]


def test_xml_in_latin_1(tmp_path, capsys):
    picture(tmp_path / "JPEGImages" / "é.png")
    (tmp_path / "Annotations").mkdir()
    size = "<size><width>20</width><height>10</height></size>"
    text = f"<annotation>{size}{voc_object('vélo', (1, 1, 9, 9))}</annotation>"
    declared = '<?xml version="1.0" encoding="ISO-8859-1"?>' + text
    (tmp_path / "Annotations" / "é.xml").write_bytes(declared.encode("latin-1"))
    code, said = check(f"voc:{tmp_path}", capsys)
    assert code == 0 and "vélo" in said


def outline(shape: dict | list) -> dict:
    return {"id": 1, "image_id": 10, "category_id": 20, "segmentation": shape}


def test_polygons_and_masks_without_a_bbox(tmp_path, capsys):
    """As run lengths, plain and compressed, and as polygons: the box around each."""
    drawn = np.zeros((10, 20), np.uint8, order="F")
    drawn[3:7, 5:16] = 1
    packed = masks.encode(drawn)["counts"].decode()
    plain = [5 * 10 + 3, *[4, 6] * 10, 4, 4 * 10 + 3]
    for number, shape in enumerate(
        (
            {"size": [10, 20], "counts": packed},
            {"size": [10, 20], "counts": plain},
            [[5, 3, 16, 3, 16, 7, 5, 7]],
        )
    ):
        file = coco_file(tmp_path / str(number), annotations=[outline(shape)])
        assert CocoJson(file).boxes(0).tolist() == [[5, 3, 16, 7]]
        assert check(f"coco:{file}", capsys)[0] == 0


def test_boxes_of_masks_are_pycocotools_own():
    chance = np.random.default_rng(0)
    for number in range(200):
        height, width = chance.integers(1, 50, 2)
        drawn = np.zeros((height, width), np.uint8, order="F")
        y, x = chance.integers(0, height), chance.integers(0, width)
        drawn[y : y + chance.integers(1, 40), x : x + chance.integers(1, 40)] = 1
        if number % 2:
            drawn &= chance.integers(0, 2, drawn.shape, dtype=np.uint8)
        packed = masks.encode(np.asfortranarray(drawn))
        left, top, wide, high = masks.toBbox(packed)
        box = mask_box({"size": [int(height), int(width)], "counts": packed["counts"].decode()})
        assert box == ((left, top, left + wide, top + high) if drawn.any() else None)


@pytest.mark.parametrize(
    "shape",
    [
        *({"size": [10, 20], "counts": text} for text in ("", "o" * 5000, "~~", "é", "0")),
        *({"size": [10, 20], "counts": runs} for runs in ([], [200], [-5, 205], ["x"], [1e99])),
        *({"size": size, "counts": [0, 200]} for size in ([10], [0, 0], ["a", 2], None, [1e400])),
        *({"counts": [0, 200]}, {"size": [10, 20]}, {}, {"size": [10, 20], "counts": {}}),
    ],
)
def test_what_is_no_mask_is_no_box(shape, tmp_path, capsys):
    assert mask_box(shape) is None
    file = coco_file(tmp_path, annotations=[outline(shape)])
    code, said = check(f"coco:{file}", capsys)
    assert code == 1 and "broken box: 1" in said


def test_compressed_run_lengths_are_read_in_a_moment():
    assert run_lengths("o" * 10**6) is None and run_lengths("00") == [0, 0]


def test_two_classes_of_one_name_are_refused(tmp_path, capsys):
    twice = [{"id": 20, "name": "cup"}, {"id": 3, "name": "cup"}]
    code, said = check(f"coco:{coco_file(tmp_path, categories=twice)}", capsys)
    assert code == 1 and "make them differ" in said


@pytest.mark.parametrize("line", ["/", "//", ".", ".."])
def test_a_line_that_names_no_file_costs_no_picture(line, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    picture(tmp_path / "images" / "a.png", 40, 30)
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (tmp_path / "train.txt").write_text(f"images/a.png\n{line}\n")
    (tmp_path / "data.yaml").write_text("names: [cell]\ntrain: train.txt\n")
    code, said = check(f"yolo:{tmp_path}", capsys)
    assert code == 1 and "Traceback" not in said
    assert "Left out." in said and str(tmp_path) in said
    data = open_splits(f"yolo:{tmp_path}")["train"]
    assert [len(target["boxes"]) for target in data.targets()][:1] == [1]


def test_a_list_from_windows_finds_its_pictures(tmp_path, capsys):
    """Its path, its slashes, its line ends and byte order marks; names in capitals, as one writes
    there; and a comma for a point, which is told.
    """
    for k in range(3):
        picture(tmp_path / "images" / "train" / f"p{k}.png", seed=k)
        label = tmp_path / "labels" / "train" / f"p{k}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_bytes(b"\xef\xbb\xbf0 .26 .34 .31 .43\r\n1 0.68\t0.59 .3 .5\r\n")
    label.write_bytes(b"0 0,5 0,5 0,2 0,2\r\n")
    lines = "".join(f"C:\\data\\set\\images\\train\\P{k}.PNG\r\n" for k in range(3))
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    about = "path: C:\\data\\set\ntrain: train.txt\nval: images\\train\nnames: [cat, dog]\n"
    (tmp_path / "data.yaml").write_text(about)
    for split in ("train", "val"):
        data = open_splits(f"yolo:{tmp_path}")[split]
        assert [len(target["boxes"]) for target in data.targets()] == [2, 2, 0]
    code, said = check(f"yolo:{tmp_path}", capsys)
    assert code == 1 and "write a decimal point instead of the comma" in said


@pytest.mark.parametrize("text", ["", "[]", "null", "7", '{"images": []}', "{", "\x00"])
def test_json_that_holds_nothing(text, tmp_path, capsys):
    (tmp_path / "a.json").write_text(text)
    command = ["train", "--data", f"coco:{tmp_path / 'a.json'}", "--out", str(tmp_path / "run")]
    assert main(command) == 1
    assert "a.json" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "names: 5\ntrain: 7", "names: [a]\ntrain: nowhere", "- a"])
def test_yaml_that_holds_nothing(text, tmp_path, capsys):
    (tmp_path / "data.yaml").write_text(text)
    code, said = check(f"yolo:{tmp_path}", capsys)
    assert code == 1 and "data.yaml" in said


def test_empty_folders(tmp_path, capsys):
    for what in (f"voc:{tmp_path}", f"yolo:{tmp_path}", f"coco:{tmp_path}", str(tmp_path)):
        code, said = check(what, capsys)
        assert code == 1 and str(tmp_path) in said
    assert main(["predict", "ssd-tiny-bccd", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "There is no picture in" in capsys.readouterr().err


def test_names_that_clash_in_every_way_get_a_drawing_each(tmp_path, capsys):
    for folder in ("a", "b", "a_b", "A"):
        for name in ("x.png", "x.jpg", "X.png", "predictions.json.png"):
            picture(tmp_path / "in" / folder / name)
    given = [str(tmp_path / "in"), str(tmp_path / "in" / "a" / "x.png"), str(tmp_path / "in")]
    assert main(["predict", "ssd-tiny-bccd", *given, "--out", str(tmp_path / "out")]) == 0
    files = {file.resolve() for file in (tmp_path / "in").rglob("*.*g")}
    assert len(found(tmp_path / "out")["images"]) == len(files)
    drawings = [file.name for file in (tmp_path / "out").iterdir() if file.suffix == ".png"]
    assert len(drawings) == len({name.casefold() for name in drawings}) == len(files)


def test_a_name_as_long_as_a_page_leaves_the_sentence_readable(tmp_path):
    """A number of 300 digits in a list of YOLO's names a picture that no disk can hold."""
    (tmp_path / "labels" / "train").mkdir(parents=True)
    name = "9" * 300
    (tmp_path / "train.txt").write_text(f"images/train/img{name}.png\n")
    (tmp_path / "data.yaml").write_text("train: train.txt\nnames: [cell]\n")
    with pytest.raises(ValueError) as raised:
        YoloFolder(tmp_path, "train")
    said = str(raised.value)
    assert "has no usable picture" in said and "\n" not in said and len(said) < 1000
    assert said.endswith("Left out.")
