"""What lesson 2 draws and works out about default boxes, map by map.

Boxes are xyxy in pixels of the picture, unless the name says otherwise. Drawings are SVG.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lesson_lib.anchors import RETINANET, DefaultBoxes, as_pair, default_boxes, level_slices
from lesson_lib.boxes import box_area, cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from lesson_lib.colours import BLACK, CLASS_COLOURS, COLOURS, SKY
from lesson_lib.course import svg
from lesson_lib.course.overlays import (
    PANEL,
    SHAPES,
    SSD300_PATCHES,
    centres,
    lattice_shape,
    nearest,
    overlap_shapes,
    position_shapes,
    shape_key,
)
from lesson_lib.data.samples import Sample

SMALL = 118  # width of one of six drawings in a row, px


def boxes_of_map(
    grid: tuple[int, int],
    picture: tuple[int, int],
    scale: float,
    next_scale: float,
    ratios: Sequence[float],
) -> Tensor:
    """The default boxes of one map, (rows * columns * k, 4), in the order row, column, box.

    grid (rows, columns); picture (height, width) px; scales are shares of the picture, ratios those
    beside 1 and above it. Centres share the picture evenly (SSD, arXiv:1512.02325, section 2.2).
    """
    return default_boxes(DefaultBoxes(picture, (grid,), (scale, next_scale), (tuple(ratios),)))


def best_overlaps(boxes: Tensor, spec: DefaultBoxes) -> Tensor:
    """The highest IoU of each box (G, 4) with any default box of a square specification, (G,).

    Of the default boxes of one shape the one nearest to the object shares most with it, so that a
    map's k boxes at the nearest position are enough: 32 comparisons instead of SSD300's 8,732.
    """
    found, middles, every = [], xyxy_to_cxcywh(boxes)[:, :2], default_boxes(spec)
    for level, part in enumerate(level_slices(spec)):
        columns, k = as_pair(spec.grids[level])[1], spec.per_position[level]
        places = torch.tensor(centres(spec, level))
        column, row = (middles[:, :, None] - places).abs().argmin(-1).T
        rows = ((row * columns + column) * k)[:, None] + torch.arange(k)
        found.append(_paired_iou(boxes[:, None], every[part][rows]).amax(1))
    return torch.stack(found).amax(0)


def _paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes that stand at the same place of (..., 4)."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return shared / (areas - shared)


def squares_drawing(side: float, cells: Sequence[float], bar: float = 0.5) -> str:
    """A square box and, around the same centre, square cells of several sizes, px. The box is green
    where the two overlap by `bar` or more.
    """
    ground = math.ceil(max(side, *cells) * 1.1)
    panels = []
    for cell in cells:
        middle = torch.tensor([[ground / 2, ground / 2]])
        pair = _squares(middle.repeat(2, 1), (side, cell))
        overlap = pairwise_iou(*pair[:, None]).item()
        kind = "matched" if overlap >= bar else "anchor"
        box, truth = svg.shape(kind, pair[0]), svg.shape("truth", pair[1])
        if cell == side:  # else one hides the other
            box, truth = box | {"width": 4, "casing": ""}, truth | {"casing": ""}
        shapes = [overlap_shapes(pair)[-1], box, truth]
        words = f"{cell:g} px: IoU {overlap:.2f}" + ", covered" * (overlap >= bar)
        panels.append(_on_ground(ground, shapes, words, SMALL))
    return svg.beside(*panels)


def slip_drawing(spec: DefaultBoxes) -> str:
    """For each map of a square specification a square object of the map's own size, as far from the
    nearest position as it can be inside the picture, and what it shares with the box there, which
    is green where that is 0.5 or more.
    """
    panels = []
    side = as_pair(spec.image_size)[0]
    for level, scale in enumerate(spec.scales[: len(spec.grids)]):
        columns, size = centres(spec, level), scale * side
        middle = columns[(len(columns) - 1) // 2]
        step = columns[1] - columns[0] if len(columns) > 1 else side
        at = min(max(middle - step / 2, size / 2), side - size / 2)
        at_box = columns[nearest(columns, at + 1e-6)]
        pair = _squares(torch.tensor([[at_box, at_box], [at, at]]), (size, size))
        overlap = pairwise_iou(*pair[:, None]).item()
        words = f"{size:g} px, {abs(at_box - at):g} px off: IoU {overlap:.2f}"
        shapes = [
            overlap_shapes(pair)[-1],
            svg.shape("matched" if overlap >= 0.5 else "anchor", pair[0]) | {"width": 2},
            svg.shape("truth", pair[1]),
            *position_shapes(spec, level)[:1],
        ]
        panels.append(_on_ground(side, shapes, words, PANEL))
    return svg.below(*(svg.beside(*panels[i : i + 3]) for i in range(0, len(panels), 3)))


def scales_drawing(
    sets: dict[str, Sequence[float]], sizes: Tensor, labels: Tensor, kinds: Sequence[str]
) -> str:
    """The sides of the squares of several specifications, px, a row for each, the last of them as
    an open mark; under them, for each label, a histogram of the sizes (G,) of objects, px, as high
    as the others whatever their number.
    """
    left, right, end, row_height, width = 130, 752, 336, 44, 4
    scale = (right - left) / end
    body = ""
    for row, (name, sides) in enumerate(sets.items()):
        y = 28 + row * row_height
        body += svg.text(8, y + 5, name, 13)
        body += f'<path d="M{left} {y}H{right}" stroke="currentColor" stroke-opacity=".25"/>'
        for side, fill in zip(sides, ["currentColor"] * (len(sides) - 1) + ["#ffffff"]):
            x = svg.number(left + side * scale)
            body += f'<circle cx="{x}" cy="{y}" r="4.5" fill="{fill}" stroke="currentColor"/>'
            body += svg.text(left + side * scale, y - 9, f"{side:.4g}", 12, "middle")
    base = 28 + len(sets) * row_height + 90
    for label, (kind, colour) in enumerate(zip(kinds, CLASS_COLOURS.values())):
        y = base - 90 + 28 * label
        count = torch.bincount((sizes[labels == label] // width).long()).tolist()
        bars = "".join(
            f"M{svg.number(left + at * width * scale)} {y + 24}v{svg.number(-22 * n / max(count))}"
            f"h{svg.number(width * scale)}V{y + 24}Z"
            for at, n in enumerate(count)
            if n
        )
        body += svg.text(8, y + 22, kind, 13, colour=colour)
        body += f'<path d="{bars}" fill="{colour}"/>'
    body += f'<path d="M{left} {base}H{right}" stroke="currentColor"/>'
    for at in range(0, end, 50):
        body += svg.text(left + at * scale, base + 17, str(at), 12, "middle")
    body += svg.text((left + right) / 2, base + 38, "side (px of a 300 px picture)", 13, "middle")
    words = f"Sides of the squares of {', '.join(sets)}, over the sizes of the cells."
    return svg.document(body, right + 16, base + 46, words)


def shapes_drawing(boxes: Tensor) -> str:
    """The boxes of one position (k, 4), each for itself, with its area."""
    ground = math.ceil((boxes[:, 2:] - boxes[:, :2]).max().item() * 1.08)
    panels = []
    for box, area, (name, colour, dash) in zip(boxes, box_area(boxes).tolist(), SHAPES):
        shape = svg.shape("anchor", _centred(box, ground), colour=colour)
        shape |= {"width": 2, "dash": svg.DASHES[dash]}
        words = f"{area:,.0f} px²"
        panels.append(_on_ground(ground, [shape], words, SMALL, [(4, 12, name)]))
    return svg.beside(*panels)


def head_drawing(k: int, channels: int) -> str:
    """What a head puts out at one position: for each of k boxes four offsets and `channels` scores,
    a square for each number. The first score is the background's.
    """
    side, left, top = 20, 66, 40
    body = svg.text(left, top - 12, "4 offsets", 13)
    body += svg.text(left + 4.6 * side, top - 12, f"{channels} scores, background first", 13)
    for box in range(k):
        y = top + box * (side + 8)
        body += svg.text(8, y + 15, f"box {box + 1}", 13)
        for number in range(4 + channels):
            x = left + number * side + (0.6 * side if number >= 4 else 0)
            ink = SKY if number < 4 else COLOURS["negative"]
            fill = 0.15 if number == 4 else 0.55
            body += (
                f'<rect x="{svg.number(x)}" y="{y}" width="{side - 3}" height="{side - 3}" '
                f'fill="{ink}" fill-opacity="{fill}" stroke="{ink}"/>'
            )
    words = f"{k} boxes, each with 4 offsets and {channels} scores."
    return svg.document(body, left + (channels + 5) * side, top + k * (side + 8), words)


def corners_drawing(image: Tensor, specs: dict[str, DefaultBoxes], size: int = 60) -> str:
    """Two corners of a picture, magnified: the middles of conv4_3's receptive fields (rings), and
    where each named specification puts the centres of that map (dots). The last middle lies on the
    picture's edge, so that a margin is seen there.
    """
    _, first, step = SSD300_PATCHES[0]
    panels, margin = [], 4
    image = torch.nn.functional.pad(image, (0, margin, 0, margin), value=235)
    for rule, spec in specs.items():
        laid = centres(spec, 0)
        middles = [first + step * i for i in range(len(laid))]
        for corner, at in (("upper left", 0), ("lower right", image.shape[-1] - size)):
            crop = image[:, at : at + size, at : at + size]
            seen = [i for i in range(len(laid)) if at < middles[i] < at + size]
            rings = [
                svg.dot(middles[i] - at, middles[j] - at, BLACK, 1.6) for i in seen for j in seen
            ]
            dots = [svg.dot(laid[i] - at, laid[j] - at, BLACK, 0.7) for i in seen for j in seen]
            off = max(abs(laid[i] - middles[i]) for i in seen)
            words = f"{rule}, {corner}: dots up to {off:.2f} px off"
            shapes = [_as_one(rings) | {"fill": "none"}, _as_one(dots)]
            panels.append(svg.picture(crop, shapes, alt=words, caption=words, width=182))
    key = "Rings: middles of the receptive fields on conv4_3. Dots: centres of the boxes."
    return svg.below(svg.beside(*panels), svg.document(svg.text(8, 16, key, 13), 620, 24, key))


def pyramid_drawing(image: Tensor, at: tuple[float, float]) -> str:
    """RetinaNet's P4 over a picture, with the nine anchors of the position that is nearest to `at`
    (x, y), px; beside it the squares of P3 and of P5.
    """
    large = _pyramid_panel(image, at, 1, range(9), "nine anchors, three sizes in three shapes", 500)
    small = [
        _pyramid_panel(image, at, level, range(3, 6), words, 220)
        for level, words in ((0, "squares half as large"), (2, "squares twice as large"))
    ]
    return svg.below(svg.beside(large, svg.below(*small)), shape_key(("1", "2", "1/2")))


def _pyramid_panel(
    image: Tensor,
    at: tuple[float, float],
    level: int,
    chosen: Sequence[int],
    words: str,
    width: int,
) -> str:
    """A level of RetinaNet's pyramid with the chosen ones of the nine anchors at one position,
    their squares labelled by their sides, px.
    """
    looks = {name: (colour, dash) for name, colour, dash in SHAPES}
    size = (image.shape[1], image.shape[2])
    part, grid = level_slices(RETINANET.counts(size))[level], RETINANET.grids_for(size)[level]
    anchors, stride = RETINANET.make(size), RETINANET.strides[level]
    column, row = (int(value // stride) for value in at)
    start = part.start + (row * grid[1] + column) * RETINANET.per_position[level]
    ys, xs = ([(i + 0.5) * stride for i in range(places)] for places in grid)
    shapes, labels = [lattice_shape(xs, ys)], []
    for number in chosen:
        box, name = anchors[start + number], ("1/2", "1", "2")[number // 3]
        look = {"width": 1.5, "dash": svg.DASHES[looks[name][1]]}
        shapes.append(svg.shape("anchor", box, colour=looks[name][0]) | look)
        if name == "1" and level:  # P3's would hide them
            x1, y1, x2, _ = box.tolist()
            labels.append((x1 + 2, y1 + 13 * size[1] / width, f"{x2 - x1:.0f}"))
    shapes.append(svg.dot(xs[column], ys[row], BLACK, 2.5))
    words = f"P{level + 3}, every {stride} px: {words}"
    return svg.picture(image, shapes, alt=words, labels=labels, caption=words, width=width)


def position_drawing(
    sample: Sample,
    spec: DefaultBoxes,
    level: int,
    share: float,
    make: Callable[..., Tensor] = boxes_of_map,
) -> str:
    """One position's boxes over a smear and its cells; `share` 0 to 1 goes along the diagonal.

    make    lays the boxes of the map, as `boxes_of_map` does
    """
    grid, picture = as_pair(spec.grids[level]), as_pair(spec.image_size)
    scales, ratios = spec.scales[level : level + 2], spec.aspect_ratios[level]
    rows, columns = grid
    place, k = min(int(share * columns), columns - 1), spec.per_position[level]
    start = (min(place, rows - 1) * columns + place) * k
    boxes = make(grid, picture, *scales, ratios)[start : start + k]
    best = pairwise_iou(sample.boxes, boxes).max().item()
    words = (
        f"{spec.total():,} boxes on {len(spec.grids)} maps. Map {level + 1}, {rows} x {columns} "
        f"positions: {k} boxes; the best has IoU {best:.2f} with a cell."
    )
    shapes = [svg.shape("truth", sample.boxes), *position_shapes(spec, level, boxes)]
    alt = "The smear with the boxes of one position of a map."
    drawing = svg.picture(sample.image, shapes, alt=alt, caption=words, width=560)
    return svg.below(drawing, shape_key())


def _squares(middles: Tensor, sides: Sequence[float]) -> Tensor:
    """Squares around middles (N, 2) -> (N, 4)."""
    return cxcywh_to_xyxy(torch.cat((middles, torch.tensor([[s, s] for s in sides])), 1))


def _centred(box: Tensor, ground: float) -> Tensor:
    """The box (4,), moved to the middle of a square ground."""
    return box - (xyxy_to_cxcywh(box)[:2] - ground / 2).repeat(2)


def _as_one(shapes: Sequence[dict]) -> dict:
    """Shapes of one look as one path."""
    return shapes[0] | {"d": "".join(shape["d"] for shape in shapes)}


def _on_ground(
    side: int,
    shapes: Sequence[dict],
    words: str,
    width: int,
    labels: Sequence[tuple[float, float, str]] = (),
) -> str:
    """Shapes on a plain light square of `side` px, `width` px wide, with a caption."""
    ground = torch.full((3, side, side), 240, dtype=torch.uint8)
    return svg.picture(ground, shapes, alt=words, labels=labels, caption=words, width=width)
