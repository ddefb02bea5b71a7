"""The reader of VOC folders."""

import re

import pytest
import torch
from PIL import Image
from tiny_data import picture, voc_folder, voc_object, voc_picture, voc_split

from lesson_lib.config import CELL_CLASSES
from lesson_lib.data.annotated import left_out
from lesson_lib.data.pictures import read_picture
from lesson_lib.data.voc import VocFolder

CUT = "box across the border"


def one(tmp_path, objects, **options):
    """A folder of one 20x10 picture with these objects, opened."""
    voc_picture(tmp_path, "only", objects)
    return VocFolder(tmp_path, "all", **options)


def test_a_sample_has_picture_boxes_labels_and_difficult(tmp_path):
    data = VocFolder(voc_folder(tmp_path), "train")
    sample = data[0]
    assert (len(data), data.classes, sample.id, data.problems) == (1, ("cat", "dog"), "a", [])
    assert sample.boxes.tolist() == [[1, 2, 11, 9], [0, 0, 20, 10]]  # from 1, last pixel inside
    assert sample.labels.tolist() == [1, 0]
    assert sample.difficult.tolist() == [True, False]
    assert sample.crowd.tolist() == [False, False] and sample.area is None
    assert torch.equal(
        sample.image.permute(1, 2, 0), torch.from_numpy(picture(tmp_path / "x.png", seed=1))
    )


def test_positions_are_taken_as_they_are_when_they_do_not_count_from_one(tmp_path):
    data = VocFolder(voc_folder(tmp_path), "train", one_based=False)
    assert data[0].boxes.tolist() == [[2, 3, 11, 9], [1, 1, 20, 10]]


def test_boxes_and_targets_need_no_picture(tmp_path):
    data = VocFolder(voc_folder(tmp_path), "train")
    targets = data[0].target()
    (tmp_path / "JPEGImages" / "a.png").unlink()
    assert data.boxes(0).tolist() == [[1, 2, 11, 9], [0, 0, 20, 10]]
    assert {name: value.tolist() for name, value in data.targets()[0].items()} == {
        name: value.tolist() for name, value in targets.items()
    }
    with pytest.raises(FileNotFoundError, match=r"picture .*a\.png is missing; restore it"):
        data[0]


@pytest.mark.parametrize(
    "split, ids",
    [("train", ["a"]), ("trainval", ["a", "b"]), ("test", ["c"]), ("all", ["a", "b", "c"])],
)
def test_splits(tmp_path, split, ids):
    data = VocFolder(voc_folder(tmp_path), split)
    assert [sample.id for sample in data] == ids
    assert data.classes == ("cat", "dog"), "every split has the same classes"


def test_trainval_prefers_its_own_list(tmp_path):
    voc_split(voc_folder(tmp_path), "trainval", "b", "a")
    assert [sample.id for sample in VocFolder(tmp_path, "trainval")] == ["b", "a"]


def test_a_list_may_hold_a_second_column_and_blank_lines(tmp_path):
    voc_folder(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a  1\n\nb -1\n")
    assert len(VocFolder(tmp_path, "train")) == 2


def test_an_unknown_split_names_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"no split 'valid' \(there: train, val, test\)"):
        VocFolder(voc_folder(tmp_path), "valid")


