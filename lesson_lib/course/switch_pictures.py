"""Pictures of lesson 14: two boxes and their losses, and what each switch brought."""

from collections.abc import Sequence
from typing import Any

import torch

from lesson_lib.boxes import pairwise_giou, pairwise_iou
from lesson_lib.colours import COLOURS, CURVES
from lesson_lib.course import svg
from lesson_lib.course.paired import Difference
from lesson_lib.course.switches import BASELINE, SEEDS, SWITCHES, gain

_DOTS = 'stroke-dasharray="2 3"'
SIDE, FARTHEST = 40, 120  # of both boxes, and of the shift, px


def losses_at(shift: float) -> tuple[float, float]:
    """1 - IoU and 1 - GIoU of two boxes of SIDE px, one `shift` px to the right of the other."""
    one = torch.tensor([[0.0, 0.0, SIDE, SIDE]])
    moved = one + torch.tensor([shift, 0.0, shift, 0.0])
    return 1 - float(pairwise_iou(moved, one)), 1 - float(pairwise_giou(moved, one))


def losses_drawing(shift: int) -> str:
    """Two boxes with their hull, and under them, on the same px, both losses at every shift -> SVG.

    The left edge of the moved box stands over the place that its losses are read at.
    """
    shifts = list(range(0, FARTHEST + 1, 2))
    curves = [losses_at(at) for at in shifts]
    iou, giou = losses_at(shift)
    chart = svg.Chart(
        f"{shift} px to the right: 1 - IoU is {iou:.2f}, 1 - GIoU is {giou:.2f}",
        x=(0, FARTHEST + SIDE),
        y=(0, 1.8),
        x_label="from the left edge of a (px)",
        y_label="loss",
        height=260,
    )
    chart.curve(shifts, [pair[1] for pair in curves], "1 - GIoU")
    chart.curve(shifts, [pair[0] for pair in curves], "1 - IoU", dash="dashed")
    chart.curve([shift, shift], [0, 1.8], dash="dotted", colour="#777777")
    chart.point(shift, giou)
    chart.point(shift, iou, colour=CURVES["one"])
    scale = chart.inner[0] / (FARTHEST + SIDE)
    return svg.below(_boxes(shift, chart.left, scale), chart.svg(), gap=0)


def _boxes(shift: int, left: float, scale: float) -> str:
    """The target a, the box b `shift` px to its right, and their hull c with what is empty in it or
    shared: `scale` times as large, a's left edge at `left` -> SVG.
    """
    side, top, at = SIDE * scale, 26.0, left + shift * scale
    a, b, end = left + side, at + side, top + side
    iou, giou = losses_at(shift)
    body, words, beside = "", "a and b touch: nothing shared, nothing empty", (at + 6, "start")
    if shift > SIDE:
        body = _rectangle(a, top, at, end, f'fill="{COLOURS["ignored"]}" fill-opacity=".35"')
        body += _hatching(a, top, at, end)
        words, beside = f"empty: {giou - iou:.0%} of c", (at - 6, "end")
    elif shift < SIDE:
        body = _rectangle(at, top, a, end, f'fill="{COLOURS["shared"]}" fill-opacity=".45"')
        words = f"shared: {1 - iou:.0%} of a and b together"
    for box, look in (
        ((left - 4, top - 4, b + 4, end + 4), f'{COLOURS["ignored"]}" {_DOTS} stroke-width="2.5'),
        ((at, top, b, end), 'currentColor" stroke-width="4.5'),
        ((at, top, b, end), f'{COLOURS["prediction"]}" stroke-width="2.5'),
        ((left, top, a, end), 'currentColor" stroke-dasharray="7 4" stroke-width="2'),
    ):
        body += _rectangle(*box, f'fill="none" stroke="{look}"')
    body += f'<path d="M{at:.1f} {end + 5:.1f}v35" stroke="#777777" {_DOTS} stroke-width="2"/>'
    body += svg.text(
        left - 4, 14, "a: the target (dashed), b: predicted (solid), c: their hull (dotted)"
    )
    for letter, x, y in (("a", left + 7, top + 19), ("b", b - 17, end - 9), ("c", b + 9, top + 8)):
        body += svg.text(x, y, letter, 16, extra=' font-weight="600"')
    body += svg.text(beside[0], end + 24, words, anchor=beside[1])
    return svg.document(body, 650, end + 40, f"Two boxes of {SIDE} px; {words}.")


