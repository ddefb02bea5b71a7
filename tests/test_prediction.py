"""Evaluation while training: the loss of pictures not learned from, and pictures decoded once."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from lesson_lib.data.resizing import Resizing
from lesson_lib.data.samples import Sample, resize
from lesson_lib.data.smears import draw_smear
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSDConfig
from lesson_lib.evaluation import coco_evaluate
from lesson_lib.training import prediction
from lesson_lib.training.loop import train
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


def test_a_run_in_bfloat16_is_evaluated_in_bfloat16_afterwards_too():
    """What `evaluate` finds while training, `predict` finds in the recipe's precision: the same
    figures to the last digit, from other scores than float32's.
    """
    recipe, model = replace(RECIPE, precision="bf16"), ssd()
    half = predict(model, SMEARS, 64, precision="bf16")
    whole = predict(model, SMEARS, 64)
    assert not all(torch.equal(a["scores"], b["scores"]) for a, b in zip(half, whole, strict=True))
    figures = coco_evaluate(half, [sample.target() for sample in SMEARS], 3)
    found = evaluate(model, SMEARS, recipe)
    assert {name: found[name] for name in ("AP", "AP50", "AR100")} == {
        name: figures[name] for name in ("AP", "AP50", "AR100")
    }


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_cudnn_tries_no_algorithms_in_an_evaluation(before, broken, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    model, seen = ssd(), []

    def look(*_):
        seen.append(torch.backends.cudnn.benchmark)
        if broken:
            raise ValueError("Something is wrong.")

    model.register_forward_hook(look)
    with pytest.raises(ValueError) if broken else nullcontext():
        evaluate(model, SMEARS, RECIPE)
    assert set(seen) == {False} and torch.backends.cudnn.benchmark is before


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


# ---- pictures that keep their aspect ----

KEEPING = [Resizing(64, "letterbox"), Resizing(64, "shorter"), Resizing(48, "shorter", 60)]


def mixed():
    """Smears of several shapes, a row of each."""
    return [
        Sample(s.image[:, :h, :w].contiguous(), torch.tensor([[0.0, 0, w, h]]), s.labels[:1])
        for s, (h, w) in zip(SMEARS, [(64, 30), (40, 64), (64, 64), (64, 30), (33, 64)])
    ]


@pytest.mark.parametrize("resizing", KEEPING)
def test_boxes_are_mapped_back_to_each_picture(monkeypatch, resizing):
    """Whatever is detected: the whole picture, and something beyond it that is cut off."""
    samples, model, asked = mixed(), retinanet(), []

    def detections(outputs, anchors, size, sizes):
        asked.extend(sizes)
        assert len(anchors) == outputs.cls_logits.shape[1] and size in resizing.canvases()
        rows = [[0, 0, w, h] for h, w in sizes], [[w, 0, size[1] + 1, h] for h, w in sizes]
        return [
            {
                "boxes": torch.tensor(both).float(),
                "scores": torch.tensor([0.9, 0.8]),
                "labels": torch.tensor([0, 1]),
            }
            for both in zip(*rows)
        ]

    monkeypatch.setattr(model, "detections", detections)
    found = predict(model, samples, resizing, batch=2)
    assert len(found) == len(asked) == len(samples)
    for sample, p in zip(samples, found):
        assert p["labels"].tolist() == [0] and len(p["scores"]) == 1
        torch.testing.assert_close(p["boxes"], sample.boxes)


@pytest.mark.parametrize("resizing", KEEPING)
@pytest.mark.parametrize("make", [ssd, retinanet])
def test_pictures_keep_their_place_and_their_border(make, resizing):
    samples = mixed()
    one, many = (predict(make(), samples, resizing, batch, score_threshold=0.0) for batch in (1, 4))
    for sample, a, b in zip(samples, one, many, strict=True):
        height, width = sample.size
        assert len(a["boxes"]) > 0
        assert (a["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all()
        torch.testing.assert_close(a["scores"], b["scores"], atol=1e-4, rtol=1e-3)
    figures = evaluate(make(), samples, replace(RECIPE, resize=resizing.how))
    assert figures["val_loss"] > 0


@pytest.mark.parametrize("make", [ssd, retinanet])
def test_boxes_are_clipped_at_the_pictures_size_before_nms(make):
    model, size = make(), (64, 64)
    images, anchors = torch.rand(2, 3, 64, 64), model.anchors(64)
    with torch.no_grad():
        outputs = model.eval()(images)
    found = model.detections(outputs, anchors, size, sizes=[(64, 64), (40, 20)], score_threshold=0)
    whole = model.detections(outputs, anchors, size, score_threshold=0.0)
    assert torch.equal(found[0]["boxes"], whole[0]["boxes"])
    assert found[1]["boxes"].amax(0).tolist() == [*found[1]["boxes"].amax(0)[:2].tolist(), 20, 40]
    with pytest.raises(ValueError, match="1 sizes for 2 pictures"):
        model.detections(outputs, anchors, size, sizes=[(64, 64)])


@pytest.mark.parametrize("how", ["letterbox", "shorter"])
@pytest.mark.parametrize("make", [ssd, retinanet])
def test_training_sees_them_too(make, how):
    recipe = replace(RECIPE, epochs=2, batch=2, resize=how, evaluate=2, precision="fp32")
    records = list(train(make(), mixed() * 2, recipe, mixed()))
    assert len(records) == 10 and "AP" in records[-1]
    assert all(0 < record["loss"] < 1e4 for record in records)
