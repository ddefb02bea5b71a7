import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import finite_differences
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.autograd import gradcheck
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.retinanet import (
    RetinaNetClassificationHead,
    RetinaNetRegressionHead,
)
from torchvision.models.detection.ssd import SSD
from torchvision.ops import generalized_box_iou_loss
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from lesson_lib import losses
from lesson_lib.losses import (
    balanced_cross_entropy,
    binary_cross_entropy,
    giou_loss,
    huber_loss,
    l1_loss,
    l2_loss,
    prior_bias,
    retinanet_loss,
    sigmoid_focal_loss,
    smooth_l1_loss,
    softmax_cross_entropy,
    softmax_focal_loss,
    ssd_loss,
)
from lesson_lib.mining import hard_negative_mask
from lesson_lib.training.rehearsal import Alive

GAMMAS = (0, 0.1, 0.2, 0.5, 0.9, 1, 2, 5)


def random(*shape, seed=0, scale=3.0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * scale


def value_and_gradient(f, x):
    x = x.clone().requires_grad_()
    value = f(x)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def same(f, g, x, **tolerance):
    """f and g agree at x, in value and in gradient."""
    for ours, theirs in zip(value_and_gradient(f, x), value_and_gradient(g, x)):
        torch.testing.assert_close(ours, theirs, **tolerance)


# ---- box offsets ----


@pytest.mark.parametrize("width", [0.11, 1.0, 3.0])
def test_box_losses_are_torchs(width):
    x, target = random(50, 4), random(50, 4, seed=1)
    same(lambda x: l1_loss(x, target), lambda x: F.l1_loss(x, target, reduction="none"), x)
    same(lambda x: 2 * l2_loss(x, target), lambda x: F.mse_loss(x, target, reduction="none"), x)
    same(
        lambda x: smooth_l1_loss(x, target, width),
        lambda x: F.smooth_l1_loss(x, target, beta=width, reduction="none"),
        x,
    )
    same(
        lambda x: huber_loss(x, target, width),
        lambda x: F.huber_loss(x, target, delta=width, reduction="none"),
        x,
    )


def test_smooth_l1_at_the_bend_and_at_its_limits():
    zero = torch.zeros(1, dtype=torch.float64)
    for side in (1 - 1e-9, 1.0, 1 + 1e-9):
        value, slope = value_and_gradient(lambda x: smooth_l1_loss(x, zero), zero + side)
        assert value.item() == pytest.approx(0.5, abs=1e-8) and slope.item() == pytest.approx(
            1.0, abs=1e-8
        )
    x = random(20, 4)
    same(lambda x: smooth_l1_loss(x, torch.zeros(20, 4), 0.0), lambda x: x.abs(), x)
    same(
        lambda x: huber_loss(x, torch.zeros(20, 4), 1e4),
        lambda x: l2_loss(x, torch.zeros(20, 4)),
        x,
    )
    assert smooth_l1_loss(torch.tensor([0.5, -3.0]), torch.zeros(2)).tolist() == [0.125, 2.5]


# ---- classes ----


def test_cross_entropies_are_torchs():
    x, y = random(200, scale=30), random(200, seed=1) > 0
    same(
        lambda x: binary_cross_entropy(x, y),
        lambda x: F.binary_cross_entropy_with_logits(x, y.float(), reduction="none"),
        x,
    )
    weight = torch.where(y, 0.25, 0.75)
    same(
        lambda x: balanced_cross_entropy(x, y, 0.25),
        lambda x: F.binary_cross_entropy_with_logits(x, y.float(), weight, reduction="none"),
        x,
    )
    logits, classes = random(4, 50, 6, scale=30), torch.arange(200).view(4, 50) % 6
    same(
        lambda x: softmax_cross_entropy(x, classes),
        lambda x: F.cross_entropy(x.flatten(0, 1), classes.flatten(), reduction="none").view(4, 50),
        logits,
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-100, 100), st.booleans()), min_size=1, max_size=20))
def test_focal_loss_at_gamma_zero_is_cross_entropy(cases):
    x, y = torch.tensor([c[0] for c in cases]), torch.tensor([c[1] for c in cases])
    same(
        lambda x: sigmoid_focal_loss(x, y, alpha=None, gamma=0),
        lambda x: F.binary_cross_entropy_with_logits(x, y.float(), reduction="none"),
        x,
    )
    same(
        lambda x: softmax_focal_loss(torch.stack((-x, x), -1), y.long(), gamma=0),
        lambda x: F.cross_entropy(torch.stack((-x, x), -1), y.long(), reduction="none"),
        x,
    )


