"""The reader of YOLO's text form: lines, label files, and the habits of laying a data set out."""

import json
from pathlib import Path

import pytest
from tiny_data import picture

from lesson_lib.data.annotated import require_objects
from lesson_lib.data.catalog import open_dataset
from lesson_lib.data.inspect import inspect_dataset
from lesson_lib.data.yolo import YoloFolder, read_labels, yolo_splits, yolo_to_coco
from lesson_lib.data.yolo_layout import find_layout, label_file, locate

LINE = "1 0.5 0.5 0.2 0.4\n"  # of a 20x10 picture: 8, 3 to 12, 7


def one(root: Path, text: str | bytes | None, yaml: str = "names: [cat, dog]\n") -> YoloFolder:
    """images/a.png of 20x10 px, and its label file."""
    picture(root / "images" / "a.png")
    (root / "labels").mkdir(exist_ok=True)
    if text is not None:
        data = text if isinstance(text, bytes) else text.encode()
        (root / "labels" / "a.txt").write_bytes(data)
    (root / "data.yaml").write_text(yaml)
    return YoloFolder(root, "all")


def told(data: YoloFolder) -> list[tuple[str, str]]:
    return [(p.kind, str(p)) for p in data.problems]


@pytest.mark.parametrize(
    "text, boxes",
    [
        (LINE, [[8, 3, 12, 7]]),
        ("1 0.5 0.5 0.2 0.4 0.93\n", [[8, 3, 12, 7]]),
        ("1 0.4 0.3 0.6 0.3 0.6 0.7 0.4 0.7", [[8, 3, 12, 7]]),
        ("1 0.4 0.3 0.6 0.5 0.5 0.7", [[8, 3, 12, 7]]),
        ("1.0 5e-1 .5 0.2 0.4", [[8, 3, 12, 7]]),
        ("\n  \r\n1\t0.5  0.5 0.2 0.4\r\n\n", [[8, 3, 12, 7]]),
        ("# class cx cy w h\n" + LINE + LINE, [[8, 3, 12, 7], [8, 3, 12, 7]]),
        (b"\xef\xbb\xbf" + LINE.encode(), [[8, 3, 12, 7]]),
        (LINE.encode("utf-16"), [[8, 3, 12, 7]]),
        ("", []),
    ],
)
def test_lines_that_are_read(tmp_path, text, boxes):
    data = one(tmp_path, text)
    assert data.classes == ("cat", "dog") and told(data) == []
    assert data[0].boxes.tolist() == [pytest.approx(box, abs=1e-5) for box in boxes]
    assert data[0].labels.tolist() == [1] * len(boxes)


@pytest.mark.parametrize(
    "line, kind, words",
    [
        ("0 0,5 0,5 0,2 0,4", "broken line", "'0,5', which is no number; write a decimal point"),
        ("0 0.5 0.5 x 0.4", "broken line", "'x', which is no number; left out"),
        ("0 0.5 nan 0.2 0.4", "broken line", "'nan', which is no number"),
        ("0 0.5 0.5 0.2", "broken line", "has 4 columns"),
        ("0 0.5 0.5 0.2 0.4 0.9 0.1 0.3", "broken line", "has 8 columns"),
        ("0", "broken line", "has 1 columns"),
        ("2 0.5 0.5 0.2 0.4", "unknown class", "has class number 2, and there are 0 to 1"),
        ("-1 0.5 0.5 0.2 0.4", "unknown class", "has class number -1"),
        ("0.5 0.5 0.5 0.2 0.4", "unknown class", "has class number 0.5"),
        ("1e308 0.5 0.5 0.2 0.4", "unknown class", "has class number 1e308"),
        ("cat 0.5 0.5 0.2 0.4", "broken line", "'cat', which is no number"),
        ("0 8 3 12 7", "no share", "has 12, which is no share"),
        ("0 0.5 0.5 1e308 0.4", "no share", "has 1e+308"),
    ],
)
def test_a_line_that_is_none_is_told_with_file_and_line_and_the_others_stay(
    tmp_path, line, kind, words
):
    data = one(tmp_path, f"{LINE}\n{line}\n{LINE}")
    assert len(data.boxes(0)) == 2
    ((found, sentence),) = told(data)
    assert found == kind and sentence.startswith("labels/a.txt: line 3 has ") and words in sentence


