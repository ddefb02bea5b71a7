import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.ops import FrozenBatchNorm2d

from lesson_lib.detectors.norms import (
    FrozenBatchNorm,
    GroupNorm,
    StridedConv2d,
    conv_block,
    make_norm,
    replace_batch_norms,
)
from lesson_lib.training.rehearsal import as_autocast


def fill(module: nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(value.shape, generator=generator) + 0.5
        for name, value in module.state_dict().items()
        if value.is_floating_point()
    }


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 0.0])
def test_frozen_norm_equals_torchvisions_in_either_mode(eps):
    theirs, ours, x = FrozenBatchNorm2d(6, eps), FrozenBatchNorm(6, eps), torch.randn(2, 6, 5, 3)
    theirs.load_state_dict(fill(theirs))
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours.train()(x), theirs(x))
    torch.testing.assert_close(ours.eval()(x), theirs(x))
    assert not list(ours.parameters()) and len(ours.state_dict()) == 4


def test_frozen_norm_keeps_half_precision_half():
    x = torch.randn(2, 6, 5, 3, dtype=torch.bfloat16)
    assert FrozenBatchNorm(6)(x).dtype == torch.bfloat16
    assert FrozenBatchNorm2d(6)(x).dtype == torch.float32  # why torchvision's is not used


def test_group_norm_keeps_half_precision_half_and_the_memory_format():
    """As a GPU has it: torch's own would make both another, and so all that follows."""
    ours, theirs = GroupNorm(4, 16), nn.GroupNorm(4, 16)
    with FakeTensorMode():
        x = torch.empty(2, 16, 5, 3, dtype=torch.bfloat16, device="cuda")
        x = x.to(memory_format=torch.channels_last)
        with torch.device("cuda"), as_autocast(torch.bfloat16):
            half, single = GroupNorm(4, 16)(x), nn.GroupNorm(4, 16)(x)
    assert (half.dtype, single.dtype) == (torch.bfloat16, torch.float32)
    assert half.is_contiguous(memory_format=torch.channels_last)
    assert not single.is_contiguous(memory_format=torch.channels_last)
    x = torch.randn(2, 16, 5, 3)
    ours.load_state_dict(fill(theirs))
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours(x), theirs(x))  # in float32 the same
    y = x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        half = ours(y)
    half.float().square().sum().backward()
    theirs(y.float()).square().sum().backward()
    torch.testing.assert_close(half.float(), theirs(y.float()), rtol=0.02, atol=0.02)
    assert half.dtype == torch.bfloat16 and ours.weight.grad.dtype == torch.float32
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=0.02, atol=0.2)


@pytest.mark.parametrize(
    "channels, groups", [(1, 1), (3, 1), (16, 8), (24, 8), (32, 16), (40, 8), (64, 32), (512, 32)]
)
def test_groups(channels, groups):
    norm = make_norm("group", channels)
    assert (norm.num_groups, norm.num_channels) == (groups, channels)


def test_unknown_norm():
    with pytest.raises(ValueError, match="'frozen', 'batch' or 'group'"):
        make_norm("layer", 8)


@pytest.mark.parametrize(
    "norm, kind",
    [(None, None), ("frozen", FrozenBatchNorm), ("batch", nn.BatchNorm2d), ("group", GroupNorm)],
)
def test_block_has_a_bias_or_a_norm(norm, kind):
    block = conv_block(4, 8, 3, dilation=2, norm=norm)
    assert (block[0].bias is None) == (norm is not None)
    assert [type(layer) for layer in block] == [nn.Conv2d, *([kind] if kind else []), nn.ReLU]
    assert (
        block(torch.randn(2, 4, 7, 9)).shape == (2, 8, 7, 9)
        and len(conv_block(4, 8, act=None)) == 1
    )


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_replacing_batch_norms(norm):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Sequential(nn.BatchNorm2d(8, eps=0.01), nn.ReLU())
    )
    network.load_state_dict(network.state_dict() | fill(network))
    x = torch.randn(2, 3, 6, 6)
    before = network.eval()(x)
    network = replace_batch_norms(network, norm)
    assert type(network[1][0]) is type(make_norm(norm, 8))
    assert torch.allclose(network(x), before, atol=1e-5) == (norm != "group")


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 4), (5, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_strided_convolution_and_its_gradients_are_right_on_the_smallest_maps(size, dtype):
    torch.manual_seed(0)
    conv = StridedConv2d(64, 64, 3, stride=2, padding=1)
    x = torch.randn(2, 64, *size, requires_grad=True)
    values = [x, conv.weight, conv.bias]
    y = torch.nn.functional.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
    expected = [y, *torch.autograd.grad(y.sum(), values)]
    for _ in range(3):
        filled = [torch.full((1 << 18,), 1e30) for _ in range(8)]  # what memory held before
        del filled
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = conv(x)
        found = [y, *torch.autograd.grad(y.float().sum(), values)]
        for mine, theirs in zip(found, expected, strict=True):
            error = (mine.float() - theirs).abs().max() / theirs.abs().max()
            assert error < (1e-5 if dtype == torch.float32 else 0.02)
