"""Several views of a picture: turned as in training, turned back exactly, and found together."""

from functools import partial

import pytest
import torch
from torch import tensor

from lesson_lib.anchors import PyramidAnchors, pyramid_anchors
from lesson_lib.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from lesson_lib.coding import VARIANCES, decode, encode
from lesson_lib.data.augment import mirror, transpose
from lesson_lib.data.changes import Change, put_window
from lesson_lib.data.smears import draw_smear
from lesson_lib.detectors import views
from lesson_lib.detectors.criterion import Outputs
from lesson_lib.detectors.inference import box_vote, retinanet_detections, ssd_detections
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSDConfig
from lesson_lib.detectors.views import VIEWS, outputs_in_views
from lesson_lib.evaluation import coco_evaluate
from lesson_lib.training.prediction import evaluate, ground_truth, predict
from lesson_lib.training.recipes import MODELS, Recipe, overridden

SMEARS = [draw_smear(0, number, size=64) for number in range(5)]
#: Stride 48 divides neither side of 64 x 80: what is mirrored is no other anchor of the grid.
SPEC = PyramidAnchors(strides=(16, 48), sizes=(12, 40), scales=(1,), aspect_ratios=(1, 2))
BOX = tensor([7.0, 20, 30, 26])
SIZE = (64, 80)


def anchors(size):
    return pyramid_anchors(size, SPEC)


def sees_the_white_box(pictures):
    """Outputs of a network that finds the white pixels' box from every anchor."""
    rows, columns = (pictures[0, 0] > 0).nonzero().unbind(1)
    ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    own = anchors(tuple(pictures.shape[-2:]))
    box = torch.stack(ends).float().expand(len(own), 4)
    deltas = encode(xyxy_to_cxcywh(box), xyxy_to_cxcywh(own), VARIANCES)
    return Outputs(torch.zeros(len(pictures), len(own), 2), deltas[None])


def picture():
    x1, y1, x2, y2 = BOX.int().tolist()
    white = torch.zeros(1, 3, *SIZE)
    white[..., y1:y2, x1:x2] = 1
    return white


@pytest.mark.parametrize("count", VIEWS)
def test_every_anchor_of_every_view_finds_the_box_where_it_is(count):
    outputs, turned = outputs_in_views(sees_the_white_box, anchors, picture(), count)
    assert outputs.box_deltas.shape == (1, len(turned), 4)
    assert len(turned) == count * len(anchors(SIZE))
    found = cxcywh_to_xyxy(decode(outputs.box_deltas[0], xyxy_to_cxcywh(turned), VARIANCES))
    torch.testing.assert_close(found, BOX.expand_as(found), atol=1e-3, rtol=0)
    assert torch.equal(turned[: len(anchors(SIZE))], anchors(SIZE))  # the first view is the picture


def test_a_view_is_what_training_shows():
    torch.manual_seed(0)
    stored = torch.randint(256, (3, 6, 9), dtype=torch.uint8)
    for view in VIEWS[8]:
        trained = torch.empty(3, *((9, 6) if view[2] else (6, 9)), dtype=torch.uint8)
        put_window(stored, Change((0, 0, 9, 6), view), trained)
        assert torch.equal(views._turn(stored, view), trained)


def test_the_views_are_all_different_and_the_first_is_the_picture():
    shown = torch.arange(6.0).view(1, 2, 3)
    for count, some in VIEWS.items():
        turned = [views._turn(shown, view) for view in some]
        assert len({(x.shape, tuple(x.flatten().tolist())) for x in turned}) == count
        assert torch.equal(turned[0], shown)
        assert set(some) <= set(VIEWS[8])


def ssd():
    torch.manual_seed(0)
    return SSD(SSDConfig(num_classes=3, backbone="tiny-8", norm="batch", image_size=64))


def retinanet():
    torch.manual_seed(1)
    return RetinaNet(RetinaNetConfig(3, backbone="tiny-8", channels=16, image_size=64))


