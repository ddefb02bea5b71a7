"""The feed: the same batches for the same seed, whoever asks and wherever one begins."""

import random

import numpy as np
import pytest
import torch
from tiny_data import voc_object, voc_picture

from lesson_lib.data.augment import AUGMENTS
from lesson_lib.data.feed import Feed
from lesson_lib.data.samples import Sample, resize
from lesson_lib.data.voc import VocFolder


def samples(count: int = 10) -> list[Sample]:
    """Pictures of unlike sizes, each of one grey; picture k holds k % 3 objects of label k and a
    crowd.
    """
    made = []
    for k in range(count):
        boxes = torch.tensor([[4.0, 4, 20, 24], [10, 8, 30, 30], [0, 0, 39, 29]])[
            [*range(k % 3), 2]
        ]
        crowd = torch.arange(len(boxes)) == len(boxes) - 1
        made.append(
            Sample(
                torch.full((3, 30 + k, 40), 10 * k + 5, dtype=torch.uint8),
                boxes,
                torch.full((len(boxes),), k),
                crowd=crowd,
                id=f"p{k}",
            )
        )
    return made


def names(batches) -> list[list[str]]:
    return [[target["id"] for target in targets] for _, targets in batches]


def assert_same(one, other) -> None:
    one, other = list(one), list(other)
    assert names(one) == names(other) and len(one) > 0
    for (images, targets), (images2, targets2) in zip(one, other):
        assert torch.equal(images, images2)
        for target, target2 in zip(targets, targets2):
            assert all(
                torch.equal(target[key], target2[key]) for key in ("boxes", "labels", "difficult")
            )


@pytest.mark.parametrize("cache", [True, False])
def test_what_comes_out(cache):
    feed = Feed(samples(), 32, 4, augment="none", cache=cache, workers=0)
    batches = list(feed.epoch(0))
    assert len(batches) == len(feed) == 2  # 10 pictures: two wait
    seen = [name for batch in names(batches) for name in batch]
    assert len(set(seen)) == 8
    for images, targets in batches:
        assert images.shape == (4, 3, 32, 32) and images.dtype == torch.float32
        for image, target in zip(images, targets):
            k = int(target["id"][1:])
            assert torch.allclose(
                image, torch.tensor((10 * k + 5) / 255)
            )  # the picture belongs to the name
            assert target["labels"].tolist() == [k] * (k % 3)  # without the crowd
            expected = resize(samples()[k], 32).boxes[: k % 3]
            assert torch.allclose(target["boxes"], expected)


@pytest.mark.parametrize("name", AUGMENTS)
def test_seed_and_epoch_decide(name):
    def first(seed, epoch):
        return list(Feed(samples(), 32, 5, seed, name).epoch(epoch))

    assert_same(first(1, 4), first(1, 4))
    assert names(first(1, 4)) != names(first(1, 5)) and names(first(1, 4)) != names(first(2, 4))
    all_of_them = {name for epoch in range(2) for batch in names(first(0, epoch)) for name in batch}
    assert len(all_of_them) == 10


@pytest.mark.parametrize("cache, workers", [(True, None), (False, 0), (False, 2)])
def test_an_epoch_goes_on_from_any_step(cache, workers):
    feed = Feed(samples(), 32, 2, 3, "ssd", cache=cache, workers=workers)
    whole = list(feed.epoch(1))
    fresh = Feed(samples(), 32, 2, 3, "ssd", cache=cache, workers=workers)
    assert_same(whole[3:], fresh.epoch(1, start=3))
    assert list(feed.epoch(1, start=5)) == []


def test_workers_give_the_same_as_none_and_leave_chance_alone():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    alone = list(Feed(samples(), 32, 5, 0, "ssd", cache=False, workers=0).epoch(0))
    list(Feed(samples(), 32, 5, 0, "ssd").epoch(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1] and random.getstate() == before[2]
    torch.manual_seed(99)  # workers are seeded from it
    assert_same(alone, Feed(samples(), 32, 5, 0, "ssd", cache=False, workers=2).epoch(0))


@pytest.mark.parametrize("cache", [True, False])
def test_ranks_share_what_one_process_would_get(cache):
    options = dict(size=32, batch=4, seed=2, augment="smears", cache=cache, workers=0)
    alone = list(Feed(samples(), **options).epoch(3))
    ranks = [list(Feed(samples(), **options, rank=rank, world=2).epoch(3)) for rank in range(2)]
    for step, (images, targets) in enumerate(alone):
        parts = [rank[step] for rank in ranks]
        assert [len(part[0]) for part in parts] == [2, 2]
        together = {t["id"]: image for part in parts for image, t in zip(*part)}
        assert together.keys() == {t["id"] for t in targets}
        assert all(torch.equal(together[t["id"]], image) for image, t in zip(images, targets))


def test_crops_of_larger_stored_pictures_fit_too():
    for images, targets in Feed(samples(), 32, 5, 0, "crops", stored=64).epoch(0):
        assert images.shape[2:] == (32, 32)
        for target in targets:
            assert (target["boxes"] >= 0).all() and (target["boxes"] <= 32).all()
            assert (target["boxes"][:, 2:] - target["boxes"][:, :2] >= 1).all()


def test_small_sets_and_no_cache_for_large_ones(monkeypatch):
    assert names(Feed(samples(3), 32, 8).epoch(0))[0] != [] and len(Feed(samples(3), 32, 8)) == 1
    nameless = [Sample(s.image, s.boxes, s.labels) for s in samples(2)]
    assert sorted(names(Feed(nameless, 32, 2).epoch(0))[0]) == ["number 0", "number 1"]
    assert Feed(samples(), 32, 4, cache=None).cache
    monkeypatch.setattr("lesson_lib.data.feed.CACHE_BYTES", 10 * 3 * 32**2 - 1)
    assert not Feed(samples(), 32, 4, cache=None).cache


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(samples=[]), "no picture"),
        (dict(batch=0), "batch of 0"),
        (dict(batch=3, world=2), "multiple of 2"),
        (dict(batch=16, world=2), "at most 10"),
        (dict(rank=2, world=2), "this is 2"),
        (dict(augment="mosaic"), "choose none"),
    ],
)
def test_nonsense_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Feed(**dict(samples=samples(), size=32, batch=4) | change)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_a_worker_cannot_read_is_one_sentence(tmp_path, workers):
    for name in "abcd":
        voc_picture(tmp_path, name, voc_object("cat", (1, 1, 9, 9)))
    data = VocFolder(tmp_path, "all")
    file = tmp_path / "JPEGImages" / "c.png"
    file.write_bytes(file.read_bytes()[:200])
    feed = Feed(data, 32, 2, cache=False, workers=workers)
    with pytest.raises(ValueError, match=r"^The picture \S+c\.png cannot be read .*remove it\.$"):
        list(feed.epoch(0))
