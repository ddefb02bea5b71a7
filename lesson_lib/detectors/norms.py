"""Normalisation layers by name, and the block of convolution, norm and ReLU that all detectors are
made of.

"frozen"   batch norm with the pretrained network's statistics as constants: for pretrained weights
alone
"batch"    batch norm: needs several pictures of a kind in a batch on each device
"group"    group norm (arXiv:1803.08494): each picture by itself, so that small batches do not
disturb it; what a ResNet takes from scratch (VGG16 takes "batch": training/recipes.py)
None       no norm layer, as in VGG16
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = str | None


class FrozenBatchNorm(nn.Module):
    """(B, C, H, W) -> (x - mean) / sqrt(var + eps) * weight + bias, four constants for each
    channel.

    All four are buffers, not parameters: no optimizer moves them and parameter counts leave them
    out. One fused operation that keeps half precision half: torchvision's FrozenBatchNorm2d
    multiplies by float32 buffers, so that under autocast all activations behind it are float32
    again.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        for name, value in (
            ("weight", 1.0),
            ("bias", 0.0),
            ("running_mean", 0.0),
            ("running_var", 1.0),
        ):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        # torch 2.11 refuses 0, which torchvision's detectors have; 1e-45 adds nothing.
        eps = self.eps or 1e-45
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=eps)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


class GroupNorm(nn.GroupNorm):
    """(B, C, H, W) -> the same shape, type and memory format: group norm that keeps half precision
    half.

    Autocast runs torch's in float32, so that all activations behind it are kept for the gradient
    twice as large; on a GPU its kernel hands channels_last back in another order. Sums are of
    float32 inside of the kernel, whatever it is given.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype == self.weight.dtype:
            normed = super().forward(input)
        else:
            weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
            kind = "cpu" if input.is_meta else input.device.type  # "meta" has no autocast
            with torch.autocast(kind, enabled=False):
                normed = F.group_norm(input, self.num_groups, weight, bias, self.eps)
        if input.is_contiguous(memory_format=torch.channels_last):
            return normed.contiguous(memory_format=torch.channels_last)
        return normed


class L2Norm(nn.Module):
    """Scales the feature vector at each position to length 1, then each channel by a learned
    number.

    conv4_3 has a feature scale of its own, unlike the deeper maps' (SSD section 3.1, after
    ParseNet, arXiv:1506.04579); the learned one starts at 20.
    """

    def __init__(self, channels: int, scale: float = 20.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.scale.to(x.dtype)[:, None, None]


def make_norm(norm: str, channels: int, eps: float = 1e-5) -> nn.Module:
    """A norm layer for `channels` channels. ValueError for an unknown name.

    "group" takes 32 groups, or the largest power of two that leaves at least two channels in each.
    """
    if norm == "frozen":
        return FrozenBatchNorm(channels, eps)
    if norm == "batch":
        return nn.BatchNorm2d(channels, eps)
    if norm == "group":
        groups = math.gcd(32, channels)
        return GroupNorm(max(1, groups // 2) if groups == channels else groups, channels)
    raise ValueError(f"norm is {norm!r}; choose 'frozen', 'batch' or 'group'.")


class StridedConv2d(nn.Conv2d):
    """A convolution that pads maps of one column itself.

    oneDNN's gradient of the weights is garbage in bfloat16 on CPUs with AMX where such a map is
    padded inside of a convolution with a stride (seen with torch 2.14.1, sides (h, 1), kernels 3
    and 7); padded beforehand it is right, and everywhere the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-1] > 1:
            return super().forward(input)
        rows, columns = (int(side) for side in self.padding)
        padded = F.pad(input, (columns, columns, rows, rows))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def conv_block(  # noqa: PLR0913  a convolution's own options, by name
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    padding: int | None = None,
    dilation: int = 1,
    groups: int = 1,
    norm: Norm = None,
    eps: float = 1e-5,
    act: Callable[..., nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution, then the norm layer, then the activation, where asked for.

    By default the size is kept. act: a class that takes inplace=True.
    The convolution has a bias only where no norm follows, which would cancel it.
    """
    padding = dilation * (kernel // 2) if padding is None else padding
    bias = norm is None
    convolution = StridedConv2d if stride > 1 else nn.Conv2d
    layers: list[nn.Module] = [
        convolution(inputs, outputs, kernel, stride, padding, dilation, groups, bias)
    ]
    if norm is not None:
        layers.append(make_norm(norm, outputs, eps))
    if act is not None:
        layers.append(act(inplace=True))
    return nn.Sequential(*layers)


def replace_batch_norms(module: nn.Module, norm: str) -> nn.Module:
    """Puts `norm` in the place of every BatchNorm2d inside `module`, changes it in place and
    returns it.

    "frozen" takes over weights and statistics; "group" begins anew, since weights that were trained
    with batch norm mean nothing to it.
    """
    for name, child in list(module.named_children()):
        if not isinstance(child, nn.BatchNorm2d):
            replace_batch_norms(child, norm)
        elif norm != "batch":
            new = make_norm(norm, child.num_features, child.eps)
            if norm == "frozen":
                new.load_state_dict(
                    {
                        key: value
                        for key, value in child.state_dict().items()
                        if key != "num_batches_tracked"
                    }
                )
            setattr(module, name, new)
    return module
