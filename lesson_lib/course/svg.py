"""Small pictures as SVG strings: charts, and boxes over a photograph.

Equal input gives equal bytes.

Text and axes are drawn in `currentColor`, so a chart inside a page follows its light or dark theme;
`still` makes a copy for places without a theme.
"""

import base64
import io
import math
import re
import textwrap
from collections.abc import Sequence
from html import escape, unescape
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from lesson_lib.colours import COLOURS, CURVES

CURVE_COLOURS = ("currentColor", *CURVES.values())
DASHES = {
    "solid": "",
    "dashed": "7 4",
    "dotted": "2 3",
    "dashdot": "8 3 2 3",
    "longdash": "18 5",
}


class Look(NamedTuple):
    """How one kind of box is drawn: colour, line width in px, name of the dash, opacity of its
    filling, and the colour of a wider line under it, which makes it visible on light and dark parts
    of a picture.
    """

    colour: str
    width: float
    dash: str = "solid"
    fill: float = 0.0
    casing: str = ""


LOOKS = {
    "truth": Look(COLOURS["truth"], 2, "dashed", casing="#ffffff"),
    "prediction": Look(COLOURS["prediction"], 2.5, casing="#000000"),
    "anchor": Look(COLOURS["anchor"], 1),
    "positive": Look(COLOURS["positive"], 2.5, casing="#ffffff"),
    "matched": Look(COLOURS["positive"], 1.4, casing="#ffffff"),  # positive, many of them
    "ignored": Look(COLOURS["ignored"], 2, "dotted"),
    "negative": Look(COLOURS["negative"], 1),
    "kept": Look(COLOURS["positive"], 9, casing="#ffffff"),  # a frame around a thinner box
    "shared": Look(COLOURS["shared"], 0, fill=0.45),
    "union": Look(COLOURS["prediction"], 0, fill=0.3),
    "hull": Look(COLOURS["ignored"], 2.5, "dotted", casing="#000000"),
}


def number(value: float, decimals: int = 1) -> str:
    """A coordinate with few decimals and no minus zero: the same text on every machine."""
    digits = f"{value:.{decimals}f}".rstrip("0").rstrip(".") if decimals else f"{value:.0f}"
    return "0" if digits == "-0" else digits


def text(  # noqa: PLR0913  what SVG's text needs, by name
    x: float,
    y: float,
    words: str,
    size: int = 14,
    anchor: str = "start",
    colour: str = "currentColor",
    halo: str = "",
    extra: str = "",
) -> str:
    """One line of text at its baseline; a halo keeps it readable over lines."""
    around = (
        f' style="paint-order:stroke;stroke:{halo};stroke-width:4px;stroke-linejoin:round"'
        if halo
        else ""
    )
    return (
        f'<text x="{number(x)}" y="{number(y)}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{colour}"{around}{extra}>{escape(words)}</text>'
    )


