import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import exact_iou, greedy_bipartite
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection._utils import Matcher, SSDMatcher
from torchvision.ops import box_iou

from lesson_lib.anchors import SSD300_SCALES, default_boxes, pyramid_anchors
from lesson_lib.boxes import pairwise_iou
from lesson_lib.coding import encode
from lesson_lib.matching import (
    IGNORE,
    NEGATIVE,
    POSITIVE,
    _best_anchors,
    _Overlaps,
    _rank,
    match_retinanet,
    match_ssd,
    pad_boxes,
    take_matched,
)

NAN, INF = float("nan"), float("inf")
RULES = [
    lambda g, a, **k: match_ssd(g, a, **k),
    lambda g, a, **k: match_ssd(g, a, best="overwrite", **k),
    lambda g, a, **k: match_ssd(g, a, best="none", **k),
    lambda g, a, **k: match_retinanet(g, a, **k),
    lambda g, a, **k: match_retinanet(g, a, force_best=False, **k),
]
corner, side = st.integers(0, 8), st.integers(1, 6)
rows = st.tuples(corner, corner, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


def tensor(boxes: list) -> torch.Tensor:
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def random_boxes(count: int, size: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centre, wh = torch.rand(2, count, 2, generator=generator) * size
    return torch.cat((centre - wh / 4 - 2, centre + wh / 4 + 2), 1)


def torchvision_match(matcher: Matcher, gt: torch.Tensor, anchors: torch.Tensor):
    """Its one overloaded vector as our two: -1 is background, -2 is between the thresholds."""
    code = matcher(box_iou(gt, anchors))
    label = torch.where(code >= 0, POSITIVE, torch.where(code == -1, NEGATIVE, IGNORE))
    return code.clamp(min=-1), label.to(torch.int8)


# Four anchors of 10 x 10 px side by side.
STRIP = tensor([[0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10], [30, 0, 40, 10]])


# ---------------------------------------------------------------- thresholds, by hand


@pytest.mark.parametrize(
    "object_box, iou, retinanet, ssd, ssd_over",
    [
        ([0, 0, 10, 5], 0.5, POSITIVE, POSITIVE, NEGATIVE),
        ([0, 0, 10, 4], 0.4, IGNORE, NEGATIVE, NEGATIVE),
        ([0, 0, 10, 3.9], 0.39, NEGATIVE, NEGATIVE, NEGATIVE),
        ([0, 0, 10, 6], 0.6, POSITIVE, POSITIVE, POSITIVE),
        ([0, 0, 10, 4.9], 0.49, IGNORE, NEGATIVE, NEGATIVE),
    ],
)
def test_iou_at_and_around_the_thresholds(object_box, iou, retinanet, ssd, ssd_over):
    gt = tensor([object_box])
    assert float(exact_iou(object_box, [0, 0, 10, 10])) == pytest.approx(iou)
    for match, label in [
        (match_retinanet(gt, STRIP, force_best=False), retinanet),
        (match_ssd(gt, STRIP, best="none"), ssd),
        (match_ssd(gt, STRIP, best="none", inclusive=False), ssd_over),
    ]:
        assert match.label.tolist() == [label, 0, 0, 0]
        assert match.gt_index.tolist() == [0 if label == POSITIVE else -1, -1, -1, -1]
        assert match.label.dtype == torch.int8 and match.gt_index.dtype == torch.int64


def test_the_best_anchor_is_positive_below_the_threshold():
    gt = tensor(
        [[0, 0, 10, 2], [19, 0, 21, 10], [100, 0, 110, 10]]
    )  # the last one overlaps nothing
    assert match_retinanet(gt, STRIP, force_best=False).label.tolist() == [0, 0, 0, 0]
    forced = match_retinanet(gt, STRIP)  # the second object overlaps two anchors equally: both
    assert forced.label.tolist() == [1, 1, 1, 0] and forced.gt_index.tolist() == [0, 1, 1, -1]
    ssd = match_ssd(gt, STRIP)  # one anchor an object, of equals the lower one; none for the last
    assert ssd.label.tolist() == [1, 1, 0, 0] and ssd.gt_index.tolist() == [0, 1, -1, -1]
    assert match_ssd(gt, STRIP, best="none").label.tolist() == [0, 0, 0, 0]


def test_two_objects_want_one_anchor():
    """Both overlap anchor 0 most.

    Overwriting gives it to the last, which overlaps less; one is lost.
    """
    gt = tensor([[0, 0, 10, 8], [0, 0, 12, 2]])
    assert pairwise_iou(gt, STRIP).argmax(1).tolist() == [0, 0]
    assert match_ssd(gt, STRIP, best="overwrite").gt_index.tolist() == [1, -1, -1, -1]
    assert match_ssd(gt.flip(0), STRIP, best="overwrite").gt_index.tolist() == [1, -1, -1, -1]
    assert match_ssd(gt, STRIP, best="none").gt_index.tolist() == [0, -1, -1, -1]
    assert match_ssd(gt, STRIP).gt_index.tolist() == [0, 1, -1, -1]  # everyone has one
    assert match_ssd(gt.flip(0), STRIP).gt_index.tolist() == [1, 0, -1, -1]
    assert match_retinanet(gt, STRIP).gt_index.tolist() == [0, -1, -1, -1]  # the other has none


def test_the_loser_of_a_conflict_may_take_an_anchor_that_is_another_ones_second():
    """A chain: 1 loses anchor 0 to 0 and takes anchor 1, which 2 wanted less than anchor 2."""
    gt = tensor([[0, 0, 10, 9], [1, 0, 14, 10], [16, 0, 30, 10]])
    assert match_ssd(gt, STRIP, threshold=1.0).gt_index.tolist() == [0, 1, 2, -1]


@pytest.mark.parametrize("rule", RULES)
def test_no_object_makes_every_anchor_negative(rule):
    for gt, valid in [
        (torch.zeros(0, 4), None),
        (torch.zeros(2, 0, 4), None),
        (tensor([[0, 0, 10, 10]]), torch.tensor([False])),
        (tensor([[0, 0, 10, 10]]).expand(2, 1, 4), torch.zeros(2, 1, dtype=torch.bool)),
    ]:
        match = rule(gt, STRIP, valid=valid)
        assert match.label.shape == match.gt_index.shape == gt.shape[:-2] + (4,)
        assert (match.label == NEGATIVE).all() and (match.gt_index == -1).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "bad", [[5, 5, 5, 9], [5, 5, 9, 5], [9, 9, 1, 1], [NAN, 0, 10, 10], [0, 0, 10, INF]]
)
def test_an_object_without_area_or_with_nan_matches_nothing(rule, bad):
    good = [10, 0, 20, 10]
    alone, beside = rule(tensor([good]), STRIP), rule(tensor([bad, good]), STRIP)
    assert torch.equal(alone.label, beside.label)
    assert torch.equal(torch.where(alone.gt_index == 0, 1, -1), beside.gt_index)


@pytest.mark.parametrize("rule", RULES)
def test_an_anchor_without_area_matches_nothing(rule):
    """Clipped anchors may have none. 0 / 0 with padding must not reach the other anchors."""
    anchors = torch.cat((tensor([[0, 0, 0, 10], [3, 3, 3, 3]]), STRIP))
    gt, valid = pad_boxes([tensor([[10, 0, 20, 10], [30, 0, 38, 10]]), torch.zeros(0, 4)])
    match = rule(gt, anchors, valid=valid)
    assert match.gt_index.tolist() == [[-1, -1, -1, 0, -1, 1], [-1] * 6]
    for dense in (False, True):
        assert all(iou.isfinite().all() for iou in _Overlaps(gt, anchors, valid, dense).rows())


def test_more_objects_than_anchors():
    gt = tensor([[0, 0, 10, 3], [0, 0, 10, 9], [0, 0, 12, 6]])
    assert match_ssd(gt, STRIP[:2]).gt_index.tolist() == [1, 2]  # the third finds none left
    assert match_ssd(gt, STRIP[:1]).gt_index.tolist() == [1]


def test_negative_zero_is_zero():
    gt = tensor([[-5, 0, -0.0, 10]])  # ends where the anchor begins: no overlap, by -0
    anchors = tensor([[0, 0, 5, 10], [-9, 0, -4, 10]])
    assert match_ssd(gt, anchors).gt_index.tolist() == [-1, 0]
    assert _rank(torch.tensor([-0.0, 0.0, 0.5]), torch.arange(3), 3).argsort().tolist() == [1, 0, 2]


@pytest.mark.parametrize("count, k", [(1, 1), (63, 7), (64, 64), (65, 65), (500, 3), (500, 40)])
def test_best_anchors_are_a_stable_sorts(count, k):
    """Few different IoUs, many equal ones: of equals the lower anchor is first, as in a stable
    sort.
    """
    iou = torch.randint(0, 4, (5, 2, count), generator=torch.Generator().manual_seed(k)) / 4
    order = iou.argsort(dim=2, descending=True, stable=True)[..., :k]
    assert torch.equal(_best_anchors(iou, k), order)


# ---------------------------------------------------------------- against oracles


@given(st.lists(rows, max_size=5), st.lists(rows, min_size=1, max_size=7))
@settings(max_examples=150, deadline=None)
def test_bipartite_is_the_greedy_oracle_and_covers_every_object_it_can(gt, anchors):
    match = match_ssd(tensor(gt), tensor(anchors), threshold=0.6)
    iou = pairwise_iou(
        tensor(gt), tensor(anchors)
    )  # float32, as the code under test: ties are equal bits
    owner = {anchor: g for g, anchor in greedy_bipartite(iou.tolist()).items()}
    for a in range(len(anchors)):
        best = max(range(len(gt)), key=lambda g: (iou[g, a].item(), -g), default=-1)
        late = best if gt and exact_iou(gt[best], anchors[a]) >= 0.6 else -1
        assert match.gt_index[a] == owner.get(a, late)
    covered = set(match.gt_index.tolist()) - {-1}
    for g in (
        set(range(len(gt))) - covered
    ):  # whatever it overlaps is taken, if it overlaps anything
        assert (match.gt_index[iou[g] > 0] >= 0).all()
    assert torch.equal(match.label == POSITIVE, match.gt_index >= 0)


@given(st.lists(rows, max_size=4), st.lists(rows, min_size=1, max_size=7), st.booleans())
@settings(max_examples=100, deadline=None)
def test_retinanet_against_a_loop_over_exact_fractions(gt, anchors, force):
    match = match_retinanet(tensor(gt), tensor(anchors), force_best=force)
    for a, anchor in enumerate(anchors):
        iou = [exact_iou(g, anchor) for g in gt]
        top = max(iou, default=0)
        forced = force and any(
            exact_iou(g, anchor) == max(exact_iou(g, b) for b in anchors) > 0 for g in gt
        )
        if 2 * top >= 1 or forced:
            assert match.label[a] == POSITIVE and match.gt_index[a] == iou.index(top)
        else:
            assert (
                match.label[a] == (IGNORE if 5 * top >= 2 else NEGATIVE) and match.gt_index[a] == -1
            )


@pytest.mark.parametrize("dense", [False, True])
def test_rows_are_pairwise_iou_to_the_bit(dense):
    gt, anchors = (
        torch.stack((random_boxes(5, 128, 1), random_boxes(5, 128, 2))),
        pyramid_anchors(128),
    )
    found = torch.cat(list(_Overlaps(gt, anchors, None, dense).rows()), 1)
    assert torch.equal(found, pairwise_iou(gt, anchors))


@pytest.mark.parametrize(
    "anchors, size",
    [(pyramid_anchors(128), 128), (default_boxes(SSD300_SCALES["torchvision-coco"]), 300)],
)
@pytest.mark.parametrize("count", [1, 2, 12])
def test_equal_to_torchvisions_matchers(anchors, size, count):
    for seed in range(6):
        gt = random_boxes(count, size, seed)
        for dense in (False, True):
            ours = match_ssd(gt, anchors, best="overwrite", dense=dense)
            for mine, theirs in zip(ours, torchvision_match(SSDMatcher(0.5), gt, anchors)):
                assert torch.equal(mine, theirs)
            for force in (True, False):
                matcher = Matcher(0.5, 0.4, force)
                ours = match_retinanet(gt, anchors, force_best=force, dense=dense)
                for mine, theirs in zip(ours, torchvision_match(matcher, gt, anchors)):
                    assert torch.equal(mine, theirs)


def test_ties_are_torchvisions_too():
    """Whole-number boxes on a grid: many equal overlaps; the objects lie symmetrically between
    anchors.
    """
    anchors = tensor([[x, y, x + 8, y + 8] for y in range(0, 32, 4) for x in range(0, 32, 4)])
    gt = tensor([[2, 2, 10, 10], [2, 2, 10, 10], [10, 14, 22, 18], [1, 1, 3, 3], [0, 0, 40, 40]])
    for force in (True, False):
        ours = match_retinanet(gt, anchors, 0.3, 0.2, force)
        theirs = torchvision_match(Matcher(0.3, 0.2, force), gt, anchors)
        assert torch.equal(ours.label, theirs[1]) and torch.equal(ours.gt_index, theirs[0])
    assert (match_retinanet(gt[:1], anchors).label == POSITIVE).sum() == 4


def test_where_torchvision_forces_every_anchor_that_overlaps_nothing():
    gt = tensor([[0, 0, 10, 10], [500, 500, 510, 510]])  # the second lies outside all anchors
    index, label = torchvision_match(Matcher(0.5, 0.4, True), gt, STRIP)
    assert label.tolist() == [1, 1, 1, 1] and index.tolist() == [0, 0, 0, 0]
    assert match_retinanet(gt, STRIP).label.tolist() == [1, 0, 0, 0]


def test_torchvision_wants_an_object_in_every_picture():
    with pytest.raises(ValueError, match="No ground-truth"):
        Matcher(0.5, 0.4, True)(box_iou(torch.zeros(0, 4), STRIP))


# ---------------------------------------------------------------- the best pair first


def test_an_object_on_no_anchor_gets_none():
    """Caffe's MatchBBox passes over overlaps up to 1e-6; torchvision's SSDMatcher gives it anchor
    0.
    """
    far, near = [100, 0, 110, 10], [0, 0, 10, 10]
    gt = tensor([far, near])
    for dense in (False, True):
        assert match_ssd(gt, STRIP, dense=dense).gt_index.tolist() == [1, -1, -1, -1]
        assert match_ssd(gt[:1], STRIP, dense=dense).label.tolist() == [NEGATIVE] * 4
    claimed = match_ssd(gt[:1], STRIP, best="overwrite")
    assert claimed.gt_index.tolist() == [0, -1, -1, -1]
    assert torch.equal(claimed.gt_index, torchvision_match(SSDMatcher(0.5), gt[:1], STRIP)[0])
    # Slivers of 10 x 1e-6 and 10 x 3e-5 px in an anchor of 100 px^2: IoU 1e-7 and 3e-6.
    slivers = torch.tensor([[0, 0, 10, 1e-6], [10, 0, 20, 3e-5]])
    assert match_ssd(slivers, STRIP).gt_index.tolist() == [-1, 1, -1, -1]


def whole_boxes(*shape: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Corners on whole numbers in a square of `side` px: many equal overlaps, many equal boxes."""
    corners = torch.randint(0, side, (*shape, 2), generator=generator)
    wh = torch.randint(1, 5, (*shape, 2), generator=generator)
    return torch.cat((corners, corners + wh), -1).float()


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("objects, anchors", [(7, 90), (40, 200), (40, 12), (140, 70), (33, 1)])
def test_crowds_with_ties_and_padding_are_the_greedy_oracles(objects, anchors, dense):
    """More objects than a list of wishes is long, more than anchors, over the dense limit."""
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        gt = whole_boxes(2, objects, side=9, generator=generator)
        made = whole_boxes(anchors, side=9, generator=generator)
        valid = torch.rand(2, objects, generator=generator) < 0.8
        match = match_ssd(gt, made, threshold=1.0, valid=valid, dense=dense)
        for b in range(2):
            iou = pairwise_iou(gt[b], made) * valid[b, :, None]
            owner = {a: g for g, a in greedy_bipartite(iou.tolist()).items()}
            perfect = {
                a: iou[:, a].tolist().index(1) for a in range(anchors) if 1 in iou[:, a].tolist()
            }
            expected = [owner.get(a, perfect.get(a, -1)) for a in range(anchors)]
            assert match.gt_index[b].tolist() == expected


def test_objects_that_are_all_the_same_share_out_the_anchors_in_order():
    """Every list of wishes is the same: each but the first is outbid again and again,
    past its end.
    """
    anchors = tensor([[0, 0, 10, 10 + k] for k in range(90)])
    for count, dense in ((100, False), (100, True), (150, True)):
        gt = tensor([[0, 0, 10, 10]]).expand(count, 4)
        match = match_ssd(gt, anchors, threshold=1.0, dense=dense)
        assert match.gt_index.tolist() == list(range(90))


class Operations(TorchDispatchMode):
    """What is dispatched: how many operations, and the elements of the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.largest = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.count += 1
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                own = sum(n for n, step in zip(tensor.shape, tensor.stride()) if step == 0)
                self.largest = max(self.largest, 0 if own else tensor.numel())
        return result


def operations(rule, batch: int, objects: int, **options) -> Operations:
    gt = torch.stack([random_boxes(objects, 128, seed=b) for b in range(batch)])
    with Operations() as found:
        rule(gt, pyramid_anchors(128), **options)
    return found


@pytest.mark.parametrize("rule", RULES)
def test_dense_takes_the_same_operations_for_any_batch_and_for_3_or_30_objects(rule):
    counts = {operations(rule, b, g, dense=True).count for b in (2, 8) for g in (3, 30)}
    assert len(counts) == 1
    assert operations(rule, 2, 60, dense=True).count < 2.2 * counts.pop()


def test_a_thousand_objects_take_few_operations_and_little_memory():
    """Operations: far less than in proportion. Memory: nothing has as many elements as G x A."""
    anchors = len(pyramid_anchors(128))
    for dense in (False, True):
        few, many = (operations(match_ssd, 1, g, dense=dense) for g in (30, 1000))
        assert many.count < 1000 / 30 / 2 * few.count
        assert many.largest <= max(32 * 2 * anchors, 1000 * 2 * 32) < 1000 * anchors / 4


@pytest.mark.parametrize("rule", RULES)
def test_on_a_gpu_nothing_is_read_on_the_way(rule):
    """Tensors that claim to lie on a GPU and hold no values: whoever looks at one gets an error."""
    with FakeTensorMode():
        gt, anchors = torch.rand(2, 30, 4, device="cuda"), torch.rand(500, 4, device="cuda")
        match = rule(gt, anchors, valid=torch.ones(2, 30, dtype=torch.bool, device="cuda"))
        assert match.label.shape == (2, 500) and match.label.is_cuda
        with pytest.raises(DataDependentOutputException):  # where it has to wait, it would
            match_ssd(gt, anchors, dense=False)


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_a_padded_batch_gives_the_bits_of_single_pictures(rule, dense):
    anchors = default_boxes(SSD300_SCALES["caffe-voc"])
    pictures = [random_boxes(n, 300, seed=n) for n in (3, 0, 9, 1, 5)]
    pictures[2][4] = pictures[2][3]  # an exact double
    gt, valid = pad_boxes(pictures)
    assert gt.shape == (5, 9, 4) and valid.sum(1).tolist() == [3, 0, 9, 1, 5]
    junk = gt.masked_fill(~valid[..., None], NAN)  # whatever stands in the padding
    for boxes in (gt, junk):
        batch = rule(boxes, anchors, valid=valid, dense=dense)
        for b, picture in enumerate(pictures):
            single = rule(picture, anchors)
            assert torch.equal(batch.gt_index[b], single.gt_index)
            assert torch.equal(batch.label[b], single.label)


def test_forty_objects_on_ssd300():
    """Every object of a crowded picture is covered by one of SSD300's boxes."""
    anchors, gt = default_boxes(SSD300_SCALES["caffe-voc"]), random_boxes(40, 300, seed=3)
    match = match_ssd(gt, anchors)
    assert set(match.gt_index.tolist()) == set(range(-1, 40))
    for g in range(
        40
    ):  # each object's best positive anchor is its best one, unless a better object has that
        iou = pairwise_iou(gt, anchors)
        best = iou[g].argmax()
        owner = match.gt_index[best]
        assert owner == g or iou[owner, best] >= iou[g, best]


@pytest.mark.parametrize("rule", RULES)
def test_autocast_and_float64_change_nothing(rule):
    anchors, gt = pyramid_anchors(128), random_boxes(5, 128, seed=1)
    plain = rule(gt, anchors)
    with torch.autocast("cpu", torch.bfloat16):
        cast = rule(gt, anchors)
    for other in (cast, rule(gt.double(), anchors.double()), rule(gt.requires_grad_(), anchors)):
        assert torch.equal(plain.gt_index, other.gt_index) and torch.equal(plain.label, other.label)


def test_pad_boxes_of_pictures_without_objects():
    gt, valid = pad_boxes([torch.zeros(0, 4), torch.zeros(0, 4)])
    assert gt.shape == (2, 0, 4) and valid.shape == (2, 0)
    gt, valid = pad_boxes([torch.ones(1, 4), torch.ones(2, 4)])
    assert gt[0].tolist() == [[1] * 4, [0] * 4] and valid.tolist() == [[True, False], [True, True]]


def test_take_matched_gives_objects_or_the_default():
    gt, valid = pad_boxes([tensor([[0, 0, 10, 9], [31, 0, 40, 10]]), torch.zeros(0, 4)])
    match = match_ssd(gt, STRIP, valid=valid)
    boxes = take_matched(gt, match.gt_index, STRIP)
    assert torch.equal(boxes[0], torch.stack((gt[0, 0], STRIP[1], STRIP[2], gt[0, 1])))
    assert torch.equal(boxes[1], STRIP)
    assert encode(boxes + 1, STRIP + 1).isfinite().all()
    labels = torch.tensor([[7, 3], [0, 0]])
    assert take_matched(labels + 1, match.gt_index, 0).tolist() == [[8, 0, 0, 4], [0] * 4]
    assert take_matched(labels[0], match.gt_index[0], -1).tolist() == [7, -1, -1, 3]  # one picture
    nothing = match_ssd(gt[1][:0], STRIP)
    assert torch.equal(take_matched(gt[1][:0], nothing.gt_index, STRIP), STRIP)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: match_ssd(torch.zeros(4), STRIP), "G, 4"),
        (lambda: match_ssd(torch.zeros(2, 5), STRIP), "G, 4"),
        (lambda: match_ssd(STRIP, torch.zeros(0, 4)), "at least one anchor"),
        (lambda: match_retinanet(STRIP, torch.zeros(1, 4, 4)), "A, 4"),
        (lambda: match_ssd(STRIP, STRIP, valid=torch.ones(3, dtype=torch.bool)), "a bool a box"),
        (lambda: match_ssd(STRIP, STRIP, threshold=0), "threshold"),
        (lambda: match_ssd(STRIP, STRIP, threshold=1.1), "threshold"),
        (lambda: match_ssd(STRIP, STRIP, best="greedy"), "'bipartite'"),
        (lambda: match_retinanet(STRIP, STRIP, positive=0.3), "negative <= positive"),
        (lambda: match_retinanet(STRIP, STRIP, negative=0), "0 < negative"),
    ],
)
def test_nonsense_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("rule", RULES)
def test_cuda_gives_the_same_matches_without_waiting(rule):
    anchors = default_boxes(SSD300_SCALES["caffe-voc"])
    pictures = [random_boxes(n, 300, seed=n) for n in (3, 0, 9)]
    gt, valid = pad_boxes(pictures)
    expected = rule(gt, anchors, valid=valid)
    pictures, anchors = [boxes.cuda() for boxes in pictures], anchors.cuda()
    rule(gt.cuda(), anchors, valid=valid.cuda())
    torch.cuda.set_sync_debug_mode("error")
    try:
        gt, valid = pad_boxes(pictures)
        match = rule(gt, anchors, valid=valid)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(match.gt_index.cpu(), expected.gt_index)
    assert torch.equal(match.label.cpu(), expected.label)
