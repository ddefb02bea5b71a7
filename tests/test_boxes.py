import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import finite_differences, iou_by_counting
from torch import Tensor
from torchvision.ops import box_convert, box_iou, clip_boxes_to_image, generalized_box_iou

from lesson_lib import boxes as B

corner = st.integers(0, 12)
whole_box = st.tuples(corner, corner, st.integers(1, 9), st.integers(1, 9)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
whole_boxes = st.lists(whole_box, max_size=4).map(
    lambda rows: torch.tensor(rows).float().reshape(-1, 4)
)


def random_boxes(*shape: int, seed: int = 0, dtype=torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    lo, hi = torch.rand(2, *shape, 2, generator=generator, dtype=dtype).mul(300)
    return torch.cat((torch.minimum(lo, hi), torch.maximum(lo, hi) + 1), -1)


@pytest.mark.parametrize(
    "there, back, fmt",
    [(B.xyxy_to_cxcywh, B.cxcywh_to_xyxy, "cxcywh"), (B.xyxy_to_xywh, B.xywh_to_xyxy, "xywh")],
)
@pytest.mark.parametrize("shape", [(0,), (7,), (2, 3)])
def test_formats_are_torchvisions_and_turn_back(there, back, fmt, shape):
    xyxy = random_boxes(*shape, dtype=torch.float64)
    torch.testing.assert_close(there(xyxy), box_convert(xyxy, "xyxy", fmt))
    torch.testing.assert_close(back(there(xyxy)), xyxy, rtol=0, atol=1e-12)


def test_formats_by_hand():
    assert B.xyxy_to_cxcywh(torch.tensor([1.0, 2.0, 4.0, 8.0])).tolist() == [2.5, 5.0, 3.0, 6.0]
    assert B.cxcywh_to_xyxy(torch.tensor([2.5, 5.0, 3.0, 6.0])).tolist() == [1.0, 2.0, 4.0, 8.0]
    assert B.xyxy_to_xywh(torch.tensor([1.0, 2.0, 4.0, 8.0])).tolist() == [1.0, 2.0, 3.0, 6.0]
    assert B.box_area(torch.tensor([1, 2, 4, 8])).item() == 18  # no "+ 1"


def test_clip_knows_height_from_width():
    wild = torch.tensor(
        [[-5.0, -5.0, 500.0, 500.0], [10.0, 20.0, 30.0, 40.0], [310.0, 210.0, 320.0, 220.0]]
    )
    clipped = B.clip_boxes(wild, (200, 300))
    assert clipped[:2].tolist() == [[0, 0, 300, 200], [10, 20, 30, 40]]
    assert B.box_area(clipped).tolist() == [60000, 400, 0]
    torch.testing.assert_close(clipped, clip_boxes_to_image(wild, (200, 300)), rtol=0, atol=0)


@given(whole_boxes, whole_boxes)
@settings(max_examples=60, deadline=None)
def test_iou_counts_squares(a, b):
    torch.testing.assert_close(B.pairwise_iou(a, b), iou_by_counting(a, b))


@given(whole_boxes, whole_boxes)
@settings(max_examples=60, deadline=None)
def test_iou_and_giou_are_bounded_and_symmetric(a, b):
    iou, giou = B.pairwise_iou(a, b), B.pairwise_giou(a, b)
    assert iou.shape == giou.shape == (len(a), len(b))
    assert torch.equal(iou, B.pairwise_iou(b, a).T) and torch.equal(giou, B.pairwise_giou(b, a).T)
    assert ((iou >= 0) & (iou <= 1) & (giou > -1) & (giou <= iou)).all()
    assert torch.equal(B.pairwise_iou(a, a).diagonal(), torch.ones(len(a)))


@pytest.mark.parametrize("n, m", [(0, 5), (5, 0), (0, 0), (6, 9)])
def test_iou_and_giou_equal_torchvisions(n, m):
    a, b = random_boxes(n, seed=1), random_boxes(m, seed=2)
    assert torch.equal(B.pairwise_iou(a, b), box_iou(a, b))
    torch.testing.assert_close(B.pairwise_giou(a, b), generalized_box_iou(a, b))
    batch_a, batch_b = random_boxes(3, n, seed=3), random_boxes(3, m, seed=4)
    assert torch.equal(B.pairwise_iou(batch_a, batch_b)[1], B.pairwise_iou(batch_a[1], batch_b[1]))


def test_boxes_without_area():
    """Where torchvision divides 0 by 0 we say 0; everywhere else the two agree."""
    point, other, box = [5.0, 5.0, 5.0, 5.0], [7.0, 5.0, 7.0, 5.0], [0.0, 0.0, 10.0, 10.0]
    boxes = torch.tensor([point, other, box])
    assert B.pairwise_iou(boxes, boxes).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert box_iou(boxes, boxes).isnan().tolist() == [
        [True, True, False],
        [True, True, False],
        [False] * 3,
    ]
    assert (
        B.pairwise_giou(boxes, boxes)[2, 2] == 1 and B.pairwise_giou(boxes, boxes).isfinite().all()
    )
    apart = torch.tensor([[7.0, 8.0, 7.0, 8.0]])
    assert B.pairwise_giou(boxes[:1], apart).item() == -1
    assert generalized_box_iou(boxes[:1], apart).isnan().item()


def test_nan_stays_nan():
    bad = torch.tensor([[0.0, float("nan"), 4.0, 4.0]])
    assert B.pairwise_iou(bad, random_boxes(3)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    box = torch.tensor([[0.0, 0.0, 300.0, 300.0]], dtype=dtype)
    assert B.box_area(box).item() == 90000  # above float16's largest number
    assert B.pairwise_iou(box, box).dtype == torch.float32 and B.pairwise_giou(box, box).item() == 1


def test_giou_has_the_right_gradient_even_when_boxes_are_apart():
    a = torch.tensor([[0.0, 0.0, 4.0, 4.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[6.0, 1.0, 9.0, 7.0], [2.0, 1.0, 7.0, 3.0]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(B.pairwise_giou(a, b).sum(), a)
    expected = finite_differences(lambda x: B.pairwise_giou(x, b).sum(), a.detach())
    torch.testing.assert_close(gradient, expected)
    assert (gradient != 0).any()


@pytest.mark.parametrize(
    "row, size, words",
    [
        ([0.0, torch.nan, 4.0, 4.0], None, "NaN or infinity"),
        ([0.0, 0.0, torch.inf, 4.0], None, "NaN or infinity"),
        ([4.0, 0.0, 0.0, 4.0], None, "inverted"),
        ([0.0, 4.0, 4.0, 0.0], None, "inverted"),
        ([2.0, 2.0, 2.0, 5.0], None, "zero area"),
        ([2.0, 2.0, 5.0, 2.0], None, "zero area"),
        ([0.0, 0.0, 31.0, 20.0], (20, 30), "leaves the pic"),
        ([0.0, 0.0, 30.0, 21.0], (20, 30), "leaves the pic"),
        ([-1.0, 0.0, 3.0, 3.0], (20, 30), "leaves the pic"),
        ([0.0, -1.0, 3.0, 3.0], (20, 30), "leaves the pic"),
    ],
)
def test_check_boxes_names_the_first_offending_row(row, size, words):
    good = [0.0, 0.0, 30.0, 20.0]
    with pytest.raises(ValueError, match=rf"^truth\[1\] = .*{words}"):
        B.check_boxes(torch.tensor([good, row, good, row]), size, name="truth")
    B.check_boxes(torch.tensor([good]), size)
    B.check_boxes(torch.tensor([[-1.0, -1.0, 3.0, 3.0]]))  # without a size, any place will do


def test_check_boxes_wants_rows_of_four():
    B.check_boxes(torch.zeros(0, 4), (10, 10))
    for shape in [(4,), (3, 5), (1, 2, 4), (0,)]:
        with pytest.raises(ValueError, match="shape"):
            B.check_boxes(torch.zeros(shape))
