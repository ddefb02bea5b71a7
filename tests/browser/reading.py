"""Numbers read back from a drawing in the page: what a person would read off the axes, not what
Python sent.
"""

import re
from typing import NamedTuple
from xml.etree import ElementTree

NUMBER, TICK = r"-?\d+(?:\.\d+)?", r"-?[\d,]+(?:\.\d+)?(?:e-?\d+)?"


class Chart(NamedTuple):
    """A chart of lesson_lib.course.svg: its words, its points and the vertices of its curves in the
    axes' units.
    """

    words: list[str]
    points: list[tuple[float, float]]
    curves: list[list[tuple[float, float]]]

    def curve_at(self, number: int, x: float) -> float:
        """Height of a curve, straight between its vertices."""
        line = self.curves[number]
        (x1, y1), (x2, y2) = next((a, b) for a, b in zip(line, line[1:]) if a[0] <= x <= b[0])
        return y1 + (y2 - y1) * (x - x1) / (x2 - x1)


def chart(svg: str) -> Chart:
    """Reads the SVG of a chart, alone or below another drawing; the ticks' numbers say what a pixel
    is worth, on logarithmic axes too.
    """
    root = ElementTree.fromstring(re.sub(r' xmlns="[^"]+"', "", svg))
    plot = root.find(".//g")
    ticks = {
        anchor: [
            (float(text.get(axis)) + shift, float(text.text.replace(",", "")))
            for text in plot.findall("text")
            if text.get("text-anchor") == anchor
            and text.get("font-size") == "12"
            and re.fullmatch(TICK, text.text or "")
        ]
        for anchor, axis, shift in (("middle", "x", 0), ("end", "y", -4))
    }

    def value(anchor: str, place: float) -> float:
        (p1, v1), (p, v), *_, (p2, v2) = ticks[anchor]
        share = (place - p1) / (p2 - p1)
        evenly = abs(v - (v1 + (p - p1) / (p2 - p1) * (v2 - v1))) < 1e-2 * abs(v2 - v1)
        return v1 + share * (v2 - v1) if evenly else v1 * (v2 / v1) ** share

    def both(x: str, y: str) -> tuple[float, float]:
        return value("middle", float(x)), value("end", float(y))

    inner = plot.find("svg")
    curves = [
        re.findall(f"({NUMBER}) ({NUMBER})", path.get("d"))
        for path in inner.iter("path")
        if path.get("fill") == "none"
    ]
    return Chart(
        [text.text or "" for text in root.iter("text")],
        [both(dot.get("cx"), dot.get("cy")) for dot in inner.iter("circle")],
        [[both(x, y) for x, y in line] for line in curves if len(line) > 1],
    )
