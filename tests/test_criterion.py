import math

import pytest
import torch
import torch.nn.functional as F
from torch import tensor
from torchvision.models.detection import _utils as tv
from torchvision.models.detection.ssd import SSD
from torchvision.ops import generalized_box_iou_loss

from lesson_lib.anchors import PyramidAnchors
from lesson_lib.atss import match_atss
from lesson_lib.boxes import cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from lesson_lib.coding import decode, encode
from lesson_lib.detectors.criterion import (
    Outputs,
    anchor_targets,
    retinanet_criterion,
    ssd_criterion,
)
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.matching import match_retinanet, match_ssd, pad_boxes

# Three anchors: the object's own place, one beside it (IoU 1/3), one far away.
ANCHORS = tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
OBJECT = {"boxes": tensor([[0.0, 0.0, 10.0, 10.0]]), "labels": tensor([1])}
EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
CRITERIA = {
    "ssd": (ssd_criterion, 1),
    "retinanet": (retinanet_criterion, 0),
}  # with background's channels
both = pytest.mark.parametrize("criterion, background", CRITERIA.values(), ids=CRITERIA)


def outputs_for(channels, batch=1, anchors=3):
    return Outputs(torch.zeros(batch, anchors, channels), torch.zeros(batch, anchors, 4))


def random_case(channels, batch=3, seed=0):
    """Anchors on a 4 x 4 grid, two objects a picture, one on either side, random outputs."""
    g = torch.Generator().manual_seed(seed)
    at = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)) * 16
    anchors = torch.cat((at, at + 20), 1)  # (16, 4)
    corners = torch.rand(batch, 2, 2, generator=g) * tensor([12.0, 42.0]) + tensor(
        [[0.0, 0.0], [30.0, 0.0]]
    )
    boxes = torch.cat((corners, corners + 12 + torch.rand(batch, 2, 2, generator=g) * 14), -1)
    labels = torch.randint(channels - 1, (batch, 2), generator=g)
    targets = [{"boxes": b, "labels": k} for b, k in zip(boxes, labels)]
    out = Outputs(
        torch.randn(batch, 16, channels, generator=g) * 2, torch.randn(batch, 16, 4, generator=g)
    )
    return out, anchors, targets


# ---- by hand ----


