import pytest
import torch
from torch import nn

from lesson_lib.detectors.fpn import FPN, enlarge


def maps_of(size: int, channels=(4, 6, 10)) -> list[torch.Tensor]:
    return [torch.randn(2, c, -(-size // s), -(-size // s)) for c, s in zip(channels, (8, 16, 32))]


@pytest.mark.parametrize(
    "size, rows", [(256, [32, 16, 8, 4, 2]), (600, [75, 38, 19, 10, 5]), (33, [5, 3, 2, 1, 1])]
)
@pytest.mark.parametrize("p6_from", ["C5", "P5"])
def test_five_levels_of_one_width(size, rows, p6_from):
    pyramid = FPN((4, 6, 10), 8, p6_from)(maps_of(size))
    assert [tuple(p.shape) for p in pyramid] == [(2, 8, n, n) for n in rows]


def test_enlarge_copies_and_follows_one_element():
    coarse = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert enlarge(coarse, torch.zeros(1, 1, 4, 6))[0, 0].tolist() == [
        [0, 0, 1, 1, 2, 2],
        [0, 0, 1, 1, 2, 2],
        [3, 3, 4, 4, 5, 5],
        [3, 3, 4, 4, 5, 5],
    ]
    assert enlarge(coarse, torch.zeros(1, 9, 3, 5)).shape == (1, 1, 3, 5)


def test_by_hand():
    """Every weight 1 at the kernel's centre, 0 elsewhere:
    the pyramid adds numbers one can follow.
    """
    fpn = FPN((1, 1), 1, "C5")
    for conv in fpn.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.zeros_(conv.weight)
            conv.weight.data[..., conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = 1
    c4, c5 = torch.arange(16.0).reshape(1, 1, 4, 4), torch.tensor([[[[10.0, -20], [30, 40]]]])
    p4, p5, p6, p7 = fpn([c4, c5])
    assert torch.equal(p5, c5) and p6.item() == 10 and p7.item() == 10
    assert p4[0, 0].tolist() == [
        [10, 11, -18, -17],
        [14, 15, -14, -13],
        [38, 39, 50, 51],
        [42, 43, 54, 55],
    ]
    p6, p7 = fpn([c4, -c5])[2:]
    assert p6.item() == -10 and p7.item() == 0  # the ReLU stands before P7 alone


@pytest.mark.parametrize("p6_from", ["C5", "P5"])
def test_where_p6_comes_from(p6_from):
    fpn, maps = FPN((4, 6, 10), 8, p6_from), maps_of(64)
    before = fpn(maps)
    fpn.output[2][0].weight.data.mul_(2)  # moves P5 alone
    after = fpn(maps)
    assert not torch.equal(before[2], after[2])
    assert torch.equal(before[3], after[3]) == (p6_from == "C5")
    assert fpn.p6.in_channels == (10 if p6_from == "C5" else 8)


def test_information_flows_from_the_top_down_alone():
    fpn, maps = FPN((4, 6, 10), 8), maps_of(64)
    before = fpn(maps)
    changed = fpn([maps[0] + 1, *maps[1:]])
    assert [torch.equal(a, b) for a, b in zip(before, changed)] == [False, True, True, True, True]
    changed = fpn([*maps[:2], maps[2] + 1])
    assert not any(torch.equal(a, b) for a, b in zip(before, changed))


def test_norms_and_a_wrong_name():
    fpn = FPN((4, 6, 10), 64, norm="group")
    assert sum(isinstance(module, nn.GroupNorm) for module in fpn.modules()) == 6
    with pytest.raises(ValueError, match="'C5' .*'P5'"):
        FPN((4,), 8, p6_from="p5")