@pytest.mark.parametrize("make", [ssd, retinanet])
def test_who_looks_from_all_sides_sees_the_same_in_a_turned_picture(make):
    """What 8 views find does not depend on how the slide lies; what one finds does."""
    model, options = make(), {"score_threshold": 0.0, "max_detections": 3, "vote": 0.6}
    look = partial(predict, model, size=64, **options)
    turned = [transpose(mirror(sample)) for sample in SMEARS]
    for count, same in ((8, True), (1, False)):
        found, other = (look(samples, views=count) for samples in (SMEARS, turned))
        scores, others = ([p["scores"] for p in some] for some in (found, other))
        back = [p["boxes"][:, [1, 0, 3, 2]] for p in other]
        back = [torch.stack((64 - b[:, 2], b[:, 1], 64 - b[:, 0], b[:, 3]), 1) for b in back]
        close = partial(torch.allclose, rtol=1e-3, atol=0)
        assert all(map(close, scores, others)) == same
        close = partial(torch.allclose, rtol=0, atol=0.01)  # pixels
        assert all(map(close, (p["boxes"] for p in found), back)) == same


@pytest.mark.parametrize("make", [ssd, retinanet])
def test_a_model_predicts_in_views_as_predict_does(make):
    model = make()
    options = {"score_threshold": 0.0, "views": 4, "max_detections": 20}
    batch = torch.stack([sample.image for sample in SMEARS]) / 255
    alone = model.predict(batch, **options)
    for one, other in zip(alone, predict(model, SMEARS, 64, **options), strict=True):
        torch.testing.assert_close(one, other)


def test_evaluation_looks_so_often_and_its_loss_once():
    options = {"score_threshold": 0.01, "vote": 0.6}
    once, often = (Recipe(size=64, inference=options | extra) for extra in ({}, {"views": 8}))
    one, all_views = (evaluate(ssd(), SMEARS, recipe) for recipe in (once, often))
    assert all_views["val_loss"] == pytest.approx(one["val_loss"], rel=1e-6)
    found = predict(ssd(), SMEARS, 64, **often.inference)
    by_hand = coco_evaluate(found, ground_truth(SMEARS), 3)
    assert all_views["AP50"] == by_hand["AP50"] != one["AP50"]


ONE = tensor([[0.0, 0, 8, 8], [20, 20, 28, 28], [40, 40, 48, 48]])


def two_views(background, scores):
    """Outputs and anchors of two views; scores (2, 3): of each anchor, of one class."""
    logits = torch.full((1, 6, 1 + background), 0.0)
    logits[0, :, background] = tensor(scores).flatten().logit()
    return Outputs(logits, torch.zeros(1, 6, 4)), ONE.repeat(2, 1)


@pytest.mark.parametrize(
    "detect, background", [(ssd_detections, 1), (partial(retinanet_detections, counts=[3]), 0)]
)
def test_topk_counts_in_each_view(detect, background):
    """Each view has its own best; of one object found in both, NMS keeps the surer."""
    outputs, both = two_views(background, [[0.9, 0.8, 0.7], [0.6, 0.7, 0.95]])
    found = detect(outputs, both, (64, 64), views=2)[0]
    torch.testing.assert_close(found["scores"], tensor([0.95, 0.9, 0.8]))
    assert found["boxes"].tolist() == ONE[[2, 0, 1]].tolist()


def test_topk_of_a_level_is_that_of_one_view():
    outputs, both = two_views(0, [[0.9, 0.8, 0.7], [0.6, 0.7, 0.95]])
    found = retinanet_detections(outputs, both, (64, 64), views=2, counts=[2, 1], topk=1)[0]
    torch.testing.assert_close(found["scores"], tensor([0.95, 0.9, 0.7]))
    outputs, both = two_views(1, [[0.9, 0.8, 0.7], [0.6, 0.65, 0.5]])
    found = ssd_detections(outputs, both, (64, 64), views=2, topk=1)[0]
    torch.testing.assert_close(found["scores"], tensor([0.9, 0.8]))  # two of a class in all