@pytest.mark.parametrize("alpha", [None, 0.25, 1.0])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_focal_loss_is_torchvisions_where_that_is_sound(gamma, alpha):
    x, y = random(500, dtype=torch.float64), (random(500, seed=1) > 0).double()
    same(
        lambda x: sigmoid_focal_loss(x, y, alpha, gamma),
        lambda x: torchvision_focal(x, y, -1 if alpha is None else alpha, gamma),
        x,
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_focal_losses_are_finite_and_right_at_extreme_logits(gamma, dtype):
    x = torch.tensor([-1e4, -1000, -100, -18, 0, 18, 40, 100, 1000, 1e4], dtype=dtype)
    value, gradient = value_and_gradient(
        lambda x: sigmoid_focal_loss(x, torch.ones_like(x), None, gamma), x
    )
    two = torch.ones(len(x), dtype=torch.long)
    forms = [
        (value, gradient),
        value_and_gradient(lambda x: sigmoid_focal_loss(-x, torch.zeros_like(x), None, gamma), x),
        value_and_gradient(
            lambda x: softmax_focal_loss(torch.stack((0 * x, x), -1), two, gamma), x
        ),
    ]
    for other_value, other_gradient in forms:
        assert other_value.isfinite().all() and other_gradient.isfinite().all()
        torch.testing.assert_close(other_value, value)
        torch.testing.assert_close(other_gradient, gradient)
    assert value[:3].tolist() == [1e4, 1000, 100] and gradient[:3].tolist() == [-1, -1, -1]
    for logit, v, g in list(zip(x.tolist(), value.tolist(), gradient.tolist()))[
        3:8
    ]:  # against plain math
        p, q = 1 / (1 + math.exp(-logit)), 1 / (1 + math.exp(logit))  # p_t and 1 - p_t
        log_p = -math.log1p(math.exp(-logit))
        tolerance = {"rel": 2e-5 if dtype == torch.float32 else 1e-12, "abs": 1e-37}
        assert v == pytest.approx(-(q**gamma) * log_p, **tolerance)
        assert g == pytest.approx(q**gamma * (gamma * p * log_p - q), **tolerance)


@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_torchvisions_focal_gradient_is_nan_at_a_sure_answer(gamma):
    x, y = torch.tensor([18.0]), torch.ones(1)
    assert value_and_gradient(lambda x: torchvision_focal(x, y, gamma=gamma), x)[1].isnan().all()
    assert (
        value_and_gradient(lambda x: sigmoid_focal_loss(x, y, gamma=gamma), x)[1].isfinite().all()
    )


def test_focal_loss_discounts_as_the_paper_says():
    p_t = torch.tensor([0.5, 0.9, 0.968], dtype=torch.float64)
    x, y = (p_t / (1 - p_t)).log(), torch.ones(3)
    discount = binary_cross_entropy(x, y) / sigmoid_focal_loss(x, y, alpha=None, gamma=2)
    assert discount.tolist() == pytest.approx([4, 100, 1000], rel=0.03)
    hard = torch.linspace(-10, 0, 50)
    ratio = binary_cross_entropy(hard, torch.ones(50)) / sigmoid_focal_loss(
        hard, torch.ones(50), None, 2
    )
    assert ratio.max() <= 4 + 1e-5 and ratio.min() >= 1


def test_first_background_loss_of_100k_anchors():
    def total(f, logit):
        entry = f(torch.tensor([logit], dtype=torch.float64), torch.zeros(1))
        return 100_000 * 80 * entry.item()

    assert prior_bias() == pytest.approx(-4.59511985, abs=1e-8)
    assert torch.sigmoid(torch.tensor(prior_bias(0.2))).item() == pytest.approx(0.2)
    assert total(binary_cross_entropy, 0.0) == pytest.approx(5.55e6, rel=1e-3)
    assert total(binary_cross_entropy, prior_bias()) == pytest.approx(80_403, abs=1)
    assert total(sigmoid_focal_loss, 0.0) == pytest.approx(1.04e6, rel=1e-3)
    assert total(sigmoid_focal_loss, prior_bias()) == pytest.approx(6.03, abs=0.01)


def test_softmax_focal_loss_with_three_classes_and_weights():
    logits, classes = random(30, 3, dtype=torch.float64), torch.arange(30) % 3
    alpha = torch.tensor([0.1, 0.5, 2.0])
    p = logits.softmax(-1)[torch.arange(30), classes]
    torch.testing.assert_close(
        softmax_focal_loss(logits, classes, 1.5, alpha), -alpha[classes] * (1 - p) ** 1.5 * p.log()
    )


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradients_against_finite_differences(gamma):
    x, y = random(6, 4, dtype=torch.float64).requires_grad_(), random(6, 4, seed=1) > 0
    classes = torch.tensor([0, 1, 2, 3, 1, 0])
    assert gradcheck(lambda x: sigmoid_focal_loss(x, y, 0.25, gamma), x)
    assert gradcheck(lambda x: softmax_focal_loss(x, classes, gamma), x)


def test_gradients_of_the_plain_losses_against_finite_differences():
    x, target = (
        random(6, 4, dtype=torch.float64).requires_grad_(),
        random(6, 4, seed=1, dtype=torch.float64),
    )
    for loss in (l1_loss, l2_loss, smooth_l1_loss, huber_loss):
        assert gradcheck(loss, (x, target))
    assert gradcheck(lambda x: binary_cross_entropy(x, target > 0), x)
    assert gradcheck(lambda x: balanced_cross_entropy(x, target > 0, 0.3), x)
    assert gradcheck(lambda x: softmax_cross_entropy(x, torch.tensor([0, 1, 2, 3, 1, 0])), x)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (2, 0, 4)])
