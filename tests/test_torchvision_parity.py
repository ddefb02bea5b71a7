"""Our detectors with torchvision's weights against torchvision's detectors.

No checkpoint is needed: the weights are drawn by a seed, frozen batch norms get statistics that
matter, and the last layers are scaled until there are detections to compare.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import RetinaNet as TheirRetinaNet
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from lesson_lib.anchors import pyramid_anchors
from lesson_lib.config import CELL_CLASSES
from lesson_lib.data.samples import resize
from lesson_lib.data.voc import VocFolder
from lesson_lib.detectors.criterion import Outputs
from lesson_lib.detectors.norms import FrozenBatchNorm
from lesson_lib.detectors.retinanet import RETINANET_CONFIGS, RetinaNet
from lesson_lib.detectors.ssd import SSD, SSD_CONFIGS
from lesson_lib.detectors.torchvision_weights import load_torchvision

TIGHT = dict(rtol=1e-4, atol=1e-4)
SIZES = {"retinanet": (128, 192), "ssd": (300, 300)}  # multiples of 32: nothing is padded


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def random_batch(size: tuple[int, int]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Three pictures: six objects, two of which want the same anchor; one object; none."""
    generator = torch.Generator().manual_seed(1)
    extent = torch.tensor([size[1], size[0]])
    corners = torch.rand(6, 2, generator=generator) * 0.6 * extent
    boxes = torch.cat(
        (corners, corners + (torch.rand(6, 2, generator=generator) * 0.3 + 0.1) * extent), 1
    )
    boxes[5] = boxes[4] + 0.25
    labels = torch.randint(90, (6,), generator=generator)
    return torch.rand(3, 3, *size, generator=generator), [
        {"boxes": boxes, "labels": labels},
        {"boxes": boxes[:1], "labels": labels[1:2]},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]


