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


def changed(tmp_path, change, **options):
    """The tiny file after `change` of its tree, opened."""
    file = coco_file(tmp_path)
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return CocoJson(file, **options)


def each(rows, key, new):
    for row in rows:
        row[key] = new(row[key])


SAME = ([[1, 2, 4, 6], [0, 0, 20, 10]], [2, 0], [False, True], [7.5, 9])


@pytest.mark.parametrize(
    "change",
    [
        lambda d: each(d["annotations"], "category_id", str),
        lambda d: each(d["categories"], "id", str),
        lambda d: d["categories"][0].update(id="20.0"),
        lambda d: each(d["images"], "id", str),
        lambda d: each(d["images"], "id", float),
        lambda d: each(d["annotations"], "image_id", lambda k: f" {k}.0"),
        lambda d: each(d["annotations"], "iscrowd", str),
        lambda d: each(d["annotations"], "iscrowd", bool),
        lambda d: each(d["annotations"], "area", str),
        lambda d: each(d["annotations"], "bbox", lambda box: [f"{v:.1f} " for v in box]),
        lambda d: each(d["images"], "width", str),
        lambda d: each(d["images"], "height", lambda v: f"{v}.0"),
        lambda d: each(d["images"], "file_name", lambda name: f"images\\train\\{name}"),
        lambda d: each(d["images"], "file_name", lambda name: f"C:\\set\\{name}"),
        lambda d: each(d["images"], "file_name", lambda name: f"data/local-files/?d=x/{name}"),
        lambda d: each(d["images"], "file_name", lambda name: name[:-4]),
        lambda d: each(d["images"], "file_name", lambda name: name.upper()),
        lambda d: each(d["images"], "file_name", lambda name: f" {name}\n"),
        lambda d: each(d["categories"], "name", lambda name: f" {name}\n"),
        lambda d: d.update(info={"year": None}, licenses=[]),
    ],
)
def test_the_same_data_written_in_other_ways(tmp_path, change):
    sample = (data := changed(tmp_path, change))[0]
    found = (sample.boxes, sample.labels, sample.crowd, sample.area)
    assert tuple(value.tolist() for value in found) == SAME
    assert (data.classes, data.problems, len(data)) == (("bus", "fox", "cup"), [], 2)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "latin-1", "gb2312"])
def test_files_in_other_encodings(tmp_path, encoding):
    name = {"latin-1": "bébé", "gb2312": "图片和猫"}.get(encoding, "bébé 猫")
    file = coco_file(tmp_path)
    data = json.loads(file.read_text())
    data["categories"][0]["name"] = name
    file.write_bytes(json.dumps(data, ensure_ascii=False).encode(encoding))
    assert CocoJson(file).classes == ("bus", "fox", name)


@pytest.mark.parametrize(
    "change, kind, lost",
    [
        (lambda d: d["images"][0].update(file_name=None), "picture without a name", (1, 2)),
        (lambda d: d["images"][0].update(file_name=["a"]), "picture without a name", (1, 2)),
        (lambda d: d["images"][0].update(file_name=""), "picture without a name", (1, 2)),
        (lambda d: d["images"].append(7), "picture without a name", (1, 0)),
        (lambda d: d["images"].append({"id": 9}), "picture without a name", (1, 0)),
        (
            lambda d: d["images"].append({"id": [9], "file_name": "x"}),
            "picture without a name",
            (1, 0),
        ),
        (lambda d: d["images"][0].update(file_name="gone.png"), "picture missing", (1, 2)),
        (lambda d: d["images"][0].update(file_name="x" * 999), "picture missing", (1, 2)),
        (lambda d: d["images"][0].update(file_name="\0"), "picture missing", (1, 2)),
        (lambda d: d["annotations"].append(None), "box of no picture", (0, 1)),
        (lambda d: d["annotations"].append([]), "box of no picture", (0, 1)),
        (lambda d: d["annotations"][0].pop("image_id"), "box of no picture", (0, 1)),
        (lambda d: d["annotations"][0].update(image_id=[10]), "box of no picture", (0, 1)),
        (lambda d: d["annotations"][0].update(image_id=12), "box of no picture", (0, 1)),
        (lambda d: d["annotations"][0].update(category_id=[3]), "unknown class", (0, 1)),
        (lambda d: d["annotations"][0].update(category_id=None), "unknown class", (0, 1)),
        (lambda d: d["annotations"][0].update(bbox="1,2,3,4"), "broken box", (0, 1)),
        (lambda d: d["annotations"][0].update(bbox={"x": 1}), "broken box", (0, 1)),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, [3], 4]), "broken box", (0, 1)),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3, True]), "broken box", (0, 1)),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, float("inf"), 4]), "broken box", (0, 1)),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 10**400, 4]), "broken box", (0, 1)),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 1e-6, 4]), "thin box", (0, 1)),
        (
            lambda d: d["annotations"][0].update(bbox=[0.1, 0.2, 0.3, 0.4]),
            "fractions for pixels",
            (0, 1),
        ),
        (lambda d: d["categories"].append({"id": 9}), "category without a name", (0, 0)),
        (
            lambda d: d["categories"].append({"id": None, "name": "x"}),
            "category without a name",
            (0, 0),
        ),
        (lambda d: d["annotations"][0].update(area=0), "area that is none", (0, 0)),
        (lambda d: d["annotations"][0].update(area=float("nan")), "area that is none", (0, 0)),
        (lambda d: d["annotations"][0].update(area=-5), "area that is none", (0, 0)),
        (lambda d: d["annotations"][0].update(area="large"), "area that is none", (0, 0)),
        (lambda d: d["annotations"][0].update(area=[7]), "area that is none", (0, 0)),
        (lambda d: d["annotations"][0].update(area=1e300), "area that is none", (0, 0)),
    ],
)  # fmt: skip
def test_what_is_wrong_costs_no_other_and_is_counted(tmp_path, change, kind, lost):
    data = changed(tmp_path, change)
    assert {p.kind for p in data.problems} == {kind}
    assert (sum(p.pictures for p in data.problems), sum(p.objects for p in data.problems)) == lost
    assert len(data) == 2 - (kind.startswith("picture") and "train0" not in str(data.ids()))
    for sample in data:
        assert sample.size == (10, 20)
    assert not any("\n" in str(p) or len(str(p)) > 1200 for p in data.problems)