def test_a_folder_in_another_layout(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no folder Annotations"):
        VocFolder(tmp_path)


@pytest.mark.parametrize("index", [1, -2])
def test_an_index_beyond_the_end(tmp_path, index):
    with pytest.raises(IndexError):
        VocFolder(voc_folder(tmp_path), "train")[index]


def test_the_given_order_of_classes_is_kept_and_other_classes_are_reported(tmp_path):
    data = VocFolder(voc_folder(tmp_path), "train", classes=("dog",))
    assert (data[0].labels.tolist(), data.classes) == ([0], ("dog",))
    assert [(p.kind, p.file) for p in data.problems] == [("unknown class", "Annotations/a.xml")]
    assert "object 2 (cat: 1, 1, 20, 10) is of no known class; left out" in str(data.problems[0])


@pytest.mark.parametrize(
    "box, kept, kind",
    [
        ((5, 5, 5, 8), None, "empty box"),
        ((5, 5, 8, 5), None, "empty box"),
        ((5, 5, 5, 5), None, "empty box"),
        ((8, 5, 5, 8), None, "empty box"),
        ((21, 1, 30, 9), None, "box outside"),
        ((1, 11, 5, 20), None, "box outside"),
        ((-9, -9, 0, 0), None, "box outside"),
        ((-5, 2, 0, 4), None, "box outside"),
        ((2, -5, 4, 0), None, "box outside"),
        ((0, 3, 8, 9), [0, 2, 8, 9], CUT),
        ((3, -4, 9, 8), [2, 0, 9, 8], CUT),
        ((3, 3, 25, 9), [2, 2, 20, 9], CUT),
        ((3, 3, 9, 12), [2, 2, 9, 10], CUT),
        ((20, 10, 21, 11), [19, 9, 20, 10], CUT),
        ((2.5, 2.5, 4.25, 4), [1.5, 1.5, 4.25, 4], None),
        ((1, 1, 20.01, 10), [0, 0, 20, 10], None),
        ((1, 1, 20, 10), [0, 0, 20, 10], None),
        (("nan", 1, 5, 5), None, "broken box"),
        (("", 1, 5, 5), None, "broken box"),
        ((1, 1, "inf", 5), None, "broken box"),
    ],
)
def test_the_rule_for_boxes_that_are_no_boxes(tmp_path, box, kept, kind):
    data = one(tmp_path, voc_object("cat", (1, 1, 2, 2)) + voc_object("cat", box))
    assert data[0].boxes.tolist()[1:] == ([] if kept is None else [kept])
    assert [p.kind for p in data.problems] == ([] if kind is None else [kind])
    assert all(str(p).startswith("Annotations/only.xml: object 2 (cat: ") for p in data.problems)


def test_classes_are_in_alphabetical_order(tmp_path):
    objects = "".join(voc_object(name, (1, 1, 9, 9)) for name in "gcafbed")
    assert one(tmp_path, objects).classes == tuple("abcdefg")


def test_objects_of_a_part_are_no_objects(tmp_path):
    part = voc_object("head", (1, 1, 3, 3)).replace("object>", "part>")
    data = one(tmp_path, voc_object("person", (4, 4, 9, 9), more=part))
    assert data.classes == ("person",) and data[0].boxes.tolist() == [[3, 3, 9, 9]]


@pytest.mark.parametrize(
    "size",
    ["", "<size><width>0</width><height>0</height></size>", "<size><width>20</width></size>"],
)
def test_without_a_size_the_picture_tells_it(tmp_path, size):
    voc_picture(tmp_path, "only", voc_object("cat", (3, 3, 99, 9)), size=size)
    assert VocFolder(tmp_path, "all").boxes(0).tolist() == [[2, 2, 20, 9]]


def test_a_picture_of_another_size_than_its_annotation_is_refused(tmp_path):
    voc_picture(tmp_path, "only", size="<size><width>10</width><height>20</height></size>")
    with pytest.raises(ValueError, match="is 20x10 pixels but its annotation says 10x20"):
        VocFolder(tmp_path, "all")[0]


def test_missing_and_broken_annotations_are_left_out_and_told(tmp_path):
    voc_split(voc_folder(tmp_path), "train", "a", "gone", "c")
    (tmp_path / "Annotations" / "c.xml").write_text("<annotation><object>")
    data = VocFolder(tmp_path, "train")
    assert [sample.id for sample in data] == ["a"]
    assert [(p.kind, p.file) for p in data.problems] == [
        ("annotation missing", "Annotations/gone.xml"),
        ("annotation unreadable", "Annotations/c.xml"),
    ]
    assert VocFolder(tmp_path, "val").problems == [], (
        "the troubles of one split are not told in another"
    )
    voc_split(tmp_path, "val", "gone")
    with pytest.raises(
        ValueError,
        match="split 'val', has no usable picture; the first problem: .*gone.xml: is missing",
    ):
        VocFolder(tmp_path, "val")


def test_the_picture_goes_by_the_annotations_own_name(tmp_path):
    voc_picture(tmp_path, "a", ending=".jpeg")
    file = tmp_path / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace("a.jpeg", "/somewhere/else/b.jpg"))
    assert VocFolder(tmp_path, "all")[0].size == (10, 20)