def real_batch(folder: Path, size: tuple[int, int]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    samples = VocFolder(folder, "test", classes=CELL_CLASSES)
    samples = [resize(samples[i], size) for i in (0, 40)]
    return (
        torch.stack([s.image for s in samples]) / 255,
        [{"boxes": s.boxes, "labels": s.labels} for s in samples],
    )


@pytest.fixture(scope="module")
def retinanets() -> tuple[TheirRetinaNet, RetinaNet]:
    """torchvision's retinanet_resnet50_fpn as its published weights make it: frozen batch norm with
    eps 0.
    """
    torch.manual_seed(0)
    body = resnet50(norm_layer=FrozenBatchNorm2d)
    backbone = _resnet_fpn_extractor(
        body, 5, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
    )
    theirs = TheirRetinaNet(backbone, 91, min_size=128, max_size=192)
    overwrite_eps(theirs, 0.0)
    for name, module in theirs.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            scale = 0.3 if name.endswith("bn3") else 1.0  # or sixteen residuals add up
            module.weight.uniform_(0.8 * scale, 1.2 * scale)
            module.bias.uniform_(-0.2, 0.2)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    for name, conv in theirs.head.named_modules():
        if isinstance(conv, nn.Conv2d) and ".conv." in name:
            conv.weight.data.mul_(3)
            conv.bias.data.uniform_(-0.1, 0.1)
    theirs.head.classification_head.cls_logits.weight.data.mul_(1.8)
    theirs.head.regression_head.bbox_reg.weight.data.mul_(2)
    ours = RetinaNet(RETINANET_CONFIGS["torchvision"])
    load_torchvision(ours, theirs)
    return theirs, ours


@pytest.fixture(scope="module")
def ssds() -> tuple[nn.Module, SSD]:
    torch.manual_seed(0)
    theirs = ssd300_vgg16(weights=None, weights_backbone=None)
    for parameter in theirs.parameters():
        if parameter.ndim == 1 and len(parameter) != 512:  # biases; not the L2 norm's scale
            parameter.data.uniform_(-0.1, 0.1)
    theirs.backbone.scale_weight.data.uniform_(10, 30)
    for conv in theirs.head.classification_head.module_list:
        conv.weight.data.mul_(0.25)
        conv.bias.data.view(-1, 91)[:, 0] += 9  # most boxes see background
    ours = SSD(SSD_CONFIGS["torchvision-300"])
    load_torchvision(ours, theirs)
    return theirs, ours


def test_parameter_counts(retinanets, ssds):
    """Published: 34,014,999 and 35,641,826.

    Parameters alone: a frozen batch norm's four rows are buffers.
    """
    for (theirs, ours), count in ((retinanets, 34_014_999), (ssds, 35_641_826)):
        assert parameters(theirs) == parameters(ours) == count
    _, retinanet = retinanets
    norms = [module for module in retinanet.modules() if isinstance(module, FrozenBatchNorm)]
    assert sum(len(norm.weight) + len(norm.bias) for norm in norms) == 34_068_119 - 34_014_999


def run_theirs(
    model: nn.Module, images: Tensor, targets: list[dict[str, Tensor]]
) -> dict[str, object]:
    """Everything between pictures and losses, and the detections; the backbone runs once."""
    seen = {}

    def keep(name):
        return lambda module, inputs, output: seen.__setitem__(name, output)

    hooks = [
        module.register_forward_hook(keep(name))
        for name, module in (
            ("features", model.backbone),
            ("heads", model.head),
            ("anchors", model.anchor_generator),
        )
    ]
    with torch.no_grad():
        losses = model.train()(list(images), targets)
        for hook in hooks:
            hook.remove()
        model.backbone.forward = lambda x: seen["features"]
        detections = model.eval()(list(images))
        del model.backbone.forward  # the class's own again
    return dict(seen, losses=losses, detections=detections)


def assert_same_detections(ours: dict[str, Tensor], theirs: dict[str, Tensor], keep: int) -> None:
    """The same set, at least 50, in any order: equal scores may change places.

    torchvision also returns boxes that, cut at the picture's edge, have no area; ours does not, so
    beyond its limit of `keep` it has room for as many more.
    """
    real = (theirs["boxes"][:, 2:] > theirs["boxes"][:, :2]).all(1)
    assert len(ours["boxes"]) == real.sum() if len(real) < keep else len(ours["boxes"]) == keep
    count = int(real.sum())
    assert count >= 50
    rows = [
        torch.cat((d["boxes"], d["scores"][:, None] * 100, d["labels"][:, None] * 1000.0), 1)
        for d in (ours, {name: value[real] for name, value in theirs.items()})
    ]
    nearest = (rows[1][:, None] - rows[0][None, :count]).abs().amax(2).argmin(1)
    assert nearest.unique().numel() == count
    torch.testing.assert_close(rows[0][nearest], rows[1], **TIGHT)


@pytest.mark.parametrize("pictures", ["random", "bccd"])
@pytest.mark.parametrize("kind", ["retinanet", "ssd"])
def test_everything_agrees(kind, pictures, request, real_datasets):
    """Features, head outputs, anchors, both losses (so the matches and the mining too),
    detections.
    """
    theirs, ours = request.getfixturevalue(f"{kind}s")
    size, shift = SIZES[kind], int(kind == "ssd")  # our labels leave out the background
    batch = (
        random_batch(size) if pictures == "random" else real_batch(real_datasets(pictures), size)
    )
    images, targets = (
        batch if kind == "retinanet" else (batch[0][::2], batch[1][::2])
    )  # SSD takes its time
    expected = run_theirs(theirs, images, [dict(t, labels=t["labels"] + shift) for t in targets])

    with torch.no_grad():
        features = ours.train().features(images)  # allowed: weights have arrived
        outputs, anchors = Outputs(*ours.heads(features)), ours.anchors(size)
    for a, b in zip(features, expected["features"].values(), strict=True):
        torch.testing.assert_close(a, b, **TIGHT)
    torch.testing.assert_close(outputs.cls_logits, expected["heads"]["cls_logits"], **TIGHT)
    torch.testing.assert_close(outputs.box_deltas, expected["heads"]["bbox_regression"], **TIGHT)
    torch.testing.assert_close(anchors, expected["anchors"][0], **TIGHT)
    losses = ours.criterion(outputs, anchors, targets)
    torch.testing.assert_close(losses["cls"], expected["losses"]["classification"], **TIGHT)
    torch.testing.assert_close(losses["box"], expected["losses"]["bbox_regression"], **TIGHT)
    for found, wanted in zip(
        ours.detections(outputs, anchors, size), expected["detections"], strict=True
    ):
        found["labels"] += shift
        assert_same_detections(found, wanted, keep=200 if kind == "ssd" else 300)


def test_each_flag_of_the_preset_matters(retinanets):
    """The paper's choice in each flag gives other losses: none of them is idle."""
    _, ours = retinanets
    images, targets = random_batch(SIZES["retinanet"])
    with torch.no_grad():
        outputs = ours.eval()(images)
    anchors = ours.anchors(SIZES["retinanet"])
    losses = ours.criterion(outputs, anchors, targets)
    assert ours.criterion(outputs, anchors, targets, beta=0.11)["box"] < losses["box"]
    assert not torch.isclose(
        ours.criterion(outputs, anchors, targets, per_image=False)["cls"], losses["cls"]
    )
    paper = RETINANET_CONFIGS["paper"].anchors
    assert (pyramid_anchors(SIZES["retinanet"], paper) - anchors).abs().max() > 4


def test_the_published_file_has_older_names(retinanets, tmp_path):
    """Checkpoints of 2020 count a tower's ReLUs;
    torchvision renames them on loading, and so do we.
    """
    theirs, ours = retinanets
    old = {}
    for name, value in theirs.state_dict().items():
        name = re.sub(r"_head\.conv\.(\d)\.0\.", lambda m: f"_head.conv.{2 * int(m[1])}.", name)
        old[re.sub(r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2.", name)] = value
    theirs.load_state_dict(old)  # they accept these names
    torch.save(old, tmp_path / "published.pth")
    fresh = RetinaNet(RETINANET_CONFIGS["torchvision"])
    load_torchvision(fresh, tmp_path / "published.pth")
    (tmp_path / "published.pth").unlink()  # 136 MB
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name


def test_the_rest_without_the_heads(ssds):
    theirs, ours = ssds
    small = SSD(replace(SSD_CONFIGS["torchvision-300"], num_classes=3))
    before = small.heads.cls[0].weight.clone()
    with pytest.raises(ValueError, match=r"heads.cls.0.bias is \(364,\) there and \(16,\) here"):
        load_torchvision(small, theirs)
    load_torchvision(small, theirs, heads=False)
    assert torch.equal(small.heads.cls[0].weight, before) and small.backbone.trainable
    assert torch.equal(small.extras[3][1][0].weight, ours.extras[3][1][0].weight)


def test_what_does_not_fit_is_named(retinanets):
    theirs, ours = retinanets
    with pytest.raises(ValueError, match="norm_eps=0.0"):
        load_torchvision(
            RetinaNet(replace(RETINANET_CONFIGS["torchvision"], norm_eps=None)), theirs
        )
    state = theirs.state_dict()
    with pytest.raises(ValueError, match="fpn.p6.bias is missing"):
        load_torchvision(
            ours, {name: value for name, value in state.items() if "p6.bias" not in name}
        )
    with pytest.raises(ValueError, match="a.b is unknown"):
        load_torchvision(ours, state | {"a.b": torch.zeros(1)})
