import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder

from lesson_lib.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from lesson_lib.coding import NO_VARIANCES, VARIANCES, decode, encode

cxcywh = st.tuples(
    st.floats(-50, 350), st.floats(-50, 350), st.floats(1, 60), st.floats(1, 60)
).map(list)


def random_cxcywh(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 4, generator=generator, dtype=torch.float64) * 200 + 10


def test_by_hand():
    anchor, box = torch.tensor([[50.0, 50.0, 20.0, 40.0]]), torch.tensor([[55.0, 40.0, 40.0, 20.0]])
    paper = [5 / 20, -10 / 40, math.log(2), -math.log(2)]
    assert encode(box, anchor, NO_VARIANCES)[0].tolist() == pytest.approx(paper)
    released = [paper[0] / 0.1, paper[1] / 0.1, paper[2] / 0.2, paper[3] / 0.2]
    assert encode(box, anchor)[0].tolist() == pytest.approx(released)
    assert decode(torch.zeros(1, 4), anchor).tolist() == anchor.tolist()


@given(
    st.lists(st.tuples(cxcywh, cxcywh), max_size=5),
    st.sampled_from([VARIANCES, NO_VARIANCES, (0.3, 0.7)]),
)
@settings(max_examples=60, deadline=None)
def test_decode_is_the_inverse_of_encode(pairs, variances):
    boxes, anchors = (
        torch.tensor([p[i] for p in pairs], dtype=torch.float64).reshape(-1, 4) for i in (0, 1)
    )
    deltas = encode(boxes, anchors, variances)
    torch.testing.assert_close(decode(deltas, anchors, variances), boxes, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(
        encode(decode(deltas, anchors, variances), anchors, variances), deltas, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    "variances, weights", [(VARIANCES, (10.0, 10.0, 5.0, 5.0)), (NO_VARIANCES, (1.0,) * 4)]
)
@pytest.mark.parametrize("count", [0, 50])
def test_equal_to_torchvisions_box_coder(variances, weights, count):
    boxes, anchors, coder = random_cxcywh(count, 1), random_cxcywh(count, 2), BoxCoder(weights)
    deltas = encode(boxes, anchors, variances)
    torch.testing.assert_close(
        deltas, coder.encode_single(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(anchors))
    )
    wild = deltas * 4  # some beyond the limit on the exponent
    ours = cxcywh_to_xyxy(decode(wild, anchors, variances))
    torch.testing.assert_close(
        ours, coder.decode_single(wild, cxcywh_to_xyxy(anchors)).reshape(-1, 4)
    )


def test_the_limit_on_width_and_height():
    anchor, wild = torch.tensor([[0.0, 0.0, 8.0, 4.0]]), torch.tensor([[0.0, 0.0, 1e4, 1e4]])
    assert decode(wild, anchor)[0, 2:].tolist() == pytest.approx([8 * 62.5, 4 * 62.5])
    assert decode(wild, anchor, max_log_wh=None)[0, 2:].isinf().all()
    assert decode(torch.tensor([[0.0, 0.0, -10.0, -10.0]]), anchor)[
        0, 2:
    ].tolist() == pytest.approx([8 * math.exp(-2), 4 * math.exp(-2)])  # no limit below


def test_batches_broadcast_over_anchors():
    anchors, boxes = random_cxcywh(6, 3), random_cxcywh(18, 4).reshape(3, 6, 4)
    deltas = encode(boxes, anchors)
    assert deltas.shape == (3, 6, 4) and torch.equal(deltas[1], encode(boxes[1], anchors))
    torch.testing.assert_close(decode(deltas, anchors), boxes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_offsets_are_widened_before_exp(dtype):
    anchors = torch.tensor([[300.0, 300.0, 200.0, 100.0]])
    deltas = torch.tensor([[0.5, -0.25, 3.1, -2.7]]).to(dtype)
    assert decode(deltas, anchors).dtype == torch.float32
    assert torch.equal(decode(deltas, anchors), decode(deltas.float(), anchors))


def test_boxes_without_area_and_nan():
    anchor = torch.tensor([[5.0, 5.0, 2.0, 2.0]])
    assert encode(torch.tensor([[5.0, 5.0, 0.0, 2.0]]), anchor).tolist() == [[0, 0, -math.inf, 0]]
    unknown = encode(torch.tensor([[math.nan, 5.0, 2.0, 2.0]]), anchor)
    assert unknown.isnan().tolist() == [[True, False, False, False]]


def test_offsets_do_not_depend_on_the_unit():
    boxes, anchors = random_cxcywh(9, 5), random_cxcywh(9, 6)
    torch.testing.assert_close(encode(boxes / 300, anchors / 300), encode(boxes, anchors))
    corners = xyxy_to_cxcywh(cxcywh_to_xyxy(boxes))
    torch.testing.assert_close(encode(corners, anchors), encode(boxes, anchors))
