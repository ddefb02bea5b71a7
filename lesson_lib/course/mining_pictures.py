"""Pictures of lesson 5: whom mining keeps, the arrows of order and rank, who carries the gradient,
and what several runs found.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lesson_lib.boxes import pairwise_iou
from lesson_lib.colours import BLACK, BLUE, COLOURS, YELLOW
from lesson_lib.course import svg
from lesson_lib.course.svg import number, shape, text
from lesson_lib.data.samples import Sample

PANEL = 375  # px: two beside each other fill a page
#: A mark that is filled, and to be seen on a dark nucleus too.
DOT = {"stroke": "#ffffff", "fill": BLACK, "opacity": 1, "width": 1}
#: A box that is pointed out among dots and dashed frames.
OUTLINE = {"width": 2.5, "casing": BLACK}
#: Where the numbers of such boxes stand, one after the other: (at its left, at its top).
CORNERS = ((True, True), (False, False), (False, True), (True, False))


def kept_picture(
    sample: Sample,
    anchors: Tensor,
    positive: Tensor,
    kept: Tensor,
    title: str,
    certainty: Sequence[float] = (),
    verb: str = "kept",
) -> str:
    """The smear with its objects, the centres of its positive anchors (green frames) and of the
    chosen negatives (black dots); the first rows of `kept` as boxes, yellow, each with its number.

    anchors (A, 4) xyxy px; positive (A,) bool; kept (N,) indices of negatives, hardest first;
    certainty: p(background) of those that are drawn as boxes; verb: what they do or suffer, as the
    caption says it.
    """
    negatives, boxes = int((~positive).sum()), anchors[kept[: len(certainty)]]
    near = pairwise_iou(anchors[kept], sample.boxes).amax(dim=1) if len(kept) else torch.zeros(1)
    dots = _marks("negative", anchors[kept], 4) | DOT
    words = (
        f"{title}: {len(kept)} of {negatives:,} negatives {verb} ({dots['d'].count('M')} squares); "
        f"half of them reach IoU {near.median().item():.2f} or more with an annotated cell."
    )
    if len(boxes):
        told = ", ".join(f"{p:.2f}" for p in certainty[: len(boxes)])
        words += f" p(background) of the numbered boxes: {told}."
    shapes = [
        shape("truth", sample.boxes),
        dots,
        _marks("matched", anchors[positive], 7),
        *(shape("negative", box, colour=YELLOW) | OUTLINE for box in boxes),
    ]
    return svg.picture(
        sample.image, shapes, words, _numbers(boxes, sample.image.shape[-1]), words, PANEL
    )


def _numbers(boxes: Tensor, side: int) -> list[tuple[float, float, str]]:
    """A number in another corner of each box, so that boxes on one another keep theirs apart:
    (N, 4), N up to 4, in a picture of `side` px -> [(x, y, number), ...].
    """
    labels = []
    for n, ((x1, y1, x2, y2), (left, up)) in enumerate(zip(boxes.tolist(), CORNERS), start=1):
        x = x1 + 2 if left else x2 - 9
        y = y1 + 11 if up else y2 - 3
        labels.append((min(max(x, 2), side - 10), min(max(y, 11), side - 3), str(n)))
    return labels


def _marks(kind: str, boxes: Tensor, side: int) -> dict:
    """A small square on the centre of each box: (N, 4) xyxy, `side` px of the picture.

    Whole pixels, and sides that are alike: so the frames of a slider pack well.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    corners = (centres - side / 2).floor().int().unique(dim=0).tolist()
    square = f"h{side}v{side}h-{side}z"
    return shape(kind, boxes) | {"d": "".join(f"M{x} {y}{square}" for x, y in corners)}


def order_and_rank(losses: Sequence[float], quota: int) -> str:
    """The same arrows twice: from each place to the anchor that stands there (order), and from each
    anchor to its place (rank). Anchors with a rank below `quota` are framed.
    """
    order = sorted(range(len(losses)), key=lambda anchor: (-losses[anchor], anchor))
    rank = [order.index(anchor) for anchor in range(len(losses))]
    up = _arrows(losses, rank, quota, True, f"order = {order}", "who stands in each place?")
    down = _arrows(losses, rank, quota, False, f"rank = {rank}", "in which place is each anchor?")
    return svg.beside(up, down)


def _arrows(
    losses: Sequence[float], rank: Sequence[int], quota: int, up: bool, result: str, asks: str
) -> str:
    """One panel of `order_and_rank`."""
    step, top, bottom = PANEL / len(losses), 66, 168
    body = text(8, 18, result, 15, extra=' font-weight="600"') + text(8, 38, asks, 13)
    for anchor, (loss, place) in enumerate(zip(losses, rank)):
        x, to = (anchor + 0.5) * step, (place + 0.5) * step
        body += _tile(x, top, f"anchor {anchor}", f"loss {loss:g}", place < quota)
        body += _tile(to, bottom, f"place {place}", "", place < quota)
        ends = [(x, top + 40), (to, bottom - 2)]
        start, end = reversed(ends) if up else ends
        body += _arrow(start, end, "currentColor" if place < quota else COLOURS["negative"])
    return svg.document(body, PANEL, 202, f"{result}: {asks}")


