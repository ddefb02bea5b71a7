"""The check of a data set: each thing that can be wrong is put into a folder and must be found
there.
"""

import shutil

import pytest
from PIL import Image
from tiny_data import (
    coco_file,
    picture,
    renamed_categories,
    voc_folder,
    voc_object,
    voc_picture,
    voc_split,
)

from lesson_lib.data.annotated import Annotated
from lesson_lib.data.inspect import inspect_dataset, open_splits

QUIET = {
    "picture without objects": ["test: c.png"],
    "class without objects": ["test: cat", "test: dog", "val: cat"],
}


def found(report) -> dict[str, list[str]]:
    return dict(report.problems)


def test_a_clean_folder(tmp_path):
    report = inspect_dataset(voc_folder(tmp_path))
    assert report.pictures == {"train": 1, "val": 1, "test": 1}
    assert report.counts == {"train": {"dog": 1, "cat": 1}, "val": {"dog": 1}, "test": {}}
    assert found(report) == {} and {kind: sorted(s) for kind, s in report.remarks.items()} == QUIET


def test_a_corrupt_and_a_missing_picture_do_not_stop_it(tmp_path):
    voc_folder(tmp_path)
    (tmp_path / "JPEGImages" / "a.png").write_bytes(b"no picture")
    (tmp_path / "JPEGImages" / "b.png").unlink()
    problems = found(inspect_dataset(tmp_path))
    assert problems.keys() == {"picture unreadable", "picture missing"}
    assert problems["picture unreadable"][0].startswith("train: The picture ") and "a.png" in str(
        problems
    )
    assert problems["picture missing"][0].startswith("val: ") and "b" in str(problems)


def test_boxes_that_are_no_boxes_and_annotations_that_are_none(tmp_path):
    voc_folder(tmp_path)
    voc_picture(
        tmp_path,
        "d",
        voc_object("cat", (5, 5, 5, 5))
        + voc_object("cat", (30, 1, 40, 9))
        + voc_object("cat", (3, 3, 30, 9))
        + voc_object("cat", ("x", 3, 30, 9)),
        seed=4,
    )
    (tmp_path / "Annotations" / "e.xml").write_text("<")
    voc_split(tmp_path, "train", "a", "d", "e", "gone")
    assert found(inspect_dataset(tmp_path)) == {
        "empty box": [
            "train: Annotations/d.xml: object 1 (cat: 5, 5, 5, 5) has no area; left out."
        ],
        "box outside": [
            "train: Annotations/d.xml: object 2 (cat: 30, 1, 40, 9) lies outside the 20x10 "
            "picture; left out."
        ],
        "box across the border": [
            "train: Annotations/d.xml: object 3 (cat: 3, 3, 30, 9) leaves the 20x10 "
            "picture; cut there."
        ],
        "broken box": [
            "train: Annotations/d.xml: object 4 (cat: nan, 3, 30, 9) has a corner that is no "
            "number; left out."
        ],
        "annotation unreadable": [
            "train: Annotations/e.xml: is unreadable (no XML: unclosed token: line 1, column 0); "
            "picture left out."
        ],
        "annotation missing": ["train: Annotations/gone.xml: is missing; picture left out."],
    }


def test_unknown_classes_in_voc_and_in_coco(tmp_path):
    voc_folder(tmp_path / "voc")
    assert found(inspect_dataset(f"voc:{tmp_path / 'voc'}", ["dog"])) == {
        "unknown class": [
            "train: Annotations/a.xml: object 2 (cat: 1, 1, 20, 10) is of no known class; left out."
        ]
    }
    coco_file(tmp_path / "coco")
    assert found(inspect_dataset(tmp_path / "coco", ["bus", "fox"])) == {
        "unknown class": [
            "train: train0.png: object 1 (cup: 1, 2, 4, 6) is of no known class; left out."
        ]
    }


def test_a_picture_of_another_size(tmp_path):
    voc_folder(tmp_path)
    picture(tmp_path / "JPEGImages" / "b.png", 30, 15)
    assert found(inspect_dataset(tmp_path)) == {
        "picture of another size": ["val: b.png is 30x15, annotated as 20x10"]
    }


