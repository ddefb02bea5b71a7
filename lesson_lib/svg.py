"""Small pictures as SVG strings: charts, and boxes over a photograph. Equal input gives equal bytes.

Text and axes are drawn in `currentColor`, so a chart inside a page follows its light or dark theme; `still`
makes a copy for places without a theme. Colours with fixed meanings stand here, for plots.py and widgets.py.
"""
import base64
import io
import math
import textwrap
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

# Okabe-Ito, safe for colour-blind readers; every meaning has a second cue (dash, width, label, marker).
CLASS_COLOURS = {"RBC": "#D55E00", "WBC": "#0072B2", "Platelets": "#CC79A7"}
COLOURS = {"truth": "#000000", "prediction": "#56B4E9", "anchor": "#444444", "positive": "#009E73",
           "ignored": "#E69F00", "negative": "#777777", "shared": "#F0E442", **CLASS_COLOURS}
CURVE_COLOURS = ("currentColor", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
DASHES = {"solid": "", "dashed": "7 4", "dotted": "2 3", "dashdot": "8 3 2 3"}


class Look(NamedTuple):
    """How one kind of box is drawn: colour, line width in px, name of the dash, opacity of its filling, and
    the colour of a wider line under it, which makes it visible on light and dark parts of a picture."""
    colour: str
    width: float
    dash: str = "solid"
    fill: float = 0.0
    casing: str = ""


LOOKS = {"truth": Look(COLOURS["truth"], 2, "dashed", casing="#ffffff"),
         "prediction": Look(COLOURS["prediction"], 2.5, casing="#000000"),
         "anchor": Look(COLOURS["anchor"], 1), "positive": Look(COLOURS["positive"], 2.5, casing="#ffffff"),
         "ignored": Look(COLOURS["ignored"], 2, "dotted"), "negative": Look(COLOURS["negative"], 1),
         "shared": Look(COLOURS["shared"], 0, fill=0.45)}


class Shapes(NamedTuple):
    """Boxes of one kind (a key of LOOKS) to draw: (N, 4) xyxy px; `dots` draws their centres only.

    Without labels, boxes that fall together on the screen (to half a pixel) are drawn once.
    """
    kind: str
    boxes: Tensor
    labels: Sequence[str] = ()
    dots: bool = False

    def half_pixels(self, size: tuple[int, int]) -> np.ndarray:
        """What can be seen in a picture of size (height, width): (M, 4) int16 in half pixels, M <= N."""
        corners = np.asarray(self.boxes.detach().cpu(), np.float32).reshape(-1, 4)
        if self.dots:
            corners = np.tile((corners[:, :2] + corners[:, 2:]) / 2, 2)
        corners = np.rint(corners * 2).clip(-32000, 32000).astype(np.int16)
        if len(self.labels):
            return corners
        x1, y1, x2, y2 = corners.T
        seen = corners[(x2 >= 0) & (y2 >= 0) & (x1 <= 2 * size[1]) & (y1 <= 2 * size[0])]
        packed = np.ascontiguousarray(seen).view(np.int64)[:, 0]  # four int16 as one number: quick to compare
        return np.unique(packed)[:, None].view(np.int16)


def number(value: float, decimals: int = 1) -> str:
    """A coordinate with few decimals and no minus zero: the same text on every machine."""
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".") if decimals else f"{value:.0f}"
    return "0" if text == "-0" else text


def text(x: float, y: float, words: str, size: int = 14, anchor: str = "start", colour: str = "currentColor",
         halo: str = "", extra: str = "") -> str:
    """One line of text at its baseline; a halo keeps it readable over lines."""
    around = f' style="paint-order:stroke;stroke:{halo};stroke-width:4px;stroke-linejoin:round"' if halo else ""
    return (f'<text x="{number(x)}" y="{number(y)}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{colour}"{around}{extra}>{escape(words)}</text>')


def document(body: str, width: float, height: float, alt: str) -> str:
    """An SVG of width x height px that shrinks with its page, with a name for screen readers."""
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {number(width)} {number(height)}" '
            f'width="{number(width)}" height="{number(height)}" role="img" aria-label="{escape(alt)}" '
            'font-family="system-ui, sans-serif" style="max-width:100%;height:auto">'
            f'<title>{escape(alt)}</title>{body}</svg>')


def still(*svgs: str) -> str:
    """SVGs below each other on a white ground, for pages whose theme an SVG cannot know (GitHub, a stored
    output in JupyterLab)."""
    sizes = [[float(part.split('"')[0]) for part in svg.split('="', 5)[3:5]] for svg in svgs]
    body, top, width = "", 0.0, max(size[0] for size in sizes)
    for svg, (_, height) in zip(svgs, sizes):
        body += svg.replace("<svg ", f'<svg y="{number(top)}" ', 1)
        top += height
    alt = svgs[0].split('aria-label="')[1].split('"')[0]
    ground = f'<rect width="{number(width)}" height="{number(top)}" fill="#fff"/>'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {number(width)} {number(top)}" '
            f'width="{number(width)}" height="{number(top)}" role="img" aria-label="{alt}" '
            f'style="color:#222;max-width:100%;height:auto">{ground}{body}</svg>')


class Chart:
    """Curves, points, bars and marker lines on linear or logarithmic axes, with labels beside what they name.

        chart = Chart("Loss", x=(0, 1), y=(0, 5), x_label="p", y_label="loss")
        chart.curve(p, -p.log(), label="CE")
        svg = chart.svg()

    x, y: ranges of the axes; what lies outside is cut off. Labels look for a free place when `svg` is called.
    """

    def __init__(self, title: str, x: tuple[float, float], y: tuple[float, float], x_label: str = "",
                 y_label: str = "", x_log: bool = False, y_log: bool = False, width: int = 640,
                 height: int = 360, alt: str = ""):
        for name, (low, high), log in (("x", x, x_log), ("y", y, y_log)):
            if not low < high or (log and low <= 0):
                raise ValueError(f"{name}=({low}, {high}) is no range of an axis: give (low, high) with low < "
                                 "high" + (", and low > 0 on a logarithmic axis." if log else "."))
        self.title, self.alt, self.width, self.height = title, alt, width, height
        self.x, self.y, self.x_log, self.y_log, self.x_label, self.y_label = x, y, x_log, y_log, x_label, y_label
        self.lines = textwrap.wrap(title, int(width / 8.4))
        self.left, self.top = 58, 22 * len(self.lines) + (26 if y_label else 10)
        self.inner = (width - self.left - 16, height - self.top - (50 if x_label else 28))
        self.marks: list[str] = []
        self.wishes: list[tuple[str, str, list[tuple[float, float]]]] = []  # words, colour, places, best first
        self.busy: list[tuple[float, float]] = []                           # what a label should not cover
        self.names: list[str] = []
        self.curves = 0

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Values -> px from the plot's top left corner. A value that a log axis cannot show becomes NaN."""
        at = []
        for value, (low, high), log in ((float(x), self.x, self.x_log), (float(y), self.y, self.y_log)):
            if log:
                value, low, high = math.log(value) if value > 0 else math.nan, math.log(low), math.log(high)
            at.append((value - low) / (high - low))
        return at[0] * self.inner[0], min(max((1 - at[1]) * self.inner[1], -9999), 9999)
