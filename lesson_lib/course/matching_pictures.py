"""Lesson 3: what a matching rule decides, on the smear, map by map and over pairs of squares."""

import math

import torch
from torch import Tensor

from lesson_lib.anchors import DefaultBoxes, level_slices
from lesson_lib.boxes import box_area, pairwise_intersection, pairwise_iou, xyxy_to_cxcywh
from lesson_lib.course import svg
from lesson_lib.course.plots import COLOURS
from lesson_lib.course.svg import shape
from lesson_lib.matching import IGNORE, NEGATIVE, POSITIVE, Match, match_ssd

Shapes = list[dict]
#: Of a playground's many anchors: a line alone, without a lighter one under it.
THIN = {"width": 0.8, "casing": ""}


def matched_shapes(match: Match, anchors: Tensor, boxes: Tensor) -> tuple[str, Shapes]:
    """A sentence with the counts, and what to draw: each object's anchors thin, over them the one
    that fits it best, ignored ones dotted, an object without any filled.

    boxes (G, 4) and anchors (A, 4), xyxy px of the picture; match of the two.
    """
    label, owner = match.label, match.gt_index
    shapes = [shape("ignored", anchors[label == IGNORE])]
    for g, box in enumerate(boxes):
        mine = anchors[owner == g]
        if not len(mine):
            shapes.append(shape("shared", box))
            continue
        best = mine[pairwise_iou(box[None], mine)[0].argmax()]
        shapes.append(shape("matched", mine, owner=g) | THIN)
        shapes.append(shape("positive", best, owner=g))
    counts = [int((owner == g).sum()) for g in range(len(boxes))]
    words = (
        f"Anchors of each: {', '.join(map(str, counts))}. {int((label == POSITIVE).sum())} "
        f"positive, {int((label == IGNORE).sum())} ignored, "
        f"{int((label == NEGATIVE).sum()):,} background."
    )
    lost = counts.count(0)
    return words + (f" {lost} without any!" if lost else ""), shapes


def six_grids(
    image: Tensor,
    spec: DefaultBoxes,
    match: Match,
    anchors: Tensor,
    boxes: Tensor,
    across: int = 3,
) -> str:
    """The picture once for each map: its positions as dots, those of its positive anchors large and
    green, the objects dashed -> SVG.

    boxes (G, 4) and anchors (A, 4), xyxy px of the picture; match of the two.
    """
    panels = []
    for (rows, columns), level, k in zip(spec.grids_for(), level_slices(spec), spec.per_position):
        here, label = anchors[level], match.label[level]
        positive = here[label == POSITIVE]
        words = f"{rows} x {columns}: {len(positive)} of {len(here):,}"
        centres = torch.unique((positive[:, :2] + positive[:, 2:]) / 2, dim=0).tolist()
        middles = xyxy_to_cxcywh(here[::k])[:, :2].tolist() if rows * columns <= 100 else []
        drawn = [
            shape("negative", here[::k], dots=True),
            _dots(middles, "#ffffff", radius=2.4),  # few ones, to be seen
            _dots(middles, COLOURS["negative"], radius=1.6),
            shape("truth", boxes) | {"width": 1},
            _dots(centres, COLOURS["positive"], radius=2.6),
        ]
        panels.append(svg.picture(image, drawn, words, caption=words, width=230))
    lines = [svg.beside(*panels[i : i + across]) for i in range(0, len(panels), across)]
    return svg.below(*lines)


def _dots(places: list[list[float]], colour: str, radius: float) -> dict:
    """Filled circles at (x, y) px as one shape: one for each would be ten times as long."""
    path = "".join(svg.dot(x, y, colour, radius)["d"] for x, y in places)
    return svg.dot(0, 0, colour, radius) | {"d": path}


def match_index(objects: Tensor, anchors: Tensor, threshold: float) -> Tensor:
    """`match_ssd` in the form of lesson 3's exercise: (A,) the object of each anchor, -1 for
    none.
    """
    return match_ssd(objects, anchors, threshold).gt_index


def best_overlaps(anchors: Tensor, side: float, ratio: float, step: float = 0.1) -> Tensor:
    """IoU with its best anchor of an object of area side² and shape ratio:1, lying and standing, at
    all places between four neighbouring centres of stride 8, `step` px apart -> (places,).

    anchors: (A, 4) xyxy px over a picture of 256 px; the places lie at its middle.
    """
    offsets = torch.arange(step / 2, 8, step)
    places = 128 + torch.cartesian_prod(offsets, offsets)
    middle = torch.tensor([[128.0, 128.0, 136.0, 136.0]])
    within_reach = pairwise_intersection(middle, anchors)[0] > 0
    small_enough = box_area(anchors) < max(2 * side, 64) ** 2  # a larger one cannot be the best
    near = anchors[within_reach & small_enough]
    objects = []
    for shape_of_object in (ratio, 1 / ratio):
        half = side * torch.tensor([shape_of_object**0.5, shape_of_object**-0.5]) / 2
        objects.append(torch.cat([places - half, places + half], dim=1))
    return pairwise_iou(torch.cat(objects), near).amax(dim=1)


def close_pairs(side: float, count: int, generator: torch.Generator) -> Tensor:
    """Squares of `side` px at random places of a picture of 300 px, each with one a fifth smaller,
    its centre `side` px away in any direction -> (count, 2, 4) xyxy.
    """
    first = torch.rand(count, 2, generator=generator) * 200 + 50
    angle = torch.rand(count, 1, generator=generator) * 2 * math.pi
    towards = torch.cat([angle.cos(), angle.sin()], dim=1)
    both = torch.stack([first, first + side * towards], dim=1)
    half = torch.tensor([side, 0.8 * side])[None, :, None] / 2
    return torch.cat([both - half, both + half], dim=2)


def forced_within(pairs: Tensor, anchors: Tensor, tolerance: float) -> Tensor:
    """RetinaNet's gt_index (P, A) for pictures of the same number of objects (P, G, 4), when an
    object forces every anchor whose IoU is within `tolerance` of its highest.

    At 0 it is `match_retinanet`: equal is what float32 calls equal, and of many anchors that hold a
    small object, and on paper fit it equally well, rounding leaves a few.
    """
    found = []
    for boxes in pairs:
        overlaps = pairwise_iou(boxes, anchors)  # (G, A)
        best, owner = overlaps.max(dim=0)
        most = overlaps.amax(dim=1, keepdim=True)
        forced = ((overlaps >= most - tolerance) & (most > 0)).any(dim=0)
        found.append(torch.where(forced | (best >= 0.5), owner, -1))
    return torch.stack(found)


def orphaned(gt_index: Tensor) -> float:
    """Share of pictures (P, A) of two objects in which one of them has no anchor."""
    has = torch.stack([(gt_index == g).any(dim=1) for g in (0, 1)])
    return (~has.all(dim=0)).float().mean().item()
