"""What lessons 0 to 2 draw over a smear, as `svg.shape`s and whole drawings.

Boxes are xyxy in pixels of the picture, unless the name says otherwise.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lesson_lib.anchors import DefaultBoxes, as_pair, default_boxes, level_slices
from lesson_lib.boxes import xyxy_to_cxcywh
from lesson_lib.colours import BLACK, BLUE, BROWN, COLOURS, SKY, VERMILION
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
    """The smallest box that holds both of two boxes (2, 4), dotted, and what neither of them fills,
    shaded: GIoU's penalty. The boxes themselves stay empty.
    """
    hull = torch.cat((boxes[:, :2].amin(0), boxes[:, 2:].amax(0)))
    xs, ys = (boxes[:, [side, side + 2]].flatten().sort().values.tolist() for side in (0, 1))
    tiles = torch.tensor(
        [[x1, y1, x2, y2] for x1, x2 in pairwise(xs) for y1, y2 in pairwise(ys)]
    )  # (9, 4): each lies wholly in a box, or outside it
    centres = (tiles[:, None, :2] + tiles[:, None, 2:]) / 2
    inside = ((centres > boxes[:, :2]) & (centres < boxes[:, 2:])).all(dim=2).any(dim=1)
    wide = (tiles[:, 2:] > tiles[:, :2]).all(dim=1)
    gap = svg.shape("shared", tiles[wide & ~inside], colour=svg.LOOKS["hull"].colour)
    gap |= {"opacity": 0.35}  # what lies under it stays in sight
    return [gap, svg.shape("hull", hull)]


#: t_x and t_y in strokes, from the left end of their line on: what a drag redraws has paths only.
T_X = "m1.5 -7v5.5q0 1.5 1.7 1.5m-3.2 -4.8h3.4m1.2 3.3l3.2 4m0 -4l-3.2 4"
T_Y = "m1.5 -7v5.5q0 1.5 1.7 1.5m-3.2 -4.8h3.4m1.2 3.3l1.7 2.4m1.9 -2.4l-3.1 4.8"


def offset_shapes(anchor: Tensor, box: Tensor) -> list[dict]:
    """An arrow from the centre of an anchor (4,) to the centre of a box (4,), its two legs, and
    their names at the sides that are turned away from the arrow.
    """
    (x, y, *_), (a, b, *_) = xyxy_to_cxcywh(torch.stack((anchor, box))).tolist()
    first, second = (svg.number(value) for value in (a, b))
    legs = svg.stroke(f"M{svg.number(x)} {svg.number(y)}H{first}V{second}", BLACK, 1.6)
    names = (
        ((x + 3 * a) / 4 - 4, y - 6 if b > y else y + 12, T_X),
        (a - 13 if a < x else a + 5, (y + b) / 2 + 2, T_Y),
    )
    return [
        svg.dot(x, y, BLACK),
        svg.arrow((x, y), (a, b), BLACK),
        legs | {"dash": "4 3"},
        *(
            svg.stroke(f"M{svg.number(left)} {svg.number(line)}{name}", BLACK, 1.2)
            for left, line, name in names
        ),
    ]


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


#: SSD300's maps: (name, middle of the first position's receptive field, px to the next one). From
#: kernel, stride and padding of each layer: a convolution k/s/p moves the first middle by
#: (k - 1 - 2p) / 2 steps and multiplies the step by s; pool3 rounds 75 up to 38.
SSD300_PATCHES = (
    ("conv4_3", 4, 8),
    ("fc7", 8, 16),
    ("conv8_2", 8, 32),
    ("conv9_2", 8, 64),
    ("conv10_2", 72, 64),
    ("conv11_2", 136, 64),
)
#: Shapes of the boxes of a position, in the library's order, and how each is drawn.
SHAPES = (
    ("1", BLACK, "solid"),
    ("1, extra", BLACK, "dotted"),
    ("2", SKY, "solid"),
    ("1/2", SKY, "dashed"),
    ("3", BROWN, "solid"),
    ("1/3", BROWN, "dashed"),
)


def centres(spec: DefaultBoxes, level: int) -> list[float]:
    """x of the centres of a map's columns, px; for square pictures and maps those of its rows."""
    width, columns = as_pair(spec.image_size)[1], as_pair(spec.grids[level])[1]
    step = spec.strides[level] if spec.strides else width / columns
    return [(i + 0.5) * step for i in range(columns)]


def centre_errors(spec: DefaultBoxes) -> list[list[float]]:
    """For each of SSD300's maps, where its boxes' centres lie against the middles of the receptive
    fields: one number for each column, px, positive to the right.
    """
    return [
        [x - (first + step * i) for i, x in enumerate(centres(spec, level))]
        for level, (_, first, step) in enumerate(SSD300_PATCHES)
    ]


