import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from lesson_lib.detectors.criterion import Outputs
from lesson_lib.detectors.norms import FrozenBatchNorm
from lesson_lib.detectors.retinanet import RETINANET_CONFIGS, RetinaNet, RetinaNetConfig

SMALL = RetinaNetConfig(num_classes=3, backbone="resnet18", channels=64)


def shapes_only(config: RetinaNetConfig) -> RetinaNet:
    """A model without memory and without arithmetic: its outputs have shapes and no values."""
    with torch.device("meta"):
        return RetinaNet(config).eval()


@pytest.fixture(scope="module")
def small() -> RetinaNet:
    torch.manual_seed(0)
    return RetinaNet(SMALL)


@pytest.mark.parametrize(
    "size, total",
    [((512, 512), 49_104), ((600, 600), 67_995), ((600, 1000), 113_193), ((800, 1344), 201_600)],
)
@pytest.mark.parametrize("name, classes", [("paper", 80), ("torchvision", 91)])
def test_published_variants(name, classes, size, total):
    model = shapes_only(RETINANET_CONFIGS[name])
    outputs = model(torch.empty(1, 3, *size, device="meta"))
    assert outputs.cls_logits.shape == (1, total, classes) and outputs.box_deltas.shape == (
        1,
        total,
        4,
    )
    assert model.anchors(size).shape == (total, 4)
    assert model.fpn.p6.in_channels == {"paper": 2048, "torchvision": 256}[name]


@pytest.mark.parametrize(
    "backbone, channels, nodes",
    [
        ("resnet18", (128, 256, 512), ()),
        ("resnet34", (128, 256, 512), ()),
        ("resnet50", (512, 1024, 2048), ()),
        ("lite0", (40, 112, 320), ()),
        ("mobilenet_v3_small", (24, 48, 576), ("features.3", "features.8", "features.12")),
    ],
)
def test_other_backbones_by_one_line(backbone, channels, nodes):
    model = shapes_only(RetinaNetConfig(3, backbone, nodes))
    assert model.backbone.channels == channels
    outputs = model(torch.empty(2, 3, 96, 160, device="meta"))
    assert outputs.cls_logits.shape == (2, len(model.anchors((96, 160))), 3)


def test_two_maps_are_too_few():
    with pytest.raises(ValueError, match="vgg16 has strides"):
        shapes_only(RetinaNetConfig(3, "vgg16"))
    with pytest.raises(ValueError, match="at least 1"):
        RetinaNetConfig(0)


def test_a_row_of_the_output_sees_the_cell_of_its_anchor():
    """From the output's row back to the pyramid:
    what it reads is centred on its anchor's centre.
    """
    model, size = (
        RetinaNet(replace(SMALL, norm="frozen")).eval(),
        (64, 96),
    )  # group norm would see all cells
    maps = [p.detach().requires_grad_() for p in model.features(torch.rand(1, 3, *size))]
    logits, deltas = model.heads(maps)
    anchors = model.anchors(size)
    assert logits.shape[1] == len(anchors)
    reach = 5  # five 3 x 3 convolutions
    for row in (0, 40, 9 * 96 - 1, 9 * 96, 9 * 96 + 100, len(anchors) - 19, len(anchors) - 1):
        for values in (logits, deltas):
            gradients = torch.autograd.grad(
                values[0, row].sum(), maps, retain_graph=True, allow_unused=True
            )
            levels = [i for i, g in enumerate(gradients) if g is not None and g.any()]
            assert len(levels) == 1
            weight = gradients[levels[0]][0].abs().sum(0)
            x1, y1, x2, y2 = (anchors[row] / (8 * 2 ** levels[0])).tolist()
            y, x = int((y1 + y2) / 2), int((x1 + x2) / 2)
            window = torch.zeros_like(weight, dtype=torch.bool)
            window[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] = True
            assert weight[y, x] > 0 and torch.equal(weight > 0, window)


def test_an_untrained_anchor_predicts_the_prior(small):
    with torch.no_grad():
        scores = small.eval()(torch.rand(1, 3, 64, 64)).cls_logits.sigmoid()
    assert scores.mean().item() == pytest.approx(0.01, rel=0.1)
    bolder = RetinaNet(replace(SMALL, prior=0.2)).heads.cls.bias
    assert bolder.sigmoid().mean().item() == pytest.approx(0.2)


