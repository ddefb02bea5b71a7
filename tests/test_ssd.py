import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from lesson_lib.anchors import SSD300_SCALES
from lesson_lib.detectors.criterion import Outputs
from lesson_lib.detectors.norms import FrozenBatchNorm
from lesson_lib.detectors.ssd import SSD, SSD300_EXTRAS, SSD_CONFIGS, Extra, SSDConfig

SMALL = SSDConfig(num_classes=3, backbone="resnet18", image_size=64)


def shapes_only(config: SSDConfig) -> SSD:
    """A model without memory and without arithmetic: its outputs have shapes and no values."""
    with torch.device("meta"):
        return SSD(config).eval()


@pytest.fixture(scope="module")
def small() -> SSD:
    torch.manual_seed(0)
    return SSD(SMALL)


@pytest.mark.parametrize(
    "name, size, grids, total, classes",
    [
        ("paper-300", 300, (38, 19, 10, 5, 3, 1), 8732, 21),
        ("caffe-300", 300, (38, 19, 10, 5, 3, 1), 8732, 21),
        ("torchvision-300", 300, (38, 19, 10, 5, 3, 1), 8732, 91),
        ("paper-512", 512, (64, 32, 16, 8, 4, 2, 1), 24564, 21),
    ],
)
def test_published_variants(name, size, grids, total, classes):
    model = shapes_only(SSD_CONFIGS[name])
    images = torch.empty(2, 3, size, size, device="meta")
    assert [tuple(m.shape[-2:]) for m in model.features(images)] == [(n, n) for n in grids]
    outputs = model(images)
    assert outputs.cls_logits.shape == (2, total, classes) and outputs.box_deltas.shape == (
        2,
        total,
        4,
    )
    assert model.anchors().shape == (total, 4) and model.grids(size) == tuple((n, n) for n in grids)
    assert [head.in_channels for head in model.heads.cls][:4] == [512, 1024, 512, 256]


def test_the_last_layer_of_ssd512_is_the_releases():
    last = shapes_only(SSD_CONFIGS["paper-512"]).extras[-1][1][0]
    assert (last.kernel_size, last.stride, last.padding) == ((4, 4), (1, 1), (1, 1))


def test_fitted_default_boxes():
    boxes = shapes_only(
        replace(SMALL, s_min=0.2, s_max=0.8)
    ).spec  # four maps: 8, 4, 2, 1 positions
    assert boxes.scales == pytest.approx((0.2, 0.4, 0.6, 0.8, 1.0))
    assert boxes.aspect_ratios == ((2,), (2, 3), (2,), (2,))


def test_published_default_boxes():
    for config, boxes in (
        ("paper-300", "paper-conv4_3"),
        ("caffe-300", "caffe-voc"),
        ("torchvision-300", "torchvision-coco"),
    ):
        assert SSD_CONFIGS[config].anchors == SSD300_SCALES[boxes]


@pytest.mark.parametrize(
    "config, channels",
    [
        (SSDConfig(3, backbone="lite0", image_size=320), (40, 112, 320)),
        (SSDConfig(3, backbone="resnet34", image_size=320), (128, 256, 512)),
        (
            SSDConfig(
                3,
                backbone="mobilenet_v3_small",
                nodes=("features.3", "features.8", "features.12"),
                image_size=320,
            ),
            (24, 48, 576),
        ),
        (SSDConfig(3, backbone="vgg16", image_size=300), (512, 1024)),
    ],
)
def test_other_backbones_by_one_line(config, channels):
    model = shapes_only(config)
    size = config.image_size
    maps = model.features(torch.empty(1, 3, size, size, device="meta"))
    assert tuple(m.shape[1] for m in maps)[: len(channels)] == channels
    assert tuple(tuple(m.shape[-2:]) for m in maps) == model.grids(size) == model.spec.grids
    assert model.grids(size)[-1] == (1, 1)
    assert model(torch.empty(1, 3, size, size, device="meta")).box_deltas.shape == (
        1,
        *model.anchors().shape,
    )


def test_l2norm_makes_the_heads_independent_of_the_backbones_scale():
    """Pretrained maps may be many times larger than heads expect:
    then the first loss is over 100.
    """
    torch.manual_seed(0)
    model = SSD(SSDConfig(3, backbone="tiny", norm="batch", image_size=64, l2norm=True)).eval()
    pictures = torch.rand(2, 3, 64, 64)
    maps = model.features(pictures)
    for x in maps[:3]:  # as long as L2Norm's first scale, 20, in each cell
        assert torch.allclose(x.norm(dim=1), torch.full_like(x[:, 0], 20.0), rtol=1e-4)
    usual = model.backbone.body.forward
    model.backbone.body.forward = lambda x: [50 * m for m in usual(x)]
    louder = model.features(pictures)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(maps[:3], louder[:3]))
    assert {"scales.0.scale", "scales.1.scale", "scales.2.scale"} <= {
        name for name, _ in model.named_parameters()
    }
    assert SSD(SSDConfig(3, backbone="tiny", norm="batch", image_size=64)).scales is None


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (70, 33)])
def test_other_picture_sizes(small, size):
    with torch.no_grad():
        outputs = small.eval()(torch.rand(1, 3, *size))
    anchors = small.anchors(size)
    assert outputs.cls_logits.shape[1] == len(anchors)
    centres, extent = (anchors[:, :2] + anchors[:, 2:]) / 2, torch.tensor([size[1], size[0]])
    assert ((centres > 0) & (centres < extent)).all()