def test_nothing_in_nothing_out(shape):
    x = torch.zeros(shape)
    for loss in (
        l1_loss,
        l2_loss,
        smooth_l1_loss,
        huber_loss,
        binary_cross_entropy,
        sigmoid_focal_loss,
    ):
        assert loss(x, x).shape == shape


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, y: sigmoid_focal_loss(x, y, gamma=-1), "gamma"),
        (lambda x, y: softmax_focal_loss(x, y[:, 0].long(), gamma=-1), "gamma"),
        (lambda x, y: sigmoid_focal_loss(x, y, alpha=-1), "alpha"),
        (lambda x, y: balanced_cross_entropy(x, y, 1.5), "alpha"),
        (lambda x, y: binary_cross_entropy(x, y[:, :1]), "one 0 or 1"),
        (lambda x, y: softmax_cross_entropy(x, y.long()), "one class"),
        (lambda x, y: softmax_focal_loss(x[:, :1], y[:, 0].long()), "two classes"),
        (lambda x, y: l1_loss(x, y[:1]), "agree"),
        (lambda x, y: giou_loss(x, y[:1]), "agree"),
        (lambda x, y: smooth_l1_loss(x, y, beta=-1.0), "beta"),
        (lambda x, y: huber_loss(x, y, delta=0.0), "delta"),
        (lambda x, y: prior_bias(1.0), "pi"),
    ],
)
def test_refuses_nonsense_with_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(3, 4), torch.zeros(3, 4))


# ---- SSD ----