def document(body: str, width: float, height: float, alt: str) -> str:
    """An SVG of width x height px that shrinks with its page, with a name for screen readers."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {number(width)} {number(height)}" '
        f'width="{number(width)}" height="{number(height)}" role="img" aria-label="{escape(alt)}" '
        'font-family="system-ui, sans-serif" style="max-width:100%;height:auto">'
        f"<title>{escape(alt)}</title>{body}</svg>"
    )


def shape(
    kind: str,
    boxes: Tensor,
    dots: bool = False,
    colour: str | None = None,
    owner: int | None = None,
) -> dict:
    """Boxes of one kind (a key of LOOKS) as one path: (4,) or (N, 4) xyxy px of the picture.

    Boxes that fall together to half a pixel are drawn once, so that 8732 anchors stay quick; `dots`
    draws the centres only; `colour` replaces the kind's. owner: the number of the box in a
    playground that these belong to: pointing at that box fades the others. Returns what `picture`
    and the page's playground draw.
    """
    look = LOOKS[kind]
    rows = np.asarray(boxes.detach().cpu(), np.float64).reshape(-1, 4)
    if dots:
        rows = np.tile((rows[:, :2] + rows[:, 2:]) / 2, 2)
    if len(rows) > 1:
        rows = _distinct(np.rint(rows * 2).astype(np.int64)) / 2
    if dots:
        rows = rows + np.array([-0.5, -0.5, 0.5, 0.5])
    path = "".join(
        f"M{x1:g} {y1:g}H{x2:g}V{y2:g}H{x1:g}Z" for x1, y1, x2, y2 in rows.round(1).tolist()
    )
    return {
        "kind": kind,
        "d": path,
        "stroke": colour or look.colour,
        "width": look.width,
        "casing": look.casing,
        "dash": DASHES[look.dash],
        "fill": (colour or look.colour) if look.fill or dots else "none",
        "opacity": 1 if dots else look.fill,
        **({} if owner is None else {"owner": owner}),
    }


def _distinct(rows: np.ndarray) -> np.ndarray:
    """The different rows of (N, 4) whole numbers, in ascending order: each as one number, which is
    twenty times as fast as np.unique along an axis.
    """
    low = rows.min(0)
    spans = rows.max(0) - low + 1
    codes = np.unique(np.ravel_multi_index(tuple((rows - low).T), tuple(spans)))
    return np.stack(np.unravel_index(codes, tuple(spans)), 1) + low


def stroke(path: str, colour: str, width: float = 2.5, filled: bool = False) -> dict:
    """Any SVG path in px of the picture, drawn like a `shape`: lines, arrows, dots."""
    return {
        "kind": "stroke",
        "d": path,
        "stroke": colour,
        "width": width,
        "casing": "#ffffff",
        "dash": "",
        "fill": colour if filled else "none",
        "opacity": 1,
    }


def arrow(
    start: tuple[float, float], end: tuple[float, float], colour: str, head: float = 7
) -> dict:
    """A straight arrow from `start` to `end`, px of the picture; `head` px long at most."""
    (x, y), (a, b) = start, end
    length = math.hypot(a - x, b - y)
    path = f"M{number(x)} {number(y)}L{number(a)} {number(b)}"
    if length > 0:
        size = min(head, length / 2)
        along, across = ((a - x) / length * size, (b - y) / length * size), size / 2 / length
        for side in (-across, across):
            back = a - along[0] - side * (b - y), b - along[1] + side * (a - x)
            path += f"M{number(a)} {number(b)}L{number(back[0])} {number(back[1])}"
    return stroke(path, colour)


def dot(x: float, y: float, colour: str, radius: float = 3) -> dict:
    """A filled circle, px of the picture."""
    r = number(radius)
    return stroke(
        f"M{number(x - radius)} {number(y)}a{r} {r} 0 1 0 {number(2 * radius)} 0"
        f"a{r} {r} 0 1 0 {number(-2 * radius)} 0Z",
        colour,
        1,
        filled=True,
    )


def picture_uri(image: Tensor) -> str:
    """A uint8 picture (3, H, W) as a data URI (JPEG: a tenth of PNG's size for a smear)."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture(
    image: Tensor,
    shapes: Sequence[dict],
    alt: str,
    labels: Sequence[tuple[float, float, str]] = (),
    caption: str = "",
    width: int = 460,
) -> str:
    """A uint8 picture (3, H, W) `width` px wide, boxes made by `shape` over it, words at (x, y) px
    of the picture, and a caption under it.
    """
    rows, columns = image.shape[1:]
    scale, lines = width / columns, textwrap.wrap(caption, int((width - 16) / 7.2))
    body = f'<image href="{picture_uri(image)}" width="{columns}" height="{rows}"/>'
    body += "".join(map(_path, shapes))
    clipped = (
        f'<svg width="{number(width)}" height="{number(rows * scale)}" '
        f'viewBox="0 0 {columns} {rows}">'
        f"{body}</svg>"
    )
    words = "".join(
        text(x * scale, y * scale, word, 13, colour="#111111", halo="#ffffff")
        for x, y, word in labels
    )
    under = "".join(text(8, rows * scale + 21 + 18 * i, line) for i, line in enumerate(lines))
    return document(
        clipped + words + under, width, rows * scale + (13 + 18 * len(lines) if lines else 0), alt
    )