def test_ssd_by_hand():
    out = outputs_for(3)
    out.cls_logits[0] = tensor([[0.0, 0.0, 2.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    out.box_deltas[0] = tensor([[0.5, 0.0, 0.0, 2.0], [9.0, 9.0, 9.0, 9.0], [9.0, 9.0, 9.0, 9.0]])
    losses = ssd_criterion(out, ANCHORS, [OBJECT], ratio=1)
    # Label 1 is channel 2. One negative for one positive: anchor 2 calls the background less
    # likely.
    positive = math.log(2 + math.exp(2)) - 2
    mined = math.log(2 + math.exp(1))
    assert losses["cls"].item() == pytest.approx(positive + mined)
    assert losses["box"].item() == pytest.approx(0.5 * 0.5**2 + (2 - 0.5))  # its offsets are 0
    assert ssd_criterion(out, ANCHORS, [OBJECT], ratio=1, loc_weight=3)["box"] == 3 * losses["box"]


def test_ssd_divides_by_the_positives_of_the_batch():
    two = {"boxes": ANCHORS[[0, 2]], "labels": tensor([0, 0])}
    losses = ssd_criterion(outputs_for(3, batch=2), ANCHORS, [OBJECT, two], ratio=0)
    assert losses["cls"].item() == pytest.approx(3 * math.log(3) / 3)
    losses = ssd_criterion(
        outputs_for(3, batch=2), ANCHORS, [OBJECT, two], ratio=5
    )  # all 3 negatives join
    assert losses["cls"].item() == pytest.approx(6 * math.log(3) / 3)


def test_retinanet_by_hand():
    anchors = torch.cat((ANCHORS, tensor([[0.0, 0.0, 10.0, 22.0]])))  # IoU .4545: ignored
    out = outputs_for(2, anchors=4)
    out.cls_logits[0] = tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [50.0, 50.0]])
    out.box_deltas[0, 0, 0] = 0.5
    losses = retinanet_criterion(out, anchors, [OBJECT], beta=1.0)
    p = 1 / (1 + math.exp(-1))
    right = -0.25 * (1 - p) ** 2 * math.log(p)  # label 1 is channel 1
    background = -0.75 * 0.5**2 * math.log(0.5)  # 5 logits of 0
    assert losses["cls"].item() == pytest.approx(right + 5 * background)
    assert losses["box"].item() == pytest.approx(0.125)
    plain = retinanet_criterion(out, anchors, [OBJECT], alpha=None, gamma=0)["cls"]  # cross entropy
    assert plain.item() == pytest.approx(-math.log(p) + 5 * math.log(2))


@both
def test_box_targets_are_the_papers_offsets(criterion, background):
    box = {"boxes": tensor([[1.0, 0.0, 11.0, 20.0]]), "labels": tensor([0])}  # anchor 0, IoU 9/21
    offsets = tensor([0.1, 0.5, 0.0, math.log(2)])  # (g - d) / d_wh, log(g / d)
    for variances in ((1.0, 1.0), (0.1, 0.2)):
        out = outputs_for(2 + background)
        out.box_deltas[0, 0] = offsets / tensor(variances).repeat_interleave(2)
        options = {} if background else {"negative": 0.35}
        right, zero = (
            criterion(o, ANCHORS, [box], variances=variances, **options)["box"].item()
            for o in (out, outputs_for(2 + background))
        )
        assert right == pytest.approx(0, abs=1e-6) and zero > 0.1


def test_what_each_anchor_shall_say():
    targets = [OBJECT, EMPTY]
    gt, valid = pad_boxes([t["boxes"] for t in targets])
    labels, offsets = anchor_targets(
        match_ssd(gt, ANCHORS, valid=valid), gt, targets, ANCHORS, (0.1, 0.2)
    )
    assert labels.tolist() == [[1, 0, 0], [0, 0, 0]]
    assert offsets.shape == (2, 3, 4) and not offsets.any()  # finite where none is matched


# ---- the convention of labels and channels ----


@pytest.mark.parametrize("label", [0, 1, 2])
def test_one_label_raises_one_channel(label):
    target = {"boxes": ANCHORS[:1], "labels": tensor([label])}
    for criterion, background in CRITERIA.values():
        logits = torch.zeros(1, 3, 3 + background, requires_grad=True)
        criterion(Outputs(logits, torch.zeros(1, 3, 4)), ANCHORS, [target])["cls"].backward()
        raised = (logits.grad < 0).nonzero().tolist()  # descent raises these
        expected = [[0, 0, label + background]]
        if background:
            expected += [[0, 1, 0], [0, 2, 0]]  # background's channel 0
        assert raised == expected


# ---- objects that are not there ----


def test_ssd_learns_nothing_from_pictures_without_objects():
    out = outputs_for(3, batch=2)
    both_pictures, alone = (
        ssd_criterion(Outputs(*(x[:n] for x in out)), ANCHORS, t)
        for n, t in ((2, [OBJECT, EMPTY]), (1, [OBJECT]))
    )
    assert both_pictures == alone
    logits = torch.randn(2, 3, 3, requires_grad=True)
    losses = ssd_criterion(
        Outputs(logits, torch.zeros(2, 3, 4)), ANCHORS, [OBJECT, EMPTY], min_negatives=1
    )
    losses["cls"].backward()
    assert logits.grad[1].abs().sum() > 0  # asked to: it learns
    nothing = ssd_criterion(out, ANCHORS, [EMPTY, EMPTY])
    assert nothing["cls"] == 0 and nothing["box"] == 0


def test_retinanet_learns_from_pictures_without_objects():
    losses = retinanet_criterion(outputs_for(2), ANCHORS, [EMPTY])
    assert (
        losses["cls"].item() == pytest.approx(6 * 0.75 * 0.25 * math.log(2)) and losses["box"] == 0
    )


@both
@pytest.mark.parametrize("box", [[3.0, 3.0, 3.0, 9.0], [math.nan, 0.0, 1.0, 1.0]])
def test_an_object_without_area_or_with_nan_is_no_object(criterion, background, box):
    bad = {"boxes": tensor([box, [0.0, 0.0, 10.0, 10.0]]), "labels": tensor([0, 1])}
    out = Outputs(
        torch.randn(1, 3, 2 + background, requires_grad=True),
        torch.randn(1, 3, 4, requires_grad=True),
    )
    losses = criterion(out, ANCHORS, [bad])
    for name, value in criterion(out, ANCHORS, [OBJECT]).items():
        assert losses[name] == value
    sum(losses.values()).backward()
    assert all(x.grad.isfinite().all() for x in out)


def test_two_objects_that_want_one_anchor():
    boxes = tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 10.0, 10.0]])
    target = {"boxes": boxes, "labels": tensor([0, 1])}
    out = outputs_for(3)
    assert ssd_criterion(out, ANCHORS, [target], ratio=0)["cls"].item() == pytest.approx(
        math.log(3)
    )
    boxed = ssd_criterion(out, ANCHORS, [target], ratio=0)["box"]  # two anchors positive
    assert boxed != ssd_criterion(out, ANCHORS, [target], ratio=0, best="overwrite")["box"]


