"""torchvision's weights for our models, in one call: `load_torchvision`.

    model = RetinaNet(RETINANET_CONFIGS["torchvision"])
    load_torchvision(model, "retinanet_resnet50_fpn_coco-eeacb38b.pth")        the published file,
                                                                               or
    load_torchvision(model, torchvision.models.detection.retinanet_resnet50_fpn(weights="DEFAULT"))

Known are the names of ssd300_vgg16 and of RetinaNets on a ResNet (version 1, without norm layers in
the heads). With the "torchvision" configs features, outputs, losses and detections are then
torchvision's.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lesson_lib.detectors.backbones import VGG16
from lesson_lib.detectors.norms import FrozenBatchNorm
from lesson_lib.detectors.retinanet import RetinaNet
from lesson_lib.detectors.ssd import SSD

#: (their name, ours). The body of a ResNet keeps its names. Checkpoints of 2020, the published one
#: for one, number a tower's convolutions 0, 2, 4, 6 (they count the ReLUs) and end in .weight at
#: once.
RETINANET_NAMES = (
    (r"backbone\.fpn\.inner_blocks\.(\d)(\.0)?\.(\w+)$", r"fpn.lateral.\1.0.\3"),
    (r"backbone\.fpn\.layer_blocks\.(\d)(\.0)?\.(\w+)$", r"fpn.output.\1.0.\3"),
    (r"backbone\.fpn\.extra_blocks\.(p6|p7)\.(\w+)$", r"fpn.\1.\2"),
    (r"head\.classification_head\.conv\.(\d)\.0\.(\w+)$", r"heads.cls_tower.\1.0.\2"),
    (r"head\.regression_head\.conv\.(\d)\.0\.(\w+)$", r"heads.box_tower.\1.0.\2"),
    (
        r"head\.classification_head\.conv\.(\d)\.(\w+)$",
        lambda m: f"heads.cls_tower.{int(m[1]) // 2}.0.{m[2]}",
    ),
    (
        r"head\.regression_head\.conv\.(\d)\.(\w+)$",
        lambda m: f"heads.box_tower.{int(m[1]) // 2}.0.{m[2]}",
    ),
    (r"head\.classification_head\.cls_logits\.(\w+)$", r"heads.cls.\1"),
    (r"head\.regression_head\.bbox_reg\.(\w+)$", r"heads.box.\1"),
)

#: extra.0 goes on with VGG from pool4 (layer 23 of the classifier) and ends with fc6 and fc7.
SSD_NAMES = (
    (r"backbone\.scale_weight$", "backbone.body.l2norm.scale"),
    (r"backbone\.extra\.0\.7\.1\.(\w+)$", r"backbone.body.fc6.0.\1"),
    (r"backbone\.extra\.0\.7\.3\.(\w+)$", r"backbone.body.fc7.0.\1"),
    (r"backbone\.extra\.0\.(\d)\.(\w+)$", lambda m: _vgg_name(23 + int(m[1]), m[2])),
    (r"backbone\.features\.(\d+)\.(\w+)$", lambda m: _vgg_name(int(m[1]), m[2])),
    (
        r"backbone\.extra\.(\d)\.([02])\.(\w+)$",
        lambda m: f"extras.{int(m[1]) - 1}.{int(m[2]) // 2}.0.{m[3]}",
    ),
    (r"head\.classification_head\.module_list\.(\d)\.(\w+)$", r"heads.cls.\1.\2"),
    (r"head\.regression_head\.module_list\.(\d)\.(\w+)$", r"heads.box.\1.\2"),
)


def load_torchvision(
    model: SSD | RetinaNet,
    source: nn.Module | Mapping[str, Tensor] | str | Path,
    heads: bool = True,
) -> None:
    """Copies the weights of torchvision's ssd300_vgg16 or retinanet_resnet50_fpn into our model.

    source  one of torchvision's detectors, its state dict, or the file it was saved to
    heads   False leaves our heads as they are: to start from COCO's weights with other classes
    COCO's numbers: SSD's label k is COCO's k + 1 (our labels skip the background), RetinaNet's k is
    COCO's k.
    ValueError where names or shapes do not fit, or a module's frozen norms have another eps than
    ours.
    """
    if isinstance(source, nn.Module):
        _check_eps(model, source)
    theirs = _state_dict(source)
    ours = model.state_dict()
    weights = {our_name(model, name): value for name, value in theirs.items()}
    if not heads:
        weights |= {name: value for name, value in ours.items() if name.startswith("heads.")}
    counters = {
        name for name in [*weights, *ours] if name.endswith("num_batches_tracked")
    }  # frozen: none
    faults = [f"{name} is missing" for name in ours.keys() - weights.keys() - counters]
    faults += [f"{name} is unknown" for name in weights.keys() - ours.keys() - counters]
    faults += [
        f"{name} is {tuple(weights[name].shape)} there and {tuple(ours[name].shape)} here"
        for name in weights.keys() & ours.keys()
        if weights[name].shape != ours[name].shape
    ]
    if faults:
        raise ValueError(
            f"These weights do not fit this {type(model).__name__}: {min(faults)} "
            f'({len(faults)} faults). Take a "torchvision" config; heads=False for other classes.'
        )
    model.load_state_dict({name: weights.get(name, value) for name, value in ours.items()})


def _state_dict(source: nn.Module | Mapping[str, Tensor] | str | Path) -> Mapping[str, Tensor]:
    if isinstance(source, nn.Module):
        return source.state_dict()
    if isinstance(source, str | Path):
        return torch.load(source, map_location="cpu", weights_only=True)
    return source


def our_name(model: nn.Module, name: str) -> str:
    """Our name of a weight of torchvision's; names that are not in the tables stay."""
    for pattern, replacement in SSD_NAMES if isinstance(model, SSD) else RETINANET_NAMES:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def _vgg_name(layer: int, part: str) -> str:
    return f"backbone.body.{VGG16.torchvision_names()[f'features.{layer}']}.{part}"


def _check_eps(model: nn.Module, source: nn.Module) -> None:
    theirs: set[float] = {
        getattr(m, "eps")  # noqa: B009  a module may hold anything, says the type checker
        for m in source.modules()
        if hasattr(m, "running_var")
    }
    ours = {m.eps for m in model.modules() if isinstance(m, FrozenBatchNorm)}
    if ours and theirs != ours:
        raise ValueError(
            f"The source's batch norms have eps {sorted(theirs)}, the model's {sorted(ours)}: "
            f"build it with norm_eps={min(theirs, default=None)}."
        )