def ssd_case(seed, batch=3, anchors=40, classes=4, objects_at=0.1, dtype=torch.float32):
    """Random heads, a random matching (index of the object, -1 for none) with the last picture
    empty.
    """
    chance = torch.rand(batch, anchors, generator=torch.Generator().manual_seed(seed))
    matched = torch.where(chance < objects_at, torch.arange(anchors) % 3, -1)
    matched[-1] = -1
    corner = random(batch, 3, 2, seed=seed, scale=20).abs()
    boxes = torch.cat((corner, corner + 5 + random(batch, 3, 2, seed=seed + 1, scale=9).abs()), -1)
    labels = torch.randint(
        1, classes + 1, (batch, 3), generator=torch.Generator().manual_seed(seed)
    )
    corner = random(anchors, 2, seed=seed + 2, scale=20).abs()
    priors = torch.cat((corner, corner + 10), -1)
    logits = random(batch, anchors, classes + 1, seed=seed + 3).to(dtype)
    return (
        logits,
        random(batch, anchors, 4, seed=seed + 4, scale=1).to(dtype),
        matched,
        boxes,
        labels,
        priors,
    )


def ssd_arguments(case, coder):
    """What the criterion hands to ssd_loss, mined three to one."""
    logits, deltas, matched, boxes, labels, priors = case
    positive = matched >= 0
    classes = torch.where(positive, labels.gather(1, matched.clamp(min=0)), 0)
    targets = torch.stack(
        [coder.encode_single(b[m.clamp(min=0)], priors) for b, m in zip(boxes, matched)]
    )
    loss = softmax_cross_entropy(logits, torch.zeros_like(classes))
    negative = hard_negative_mask(loss, positive, ~positive, ratio=3)
    return logits, deltas, classes, targets.to(deltas.dtype), positive, negative


def torchvision_ssd_loss(case, coder):
    logits, deltas, matched, boxes, labels, priors = case
    return SSD.compute_loss(
        SimpleNamespace(box_coder=coder, neg_to_pos_ratio=3),
        [{"boxes": b, "labels": k} for b, k in zip(boxes, labels)],
        {"cls_logits": logits, "bbox_regression": deltas},
        [priors] * len(boxes),
        list(matched),
    )


CODER = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))


@pytest.mark.parametrize("seed", range(5))
def test_ssd_loss_is_torchvisions(seed):
    case = ssd_case(seed)
    ours, theirs = ssd_loss(*ssd_arguments(case, CODER)), torchvision_ssd_loss(case, CODER)
    torch.testing.assert_close(ours["cls"], theirs["classification"])
    torch.testing.assert_close(ours["box"], theirs["bbox_regression"])


def test_torchvisions_ssd_loss_counts_positives_twice_when_negatives_run_out():
    case = ssd_case(0, objects_at=0.5)
    arguments = ssd_arguments(case, CODER)
    logits, _, classes, _, positive, negative = arguments
    assert (3 * positive.sum(1) > (~positive).sum(1)).any() and (negative & positive).sum() == 0
    ours, theirs = ssd_loss(*arguments)["cls"], torchvision_ssd_loss(case, CODER)["classification"]
    twice = softmax_cross_entropy(logits, classes).masked_fill(~positive, -math.inf)
    extra = 0  # torchvision fills the quota with positives
    for row, room, quota in zip(twice, (~positive).sum(1), 3 * positive.sum(1)):
        again = row.sort(descending=True)[0][: max(0, int(quota - room))]
        extra = extra + again[again.isfinite()].sum()
    assert extra > 1
    torch.testing.assert_close(theirs, ours + extra / positive.sum())


def test_ssd_loss_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [5.0, 0.0]]])
    positive, negative = torch.tensor([[True, False, False]]), torch.tensor([[False, True, False]])
    deltas = torch.tensor([[[0.5, 2.0, 0.0, 0.0], [9.0] * 4, [9.0] * 4]])
    out = ssd_loss(
        logits, deltas, torch.tensor([[1, 0, 0]]), torch.zeros(1, 3, 4), positive, negative, 2.0
    )
    assert out["cls"].item() == pytest.approx(math.log(2) + math.log(1 + math.e))
    assert out["box"].item() == pytest.approx(2.0 * (0.125 + 1.5))


