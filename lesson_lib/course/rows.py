"""From channels to rows, drawn: where each number of a row was computed, with the permute and
without.
"""

import torch
from torch import Tensor

from lesson_lib.colours import CYCLE
from lesson_lib.course import svg

SIDE, GAP, LEFT = 26, 26, 260  # of a square, between two channels' planes, of the rows, px
LETTERS = "abcdef"


def rows_of(positions: Tensor, values: int, permute: bool) -> Tensor:
    """positions (channels, rows, columns): for each entry the number of its position. Returns
    (rows * columns * boxes, values): the position that each number of each row comes from.
    """
    if permute:
        positions = positions.permute(1, 2, 0)
    return positions.reshape(-1, values)


def rows_drawing(boxes: int = 2, values: int = 2) -> str:
    """A head's answer on a map of 2 x 3 positions, a to f, as planes of channels, and the rows that
    it is cut into: with the permute, and reshaped as it is. Returns SVG.
    """
    channels = boxes * values
    positions = torch.arange(6).reshape(1, 2, 3).expand(channels, 2, 3)
    body = svg.text(8, 16, "channels, on 2 × 3 positions")
    for channel in range(channels):
        top = 30 + channel * (2 * SIDE + GAP)
        box, value = divmod(channel, values)
        body += svg.text(96, top + SIDE + 5, f"box {box}, value {value}", 13)
        for y in range(2):
            for x in range(3):
                body += _square(8 + x * SIDE, top + y * SIDE, y * 3 + x)
    told = []
    for n, permute in enumerate((True, False)):
        rows = rows_of(positions, values, permute)
        left = LEFT + n * (160 + values * SIDE)
        body += svg.text(left, 16, "reordered" if permute else "cut as it lies (wrong)")
        for i, row in enumerate(rows.tolist()):
            top = 30 + i * SIDE
            body += svg.text(
                left, top + 18, f"row {i}: box {i % boxes} at {LETTERS[i // boxes]}", 13
            )
            for v, position in enumerate(row):
                body += _square(left + 120 + v * SIDE, top, position)
        strangers = sum(
            any(position != i // boxes for position in row) for i, row in enumerate(rows.tolist())
        )
        told.append(f"{strangers} {'reordered' if permute else 'as it lies'}")
    count = channels * 6 // values
    alt = (
        f"{channels} planes of 2 x 3 positions, and {count} rows. Rows that hold numbers from "
        f"another position than their own: {', '.join(told)}."
    )
    width = LEFT + 2 * (160 + values * SIDE) - 30
    return svg.document(body, width, 30 + count * SIDE + 8, alt)


def _square(x: float, y: float, position: int) -> str:
    fill = CYCLE[position]
    return (
        f'<rect x="{x}" y="{y}" width="{SIDE - 2}" height="{SIDE - 2}" rx="3" fill="{fill}" '
        'fill-opacity=".75"/>'
    ) + svg.text(x + SIDE / 2 - 1, y + 17, LETTERS[position], 13, "middle", "#111111")
