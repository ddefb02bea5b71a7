"""data/focal_outputs.npz, which lesson 4 draws from, and the tool that makes it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lesson_lib.anchors import pyramid_anchors
from lesson_lib.data.samples import Sample
from lesson_lib.matching import IGNORE, POSITIVE, match_retinanet
from tools.focal_outputs import CONFIG, SIZE, turned_logits

FILE = Path(__file__).parent.parent / "data" / "focal_outputs.npz"


@pytest.fixture
def record():
    with np.load(FILE) as data:
        return dict(data)


def test_the_record_is_small_and_whole(record):
    assert FILE.stat().st_size < 200_000
    assert (np.diff(record["steps"].astype(int)) > 0).all()
    assert len(record["steps"]) == len(record["positives"]) == len(record["negatives"])
    assert (record["positives"] + record["negatives"] > 0).all() and (
        record["positives"] >= 0
    ).all()
    entries = (
        record["pictures"] * 3069 * CONFIG.num_classes
    )  # 9 (16^2 + 8^2 + 4^2 + 2^2 + 1) anchors
    total = record["positives"].sum() + record["negatives"].sum()
    assert 0.9 * entries < total < entries  # the ignored are left out
    assert record["positives"].sum() > 10_000


def test_the_record_is_of_a_network_that_has_learned(record):
    right = record["steps"] > 0
    assert record["positives"][right].sum() > 0.5 * record["positives"].sum()
    assert record["negatives"][right].sum() > 0.99 * record["negatives"].sum()
    assert record["recall"].mean() > 0.7


def test_logits_are_turned_towards_the_right_answer_and_ignored_anchors_left_out():
    """A model that is right about everything, by logits of 7 and 3 for yes and -5 for no, on one
    picture.
    """
    box, spec = torch.tensor([[40.0, 40.0, 66.0, 62.0]]), CONFIG.anchors
    sample = Sample(torch.zeros(3, SIZE, SIZE, dtype=torch.uint8), box, torch.tensor([1]))
    anchors = pyramid_anchors((SIZE, SIZE), spec)
    label = match_retinanet(box, anchors).label
    logits = torch.full((1, len(anchors), 3), -5.0)
    logits[0, label == POSITIVE, 1] = 7.0
    logits[0, label == IGNORE] = 99.0
    first = (label == POSITIVE).nonzero()[0, 0]
    logits[0, first] = torch.tensor([3.0, -2.0, -5.0])  # wrong: class 0 instead of class 1

    class Model:
        def eval(self):
            return self

        def anchors(self, size):
            return anchors

        def __call__(self, images):
            return SimpleNamespace(cls_logits=logits)

    positive, negative = turned_logits(Model(), [sample])
    count = int((label == POSITIVE).sum())
    assert sorted(positive.tolist()) == [-2.0] + [7.0] * (count - 1)
    others = 3 * int((label != IGNORE).sum()) - count
    assert (
        len(negative) == others
        and sorted(negative.tolist())[:2] == [-3.0, 5.0]
        and negative.max() == 5
    )