@pytest.mark.parametrize("anchors", [0, 7])
def test_ssd_loss_without_objects_is_zero_with_a_gradient_of_zero(anchors):
    logits, deltas = random(2, anchors, 4).requires_grad_(), random(2, anchors, 4).requires_grad_()
    none, some = torch.zeros(2, anchors, dtype=torch.bool), torch.ones(2, anchors, dtype=torch.bool)
    out = ssd_loss(
        logits, deltas, torch.zeros(2, anchors, dtype=torch.long), deltas.detach(), none, some
    )
    assert out["cls"] == 0 and out["box"] == 0
    (out["cls"] + out["box"]).backward()
    assert (logits.grad == 0).all() and (deltas.grad == 0).all()


def test_joint_losses_do_not_read_targets_of_unmatched_anchors():
    case = ssd_case(1)
    arguments = list(ssd_arguments(case, CODER))
    label = arguments[4].to(torch.int8)
    for run in (lambda a: ssd_loss(*a), lambda a: retinanet_loss(*a[:4], label)):
        expected = run(arguments)
        spoilt = list(arguments)
        spoilt[1] = spoilt[1].clone().requires_grad_()
        spoilt[2] = torch.where(arguments[4], arguments[2], -100)
        spoilt[3] = torch.where(arguments[4].unsqueeze(-1), arguments[3], -math.inf)
        out = run(spoilt)
        assert out["cls"] == expected["cls"] and out["box"] == expected["box"]
        out["box"].backward()
        assert spoilt[1].grad.isfinite().all()


# ---- RetinaNet ----


def retinanet_case(seed, dtype=torch.float32):
    """As ssd_case, with classes 0..K-1, every fifth anchor ignored, offsets without variances."""
    logits, deltas, matched, boxes, labels, priors = ssd_case(seed, dtype=dtype)
    matched[:, ::5] = Matcher.BETWEEN_THRESHOLDS
    coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
    targets = torch.stack(
        [coder.encode_single(b[m.clamp(min=0)], priors) for b, m in zip(boxes, matched)]
    )
    classes = torch.where(matched >= 0, labels.gather(1, matched.clamp(min=0)), -1)
    label = torch.where(matched >= 0, 1, torch.where(matched == Matcher.BETWEEN_THRESHOLDS, -1, 0))
    arguments = logits, deltas, classes, targets.to(dtype), label.to(torch.int8)
    return arguments, (boxes, labels, priors, matched)


@pytest.mark.parametrize("seed", range(3))
def test_retinanet_loss_per_image_is_torchvisions(seed):
    ours, (boxes, labels, priors, matched) = retinanet_case(seed)
    heads = {"cls_logits": ours[0], "bbox_regression": ours[1]}
    truth = [{"boxes": b, "labels": k} for b, k in zip(boxes, labels)]
    out = retinanet_loss(*ours, beta=0.0, per_image=True)
    cls = RetinaNetClassificationHead.compute_loss(
        SimpleNamespace(BETWEEN_THRESHOLDS=Matcher.BETWEEN_THRESHOLDS), truth, heads, list(matched)
    )
    box = RetinaNetRegressionHead.compute_loss(
        SimpleNamespace(_loss_type="l1", box_coder=BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))),
        truth,
        heads,
        [priors] * len(boxes),
        list(matched),
    )
    torch.testing.assert_close(out["cls"], cls)
    torch.testing.assert_close(out["box"], box)


@pytest.mark.parametrize("seed", range(3))
def test_giou_is_torchvisions_and_so_is_retinanets_box_loss_with_it(seed):
    (logits, deltas, classes, targets, label), more = retinanet_case(seed)
    boxes, labels, priors, matched = more
    coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
    pred = torch.stack([coder.decode_single(d, priors) for d in deltas])
    truth = torch.stack([b[m.clamp(min=0)] for b, m in zip(boxes, matched)])
    torch.testing.assert_close(giou_loss(pred, truth), generalized_box_iou_loss(pred, truth))
    out = retinanet_loss(logits, pred, classes, truth, label, per_image=True, box_loss="giou")
    box = RetinaNetRegressionHead.compute_loss(
        SimpleNamespace(_loss_type="giou", box_coder=coder),
        [{"boxes": b, "labels": k} for b, k in zip(boxes, labels)],
        {"cls_logits": logits, "bbox_regression": deltas},
        [priors] * len(boxes),
        list(matched),
    )
    torch.testing.assert_close(out["box"], box)


