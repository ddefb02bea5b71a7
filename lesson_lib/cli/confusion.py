"""The confusion matrix as text and as a picture."""

from collections.abc import Sequence
from html import escape

import numpy as np

from lesson_lib.colours import BLUE

SIDE, LEFT, TOP = 56, 130, 90  # pixels: of a cell, for the names of the rows and of the columns
LARGEST = 12  # classes that a table on a console has room for


def confusion_text(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """A table, rows the truth; of many classes the ten largest confusions instead.

    The corner of background and missed is empty: nothing counts what is neither there nor said.
    """
    rows, columns = [*classes, "background"], [*classes, "missed"]
    if len(classes) > LARGEST:
        wrong = matrix.copy()
        np.fill_diagonal(wrong, 0)
        most = np.argsort(-wrong, axis=None, kind="stable")[:10]
        pairs = zip(*np.unravel_index(most, wrong.shape), strict=True)
        named = [(wrong[r, c], rows[r], columns[c]) for r, c in pairs if wrong[r, c]]
        return "\n".join(f"{count:6} {truth} -> {predicted}" for count, truth, predicted in named)
    wide = [max(len(name), 6) for name in columns]
    first = max(map(len, rows))
    lines = [" " * first + "".join(f"  {n:>{w}}" for n, w in zip(columns, wide, strict=True))]
    counted = matrix.tolist()
    counted[-1][-1] = ""
    for name, counts in zip(rows, counted, strict=True):
        cells = [f"{count:>{w}}" for count, w in zip(counts, wide, strict=True)]
        lines.append((f"{name:{first}}" + "".join(f"  {cell}" for cell in cells)).rstrip())
    return "\n".join(lines)


def confusion_svg(matrix: np.ndarray, classes: Sequence[str], title: str) -> str:
    """An SVG: each cell with its count, the darker the larger its share of the row; in the last
    row, of all objects, for false detections have no number that they could be a share of. The
    corner is empty, as in `confusion_text`."""
    rows, columns = [*classes, "background"], [*classes, "missed"]
    width, height = LEFT + SIDE * len(columns) + 10, TOP + SIDE * len(rows) + 30
    whole = matrix.sum(1, keepdims=True)
    whole[-1] = max(whole[:-1].sum(), whole[-1, 0])
    shares = matrix / np.maximum(whole, 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'font-family="sans-serif" font-size="13" role="img"><title>{escape(title)}</title>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="{height - 10}">rows: the truth, columns: predicted; '
        f"{escape(title)}</text>",
    ]
    for c, name in enumerate(columns):
        place = f"translate({LEFT + SIDE * (c + 0.5)} {TOP - 8}) rotate(-45)"
        parts.append(f'<text transform="{place}">{escape(_short(name))}</text>')
    for r, name in enumerate(rows):
        y = TOP + SIDE * r
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + SIDE / 2 + 5}" text-anchor="end">'
            f"{escape(_short(name))}</text>"
        )
        counted = len(columns) - (r == len(rows) - 1)
        parts += [_cell(LEFT + SIDE * c, y, matrix[r, c], shares[r, c]) for c in range(counted)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _cell(x: int, y: int, count: int, share: float) -> str:
    ink = "white" if share > 0.5 else "black"
    return (
        f'<rect x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" fill="{BLUE}" '
        f'fill-opacity="{share:.3f}" '
        f'stroke="#999"/><text x="{x + SIDE / 2}" y="{y + SIDE / 2 + 5}" text-anchor="middle" '
        f'fill="{ink}">{count}</text>'
    )


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"
