"""One picture with its boxes: what a Sample refuses, what resizing does; what a Dataset is."""

import dataclasses

import pytest
import torch
from tiny_data import coco_file, voc_folder

from lesson_lib.data.catalog import open_dataset
from lesson_lib.data.samples import Dataset, Sample, resize
from lesson_lib.data.smears import Smears


def sample(count: int = 2, **changes) -> Sample:
    boxes = torch.tensor([[2.0, 1.0, 6.0, 4.0], [0.0, 0.0, 8.0, 6.0], [4.0, 4.0, 5.0, 6.0]])[:count]
    fields = dict(
        image=torch.zeros(3, 6, 8, dtype=torch.uint8),
        boxes=boxes,
        labels=torch.arange(count),
        id="two",
    )
    return Sample(**fields | changes)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_target_and_size(count):
    one = sample(count)
    assert one.size == (6, 8)
    target = one.target()
    assert set(target) == {"boxes", "labels", "difficult", "crowd"}
    assert target["difficult"].shape == target["crowd"].shape == (count,)
    assert not target["difficult"].any() and target["crowd"].dtype == torch.bool
    assert target["boxes"] is one.boxes and target["labels"] is one.labels
    assert sample(count, area=torch.ones(count)).target()["area"].shape == (count,)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(image=torch.zeros(3, 6, 8)), "image must be torch.uint8"),
        (
            dict(image=torch.zeros(6, 8, 3, dtype=torch.uint8)),
            r"image must be .*\(3, H, W\).*\(6, 8, 3\)",
        ),
        (dict(boxes=torch.ones(2, 4, dtype=torch.float64)), "boxes must be torch.float32"),
        (dict(boxes=torch.zeros(0)), r"boxes must be .* shape \(G, 4\)"),
        (dict(labels=torch.zeros(3, dtype=torch.int64)), r"labels must be .*\(2,\).*\(3,\)"),
        (dict(labels=torch.zeros(2)), "labels must be torch.int64"),
        (dict(labels=torch.tensor([0, -1])), "label is -1"),
        (dict(difficult=torch.zeros(2)), "difficult must be torch.bool"),
        (dict(crowd=torch.zeros(1, dtype=torch.bool)), "crowd must be"),
        (dict(area=torch.zeros(2, 1)), "area must be"),
        (dict(boxes=torch.tensor([[0.0, 0, 1, 1], [0, 0, float("nan"), 1]])), r"'two': boxes\[1\]"),
        (dict(boxes=torch.tensor([[0.0, 0, float("inf"), 1], [0, 0, 1, 1]])), r"boxes\[0\]"),
        (dict(boxes=torch.tensor([[0.0, 0, 1, 1], [3, 1, 2, 4]])), r"boxes\[1\].*x1 < x2"),
        (dict(boxes=torch.tensor([[0.0, 0, 1, 0], [0, 0, 1, 1]])), r"boxes\[0\]"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        sample(**changes)


def test_a_box_past_the_border_is_allowed_and_a_sample_is_frozen():
    one = sample(boxes=torch.tensor([[-1.0, 0, 3, 3], [0, 0, 9, 7]]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.id = "other"


def test_resize_moves_the_boxes_with_the_picture():
    one = sample(area=torch.tensor([10.0, 20.0]), difficult=torch.tensor([True, False]))
    one.image[:, 1:4, 2:6] = 200  # the first box, filled
    large = resize(one, (12, 32))
    assert large.size == (12, 32) and large.image.dtype == torch.uint8
    assert large.boxes[0].tolist() == [8, 2, 24, 8] and large.boxes[1].tolist() == [0, 0, 32, 12]
    assert large.area.tolist() == [80, 160]
    assert large.difficult.tolist() == [True, False] and large.id == "two"
    assert (large.image[:, 3:7, 11:21] > 150).all() and (large.image[:, 0] < 50).all()
    assert resize(one, 5).size == (5, 5)
    assert resize(sample(0), 4).boxes.shape == (0, 4)


def test_every_reader_gives_a_dataset_and_a_list_is_none(tmp_path):
    opened = [
        Smears("train", 2, 64, cache=False),
        open_dataset(f"voc:{voc_folder(tmp_path / 'voc')}", "train"),
        open_dataset(f"coco:{coco_file(tmp_path / 'coco')}", "train"),
    ]
    for data in opened:
        assert isinstance(data, Dataset)
        assert data.ids() == [one.id for one in data] and len(data.ids()) == len(data) > 0
        for told, one in zip(data.targets(), data, strict=True):
            assert told.keys() == one.target().keys()
            assert all(torch.equal(told[name], one.target()[name]) for name in told)
    assert not isinstance([sample()], Dataset)
