"""The feed: the same batches for the same seed, whoever asks and wherever one begins."""

import itertools
import os
import random
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_data import voc_object, voc_picture
from two_processes import TORCHRUN, environment

from lesson_lib.data import feed as feed_module
from lesson_lib.data.augment import AUGMENTS, Augment
from lesson_lib.data.feed import Feed
from lesson_lib.data.resizing import Resizing
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


def noise() -> list[Sample]:
    """The same objects in pictures of noise, whose pixels all differ."""
    generator = torch.Generator().manual_seed(0)
    return [
        replace(
            sample,
            image=torch.randint(0, 256, sample.image.shape, generator=generator, dtype=torch.uint8),
        )
        for sample in samples()
    ]


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


@pytest.mark.parametrize(
    "size, stored",
    [
        *((32, None), (32, 48), (32, 0)),
        *((Resizing(32, "letterbox"), None), (Resizing(32, "shorter"), None)),
    ],
)
@pytest.mark.parametrize("name", AUGMENTS)
def test_the_size_of_the_set_changes_nothing(name, size, stored):
    """Kept decoded and read anew each time: the same pictures, bit for bit, and the same boxes."""
    kept = Feed(noise(), size, 5, 1, name, cache=True, stored=stored)
    read = Feed(noise(), size, 5, 1, name, cache=False, workers=0, stored=stored)
    assert kept.cache and not read.cache
    for epoch in range(3):
        assert_same(kept.epoch(epoch), read.epoch(epoch))


@pytest.mark.parametrize("how", ["letterbox", "shorter"])
def test_the_feed_makes_of_a_picture_what_prediction_makes_of_it(how):
    """Without augmentation, bit for bit: what is learnt is what is asked for later."""
    resizing = Resizing(32, how)
    for images, targets in Feed(noise(), resizing, 1, cache=True).epoch(0):
        k = int(targets[0]["id"][1:])
        expected = resizing.apply(noise()[k])
        assert torch.equal((images[0] * 255).round().byte(), expected.image)
        assert torch.allclose(targets[0]["boxes"], expected.boxes[: k % 3], atol=0.01)


