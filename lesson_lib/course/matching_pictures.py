"""Pictures of lesson 3: what a matching rule decides, on the smear and map by map."""

from torch import Tensor

from lesson_lib.anchors import DefaultBoxes, level_slices
from lesson_lib.course import svg
from lesson_lib.course.svg import shape
from lesson_lib.matching import IGNORE, NEGATIVE, POSITIVE, Match, match_ssd

Shapes = list[dict]


def matched_shapes(match: Match, anchors: Tensor, boxes: Tensor) -> tuple[str, Shapes]:
    """A sentence with the counts, and what to draw: each object's anchors thin and its own, ignored
    ones dotted, an object without any filled.

    boxes (G, 4) and anchors (A, 4), xyxy px of the picture; match of the two.
    """
    label, owner = match.label, match.gt_index
    shapes = [shape("ignored", anchors[label == IGNORE])]
    for g in range(len(boxes)):
        mine = anchors[owner == g]
        shapes.append(shape("matched", mine, owner=g) if len(mine) else shape("shared", boxes[g]))
    counts = [int((owner == g).sum()) for g in range(len(boxes))]
    words = (
        f"Anchors of each: {', '.join(map(str, counts))}. {int((label == POSITIVE).sum())} "
        f"positive, {int((label == IGNORE).sum())} ignored, "
        f"{int((label == NEGATIVE).sum()):,} background."
    )
    lost = counts.count(0)
    return words + (f" {lost} without any!" if lost else ""), shapes


def six_grids(
    image: Tensor, spec: DefaultBoxes, match: Match, anchors: Tensor, across: int = 3
) -> str:
    """The picture once for each map: its positions as dots, its positive anchors as boxes ->
    SVG.
    """
    panels = []
    for (rows, columns), level, k in zip(spec.grids_for(), level_slices(spec), spec.per_position):
        here, label = anchors[level], match.label[level]
        positive = here[label == POSITIVE]
        words = f"{rows} x {columns}: {len(positive)} of {len(here):,}"
        dots = shape("negative", here[::k], dots=True)
        panels.append(
            svg.picture(image, [dots, shape("matched", positive)], words, caption=words, width=230)
        )
    lines = [svg.beside(*panels[i : i + across]) for i in range(0, len(panels), across)]
    return svg.below(*lines)


def match_index(objects: Tensor, anchors: Tensor, threshold: float) -> Tensor:
    """`match_ssd` in the form of lesson 3's exercise: (A,) the object of each anchor, -1 for
    none.
    """
    return match_ssd(objects, anchors, threshold).gt_index
