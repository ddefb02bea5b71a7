"""The lessons' small backbone, by its name and inside both detectors."""

import pytest
import torch

from lesson_lib.detectors.backbones import build_backbone
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSDConfig
from lesson_lib.detectors.tiny import SIZES, Residual


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_three_maps_at_strides_8_16_32(name, norm):
    backbone, (c3, c4, c5) = build_backbone(name, norm), SIZES[name][0][2:]
    maps = backbone(torch.rand(2, 3, 96, 64))
    assert backbone.strides == (8, 16, 32) and backbone.channels == (c3, c4, c5)
    assert [tuple(m.shape) for m in maps] == [(2, c3, 12, 8), (2, c4, 6, 4), (2, c5, 3, 2)]


def test_sizes_of_the_models_are_what_the_lessons_say():
    assert parameters(build_backbone("tiny")) < 500_000
    assert (
        1_000_000
        < parameters(SSD(SSDConfig(3, backbone="tiny-24", image_size=256, extras=())))
        < 1_300_000
    )


def test_a_residual_block_of_zero_convolutions_changes_nothing():
    block = Residual(8, "batch").eval()
    torch.nn.init.zeros_(block.block[0].weight)
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    "model",
    [
        SSD(SSDConfig(num_classes=3, backbone="tiny", norm="group", image_size=128)),
        RetinaNet(RetinaNetConfig(num_classes=3, backbone="tiny", channels=64)),
    ],
)
def test_it_serves_both_detectors(model):
    outputs = model(torch.rand(1, 3, 128, 128))
    assert outputs.box_deltas.shape == (1, len(model.anchors(128)), 4)
    losses = model.criterion(
        outputs,
        model.anchors(128),
        [{"boxes": torch.tensor([[9.0, 9.0, 50.0, 60.0]]), "labels": torch.tensor([2])}],
    )
    (losses["cls"] + losses["box"]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.backbone.parameters())


def test_extra_maps_are_no_wider_than_the_backbone():
    model = SSD(SSDConfig(num_classes=3, backbone="tiny", image_size=128))
    assert {extra.channels for extra in model.layout} == {128}


@pytest.mark.parametrize("norm", ["frozen", None])
def test_it_is_refused_without_a_norm_that_learns(norm):
    with pytest.raises(ValueError, match="give 'batch' or 'group'"):
        build_backbone("tiny", norm)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_there_are_no_pretrained_weights(norm):
    with pytest.raises(
        ValueError, match=r"no pretrained weights of tiny .*: give pretrained=False\."
    ):
        build_backbone("tiny", norm, pretrained=True)