def test_giou_loss_by_hand():
    target = torch.tensor([0.0, 0.0, 10.0, 10.0])
    pred = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10], [4, 4, 4, 4]])
    # The same; a third in common, in a hull without a gap; apart, a third of the hull is a gap; a
    # point in it.
    expected = [0, 1 - 1 / 3, 1 + 1 / 3, 1]
    assert giou_loss(pred, target.expand(4, 4)).tolist() == pytest.approx(expected)
    # Twice the size, twice the miss: the same loss. Smooth L1 of offsets knows that, too; L1 of
    # pixels would not.
    assert torch.allclose(giou_loss(2 * pred, 2 * target.expand(4, 4)), torch.tensor(expected))


def test_giou_has_a_slope_where_boxes_do_not_touch():
    pred = torch.tensor([[20.0, 0.0, 30.0, 10.0]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0.0, 0.0, 10.0, 10.0]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(giou_loss(pred, target).sum(), pred)
    wanted = finite_differences(lambda x: giou_loss(x, target).sum(), pred.detach())
    torch.testing.assert_close(gradient, wanted)
    assert gradient[0, 0] > 0 > gradient[0, 2]  # it widens: the near edge comes, the far one goes


def test_retinanet_loss_divides_the_batch_by_all_positives():
    arguments, _ = retinanet_case(0)
    one_by_one = [retinanet_loss(*(x[i : i + 1] for x in arguments)) for i in range(3)]
    positives = (arguments[4] == 1).sum(1)
    assert positives[0] != positives[1] and positives[2] == 0
    for name, value in retinanet_loss(*arguments).items():
        total = sum(one[name] * n.clamp(min=1) for one, n in zip(one_by_one, positives))
        torch.testing.assert_close(value, total / positives.sum())


def test_retinanet_loss_learns_from_a_picture_without_objects():
    logits = torch.zeros(1, 6, 3, requires_grad=True)
    deltas, classes = torch.zeros(1, 6, 4, requires_grad=True), torch.zeros(1, 6, dtype=torch.long)
    label = torch.tensor([[0, 0, 0, 0, -1, -1]], dtype=torch.int8)
    out = retinanet_loss(logits, deltas, classes, torch.zeros(1, 6, 4), label)
    assert out["cls"].item() == pytest.approx(4 * 3 * 0.75 * 0.25 * math.log(2)) and out["box"] == 0
    (out["cls"] + out["box"]).backward()
    assert (
        (logits.grad[0, :4] > 0).all()
        and (logits.grad[0, 4:] == 0).all()
        and (deltas.grad == 0).all()
    )


# ---- both ----


def test_joint_losses_against_finite_differences():
    case = ssd_arguments(ssd_case(2, dtype=torch.float64), CODER)
    logits, deltas = (x[:2, :12].clone().requires_grad_() for x in case[:2])
    fixed = [x[:2, :12] for x in case[2:]]
    assert fixed[2].any() and fixed[3].any()
    assert gradcheck(lambda x, d: tuple(ssd_loss(x, d, *fixed).values()), (logits, deltas))
    case, _ = retinanet_case(2, dtype=torch.float64)
    logits, deltas = (x[:2, :12].clone().requires_grad_() for x in case[:2])
    fixed = [x[:2, :12] for x in case[2:]]
    assert (fixed[2] == 1).any()
    assert gradcheck(lambda x, d: tuple(retinanet_loss(x, d, *fixed).values()), (logits, deltas))


def test_joint_losses_stay_in_float32_under_autocast():
    ssd, retina = ssd_arguments(ssd_case(0), CODER), retinanet_case(0)[0]
    for loss, arguments in ((ssd_loss, ssd), (retinanet_loss, retina)):
        halves = [
            x.bfloat16() if x.is_floating_point() and i < 2 else x for i, x in enumerate(arguments)
        ]
        expected = loss(*(x.float() if i < 2 else x for i, x in enumerate(halves)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            from_half, from_full = loss(*halves), loss(*arguments)
        for name, value in loss(*arguments).items():
            assert from_half[name].dtype == torch.float32 and from_half[name] == expected[name]
            assert from_full[name] == value


@pytest.mark.parametrize("at_once", [1, 7, 2**18])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_joint_losses_of_a_gpus_path_are_those_of_a_cpus(at_once, gamma, monkeypatch):
    """All anchors at once against those that matter (SSD),
    against some rows at a time (RetinaNet).
    """
    monkeypatch.setattr(losses._FocalSum, "LOGITS_AT_ONCE", at_once)
    ssd, retina = ssd_arguments(ssd_case(0), CODER), retinanet_case(0)[0]
    for loss, arguments in (
        (ssd_loss, ssd),
        (lambda *a, **k: retinanet_loss(*a, gamma=gamma, **k), retina),
    ):
        found = []
        for dense in (False, True):
            inputs = [x.clone().requires_grad_() if i < 2 else x for i, x in enumerate(arguments)]
            out = loss(*inputs, dense=dense)
            (out["cls"] + 2 * out["box"]).backward()
            found.append([*out.values(), *(x.grad for x in inputs[:2])])
        for cpu, gpu in zip(*found):
            torch.testing.assert_close(cpu, gpu)
        assert found[0][2].abs().sum() > 0


@pytest.mark.parametrize("dense", [False, True])
def test_the_focal_gradient_is_as_often_and_as_large_as_it_is_asked_for(dense):
    logits, *others = retinanet_case(0)[0]
    logits = logits.clone().requires_grad_()
    loss = retinanet_loss(logits, *others, dense=dense)["cls"]
    (once,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * loss, logits, retain_graph=True)
    torch.testing.assert_close(thrice, 3 * once)
    for times in (1, 2, 3):  # into one leaf's gradient
        loss.backward(retain_graph=True)
        torch.testing.assert_close(logits.grad, times * once)


def test_on_a_cpu_the_focal_gradient_is_not_copied_to_be_divided():
    logits, *others = retinanet_case(0)[0]
    logits, kept = logits.clone().requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        found = retinanet_loss(logits, *others, dense=False)
    (gradient,) = torch.autograd.grad(sum(found.values()), logits)
    assert gradient.data_ptr() in {x.data_ptr() for x in kept}


@pytest.mark.parametrize("gamma", [1.5, 2.0])
def test_on_a_gpu_the_focal_loss_holds_three_tensors_as_large_as_the_logits(gamma):
    with torch.device("meta"):
        logits, deltas = (torch.zeros(2, 1000, n, requires_grad=True) for n in (100, 4))
        classes, targets = torch.zeros(2, 1000, dtype=torch.int64), torch.zeros(2, 1000, 4)
        label = torch.zeros(2, 1000, dtype=torch.int8)
    with Alive([logits, deltas, classes, targets, label]) as alive:
        retinanet_loss(logits, deltas, classes, targets, label, gamma=gamma)
    assert 3 <= alive.most / logits.nbytes < 3.5


def test_on_a_gpu_the_joint_losses_read_nothing():
    """Tensors that claim to lie on a GPU and hold no values: whoever looks at one gets an error."""
    with FakeTensorMode():
        logits, deltas = (torch.rand(2, 50, n, device="cuda", requires_grad=True) for n in (5, 4))
        classes, targets = torch.ones_like(logits[..., 0]).long(), torch.rand_like(deltas)
        positive = torch.ones_like(classes, dtype=torch.bool)
        for out in (
            ssd_loss(logits, deltas, classes, targets, positive, ~positive),
            retinanet_loss(logits, deltas, classes, targets, positive.to(torch.int8)),
        ):
            assert out["cls"].is_cuda and out["box"].is_cuda
        with pytest.raises(DynamicOutputShapeException):
            ssd_loss(logits, deltas, classes, targets, positive, ~positive, dense=False)