def _path(item: dict) -> str:
    attributes = 'vector-effect="non-scaling-stroke" stroke-linejoin="round"'
    attributes += ' stroke-linecap="round"' if item.get("round") else ""
    casing = (
        (
            f'<path d="{item["d"]}" fill="none" stroke="{item["casing"]}" '
            f'stroke-width="{item["width"] + 2:g}" '
            f'stroke-opacity=".85" {attributes}/>'
        )
        if item["casing"]
        else ""
    )
    return (
        f'{casing}<path d="{item["d"]}" fill="{item["fill"]}" fill-opacity="{item["opacity"]:g}" '
        f'stroke="{item["stroke"]}" stroke-width="{item["width"]:g}" '
        f'stroke-dasharray="{item["dash"]}" {attributes}/>'
    )


def beside(*svgs: str, gap: int = 12, alt: str = "") -> str:
    """Drawings side by side; the alternative texts are joined where no other one is given."""
    return _together(svgs, gap, across=True, alt=alt)


def below(*svgs: str, gap: int = 12) -> str:
    """Drawings one under the other; the alternative texts are joined."""
    return _together(svgs, gap, across=False)


def _together(svgs: Sequence[str], gap: int, across: bool, alt: str = "") -> str:
    sizes, body, at = [_size(svg) for svg in svgs], "", 0.0
    for svg, size in zip(svgs, sizes):
        body += svg.replace("<svg ", f'<svg {"x" if across else "y"}="{number(at)}" ', 1)
        at += size[0 if across else 1] + gap
    other = max(size[1 if across else 0] for size in sizes)
    alt = alt or " ".join(unescape(_attribute(svg, "aria-label")) for svg in svgs)
    return document(body, *((at - gap, other) if across else (other, at - gap)), alt)


def still(svg: str) -> str:
    """The drawing in dark ink on a white ground, for pages whose theme an SVG cannot know (GitHub,
    a stored output in JupyterLab).
    """
    width, height = map(number, _size(svg))
    ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    start = svg.index("</title>") + len("</title>")
    return (svg[:start] + ground + svg[start:]).replace('style="', 'style="color:#222222;', 1)


def live(svg: str) -> str:
    """The drawing for a page whose theme is known: on JupyterLab's dark one a chart's colours are
    lightened, since blue and grey letters would be too dim to read there.
    """
    style = (
        '<style>[data-jp-theme-light="false"] g :is([fill^="#"],[stroke^="#"])'
        "{filter:brightness(1.35)}</style>"
    )
    return svg.replace("</title>", "</title>" + style, 1)


def _attribute(svg: str, name: str) -> str:
    found = re.search(rf'\b{name}="([^"]*)"', svg)
    if found is None:
        raise ValueError(f"This SVG has no attribute {name}.")
    return found[1]


def _size(svg: str) -> tuple[float, float]:
    return float(_attribute(svg, "width")), float(_attribute(svg, "height"))


