"""How a synthetic smear is painted: red cells, white cells, platelets, then light, lens and sensor.

Stained cells in transmitted light: each lets through a share of the light, per channel. Lengths are
pixels of BCCD's 640 x 480 pictures times `scale`; the numbers were measured on BCCD's training
split (205 pictures).

The same bytes on every machine: floats meet + - * / sqrt, comparisons and table look-ups only,
which IEEE 754 rounds in one way. numpy's exp, sin, powers, sums and interpolation of floats may
differ in the last bit from processor to processor, as sum() of Python's floats does from 3.11 to
3.12; random numbers come from `_Dice`.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace

import numpy as np

WHITES, PLATELETS = (
    (0, *[1] * 189, *[2] * 10),
    (*[0] * 43, *[1] * 26, *[2] * 22, *[3] * 5, 4, 4, 5, 6),
)
KINDS = (*["neutrophil"] * 8, *["eosinophil"] * 4, *["lymphocyte"] * 3, "monocyte")
# Radius and its sd, lobes of the nucleus, step from lobe to lobe in 1/1024 of a turn, distance of
# the lobes from the cell's centre and radius of the lobes, both in radii of the cell.
WHITE_CELLS = {
    "neutrophil": (101, 15, (3, 5), (130, 215), (0.38, 0.5), (0.25, 0.33)),
    "eosinophil": (102, 13, (2, 3), (330, 340), (0.38, 0.48), (0.36, 0.44)),
    "lymphocyte": (64, 8, (1, 1), (0, 0), (0.0, 0.06), (0.84, 0.95)),
    "monocyte": (104, 11, (3, 3), (180, 190), (0.28, 0.32), (0.42, 0.5)),
}
# BCCD's annotators pass over slivers at the border and cells deep in a clump: an object gets a box
# if this share of it is inside the picture (RBC, WBC, platelet) and, of a red cell, this share of
# that not covered.
INSIDE, FREE = (0.6, 0.5, 0.5), 0.7
SEEN = 0.1  # a cell without a box of which less is to be seen is not counted as left out
COSINE = [round(math.cos(2 * math.pi * i / 1024), 7) for i in range(1024)]


class _Dice:
    """Random numbers that belong to a key of strings and integers (PCG64, seeded by the key's
    SHA-256).
    """

    def __init__(self, *key):
        digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
        self.bits = np.random.PCG64(int.from_bytes(digest[:16], "little"))
        self.unit = np.random.Generator(self.bits).random

    def flat(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def bell(self, mean: float, sd: float) -> float:
        """Nearly normal, never further than 3.5 sd from the mean: the sum of four flat draws."""
        return mean + sd * 1.7320508 * (
            (self.unit() + self.unit()) + (self.unit() + self.unit()) - 2
        )

    def one_of(self, options: Sequence):
        return options[int(len(options) * self.unit())]

    def noise(self, *shape: int) -> np.ndarray:
        """float32 of mean 0 and variance 1: the sum of three random bytes each."""
        n = math.prod(shape)
        raw = (
            self.bits.random_raw((3 * n + 7) // 8)
            .astype("<u8")
            .view(np.uint8)[: 3 * n]
            .reshape(3, n)
        )
        total = raw[0].astype(np.uint16) + raw[1] + raw[2]
        return ((total.astype(np.float32) - 382.5) * (1 / 127.99)).reshape(shape)


def _turn(angle: float) -> tuple[float, float]:
    """Cosine and sine of an angle in 1/1024 of a turn, to the last whole one."""
    return COSINE[int(angle) & 1023], COSINE[(int(angle) - 256) & 1023]


def _rgb(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None, None]


def _smooth(t: np.ndarray, start: float, end: float) -> np.ndarray:
    """0 at `start`, 1 at `end` (which may be the smaller one), a cubic between them,
    flat outside.
    """
    t = np.minimum(np.maximum((t - start) * (1 / (end - start)), 0), 1)
    return t * t * (3 - 2 * t)


def _soften(a: np.ndarray) -> np.ndarray:
    """Blur by [1 2 1]/4 along the last two axes, as heat flows; adds 1/2 px^2 to the variance of
    the blur.
    """
    a = a.copy()
    for left, right in ((np.s_[..., :-1], np.s_[..., 1:]), (np.s_[..., :-1, :], np.s_[..., 1:, :])):
        flow = (a[right] - a[left]) * 0.25
        a[left] += flow
        a[right] -= flow
    return a


@lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    """(256, 256) smooth noise that wraps around, one value for 2 pixels of BCCD."""
    a = _Dice("grain").noise(256, 256)
    for axis in (0, 1) * 3:
        a = a * 0.5 + (np.roll(a, 1, axis) + np.roll(a, -1, axis)) * 0.25
    return a * 2.9


def _polar(x, y, rx: float, ry: float, angle: float, dice: _Dice, bumps: float) -> tuple:
    """(distance, u, v): distance from the centre in radii, 1 on the outline of an ellipse with
    corners.

    `bumps` is the sd of the shares of cos 3t, sin 3t and cos 4t in the radius; (u, v) = r
    (cos t, sin t).
    """
    c, s = _turn(angle)
    u, v = (x * c + y * s) * (1 / rx), (y * c - x * s) * (1 / ry)
    uu, vv = u * u, v * v
    square = uu + vv + 1e-6
    r = np.sqrt(square)
    three = u * (uu - 3 * vv) * dice.bell(0, bumps) + v * (3 * uu - vv) * dice.bell(0, bumps)
    four = (uu * uu - 6 * uu * vv + vv * vv) * dice.bell(0, 0.7 * bumps)
    return r * (1 + three / (square * r) + four / (square * square)), u, v


def _free(x: float, y: float, r: float, others: list[tuple], gap: float) -> bool:
    """No other disc (x, y, r, ...) has its centre nearer than `gap` times the sum of the radii."""
    for ox, oy, other, *_ in others:
        reach = gap * (other + r)
        if (ox - x) * (ox - x) + (oy - y) * (oy - y) < reach * reach:
            return False
    return True


def _stain(dice: _Dice) -> SimpleNamespace:
    """What the cells of one picture share: means as in BCCD, spreads up to twice BCCD's."""
    lamp, dense, warm, dark, cyto, plate = (dice.bell(0, 1) for _ in range(6))
    dark, cyto = min(1.0, dark), max(-1.5, cyto)  # a nucleus is darker than its cytoplasm
    return SimpleNamespace(
        lamp=(
            202 + 3 * lamp + dice.bell(0, 1.5),
            204 + 3 * lamp,
            199 + 3 * lamp + dice.bell(0, 2.5),
        ),
        red=_rgb(
            0.096 + 0.018 * dense + 0.006 * warm,
            0.226 + 0.034 * dense,
            max(0.16, 0.222 + 0.02 * dense + 0.035 * warm),
        ),
        rim=_rgb(dice.bell(-0.004, 0.01), dice.bell(-0.03, 0.016), dice.bell(0.032, 0.02)),
        pale=dice.bell(0.58, 0.3),
        edge=dice.flat(0.045, 0.09),
        halo=dice.flat(0, 0.07) * _rgb(1, 1, 0.6),
        flat=0.5 * dice.unit(),
        squeeze=0.25 * dice.unit(),
        clump=dice.flat(0.15, 0.8),
        overlap=dice.flat(0.1, 0.4),
        cover=0.7 * dice.unit(),
        ghosts=0.2 * dice.unit() * dice.unit(),
        bubbles=0.6 * dice.unit() * dice.unit(),
        cytoplasm=_rgb(
            0.90 + 0.03 * cyto + dice.bell(0, 0.012), 0.79 + 0.03 * cyto, dice.bell(0.98, 0.03)
        ),
        nucleus=_rgb(
            0.71 + 0.06 * dark, 0.54 + 0.05 * dark + dice.bell(0, 0.02), dice.bell(1.085, 0.03)
        ),
        lymph=_rgb(0.45 + 0.12 * dark, 0.30 + 0.12 * dark, 0.92 + 0.08 * dark),
        platelet=_rgb(
            0.74 + 0.06 * plate + dice.bell(0, 0.02), 0.68 + 0.06 * plate, dice.bell(0.98, 0.03)
        ),
    )


