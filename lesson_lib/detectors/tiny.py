"""The small backbone of the lessons: a network that learns from scratch in minutes on two CPU
cores.

Made of what SSD and ResNet taught: 3 x 3 convolutions, halved five times, with a shortcut around
every further one from stride 8 on. Most of the work lies at strides 4 and 8, so these have few
channels.
"""

from torch import Tensor, nn

from lesson_lib.detectors.norms import Norm, conv_block

#: Channels at strides 2, 4, 8, 16, 32, and how many residual blocks follow at the last three.
SIZES = {
    "tiny-8": ((8, 16, 32, 48, 64), (1, 1, 1)),
    "tiny": ((16, 32, 64, 96, 128), (1, 1, 1)),  # for lessons
    "tiny-24": ((24, 48, 96, 144, 192), (1, 1, 1)),
}  # for small data sets
STRIDES = (8, 16, 32)


class Residual(nn.Module):
    """x + relu(norm(conv(x))): the block adds to what is there already
    (ResNet, arXiv:1512.03385).
    """

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.block = conv_block(channels, channels, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Tiny(nn.Module):
    """(B, 3, H, W) normalised -> three maps at strides 8, 16 and 32, of the last three widths of
    its size.

    norm  "batch" or "group"; without a norm layer it would not learn from scratch: ValueError
    """

    def __init__(self, size: str = "tiny", norm: Norm = "group"):
        super().__init__()
        if norm not in ("batch", "group"):
            raise ValueError(
                f"norm is {norm!r}; the tiny backbone learns from scratch: give 'batch' or 'group'."
            )
        (c1, c2, *self.channels), blocks = SIZES[size]
        self.stem = nn.Sequential(
            conv_block(3, c1, stride=2, norm=norm), conv_block(c1, c2, stride=2, norm=norm)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                conv_block(inputs, outputs, stride=2, norm=norm),
                *(Residual(outputs, norm) for _ in range(count)),
            )
            for inputs, outputs, count in zip((c2, *self.channels), self.channels, blocks)
        )
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
