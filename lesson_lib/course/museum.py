"""The bug museum of lesson 12: two detectors that work, and eight with one bug each.

None of the bugs stops a program.

for exhibit in exhibits(): ...     each trained, or given the healthy one's weights, in seconds
is_right("A", "ratio flipped")     whether a diagnosis is right; the key is at the end of this file
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lesson_lib.anchors import PyramidAnchors
from lesson_lib.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from lesson_lib.data.samples import Sample
from lesson_lib.data.smears import Smears
from lesson_lib.detectors.inference import inference_options, ssd_detections
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSDConfig
from lesson_lib.matching import IGNORE, match_retinanet
from lesson_lib.nms import nms
from lesson_lib.training.loop import Recipe, predict, train

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


class AcrossClasses(SSD):
    """One NMS over all boxes, whatever their class."""

    def detections(self, outputs, anchors, size, **options):
        found = super().detections(
            outputs, anchors, size, nms_threshold=1.0, max_detections=len(anchors), **options
        )
        return [{name: p[name][nms(p["boxes"], p["scores"], 0.45)] for name in p} for p in found]


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


def exhibits(pictures: int = 48, epochs: int = 20) -> Iterator[Exhibit]:
    """The healthy SSD and RetinaNet, then the eight by their letters; all from the same seed."""
    samples, val = list(Smears("train", pictures, SIZE)), Smears("val", 24, SIZE)
    forgetful = [replace(s, image=s.image.flip(-1)) if i % 2 else s for i, s in enumerate(samples)]
    healthy, records = _trained(SSD, samples, epochs)
    yield Exhibit(
        "healthy SSD", "SSD", records, predict(healthy, val, SIZE, score_threshold=0.02), 0
    )
    for name, bug in [
        ("healthy RetinaNet", RetinaNet),
        *((letter, BUGS[bug]) for letter, bug in _KEY.items()),
    ]:
        if bug in AT_INFERENCE:
            model = bug(SSD_CONFIG)
            model.load_state_dict(healthy.state_dict())
            curve = records
        else:
            shorter = epochs // 2 if issubclass(bug, RetinaNet) else epochs
            model, curve = _trained(bug, forgetful if bug is SSD else samples, shorter)
        kind = "RetinaNet" if isinstance(model, RetinaNet) else "SSD"
        ignored = (
            _ignored(samples, 0.5 if bug is NoIgnoreBand else 0.4) if kind == "RetinaNet" else 0
        )
        yield Exhibit(name, kind, curve, predict(model, val, SIZE, score_threshold=0.02), ignored)


def _trained(
    kind: type[SSD] | type[RetinaNet], samples: list[Sample], epochs: int
) -> tuple[SSD | RetinaNet, list[dict]]:
    torch.manual_seed(0)
    model = kind(RETINANET_CONFIG) if issubclass(kind, RetinaNet) else kind(SSD_CONFIG)
    return model, list(train(model, samples, Recipe(epochs=epochs, batch=8, size=SIZE, lr=5e-3)))


def _ignored(samples: list[Sample], negative: float) -> int:
    anchors = RetinaNet(RETINANET_CONFIG).anchors(SIZE)
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


def is_right(letter: str, bug: str) -> bool:
    """Whether exhibit `letter` has this bug.

    ValueError with the names for one that is not in BUGS.
    """
    if bug not in BUGS:
        raise ValueError(f"{bug!r} is not one of the eight: {', '.join(BUGS)}.")
    return _KEY[letter] == bug


_KEY = dict(
    zip("ABCDEFGH", (tuple(BUGS)[i] for i in (6, 2, 5, 0, 3, 7, 1, 4)))
)  # look when you have guessed
