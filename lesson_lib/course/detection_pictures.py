"""Pictures of detections: suppression step by step, verdicts, wrong boxes looked at from near, how
COCO measures a crowd (lesson 6), what a detector finds and misses (lessons 8 and 9).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lesson_lib import colours
from lesson_lib.boxes import pairwise_iou
from lesson_lib.breakdown import judge
from lesson_lib.config import CELL_CLASSES
from lesson_lib.course import svg
from lesson_lib.course.svg import shape
from lesson_lib.data.samples import Sample
from lesson_lib.evaluation import coco_evaluate


class Step(NamedTuple):
    """One round of suppression, as indices of the boxes."""

    best: int
    dropped: list[int]
    left: list[int]


def nms_steps(boxes: Tensor, scores: Tensor, iou_threshold: float) -> list[Step]:
    """Every round of greedy suppression: who stays, whom it drops, who is left: (N, 4), (N,)."""
    left, steps = scores.argsort(descending=True, stable=True).tolist(), []
    while left:
        best, *others = left
        over = pairwise_iou(boxes[best][None], boxes[others])[0] > iou_threshold
        dropped = [i for i, gone in zip(others, over.tolist()) if gone]
        left = [i for i, gone in zip(others, over.tolist()) if not gone]
        steps.append(Step(best, dropped, left))
    return steps


def nms_step_picture(
    image: Tensor,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    steps: Sequence[Step],
    number: int,
) -> str:
    """The picture after round `number` (0: before the first), boxes in their classes' colours:
    those that are left thin, those that stay in a green frame, those that go in this round dotted.
    """

    def in_colours(kind: str, chosen: list[int]) -> list[dict]:
        parts = [[i for i in chosen if labels[i] == k] for k in range(len(CELL_CLASSES))]
        looks = (colours.CLASS_COLOURS[name] for name in CELL_CLASSES)
        return [shape(kind, boxes[part], colour=look) for part, look in zip(parts, looks) if part]

    words = f"Before the first step: {len(boxes)} boxes."
    shapes = in_colours("anchor", list(range(len(boxes))))
    if number:
        best, dropped, left = steps[number - 1]
        kept = [step.best for step in steps[:number]]
        words = (
            f"Step {number} of {len(steps)}: the surest of the rest, score {scores[best]:.2f}, "
            f"stays; it drops {len(dropped)} (dotted). Green frames: those that stay so far; "
            f"{len(left)} are left (thin)."
        )
        shapes = [
            *in_colours("anchor", left),
            shape("kept", boxes[kept]),
            *in_colours("prediction", kept),
            shape("ignored", boxes[dropped]),
        ]
    return svg.picture(image, shapes, alt=words, caption=words, width=520)


def verdicts(boxes: Tensor, scores: Tensor, objects: Tensor, iou: float = 0.5) -> list[bool]:
    """Which detections are true, in the order given, by COCO's rule: best score first, each takes
    the free object that it overlaps most: (N, 4), (N,), (G, 4).
    """
    true, free = [False] * len(boxes), list(range(len(objects)))
    for i in scores.argsort(descending=True, stable=True).tolist():
        overlap = pairwise_iou(boxes[i][None], objects)[0].tolist()
        best = max(free, key=lambda g: overlap[g], default=None)
        if best is not None and overlap[best] >= iou:
            true[i] = True
            free.remove(best)
    return true


def taken(detections: dict, target: dict, iou: float = 0.5) -> Tensor:
    """For each detection (N,) the object of its class that it takes by COCO's rule; -1 for none,
    when it is false or a second one.
    """
    took = torch.full((len(detections["labels"]),), -1)
    free = torch.ones(len(target["labels"]), dtype=torch.bool)
    for i in detections["scores"].argsort(descending=True, stable=True).tolist():
        own = (free & (target["labels"] == detections["labels"][i])).nonzero()[:, 0]
        overlap = pairwise_iou(detections["boxes"][i][None], target["boxes"][own])[0]
        if len(own) and overlap.max() >= iou:
            took[i] = own[overlap.argmax()]
            free[took[i]] = False
    return took


def found_picture(
    sample: Sample,
    detections: dict,
    letters: Sequence[str] = (),
    width: int = 390,
    title: str = "",
) -> str:
    """What a detector finds in a picture (solid, in its class's colour; dotted where it is false or
    a second one) and which objects it misses (dashed), as SVG; found objects have no dashed box, so
    that crowds stay readable.

    detections: "boxes" (N, 4), "scores" (N,), "labels" (N,); letters: a word for each detection,
    drawn above its upper left corner; "" for none; title: the first words of its caption.
    """
    target, took, shapes = sample.target(), taken(detections, sample.target()), []
    lost = torch.ones(len(target["labels"]), dtype=torch.bool)
    lost[took[took >= 0]] = False
    for k, colour in enumerate(colours.CLASS_COLOURS[name] for name in CELL_CLASSES):
        for chosen, dash in ((took >= 0, "solid"), (took < 0, "dotted")):
            boxes = detections["boxes"][chosen & (detections["labels"] == k)]
            shapes.append(shape("prediction", boxes, colour=colour) | {"dash": svg.DASHES[dash]})
    shapes.append(shape("truth", target["boxes"][lost]))
    corners = detections["boxes"][:, :2].tolist()
    words = [(max(x, 1), max(y - 1, 5), word) for (x, y), word in zip(corners, letters) if word]
    said = (
        f"{title} {len(lost)} cells: {int((took >= 0).sum())} found (solid), {int(lost.sum())} "
        f"missed (dashed); {int((took < 0).sum())} false or double (dotted)."
    ).strip()
    return svg.picture(sample.image, shapes, alt=said, labels=words, caption=said, width=width)


def explained(
    sample: Sample, detections: dict, anchors: Tensor, unboxed: Tensor, least: float = 0.4
) -> str:
    """A line for each object that no detection of a score of `least` or more finds, and for each of
    these that is false or a second one: what stands in the picture beside it.

    detections: all of them, those below `least` too; anchors (A, 4) xyxy px; unboxed (N, 4) xyxy
    px: cells that nobody annotated.
    """
    target = sample.target()
    sure = {name: values[detections["scores"] >= least] for name, values in detections.items()}
    took, boxes, lines = taken(sure, target), target["boxes"], ""
    beside = pairwise_iou(boxes, boxes).fill_diagonal_(0)
    for j in sorted(set(range(len(boxes))) - set(took.tolist())):
        fits = pairwise_iou(boxes[j][None], detections["boxes"])[0] >= 0.5
        fits &= detections["labels"] == target["labels"][j]
        surest = f"score {detections['scores'][fits].max():.2f}" if fits.any() else "none"
        lines += (
            f"  missed: {CELL_CLASSES[target['labels'][j]]}, its best anchor "
            f"{pairwise_iou(boxes[j][None], anchors).max():.2f}, overlaps a neighbour by "
            f"{beside[j].max():.2f}, surest box that fits it: {surest}\n"
        )
    for k in (took < 0).nonzero()[:, 0].tolist():
        near = pairwise_iou(sure["boxes"][k][None], unboxed).max().item() if len(unboxed) else 0.0
        lines += (
            f"  dotted: score {sure['scores'][k]:.2f}, IoU {near:.2f} with a cell that nobody "
            "annotated\n"
        )
    return lines


class Wrong(NamedTuple):
    """A detection that is not correct, and how well it fits a cell that has no box."""

    picture: int
    kind: str  # one of breakdown.KINDS
    score: float
    box: Tensor  # (4,) xyxy px
    fit: float  # the largest IoU with a cell of its picture that was left out; 0 without any


def wrong_ones(
    detections: Sequence[dict], targets: Sequence[dict], left_out: Sequence[Tensor], least: float
) -> list[Wrong]:
    """All detections of a score of `least` or more that are not correct, the surest first.

    detections, targets: as in `breakdown.judge`, without crowds and difficult objects; left_out:
    for each picture the boxes (N, 4) of the cells that nobody annotated.
    """
    wrong = []
    for i, (found, target, others) in enumerate(zip(detections, targets, left_out, strict=True)):
        judged = judge([found], [target])
        boxes = found["boxes"][found["scores"].argsort(descending=True, stable=True)]
        for kind, score, box in zip(judged.kinds, judged.scores, boxes, strict=True):
            if kind != "correct" and score >= least:
                fit = pairwise_iou(box[None], others).max().item() if len(others) else 0.0
                wrong.append(Wrong(i, str(kind), float(score), box, fit))
    return sorted(wrong, key=lambda one: -one.score)


def wrong_picture(one: Wrong, sample: Sample, left_out: Tensor, side: int = 104) -> str:
    """A wrong detection from near (solid), with the annotated cells that it touches (dashed) and
    the cell without a box that it fits best (yellow, if any): `side` px of the picture, as SVG.
    """
    height, width = sample.size
    x, y = ((one.box[:2] + one.box[2:]) / 2).round().int().tolist()
    left, top = (min(max(at - side // 2, 0), most - side) for at, most in ((x, width), (y, height)))
    corner = torch.tensor([left, top, left, top])
    touched = sample.boxes[pairwise_iou(one.box[None], sample.boxes)[0] > 0]
    shapes = [shape("truth", touched - corner), shape("prediction", one.box - corner)]
    words = f"{one.kind}, score {one.score:.2f}"
    if len(left_out):
        best = pairwise_iou(one.box[None], left_out)[0].argmax()
        shapes.insert(0, shape("shared", left_out[best] - corner))
        words += f"; yellow: a cell without a box, IoU {one.fit:.2f}"
    view = sample.image[:, top : top + side, left : left + side]
    return svg.picture(view, shapes, alt=f"{words}.", caption=words, width=180)


CROWD = torch.tensor([20.0, 30, 320, 150])  # a clump of cells, boxed as one
INSIDE = torch.tensor([[30.0, 40, 130, 140], [130, 40, 230, 140], [225, 40, 325, 140]])
APART = torch.tensor([120.0, 165, 200, 245])
FOUND = APART + torch.tensor([5.0, 4, 5, 4])  # the detection on it


def crowd_ap(marked: bool) -> float:
    """AP50 of three detections inside the clump and one on the cell beside it, with the clump's box
    marked as a crowd or not.
    """
    target = {"boxes": torch.stack([CROWD, APART]), "labels": torch.zeros(2, dtype=torch.int64)}
    target["crowd"] = torch.tensor([marked, False])
    found = {
        "boxes": torch.cat([INSIDE, FOUND[None]]),
        "scores": torch.tensor([0.9, 0.85, 0.8, 0.7]),
        "labels": torch.zeros(4, dtype=torch.int64),
    }
    return coco_evaluate([found], [target], 1)["AP50"]


def crowd_picture(which: int) -> str:
    """One detection inside the clump, its shared area shaded, and both ways to divide it."""
    box = INSIDE[which]
    shared = torch.cat((torch.maximum(box[:2], CROWD[:2]), torch.minimum(box[2:], CROWD[2:])))
    area = ((shared[2] - shared[0]) * (shared[3] - shared[1])).item()
    own = ((box[2] - box[0]) * (box[3] - box[1])).item()
    union = own + ((CROWD[2] - CROWD[0]) * (CROWD[3] - CROWD[1])).item() - area
    words = (
        f"Shared {area:,.0f} px². By the union, {union:,.0f}: IoU {area / union:.2f}, a false "
        f"alarm. By the detection's own area, {own:,.0f}: {area / own:.2f}, so it lies on the "
        "crowd and does not count."
    )
    ground = torch.full((3, 256, 345), 245, dtype=torch.uint8)
    shapes = [
        shape("truth", torch.stack([CROWD, APART])),
        shape("shared", shared),
        shape("prediction", torch.cat([INSIDE, FOUND[None]])),
    ]
    labels = [(24, 24, "crowd (dashed)"), (212, 210, "a cell, found")]
    return svg.picture(ground, shapes, alt=words, labels=labels, caption=words, width=520)