class _Slide:
    """A picture while it is painted: the light that gets through (3, H, W), each pixel's top
    object.
    """

    def __init__(self, height: int, width: int, scale: float, dice: _Dice):
        self.height, self.width, self.scale, self.dice, self.stain = (
            height,
            width,
            scale,
            dice,
            _stain(dice),
        )
        self.light = np.ones((3, height, width), np.float32)
        self.top = np.zeros((height, width), np.uint16)
        self.objects = []  # (label, window, mask, area of the whole in pixels)

    def window(self, cx: float, cy: float, reach: float) -> tuple:
        """(slices, x, y): the pixels within `reach` of a centre and the offsets of their centres
        from it.
        """
        x0, y0 = max(0, int(cx - reach)), max(0, int(cy - reach))
        x1, y1 = (
            max(x0, min(self.width, int(cx + reach) + 2)),
            max(y0, min(self.height, int(cy + reach) + 2)),
        )
        x, y = (
            np.arange(x0, x1, dtype=np.float32)[None],
            np.arange(y0, y1, dtype=np.float32)[:, None],
        )
        return np.s_[:, y0:y1, x0:x1], x + (0.5 - cx), y + (0.5 - cy)

    def texture(self, x: np.ndarray, y: np.ndarray, fine: float) -> np.ndarray:
        """A random piece of the grain; `fine` 1 for details of some 5 pixels of BCCD."""
        step = fine * 0.5 / self.scale
        column, row = (
            ((a + 4000) * step + self.dice.flat(0, 256)).astype(np.int32) & 255 for a in (x, y)
        )
        return _grain()[row, column]

    def paint(self, at: tuple, share: np.ndarray, colour: np.ndarray) -> None:
        """Opaque colour over what lies there, as far as `share` (0..1) says."""
        self.light[at] += (colour - self.light[at]) * share

    def keep(self, label: int, at: tuple, mask: np.ndarray, area: float) -> None:
        self.objects.append((label, at, mask, area))
        self.top[at[1:]][mask] = len(self.objects)

    def red_cell(self, cx: float, cy: float, r: float, angle: float, squeeze: float) -> None:
        """A biconcave disc: dense rim, pale centre; where two lie over each other it is darker."""
        dice, stain = self.dice, self.stain
        longer = (
            1
            + abs(dice.bell(0, 0.11))
            + squeeze
            + (dice.flat(0.1, 0.4) if dice.unit() < 0.07 else 0)
        )
        rx, ry = r / math.sqrt(longer), r * math.sqrt(longer)
        at, x, y = self.window(cx, cy, 1.25 * ry)
        d, u, v = _polar(x, y, rx, ry, angle, dice, 0.022)
        if dice.unit() < stain.flat:
            c, s = _turn(dice.flat(0, 1024))
            d = np.maximum(d, (u * c + v * s) * (1 / dice.flat(0.8, 0.97)))
        body = _smooth(d, 1 + 0.5 * stain.edge, 1 - 1.5 * stain.edge)
        du, dv = u - dice.bell(0, 0.08), (v - dice.bell(0, 0.08)) * dice.flat(0.6, 1.15)
        inner = dice.flat(0.05, 0.3)
        pale = _smooth(np.sqrt(du * du + dv * dv), inner + dice.flat(0.2, 0.5), inner)
        pale *= min(1.0, max(-0.12, dice.bell(stain.pale, 0.25)))
        dense = max(0.3, dice.bell(1, 0.09)) * (
            dice.flat(0.35, 0.7) if dice.unit() < stain.ghosts else 1
        )
        thick = body * (1 - pale) * (1 + 0.04 * self.texture(x, y, 0.35)) * dense
        through = 1 - thick * stain.red + body * _smooth(d, 0.62, 0.95) * dense * stain.rim
        under = self.light[at]
        under = under + (1 - under) * (
            body * stain.cover
        )  # a cell hides some of what it lies on ...
        darker, lighter = np.minimum(under, through), np.minimum(np.maximum(under, through), 1)
        halo = _smooth(d, 0.97, 1.05) * _smooth(d, 1.2, 1.07) * stain.halo
        self.light[at] = (
            darker * (1 - stain.overlap * (1 - lighter)) + halo
        )  # ... and darkens the rest
        self.keep(0, at, d < 1, 3.14159 * rx * ry)

    def white_cell(self, cx: float, cy: float, r: float, kind: str) -> None:
        """Granular cytoplasm and a mottled nucleus, both opaque."""
        dice, stain = self.dice, self.stain
        at, x, y = self.window(cx, cy, 1.3 * r)
        fine, rough, broad = (
            self.texture(x, y, 2.0),
            self.texture(x, y, 1.0),
            self.texture(x, y, 0.3),
        )
        longer, edge = 1 + abs(dice.bell(0, 0.06)), stain.edge * 45 * self.scale / r
        d, _, _ = _polar(x, y, r * longer, r / longer, dice.flat(0, 1024), dice, 0.025)
        d = d + rough * (0.035 if kind == "eosinophil" else 0.018) + broad * 0.025
        body = _smooth(d, 1 + edge, 1 - edge)
        colour = stain.cytoplasm * (1 + 0.045 * fine + 0.03 * rough + 0.03 * broad)
        if kind == "eosinophil":
            colour = _rgb(0.92, 0.80, 0.94) - _rgb(0.06, 0.22, 0.20) * _smooth(
                fine * 0.6 + rough * 0.5, -0.4, 0.6
            )
        self.paint(at, body * 0.94, colour * (_rgb(0.85, 0.8, 0.98) if kind == "lymphocyte" else 1))
        depth = self.nucleus(x, y, r, *WHITE_CELLS[kind][2:]) - (0.6 * rough + broad) * self.scale
        shade = 0.055 * rough + 0.06 * broad - 0.07 * _smooth(depth, 22 * self.scale, 0)
        colour = (stain.lymph if kind == "lymphocyte" else stain.nucleus) * (
            1 + shade * _rgb(1.2, 1.5, 0.4)
        )
        self.paint(
            at,
            _smooth(depth, 0, 72 * stain.edge * self.scale) * body * 0.97,
            np.maximum(colour, 0.02),
        )
        self.keep(1, at, d < 1, 3.14159 * r * r)

    def nucleus(
        self, x, y, r: float, lobes: tuple, step: tuple, far: tuple, size: tuple
    ) -> np.ndarray:
        """Depth below the nucleus' surface in pixels, negative outside: lobes on an arc, melted
        together.
        """
        dice = self.dice
        depth: np.ndarray | None = None
        angle, turn = dice.flat(0, 1024), dice.flat(*step)
        distance, width = dice.flat(*far) * r, dice.flat(*size) * r
        ox, oy = dice.bell(0, 0.08) * r, dice.bell(0, 0.08) * r
        for i in range(dice.one_of(range(lobes[0], lobes[1] + 1))):
            (c, s), lobe = _turn(angle + i * turn), width * dice.flat(0.85, 1.1)
            away, _, _ = _polar(
                x - (ox + distance * c),
                y - (oy + distance * s),
                width * dice.flat(0.95, 1.25),
                lobe,
                dice.flat(0, 1024),
                dice,
                0.05,
            )
            new = (1 - away) * lobe
            if depth is not None:  # a smooth maximum makes necks
                h = np.minimum(np.maximum(0.5 + (new - depth) * (1.5 / lobe), 0), 1)
                new = depth + (new - depth) * h + 0.33 * lobe * h * (1 - h)
            depth = new
        return np.zeros_like(x) if depth is None else depth

    def platelet(self, cx: float, cy: float, r: float) -> None:
        """A small soft blot, darker and granular in the middle."""
        at, x, y = self.window(cx, cy, 1.6 * r)
        longer = 1 + abs(self.dice.bell(0, 0.1))
        d, _, _ = _polar(x, y, r * longer, r / longer, self.dice.flat(0, 1024), self.dice, 0.05)
        d = d + 0.1 * self.texture(x, y, 0.9)
        deep = 0.12 * _smooth(d, 0.8, 0.2) + 0.08 * self.texture(x, y, 1.6)
        colour = self.stain.platelet * (1 - deep * _rgb(1.1, 1.5, 0.4))
        self.paint(at, _smooth(d, 1.1, 0.35) * self.dice.flat(0.6, 1), colour)
        self.keep(2, at, d < 1, 3.14159 * r * r)

    def speck(self, cx: float, cy: float, r: float, kind: str) -> None:
        """What a detector must learn to pass over:
        dust, rings on the sensor, bubbles on red cells.
        """
        dice, longer = self.dice, self.dice.flat(1, 1.4)
        at, x, y = self.window(cx, cy, 1.8 * r)
        d, _, _ = _polar(x, y, r * longer, r / longer, dice.flat(0, 1024), dice, 0.045)
        if kind == "dust":
            shadow = _smooth(d, 1.3, 0) * dice.flat(0.1, 0.3)
        else:
            shadow = _smooth(abs(d - 0.8), 0.28, 0) * (
                0.07 if kind == "ring" else dice.flat(0.15, 0.5)
            )
        if kind == "bubble":
            shadow -= _smooth(d, 0.6, 0.1) * dice.flat(0, 0.25)
        self.light[at] *= 1 - shadow * _rgb(0.8, 1, 0.8)

    def photograph(self) -> np.ndarray:
        """uint8 (3, H, W): the slide through lens, lamp and sensor."""
        dice, height, width = self.dice, self.height, self.width
        blur, image = dice.flat(0.9, 2.6) * self.scale, self.light  # sd in pixels
        passes = 2 * blur * blur
        for _ in range(int(passes)):
            image = _soften(image)
        image = image + (_soften(image) - image) * (passes - int(passes))
        for axis in (0, 1):  # colour fringes: red and blue move apart
            by = min(1.0, max(-1.0, dice.bell(0, 0.9) * self.scale))
            for plane, way in ((image[0], 1), (image[2], -1)):
                plane += (np.roll(plane, way if by > 0 else -way, axis) - plane) * abs(by)
        x = (np.arange(width, dtype=np.float32) * (2 / width) - 1)[None]
        y = (np.arange(height, dtype=np.float32) * (2 / height) - 1)[:, None]
        right, down, corners = (
            dice.bell(0.011, 0.012),
            dice.bell(0.037, 0.015),
            dice.bell(-0.022, 0.01),
        )
        for plane, lamp in zip(image, self.stain.lamp):
            plane *= (
                1
                + x * (right + dice.bell(0, 0.004))
                + y * (down + dice.bell(0, 0.003))
                + (x * x + y * y) * (corners + dice.bell(0, 0.002))
            ) * lamp
        noise = dice.noise(height, width)
        image += (_soften(noise) * 0.6 + noise * 0.4) * dice.flat(1, 2.4)
        coarse = dice.noise(3, height // 3 + 1, width // 3 + 1) * dice.flat(
            0.3, 1
        )  # colour, as in JPEG
        image += coarse.repeat(3, 1).repeat(3, 2)[:, :height, :width]
        return np.minimum(np.maximum(image + 0.5, 0), 255).astype(np.uint8)

    def annotations(self, left_out: bool = False) -> list[tuple[int, tuple[int, int, int, int]]]:
        """(label, box) of each object that shows enough of itself; the box is tight around what is
        inside. left_out: of those that do not, but of which at least SEEN is to be seen.
        """
        found = []
        for number, (label, (_, rows, columns), mask, area) in enumerate(self.objects, 1):
            inside = int(np.count_nonzero(mask))
            free = int(np.count_nonzero(self.top[rows, columns] == number))
            boxed = inside >= max(1, INSIDE[label] * area) and (label or free >= FREE * inside)
            seen = free >= max(1, SEEN * area)
            if (not boxed and seen) if left_out else boxed:
                (xs,), (ys,) = mask.any(0).nonzero(), mask.any(1).nonzero()
                found.append(
                    (
                        label,
                        (
                            columns.start + int(xs[0]),
                            rows.start + int(ys[0]),
                            columns.start + int(xs[-1]) + 1,
                            rows.start + int(ys[-1]) + 1,
                        ),
                    )
                )
        return found

    def scatter(self, count: int, radius: float, taken: list[tuple]) -> list[tuple]:
        """(x, y, r, angle, squeeze) of red cells: singles that touch at most, and chains that
        overlap.
        """
        dice, cells, angle, margin = self.dice, [], 0, 0.9 * radius
        for _ in range(14 * count):
            r, gap, squeeze = radius * dice.bell(1, 0.065), 0.94, 0.0
            if cells and dice.unit() < self.stain.clump:
                x, y, before = (cells[-1] if dice.unit() < 0.75 else dice.one_of(cells))[:3]
                angle += dice.bell(0, 70)
                (c, s), step = _turn(angle), dice.flat(0.45, 1.08) * (before + r)
                x, y, gap, squeeze = x + step * c, y + step * s, 0.34, self.stain.squeeze
            else:
                x, y = (
                    dice.flat(-margin, self.width + margin),
                    dice.flat(-margin, self.height + margin),
                )
                angle = dice.flat(0, 1024)
            near = -margin < x < self.width + margin and -margin < y < self.height + margin
            if near and _free(x, y, r, cells, gap) and _free(x, y, r, taken, 0.88):
                cells.append((x, y, r, angle, squeeze))
            if len(cells) == count:
                break
        return cells