def _tile(x: float, y: float, first: str, second: str, kept: bool) -> str:
    """A small frame with one or two words, thick where it is kept."""
    height = 38 if second else 22
    colour, width = ("currentColor", 3) if kept else (COLOURS["negative"], 1)
    look = f'stroke="{colour}" stroke-width="{width}"'
    frame = f'<rect x="{number(x - 36)}" y="{number(y)}" width="72" height="{height}"'
    body = f'{frame} fill="none" rx="4" {look}/>' + text(x, y + 16, first, 13, "middle")
    return body + (text(x, y + 32, second, 13, "middle") if second else "")


def _arrow(start: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    """A line with a head at its end."""
    (x, y), (a, b) = start, end
    length = math.hypot(a - x, b - y)
    along, across = ((a - x) / length, (b - y) / length), (-(b - y) / length, (a - x) / length)
    head = [(a - 9 * along[0] + s * across[0], b - 9 * along[1] + s * across[1]) for s in (-4, 4)]
    wings = "".join(f"M{number(a)} {number(b)}L{number(u)} {number(v)}" for u, v in head)
    path = f"M{number(x)} {number(y)}L{number(a)} {number(b)}{wings}"
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>'


def carriers(pull: Tensor, share: float) -> Tensor:
    """The fewest anchors that carry `share` of the whole pull, strongest first: (A,) -> (N,)
    indices.
    """
    order = pull.argsort(descending=True, stable=True)
    carried = pull[order].double().cumsum(0)
    line = share * carried[-1] * (1 - 1e-12)  # a sum that should equal it may round below
    return order[: int((carried < line).sum()) + 1]


def implied_ratio(pull: Tensor, positive: Tensor, negative: Tensor, share: float) -> float:
    """The fewest negatives that carry at least `share` of the negatives' whole pull, for each
    positive: pull (A,), positive and negative (A,) bool.
    """
    return len(carriers(pull[negative], share)) / int(positive.sum())


def lanes(found: dict[str, dict[int, Tensor]], title: str) -> str:
    """What several runs found, at several steps: {name: {step: shares (S,) of S runs}}.

    A panel for each step, a lane for each name, a dot for each run, an upright line at their mean;
    the first run's dots are the highest of a lane, so that equal shares do not hide each other. The
    axis ends at the first quarter that no share exceeds, at a half at least.
    """
    most = max(share for runs in found.values() for shares in runs.values() for share in shares)
    quarters = max(2, math.ceil(4 * float(most) - 1e-6))
    steps = list(next(iter(found.values())))
    wide, left, lane, top = 2 * PANEL + 12, 168, 40, 66
    panel = (wide - left - 10) / len(steps)
    body = text(8, 19, title, 15, extra=' font-weight="600"')
    for row, name in enumerate(found):
        body += text(8, top + lane * (row + 0.5) + 5, name, 13)
    bottom = top + lane * len(found)
    for column, step in enumerate(steps):
        x, across = left + column * panel, panel - 44
        body += text(x, top - 12, f"step {step}", 13)
        for quarter in range(quarters + 1):
            at = x + quarter / quarters * across
            line = f'd="M{number(at)} {top}V{bottom}" stroke="currentColor"'
            body += f'<path {line} stroke-opacity=".2"/>'
            body += text(at, bottom + 17, f"{quarter / 4:.0%}", 12, "middle")
        for row, runs in enumerate(found.values()):
            places = (x + 4 / quarters * across * runs[step]).tolist()
            body += _lane(places, top + lane * (row + 0.5))
    told = "; ".join(
        f"{name} " + ", ".join(f"{runs[step].mean():.0%} at {step}" for step in steps)
        for name, runs in found.items()
    )
    return svg.document(body, wide, bottom + 26, f"{title}: {told}.")


def _lane(places: Sequence[float], y: float) -> str:
    """A dot at each place, each at a height of its own, and an upright line at their mean."""
    mean, first = number(sum(places) / len(places)), y - 5 * (len(places) - 1)
    body = f'<path d="M{mean} {number(y - 16)}v32" stroke="currentColor" stroke-width="2.5"/>'
    look = f'r="4.5" fill="{COLOURS["Platelets"]}" stroke="currentColor"'
    return body + "".join(
        f'<circle cx="{number(place)}" cy="{number(first + 10 * run)}" {look}/>'
        for run, place in enumerate(places)
    )


def pull_chart(pulls: dict[str, Tensor], title: str) -> str:
    """Share of the negatives' pull over their number, strongest first: {name: (A,)} in the order
    in which the curves are drawn, each as its kin in lesson 4's race.
    """
    total = max(len(pull) for pull in pulls.values())
    chart = svg.Chart(
        title,
        x=(1, total),
        y=(0, 1.05),
        x_log=True,
        width=2 * PANEL + 12,
        height=280,
        x_label="negatives of this picture, the strongest first",
        y_label="share of the negatives' pull",
        key=True,
    )
    ink = "currentColor"
    looks = (("solid", ink, 2.0), ("dashed", ink, 2.0), ("solid", BLUE, 3.5))
    for (name, pull), (dash, colour, wide) in zip(pulls.items(), looks):
        falling = pull.sort(descending=True).values
        places = torch.logspace(0, math.log10(total), 90).round().long().unique()
        carried = falling.cumsum(0)[places - 1] / falling.sum().clamp(min=1e-12)
        chart.curve(places.tolist(), carried.tolist(), name, dash, colour, wide)
    return chart.svg()
