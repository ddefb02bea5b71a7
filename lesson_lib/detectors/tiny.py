"""The small backbone of the lessons: a network that learns from scratch in minutes on two CPU cores.

Made of what SSD and ResNet taught: 3 x 3 convolutions, halved five times, with a shortcut around every
second one from stride 8 on. Most of the work lies at strides 4 and 8, so these have few channels.
"""
from torch import Tensor, nn

from lesson_lib.detectors.norms import Norm, conv_block

#: Channels at stride 2; "tiny" is for lessons, "tiny-24" for training on a small data set.
WIDTHS = {"tiny-8": 8, "tiny": 16, "tiny-24": 24}
STRIDES = (8, 16, 32)


class Residual(nn.Module):
    """x + relu(norm(conv(x))): the block adds to what is there already (ResNet, arXiv:1512.03385)."""
    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.block = conv_block(channels, channels, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Tiny(nn.Module):
    """(B, 3, H, W) normalised -> three maps of 4, 6 and 8 times `width` channels at strides 8, 16 and 32.

    norm  "batch" or "group"; without a norm layer it would not learn from scratch: ValueError
    """
    def __init__(self, width: int = 16, norm: Norm = "group"):
        super().__init__()
        if norm not in ("batch", "group"):
            raise ValueError(f"norm is {norm!r}; the tiny backbone learns from scratch: give 'batch' or 'group'.")
        self.channels = (4 * width, 6 * width, 8 * width)
        c3, c4, c5 = self.channels
        self.stem = nn.Sequential(conv_block(3, width, stride=2, norm=norm),
                                  conv_block(width, 2 * width, stride=2, norm=norm))
        self.stages = nn.ModuleList(
            nn.Sequential(conv_block(inputs, outputs, stride=2, norm=norm), Residual(outputs, norm))
            for inputs, outputs in ((2 * width, c3), (c3, c4), (c4, c5)))
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
