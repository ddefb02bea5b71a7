"""Pictures as input: torchvision's transform, sides that are kept, batches of like shapes."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from lesson_lib.data.augment import MEAN_COLOUR
from lesson_lib.data.catalog import open_dataset
from lesson_lib.data.feed import Feed
from lesson_lib.data.resizing import Resizing, as_resizing, like_shapes, picture_sizes
from lesson_lib.data.samples import Sample, resize
from lesson_lib.data.smears import Smears

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
#: What torchvision fills up with is 0 once normalised; ours is the nearest whole level to it.
HALF_A_LEVEL = 0.5 / 255 / min(STD)
#: COCO's and VOC's usual sizes, portraits, small and large ones, and shapes that no picture has.
SIZES = (
    *((480, 640), (427, 640), (640, 427), (375, 500), (500, 333), (768, 1024), (1200, 1600)),
    *((30, 200), (7, 1), (1, 1), (333, 1000), (600, 600)),
)


def noise(height: int, width: int) -> Sample:
    drawn = torch.Generator().manual_seed(height * 1000 + width)
    image = torch.randint(0, 256, (3, height, width), generator=drawn, dtype=torch.uint8)
    corners = torch.rand(2, 2, generator=drawn).sort(0).values  # (2, 2)
    box = (corners * torch.tensor([width, height])).reshape(1, 4)
    return Sample(image, box, torch.zeros(1, dtype=torch.int64), id=f"{height}x{width}")


def assert_torchvisions(sample: Sample, size: int, longest: int) -> None:
    """Shape, boxes and pixels; and what differs: where and with what it is filled up."""
    transform = GeneralizedRCNNTransform(size, longest, MEAN, STD).eval()
    target = {"boxes": sample.boxes, "labels": sample.labels}
    theirs, (moved,) = transform([sample.image / 255], [target])
    resizing = Resizing(size, "shorter")
    ours = resizing.apply(sample)
    height, width = theirs.image_sizes[0]
    assert resizing.inner(sample.size) == (height, width)
    torch.testing.assert_close(ours.boxes, moved["boxes"])
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    normalised = (ours.image / 255 - mean) / std
    inside = normalised[:, :height, :width] - theirs.tensors[0, :, :height, :width]
    assert inside.abs().max() < 1.01 * HALF_A_LEVEL
    filled = torch.ones(ours.size, dtype=torch.bool)
    filled[:height, :width] = False
    assert (ours.image[:, filled] == torch.tensor(MEAN_COLOUR)[:, None]).all()
    assert (theirs.tensors[0][:, height:] == 0).all() and (
        theirs.tensors[0][..., width:] == 0
    ).all()
    if filled.any():
        assert normalised[:, filled].abs().max() < 1.5 * HALF_A_LEVEL
    assert ours.size == resizing.canvas(sample.size) in resizing.canvases()
    assert all(mine >= other for mine, other in zip(ours.size, theirs.tensors.shape[2:]))


@pytest.mark.parametrize("size, longest", [(600, 1000), (800, 1333)])
@pytest.mark.parametrize("picture", SIZES)
def test_shorter_is_torchvisions_transform(picture, size, longest):
    assert_torchvisions(noise(*picture), size, longest)


@pytest.mark.parametrize("data, split", [("bccd", "val"), ("aquarium", "val")])
def test_on_real_pictures_too(real_datasets, data, split):
    real_datasets(data)
    samples = open_dataset(data, split)
    for index in range(0, len(samples), max(1, len(samples) // 3)):
        assert_torchvisions(samples[index], 600, 1000)


def test_canvases_are_few_and_hold_every_picture():
    assert Resizing(800, "shorter").canvases() == (
        *((800, 800), (800, 1088), (800, 1216), (800, 1344)),
        *((1088, 800), (1216, 800), (1344, 800)),
    )
    assert Resizing(800, "shorter").largest() == (800, 1344)
    assert Resizing(600, "shorter", 600).canvases() == ((608, 608),)
    for size in (64, 100, 333, 600):
        resizing = Resizing(size, "shorter")
        assert len(set(resizing.canvases())) == len(resizing.canvases()) <= 7
        for picture in SIZES:
            inner, canvas = resizing.inner(picture), resizing.canvas(picture)
            assert all(1 <= side <= whole for side, whole in zip(inner, canvas))
            for other in resizing.canvases():  # it is shrunk to fit, and keeps its shape
                inner = resizing.inner(picture, other)
                assert all(1 <= side <= whole for side, whole in zip(inner, other))
                assert min(inner) < 8 or inner[0] / inner[1] == pytest.approx(
                    picture[0] / picture[1], rel=0.15
                )


@pytest.mark.parametrize("picture", SIZES)
def test_letterbox(picture):
    sample, resizing = noise(*picture), Resizing(96, "letterbox")
    ours, (height, width) = resizing.apply(sample), resizing.inner(picture)
    assert ours.size == (96, 96) == resizing.largest() and max(height, width) == 96
    assert torch.equal(ours.image[:, :height, :width], resize(sample, (height, width)).image)
    fill = torch.tensor(MEAN_COLOUR, dtype=torch.uint8)[:, None, None]
    assert (ours.image[:, height:] == fill).all() and (ours.image[:, :, width:] == fill).all()
    shrunk = (height / picture[0], width / picture[1])
    assert abs(shrunk[0] * picture[0] / (shrunk[1] * picture[1]) - height / width) < 1e-9


def test_squares_are_what_they_were():
    sample = noise(48, 64)
    ours = as_resizing(32).apply(sample)
    theirs = resize(sample, 32)
    assert torch.equal(ours.image, theirs.image) and torch.equal(ours.boxes, theirs.boxes)


@pytest.mark.parametrize("how", ["square", "letterbox", "shorter"])
@pytest.mark.parametrize("picture", SIZES)
def test_boxes_come_back_exactly(how, picture):
    resizing, sample = Resizing(256, how), noise(*picture)
    back = resizing.restore(resizing.apply(sample).boxes, sample.size)
    torch.testing.assert_close(back, sample.boxes, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(how="wide"), "choose square, letterbox, shorter"),
        (dict(size=0), "1 or more"),
        (dict(longest=100), "at least as much"),
    ],
)
def test_nonsense_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(Resizing(256, "shorter"), **change)


# ---- batches of like shapes ----


def test_batches_of_like_shapes():
    canvases = [(32, 64), (32, 64), (64, 32), (32, 32)] * 5  # 10, 5, 5
    numbers = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    batches = like_shapes(numbers, canvases, 3)
    assert sorted(len(rows) for rows, _ in batches) == [3] * 6
    seen = [row for rows, _ in batches for row in rows]
    assert len(set(seen)) == 18
    mixed = 0
    for rows, canvas in batches:
        own = Counter(canvases[row] for row in rows)
        assert own[canvas] == max(own.values())  # that of most
        mixed += len(own) > 1
    assert mixed <= 2  # the rest of each shape, put together
    assert like_shapes([], [], 2) == []


def test_every_picture_has_its_turn_even_the_only_one_of_its_shape():
    samples = [noise(30, 40)] * 7 + [noise(40, 30)]
    feed = Feed(samples, Resizing(32, "shorter"), 4, cache=False, workers=0)
    assert len(feed) == 2 == len(feed.order(0))
    for epoch in range(3):
        assert {row for rows in feed.order(epoch) for row in rows} == set(range(8))
    small = Feed(samples[-3:], Resizing(32, "shorter"), 2, cache=False, workers=0)
    waiting = {min(set(range(3)) - set(small.order(epoch)[0])) for epoch in range(20)}
    assert waiting == {0, 1, 2}  # whoever fills no batch is another one each time


@pytest.mark.parametrize("augment", ["none", "ssd", "flips"])
@pytest.mark.parametrize("how", ["letterbox", "shorter"])
def test_the_feed_gives_one_shape_a_batch(how, augment):
    samples = [noise(30 + 3 * k, 60) for k in range(6)] + [noise(60, 30 + k) for k in range(6)]
    resizing = Resizing(64, how)
    options = dict(size=resizing, batch=4, augment=augment, workers=0)
    alone = list(Feed(samples, **options).epoch(1))
    ranks = [list(Feed(samples, **options, rank=rank, world=2).epoch(1)) for rank in range(2)]
    assert len(alone) == 3
    for step, (images, targets) in enumerate(alone):
        assert tuple(images.shape[2:]) in resizing.canvases()
        height, width = images.shape[2:]
        for target in targets:
            assert (target["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all()
        parts = {t["id"]: x for rank in ranks for x, t in zip(*rank[step])}
        assert all(torch.equal(parts[t["id"]], x) for x, t in zip(images, targets))
    again = list(Feed(samples, **options).epoch(1, start=1))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(alone[1:], again, strict=True))


def test_no_picture_is_decoded_for_its_size():
    class Closed(Smears):
        def __getitem__(self, index):
            raise AssertionError("painted")

    assert picture_sizes(Closed("train", 3, (64, 96))) == [(64, 96)] * 3
    assert picture_sizes([noise(3, 5)]) == [(3, 5)]
