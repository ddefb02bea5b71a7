"""Pictures of lesson 14: whose anchors are positive under two rules, where a box is central."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lesson_lib.anchors import PyramidAnchors
from lesson_lib.atss import adaptive_threshold, centreness, match_atss
from lesson_lib.boxes import pairwise_iou
from lesson_lib.colours import COLOURS
from lesson_lib.course import svg
from lesson_lib.course.svg import shape
from lesson_lib.data.samples import Sample
from lesson_lib.matching import IGNORE, Match, match_retinanet

#: One anchor a position, as in ATSS's own detector, on three levels; its side is four strides.
SQUARES = PyramidAnchors(strides=(8, 16, 32), sizes=(32, 64, 128), scales=(1,), aspect_ratios=(1,))
#: What may be wrong in an `atss_positives`.
FAULTS = (
    "k of all levels together",
    "no deviation",
    "fixed threshold of .5",
    "threshold from all anchors",
)
BOTH = "IoU .5 / .4", "ATSS"


def atss_positives(iou: Tensor, distance: Tensor, level: Tensor, inside: Tensor, k: int) -> Tensor:
    """ATSS for one object and one anchor a position, as lesson 14 asks for it.

    iou, distance (from the object's centre), level, inside (is the anchor's centre in the object?):
    (A,) each -> (A,) bool.
    """
    candidate = torch.zeros_like(inside)
    for number in level.unique():
        own = (level == number).nonzero().flatten()
        candidate[own[distance[own].argsort(stable=True)[:k]]] = True
    return candidate & inside & (iou >= adaptive_threshold(iou[candidate]))


def faulty(fault: str) -> Callable[..., Tensor]:
    """`atss_positives` with one of FAULTS in it: what the learner of lesson 14 is to diagnose."""

    def positives(iou: Tensor, distance: Tensor, level: Tensor, inside: Tensor, k: int) -> Tensor:
        candidate = torch.zeros_like(inside)
        if fault == FAULTS[0]:
            level = torch.zeros_like(level)
        for number in level.unique():
            own = (level == number).nonzero().flatten()
            candidate[own[distance[own].argsort(stable=True)[:k]]] = True
        threshold = adaptive_threshold(iou[candidate])
        if fault == FAULTS[1]:
            threshold = iou[candidate].mean()
        if fault == FAULTS[2]:
            threshold = torch.tensor(0.5)
        if fault == FAULTS[3]:
            threshold = adaptive_threshold(iou)
        return candidate & inside & (iou >= threshold)

    return positives


class Facts(NamedTuple):
    """What `atss_positives` is told of the anchors (A, 4) and one object: (A,) each."""

    iou: Tensor
    distance: Tensor
    level: Tensor
    inside: Tensor


def facts(box: Tensor, size: int, spec: PyramidAnchors = SQUARES) -> Facts:
    """Of the anchors of a picture of `size` px and one object's box (4,) xyxy."""
    anchors = spec.make(size)
    x, y = ((anchors[:, i] + anchors[:, i + 2]) / 2 for i in (0, 1))
    across, along = x - (box[0] + box[2]) / 2, y - (box[1] + box[3]) / 2
    inside = (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])
    level = spec.levels_of(anchors).int().argmax(0)
    return Facts(pairwise_iou(box[None], anchors)[0], (across**2 + along**2).sqrt(), level, inside)


#: Which fault each letter of the lesson's table has.
DIAGNOSES = dict(zip("ABCD", (FAULTS[1], FAULTS[3], FAULTS[0], FAULTS[2]), strict=True))


def symptoms(rule: Callable[..., Tensor], box: Tensor, size: int, k: int = 9) -> str:
    """What `rule` makes positive for one object, in words: how many of each level, lowest IoU."""
    told = facts(box, size)
    chosen = rule(*told, k)
    levels = " + ".join(str(int((chosen & (told.level == number)).sum())) for number in range(3))
    return f"{levels}, lowest {told.iou[chosen].min():.2f}"


def symptoms_table(sample: Sample, objects: Mapping[str, int], k: int = 9) -> str:
    """The right rule and each of DIAGNOSES for the objects (name -> number) of a picture, with the
    bar and the mean that the right one has -> Markdown.
    """
    rows = [["", *objects], ["---"] * (len(objects) + 1)]
    rules = {"right": atss_positives} | {letter: faulty(DIAGNOSES[letter]) for letter in DIAGNOSES}
    for letter, rule in rules.items():
        found = [symptoms(rule, sample.boxes[n], sample.size[0], k) for n in objects.values()]
        rows.append([letter, *found])
    bars = ["t; mean of the candidates"]
    for number in objects.values():
        told = facts(sample.boxes[number], sample.size[0])
        overlaps = told.iou[_candidates(told, k)]
        bars.append(f"{adaptive_threshold(overlaps):.2f}; {overlaps.mean():.2f}")
    return "\n".join(f"| {' | '.join(row)} |" for row in [*rows, bars])