@pytest.mark.parametrize("name", ["paper-300", "paper-512-coco"])
@pytest.mark.parametrize("size", [(300, 300), (600, 600), (400, 520)])
def test_the_papers_boxes_are_laid_out_anew_for_another_size(name, size):
    """No centre outside of the picture, and the outermost within a cell of its border."""
    with torch.device("meta"):
        model = SSD(SSD_CONFIGS[name])
    anchors = model.anchors(size)
    centres, extent = (anchors[:, :2] + anchors[:, 2:]) / 2, torch.tensor([size[1], size[0]])
    assert ((centres > 0) & (centres < extent)).all()
    assert (centres.amin(0) <= 4).all() and (extent - centres.amax(0) <= 4.1).all()


def test_boxes_with_strides_in_pixels_refuse_another_size():
    with torch.device("meta"):
        model = SSD(SSD_CONFIGS["caffe-300"])
    with pytest.raises(ValueError, match="strides in pixels for pictures of 300, not of"):
        model.anchors(600)


def test_a_row_of_the_output_sees_the_cell_of_its_anchor(small):
    """From the output's row back to the feature map: what it reads is centred on its anchor's
    centre.
    """
    maps = [m.detach().requires_grad_() for m in small.eval().features(torch.rand(1, 3, 64, 64))]
    logits, deltas = small.heads(maps)
    rows = torch.arange(len(small.anchors()))
    for row in rows[::13].tolist():
        for values in (logits, deltas):
            gradients = torch.autograd.grad(
                values[0, row].sum(), maps, retain_graph=True, allow_unused=True
            )
            level = next(i for i, g in enumerate(gradients) if g is not None and g.any())
            seen = (
                gradients[level][0].abs().sum(0).nonzero()
            )  # (cells, 2) rows and columns, a 3 x 3
            x1, y1, x2, y2 = (small.anchors()[row] * len(maps[level][0, 0]) / 64).tolist()
            cell = torch.tensor([[int((y1 + y2) / 2), int((x1 + x2) / 2)]])
            assert (seen - cell).abs().max() <= 1 and (seen == cell).all(1).any()


def test_anchors_are_float32_whatever_the_mode(small):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        first = small.anchors((40, 40))
    assert first.dtype == torch.float32 and torch.equal(small.anchors((40, 40)), first)
    assert not first.is_inference()  # or training could not use it
    assert torch.equal(small.anchors(64), small.anchors()) and not any(
        "anchor" in name for name in small.state_dict()
    )


def test_every_weight_learns(small):
    images = torch.rand(2, 3, 64, 64)
    sides = torch.tensor([6.0, 23, 40, 58])[:, None]  # one object for each map
    targets = [
        {
            "boxes": torch.cat((sides * 0 + 2, sides * 0 + 2, sides + 2, sides + 2), 1),
            "labels": torch.tensor([0, 1, 2, 0]),
        },
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    small.zero_grad()
    losses = small.criterion(small.train()(images), small.anchors(), targets)
    sum(losses.values()).backward()
    for name, parameter in small.named_parameters():
        assert (
            parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any()
        ), name


def test_a_copy_is_a_detector_too(small):
    twin, images = copy.deepcopy(small).eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(twin(images).cls_logits, small.eval()(images).cls_logits)


def test_autocast_gives_every_anchor_its_outputs(small):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = small.eval()(torch.rand(1, 3, 64, 64))
    assert outputs.cls_logits.dtype == torch.bfloat16 and outputs.cls_logits.shape[1] == len(
        small.anchors()
    )
    assert len(small.detections(outputs, small.anchors(), (64, 64))) == 1


def test_the_matching_of_each_variant():
    """Anchor 1 overlaps object 0 by exactly .5; objects 1 and 2 both want anchor 2 most, object 1
    more so.
    """
    anchors = torch.tensor(
        [[0.0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60], [50, 50, 60, 64], [90, 90, 99, 99]]
    )
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [50, 50, 60, 59]])
    targets = [{"boxes": boxes, "labels": torch.tensor([0, 1, 2])}]
    torch.manual_seed(0)
    outputs = Outputs(torch.randn(1, 5, 91), torch.zeros(1, 5, 4))
    losses = {
        name: shapes_only(SSD_CONFIGS[name]).criterion(outputs, anchors, targets)
        for name in ("paper-300", "caffe-300", "torchvision-300")
    }
    assert (
        losses["caffe-300"]["box"] > losses["paper-300"]["box"]
    )  # one positive more, off by log 2 / .2
    assert losses["torchvision-300"]["box"] != losses["caffe-300"]["box"]
    model = shapes_only(SSD_CONFIGS["paper-300"])
    assert model.criterion(outputs, anchors, targets, inclusive=True) == losses["caffe-300"]


def test_group_norm_reaches_the_new_layers_frozen_norm_does_not():
    def norms(config):
        layers = shapes_only(config).extras.modules()
        return [layer for layer in layers if isinstance(layer, nn.GroupNorm | FrozenBatchNorm)]

    assert len(norms(replace(SSD_CONFIGS["paper-300"], norm="group"))) == 2 * len(SSD300_EXTRAS)
    assert not norms(SSD_CONFIGS["paper-300"]) and not norms(replace(SMALL, norm="frozen"))


def test_the_paper_as_it_is_does_not_train_from_scratch():
    model = shapes_only(SSD_CONFIGS["paper-300"])
    with pytest.raises(ValueError, match="norm='group'"):
        model.train()(torch.empty(1, 3, 300, 300, device="meta"))
    shapes_only(replace(SSD_CONFIGS["paper-300"], norm="group")).train()


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        SSDConfig(num_classes=0)
    with pytest.raises(ValueError, match="laid out for 6 maps.*the network has 5"):
        shapes_only(replace(SSD_CONFIGS["paper-300"], extras=(Extra(256, 512),) * 3))
