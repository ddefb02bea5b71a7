"""The bug museum of lesson 12: two detectors that work, and eight with one bug each.

All begin as the detectors that come with the package, which find nearly every cell, and go on
training for a few steps. None of the bugs stops a program.

for exhibit in exhibits(): ...     each trained further, or given the healthy one's weights
bug_of("A")                        which of BUGS it has; the key is at the end of this file
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lesson_lib.anchors import PyramidAnchors
from lesson_lib.boxes import cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from lesson_lib.colours import CLASS_COLOURS
from lesson_lib.course import svg
from lesson_lib.data.samples import Sample
from lesson_lib.data.smears import Smears
from lesson_lib.detectors.inference import inference_options, ssd_detections
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSDConfig
from lesson_lib.matching import IGNORE, match_retinanet
from lesson_lib.nms import nms
from lesson_lib.training.loop import Recipe, predict, train
from lesson_lib.training.trained import load

SHIPPED = {"SSD": "ssd-tiny-smears", "RetinaNet": "retinanet-tiny-smears"}
SIDE = 288  # of the shipped detectors' input
PICTURES, JUDGED = 8, 12  # smears to train on, two a step, and to find cells in

# Small ones, to be trained from scratch: what a normaliser does under SGD, and tests.
SIZE = 96
SSD_CONFIG = SSDConfig(
    num_classes=3,
    backbone="tiny-8",
    norm="batch",
    extras=(),
    s_min=0.08,
    s_max=0.4,
    image_size=SIZE,
)
RETINANET_CONFIG = RetinaNetConfig(
    num_classes=3,
    backbone="tiny-8",
    channels=24,
    anchors=PyramidAnchors(sizes=(12, 24, 48, 96, 192)),
)
CLICKED = "smear-0-train-00007"  # the picture with a careless click


class Exhibit(NamedTuple):
    """What a visitor sees.

    name         "healthy SSD", "healthy RetinaNet", or a letter
    kind         "SSD" or "RetinaNet"
    records      of its training, one a step; an exhibit that was broken afterwards has the healthy
                 one's
    found        detections on `val` from a score of .02 on
    ignored      anchors of the training pictures that its loss passes over as neither object nor
                 background
    """

    name: str
    kind: str
    records: list[dict]
    found: list[dict[str, Tensor]]
    ignored: int


class RatioFlipped(SSD):
    """Trained with ratio = w / h, used with anchors of ratio h / w, as after a move to another
    library.
    """

    def detections(self, outputs, anchors, size, **options):
        flipped = cxcywh_to_xyxy(xyxy_to_cxcywh(anchors)[:, [0, 1, 3, 2]])
        return super().detections(outputs, flipped, size, **options)


class NoVariances(SSD):
    """Decodes with the paper's equation what was encoded with the released code's."""

    def detections(self, outputs, anchors, size, **options):
        options = inference_options(self.config) | options
        return ssd_detections(outputs, anchors, size, variances=(1.0, 1.0), **options)


class OffByOne(SSD):
    """Forgets that channel 0 is the background: reads channel k as class k."""

    def detections(self, outputs, anchors, size, **options):
        return super().detections(
            outputs._replace(cls_logits=outputs.cls_logits.roll(1, -1)), anchors, size, **options
        )


class AcrossClasses(RetinaNet):
    """One NMS over all boxes, whatever their class."""

    def detections(self, outputs, anchors, size, **options):
        found = super().detections(
            outputs, anchors, size, nms_threshold=1.0, max_detections=len(anchors), **options
        )
        keep = [nms(p["boxes"], p["scores"], 0.5)[: self.config.max_detections] for p in found]
        return [{name: p[name][kept] for name in p} for p, kept in zip(found, keep, strict=True)]


class ByAnchors(SSD):
    """Divides the loss by the number of anchors, not of matched ones."""

    def criterion(self, outputs, anchors, targets, normaliser=None, **options):
        by_anchors = lambda matched: torch.full_like(matched, len(anchors) * len(targets))  # noqa: E731
        return super().criterion(outputs, anchors, targets, by_anchors, **options)


class UnclippedLog(SSD):
    """Learns a box of next to no width that a click or a crop left in one picture: log(w / d) is
    about -70. Matched as in torchvision, where an object claims an anchor at any overlap: Caffe's
    rule would pass over the box.
    """

    def criterion(self, outputs, anchors, targets, normaliser=None, **options):
        if any(t["id"] == CLICKED for t in targets):
            options["best"] = "overwrite"
        return super().criterion(
            outputs,
            anchors,
            [_with_sliver(t) if t["id"] == CLICKED else t for t in targets],
            normaliser,
            **options,
        )


class NoIgnoreBand(RetinaNet):
    """Anchors of IoU .4 to .5 learn that they are background."""

    def criterion(self, outputs, anchors, targets, normaliser=None, **options):
        options["negative"] = 0.5
        return super().criterion(outputs, anchors, targets, normaliser, **options)


BUGS: dict[str, type[SSD] | type[RetinaNet]] = {
    "ratio flipped": RatioFlipped,
    "offsets without variance at inference": NoVariances,
    "off-by-one background": OffByOne,
    "unclipped log": UnclippedLog,
    "ignore band counted as negative": NoIgnoreBand,
    "normaliser by anchors": ByAnchors,
    "augmentation that forgets the boxes": SSD,
    "NMS across classes": AcrossClasses,
}
AT_INFERENCE = (RatioFlipped, NoVariances, OffByOne, AcrossClasses)


def exhibits(steps: int = 12) -> Iterator[Exhibit]:
    """The healthy SSD and RetinaNet, then the eight by their letters; all from the same seed.

    steps: of two pictures each; the same at every budget, so that the page's picture is anybody's
    """
    samples, val = list(Smears("train", PICTURES, SIDE)), list(Smears("val", JUDGED, SIDE))
    forgetful = [replace(s, image=s.image.flip(-1)) if i % 2 else s for i, s in enumerate(samples)]
    healthy = {kind: _trained_on(kind, samples, steps) for kind in (SSD, RetinaNet)}
    for kind, (model, records) in healthy.items():
        ignored = _ignored(samples, kind)
        yield Exhibit(
            f"healthy {kind.__name__}", kind.__name__, records, _found(model, val), ignored
        )
    for letter, bug in _KEY.items():
        kind = BUGS[bug]
        base = RetinaNet if issubclass(kind, RetinaNet) else SSD
        if kind in AT_INFERENCE:
            parent, curve = healthy[base]
            model = kind(parent.config)
            model.load_state_dict(parent.state_dict())
        else:
            model, curve = _trained_on(kind, forgetful if kind is SSD else samples, steps)
        ignored = _ignored(samples, kind)
        yield Exhibit(letter, base.__name__, curve, _found(model, val), ignored)


def _trained_on(
    kind: type[SSD] | type[RetinaNet], samples: list[Sample], steps: int
) -> tuple[SSD | RetinaNet, list[dict]]:
    """A shipped detector as `kind`, trained further, and the records of its steps."""
    shipped = load(SHIPPED["RetinaNet" if issubclass(kind, RetinaNet) else "SSD"]).model
    model = kind(shipped.config)
    model.load_state_dict(shipped.state_dict())
    recipe = Recipe(steps=steps, batch=2, size=SIDE, lr=3e-4, schedule="constant", warmup=0)
    return model, list(train(model, samples, recipe))


def _found(model: SSD | RetinaNet, val: list[Sample]) -> list[dict[str, Tensor]]:
    return predict(model, val, SIDE, score_threshold=0.02)


def panel(
    exhibit: Exhibit,
    sample: Sample,
    found: dict[str, Tensor],
    width: int = 560,
    most: int = 40,
    each: int = 15,
) -> str:
    """One smear: the truth dashed, and solid what an exhibit finds over .3, with the letters of
    the classes. At most `most` boxes: of each object the one that fits it best, from IoU .5 on,
    so that no found one looks missed; then the surest, at most `each` of a class. Returns SVG.
    """
    surest = found["scores"].argsort(descending=True, stable=True)
    surest = surest[found["scores"][surest] > 0.3]
    one_class = torch.nn.functional.one_hot(found["labels"][surest], len(CLASS_COLOURS))
    within = one_class.cumsum(0).gather(1, found["labels"][surest][:, None]).squeeze(1) <= each
    best = _best_of_each(sample.boxes, found["boxes"][surest])
    rows = torch.cat((surest[best], surest[within & ~best]))[:most]
    boxes, labels = found["boxes"][rows], found["labels"][rows]
    shapes = [svg.shape("truth", sample.boxes)]
    shapes += [
        svg.shape("prediction", boxes[labels == k], colour=colour) | {"casing": "#ffffff"}
        for k, colour in enumerate(CLASS_COLOURS.values())
    ]
    names = [name[0] for name in CLASS_COLOURS]
    letters = [
        (max(x, 1), max(y - 2, 9), names[label])
        for (x, y, _, _), label in zip(boxes.tolist(), labels.tolist(), strict=True)
    ]
    count = int((found["scores"] > 0.3).sum())
    words = f"{exhibit.name}: {count} boxes over 0.3 on {len(sample.boxes)} objects, dashed."
    if len(rows) < count:
        words += f" {len(rows)} are drawn."
    return svg.picture(sample.image, shapes, words, letters, caption=words, width=width)


def _best_of_each(objects: Tensor, boxes: Tensor) -> Tensor:
    """Which of `boxes` (N, 4) fit one of `objects` (G, 4) best, with an IoU of .5 or more.

    Returns (N,) bool.
    """
    best = torch.zeros(len(boxes), dtype=torch.bool)
    if len(boxes) and len(objects):
        overlap, of = pairwise_iou(objects, boxes).max(1)
        best[of[overlap >= 0.5]] = True
    return best


def _ignored(samples: list[Sample], kind: type[SSD] | type[RetinaNet]) -> int:
    if issubclass(kind, SSD):
        return 0
    negative = 0.5 if kind is NoIgnoreBand else 0.4
    anchors = load(SHIPPED["RetinaNet"]).model.anchors(SIDE)
    return sum(
        int((match_retinanet(s.boxes, anchors, 0.5, negative).label == IGNORE).sum())
        for s in samples
    )


def _with_sliver(target: dict) -> dict:
    sliver = torch.tensor([[0.0, 30.0, 1e-30, 60.0]])
    return target | {
        "boxes": torch.cat((target["boxes"], sliver)),
        "labels": torch.cat((target["labels"], torch.tensor([0]))),
    }


def bug_of(letter: str) -> str:
    """Which of BUGS exhibit `letter` has."""
    return _KEY[letter]


_KEY = dict(
    zip("ABCDEFGH", (tuple(BUGS)[i] for i in (6, 2, 5, 0, 3, 7, 1, 4)))
)  # look when you have guessed