@pytest.mark.parametrize(
    "line, box, kind",
    [
        ("0 0.1 0.1 0.4 0.4", [0, 0, 6, 3], "box across the border"),
        ("0 0.9 0.9 0.4 0.4", [14, 7, 20, 10], "box across the border"),
        ("0 1.5 0.5 0.2 0.2", None, "box outside"),
        ("0 0.5 0.5 0 0.2", None, "empty box"),
        ("0 0.5 0.5 -0.2 0.2", None, "empty box"),
    ],
)
def test_boxes_are_cut_at_the_border_by_their_corners(tmp_path, line, box, kind):
    data = one(tmp_path, line)
    assert data.boxes(0).tolist() == ([] if box is None else [pytest.approx(box, abs=1e-5)])
    assert [found for found, _ in told(data)] == [kind]


def test_label_files_that_are_missing_are_counted_and_files_that_are_no_text_told(tmp_path):
    for name in "bcd":
        picture(tmp_path / "images" / f"{name}.png", seed=ord(name))
    one(tmp_path, LINE)
    (tmp_path / "labels" / "b.txt").write_bytes(b"0 0.5 \xff\xfe0.5")
    (tmp_path / "labels" / "gone.txt").write_text(LINE)
    data = YoloFolder(tmp_path, "all")
    assert [entry.id for entry in data.entries] == ["a", "c", "d"]
    assert [p.file for p in data.remarks] == ["labels/c.txt", "labels/d.txt"]
    assert told(data) == [
        ("annotation unreadable", "labels/b.txt: cannot be read; picture left out."),
        ("labels of no picture", "labels/gone.txt: belongs to no picture; passed over."),
    ]
    report = inspect_dataset(f"yolo:{tmp_path}")
    assert len(report.remarks["picture without a label file"]) == 2
    assert report.counts == {"all": {"dog": 1}}
    assert report.problems.keys() == {"annotation unreadable", "labels of no picture"}


def test_a_set_without_any_label_file_is_told_where_they_should_be(tmp_path):
    data = one(tmp_path, None)
    words = "is missing, and no other picture of all has a label file; put them there."
    assert told(data) == [("no label files", f"labels/a.txt: {words}")]
    with pytest.raises(ValueError, match="has no objects, .* labels/a.txt: is missing"):
        require_objects(data, "yolo:x all")


def test_names_in_another_encoding(tmp_path):
    one(tmp_path, LINE)
    (tmp_path / "data.yaml").write_bytes("names: [\u732b, \u72d7]".encode("gb18030"))
    assert YoloFolder(tmp_path).classes == ("\u732b", "\u72d7")


def test_key_points_follow_their_box(tmp_path):
    yaml = "names: [cat, dog]\nkpt_shape: [1, 3]\n"
    data = one(tmp_path, "1 0.5 0.5 0.2 0.4 0.6 0.6 2\n", yaml)
    assert data.boxes(0).tolist() == [pytest.approx([8, 3, 12, 7], abs=1e-5)] and not told(data)


def parallel(root: Path, *splits: str) -> None:
    """images/SPLIT/sub/SPLIT.JPG and labels/SPLIT/sub/SPLIT.txt"""
    for k, split in enumerate(splits):
        picture(root / "images" / split / "sub" / f"{split}.JPG", seed=k)
        (root / "labels" / split / "sub").mkdir(parents=True)
        (root / "labels" / split / "sub" / f"{split}.txt").write_text(LINE)


def roboflow(root: Path, *splits: str) -> None:
    """SPLIT/images/SPLIT.png and SPLIT/labels/SPLIT.txt"""
    for k, split in enumerate(splits):
        picture(root / split / "images" / f"{split}.png", seed=k)
        (root / split / "labels").mkdir()
        (root / split / "labels" / f"{split}.txt").write_text(LINE)


def beside(root: Path, *splits: str) -> None:
    """SPLIT/SPLIT.png and SPLIT/SPLIT.txt"""
    for k, split in enumerate(splits):
        picture(root / split / f"{split}.png", seed=k)
        (root / split / f"{split}.txt").write_text(LINE)


NAMED = "names:\n  0: cat\n  1: dog\n"


