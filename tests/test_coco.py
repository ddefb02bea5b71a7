"""The reader of COCO's JSON."""

import json

import pytest
from tiny_data import coco_file, picture

from lesson_lib.data.coco import CocoJson

BOX = {"id": 1, "image_id": 10, "category_id": 3, "area": 1.0, "iscrowd": 0}


def test_a_sample_has_boxes_labels_crowd_and_area(tmp_path):
    data = CocoJson(coco_file(tmp_path))
    assert (data.classes, data.category_ids, data.problems) == (
        ("bus", "fox", "cup"),
        (3, 7, 20),
        [],
    )
    sample = data[0]
    assert (sample.id, sample.size) == ("train0", (10, 20))
    assert sample.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 20, 10]]
    assert sample.labels.tolist() == [2, 0]  # ids 20 and 3 of 3, 7, 20
    assert sample.crowd.tolist() == [False, True] and sample.difficult.tolist() == [False, False]
    assert sample.area.tolist() == [7.5, 9]
    assert (
        set(sample.target())
        == set(data.targets()[0])
        == {"boxes", "labels", "difficult", "crowd", "area"}
    )


def test_a_picture_without_objects_is_kept(tmp_path):
    data = CocoJson(coco_file(tmp_path))
    assert len(data) == 2 and data[1].boxes.shape == (0, 4) and data[1].labels.shape == (0,)


def test_an_object_without_an_area_has_that_of_its_box(tmp_path):
    without = {"id": 2, "image_id": 10, "category_id": 3, "bbox": [1, 1, 3, 3]}
    data = CocoJson(coco_file(tmp_path, annotations=[{**BOX, "bbox": [1, 1, 2, 2]}, without]))
    assert data[0].area.tolist() == [1, 9] and data[0].crowd.tolist() == [False, False]
    assert CocoJson(coco_file(tmp_path, annotations=[without]))[0].area is None


@pytest.mark.parametrize(
    "bbox, kept, kind",
    [
        ([5, 5, 0, 2], None, "empty box"),
        ([5, 5, 2, -1], None, "empty box"),
        ([20, 0, 5, 5], None, "box outside"),
        ([-5, 0, 5, 5], None, "box outside"),
        ([-1, 0, 5, 5], [0, 0, 4, 5], "box across the border"),
        ([16, 6, 5, 5], [16, 6, 20, 10], "box across the border"),
        ([16, 6, 4.01, 4], [16, 6, 20, 10], None),
        ([1, 2, 3], None, "broken box"),
        (None, None, "broken box"),
        ([1, 2, 3, None], None, "broken box"),
        ([1, 2, float("nan"), 3], None, "broken box"),
    ],
)
def test_the_rule_for_boxes_that_are_no_boxes(tmp_path, bbox, kept, kind):
    data = CocoJson(coco_file(tmp_path, annotations=[{**BOX, "bbox": bbox}]))
    assert data[0].boxes.tolist() == ([] if kept is None else [kept])
    assert [(p.kind, p.file) for p in data.problems] == (
        [] if kind is None else [(kind, "train0.png")]
    )


def test_an_unknown_category_and_a_box_of_no_picture_are_left_out_and_told(tmp_path):
    data = CocoJson(
        coco_file(
            tmp_path,
            annotations=[
                {**BOX, "category_id": 4, "bbox": [1, 1, 2, 2]},
                {**BOX, "image_id": 99, "bbox": [1, 1, 2, 2]},
                {**BOX, "bbox": [3, 3, 2, 2]},
            ],
        )
    )
    assert data[0].boxes.tolist() == [[3, 3, 5, 5]]
    assert {p.kind: p.detail for p in data.problems} == {
        "unknown class": "object 1 (category 4: 1, 1, 3, 3) is of no known class; left out.",
        "box of no picture": "1 boxes of picture 99, which is not listed; left out.",
    }