def test_anchors_are_float32_whatever_the_mode(small):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        first = small.anchors((40, 48))
    assert first.dtype == torch.float32 and torch.equal(small.anchors((40, 48)), first)
    assert not first.is_inference()  # or training could not use it
    assert torch.equal(small.anchors(48), small.anchors((48, 48)))


def test_every_weight_learns(small):
    images = torch.rand(2, 3, 64, 64)
    targets = [
        {
            "boxes": torch.tensor([[8.0, 8, 40, 40], [30, 4, 60, 20]]),
            "labels": torch.tensor([0, 2]),
        },
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    losses = small.criterion(small.train()(images), small.anchors((64, 64)), targets)
    sum(losses.values()).backward()
    for name, parameter in small.named_parameters():
        assert (
            parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any()
        ), name


def test_a_copy_is_a_detector_too(small):
    twin, images = copy.deepcopy(small).eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(twin(images).cls_logits, small.eval()(images).cls_logits)


def test_the_losses_of_each_variant():
    """Two pictures with one positive anchor and with two: the batch's mean is not the pictures'
    mean.
    """
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 99, 99]])
    boxes = torch.tensor([[50.0, 50, 60, 61], [1, 0, 11, 10]])
    targets = [
        {"boxes": boxes[:1], "labels": torch.tensor([0])},
        {"boxes": boxes[1:], "labels": torch.tensor([1])},
    ]
    torch.manual_seed(0)
    outputs = Outputs(torch.randn(2, 4, 80), torch.zeros(2, 4, 4))
    paper, theirs = (shapes_only(RETINANET_CONFIGS[name]) for name in ("paper", "torchvision"))
    ours = paper.criterion(outputs, anchors, targets)
    assert theirs.criterion(outputs, anchors, targets, beta=0.11, per_image=False) == ours
    for option in ("beta", "per_image"):
        changed = paper.criterion(
            outputs, anchors, targets, **{option: getattr(theirs.config, option)}
        )
        assert changed["box"] != ours["box"]
        back = theirs.criterion(
            outputs, anchors, targets, **{option: getattr(paper.config, option)}
        )
        assert back["box"] != theirs.criterion(outputs, anchors, targets)["box"]


def test_detections_take_the_best_of_each_level():
    model, size = shapes_only(SMALL), (64, 64)
    anchors = model.anchors(size)
    logits = torch.linspace(5, 2, len(anchors))[None, :, None].expand(-1, -1, 3)
    outputs = Outputs(logits, torch.zeros(1, len(anchors), 4))
    (found,) = model.detections(outputs, anchors, size, topk=1, nms_threshold=1.0)
    assert len(found["boxes"]) == 5  # one from each of P3 .. P7
    assert (
        len(model.detections(outputs, anchors, size, nms_threshold=1.0)[0]["boxes"])
        == model.config.max_detections
        == 100
    )


def test_norms():
    def count(part, kind):
        return sum(isinstance(module, kind) for module in part.modules())

    model = shapes_only(SMALL)
    assert [count(part, nn.GroupNorm) for part in (model.backbone, model.fpn, model.heads)] == [
        20,
        6,
        8,
    ]
    model = shapes_only(replace(SMALL, norm="frozen", norm_eps=0.5))
    assert [count(part, nn.GroupNorm) for part in (model.backbone, model.fpn, model.heads)] == [
        0,
        0,
        0,
    ]
    assert {m.eps for m in model.modules() if isinstance(m, FrozenBatchNorm)} == {0.5}
    assert count(shapes_only(replace(SMALL, norm="batch")).heads, nn.GroupNorm) == 8


def test_the_paper_as_it_is_does_not_train_from_scratch():
    with pytest.raises(ValueError, match="norm='group'"):
        shapes_only(RETINANET_CONFIGS["paper"]).train()(torch.empty(1, 3, 64, 64, device="meta"))


@pytest.mark.parametrize(
    "norm, head_norm, in_heads",
    [("batch", "auto", 8), ("batch", None, 0), ("batch", "group", 8), ("group", None, 0)],
)
def test_the_norm_of_the_heads_is_a_switch_of_its_own(norm, head_norm, in_heads):
    config = RetinaNetConfig(backbone="tiny-8", norm=norm, channels=16, head_norm=head_norm)
    model = RetinaNet(config)
    assert sum(isinstance(m, nn.GroupNorm) for m in model.heads.modules()) == in_heads
    assert sum(isinstance(m, nn.GroupNorm) for m in model.fpn.modules()) == 6