@pytest.mark.parametrize(
    "detect, background", [(ssd_detections, 1), (partial(retinanet_detections, counts=[3]), 0)]
)
def test_what_few_views_find_counts_less_where_they_vote(detect, background):
    """A score is the mean over the views; in that mean a view that sees nothing is a 0."""
    outputs, both = two_views(background, [[0.9, 0.8, 0.95], [0.5, 0.9, 0.005]])
    found = detect(outputs, both, (64, 64), views=2, vote=0.6)[0]
    torch.testing.assert_close(found["scores"], tensor([0.85, 0.7, 0.475]))
    torch.testing.assert_close(found["boxes"], ONE[[1, 0, 2]])
    alone = detect(outputs, both, (64, 64), views=2)[0]
    torch.testing.assert_close(alone["scores"], tensor([0.95, 0.9, 0.9]))  # no vote: the surest
    one = Outputs(*(values[:, :3] for values in outputs))
    single = detect(one, ONE, (64, 64), vote=0.6)[0]
    torch.testing.assert_close(single["scores"], tensor([0.95, 0.9, 0.8]))  # one view: as it is


@pytest.mark.parametrize(
    "detect, background", [(ssd_detections, 1), (partial(retinanet_detections, counts=[3]), 0)]
)
def test_a_threshold_chooses_among_means_and_changes_none(detect, background):
    outputs, both = two_views(background, [[0.9, 0.8, 0.95], [0.45, 0.3, 0.02]])
    found = detect(outputs, both, (64, 64), views=2, vote=0.6, score_threshold=0.5)[0]
    torch.testing.assert_close(found["scores"], tensor([0.675, 0.55]))  # .485 is below
    torch.testing.assert_close(found["boxes"], ONE[:2])


def test_a_vote_asks_each_view_for_its_surest():
    """Several anchors of one view are one voice in the score, and as many in the box."""
    boxes = tensor(
        [[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 9, 10], [0, 0, 10, 10], [50, 50, 60, 60]]
    )
    scores, labels = tensor([0.9, 0.8, 0.7, 0.6, 0.5]), tensor([0, 0, 0, 1, 0])
    view = tensor([0, 0, 1, 1, 2])
    means, sure = box_vote(boxes, scores, labels, tensor([0, 3, 4]), 0.6, view, 3)
    torch.testing.assert_close(sure, tensor([(0.9 + 0.7) / 3, 0.6 / 3, 0.5 / 3]))
    torch.testing.assert_close(means[0, 2:], tensor([(17 + 6.3) / 2.4, (9 + 7.2 + 7) / 2.4]))
    assert torch.equal(means[1:], boxes[3:])
    assert torch.equal(box_vote(boxes, scores, labels, tensor([0]), 0.6)[1], scores[:1])


def test_other_numbers_of_views_are_refused():
    with pytest.raises(ValueError, match="views is 3; give 1, 2, 4 or 8"):
        outputs_in_views(sees_the_white_box, anchors, picture(), 3)
    for settings in (["inference.views=3"], ["inference.views=0"]):
        with pytest.raises(ValueError, match=r"views is \d; give 1, 2, 4 or 8"):
            overridden(MODELS["ssd-tiny"], Recipe(), settings)
    assert overridden(MODELS["ssd-tiny"], Recipe(), ["inference.views=8"])[1].inference == {
        "views": 8
    }
    outputs, both = two_views(1, [[0.9, 0.8, 0.7], [0.6, 0.7, 0.95]])
    with pytest.raises(ValueError, match="views is 4, but there are 6 anchors"):
        ssd_detections(outputs, both, (64, 64), views=4)
    with pytest.raises(ValueError, match="counts sum to 6, but there are 3 anchors"):
        short = Outputs(*(x[:, :3] for x in outputs))
        retinanet_detections(short, ONE, (64, 64), counts=[6])
    with pytest.raises(ValueError, match="views is 5"):
        predict(ssd(), SMEARS, 64, views=5)