def test_an_area_that_is_none_is_that_of_the_box(tmp_path):
    data = changed(tmp_path, lambda d: d["annotations"][0].update(area=0))
    assert data[0].area.tolist() == [12, 9]


@pytest.mark.parametrize(
    "segmentation, box",
    [
        ([[1, 2, 5, 2, 5, 8, 1, 8]], [1, 2, 5, 8]),
        ([[1, 2, 3, 2, 3, 4], [6, 7, 9, 7, 9, 9]], [1, 2, 9, 9]),
        ([1, 2, 5, 2, 5, 8], [1, 2, 5, 8]),
        ([["1", "2", 5, 2, 5, 8.0]], [1, 2, 5, 8]),
        ([], None),
        ([[1, 2, 3]], None),
        ([[1, 2, None, 4, 5, 6]], None),
        ({"counts": [1], "size": [10, 20]}, None),
        ("text", None),
    ],
)
@pytest.mark.parametrize("bbox", [{}, {"bbox": None}, {"bbox": []}])
def test_polygons_stand_in_for_a_box_that_is_missing(tmp_path, segmentation, box, bbox):
    row = {"id": 1, "image_id": 10, "category_id": 3, "segmentation": segmentation} | bbox
    data = CocoJson(coco_file(tmp_path, annotations=[row]))
    assert data.boxes(0).tolist() == ([] if box is None else [box])
    assert [p.kind for p in data.problems] == ([] if box else ["broken box"])


def test_a_picture_that_is_listed_twice_is_used_once(tmp_path):
    data = changed(tmp_path, lambda d: d["images"].append(d["images"][0]))
    assert len(data) == 2 and [p.kind for p in data.problems] == ["picture listed twice"]
    assert data[0].boxes.tolist() == SAME[0]


def test_two_pictures_of_one_id_are_left_out_both(tmp_path):
    def change(data):
        data["images"] += [{"id": 77, "file_name": "train0.png"}, {"id": 77, "file_name": "x.png"}]
        data["annotations"][0]["image_id"] = 77

    data = changed(tmp_path, change)
    assert data.ids() == ["train0", "train1"] and len(data.boxes(0)) == 1
    assert [(p.kind, p.pictures) for p in data.problems] == [("two pictures of one id", 1)] * 2


def test_two_names_that_mean_one_file_are_left_out_both(tmp_path):
    extra = [{"id": 1, "file_name": "a/train0.png"}, {"id": 2, "file_name": "b/train0.png"}]
    file = coco_file(tmp_path)
    data = json.loads(file.read_text())
    data["images"] = [*extra, data["images"][1]]
    file.write_text(json.dumps(data | {"annotations": []}))
    data = CocoJson(file)
    assert data.ids() == ["train1"]
    assert [p.kind for p in data.problems[-2:]] == ["names of one file"] * 2


def test_labels_follow_the_names_that_are_wanted(tmp_path):
    def exchange(data):
        data["categories"] = [{"id": 20, "name": "bus"}, {"id": 3, "name": "cup"}]

    data = changed(tmp_path, exchange, classes=("bus", "fox"))
    assert (data.classes, data.own_classes) == (("bus", "fox"), ("cup", "bus"))
    assert data[0].labels.tolist() == [0] and data[0].boxes.tolist() == [[1, 2, 4, 6]]
    assert [(p.kind, p.objects) for p in data.problems] == [("unknown class", 1)]


def test_the_folder_is_that_which_has_most_of_the_pictures(tmp_path):
    file = coco_file(tmp_path, pictures=3)
    (tmp_path / "images" / "train" / "train0.png").unlink()
    data = CocoJson(file)
    assert data.ids() == ["train1", "train2"]
    assert [(p.kind, p.file) for p in data.problems] == [("picture missing", "train0.png")]


@pytest.mark.parametrize(
    "text, words",
    [
        ("[" * 100_000, "is no JSON"),
        ('{"a":' * 100_000, "is no JSON"),
        ("1" * 5000, "is no JSON"),
        ("", "is no JSON"),
        ("\0" * 40, "is no JSON"),
        ("null", "is no COCO file"),
        ('{"images": {"1": 2}}', "is no COCO file"),
    ],
)
def test_files_of_nothing_are_one_sentence(tmp_path, text, words):
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.json {words}") as error:
        CocoJson(file)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_no_picture_at_all_says_what_to_mend(tmp_path):
    file = coco_file(tmp_path)
    for picture_file in (tmp_path / "images" / "train").iterdir():
        picture_file.unlink()
    with pytest.raises(FileNotFoundError, match=r"mend file_name, or .* --pictures DIR"):
        CocoJson(file)
