"""The feature pyramid (FPN, arXiv:1612.03144) as RetinaNet uses it: P3 .. P7, all of one width."""

import torch.nn.functional as F
from torch import Tensor, nn

from lesson_lib.detectors.norms import Norm, StridedConv2d, conv_block


class FPN(nn.Module):
    """Maps [C3, C4, C5] of a backbone -> [P3 .. P7], strides 8 to 128 (FL, arXiv:1708.02002,
    section 4).

    The deep maps know what, the fine ones know where. From the top down, each map is brought to
    `channels` by a 1 x 1 convolution (lateral), the map above is enlarged and added, and a 3 x 3
    convolution smooths:

        m_5 = lateral(C5)      m_l = lateral(C_l) + nearest(m_l+1)      P_l = output(m_l)
        P6 = conv(C5)          P7 = conv(relu(P6))                      both 3 x 3, stride 2

    channels  256 in both papers
    p6_from   "C5", the backbone's last map, as in the paper; "P5", its pyramid level, as
              torchvision has it
    norm      after lateral and output convolutions; the papers have none
    Any number of maps >= 1 will do. Weights start uniform (Xavier, as in the authors' release),
    biases at 0.
    """

    def __init__(
        self, inputs: tuple[int, ...], channels: int = 256, p6_from: str = "C5", norm: Norm = None
    ):
        super().__init__()
        if p6_from not in ("C5", "P5"):
            raise ValueError(
                f"p6_from is {p6_from!r}; choose 'C5' (the paper) or 'P5' (torchvision)."
            )
        self.p6_from = p6_from
        self.lateral = nn.ModuleList(
            conv_block(c, channels, 1, norm=norm, act=None) for c in inputs
        )
        self.output = nn.ModuleList(
            conv_block(channels, channels, norm=norm, act=None) for _ in inputs
        )
        self.p6 = StridedConv2d(
            inputs[-1] if p6_from == "C5" else channels, channels, 3, stride=2, padding=1
        )
        self.p7 = StridedConv2d(channels, channels, 3, stride=2, padding=1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_uniform_(
                    conv.weight, a=1
                )  # +- sqrt(3 / fan_in): Caffe2's XavierFill
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        merged = [lateral(c) for lateral, c in zip(self.lateral, maps)]
        for level in range(len(merged) - 2, -1, -1):
            merged[level] = merged[level] + enlarge(merged[level + 1], like=merged[level])
        pyramid = [output(m) for output, m in zip(self.output, merged)]
        p6 = self.p6(maps[-1] if self.p6_from == "C5" else pyramid[-1])
        return [*pyramid, p6, self.p7(F.relu(p6))]


def enlarge(coarse: Tensor, like: Tensor) -> Tensor:
    """coarse (B, C, h, w) at the height and width of `like`: each value is copied, none is
    averaged.

    The size is given and not a factor of 2: a picture of 600 px has 19 rows at stride 32, 38 at 16,
    75 at 8.
    """
    return F.interpolate(coarse, size=like.shape[-2:], mode="nearest")