def _rectangle(left: float, top: float, right: float, bottom: float, look: str) -> str:
    size = f'width="{right - left:.1f}" height="{bottom - top:.1f}"'
    return f'<rect x="{left:.1f}" y="{top:.1f}" {size} {look}/>'


def _hatching(left: float, top: float, right: float, bottom: float, gap: int = 12) -> str:
    """Lines that rise to the right across a rectangle."""
    lines, high = "", bottom - top
    for start in range(gap - round(high), round(right - left), gap):  # x at the bottom, from left
        low, far = max(0.0, start), min(right - left, start + high)
        if far > low:
            lines += f"M{left + low:.1f} {bottom - (low - start):.1f}"
            lines += f"L{left + far:.1f} {bottom - (far - start):.1f}"
    return f'<path d="{lines}" fill="none" stroke="currentColor" stroke-opacity=".6"/>'


def gains_table(records: Sequence[dict[str, Any]]) -> str:
    """Each recorded switch with its AP of each seed, its gain and the interval -> Markdown."""
    rows = [
        "| switch | at the terminal | AP of seeds 0, 1, 2 | gain | 95 % interval |",
        "|---|---|---|---|---|",
    ]
    for name, switch in SWITCHES.items():
        known = {r["seed"]: 100 * r["AP"] for r in records if r["switch"] == name}
        told = ", ".join(f"{known[seed]:.1f}" for seed in SEEDS if seed in known)
        gained, found = " | ", known_gain(records, name)
        if found:
            low, high = found.mean - found.half, found.mean + found.half
            gained = f"{found.mean:+.1f} | {low:+.1f} to {high:+.1f}"
        settings = " ".join(f"--set {one}" for one in switch.settings.split())
        settings = f"`{settings}`" if settings else ""
        rows.append(f"| {switch.told} | {settings} | {told} | {gained} |")
    return "\n".join(rows)


def gains_drawing(records: Sequence[dict[str, Any]], figure: str = "AP") -> str:
    """Each recorded switch against the baseline: a grey dot for each seed, a stroke for the mean,
    a line for the interval of 95 %, dashed where it holds zero: such rows are not decided and have
    no order -> SVG. Switches of a single seed are left out.
    """
    known = [(name, known_gain(records, name, figure)) for name in SWITCHES]
    rows = [(name, found) for name, found in known if found]
    low = min(0.0, *(found.mean - found.half for _, found in rows)) - 1
    high = max(0.0, *(found.mean + found.half for _, found in rows)) + 1
    left, right, row_height, top = 195, 545, 34, 34

    def place(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    bottom = top + row_height * len(rows)
    body = svg.text(place(0), 16, "the baseline", 13, "middle")
    body += f'<path d="M{place(0):.1f} 22V{bottom}" stroke="currentColor" stroke-dasharray="2 3"/>'
    for at, (name, found) in enumerate(rows):
        y = top + row_height * at + 12
        ends = place(found.mean - found.half), place(found.mean + found.half)
        body += svg.text(8, y + 5, SWITCHES[name].told, 13)
        tie = found.says == "not decided"
        dash = ' stroke-dasharray="3 4"' if tie else ""
        for way, look in (
            (f"M{ends[0]:.1f} {y}H{ends[1]:.1f}", dash),
            (f"M{place(found.mean):.1f} {y - 8}v16", ""),
        ):
            body += f'<path d="{way}" stroke="currentColor" stroke-width="2"{look}/>'
        body += "".join(
            f'<circle cx="{place(value):.1f}" cy="{y}" r="4" fill="#888888"/>'
            for value in found.by_seed
        )
        body += svg.text(right + 12, y + 5, f"{found.mean:+.1f}{', not decided' * tie}", 13)
    for tick in svg.ticks(low, high):
        body += svg.text(place(tick), bottom + 16, f"{tick:+g}" if tick else "0", 12, "middle")
    key = "grey the seeds, black mean and 95 % interval; dashed: it holds zero, not decided"
    body += svg.text(8, bottom + 38, f"points of {figure}: {key}", 13)
    told = "; ".join(
        f"{SWITCHES[name].told} {found.mean:+.1f}" + ", not decided" * (found.says == "not decided")
        for name, found in rows
    )
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