def test_the_same_pixels_in_two_splits_whatever_the_file(tmp_path):
    voc_folder(tmp_path)
    picture(tmp_path / "JPEGImages" / "c.png", seed=1, compress_level=1)  # as a.png, other bytes
    a, c = ((tmp_path / "JPEGImages" / f"{name}.png").read_bytes() for name in "ac")
    assert a != c
    report = inspect_dataset(tmp_path)
    assert found(report) == {"same picture in two splits": ["train: a.png = test: c.png"]}
    assert "nearly the same picture in two splits" not in report.remarks


def test_the_same_picture_twice_in_a_split(tmp_path):
    voc_folder(tmp_path)
    voc_picture(tmp_path, "d", seed=1)
    voc_split(tmp_path, "train", "a", "d")
    assert found(inspect_dataset(tmp_path)) == {
        "same picture twice": ["train: a.png = train: d.png"]
    }


def test_nearly_the_same_picture_in_two_splits_is_a_remark(tmp_path):
    voc_folder(tmp_path)
    for name, quality in (("a", 95), ("b", 60), ("c", 95)):
        picture(tmp_path / "JPEGImages" / f"{name}.png", 20, 10, seed=name == "c")
        (tmp_path / "JPEGImages" / f"{name}.png").unlink()
        picture(tmp_path / "JPEGImages" / f"{name}.jpg", 20, 10, seed=name == "c", quality=quality)
    report = inspect_dataset(tmp_path)
    assert found(report) == {}
    voc_split(tmp_path, "train", "a", "b")
    voc_split(tmp_path, "val", "c")
    assert "nearly the same picture in two splits" not in inspect_dataset(tmp_path).remarks
    alike = report.remarks["nearly the same picture in two splits"]
    assert [sentence[:27] for sentence in alike] == ["train: a.jpg ~ val: b.jpg ("]


def test_flat_pictures_are_not_alike(tmp_path):
    from PIL import Image

    voc_folder(tmp_path)
    for k, name in enumerate("abc"):
        Image.new("RGB", (20, 10), (50 * k, 50 * k, 50 * k)).save(
            tmp_path / "JPEGImages" / f"{name}.png"
        )
    assert "nearly the same picture in two splits" not in inspect_dataset(tmp_path).remarks


def test_remarks_on_boxes_classes_and_files(tmp_path):
    voc_folder(tmp_path)
    for k in range(10):
        dog, rat = (
            voc_object("dog", (1, 1, 15, 10)) * (k > 0),
            voc_object("rat", (1, 1, 5, 5)) * (k > 2),
        )
        voc_picture(tmp_path, f"d{k}", dog + rat + voc_object("cat", (2, 2, 16, 10)), seed=10 + k)
    (tmp_path / "JPEGImages" / "notes.txt").write_text("no picture")
    voc_picture(
        tmp_path,
        "e",
        voc_object("dog", (1, 1, 20, 10)) + voc_object("dog", (1, 1, 19, 10)),
        seed=30,
    )
    voc_split(tmp_path, "train", *(f"d{k}" for k in range(10)))
    voc_split(tmp_path, "val", "e")
    remarks = inspect_dataset(tmp_path).remarks
    assert remarks["usual class absent"] == ["train: d0.png: no dog"]
    assert remarks["nearly the same box twice"] == [
        "val: e.png: dog [0.0, 0.0, 20.0, 10.0] and dog [0.0, 0.0, 19.0, 10.0]"
    ]
    assert [s.rpartition("/")[2] for s in remarks["picture of no split"]] == ["a.png", "b.png"]


def test_pictures_in_subfolders_are_told_apart(tmp_path):
    coco_file(
        tmp_path,
        images=[
            {"id": 10, "file_name": "x/1.png", "width": 20, "height": 10},
            {"id": 11, "file_name": "y/1.png", "width": 20, "height": 10},
        ],
    )
    for folder in "xy":
        picture(tmp_path / "images" / "train" / folder / "1.png", seed=5)
    assert found(inspect_dataset(tmp_path)) == {
        "same picture twice": ["train: x/1.png = train: y/1.png"]
    }


