"""The coverage report against counts by hand;
anchors are four squares of 10 x 10 px side by side.
"""

import pytest
import torch
from oracles import exact_iou
from tiny_data import coco_file, voc_folder

from lesson_lib.anchors import SSD300_SCALES, default_boxes, pyramid_anchors
from lesson_lib.data.coco import CocoJson
from lesson_lib.data.coverage import coverage
from lesson_lib.data.samples import Sample
from lesson_lib.data.smears import Smears
from lesson_lib.data.voc import VocFolder

STRIP = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10], [30, 0, 40, 10]])


def sample(boxes, labels=None, size=(20, 40), **more) -> Sample:
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.zeros(len(boxes)).long() if labels is None else torch.tensor(labels)
    return Sample(torch.zeros(3, *size, dtype=torch.uint8), boxes, labels, **more)


def test_best_overlap_count_and_recall_by_hand():
    data = [
        sample([[0, 0, 10, 5], [10, 0, 20, 4]], [0, 1], id="a"),
        sample([]),
        sample([[4, 0, 26, 10]], [1], id="b"),
    ]
    found = coverage(data, STRIP, (20, 40))
    assert found.best.tolist() == pytest.approx(
        [0.5, 0.4, 10 / 22]
    )  # .5 counts: the matching's threshold does
    assert (
        found.count.tolist() == [1, 0, 0]
        and found.pictures == ["a", "a", "b"]
        and found.classes == ("0", "1")
    )
    assert found.recall() == pytest.approx(1 / 3) and found.recall(found.labels == 1) == 0
    assert coverage(data, STRIP, (20, 40), threshold=0.4).recall() == 1
    assert coverage(data, STRIP, (20, 40), threshold=0.4).count.tolist() == [1, 1, 1]


def test_pictures_are_stretched_to_the_input_as_ssd_does():
    """20 x 40 px to 40 x 20: x halves, y doubles.

    None keeps each picture's size and asks for its anchors.
    """
    found = coverage([sample([[0, 0, 20, 5]])], STRIP, (40, 20))
    assert found.boxes.tolist() == [[0, 0, 10, 10]] and found.best.tolist() == [1]
    asked = []

    def strip(size):
        asked.append(size)
        return STRIP

    sizes = [
        sample([[0, 0, 10, 10]]),
        sample([[0, 0, 10, 10]], size=(30, 60)),
        sample([[0, 0, 10, 10]]),
    ]
    assert coverage(sizes, strip).best.tolist() == [1, 1, 1] and asked == [(20, 40), (30, 60)]
    assert coverage(sizes, pyramid_anchors, 64).boxes[0].tolist() == pytest.approx([0, 0, 16, 32])
    with pytest.raises(ValueError, match="give a function, or a size"):
        coverage(sizes, STRIP)


def test_groups_part_the_objects_at_their_borders():
    """sqrt(area) of 16 px belongs to the row 16 to 32; a shape of 2 : 1 to the row 2 to 3, lying or
    standing.
    """
    boxes = [[0, 0, 16, 16], [0, 0, 15.9, 16], [0, 0, 40, 20], [0, 0, 10, 30], [0, 0, 300, 300]]
    found = coverage([sample(boxes, size=(400, 400))], STRIP, 400)
    rows = {title: mask.nonzero().flatten().tolist() for title, mask in found.groups()}
    assert rows["all objects"] == rows["0"] == [0, 1, 2, 3, 4]
    assert (
        rows["0 to 16 px"] == [1]
        and rows["16 to 32 px"] == [0, 2, 3]
        and rows["256 px and more"] == [4]
    )
    assert (
        rows["0 to 1.5 : 1"] == [0, 1, 4]
        and rows["2 to 3 : 1"] == [2]
        and rows["3 : 1 and more"] == [3]
    )
    for group in ("px", ": 1"):
        assert sorted(sum((rows[title] for title in rows if group in title), [])) == [0, 1, 2, 3, 4]


def test_the_text_shows_each_group_and_the_worst_objects_first():
    data = [sample([[0, 0, 10, 10], [32, 0, 38, 3]], id="good"), sample([[0, 0, 40, 3]], id="long")]
    lines = coverage(data, STRIP, (20, 40)).text(worst=2).splitlines()
    assert lines[1].split() == ["all", "objects", "3", "33.3%", "0.18", "0"]
    assert lines[-2:] == [
        "  long: 0, 40 x 3 px, best IoU 0.16",
        "  good: 0, 6 x 3 px, best IoU 0.18",
    ]
    assert not any(
        line.startswith("64 to 128 px") for line in lines
    )  # a row without objects is left out


def test_crowds_are_left_out_and_no_object_is_a_report_too():
    found = coverage(
        [sample([[0, 0, 10, 10], [0, 0, 40, 20]], crowd=torch.tensor([False, True]))],
        STRIP,
        (20, 40),
    )
    assert found.boxes.tolist() == [[0, 0, 10, 10]] and found.pictures == [""]
    for nothing in ([], [sample([])]):
        empty = coverage(nothing, STRIP, 40)
        assert (
            len(empty.best) == 0 and empty.recall() != empty.recall() and "covered" in empty.text()
        )


def test_more_objects_than_are_compared_at_once():
    boxes = [[i % 7, i % 5, i % 7 + 3 + i % 11, i % 5 + 2 + i % 9] for i in range(70)]
    found = coverage([sample(boxes)], STRIP, (20, 40))
    exact = [[exact_iou(box, anchor) for anchor in STRIP.tolist()] for box in boxes]
    assert found.best.tolist() == pytest.approx([float(max(row)) for row in exact])
    assert found.count.tolist() == [sum(2 * iou >= 1 for iou in row) for row in exact]


def test_files_are_not_decoded(tmp_path):
    voc = VocFolder(voc_folder(tmp_path / "voc"), "train")
    coco = CocoJson(coco_file(tmp_path / "coco"))
    for picture in [*tmp_path.rglob("*.png")]:
        picture.write_bytes(b"no picture")
    found = coverage(voc, STRIP, (10, 20))
    assert found.classes == voc.classes and sorted(found.pictures) == ["a", "a"]
    crowdless = coverage(coco, STRIP, (10, 20))  # 20 x 10 px; the second object is a crowd
    assert crowdless.boxes.tolist() == [[1, 2, 4, 6]] and crowdless.best.tolist() == pytest.approx(
        [0.12]
    )


def test_platelets_need_torchvisions_smallest_boxes():
    """The claim of lesson 2: of the published sets only the one that begins at 21 px meets the
    platelets.
    """
    smears = Smears("train", 6, cache=False)
    share = {
        name: coverage(smears, default_boxes(spec), 300) for name, spec in SSD300_SCALES.items()
    }
    share = {name: found.recall(found.labels == 2) for name, found in share.items()}
    assert share["paper-eq4"] == 0 and share["torchvision-coco"] == 1 and 0 < share["caffe-voc"] < 1
