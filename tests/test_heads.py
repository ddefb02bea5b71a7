from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models.detection.retinanet import RetinaNetHead

from lesson_lib.anchors import anchor_address
from lesson_lib.detectors.heads import RetinaNetHeads, SSDHeads, flatten_predictions, join_levels
from lesson_lib.losses import prior_bias


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_flatten_follows_one_element(memory_format):
    b, k, values, height, width = 2, 3, 5, 4, 6
    prediction = torch.zeros(b, k * values, height, width)
    prediction[1, 2 * values + 4, 3, 1] = 7.0  # anchor 2, value 4, row 3, column 1
    rows = flatten_predictions(prediction.contiguous(memory_format=memory_format), values)
    assert rows.shape == (b, height * width * k, values)
    assert rows.nonzero().tolist() == [[1, (3 * width + 1) * k + 2, 4]]


def test_joined_levels_stand_where_the_anchors_stand():
    grids, per_position = [(3, 4), (2, 1)], [2, 3]
    maps = [torch.zeros(1, k * 4, *grid) for grid, k in zip(grids, per_position)]
    maps[1][0, 2 * 4 + 1, 1, 0] = 1.0  # level 1, row 1, column 0, anchor 2
    row = int(join_levels(maps, 4)[0, :, 1].nonzero())
    assert anchor_address(row, grids, per_position) == (1, 1, 0, 2)


def test_flatten_is_a_view_of_channels_last():
    prediction = torch.randn(1, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    assert flatten_predictions(prediction, 4).data_ptr() == prediction.data_ptr()


def test_ssd_outputs_count_as_the_paper_says():
    heads = SSDHeads((8, 16), (4, 6), outputs=3)
    logits, deltas = heads([torch.randn(2, 8, 5, 4), torch.randn(2, 16, 3, 2)])
    anchors = 4 * 5 * 4 + 6 * 3 * 2
    assert logits.shape == (2, anchors, 3) and deltas.shape == (2, anchors, 4)
    assert (
        logits[0].numel() + deltas[0].numel() == (3 + 4) * anchors
    )  # (c + 4) k m n, summed over the maps
    assert all(not conv.bias.any() for conv in [*heads.cls, *heads.box])


def test_each_ssd_map_has_its_own_weights():
    heads = SSDHeads((8, 8), (2, 2), outputs=2)
    x = torch.randn(1, 8, 3, 3)
    logits, _ = heads([x, x])
    assert not torch.equal(logits[:, :18], logits[:, 18:])


def test_retinanet_heads_share_weights_between_levels():
    heads = RetinaNetHeads(8, 9, 3)
    x = torch.randn(2, 8, 2, 3)
    logits, deltas = heads([x, x])
    assert logits.shape == (2, 2 * 54, 3) and deltas.shape == (2, 2 * 54, 4)
    assert torch.equal(logits[:, :54], logits[:, 54:]) and torch.equal(
        deltas[:, :54], deltas[:, 54:]
    )


def test_retinanet_heads_start_as_the_paper_says():
    torch.manual_seed(0)
    heads = RetinaNetHeads(64, 9, 20)
    convs = [module for module in heads.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == 10  # four, four, and the two last ones
    for conv in convs:
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.03)
        bias = prior_bias(0.01) if conv is heads.cls else 0.0
        assert conv.bias.tolist() == pytest.approx([bias] * len(conv.bias))
    logits, _ = heads([torch.randn(1, 64, 4, 4)])
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.01)


def test_classes_do_not_reach_the_box_tower():
    heads = RetinaNetHeads(8, 2, 3)
    _, deltas = heads([torch.randn(1, 8, 2, 2)])
    deltas.sum().backward()
    assert heads.box_tower[0][0].weight.grad.any()
    assert all(p.grad is None for p in [*heads.cls_tower.parameters(), *heads.cls.parameters()])


def test_heads_with_group_norm_are_those_of_torchvisions_second_version():
    torch.manual_seed(0)
    theirs = RetinaNetHead(64, 9, 5, norm_layer=partial(nn.GroupNorm, 32))
    ours = RetinaNetHeads(64, 9, 5, norm="group")
    for module in theirs.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.uniform_(module.weight)
            nn.init.uniform_(module.bias)
    parts = theirs.classification_head, theirs.regression_head
    state = [value for part in parts for value in part.conv.state_dict().values()]
    state += [*parts[0].cls_logits.parameters(), *parts[1].bbox_reg.parameters()]
    for mine, value in zip(ours.state_dict().values(), state, strict=True):
        mine.copy_(value)
    maps = [torch.randn(2, 64, 6, 5), torch.randn(2, 64, 3, 3)]
    with torch.no_grad():
        logits, deltas = ours(maps)
        found = theirs(maps)
    torch.testing.assert_close(logits, found["cls_logits"])
    torch.testing.assert_close(deltas, found["bbox_regression"])


def test_group_norm_in_heads_and_batch_norm_refused():
    heads = RetinaNetHeads(64, 9, 3, norm="group")
    assert sum(isinstance(module, nn.GroupNorm) for module in heads.modules()) == 8
    with pytest.raises(ValueError, match="'group'"):
        RetinaNetHeads(64, 9, 3, norm="batch")