@pytest.mark.parametrize(
    "lay, folders, files, ids",
    [
        (parallel, ("train", "val"), {"classes.txt": "cat\ndog\n"}, {"train": ["sub/train"]}),
        (parallel, ("train2017",), {"data.yaml": NAMED}, {"train": ["sub/train2017"]}),
        (
            parallel,
            ("train2017",),
            {"data.yaml": f"path: ../coco128\ntrain: images/train2017\nval: null\n{NAMED}"},
            {"train": ["sub/train2017"]},
        ),
        (
            roboflow,
            ("train", "valid"),
            {"data.yaml": f"train: ../train/images\nval: ../valid/images\n{NAMED}nc: 2\n"},
            {"train": ["train"], "val": ["valid"]},
        ),
        (
            roboflow,
            ("train", "valid"),
            {"data.yaml": "train: C:\\d\\train\\images\nval: valid\\images\nnames: ['cat', dog]"},
            {"train": ["train"], "val": ["valid"]},
        ),
        (
            roboflow,
            ("train", "test"),
            {"data.yml": f"train: /content/d/train/images\ntest: [test/images]\n{NAMED}"},
            {"train": ["train"], "test": ["test"]},
        ),
        (
            roboflow,
            ("train", "more", "val"),
            {"d.yaml": f"train: [train/images, more/images]\nval: val/images\n{NAMED}"},
            {"train": ["train", "more"], "val": ["val"]},
        ),
        (roboflow, ("train", "valid"), {"classes.txt": "cat\ndog"}, {"val": ["valid"]}),
        (beside, ("train", "valid"), {"train/_darknet.labels": "cat\ndog"}, {"val": ["valid"]}),
        (
            parallel,
            ("train", "val"),
            {"data.yaml": f"train: t.txt\n{NAMED}", "t.txt": "./images/train/sub/train.JPG\n"},
            {"train": ["sub/train"]},
        ),
        (
            beside,
            ("obj_train_data",),
            {
                "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n",
                "obj.names": "\ufeffcat\r\ndog\r\n",
                "train.txt": "data/obj_train_data/obj_train_data.png\n",
            },
            {"train": ["obj_train_data"]},
        ),
        (beside, (".",), {"classes.txt": "cat\ndog\n"}, None),
    ],
)
def test_habits_of_laying_out(tmp_path, lay, folders, files, ids):
    root = tmp_path / "coco128"
    if folders == (".",):
        picture(root / "a.png")
        (root / "a.txt").write_text(LINE)
        ids = {"all": ["a"]}
    else:
        lay(root, *folders)
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    assert set(ids) <= set(yolo_splits(root))
    for split, names in ids.items():
        data = open_dataset(f"yolo:{root}", split)
        assert [entry.id for entry in data.entries] == names
        assert data.classes == ("cat", "dog") and told(data) == [] and data.remarks == []
        assert all(target["labels"].tolist() == [1] for target in data.targets())
        assert data[0].boxes.tolist() == [pytest.approx([8, 3, 12, 7], abs=1e-5)]


def test_splits_together(tmp_path):
    parallel(tmp_path, "train", "val", "test")
    (tmp_path / "data.yaml").write_text(NAMED)
    ids = {
        split: [entry.id for entry in YoloFolder(tmp_path / "data.yaml", split).entries]
        for split in ("train", "trainval", "all")
    }
    assert ids == {
        "train": ["sub/train"],
        "trainval": ["sub/train", "sub/val"],
        "all": ["sub/train", "sub/val", "sub/test"],
    }
    same = "train: images/train\nval: images/train\n" + NAMED
    (tmp_path / "data.yaml").write_text(same)
    assert len(YoloFolder(tmp_path, "trainval")) == 1, "a picture of both is there once"


def test_a_set_without_splits_is_train_too_and_nothing_else(tmp_path):
    one(tmp_path, LINE)
    assert len(YoloFolder(tmp_path, "train")) == 1
    for split in ("test", "trainval"):
        with pytest.raises(ValueError, match=rf"has no split '{split}' \(there: all\)"):
            YoloFolder(tmp_path, split)


def test_classes_without_names_are_called_by_numbers_and_those_wanted_have_their_order(tmp_path):
    one(tmp_path, LINE + "3 0.5 0.5 0.2 0.4")
    (tmp_path / "data.yaml").unlink()
    assert YoloFolder(tmp_path).classes == ("0", "1", "2", "3")
    (tmp_path / "data.yaml").write_text("names:\ntrain: images")
    assert YoloFolder(tmp_path).classes == ("0", "1", "2", "3"), "names: is as good as not there"
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("cat\ndog\ncow\nfox\n")
    data = YoloFolder(tmp_path, classes=("dog", "cat"))
    assert data.classes == ("dog", "cat") and data[0].labels.tolist() == [0]
    assert [kind for kind, _ in told(data)] == ["unknown class"]


