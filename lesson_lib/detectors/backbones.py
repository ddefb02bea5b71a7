"""Backbones: classification networks that hand out feature maps of several resolutions, finest
first.

`build_backbone` makes one by name: "vgg16" as SSD changed it, "lite0", a ResNet, or any
classification network of torchvision with the nodes to tap. What they have in common is in
`Backbone`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from lesson_lib.detectors import lite0, tiny
from lesson_lib.detectors.norms import L2Norm, Norm, conv_block, replace_batch_norms

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: VGG's weights come from Caffe, which subtracts a mean colour and keeps the range of 0..255.
VGG_MEAN, VGG_STD = (0.48235, 0.45882, 0.40784), (1 / 255,) * 3
#: The three maps of a ResNet, C3, C4 and C5 in FPN's names: the last ones of strides 8, 16 and 32.
RESNET_NODES = ("layer2", "layer3", "layer4")


class Backbone(nn.Module):
    """Pictures (B, 3, H, W), float in 0..1 -> feature maps, one for each of `channels`, finest
    first.

    body       the network; takes normalised pictures, returns a list or a dict of maps
    channels   of each map
    strides    pixels between positions: map l has ceil(H / stride) x ceil(W / stride)
    trainable  False refuses to train until weights have been loaded: without pretrained weights the
               papers' networks (VGG16 without norm layers, ResNet with frozen ones) stay where they
               begin
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        channels: Sequence[int],
        strides: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        trainable: bool,
    ):
        super().__init__()
        self.body, self.channels, self.strides = body, tuple(channels), tuple(strides)
        self.trainable = trainable
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.register_load_state_dict_post_hook(_weights_arrived)

    def forward(self, images: Tensor) -> list[Tensor]:
        if self.training and not self.trainable:
            raise ValueError(
                "This backbone has neither pretrained weights nor norm layers that learn, and "
                "would not train from scratch: build it with pretrained=True, load weights into "
                "it (load_state_dict, load_torchvision), or choose norm='group' or 'batch'."
            )
        maps = self.body((images - self.mean) / self.std)
        maps = list(maps.values()) if isinstance(maps, dict) else maps
        height, width = images.shape[-2:]
        if [tuple(m.shape[-2:]) for m in maps] != [
            (-(-height // s), -(-width // s)) for s in self.strides
        ]:
            raise ValueError(
                f"At {height} x {width} px this backbone's maps do not have ceil(size / stride) "
                f"positions, as anchors do: give a multiple of {self.strides[-1]} px."
            )
        return maps


def _weights_arrived(backbone: Backbone, incompatible) -> None:
    backbone.trainable = backbone.trainable or not incompatible.missing_keys


class VGG16(nn.Module):
    """VGG16 as SSD changed it (arXiv:1512.02325, section 3): conv4_3 and fc7, 512 and 1024
    channels.

    From the classifier (arXiv:1409.1556): pooling rounds up, so that 300 px give 38 rows (from 75,
    in pool3; at 300 and 512 px nothing else is odd); pool5 is 3 x 3 with stride 1; fc6 and fc7 are
    convolutions, fc6 with holes (dilation 6), which keeps its view about as wide although pool5 no
    longer halves; fc8 and dropout are gone. Strides 8 and 16. With `norm`, a norm layer follows
    each convolution; the paper has none.
    Departs from the paper: fc6 and fc7 start at random (Xavier), as in torchvision, and not from a
    sample of the classifier's rows.
    """

    STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions

    def __init__(self, norm: Norm = None):
        super().__init__()
        inputs = 3
        for number, (channels, count) in enumerate(self.STAGES, start=1):
            convs = [
                conv_block(inputs if i == 0 else channels, channels, norm=norm)
                for i in range(count)
            ]
            self.add_module(f"conv{number}", nn.Sequential(*convs))
            inputs = channels
        self.fc6 = conv_block(512, 1024, dilation=6, norm=norm)
        self.fc7 = conv_block(1024, 1024, 1, norm=norm)
        self.l2norm = L2Norm(512)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        for block in (self.fc6, self.fc7):
            for conv in block.children():
                if isinstance(conv, nn.Conv2d):
                    nn.init.xavier_uniform_(conv.weight)

    def forward(self, x: Tensor) -> list[Tensor]:
        for name in ("conv1", "conv2", "conv3"):
            x = F.max_pool2d(self.get_submodule(name)(x), 2, ceil_mode=True)
        conv4_3 = self.get_submodule("conv4")(x)
        x = self.get_submodule("conv5")(F.max_pool2d(conv4_3, 2, ceil_mode=True))
        x = F.max_pool2d(x, 3, stride=1, padding=1)
        return [self.l2norm(conv4_3), self.fc7(self.fc6(x))]

    @classmethod
    def torchvision_names(cls) -> dict[str, str]:
        """{place in torchvision's vgg16: ours}: {"features.0": "conv1.0.0", ..., "features.28":
        "conv5.2.0"}.

        torchvision counts every layer: a convolution and its ReLU are two steps, a pooling layer is
        one.
        """
        names, step = {}, 0
        for number, (_, count) in enumerate(cls.STAGES, start=1):
            for i in range(count):
                names[f"features.{step}"] = f"conv{number}.{i}.0"
                step += 2
            step += 1
        return names


def build_backbone(
    name: str,
    norm: Norm = "group",
    pretrained: bool | str = False,
    nodes: Sequence[str] = (),
    freeze: Sequence[str] = (),
) -> Backbone:
    """A backbone by its name.

    name        "vgg16" (as in SSD: two maps), "lite0" or one of `tiny.SIZES` (three maps), or a
                network of torchvision.models that classifies ("resnet50", "mobilenet_v3_large",
                ...)
    norm        "frozen", "batch", "group"; None leaves torchvision's networks as they are, VGG16
                without
    pretrained  True or "DEFAULT": ImageNet weights, for lite0 from its pip package, otherwise
                downloaded
    nodes       of torchvision's networks: where to tap them, finest map first; get_graph_node_names
                of torchvision.models.feature_extraction lists them. Not needed for ResNets: C3, C4,
                C5
    freeze      parts whose parameters stay as they are, by the beginnings of their names:
                ("conv1", "layer1")
    ValueError for what does not go together, RuntimeError where the weights cannot be had.
    """
    _check_pretrained(name, norm, pretrained)
    if name == "vgg16":
        backbone = _vgg16(norm, bool(pretrained))
    elif name == "lite0":
        backbone = _lite0(norm, bool(pretrained))
    elif name in tiny.SIZES:
        body = tiny.Tiny(name, norm)
        backbone = Backbone(
            body, body.channels, tiny.STRIDES, IMAGENET_MEAN, IMAGENET_STD, trainable=True
        )
    else:
        default = RESNET_NODES if name.startswith("resnet") else ()
        backbone = _tapped(name, norm, pretrained, nodes or default)
    _freeze(backbone.body, freeze)
    return backbone


def has_weights(name: str, norm: Norm) -> bool:
    """Whether there are ImageNet weights of this backbone that mean something with this norm."""
    return name not in tiny.SIZES and norm != "group" and (name != "vgg16" or norm is None)


def _check_pretrained(name: str, norm: Norm, pretrained: bool | str) -> None:
    if pretrained and not has_weights(name, norm):
        other = "" if name in tiny.SIZES else f", or norm={None if name == 'vgg16' else 'frozen'!r}"
        raise ValueError(
            f"There are no pretrained weights of {name} with norm={norm!r}: give "
            f"pretrained=False{other}."
        )


def _vgg16(norm: Norm, pretrained: bool) -> Backbone:
    body = VGG16(norm)
    if pretrained:
        _load_vgg16_features(body)
    learns = pretrained or norm in ("batch", "group")
    return Backbone(body, (512, 1024), (8, 16), VGG_MEAN, VGG_STD, trainable=learns)


def _lite0(norm: Norm, pretrained: bool) -> Backbone:
    body = lite0.Lite0(norm)
    if pretrained:
        lite0.load_released_weights(body)
    learns = pretrained or norm != "frozen"
    return Backbone(body, lite0.CHANNELS, lite0.STRIDES, lite0.MEAN, lite0.STD, trainable=learns)


def _tapped(name: str, norm: Norm, pretrained: bool | str, nodes: Sequence[str]) -> Backbone:
    """torchvision's classification network `name`, cut off behind the last of `nodes`."""
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"There is no backbone {name!r}: choose 'vgg16', 'lite0', 'tiny', or a "
            "classification network of torchvision.models."
        )
    if not nodes:
        raise ValueError(
            f"Say where to tap {name}: nodes=(...), some of those that "
            "torchvision.models.feature_extraction.get_graph_node_names lists."
        )
    weights = ("DEFAULT" if pretrained is True else pretrained) or None
    try:
        network = torchvision.models.get_model(name, weights=weights)
    except OSError as error:
        raise _no_download(name, error) from error
    body = create_feature_extractor(network, {node: str(level) for level, node in enumerate(nodes)})
    if norm is not None:
        replace_batch_norms(body, norm)
    with torch.no_grad():
        maps = list(body.eval()(torch.zeros(1, 3, 128, 128)).values())
    return Backbone(
        body.train(),
        [m.shape[1] for m in maps],
        [128 // m.shape[2] for m in maps],
        IMAGENET_MEAN,
        IMAGENET_STD,
        trainable=bool(pretrained) or norm != "frozen",
    )


def _load_vgg16_features(body: VGG16) -> None:
    try:
        weights = torchvision.models.VGG16_Weights.IMAGENET1K_FEATURES.get_state_dict()
    except OSError as error:
        raise _no_download("vgg16", error) from error
    for theirs, ours in VGG16.torchvision_names().items():
        conv = body.get_submodule(ours)
        conv.load_state_dict({part: weights[f"{theirs}.{part}"] for part in ("weight", "bias")})


def _no_download(name: str, error: OSError) -> RuntimeError:
    return RuntimeError(
        f"The ImageNet weights of {name} could not be downloaded ({error}): try again with a "
        "network, choose the backbone 'lite0', whose weights come from pip, or train from "
        "scratch with pretrained=False and norm='group'."
    )


def _freeze(body: nn.Module, beginnings: Sequence[str]) -> None:
    for beginning in beginnings:
        found = [p for name, p in body.named_parameters() if f"{name}.".startswith(f"{beginning}.")]
        if not found:
            raise ValueError(
                f"freeze names {beginning!r}, but no parameter of the backbone begins so: its "
                f"parts are {', '.join(child for child, _ in body.named_children())}."
            )
        for parameter in found:
            parameter.requires_grad_(False)