def test_pictures_in_subfolders(tmp_path):
    data = CocoJson(coco_file(tmp_path, folder="deep/er/"))
    assert data[0].id == "deep/er/train0" and data[0].size == (10, 20)


@pytest.mark.parametrize(
    "folder, name",
    [
        ("images/part", "part"),
        ("part", "part"),
        ("images", "part"),
        ("", "part"),
        ("annotations", "part"),
        ("train2017", "instances_train2017"),
    ],
)
def test_where_the_pictures_are_looked_for(tmp_path, folder, name):
    file = coco_file(tmp_path).rename(tmp_path / "annotations" / f"{name}.json")
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for k in range(2):
        (tmp_path / "images" / "train" / f"train{k}.png").rename(
            tmp_path / folder / f"train{k}.png"
        )
    assert CocoJson(file).entries[0].path == tmp_path / folder / "train0.png"
    assert CocoJson(file)[0].size == (10, 20)


def test_a_folder_can_be_named(tmp_path):
    file = coco_file(tmp_path)
    (tmp_path / "images" / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(
        FileNotFoundError, match=r"train0\.png, the first picture of .*, is not near it"
    ):
        CocoJson(file)
    assert CocoJson(file, tmp_path / "elsewhere")[0].size == (10, 20)


def test_without_a_size_the_picture_tells_it(tmp_path):
    data = CocoJson(
        coco_file(
            tmp_path,
            images=[{"id": 10, "file_name": "train0.png"}],
            annotations=[{**BOX, "bbox": [4, 4, 99, 2]}],
        )
    )
    assert data.boxes(0).tolist() == [[4, 4, 20, 6]]


def test_a_picture_of_another_size_than_the_file_says_is_refused(tmp_path):
    data = CocoJson(coco_file(tmp_path))
    picture(tmp_path / "images" / "train" / "train0.png", 40, 20)
    with pytest.raises(ValueError, match="is 40x20 pixels but its annotation says 20x10"):
        data[0]


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"images": None}, "needs a list 'images' whose entries have file_name and id"),
        ({"images": []}, "lists no picture"),
        ({"images": [{"id": 1}]}, "whose entries have file_name and id"),
        ({"categories": [{"id": 1}]}, "a list 'categories' whose entries have id and name"),
        ({"annotations": {}}, "a list 'annotations' whose entries have image_id"),
        (
            {"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]},
            "two categories one id or name",
        ),
        (
            {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
            "two categories one id or name",
        ),
    ],
)
def test_a_file_that_is_no_coco_file(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        CocoJson(coco_file(tmp_path, **change))


def test_a_file_that_is_missing_or_no_json(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.json is missing"):
        CocoJson(tmp_path / "no.json")
    (tmp_path / "no.json").write_text("{")
    with pytest.raises(ValueError, match=r"no\.json is no JSON"):
        CocoJson(tmp_path / "no.json")
    (tmp_path / "no.json").write_text("[]")
    with pytest.raises(ValueError, match="is no COCO file for detection"):
        CocoJson(tmp_path / "no.json")


def test_aquarium(real_datasets):
    root = real_datasets("aquarium")
    data = {
        split: CocoJson(root / "annotations" / f"{split}.json")
        for split in ("train", "val", "test")
    }
    assert {split: len(part) for split, part in data.items()} == {
        "train": 448,
        "val": 127,
        "test": 63,
    }
    assert sum(len(t["boxes"]) for part in data.values() for t in part.targets()) == 4814
    assert [p for part in data.values() for p in part.problems] == []
    assert {part.classes for part in data.values()} == {
        ("fish", "jellyfish", "penguin", "puffin", "shark", "starfish", "stingray")
    }
    first = json.loads((root / "annotations" / "train.json").read_text())["annotations"][0]
    x, y, w, h = first["bbox"]
    sample = data["train"][0]
    assert sample.boxes[0].tolist() == [x, y, x + w, y + h] and sample.area[0] == first["area"]
    assert sample.size == (512, 384)