class Chart:
    """Curves, points, bars and marker lines on linear or logarithmic axes, with labels beside what
    they name.

        chart = Chart("Loss", x=(0, 1), y=(0, 5), x_label="p", y_label="loss")
        chart.curve(p, -p.log(), label="CE")
        svg = chart.svg()

    x, y: ranges of the axes; what lies outside is cut off. Labels look for a free place when `svg`
    is called.
    key: the curves' labels stand in a list, each behind a piece of its line; for curves that lie
    close together. powers: the numbers at the axes are powers of ten, 10⁻⁵ instead of 1e-5.
    """

    def __init__(  # noqa: PLR0913  the options of a chart, by name
        self,
        title: str,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str = "",
        y_label: str = "",
        x_log: bool = False,
        y_log: bool = False,
        width: int = 640,
        height: int = 360,
        alt: str = "",
        key: bool = False,
        powers: bool = False,
    ):
        for name, (low, high), log in (("x", x, x_log), ("y", y, y_log)):
            if not low < high or (log and low <= 0):
                raise ValueError(
                    f"{name}=({low}, {high}) is no range of an axis: give (low, high) with low < "
                    "high" + (", and low > 0 on a logarithmic axis." if log else ".")
                )
        self.title, self.alt, self.width, self.height = title, alt, width, height
        self.x, self.y, self.x_log, self.y_log, self.x_label, self.y_label = (
            x,
            y,
            x_log,
            y_log,
            x_label,
            y_label,
        )
        self.lines = textwrap.wrap(title, int((width - 16) / 8.6))
        self.top, bottom = 22 * len(self.lines) + (26 if y_label else 10), 50 if x_label else 28
        self.short = _power if powers else _short
        self.rungs = [
            (value, self.short(value))
            for value in ticks(*y, y_log, int((height - self.top - bottom) / 40))
        ]
        self.left = max(58, 20 + 7 * max((len(words) for _, words in self.rungs), default=0))
        self.inner = (width - self.left - 16, height - self.top - bottom)
        self.key: list[tuple[str, str, float, str]] | None = (
            [] if key else None
        )  # words and look of each line
        self.marks: list[str] = []
        self.names: list[str] = []  # of all that is drawn; its place here is its number
        self.wishes: list[
            tuple[int, str, str, list[tuple[float, float]]]
        ] = []  # number, words, colour, places
        self.busy: list[
            tuple[float, float, int]
        ] = []  # what a label should not cover, and its number
        self.curves = 0

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Values -> px from the plot's top left corner.

        A value that a log axis cannot show becomes NaN.
        """
        at = []
        for value, (low, high), log in (
            (float(x), self.x, self.x_log),
            (float(y), self.y, self.y_log),
        ):
            if log:
                value, low, high = (
                    math.log(value) if value > 0 else math.nan,
                    math.log(low),
                    math.log(high),
                )
            at.append((value - low) / (high - low))
        return at[0] * self.inner[0], min(max((1 - at[1]) * self.inner[1], -9999), 9999)

    def curve(
        self,
        x: Sequence[float],
        y: Sequence[float],
        label: str = "",
        dash: str = "solid",
        colour: str | None = None,
        width: float = 2,
    ) -> None:
        """A line through the points; it breaks where a value is NaN or, on a log axis, not
        positive.
        """
        colour = colour or CURVE_COLOURS[self.curves % len(CURVE_COLOURS)]
        self.curves += 1
        points = [self.place(a, b) for a, b in zip(x, y, strict=True)]
        whole = [math.isfinite(a + b) for a, b in points]
        path = "".join(
            f"{'L' if i and whole[i - 1] else 'M'}{number(a)} {number(b)}"
            for i, (a, b) in enumerate(points)
            if whole[i]
        )
        self._stroke(path, colour, width, dash)
        seen = self._occupy(
            [point if good else (math.nan, 0.0) for point, good in zip(points, whole)]
        )
        if self.key is not None and label:
            self.key.append((label, colour, width, dash))
            self.names.append(label)
            return
        self._wish(
            label,
            colour,
            [
                (a + dx, b + dy)
                for share in (0.98, 0.8, 0.6, 0.4, 0.2, 0.05, 0.9, 0.7, 0.5, 0.3)
                for a, b in seen[int(share * (len(seen) - 1)) :][:1]
                for dx, dy in ((0, -8), (0, 17), (8, 4), (0, -18), (0, 27))
            ],
        )

    def hline(self, y: float, label: str = "", dash: str = "dotted") -> None:
        """A line across, at height y."""
        at = self.place(self.x[0], y)[1]
        self._stroke(f"M0 {number(at)}H{number(self.inner[0])}", "currentColor", 1, dash)
        self._occupy([(0, at), (self.inner[0], at)])
        self._wish(
            label,
            "currentColor",
            [
                (share * self.inner[0], at + dy)
                for share in (0.98, 0.02, 0.5, 0.75, 0.25)
                for dy in (-5, 14)
            ],
        )

    def vline(self, x: float, label: str = "", dash: str = "dotted") -> None:
        """A line from bottom to top, at x."""
        at = self.place(x, self.y[1])[0]
        self._stroke(f"M{number(at)} 0V{number(self.inner[1])}", "currentColor", 1, dash)
        self._occupy([(at, 0), (at, self.inner[1])])
        self._wish(
            label,
            "currentColor",
            [
                (x, 14 + 18 * i)
                for i in range(int(self.inner[1] / 18))
                for x in (at + 5, at - 5 - 7.4 * len(label))
            ],
        )

    def point(
        self,
        x: float,
        y: float,
        label: str = "",
        colour: str | None = None,
        opacity: float = 1,
    ) -> None:
        """A dot with its label; where many lie together, an opacity below 1 shows how many."""
        a, b = self.place(x, y)
        colour = colour or "currentColor"
        faint = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
        self.marks.append(
            f'<circle cx="{number(a)}" cy="{number(b)}" r="4.5" fill="{colour}"{faint}/>'
        )
        self.busy.append((a, b, len(self.names)))
        far = -8 - 7.4 * len(label)
        self._wish(label, colour, [(a + dx, b + dy) for dx in (8, far) for dy in (4, -12, 20)])

    def label(self, x: float, y: float, words: str, colour: str | None = None) -> None:
        """Words above the middle of a place, for what a search would put elsewhere: a peak."""
        a, b = self.place(x, y)
        middle = a - 3.7 * len(words)
        self._wish(words, colour or "currentColor", [(middle, b - 8), (middle, b - 18)])

    def bars(
        self,
        left: Sequence[float],
        right: Sequence[float],
        heights: Sequence[float],
        label: str = "",
        colour: str | None = None,
    ) -> None:
        """Bars from the axis up, each between its left and right edge."""
        colour = colour or COLOURS["prediction"]
        tops = []
        for low, high, height in zip(left, right, heights, strict=True):
            (a, top), (b, _) = self.place(low, height), self.place(high, height)
            if not math.isfinite(top):
                continue
            self.marks.append(
                f'<rect x="{number(a)}" y="{number(top)}" '
                f'width="{number(max(b - a - 1, 0.5))}" height='
                f'"{number(max(self.inner[1] - top, 0))}" fill="{colour}" fill-opacity=".55"/>'
            )
            tops.append(((a + b) / 2, top))
        self.busy += [(a, top, len(self.names)) for a, top in tops]
        self._wish(label, colour, [(a, top - 6) for a, top in sorted(tops, key=lambda at: at[1])])

    def svg(self) -> str:
        """The drawing; its alternative text is `alt`,
        or the title with the names of what is drawn.
        """
        width, height = map(number, self.inner)
        body = "".join(
            text(8, 19 + 22 * i, line, 15, extra=' font-weight="600"')
            for i, line in enumerate(self.lines)
        )
        inside = (
            f'<svg width="{width}" height="{height}">{"".join(self.marks)}</svg>'
            f"{''.join(self._placed())}"
        )
        body += f'<g transform="translate({self.left} {self.top})">{self._axes()}{inside}</g>'
        if self.x_label:
            body += text(self.left + self.inner[0] / 2, self.height - 8, self.x_label, 13, "middle")
        if self.y_label:
            body += text(8, self.top - 9, self.y_label, 13)
        names = [name for name in self.names if name]
        alt = self.alt or self.title + (": " + ", ".join(names) if names else "")
        return document(body, self.width, self.height, alt)

    def _stroke(self, path: str, colour: str, width: float, dash: str) -> None:
        self.marks.append(_line(path, colour, width, dash))

    def _wish(self, words: str, colour: str, places: list[tuple[float, float]]) -> None:
        if words and places:
            self.wishes.append((len(self.names), words, colour, places))
        self.names.append(words)

    def _occupy(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """Tells the labels that a line runs through these px, NaN breaks it; returns what is seen,
        every 6 px.
        """
        seen = []
        for (a, b), (c, d) in zip(points, points[1:] or points):
            if math.isfinite(a + b + c + d):
                steps = max(1, math.ceil(min(math.hypot(c - a, d - b), 4000) / 6))
                seen += [
                    (a + (c - a) * i / steps, b + (d - b) * i / steps) for i in range(steps + 1)
                ]
        seen = [(a, b) for a, b in seen if 0 <= a <= self.inner[0] and 0 <= b <= self.inner[1]]
        self.busy += [(a, b, len(self.names)) for a, b in seen]
        return seen

    def _placed(self) -> list[str]:  # long: the search for a place is a closure over what is placed
        """Labels, then the key, each at the place that covers least of lines, points and labels
        before it; a label keeps away from what is not its own, too.
        """
        taken, drawn, (wide, high) = [], [], self.inner
        busy = np.array(self.busy or [(-99.0, -99.0, -1)])

        def best(
            places: list[tuple[float, float]], width: float, height: float, own: int = -1
        ) -> tuple[float, float]:
            def cost(rank: int) -> float:
                left, top = places[rank]
                across, down = busy[:, 0] - left, busy[:, 1] - top
                near = (across > 0) & (across < width)
                covered = near & (down > 0) & (down < height)
                strange = near & (down > -9) & (down < height + 9) & (busy[:, 2] != own)
                clashes = sum(
                    left < x + w + 6 and x < left + width + 6 and top < y + h and y < top + height
                    for x, y, w, h in taken
                )
                return 100 * clashes + int(covered.sum()) + 0.4 * int(strange.sum()) + rank / 10

            place = places[min(range(len(places)), key=cost)]
            taken.append((*place, width, height))
            return place

        for own, words, colour, wishes in self.wishes:
            size = 7.4 * len(words)
            x, y = best(
                [
                    (
                        min(max(x if x + size <= wide else x - size, 2), max(wide - size - 2, 2)),
                        min(max(y, 13), high - 4) - 12,
                    )
                    for x, y in wishes
                ],
                size,
                15,
                own,
            )
            drawn.append(text(x, y + 12, words, 13, colour=colour))
        if self.key:
            size, rows = (
                38 + 7.4 * max(len(words) for words, *_ in self.key),
                19 * len(self.key) + 8,
            )
            x, y = best(
                [
                    (side, top)
                    for top in range(4, max(5, int(high - rows)), 16)
                    for side in (wide - size - 4, 12, (wide - size) / 2)
                ],
                size,
                rows,
            )
            for i, (words, colour, width, dash) in enumerate(self.key):
                drawn += [
                    _line(f"M{number(x)} {number(y + 15 + 19 * i)}h30", colour, width, dash),
                    text(x + 38, y + 19 + 19 * i, words, 13, colour=colour),
                ]
        return drawn

    def _axes(self) -> str:
        w, h = self.inner
        body = f'<path d="M0 0V{number(h)}H{number(w)}" fill="none" stroke="currentColor"/>'
        for value in ticks(*self.x, self.x_log, int(w / 60)):
            at = self.place(value, self.y[1])[0]
            body += f'<path d="M{number(at)} {number(h)}v4" stroke="currentColor"/>'
            body += text(at, h + 17, self.short(value), 12, "middle")
        for value, words in self.rungs:
            at = self.place(self.x[0], value)[1]
            body += f'<path d="M0 {number(at)}h-4" stroke="currentColor"/>'
            body += (
                f'<path d="M0 {number(at)}H{number(w)}" stroke="currentColor" '
                'stroke-opacity=".12"/>'
            )
            body += text(-8, at + 4, words, 12, "end")
        return body


def _line(path: str, colour: str, width: float, dash: str) -> str:
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}" '
        'stroke-linejoin="round" '
        f'stroke-dasharray="{DASHES[dash]}"/>'
    )


def key_line(entries: Sequence[tuple[str, tuple[str, str, float]]], height: int = 28) -> str:
    """One line of words, each behind a piece of its line: a key below charts that share it.

    entries: (words, (dash, colour, width)).
    """
    body, at = "", 58.0
    for words, (dash, colour, width) in entries:
        body += _line(f"M{number(at)} 14h30", colour, width, dash)
        body += text(at + 38, 19, words, 13, colour=colour)
        at += 38 + 7.4 * len(words) + 26
    return document(body, at, height, "")


def ticks(low: float, high: float, log: bool = False, most: int = 8) -> list[float]:
    """Round numbers in [low, high], about `most` of them: steps of 1, 2 or 5 times a power of ten,
    or powers of ten on a logarithmic axis (1, 2 and 5 times these, where it has fewer than three).
    """
    if log:
        powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        if len(powers) < 3:
            some = [
                float(f"{m}e{p}")
                for p in range(powers.start - 1, powers.stop + 1)
                for m in (1, 2, 5)
            ]
            return [value for value in some if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        return [10.0**p for p in powers][:: max(1, -(-len(powers) // max(most, 2)))]
    rough = (high - low) / max(most, 2)
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e6:
        return (
            f"1e{round(math.log10(abs(value)))}"
            if value > 0 and math.log10(value) % 1 == 0
            else f"{value:.0e}"
        )
    return (
        f"{value:,.10g}".replace("-", "\u2212")
        if abs(value) >= 1000
        else f"{value:.6g}".replace("-", "\u2212")
    )


def _power(value: float) -> str:
    """A power of ten as it is printed, 10⁻⁵; 1 stays 1, and other numbers are as in `_short`."""
    power = math.log10(value) if value > 0 else math.nan
    if value == 1 or not power.is_integer():
        return _short(value)
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}"