def _candidates(told: Facts, k: int) -> Tensor:
    """Of each level the numbers of the k anchors that are nearest to the object."""
    own = [(told.level == number).nonzero().flatten() for number in told.level.unique()]
    return torch.cat([of[told.distance[of].argsort(stable=True)[:k]] for of in own])


class Bar(NamedTuple):
    """How one object's bar comes about, and what passes it: anchors of each level."""

    candidates: int
    mean: float
    deviation: float
    t: float
    positives: list[int]

    def __str__(self) -> str:
        return (
            f"{self.candidates} candidates, {self.mean:.2f} + {self.deviation:.2f} = {self.t:.2f}, "
            f"{self.t / self.mean:.1f} times the mean; positive "
            + " + ".join(map(str, self.positives))
        )


def bars(sample: Sample, spec: PyramidAnchors, numbers: Sequence[int], k: int) -> list[Bar]:
    """The bars of these objects of a picture, as ATSS sets them."""
    anchors = spec.make(sample.size)
    levels, found = spec.levels_of(anchors), []
    at_each = anchors.view(levels.shape[1], -1, 4)
    x, y = ((at_each[:, 0, i] + at_each[:, 0, i + 2]) / 2 for i in (0, 1))
    chosen = match_atss(sample.boxes, anchors, levels, k).gt_index.view(len(at_each), -1)
    for number in numbers:
        box = sample.boxes[number]
        away = (x - (box[0] + box[2]) / 2) ** 2 + (y - (box[1] + box[3]) / 2) ** 2
        told = Facts(away, away, levels.int().argmax(0), away > 0)
        iou = pairwise_iou(box[None], at_each[_candidates(told, k)].flatten(0, 1))[0]
        positives = [int((chosen[own] == number).sum()) for own in levels]
        parts = float(iou.mean()), float(iou.std()), float(adaptive_threshold(iou))
        found.append(Bar(len(iou), *parts, positives))
    return found


def matches(sample: Sample, spec: PyramidAnchors, k: int) -> tuple[Match, Match]:
    """RetinaNet's rule and ATSS's, of all objects of a picture."""
    anchors = spec.make(sample.size)
    return (
        match_retinanet(sample.boxes, anchors),
        match_atss(sample.boxes, anchors, spec.levels_of(anchors), k),
    )


def counts(match: Match, objects: int) -> list[int]:
    """The positive anchors of each object."""
    return [int((match.gt_index == number).sum()) for number in range(objects)]


