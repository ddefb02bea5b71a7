"""Lesson 5's contest: what its boxes hold, where it starts, and what counts as found."""

from types import SimpleNamespace

import pytest
import torch

from lesson_lib.course.contest import ContestSet, contest_set, learn, recall_by_class, start
from lesson_lib.data.smears import Smears
from lesson_lib.losses import softmax_cross_entropy


class Said(torch.nn.Module):
    """A network that has made up its mind: logits (N, A, 4)."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return SimpleNamespace(cls_logits=self.logits)


def test_every_object_has_a_box_of_its_class():
    samples = list(Smears("train", 3, 128))
    pupils = contest_set(samples)
    for sample, classes, index in zip(samples, pupils.classes, pupils.index):
        for g, label in enumerate(sample.labels.tolist()):
            assert (classes[index == g] == label + 1).all() and (index == g).any()
    assert ((pupils.classes > 0) == (pupils.index >= 0)).all()
    positive = int((pupils.classes > 0).sum())
    assert pupils.imbalance() == pytest.approx(pupils.classes.numel() / positive - 1)


def test_with_the_prior_the_background_is_likely_at_the_start():
    images = torch.rand(2, 3, 128, 128)
    likely = {p: start(0, p)(images).cls_logits.softmax(-1)[..., 0].mean() for p in (None, 0.01)}
    assert likely[None] < 0.6 < 0.95 < likely[0.01]
    same = [next(start(0, prior).parameters()) for prior in (None, 0.01)]
    assert torch.equal(*same)


def test_an_object_is_found_when_one_of_its_own_boxes_is_among_the_surest_of_its_class():
    classes = torch.tensor([[1, 1, 0, 2], [1, 0, 3, 0]])
    index = torch.tensor([[0, 0, -1, 1], [0, -1, 1, -1]])
    judged = ContestSet(torch.zeros(2, 3, 1, 1), classes, index)
    logits = torch.zeros(2, 4, 4)
    logits[0, :2, 1] = 9  # both boxes of one red cell
    logits[0, 2, 1] = 8  # and background, which takes the other's place
    logits[0, 3, 2] = 5  # the white cell
    logits[1, 1, 3] = 7  # a platelet where there is none
    assert recall_by_class(Said(logits), judged).tolist() == [0.5, 1, 0]


def test_a_network_that_says_the_same_everywhere_does_not_find_everything():
    classes = torch.tensor([[0, 1, 1, 0, 2, 3, 0, 1]])
    index = torch.tensor([[-1, 0, 1, -1, 2, 3, -1, 4]])
    judged = ContestSet(torch.zeros(1, 3, 1, 1), classes, index)
    assert recall_by_class(Said(torch.zeros(1, 8, 4)), judged).sum() < 2


def test_training_reports_each_moment_and_each_step():
    pupils = contest_set(list(Smears("train", 8, 128)))

    def loss(logits, classes, positive, negative):
        return softmax_cross_entropy(logits, classes)

    found, losses = learn(pupils, pupils, loss, start(0, 0.01), (2, 5))
    assert set(found) == {2, 5} and len(losses) == 5
    assert all(recall.shape == (3,) for recall in found.values())
    again = learn(pupils, pupils, loss, start(0, 0.01), (2, 5))[1]
    assert again == losses
