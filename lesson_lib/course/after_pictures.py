"""Pictures of lesson 14: whose anchors are positive under two rules, what each switch brought."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lesson_lib.anchors import PyramidAnchors
from lesson_lib.atss import adaptive_threshold, centreness, match_atss
from lesson_lib.boxes import pairwise_iou
from lesson_lib.colours import COLOURS
from lesson_lib.course import svg
from lesson_lib.course.paired import Difference
from lesson_lib.course.svg import shape
from lesson_lib.course.switches import BASELINE, SWITCHES, gain
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


def answer_drawing(sample: Sample, number: int, k: int, rule: Callable[..., Tensor]) -> str:
    """One object, the centres of its candidates' level grids, and what `rule` (a function as
    `atss_positives`) makes positive -> SVG.
    """
    box, anchors = sample.boxes[number], SQUARES.make(sample.size)
    told = facts(box, sample.size[0])
    chosen = rule(*told, k)
    words = f"k = {k}: {int(chosen.sum())} of {len(anchors):,} anchors are positive"
    shapes = [shape("negative", anchors[told.inside], dots=True)]
    shapes += [shape("matched", anchors[chosen]), shape("truth", box)]
    return svg.picture(sample.image, shapes, words, caption=words, width=400)


def centreness_drawing(
    image: Tensor,
    box: Tensor,
    score: Callable[[float, float, Tensor], Any],
    words: str = "",
    rows: int = 0,
) -> str:
    """The part of a picture (3, H, W) around a box (4,), `rows` px high or as high as it needs, and
    at each position of stride 8 a dot as large as `score(x, y, box)`, a number from 0 to 1 -> SVG.
    """
    height, width = image.shape[1:]
    left, top = (max(0, int(low - 16) // 8 * 8) for low in box[:2].tolist())
    right, bottom = (min(n, int(high + 20)) for n, high in zip((width, height), box[2:].tolist()))
    top = max(0, bottom - rows) // 8 * 8 if rows else top
    dots = []
    for y in range(top + 4, bottom, 8):
        for x in range(left + 4, right, 8):
            value = float(score(float(x), float(y), box))
            if value > 0:
                dots.append(svg.dot(x - left, y - top, "#009E73", round(0.5 + 3 * value, 1)))
    own = shape("truth", box - torch.tensor([left, top, left, top]))
    part = image[:, top:bottom, left:right]
    wide = round(3 * (right - left))
    return svg.picture(part, [own, *dots], words, caption=words, width=wide)


def centreness_of(x: float, y: float, box: Tensor) -> Tensor:
    """`atss.centreness` of the point (x, y), as lesson 14 asks for it: () from 0 to 1."""
    return centreness(torch.tensor([x, y, x, y]), box.float())


def gains_drawing(records: Sequence[dict[str, Any]], figure: str = "AP") -> str:
    """Each recorded switch against the baseline: a grey dot for each seed, a stroke for the mean,
    a line for the interval of 95 % -> SVG. Switches of a single seed are left out.
    """
    known = [(name, known_gain(records, name, figure)) for name in SWITCHES]
    rows = [(name, found) for name, found in known if found]
    low = min(0.0, *(found.mean - found.half for _, found in rows)) - 1
    high = max(0.0, *(found.mean + found.half for _, found in rows)) + 1
    left, right, row_height, top = 250, 620, 34, 34

    def place(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    bottom = top + row_height * len(rows)
    body = svg.text(place(0), 16, "the baseline", 13, "middle")
    body += f'<path d="M{place(0):.1f} 22V{bottom}" stroke="currentColor" stroke-dasharray="2 3"/>'
    for at, (name, found) in enumerate(rows):
        y = top + row_height * at + 12
        ends = place(found.mean - found.half), place(found.mean + found.half)
        body += svg.text(8, y + 5, SWITCHES[name].told, 13)
        body += f'<path d="M{ends[0]:.1f} {y}H{ends[1]:.1f}M{place(found.mean):.1f} {y - 8}v16" '
        body += 'stroke="currentColor" stroke-width="2"/>'
        body += "".join(
            f'<circle cx="{place(value):.1f}" cy="{y}" r="4" fill="#888888"/>'
            for value in found.by_seed
        )
        body += svg.text(right + 12, y + 5, f"{found.mean:+.1f}", 13)
    for tick in svg.ticks(low, high):
        body += svg.text(place(tick), bottom + 16, f"{tick:+g}" if tick else "0", 12, "middle")
    body += svg.text(
        left, bottom + 38, f"points of {figure}: grey the seeds, black mean and 95 % interval", 13
    )
    told = "; ".join(f"{SWITCHES[name].told} {found.mean:+.1f}" for name, found in rows)
    return svg.document(body, 690, bottom + 46, f"Gains over the baseline: {told}.")


def known_gain(
    records: Sequence[dict[str, Any]], name: str, figure: str = "AP"
) -> Difference | None:
    """`switches.gain`; None where fewer than two seeds are recorded, and for the baseline."""
    if name == BASELINE:
        return None
    try:
        return gain(records, name, figure)
    except ValueError:
        return None
