"""Lesson 4's race: one small network, the same smears, the same anchors, three losses.

The network only classifies: its boxes are the anchors themselves, so that nothing but the loss of
the classes is compared. What is asked for, one kind of cell, decides how few anchors are positive.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lesson_lib.anchors import PyramidAnchors, pyramid_anchors
from lesson_lib.boxes import pairwise_iou
from lesson_lib.data.samples import Sample
from lesson_lib.losses import prior_bias
from lesson_lib.matching import NEGATIVE, POSITIVE, match_retinanet
from lesson_lib.nms import nms

SIDE, STRIDE = 128, 4
#: One map of stride 4, five squares at each position: 5,120 anchors for 128 x 128 px.
ANCHORS = PyramidAnchors((STRIDE,), (8,), (1, 1.4, 2, 2.8, 4), (1,))


@dataclass(frozen=True, eq=False)
class RaceSet:
    """Pictures, and for one kind of cell what each anchor holds.

    images (N, 3, 128, 128) in 0..1;  label (N, A) POSITIVE, NEGATIVE or IGNORE;  boxes N of (G, 4)
    """

    images: Tensor
    label: Tensor
    boxes: list[Tensor]

    def imbalance(self) -> float:
        """Background anchors for each positive one."""
        return ((self.label == NEGATIVE).sum() / (self.label == POSITIVE).sum()).item()


def race_set(samples: Sequence[Sample], wanted: int) -> RaceSet:
    """Samples of 128 x 128 px; cells of class `wanted` are objects, all else is background."""
    anchors = pyramid_anchors(SIDE, ANCHORS)
    boxes = [sample.boxes[sample.labels == wanted] for sample in samples]
    label = torch.stack([match_retinanet(own, anchors).label for own in boxes])
    return RaceSet(torch.stack([s.image for s in samples]).float() / 255, label, boxes)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class RaceNet(nn.Module):
    """Pictures (B, 3, 128, 128) -> one logit for each anchor, (B, A): is it an object?

    A map of stride 4 and one of stride 8 on top of it, as in a pyramid; the last layer starts at
    the prior probability `prior`.
    """

    def __init__(self, width: int = 8, prior: float = 0.01) -> None:
        super().__init__()
        wide = 2 * width
        self.fine = nn.Sequential(_block(3, width, 2), _block(width, wide, 2), _block(wide, wide))
        self.coarse = nn.Sequential(_block(wide, wide, 2), _block(wide, wide))
        self.lateral = nn.Conv2d(wide, wide, 1)
        self.merged = _block(wide, wide)
        self.head = nn.Conv2d(wide, ANCHORS.per_position[0], 3, padding=1)
        nn.init.normal_(self.head.weight, std=0.01)
        assert self.head.bias is not None
        nn.init.constant_(self.head.bias, prior_bias(prior))

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images)
        above = F.interpolate(self.coarse(fine), scale_factor=2)
        logits = self.head(self.merged(self.lateral(fine) + above))  # (B, anchors, 32, 32)
        return logits.permute(0, 2, 3, 1).flatten(1)


@torch.no_grad()
def said_yes(network: RaceNet, judged: RaceSet, threshold: float = 0.5) -> float:
    """The share of the objects for which an anchor that overlaps them by .5 is surer than
    `threshold`. A yes where nothing is costs nothing here: see `hits_of_yes`.
    """
    found = _judge(network, judged, lambda logits, _: logits.sigmoid() > threshold)
    return _share(iou.any(dim=1) for iou in found)


@torch.no_grad()
def hits_of_yes(network: RaceNet, judged: RaceSet, threshold: float = 0.5) -> float:
    """Of the places that are surer than `threshold` (after NMS), the share that hits an object;
    NaN where there is no such place.
    """
    anchors = pyramid_anchors(SIDE, ANCHORS)

    def places(logits: Tensor, _: int) -> Tensor:
        yes = (logits.sigmoid() > threshold).nonzero().flatten()
        return yes[nms(anchors[yes], logits[yes], 0.3)]

    return _share(iou.any(dim=0) for iou in _judge(network, judged, places))


@torch.no_grad()
def among_surest(network: RaceNet, judged: RaceSet) -> float:
    """The share of the objects that are hit when each picture with n objects may name its n surest
    places: no threshold, so it asks for the order of the scores alone.
    """
    anchors = pyramid_anchors(SIDE, ANCHORS)

    def surest(logits: Tensor, objects: int) -> Tensor:
        top = logits.topk(300).indices
        return top[nms(anchors[top], logits[top], 0.3)[:objects]]

    return _share(iou.any(dim=1) for iou in _judge(network, judged, surest))


def _judge(
    network: RaceNet, judged: RaceSet, choose: Callable[[Tensor, int], Tensor]
) -> Iterator[Tensor]:
    """For each picture (G, chosen) bool: which of its objects do the chosen anchors hit?"""
    anchors = pyramid_anchors(SIDE, ANCHORS)
    training = network.training
    logits = torch.cat([network.eval()(part) for part in judged.images.split(16)])
    network.train(training)
    for row, boxes in zip(logits, judged.boxes):
        yield pairwise_iou(boxes, anchors[choose(row, len(boxes))]) >= 0.5


def _share(hits: Iterable[Tensor]) -> float:
    """The share of True among the entries of all, NaN where there are none."""
    return torch.cat(list(hits)).float().mean().item()