def paint_smear(
    key: Sequence, height: int, width: int, scale: float, left_out: bool = False
) -> tuple[np.ndarray, list]:
    """(image uint8 (3, H, W), [(label, box), ...]) of the smear that belongs to the key; with
    left_out the objects are those that have no box, and yet are to be seen.
    """
    dice = _Dice("smear", *key)
    slide, whites = _Slide(height, width, scale, dice), []
    field = height * width / (scale * scale * 307200)  # what it shows of a picture of BCCD
    for _ in range(dice.one_of(WHITES)):
        kind = dice.one_of(KINDS)
        r, x, y = (
            dice.bell(*WHITE_CELLS[kind][:2]) * scale,
            dice.bell(0.48, 0.2),
            dice.bell(0.55, 0.25),
        )
        x, y = (
            min(side - 0.15 * r, max(0.15 * r, place * side))
            for place, side in ((x, width), (y, height))
        )
        whites += [(x, y, r, kind)] if _free(x, y, r, whites, 0.95) else []
    count, radius = round(max(0.0, dice.bell(25.5, 10)) * field), 53 * scale * dice.bell(1, 0.065)
    for x, y, r, *pose in slide.scatter(count, radius, whites):
        slide.red_cell(x, y, r, *pose)
        if dice.unit() < slide.stain.bubbles:
            x, y = x + dice.bell(0, 0.4) * r, y + dice.bell(0, 0.4) * r
            slide.speck(x, y, dice.flat(5, 12) * scale, "bubble")
    for white in whites:
        slide.white_cell(*white)
    for _ in range(dice.one_of(PLATELETS)):
        if dice.unit() < field:
            places = [
                (dice.flat(0, width), dice.flat(0, height)) for _ in range(8)
            ]  # mostly between cells
            place = next((p for p in places if not slide.top[int(p[1]), int(p[0])]), places[0])
            slide.platelet(*place, min(32.0, max(15.0, dice.bell(20, 3.6))) * scale)
    for kind, most, low, high in (("dust", 4, 8, 18), ("ring", 8, 4, 7)):
        for _ in range(dice.one_of(range(most))):
            slide.speck(
                dice.flat(0, width), dice.flat(0, height), dice.flat(low, high) * scale, kind
            )
    return slide.photograph(), slide.annotations(left_out)
