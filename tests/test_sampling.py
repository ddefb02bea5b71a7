"""Rare classes come up more often: the factors by hand, and how often each picture is drawn."""

from collections import Counter

import numpy as np
import pytest
import torch

from lesson_lib.data.feed import Feed
from lesson_lib.data.samples import Sample
from lesson_lib.data.sampling import drawn, labels_of, repeat_factors
from lesson_lib.data.smears import Smears


def labelled(*rows):
    return [torch.tensor(row, dtype=torch.int64) for row in rows]


def test_factors_by_hand():
    """Of 4 pictures 3 show class 0, 1 shows class 1: r = 1 and sqrt(.5 / .25)."""
    found = repeat_factors(labelled([0, 0], [0, 1], [0], []), rare=0.5)
    assert found == pytest.approx([1, 2**0.5, 1, 1])
    assert repeat_factors([], 0.5).tolist() == []
    assert repeat_factors(labelled([0], [1]), rare=0.5).tolist() == [1, 1]


def test_each_comes_up_as_often_as_its_weight_says():
    weights = np.array([1.0] * 9 + [3.0])
    counts = Counter()
    for seed in range(200):
        numbers = drawn(weights, np.random.default_rng(seed))
        assert len(numbers) == 10
        own = Counter(numbers)
        assert own[9] in (2, 3) and all(own[i] <= 1 for i in range(9))  # 2.5 and .83
        counts += own
    assert counts[9] / 200 == pytest.approx(2.5, abs=0.15)
    assert min(counts[i] for i in range(9)) / 200 == pytest.approx(10 / 12, abs=0.15)
    assert sorted(drawn(np.ones(7), np.random.default_rng(0))) == list(range(7))


def test_the_feed_shows_rare_classes_more_often():
    samples = [
        Sample(
            torch.zeros(3, 32, 32, dtype=torch.uint8),
            torch.tensor([[0.0, 0, 9, 9]]),
            torch.tensor([int(k == 0)]),
            id=f"{k}",
        )
        for k in range(20)
    ]
    feed, plain = Feed(samples, 32, 4, rare=0.5), Feed(samples, 32, 4)
    shown = Counter(row for epoch in range(20) for rows in feed.order(epoch) for row in rows)
    assert len(feed.order(0)) == len(plain.order(0)) == 5
    assert shown[0] >= 2 * max(shown[row] for row in range(1, 20))
    assert feed.order(3) == Feed(samples, 32, 4, rare=0.5).order(3)
    parts = [Feed(samples, 32, 4, rare=0.5, rank=rank, world=2).order(3) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*parts)] == [sorted(rows) for rows in feed.order(3)]


def test_labels_are_those_of_the_samples():
    smears = Smears("train", 3, 64)
    for told, asked in zip(labels_of(smears), labels_of(list(smears)), strict=True):
        assert torch.equal(told, asked)