def position_boxes(spec: DefaultBoxes, level: int, row: int, column: int) -> Tensor:
    """The k boxes (k, 4) of one position of a map."""
    columns, k = as_pair(spec.grids[level])[1], spec.per_position[level]
    start = level_slices(spec)[level].start + (row * columns + column) * k
    return default_boxes(spec)[start : start + k]


def lattice_shape(xs: Sequence[float], ys: Sequence[float]) -> dict:
    """A small dot at each of the places x, y, px: a third of the bytes of `svg.shape`'s dots."""
    dots = "".join(f"M{svg.number(x)} {svg.number(y)}h.01" for y in ys for x in xs)
    return svg.stroke(dots, COLOURS["anchor"], 2) | {"casing": "", "round": True}


def position_shapes(
    spec: DefaultBoxes,
    level: int,
    boxes: Tensor | Sequence[Tensor] = (),
    origin: tuple[float, float] = (0, 0),
    dot: float = 2.5,
) -> list[dict]:
    """Dots at all positions of a map, and over them the boxes of one position (k, 4), thin and
    coloured by ratio, with a dot of radius `dot` at their centre; all measured from `origin`, px.
    """
    middles, (left, top) = centres(spec, level), origin
    drawn = [lattice_shape([x - left for x in middles], [y - top for y in middles])]
    for box, (_, colour, dash) in zip(boxes, SHAPES):
        look = {"width": 1.5, "dash": svg.DASHES[dash]}
        moved = box - torch.tensor([left, top, left, top])
        drawn.append(svg.shape("anchor", moved, colour=colour) | look)
    if len(boxes):
        x, y = xyxy_to_cxcywh(boxes[0]).tolist()[:2]
        drawn.append(svg.dot(x - left, y - top, BLACK, dot))
    return drawn


def grids_drawing(image: Tensor, spec: DefaultBoxes, at: tuple[float, float]) -> str:
    """All maps of a square specification over one picture, each with the boxes of the position that
    is nearest to `at` (x, y), px. Small boxes are magnified, and where boxes leave the picture it
    has a margin. Returns SVG, three maps in a row.
    """
    panels = []
    for level, side in enumerate(as_pair(grid)[0] for grid in spec.grids):
        column, row = (nearest(centres(spec, level), value) for value in at)
        boxes = position_boxes(spec, level, row, column)
        seen, (left, top) = _around(image, boxes)
        words = f"{side} × {side} positions, {spec.per_position[level]} boxes each"
        words += f" (square {(boxes[0, 2] - boxes[0, 0]).item():.0f} px"
        if seen.shape[-1] < image.shape[-1]:
            words += f", magnified {image.shape[-1] / seen.shape[-1]:g} ×"
        words += ")"
        dot = 2.5 * seen.shape[-1] / image.shape[-1]
        shapes = position_shapes(spec, level, boxes, (left, top), dot)
        panels.append(svg.picture(seen, shapes, alt=words, caption=words, width=PANEL))
    rows = [svg.beside(*panels[i : i + 3]) for i in range(0, len(panels), 3)]
    return svg.below(*rows, shape_key())


def _around(image: Tensor, boxes: Tensor, window: int = 120) -> tuple[Tensor, tuple[int, int]]:
    """The part of a picture that shows its boxes (k, 4) well, and where its upper left corner lies:
    `window` px of it where they fit in there, else all of it, with a margin for what sticks out.
    """
    side = image.shape[-1]
    if (boxes[:, 2:] - boxes[:, :2]).max() < 0.9 * window:
        middle = xyxy_to_cxcywh(boxes[0])[:2] - window / 2
        left, top = (int(value) for value in middle.clamp(0, side - window).tolist())
        return image[:, top : top + window, left : left + window], (left, top)
    out = max(0, -boxes.min().item(), boxes.max().item() - side)
    margin = math.ceil(out) + 4 if out else 0
    return torch.nn.functional.pad(image, (margin,) * 4, value=235), (-margin, -margin)


def nearest(values: Sequence[float], value: float) -> int:
    """The index of the value that is nearest."""
    return min(range(len(values)), key=lambda i: abs(values[i] - value))


def shape_key(shown: Sequence[str] = tuple(name for name, *_ in SHAPES)) -> str:
    """The looks of SHAPES, or of some of them, in one line."""
    body, looks = svg.text(8, 16, "ratio", 13), [look for look in SHAPES if look[0] in shown]
    for i, (name, colour, dash) in enumerate(looks):
        ink = "currentColor" if colour == BLACK else colour
        line = f'stroke="{ink}" stroke-width="2" stroke-dasharray="{svg.DASHES[dash]}"'
        body += f'<path d="M{54 + 95 * i} 11h28" {line}/>' + svg.text(88 + 95 * i, 16, name, 13)
    return svg.document(body, 620, 24, "Ratios: " + ", ".join(name for name, *_ in looks))
