"""Evaluation while training: the loss of pictures not learned from, and pictures decoded once."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lesson_lib.data.samples import Sample, resize
from lesson_lib.data.smears import draw_smear
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSDConfig
from lesson_lib.training import prediction
from lesson_lib.training.prediction import Resized, evaluate, predict
from lesson_lib.training.recipes import Recipe

SMEARS = [draw_smear(0, i, size=64) for i in range(11)]
RECIPE = Recipe(size=64)


def ssd():
    torch.manual_seed(0)
    return SSD(SSDConfig(num_classes=3, backbone="tiny-8", norm="batch", image_size=64))


def retinanet():
    torch.manual_seed(0)
    return RetinaNet(RetinaNetConfig(3, backbone="tiny-8", channels=16, image_size=64))


def by_hand(model, samples, **options):
    """The loss of batches of 8 in evaluation mode, averaged over the pictures."""
    model.eval()
    total = torch.zeros(2)
    for start in range(0, len(samples), 8):
        part = [resize(s, 64) for s in samples[start : start + 8]]
        targets = [{"boxes": s.boxes, "labels": s.labels} for s in part]
        with torch.no_grad():
            outputs = model(torch.stack([s.image for s in part]) / 255)
        losses = model.criterion(outputs, model.anchors(64), targets, **options)
        total += torch.stack([losses["cls"], losses["box"]]) * len(part)
    return (total / len(samples)).tolist()


@pytest.mark.parametrize("make", [ssd, retinanet])
def test_the_loss_is_the_criterions_without_learning(make):
    model = make().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    figures = evaluate(model, SMEARS, RECIPE)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    cls, box = by_hand(model, SMEARS)
    assert figures["val_cls"] == pytest.approx(cls, rel=1e-5)
    assert figures["val_box"] == pytest.approx(box, rel=1e-5)
    assert figures["val_loss"] == figures["val_cls"] + figures["val_box"]
    assert {"AP", "AP50", "F1", "threshold"} <= figures.keys()
    assert all(isinstance(value, float) for value in figures.values())


def test_the_recipes_options_reach_the_criterion():
    plain, twice = (
        evaluate(ssd(), SMEARS, replace(RECIPE, criterion=options))
        for options in ({}, {"loc_weight": 2.0})
    )
    assert twice["val_box"] == pytest.approx(2 * plain["val_box"])


def test_crowds_are_no_objects_to_learn():
    sample = SMEARS[0]
    crowd = torch.zeros(len(sample.boxes), dtype=torch.bool)
    crowd[0] = True
    without = Sample(sample.image, sample.boxes[1:], sample.labels[1:])
    with_crowd = evaluate(ssd(), [replace(sample, crowd=crowd)], RECIPE)
    assert with_crowd["val_loss"] == pytest.approx(evaluate(ssd(), [without], RECIPE)["val_loss"])


class Counted(list):
    """Samples that count how often each is read."""

    def __init__(self, samples):
        super().__init__(samples)
        self.reads = [0] * len(samples)

    def __getitem__(self, index):
        self.reads[index] += 1
        return super().__getitem__(index)

    def targets(self):
        return [sample.target() for sample in list.__iter__(self)]


def test_pictures_are_decoded_once_if_they_can_be_kept(monkeypatch):
    samples = Counted(SMEARS)
    seen = Resized(samples, 64)
    first, second = (evaluate(ssd(), seen, RECIPE) for _ in range(2))
    assert first == second and samples.reads == [1] * 11
    monkeypatch.setattr(prediction, "KEPT_BYTES", 1000)
    seen = Resized(samples, 64)
    assert [evaluate(ssd(), seen, RECIPE) for _ in range(2)] == [first, first]
    assert samples.reads == [3] * 11


def test_a_picture_that_cannot_be_read_is_named_and_the_model_keeps_its_mode():
    class Broken(list):
        def __getitem__(self, index):
            if index == 9:
                raise ValueError("The picture nine.jpg cannot be read.")
            return super().__getitem__(index)

    model = ssd().train()
    with pytest.raises(ValueError, match="nine.jpg"):
        predict(model, Broken(SMEARS), 64)
    assert model.training


def test_order_and_number_do_not_depend_on_the_batch():
    model = ssd()
    one, many = (predict(model, SMEARS, 64, batch=n, score_threshold=0.2) for n in (1, 4))
    assert len(one) == len(many) == 11
    for a, b in zip(one, many, strict=True):
        assert torch.equal(a["labels"], b["labels"])
        torch.testing.assert_close(a["boxes"], b["boxes"], atol=1e-3, rtol=1e-4)


def test_numbers_that_are_not_finite_are_told():
    model = ssd()
    nn.init.constant_(model.heads.box[0].bias, float("nan"))
    with pytest.raises(ValueError, match="NaN or infinity"):
        evaluate(model, SMEARS, RECIPE)
