"""What lessons 0 to 2 draw over a smear, as `svg.shape`s and whole drawings.

Boxes are xyxy in pixels of the picture, unless the name says otherwise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lesson_lib.boxes import xyxy_to_cxcywh
from lesson_lib.colours import BLUE, VERMILION
from lesson_lib.course import svg

PANEL = 245  # width of one of three drawings side by side, px


def overlap_shapes(boxes: Tensor) -> list[dict]:
    """Two boxes (2, 4): what they cover together, shaded, and over it what they share."""
    (a, b), union = boxes, svg.shape("union", boxes)
    shared = torch.cat((torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])))
    if (shared[2:] <= shared[:2]).any():
        return [union]
    return [union, svg.shape("shared", shared)]


def hull_shapes(boxes: Tensor) -> list[dict]:
    """`overlap_shapes`, and dotted around them the smallest box that holds both."""
    hull = torch.cat((boxes[:, :2].amin(0), boxes[:, 2:].amax(0)))
    return [*overlap_shapes(boxes), svg.shape("hull", hull)]


def offset_shapes(anchor: Tensor, box: Tensor) -> list[dict]:
    """An arrow from the centre of an anchor (4,) to the centre of a box (4,)."""
    (x, y, *_), (a, b, *_) = xyxy_to_cxcywh(torch.stack((anchor, box))).tolist()
    return [svg.dot(x, y, VERMILION), svg.arrow((x, y), (a, b), VERMILION)]


def formats_drawing(image: Tensor, box: Tensor, margin: int = 24) -> str:
    """One cell three times: the four numbers of each format, drawn where they are measured.

    image (3, H, W) uint8; box (4,) with at least `margin` px of picture around it. Returns SVG.
    """
    left, top, right, bottom = (int(v) for v in box.tolist())
    crop = image[:, top - margin : bottom + margin, left - margin : right + margin]
    w, h = right - left, bottom - top
    x1, y1, x2, y2 = margin, margin, margin + w, margin + h
    cx, cy = margin + w / 2, margin + h / 2
    width, height = (
        svg.arrow((x1, y2 + 9), (x2, y2 + 9), BLUE),
        svg.arrow((x2 + 9, y1), (x2 + 9, y2), BLUE),
    )
    sides = [(cx - 3, y2 + 20, "w"), (x2 + 12, cy, "h")]
    corner = svg.dot(x1, y1, VERMILION)
    panels = (
        ("xyxy", (left, top, right, bottom), [corner, svg.dot(x2, y2, VERMILION)],
         [(x1 - 8, y1 - 6, "x₁, y₁"), (x2 - 20, y2 + 14, "x₂, y₂")]),
        ("xywh", (left, top, w, h), [corner, width, height], [(x1 - 8, y1 - 6, "x₁, y₁"), *sides]),
        ("cxcywh", (left + w / 2, top + h / 2, w, h),
         [svg.dot(cx, cy, VERMILION), width, height], [(cx - 12, cy - 8, "cx, cy"), *sides]),
    )  # fmt: skip
    frame = svg.shape("truth", torch.tensor([x1, y1, x2, y2]))
    return svg.beside(
        *(
            svg.picture(
                crop,
                [frame, *marks],
                alt=f"{name}: {_numbers(values)}.",
                labels=labels,
                caption=f"{name}: {_numbers(values)}",
                width=PANEL,
            )
            for name, values, marks, labels in panels
        )
    )


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(svg.number(value) for value in values)