def rules_drawing(sample: Sample, spec: PyramidAnchors, number: int, k: int, name: str) -> str:
    """The surroundings of one object under both rules, beside each other: at each position a dot,
    the larger the more of its anchors are positive, a ring where some are ignored, and of each
    level the positive anchor that overlaps most -> SVG.
    """
    anchors, box = spec.make(sample.size), sample.boxes[number]
    iou = pairwise_iou(box[None], anchors)[0]
    part, corner = _around(sample.image, box)
    panels = []
    for rule, match in zip((BOTH[0], f"{BOTH[1]}, k = {k}"), matches(sample, spec, k), strict=True):
        own, ignored = match.gt_index == number, (iou >= 0.4) & (match.label == IGNORE)
        shapes = [_ring(*place, many) for place, many in _places(anchors[ignored] - corner)]
        told = []
        for level, positions in enumerate(spec.levels_of(anchors), 3):
            here = positions.repeat_interleave(len(anchors) // len(positions))
            if many := int((own & here).sum()):
                told.append(f"{many} on P{level}")
                shapes.append(shape("matched", anchors[((own & here) * iou).argmax()] - corner))
        for (x, y), many in _places(anchors[own] - corner):
            shapes.append(svg.dot(x, y, COLOURS["positive"], round(0.8 * many**0.5, 1)))
        words = f"{rule}: {int(own.sum())} positive, {', '.join(told)}; "
        words += f"{int(ignored.sum()) or 'none'} ignored"
        shapes.append(shape("truth", box - corner))
        panels.append(svg.picture(part, shapes, f"{name}, {words}", caption=words, width=370))
    return svg.beside(*panels)


def _around(image: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """The square part of a picture (3, H, W) that holds a box with room around it, and the (4,)
    that brings boxes into its pixels when subtracted.
    """
    side = max(96, round(1.4 * float((box[2:] - box[:2]).max())))
    left, top = (
        min(max(0, round(float(middle) - side / 2)), length - side)
        for middle, length in zip((box[:2] + box[2:]) / 2, image.shape[:0:-1], strict=True)
    )
    return image[:, top : top + side, left : left + side], torch.tensor([left, top] * 2)


def _places(anchors: Tensor) -> list[tuple[tuple[float, float], int]]:
    """The centres of anchors (A, 4), each with how many stand there."""
    centres = ((anchors[:, :2] + anchors[:, 2:]) / 2).tolist()
    return sorted(Counter((round(x, 1), round(y, 1)) for x, y in centres).items())


def _ring(x: float, y: float, many: int) -> dict[str, Any]:
    dot = svg.dot(x, y, COLOURS["ignored"], round(1.2 + 0.8 * many**0.5, 1))
    return dot | {"fill": "none", "width": 2}


#: Radii of the dots of the three levels of SQUARES, px of the picture.
RADII = (1.2, 2.2, 3.6)


def answer_drawing(sample: Sample, number: int, k: int, rule: Callable[..., Tensor]) -> str:
    """One object and the centres of SQUARES that lie in it, the larger the coarser their level: a
    ring around each of its candidates, filled where `rule` (a function as `atss_positives`) makes
    it positive, and the chosen box that overlaps most -> SVG.
    """
    box, anchors = sample.boxes[number], SQUARES.make(sample.size)
    told = facts(box, sample.size[0])
    chosen, candidates = rule(*told, k), _candidates(told, k)
    part, corner = _around(sample.image, box)
    middles = (anchors[:, :2] + anchors[:, 2:]) / 2 - corner[:2]

    def dot(n: int, colour: str, radius: float) -> dict[str, Any]:
        x, y = middles[n].tolist()
        return svg.dot(x, y, colour, radius)

    shapes = [shape("truth", box - corner)]
    for n in told.inside.nonzero().flatten().tolist():
        grey = dot(n, COLOURS["negative"], round(RADII[told.level[n]] / 3, 1))
        shapes.append(grey | {"casing": "", "width": 0})
    for n in candidates.tolist():
        ring = dot(n, COLOURS["anchor"], RADII[told.level[n]])
        shapes.append(ring | {"fill": "none", "width": 2})
    if chosen.any():
        best = anchors[(told.iou * chosen).argmax()]
        shapes.insert(0, shape("matched", best - corner))
    for n in chosen.nonzero().flatten().tolist():
        shapes.append(dot(n, COLOURS["positive"], RADII[told.level[n]]))
    of = " + ".join(str(int((chosen & (told.level == level)).sum())) for level in range(3))
    words = f"k = {k}: {len(candidates)} candidates, "
    words += f"t = {adaptive_threshold(told.iou[candidates]):.2f}, "
    words += f"{int(chosen.sum())} positive ({of})"
    return svg.picture(part, shapes, words, caption=words, width=480)


def centreness_drawing(
    image: Tensor,
    box: Tensor,
    score: Callable[[float, float, Tensor], Any],
    words: str = "",
    step: int = 8,
) -> str:
    """The part of a picture (3, H, W) around a box (4,) and, every `step` px among the positions of
    stride 8, a dot as large as `score(x, y, box)`, a number from 0 to 1; it stands beside some
    dots of the row with the largest -> SVG.
    """
    height, width = image.shape[1:]
    left, top = (max(0, int(low - 16) // 8 * 8) for low in box[:2].tolist())
    right, bottom = (min(n, int(high + 20)) for n, high in zip((width, height), box[2:].tolist()))
    places = [(x, y) for y in range(top + 4, bottom, step) for x in range(left + 4, right, step)]
    values = {at: float(score(float(at[0]), float(at[1]), box)) for at in places}
    dots = [
        svg.dot(x - left, y - top, COLOURS["positive"], round(step * (0.05 + 0.26 * value), 1))
        for (x, y), value in values.items()
        if value > 0
    ]
    scale = 360 / (right - left)
    labels = [
        (x - left - 13 / scale, y - top - step * (0.1 + 0.26 * values[x, y]), f"{values[x, y]:.2f}")
        for x, y in _told(values)
    ]
    own = shape("truth", box - torch.tensor([left, top, left, top]))
    part = image[:, top:bottom, left:right]
    return svg.picture(part, [own, *dots], words, labels, words, width=360)


def _told(values: Mapping[tuple[int, int], float]) -> list[tuple[int, int]]:
    """Of the row with the largest value the first place that has one, the largest, and where there
    is room the one half way between them.
    """
    x, y = max(values, key=lambda at: values[at])
    row = [at for at in values if at[1] == y and values[at] > 0 and at[0] <= x]
    between = [at for at in row[len(row) // 2 :][:1] if min(at[0] - row[0][0], x - at[0]) > 12]
    return [*row[:1], *between, *row[1:][-1:]]


def centreness_of(x: float, y: float, box: Tensor) -> Tensor:
    """`atss.centreness` of the point (x, y), as lesson 14 asks for it: () from 0 to 1."""
    return centreness(torch.tensor([x, y, x, y]), box.float())