def test_all_pictures_corrupt(tmp_path):
    voc_folder(tmp_path)
    for name in "abc":
        (tmp_path / "JPEGImages" / f"{name}.png").write_bytes(b"")
    assert len(found(inspect_dataset(tmp_path))["picture unreadable"]) == 3


def test_which_splits_are_opened(tmp_path):
    voc_split(voc_folder(tmp_path / "voc"), "trainval", "a", "b")
    assert list(open_splits(str(tmp_path / "voc"))) == ["train", "val", "test"]
    (tmp_path / "voc" / "ImageSets" / "Main" / "val.txt").unlink()
    assert list(open_splits(f"voc:{tmp_path / 'voc'}")) == ["train", "trainval", "test"]
    shutil.rmtree(tmp_path / "voc" / "ImageSets")
    assert {name: len(data) for name, data in open_splits(str(tmp_path / "voc")).items()} == {
        "all": 3
    }
    for split in ("train", "val"):
        file = coco_file(tmp_path / "coco", split)
    for what in (f"coco:{tmp_path / 'coco'}", str(tmp_path / "coco")):
        assert list(open_splits(what)) == ["train", "val"]
    assert list(open_splits(f"coco:{file}")) == ["val"]


def test_open_splits_can_be_given(tmp_path):
    report = inspect_dataset({"mine": open_splits(f"voc:{voc_folder(tmp_path)}")["train"]})
    assert report.pictures == {"mine": 1} and report.name == "data set"
    assert inspect_dataset({"none": Annotated(["cat"])}).pictures == {"none": 0}


@pytest.mark.parametrize(
    "what, sentence", [("bcd", "did you mean 'bccd'"), ("smears", "drawn by this")]
)
def test_what_is_no_data_set(what, sentence):
    with pytest.raises(ValueError, match=sentence):
        inspect_dataset(what)


def test_the_text_of_a_report(tmp_path):
    voc_folder(tmp_path)
    voc_picture(tmp_path, "d", voc_object("dog", (5, 5, 5, 5)) * 12, seed=9)
    voc_split(tmp_path, "val", "b", "d")
    report = inspect_dataset(tmp_path)
    lines = str(report).splitlines()
    assert lines[1:5] == [
        "              train      val     test",
        "  pictures        1        2        1",
        "  cat             1        0        0",
        "  dog             1        1        0",
    ]
    assert "12 problems" in lines and "  empty box: 12" in lines and "    ... and 2 more" in lines
    assert len([line for line in lines if "has no area" in line]) == 10
    assert len([line for line in report.text(None).splitlines() if "has no area" in line]) == 12
    assert "no problems" in str(inspect_dataset({"train": open_splits(str(tmp_path))["train"]}))
    voc_picture(tmp_path, "d", voc_object("dog", (5, 5, 5, 5)), seed=9)
    assert "1 problem" in str(inspect_dataset(tmp_path)).splitlines()


def test_bccd_as_its_card_says(real_datasets):
    real_datasets("bccd")
    report = inspect_dataset("bccd")
    assert {kind: len(s) for kind, s in report.problems.items()} == {"empty box": 2}
    assert {kind: len(s) for kind, s in report.remarks.items()} == {
        "nearly the same box twice": 7,
        "usual class absent": 21,
        "nearly the same picture in two splits": 1,
    }
    assert report.counts["train"] == {"RBC": 2381, "WBC": 214, "Platelets": 209}


def test_aquarium_as_its_card_says(real_datasets):
    real_datasets("aquarium")
    report = inspect_dataset("aquarium")
    assert found(report) == {} and {kind: len(s) for kind, s in report.remarks.items()} == {
        "picture without objects": 1,
        "nearly the same picture in two splits": 8,
    }


def voc_boxes(root):
    voc_picture(root, "a", voc_object("cat", (1, 1, 9, 9)))
    voc_picture(root, "b", voc_object("cat", (2, 2, 9, 9)), seed=1)
    return root


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_no_object_to_learn_is_a_problem(tmp_path, form):
    if form == "voc":
        voc_picture(tmp_path, "a")
        what = f"voc:{tmp_path}"
    else:
        what = f"coco:{coco_file(tmp_path, annotations=[])}"
    assert "there is nothing to learn" in found(inspect_dataset(what))["no objects"][0]


