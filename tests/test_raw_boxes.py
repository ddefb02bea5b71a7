"""What lesson 0 opens on: all boxes that a detector proposes, and those that are left."""

import re

import pytest
import torch

import lesson_lib
from lesson_lib.course.raw_boxes import FEW, RawBoxes, caption, raw_boxes, raw_drawing
from lesson_lib.course.story import running_smear
from lesson_lib.data.samples import Sample
from lesson_lib.nms import class_aware_nms

LINES = re.compile(r'<path d="(M[^"]*)"')


@pytest.fixture(scope="module")
def detector():
    return lesson_lib.load("ssd-tiny-smears")


@pytest.fixture(scope="module")
def raw(detector):
    return raw_boxes(detector, running_smear())


@pytest.fixture
def toy() -> RawBoxes:
    """Two objects; four boxes: a hit and its double, a box of the wrong kind, one on nothing."""
    sample = Sample(
        torch.zeros(3, 60, 60, dtype=torch.uint8),
        torch.tensor([[0.0, 0.0, 20.0, 20.0], [30.0, 30.0, 50.0, 50.0]]),
        torch.tensor([0, 1]),
    )
    boxes = torch.tensor(
        [[0.0, 0, 20, 20], [1, 0, 21, 20], [30, 30, 50, 50], [0, 40, 10, 50]],
    )
    return RawBoxes(
        sample,
        ("RBC", "WBC", "Platelets"),
        boxes,
        torch.tensor([0.9, 0.8, 0.6, 0.1]),
        torch.tensor([0, 0, 2, 1]),
        torch.tensor([True, False, True, True]),
    )


def test_there_is_a_box_for_each_anchor_inside_the_picture(detector, raw):
    count = len(detector.model.anchors(detector.size))
    assert raw.boxes.shape == (count, 4) and raw.scores.shape == raw.labels.shape == (count,)
    assert raw.boxes.min() >= 0 and raw.boxes.max() <= 300
    assert raw.over(0.0, one_each=False).all()


@pytest.mark.parametrize("score", [0.5, 0.7, 0.9])
def test_what_is_left_is_what_the_detector_predicts(detector, raw, score):
    (found,) = detector.predict([raw.sample], score_threshold=score)
    chosen = raw.over(score, one_each=True)
    order = raw.scores[chosen].argsort(descending=True)
    assert torch.allclose(raw.boxes[chosen][order], found["boxes"], atol=0.01)
    assert raw.labels[chosen][order].tolist() == found["labels"].tolist()


@pytest.mark.parametrize("score", [0.02, 0.3, 0.8])
def test_nms_of_all_holds_nms_of_those_over_a_score(detector, raw, score):
    over = raw.over(score, one_each=False)
    threshold = detector.inference["nms_threshold"]
    kept = class_aware_nms(raw.boxes[over], raw.scores[over], raw.labels[over], threshold)
    expected = over.nonzero()[:, 0][kept.sort().values]
    assert raw.over(score, one_each=True).nonzero()[:, 0].tolist() == expected.tolist()


def test_only_a_box_of_its_kind_finds_an_object(toy):
    found, strange = toy.found(toy.over(0.0, one_each=False))
    assert found.tolist() == [True, False] and strange.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    "score, one_each, said",
    [
        (0.0, False, "All 4 boxes; 2 fit no dashed box."),
        (0.0, True, "3 of 4 boxes, doubles dropped. 1 of 2 dashed"),
        (0.5, True, "2 of 4 boxes: score 0.50 or more, doubles dropped."),
        (0.5, True, "1 box fits none of them."),
        (0.95, False, "0 of 4 boxes: score 0.95 or more. 0 of 2 dashed boxes are found; 0 boxes"),
    ],
)
def test_the_caption_counts(toy, score, one_each, said):
    assert said in caption(toy, score, one_each)


def test_a_drawing_holds_the_boxes_left_and_their_letters(toy):
    drawing = raw_drawing(toy, 0.5, one_each=True)
    outlines = "".join(LINES.findall(drawing))
    assert "M30 30H50V50H30Z" in outlines and "M1 0H21V20H1Z" not in outlines
    assert re.findall(r">([RWP]\??)</text>", drawing) == ["R", "P?"]


def test_many_boxes_are_thin_and_all_there(raw):
    drawing = raw_drawing(raw, 0.0, one_each=False)
    outlines = sum(path.count("M") for path in LINES.findall(drawing))
    truth = len(raw.sample.boxes)  # without the line under it, and under the boxes
    assert outlines == len(raw.scores) + truth > FEW
    assert LINES.findall(drawing)[0].count("M") == truth
    assert not re.search(r">[RWP]\??</text>", drawing)
    assert ">everything</text>" in raw_drawing(raw, 0.0, one_each=False, words="everything")


@pytest.mark.parametrize("width", [248, 560])
def test_letters_at_the_upper_edge_are_whole_at_every_width(raw, width):
    drawing = raw_drawing(raw, 0.5, one_each=True, width=width)
    heights = [float(y) for y in re.findall(r'y="([\d.]+)" font-size="13"', drawing)]
    assert min(heights) >= 11  # px of the screen, a letter of 13 px with its halo