@pytest.mark.parametrize(
    "mode, name",
    [
        ("L", "x.png"),
        ("RGBA", "x.png"),
        ("P", "x.png"),
        ("1", "x.png"),
        ("CMYK", "x.jpg"),
        ("LA", "x.png"),
        ("L", "x.jpg"),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, name):
    picture(tmp_path / name, mode=mode)
    pixels = read_picture(tmp_path / name)
    assert pixels.shape == (3, 10, 20) and pixels.dtype == torch.uint8
    with Image.open(tmp_path / name) as image:
        expected = [image.convert("RGB").getpixel((x, 4)) for x in range(20)]
    assert [tuple(v) for v in pixels[:, 4].T.tolist()] == expected


def test_pictures_stand_upright_as_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # upright after a quarter turn clockwise
    pixels = torch.from_numpy(picture(tmp_path / "JPEGImages" / "a.png", exif=exif)).permute(
        2, 0, 1
    )
    assert torch.equal(read_picture(tmp_path / "JPEGImages" / "a.png"), pixels.rot90(-1, (1, 2)))
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(
        f"<annotation><filename>a.png</filename>{voc_object('cat', (1, 1, 9, 19))}</annotation>"
    )
    sample = VocFolder(tmp_path, "all")[0]
    assert sample.size == (20, 10) and sample.boxes.tolist() == [[0, 0, 9, 19]]


def test_sixteen_bits_a_channel_are_refused(tmp_path):
    Image.new("I;16", (4, 4)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png cannot be read \(more than 8 bits a channel"):
        read_picture(tmp_path / "deep.png")


@pytest.mark.parametrize("keep", [0, 20, 300])
def test_a_corrupt_picture_is_one_sentence_that_names_the_file(tmp_path, keep):
    picture(tmp_path / "JPEGImages" / "a.jpg", 60, 60)
    whole = (tmp_path / "JPEGImages" / "a.jpg").read_bytes()
    (tmp_path / "JPEGImages" / "a.jpg").write_bytes(whole[:keep])
    with pytest.raises(
        ValueError, match=r"^The picture \S+a\.jpg cannot be read \(.*\); replace"
    ) as error:
        read_picture(tmp_path / "JPEGImages" / "a.jpg")
    assert "\n" not in str(error.value)


def test_a_corrupt_picture_without_a_size_is_left_out(tmp_path):
    voc_picture(tmp_path, "bad", size="")
    voc_picture(tmp_path, "good", size="")
    (tmp_path / "JPEGImages" / "bad.png").write_bytes(b"no picture")
    data = VocFolder(tmp_path, "all")
    assert [sample.id for sample in data] == ["good"]
    assert [(p.kind, p.file) for p in data.problems] == [
        ("picture unreadable", "Annotations/bad.xml")
    ]


def test_bccd(real_datasets):
    root = real_datasets("bccd")
    data = {
        split: VocFolder(root, split, CELL_CLASSES, False) for split in ("train", "val", "test")
    }
    assert {split: len(part) for split, part in data.items()} == {
        "train": 205,
        "val": 87,
        "test": 72,
    }
    assert sum(len(t["boxes"]) for part in data.values() for t in part.targets()) == 4888 - 2
    problems = [p for part in data.values() for p in part.problems]
    assert [(p.kind, re.search(r"Image_(\d+)", p.file)[1]) for p in problems] == [
        ("empty box", "00343"),
        ("empty box", "00338"),
    ]
    counts = (
        torch.cat([t["labels"] for part in data.values() for t in part.targets()])
        .bincount()
        .tolist()
    )
    assert counts == [4155 - 2, 372, 361]
    assert {e.id for e in VocFolder(root, "trainval").entries} == {
        e.id for split in ("train", "val") for e in data[split].entries
    }
    assert data["val"][0].size == (480, 640)


def xml_of(tmp_path, text: str, encoding: str, name: str = "猫"):
    """A folder of one picture whose annotation is `text` around an object, in an encoding."""
    voc_picture(tmp_path, "a")
    objects = voc_object(name, (2, 3, 11, 9))
    xml = f"{text}<annotation><filename>a.png</filename>{objects}</annotation>"
    (tmp_path / "Annotations" / "a.xml").write_bytes(xml.encode(encoding))
    return VocFolder(tmp_path, "all")


@pytest.mark.parametrize(
    "declared, encoding, name",
    [
        ("", "utf-8", "猫"),
        ("", "utf-8-sig", "猫"),
        ("utf-8", "utf-8-sig", "猫"),
        ("gb2312", "gb2312", "猫"),
        ("GBK", "gbk", "猫"),
        ("gb2312", "gbk", "貓"),
        ("gb18030", "gb18030", "猫"),
        ("big5", "big5", "貓"),
        ("Shift_JIS", "shift_jis", "猫"),
        ("windows-1251", "cp1251", "кот"),
        ("ISO-8859-1", "latin-1", "bébé"),
        ("", "latin-1", "bébé"),
        ("utf-8", "latin-1", "bébé"),
        ("utf-16", "utf-16", "猫"),
        ("utf-16", "utf-16-le", "猫"),
        ("utf-16", "utf-8", "猫"),
        ("no-such-encoding", "utf-8", "猫"),
    ],
)
def test_annotations_in_any_encoding(tmp_path, declared, encoding, name):
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    data = xml_of(tmp_path, head + "\n<!-- x -->", encoding, name)
    assert data.classes == (name,) and data.boxes(0).tolist() == [[1, 2, 11, 9]]
    assert data.problems == []


BOMB = '<!DOCTYPE a [<!ENTITY a "x"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<",
        b"no XML",
        b"\0" * 50,
        b"<annotation>" * 3,
        BOMB.encode() + b"<annotation>&b;</annotation>",
        BOMB.encode("utf-16") + "<annotation>&b;</annotation>".encode("utf-16-le"),
    ],
)
def test_an_annotation_that_is_no_xml_costs_no_other(tmp_path, text):
    voc_picture(tmp_path, "good", voc_object("cat", (1, 1, 9, 9)))
    voc_picture(tmp_path, "bad")
    (tmp_path / "Annotations" / "bad.xml").write_bytes(text)
    data = VocFolder(tmp_path, "all")
    assert data.ids() == ["good"]
    assert [(p.kind, p.file, p.pictures) for p in data.problems] == [
        ("annotation unreadable", "Annotations/bad.xml", 1)
    ]
    assert "\n" not in str(data.problems[0])
    assert left_out(data, "voc:x") == (
        "1 of 2 pictures is left out; `python -m lesson_lib data check voc:x` names them."
    )


def test_an_annotation_that_is_nested_deeply_is_read_or_told(tmp_path):
    voc_picture(tmp_path, "good", voc_object("cat", (1, 1, 9, 9)))
    deep = "<a>" * 200_000 + "</a>" * 200_000
    (tmp_path / "Annotations" / "good2.xml").write_text(deep)
    assert VocFolder(tmp_path, "all").ids() == ["good"]


def test_a_namespace_and_blanks_around_names_and_numbers(tmp_path):
    voc_picture(tmp_path, "a")
    (tmp_path / "Annotations" / "a.xml").write_text(
        '<annotation xmlns="http://x.invalid"><size>'
        "<width> 20 </width><height>\n10.0</height></size>"
        "<object><name>\n small  cat\t</name><difficult> 1 </difficult><bndbox><xmin> 2.0 </xmin>"
        "<ymin>\n3</ymin><xmax>1.1e1</xmax><ymax>8.999</ymax></bndbox></object></annotation>"
    )
    data = VocFolder(tmp_path, "all")
    assert data.classes == ("small cat",) and data[0].difficult.tolist() == [True]
    assert data.boxes(0).tolist() == [[1, 2, 11, pytest.approx(8.999)]]


def test_an_object_without_a_name_or_without_a_box_is_told(tmp_path):
    objects = voc_object(" ", (1, 1, 5, 5)) + "<object><name>cat</name></object>"
    data = one(tmp_path, objects + voc_object("cat", (1, 1, 5, 5)))
    assert data.boxes(0).tolist() == [[0, 0, 5, 5]] and data.classes == ("cat",)
    assert [(p.kind, p.objects) for p in data.problems] == [
        ("object without a name", 1),
        ("broken box", 1),
    ]
    assert left_out(data, "w").startswith("2 objects are left out;")


@pytest.mark.parametrize(
    "line",
    [
        "a b",
        "a b 1",
        "a b  -1",
        "  a b\t",
        "a b.png",
        "JPEGImages/a b.png",
        "/home/me/VOC/JPEGImages/a b.png",
        "C:\\VOC\\JPEGImages\\a b.png",
        "Annotations/a b.xml",
        '"a b"',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_line_of_a_list(tmp_path, line, encoding):
    voc_picture(tmp_path, "a b", voc_object("cat", (1, 1, 9, 9)))
    voc_split(tmp_path, "train")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_bytes(f"{line}\r\n\r\n".encode(encoding))
    assert VocFolder(tmp_path, "train").ids() == ["a b"]


@pytest.mark.parametrize("name", ["猫 1", "x.y.rf.0a", "é", "1", "a" * 240])
def test_names_of_pictures(tmp_path, name):
    voc_picture(tmp_path, name, voc_object("cat", (1, 1, 9, 9)))
    voc_split(tmp_path, "train", name, name)
    data = VocFolder(tmp_path, "train")
    assert data.ids() == [name] and data[0].size == (10, 20)


@pytest.mark.parametrize("where", ["ImageSets", "."])
def test_lists_that_lie_elsewhere(tmp_path, where):
    voc_folder(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "train.txt").rename(tmp_path / where / "train.txt")
    assert VocFolder(tmp_path, "train").ids() == ["a"]


@pytest.mark.parametrize("folder", ["images", "Annotations"])
def test_pictures_that_are_not_in_jpegimages(tmp_path, folder):
    voc_picture(tmp_path, "a", voc_object("cat", (1, 1, 9, 9)))
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / "JPEGImages" / "a.png").rename(tmp_path / folder / "a.PNG")
    (tmp_path / "JPEGImages").rmdir()
    assert VocFolder(tmp_path, "all")[0].size == (10, 20)


def test_the_folder_of_the_pictures_can_be_named(tmp_path):
    voc_picture(tmp_path / "set", "a", voc_object("cat", (1, 1, 9, 9)))
    (tmp_path / "set" / "JPEGImages").rename(tmp_path / "far")
    with pytest.raises(ValueError, match=r"no usable picture; .*picture a is missing in"):
        VocFolder(tmp_path / "set", "all")
    assert VocFolder(tmp_path / "set", "all", pictures=tmp_path / "far")[0].size == (10, 20)
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder; .*--pictures DIR"):
        VocFolder(tmp_path / "set", "all", pictures=tmp_path / "nowhere")


def test_missing_pictures_are_left_out_and_counted(tmp_path):
    voc_split(voc_folder(tmp_path), "train", "a", "b", "c")
    (tmp_path / "JPEGImages" / "a.png").unlink()
    data = VocFolder(tmp_path, "train")
    assert data.ids() == ["b", "c"]
    assert [(p.kind, p.pictures, p.objects) for p in data.problems] == [("picture missing", 1, 2)]
    assert left_out(data, "voc:x").startswith("1 of 3 pictures and 2 objects are left out;")


@pytest.mark.parametrize("name, taken", [("._a.xml", False), ("notes.txt", False), ("d.XML", True)])
def test_what_lies_beside_the_annotations(tmp_path, name, taken):
    voc_picture(tmp_path, "a", voc_object("cat", (1, 1, 9, 9)))
    voc_picture(tmp_path, "d", voc_object("cat", (1, 1, 9, 9)))
    (tmp_path / "Annotations" / "d.xml").rename(tmp_path / "Annotations" / name)
    assert VocFolder(tmp_path, "all").ids() == (["a", "d"] if taken else ["a"])


def test_corners_from_0_are_spoken_of_and_can_be_read(tmp_path):
    data = one(tmp_path, voc_object("cat", (0, 0, 9, 9)) + voc_object("cat", (2, 2, 5, 5)))
    assert [r.kind for r in data.remarks] == ["corners from 0"]
    assert "1 of 2 boxes have a corner at 0" in str(data.remarks[0])
    assert "--first-pixel 0" in str(data.remarks[0])
    data = VocFolder(tmp_path, "all", one_based=False)
    assert data.boxes(0).tolist()[0] == [0, 0, 9, 9] and data.remarks == data.problems == []


def test_labels_follow_the_names_that_are_wanted(tmp_path):
    objects = [voc_object(name, (1, 1, 9, 9)) for name in ("cat", "dog", "cow")]
    data = one(tmp_path, "".join(objects), classes=("dog", "cat"))
    assert data[0].labels.tolist() == [1, 0] and data.classes == ("dog", "cat")
    assert data.own_classes == ("cat", "cow", "dog")
    assert [(p.kind, p.objects) for p in data.problems] == [("unknown class", 1)]


@pytest.mark.parametrize(
    "box", [(0.1, 0.2, 0.5, 0.9), (0, 0, 1, 1), (-0.01, 0.2, 0.5, 1.02), (0.0, 0.0, 0.5, 0.5)]
)
def test_fractions_are_no_pixels(tmp_path, box):
    data = one(tmp_path, voc_object("cat", (3, 3, 9, 9)) + voc_object("cat", box))
    assert [p.kind for p in data.problems] == ["fractions for pixels"] and len(data.boxes(0)) == 1


@pytest.mark.parametrize(
    "box", [(5, 3, 5 + 1e-6, 9), (20.0, 3, 30, 9), (3, 9.95, 8, 20), (-5, 3, 0.05, 9)]
)
def test_boxes_that_are_too_thin_within_the_picture(tmp_path, box):
    data = one(tmp_path, voc_object("cat", box), one_based=False)
    assert len(data.boxes(0)) == 0 and data[0].image.shape == (3, 10, 20)
    assert [p.objects for p in data.problems] == [1]


def test_pictures_that_cannot_be_decoded_can_be_left_out(tmp_path):
    voc_split(voc_folder(tmp_path), "train", "a", "b", "c")
    file = tmp_path / "JPEGImages" / "a.png"
    file.write_bytes(file.read_bytes()[:300])
    picture(tmp_path / "JPEGImages" / "c.png", 30, 15)
    data = VocFolder(tmp_path, "train")
    assert len(data) == 3 and data.problems == [], "opening decodes nothing"
    data.leave_out_unreadable()
    assert data.ids() == ["b"]
    assert [(p.file, p.pictures, p.objects) for p in data.problems] == [
        ("a.png", 1, 2),
        ("c.png", 1, 0),
    ]
    assert left_out(data, "voc:x").startswith("2 of 3 pictures and 2 objects are left out;")


def test_a_set_is_sliced_like_a_list(tmp_path):
    data = VocFolder(voc_folder(tmp_path), "all")
    assert [sample.id for sample in data[1:]] == ["b", "c"] and data[3:] == []