def test_a_broken_split_does_not_stop_the_others(tmp_path):
    for split in ("train", "val"):
        coco_file(tmp_path, split)
    (tmp_path / "annotations" / "val.json").write_text("{")
    report = inspect_dataset(f"coco:{tmp_path}")
    assert report.pictures == {"train": 2, "val": 0} and report.counts["train"]["cup"] == 1
    assert list(report.problems) == ["split unreadable"]
    assert "val.json is no JSON" in report.problems["split unreadable"][0]
    (tmp_path / "annotations" / "train.json").write_text("{")
    with pytest.raises(ValueError, match="train.json is no JSON"):
        inspect_dataset(f"coco:{tmp_path}")


def test_classes_of_other_splits(tmp_path):
    coco_file(tmp_path, "train")
    file = coco_file(tmp_path, "val", seed=5)
    renamed_categories(file, "cup", "fox", "bus")
    report = inspect_dataset(f"coco:{tmp_path}")
    assert found(report) == {}
    assert (
        "val has cup, fox, bus; train has bus, fox, cup"
        in (report.remarks["classes in another order"][0])
    )
    renamed_categories(file, "Fox", "fox", "bus")
    report = inspect_dataset(f"coco:{tmp_path}")
    assert "val has Fox, which train has not" in found(report)["classes of another split"][0]
    assert report.remarks["classes that differ in case only"] == ["Fox, fox"]


@pytest.mark.parametrize("orientation", [2, 3, 6])
@pytest.mark.parametrize("size", ["", None])
def test_pictures_that_exif_turns_are_pointed_out_where_no_size_proves_the_boxes(
    tmp_path, orientation, size
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    voc_picture(tmp_path, "a", voc_object("cat", (1, 1, 9, 9)), 16, 16, size=size)
    picture(tmp_path / "JPEGImages" / "a.png", 16, 16, exif=exif)
    remarks = inspect_dataset(tmp_path).remarks
    assert f"EXIF orientation {orientation}" in remarks["picture turned by EXIF"][0]


def test_an_annotation_of_the_picture_before_it_was_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    voc_picture(tmp_path, "a", voc_object("cat", (1, 1, 9, 9)))
    picture(tmp_path / "JPEGImages" / "a.png", exif=exif)
    told = found(inspect_dataset(tmp_path))["picture of another size"]
    assert told == [
        "all: a.png is 10x20, annotated as 20x10 before its EXIF orientation 6 is applied"
    ]


def test_options_of_the_reader(tmp_path):
    voc_boxes(tmp_path / "set")
    (tmp_path / "set" / "JPEGImages").rename(tmp_path / "far")
    report = inspect_dataset(f"voc:{tmp_path / 'set'}", pictures=tmp_path / "far", one_based=False)
    assert report.pictures == {"all": 2} and found(report) == {}


@pytest.mark.parametrize(
    "pattern",
    [
        "{split}/_annotations.coco.json",
        "annotations/instances_{split}2017.json",
        "annotations/instances_{split}.json",
        "{split}.json",
    ],
)
def test_layouts_of_coco(tmp_path, pattern):
    for split, seed in (("train", 0), ("val", 5)):
        file = coco_file(tmp_path, split, seed=seed)
        name = "valid" if split == "val" and "/_" in pattern else split
        new = tmp_path / pattern.replace("{split}", name)
        new.parent.mkdir(exist_ok=True)
        file.rename(new)
        (tmp_path / "images" / split).rename(tmp_path / "images" / new.stem)
        if "/_" in pattern:
            (tmp_path / "images" / new.stem).rename(new.parent / "data")
    assert inspect_dataset(f"coco:{tmp_path}").pictures == {"train": 2, "val": 2}
    whole = inspect_dataset(f"coco:{tmp_path / pattern}")
    assert set(whole.pictures.values()) == {2} and found(whole) == {}