def test_full_size_shows_detail_that_a_small_copy_has_lost():
    """A crop of stripes of one pixel: at a quarter of the size they are one grey."""
    stripes = torch.zeros(3, 128, 128, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    sample = Sample(stripes, torch.tensor([[40.0, 40, 80, 80]]), torch.tensor([0]))
    contrast = {}
    for stored in (None, 0):
        feed = Feed([sample], 32, 1, 0, Augment(crop=1), stored=stored)
        images = [image for epoch in range(30) for image, _ in feed.epoch(epoch)]
        contrast[stored] = torch.cat(images).std((1, 2, 3)).max()
    assert contrast[None] < 0.05 < 0.1 < contrast[0]


@pytest.mark.parametrize("cache, workers", [(True, None), (False, 0), (False, 2)])
def test_all_epochs_come_one_after_the_other(cache, workers):
    feed = Feed(noise(), 32, 4, 3, "smears", cache=cache, workers=workers)
    expected = [batch for epoch in range(3) for batch in feed.epoch(epoch)]
    assert_same(expected, itertools.islice(feed.batches(), 6))
    assert_same(expected[3:], itertools.islice(feed.batches(3), 3))


class WhoReads(list):
    """Samples whose names tell the process that read them."""

    def __getitem__(self, index):
        return replace(super().__getitem__(index), id=str(os.getpid()))


def test_workers_start_once_for_all_epochs():
    feed = Feed(WhoReads(samples(4)), 32, 2, cache=False, workers=2)
    readers = {name for batch in names(itertools.islice(feed.batches(), 12)) for name in batch}
    assert len(readers) == 2 and str(os.getpid()) not in readers  # six epochs


@pytest.mark.parametrize("batch", [2, 5])
def test_a_batch_crosses_to_the_device_in_three_pieces(batch, monkeypatch):
    """Pictures, colours, objects: whatever the number of pictures."""
    options = dict(augment="ssd", device="cpu:0", cache=False, workers=0)  # another than "cpu"
    steps = Feed(noise(), 32, batch, **options).epoch(0)
    moved, plain = [], torch.Tensor.to

    def seen(tensor, *where, **options):
        moved.append(tensor)
        return plain(tensor, *where, **options)

    monkeypatch.setattr(torch.Tensor, "to", seen)
    next(steps)
    assert len([tensor for tensor in moved if tensor.dim() > 0]) == 3


def test_processes_of_one_machine_decode_each_picture_once(tmp_path):
    """Two processes under torchrun, as `train` uses the feed: what they get is what one would."""
    script = tmp_path / "two.py"
    script.write_text(TWO.format(tests=str(Path(__file__).parent), out=str(tmp_path)))
    command = [*TORCHRUN, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment())
    assert done.returncode == 0, done.stderr
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert sorted(found[0]["read"] + found[1]["read"]) == sorted(sample.id for sample in noise())
    assert min(len(part["read"]) for part in found) == 5
    assert not Path(found[0]["file"]).exists() and found[0]["file"] == found[1]["file"]
    options = dict(size=32, batch=10, augment="ssd")
    for rank, part in enumerate(found):
        alone = Feed(noise(), **options, rank=rank, world=2).epoch(0)
        assert_same(alone, part["batches"])


TWO = """
import os, sys
sys.path.insert(0, {tests!r})
import torch
from test_feed import noise
from lesson_lib.data import store
from lesson_lib.data.feed import Feed
from lesson_lib.training.distributed import all_gather, processes, rank_and_world

read, files, plain = [], [], store.torch.from_file


class Counted(list):
    def __getitem__(self, index):
        read.append(super().__getitem__(index).id)
        return super().__getitem__(index)


def seen(file, *args, **options):
    files.append(file)
    return plain(file, *args, **options)


store.torch.from_file = seen
with processes():
    rank, world = rank_and_world()
    feed = Feed(
        Counted(noise()), 32, 10, augment="ssd", rank=rank, world=world, gather=all_gather
    )
    batches = [(images, list(targets)) for images, targets in feed.epoch(0)]
    found = dict(batches=batches, read=read, file=files[0])
    torch.save(found, os.path.join({out!r}, f"{{rank}}.pt"))
"""


def test_a_broken_picture_stops_all_processes_with_its_sentence(monkeypatch):
    """What one process meets, all are told: here the other's share holds the broken one."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    broken = ValueError("The picture b is broken.")
    theirs = iter([None, [broken] * 5])

    def gather(mine):
        return [*mine, next(theirs)]

    feed = Feed(noise(), 32, 10, world=2, gather=gather)
    with pytest.raises(ValueError, match="^The picture b is broken"):
        feed.epoch(0)


def test_crops_of_larger_stored_pictures_fit_too():
    for images, targets in Feed(samples(), 32, 5, 0, "crops", stored=64).epoch(0):
        assert images.shape[2:] == (32, 32)
        for target in targets:
            assert (target["boxes"] >= 0).all() and (target["boxes"] <= 32).all()
            assert (target["boxes"][:, 2:] - target["boxes"][:, :2] >= 1).all()


@pytest.mark.parametrize(
    "free, workers, world, words",
    [
        (5 * 12288, 2, 1, None),  # two of each worker and one in use, of 4 x 3 x 32 x 32 bytes
        (5 * 12288 - 1, 2, 1, "--set workers=1"),
        (3 * 12288 - 1, 1, 1, "--set workers=0"),
        (0, 1, 1, "What 1 workers .* --shm-size=1g.* --set workers=0"),
        (0, 0, 1, None),  # this process reads
        (5 * 12288, 2, 2, None),  # each of two has half of the batch
        (5 * 12288 - 1, 2, 2, "--set workers=1"),
    ],
)
def test_shared_memory_that_is_too_small_for_the_workers_is_told(
    free, workers, world, words, tmp_path, monkeypatch
):
    """And not by a bus error in the middle of a training."""
    monkeypatch.setattr(feed_module, "SHARED", tmp_path)
    monkeypatch.setattr(feed_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(world))
    feed = Feed(samples(), 32, 4, cache=False, workers=workers, world=world)
    with pytest.raises(ValueError, match=words) if words else nullcontext():
        images, _ = next(feed.epoch(0))
        assert len(images) == 4 // world
    monkeypatch.setattr(feed_module, "SHARED", tmp_path / "of another system")
    assert len(next(feed.epoch(0))[0]) == 4 // world


def test_small_sets_and_no_cache_for_large_ones(monkeypatch):
    assert names(Feed(samples(3), 32, 8).epoch(0))[0] != [] and len(Feed(samples(3), 32, 8)) == 1
    nameless = [Sample(s.image, s.boxes, s.labels) for s in samples(2)]
    assert sorted(names(Feed(nameless, 32, 2).epoch(0))[0]) == ["number 0", "number 1"]
    assert Feed(samples(), 32, 4, cache=None).cache
    monkeypatch.setattr("lesson_lib.data.feed.CACHE_BYTES", 10 * 3 * 32**2 - 1)
    assert not Feed(samples(), 32, 4, cache=None).cache
    monkeypatch.setattr(
        "lesson_lib.data.feed.CACHE_BYTES", sum(3 * 40 * (30 + k) for k in range(10))
    )
    assert Feed(samples(), 32, 4, cache=None, stored=0).cache
    assert not Feed([*samples(), samples()[0]], 32, 4, cache=None, stored=0).cache


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