@pytest.mark.parametrize(
    "yaml, words",
    [
        ("names: [cat", "data.yaml is no YAML"),
        ("[" * 5000, "data.yaml is no YAML"),
        ("cat", "data.yaml describes no data set"),
        ("names: {0: cat, 2: dog}", "has no usable names"),
        ("names: .", "has no usable names"),
        ("names: [cat, [dog]]", "has no usable names"),
        ("names: &a [*a]", "data.yaml is no YAML"),
        ("names: [cat, cat]", "calls two classes 'cat'"),
        ("names: [cat, dog]\nnc: 3", r"says nc: 3 but has 2 names \(cat, dog\)"),
        ("names: [cat]\ntrain: {a: b}", "gives train as something else than a path"),
        ("names: [cat]\ntrain: nowhere/pics", "names 'nowhere/pics' as train, which is not there"),
        ("names: [cat]\nkpt_shape: 17", "kpt_shape"),
    ],
)
def test_a_data_yaml_that_is_wrong_is_told_in_a_sentence(tmp_path, yaml, words):
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "data.yaml").write_text(yaml)
    with pytest.raises(ValueError, match=words) as error:
        YoloFolder(tmp_path, "train")
    assert "data.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_class_called_no_stays_a_word(tmp_path):
    assert one(tmp_path, LINE, "names: [yes, no]").classes == ("yes", "no")


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone is not there; give a data.yaml"):
        YoloFolder(tmp_path / "gone")
    with pytest.raises(ValueError, match="split 'all', has no usable picture"):
        YoloFolder(tmp_path, "all")
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text("names: [cat]")
    with pytest.raises(ValueError, match=r"2 files .*\(a.yaml, b.yaml\); give one of them"):
        find_layout(tmp_path)


def test_pictures_that_cannot_be_read_or_are_missing_do_not_stop_the_others(tmp_path):
    one(tmp_path, LINE)
    (tmp_path / "images" / "b.JPG").write_bytes(b"no picture")
    (tmp_path / "images" / "._a.png").write_bytes(b"Mac OS X")
    (tmp_path / "list.txt").write_text("images/a.png\nimages/b.JPG\nimages/gone.png\n")
    (tmp_path / "data.yaml").write_text("train: list.txt\nnames: [cat, dog]\n")
    data = YoloFolder(tmp_path, "train")
    assert [entry.id for entry in data.entries] == ["a"]
    assert [kind for kind, _ in told(data)] == ["picture unreadable"] * 2
    assert "b.JPG" in told(data)[0][1] and "gone.png" in told(data)[1][1]


def test_the_label_file_of_a_picture(tmp_path):
    far = tmp_path / "images" / "set" / "images" / "a.b.jpg"
    assert label_file(far) == tmp_path / "images" / "set" / "labels" / "a.b.txt"
    for file in (
        tmp_path / "images" / "set" / "images" / "labels" / "a.b.txt",
        far.with_suffix(".txt"),
        tmp_path / "labels" / "set" / "images" / "a.b.txt",
        tmp_path / "images" / "set" / "labels" / "a.b.txt",
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
        assert label_file(far) == file, "each goes before the last"


def test_an_images_folder_alone_is_no_place(tmp_path):
    (tmp_path / "images").mkdir()
    assert locate("/content/valid/images", [tmp_path]) is None
    assert locate("images", [tmp_path]) == tmp_path / "images"
    assert locate("x" * 5000 + "\0", [tmp_path]) is None


def test_read_labels_gives_shares_uncut(tmp_path):
    (tmp_path / "a.txt").write_text("0 0 0 0.5 1")
    assert read_labels(tmp_path / "a.txt", 1) == ([(0, (-0.25, -0.5, 0.25, 0.5))], [])


def test_a_download_is_cut_and_its_endings_are_taken_in_any_case(tmp_path):
    for k, name in enumerate(("a.JPG", "b.png", "c_jpg.rf.0a.jpg")):
        picture(tmp_path / "raw" / "images" / name, seed=k)
    (tmp_path / "raw" / "labels").mkdir()
    (tmp_path / "raw" / "labels" / "a.txt").write_text("0 0.1 0.1 0.4 0.4 0.9\n")
    yolo_to_coco(tmp_path / "raw", tmp_path / "out", "train", ["cat"], None)
    tree = json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())
    assert [image["file_name"] for image in tree["images"]] == ["a.jpg", "b.png", "c.jpg"]
    assert [a["bbox"] for a in tree["annotations"]] == [[0, 0, 6, 3]]
    (tmp_path / "raw" / "labels" / "b.txt").write_text("7 0.1 0.1 0.4 0.4\n")
    with pytest.raises(ValueError, match="b.txt: line 1 has class number 7"):
        yolo_to_coco(tmp_path / "raw", tmp_path / "again", "train", ["cat"], None)
