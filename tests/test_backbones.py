from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

from lesson_lib.detectors.backbones import VGG16, Backbone, build_backbone
from lesson_lib.detectors.norms import FrozenBatchNorm, L2Norm


def sizes(maps) -> list[tuple[int, ...]]:
    return [tuple(m.shape[1:]) for m in maps]


@pytest.mark.parametrize(
    "name, nodes, size, expected",
    [
        (
            "vgg16",
            (),
            (44, 64),
            [(512, 6, 8), (1024, 3, 4)],
        ),  # 44 -> 22 -> 11 -> 6: pool3 rounds up
        ("lite0", (), (65, 64), [(40, 9, 8), (112, 5, 4), (320, 3, 2)]),
        ("resnet18", (), (65, 64), [(128, 9, 8), (256, 5, 4), (512, 3, 2)]),
        ("resnet50", (), (65, 64), [(512, 9, 8), (1024, 5, 4), (2048, 3, 2)]),
        (
            "mobilenet_v3_small",
            ("features.3", "features.8", "features.12"),
            (64, 64),
            [(24, 8, 8), (48, 4, 4), (576, 2, 2)],
        ),
    ],
)
def test_maps_of_every_kind(name, nodes, size, expected):
    backbone = build_backbone(name, "group", nodes=nodes).train()
    maps = backbone(torch.rand(2, 3, *size))
    assert sizes(maps) == expected
    assert backbone.channels == tuple(c for c, _, _ in expected)
    assert backbone.strides == ((8, 16) if name == "vgg16" else (8, 16, 32))
    assert not any(isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm)) for m in backbone.modules())
    sum(m.mean() for m in maps).backward()
    assert any(p.grad is not None and p.grad.any() for p in backbone.parameters())


def test_vgg16_by_layers():
    """Against torchvision's classifier, whose layers up to conv4_3 and conv5_3 are the same."""
    torch.manual_seed(0)
    vgg = torchvision.models.vgg
    theirs, ours = vgg.make_layers(vgg.cfgs["D"]), VGG16()
    weights = {f"features.{name}": value for name, value in theirs.state_dict().items()}
    for place, name in VGG16.torchvision_names().items():
        ours.get_submodule(name).load_state_dict(
            {p: weights.pop(f"{place}.{p}") for p in ("weight", "bias")}
        )
    assert not weights  # all 13 found their place
    seen = {}
    ours.conv4.register_forward_hook(lambda *a: seen.update(conv4=a[-1]))
    ours.conv5.register_forward_hook(lambda *a: seen.update(conv5=a[-1]))
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        conv4_3, fc7 = ours(x)
        torch.testing.assert_close(seen["conv4"], theirs[:23](x))
        torch.testing.assert_close(seen["conv5"], theirs[:30](x))
    torch.testing.assert_close(conv4_3.norm(dim=1), torch.full((1, 4, 4), 20.0))
    assert (ours.fc6[0].dilation, ours.fc6[0].padding) == ((6, 6), (6, 6)) and fc7.shape == (
        1,
        1024,
        2,
        2,
    )
    assert not any(isinstance(m, nn.GroupNorm | nn.BatchNorm2d) for m in ours.modules())


def test_l2norm_by_hand():
    x = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
    norm = L2Norm(2)
    norm.scale.data[1] = 10
    assert norm(x).flatten().tolist() == pytest.approx([20 * 0.6, 10 * 0.8])


def test_pictures_are_normalised_once_inside():
    class Same(nn.Module):
        def forward(self, x):
            return [x]

    backbone = Backbone(Same(), (3,), (1,), (0.5, 0.25, 0), (0.5, 0.25, 2), trainable=True)
    assert backbone(torch.ones(1, 3, 1, 1))[0].flatten().tolist() == [1, 3, 0.5]
    assert not backbone.state_dict()


def test_a_resnets_taps_are_the_classifiers_layers():
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", "batch").eval()
    network = torchvision.models.resnet18()
    network.load_state_dict(backbone.body.state_dict(), strict=False)
    x, network = torch.rand(1, 3, 64, 64), network.eval()
    with torch.no_grad():
        c = network.maxpool(
            network.relu(network.bn1(network.conv1((x - backbone.mean) / backbone.std)))
        )
        expected = [c := getattr(network, f"layer{number}")(c) for number in (1, 2, 3, 4)][1:]
        for ours, theirs in zip(backbone(x), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "name, norm",
    [("vgg16", None), ("vgg16", "frozen"), ("resnet18", "frozen"), ("lite0", "frozen")],
)
def test_paper_variants_without_weights_do_not_train(name, norm):
    backbone = build_backbone(name, norm)
    x = torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match="pretrained=True.*load_torchvision.*norm='group'"):
        backbone(x)
    backbone.eval()(x)  # looking is free
    detector = nn.ModuleDict({"backbone": backbone})
    detector.load_state_dict(detector.state_dict())  # weights from a file
    detector.train()["backbone"](x)


def test_half_loaded_weights_do_not_count():
    backbone = build_backbone("vgg16", None)
    some = dict(list(backbone.state_dict().items())[:4])
    backbone.load_state_dict(some, strict=False)
    with pytest.raises(ValueError, match="would not train"):
        backbone(torch.rand(1, 3, 32, 32))


def test_freezing_parts():
    backbone = build_backbone("resnet18", "batch", freeze=("conv1", "layer1"))
    still = {name.split(".")[1] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert still == {"conv1", "layer1"}
    with pytest.raises(ValueError, match="'layer9'.*layer4"):
        build_backbone("resnet18", "batch", freeze=("layer9",))


@pytest.mark.parametrize("name", ["vgg16", "resnet18"])
def test_a_failing_download_names_the_alternatives(name, monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(RuntimeError, match="'lite0'.*norm='group'"):
        build_backbone(name, None, pretrained="DEFAULT")


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (dict(name="resnet18", norm="group", pretrained=True), "norm='frozen'"),
        (dict(name="vgg16", norm="batch", pretrained=True), "norm=None"),
        (dict(name="resnet19"), "no backbone 'resnet19'"),
        (dict(name="mobilenet_v3_small"), "nodes="),
    ],
)
def test_what_does_not_go_together(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_backbone(**arguments)


def test_maps_that_do_not_fit_the_anchors_are_refused():
    backbone = build_backbone("convnext_tiny", None, nodes=("features.3",)).eval()  # rounds down
    assert sizes(backbone(torch.rand(1, 3, 64, 64))) == [(192, 8, 8)]
    with pytest.raises(ValueError, match="multiple of 8"):
        backbone(torch.rand(1, 3, 66, 64))