# ---- the reference ----


@pytest.mark.parametrize("seed", range(5))
def test_ssd_equals_torchvision(seed):
    channels = 4
    out, anchors, targets = random_case(channels, seed=seed)
    targets.append({"boxes": targets[0]["boxes"][:0], "labels": targets[0]["labels"][:0]})
    out = Outputs(*(torch.cat((x, x[:1])) for x in out))
    shifted = [
        {"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets
    ]  # background is its class 0
    matcher, matched = tv.SSDMatcher(0.5), []
    for target in targets:
        if len(target["boxes"]):
            overlap = pairwise_iou(target["boxes"], anchors)
            assert len(set(overlap.argmax(1).tolist())) == len(
                overlap
            )  # nobody's best anchor twice
            matched.append(matcher(overlap))
            assert (
                3 * (matched[-1] >= 0).sum() <= (matched[-1] < 0).sum()
            )  # else it counts positives twice
        else:
            matched.append(torch.full((len(anchors),), -1))
    reference = SSD.__new__(SSD)
    torch.nn.Module.__init__(reference)
    reference.box_coder, reference.neg_to_pos_ratio = tv.BoxCoder((10.0, 10.0, 5.0, 5.0)), 3.0
    heads = {"cls_logits": out.cls_logits, "bbox_regression": out.box_deltas}
    theirs = reference.compute_loss(shifted, heads, [anchors] * len(targets), matched)
    for mining in ("topk", "rank", "sort"):  # the last is the old name of the first
        ours = ssd_criterion(out, anchors, targets, best="overwrite", mining=mining)
        torch.testing.assert_close(ours["cls"], theirs["classification"])
        torch.testing.assert_close(ours["box"], theirs["bbox_regression"])


@both
def test_a_batch_is_the_sum_of_its_pictures(criterion, background):
    out, anchors, targets = random_case(3 + background)
    one_by_one = [
        criterion(Outputs(*(x[i : i + 1] for x in out)), anchors, targets[i : i + 1])
        for i in range(3)
    ]
    losses = criterion(out, anchors, targets)
    options = {"best": "bipartite"} if background else {}
    match = match_ssd if background else match_retinanet
    counts = [int((match(t["boxes"], anchors, **options).label == 1).sum()) for t in targets]
    assert min(counts) > 0
    for name in losses:
        total = sum(loss[name] * n for loss, n in zip(one_by_one, counts)) / sum(counts)
        torch.testing.assert_close(losses[name], total)


# ---- precision ----


@both
def test_bfloat16_outputs_are_judged_in_float32(criterion, background):
    out, anchors, targets = random_case(3 + background)
    half = Outputs(*(x.bfloat16() for x in out))
    exact = criterion(Outputs(*(x.float() for x in half)), anchors, targets)
    with torch.autocast("cpu", torch.bfloat16):
        losses = criterion(half, anchors, targets)
    for name in exact:
        assert losses[name].dtype == torch.float32 and losses[name] == exact[name]


def test_mining_tells_losses_apart_that_bfloat16_cannot():
    out = outputs_for(3)
    out.cls_logits[0] = tensor(
        [[0.0, 0.0, 0.0], [-100.0, 0.0, -0.5], [-100.0, 0.0, 0.0]]
    )  # 100.47 and 100.69
    cls = ssd_criterion(Outputs(*(x.bfloat16() for x in out)), ANCHORS, [OBJECT], ratio=1)["cls"]
    assert cls.item() == pytest.approx(math.log(3) + 100 + math.log(2))


# ---- refusals ----


@both
@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("part", [0, 1])
def test_broken_outputs_name_the_picture(criterion, background, part, number):
    out, anchors, targets = random_case(3 + background)
    out[part][2, 5, 1] = number
    with pytest.raises(ValueError, match="picture 2 of the batch hold NaN"):
        criterion(out, anchors, targets)
    targets[2]["id"] = "BloodImage_00007"
    with pytest.raises(ValueError, match=r"picture 2 of the batch \(BloodImage_00007\) hold NaN"):
        criterion(out, anchors, targets)


@both
@pytest.mark.parametrize("label", [-1, 3])
def test_strange_labels_are_refused(criterion, background, label):
    out, anchors, targets = random_case(3 + background)
    targets[1]["labels"] = tensor([0, label])
    with pytest.raises(
        ValueError, match=f"picture 1 of the batch has the label {label}; .* labels 0 to 2"
    ):
        criterion(out, anchors, targets)


@both
def test_what_does_not_fit_is_refused(criterion, background):
    out, anchors, targets = random_case(3 + background)
    for broken in (
        (out, anchors[:-1]),
        (Outputs(out.cls_logits, out.box_deltas[..., :3]), anchors),
        (Outputs(out.cls_logits[0], out.box_deltas), anchors),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            criterion(*broken, targets)
    with pytest.raises(ValueError, match="2 targets for 3 pictures"):
        criterion(out, anchors, targets[:2])
    targets[0]["labels"] = tensor([0])
    with pytest.raises(ValueError, match="2 boxes and 1 labels"):
        criterion(out, anchors, targets)


SWITCHES = [{"matcher": "atss"}, {"box_loss": "giou"}, {"matcher": "atss", "box_loss": "giou"}]
PYRAMID = PyramidAnchors(
    strides=(8, 16), sizes=(16, 32), scales=(1,), aspect_ratios=(1,)
)  # 16 + 4 positions at 32 px


def pyramid_case(batch=3, seed=0):
    """As random_case, on two levels of one anchor a position."""
    g = torch.Generator().manual_seed(seed)
    _, _, targets = random_case(3, batch, seed)
    for target in targets:
        target["boxes"] = target["boxes"] / 2  # into 32 px
    out = Outputs(torch.randn(batch, 20, 2, generator=g), torch.randn(batch, 20, 4, generator=g))
    return out, PYRAMID.make(32), targets


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_is_the_sum_over_positives_that_it_says(switch):
    """Anchor by anchor in plain loops, from the match that the rule gives."""
    out, anchors, targets = pyramid_case()
    levels, positives, total = PYRAMID.levels_of(anchors), 0, 0.0
    for deltas, target in zip(out.box_deltas, targets):
        if switch.get("matcher") == "atss":
            match = match_atss(target["boxes"], anchors, levels, 4)
        else:
            match = match_retinanet(target["boxes"], anchors)
        for a in (match.label == 1).nonzero().flatten().tolist():
            positives += 1
            truth = target["boxes"][match.gt_index[a]][None]
            if switch.get("box_loss") == "giou":
                box = cxcywh_to_xyxy(decode(deltas[a], xyxy_to_cxcywh(anchors[a]), (1, 1)))
                total += generalized_box_iou_loss(box[None], truth, reduction="sum").item()
            else:
                offsets = encode(xyxy_to_cxcywh(truth), xyxy_to_cxcywh(anchors[a]), (1, 1))
                total += F.smooth_l1_loss(deltas[a], offsets[0], reduction="sum", beta=0.11).item()
    losses = retinanet_criterion(out, anchors, targets, levels=levels, candidates=4, **switch)
    assert positives > 3 and losses["box"].item() == pytest.approx(total / positives, rel=1e-4)
    doubled = retinanet_criterion(
        out, anchors, targets, levels=levels, candidates=4, loc_weight=2, **switch
    )
    assert doubled["box"] == 2 * losses["box"] and doubled["cls"] == losses["cls"]


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_leaves_gradients_finite_whatever_the_offsets(switch):
    out, anchors, targets = pyramid_case()
    deltas = out.box_deltas * 200  # e^200 is no float
    deltas[2] = 1e30  # nor is the area of a box that is so far away; here nobody asks for it
    deltas.requires_grad_()
    losses = retinanet_criterion(
        Outputs(out.cls_logits, deltas),
        anchors,
        [*targets[:2], EMPTY],
        levels=PYRAMID.levels_of(anchors),
        **switch,
    )
    losses["box"].backward()
    assert losses["box"].isfinite() and deltas.grad.isfinite().all()
    assert (deltas.grad[2] == 0).all() and deltas.grad.abs().sum() > 0


def test_what_is_no_switch_is_told():
    out, anchors, targets = pyramid_case()
    for options, words in (
        ({"matcher": "fcos"}, "choose 'iou' .* or 'atss'"),
        ({"box_loss": "ciou"}, "choose 'smooth_l1' or 'giou'"),
        ({"matcher": "atss"}, "the positions of each level"),
    ):
        with pytest.raises(ValueError, match=words):
            retinanet_criterion(out, anchors, targets, **options)


def test_a_model_knows_the_levels_that_atss_asks_for():
    config = RetinaNetConfig(num_classes=2, backbone="tiny-8", channels=8)
    model, (_, _, targets) = RetinaNet(config), pyramid_case()
    images = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    outputs, anchors = model(images), model.anchors((64, 96))
    losses = model.criterion(outputs, anchors, targets, matcher="atss", candidates=4)
    levels = torch.zeros(5, len(anchors) // 9, dtype=torch.bool)
    start = 0
    for level, count in enumerate(config.anchors.counts((64, 96))):
        levels[level, start // 9 : (start + count) // 9] = True
        start += count
    expected = retinanet_criterion(
        outputs, anchors, targets, matcher="atss", levels=levels, candidates=4
    )
    assert losses == expected and losses != model.criterion(outputs, anchors, targets)


def test_gamma_0_without_alpha_is_torchs_cross_entropy():
    out, anchors, targets = random_case(3)
    loss, positives = 0.0, 0
    for logits, target in zip(out.cls_logits, targets):
        match = match_retinanet(target["boxes"], anchors)
        positives += int((match.label == 1).sum())
        for row, index, label in zip(logits, match.gt_index, match.label):
            if label >= 0:
                wanted = (
                    F.one_hot(target["labels"][index], 3).float() if label == 1 else torch.zeros(3)
                )
                loss += F.binary_cross_entropy_with_logits(row, wanted, reduction="sum")
    ours = retinanet_criterion(out, anchors, targets, alpha=None, gamma=0)["cls"]
    torch.testing.assert_close(ours, loss / positives)


def test_what_mining_ranks_by_is_cross_entropy_with_the_background():
    from lesson_lib.detectors.criterion import _background_loss

    for scale in (1, 30, 300):  # the last overflows exp
        logits = torch.randn(2, 50, 5, generator=torch.Generator().manual_seed(0)) * scale
        expected = torch.nn.functional.cross_entropy(
            logits.mT.double(), torch.zeros(2, 50).long(), reduction="none"
        )
        for dense in (False, True):
            found = _background_loss(logits, dense).double()
            assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 + 1e-6 * scale)


@pytest.mark.parametrize("empty", [(), (1,), (0, 1, 2)], ids=str)
@both
def test_a_gpus_path_gives_what_a_cpus_gives(criterion, background, empty):
    """Losses and gradients, though a CPU looks at SSD's chosen anchors alone."""
    out, anchors, targets = random_case(3 + background)
    targets = [EMPTY if picture in empty else target for picture, target in enumerate(targets)]
    found = []
    for options in ({}, {"dense": True} | ({"mining": "rank"} if background else {})):
        inputs = Outputs(*(x.clone().requires_grad_() for x in out))
        losses = criterion(inputs, anchors, targets, **options)
        (losses["cls"] + 2 * losses["box"]).backward()
        found.append([*losses.values(), *(x.grad for x in inputs)])
        assert (losses["box"] > 0) == (len(empty) < 3)
    for cpu, gpu in zip(*found, strict=True):
        torch.testing.assert_close(gpu, cpu)


# ---- rare classes ----

WEIGHTS = (1.0, 3.0, 0.5)


def chosen_by_hand(logits, target, anchors, rule):
    """Each anchor's label in one picture: its object's class, or -1."""
    match = rule(target["boxes"], anchors)
    return torch.where(match.gt_index >= 0, target["labels"][match.gt_index], -1), match.label


def test_class_weights_of_ssd_are_those_of_torchs_cross_entropy():
    """Summed as torch sums them, but divided by the positives, not by the sum of the weights."""
    out, anchors, targets = random_case(4)
    logits = out.cls_logits.clone().requires_grad_()
    ours = ssd_criterion(Outputs(logits, out.box_deltas), anchors, targets, class_weights=WEIGHTS)
    (slope,) = torch.autograd.grad(ours["cls"], logits)
    loss, positives = 0.0, 0
    again = out.cls_logits.clone().requires_grad_()
    for row, target in zip(again, targets):
        label, _ = chosen_by_hand(row, target, anchors, match_ssd)
        n = int((label >= 0).sum())
        background = F.cross_entropy(row, torch.zeros(16, dtype=torch.int64), reduction="none")
        hardest = background.masked_fill(label >= 0, -1).topk(min(3 * n, 16 - n)).indices
        rows = torch.cat(((label >= 0).nonzero().flatten(), hardest))
        weight = tensor([1.0, *WEIGHTS])
        loss += F.cross_entropy(row[rows], label[rows] + 1, weight, reduction="sum")
        positives += n
    torch.testing.assert_close(ours["cls"], loss / positives)
    torch.testing.assert_close(slope, torch.autograd.grad(loss / positives, again)[0])


def test_class_weights_of_retinanet_are_torchs_pos_weight():
    out, anchors, targets = random_case(3)
    options = dict(alpha=None, gamma=0, class_weights=WEIGHTS)
    ours = retinanet_criterion(out, anchors, targets, **options)["cls"]
    loss, positives = 0.0, 0
    for row, target in zip(out.cls_logits, targets):
        label, kind = chosen_by_hand(row, target, anchors, match_retinanet)
        wanted = F.one_hot(label.clamp(min=0), 3).float() * (label >= 0)[:, None]
        entries = F.binary_cross_entropy_with_logits(
            row, wanted, reduction="none", pos_weight=tensor(WEIGHTS)
        )
        loss += entries[kind >= 0].sum()
        positives += int((kind == 1).sum())
    torch.testing.assert_close(ours, loss / positives)


@both
def test_class_weights_of_one_change_nothing_and_a_class_alone_is_scaled(criterion, background):
    """On either path; what is no number for each class is refused."""
    out, anchors, targets = random_case(3 + background)
    plain = criterion(out, anchors, targets)
    for dense in (False, True):
        ones = criterion(out, anchors, targets, class_weights=(1.0,) * 3, dense=dense)
        torch.testing.assert_close(ones, plain)
        weighted = criterion(out, anchors, targets, class_weights=WEIGHTS, dense=dense)
        assert weighted["cls"] != plain["cls"]
        torch.testing.assert_close(weighted["box"], plain["box"])
    for wrong in ((1.0, 2.0), (1.0, -1.0, 1.0), (1.0, float("nan"), 1.0)):
        with pytest.raises(ValueError, match="class_weights is .*; give 3 numbers of 0 or more"):
            criterion(out, anchors, targets, class_weights=wrong)
