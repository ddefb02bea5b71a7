"""Does a cell still show what is stored? Three kinds of cell, by tag; docs/contributing.md explains
them to authors.

    (no tag)   exact: numbers to one unit of their last printed digit, SVG coordinates to 0.6
               unit, pictures by their share of differing pixels, everything else to the letter
    trained    depends on a training: the same kinds of outputs in the same number, and the same
               check marks; values are never compared
    varies     depends on the time or the machine: the same as trained

A number is what a reader takes for one: digits with or without a sign, thousands separators, a
fraction and an exponent, that do not belong to a name (`conv4_3`, `SSD300`, `#009E73`). A whole
number below ten is compared to the letter: it is a label, an index or a count, never a rounding.
"""

import base64
import io
import re
from itertools import zip_longest
from pathlib import Path

import numpy as np
from nbformat import NotebookNode
from PIL import Image

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
#: Under this key of an output's metadata stands how trained outputs were made (notebooks.py).
NOTE = "made_by"
PIXEL_STEP = 64  # a pixel differs when a channel moves by more than this
PIXEL_SHARE = 0.001  # a picture differs beyond this share of its pixels
COORDINATE_SLACK = (
    0.6  # units of the SVG: what is rounded to one decimal or to half a pixel may flip
)
RULES = [
    (re.compile(rule), replacement)
    for rule, replacement in re.findall(
        r"^regex: (.*)\nreplace: (.*)$",
        (Path(__file__).parent / "sanitise.cfg").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
]
EMBEDDED = re.compile(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=]+)")
NUMBER = re.compile(
    r"((?<![\w.#)])[-+\u2212]?"
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?)"
)
COORDINATE = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
TAG = re.compile(r"""(<(?:[^<>"']|"[^"]*"|'[^']*')*>)""")
ATTRIBUTE = re.compile(r"""([\w:-]+)\s*=\s*("[^"]*"|'[^']*')""")
#: Attributes of SVG that hold coordinates, and attributes that hold words or numbers to be seen.
GEOMETRY = {"d", "points", "transform", "viewBox", "x", "y", "x1", "y1", "x2", "y2", "cx", "cy"}
GEOMETRY |= {"r", "rx", "ry", "width", "height"}
VISIBLE = {"aria-label", "alt", "title", "stroke-width"}
VISIBLE |= {"opacity", "fill-opacity", "stroke-opacity"}


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def values_count(cell: NotebookNode) -> bool:
    """Are the values of this cell's outputs compared, or their kinds alone?"""
    return not {"trained", "varies"} & set(tags(cell))


def is_note(output: NotebookNode) -> bool:
    """Is this the line that says how a trained cell's outputs were made?"""
    return NOTE in output.get("metadata", {})


def sanitise(text: str) -> str:
    """`text` without what may differ between runs (tools/sanitise.cfg)."""
    for rule, replacement in RULES:
        text = rule.sub(replacement, text)
    return text


def differences(
    stored: list[NotebookNode], fresh: list[NotebookNode], values: bool = True
) -> list[str]:
    """One sentence for each way in which a cell's fresh outputs differ from the stored ones, both
    in normal form.

    values: False for trained cells and those that vary: only the kinds of the outputs are compared,
    in order.
    """
    (old_texts, old_pictures), (new_texts, new_pictures) = split(stored), split(fresh)
    old_kinds = [kind for kind, _ in old_texts] + ["picture"] * len(old_pictures)
    new_kinds = [kind for kind, _ in new_texts] + ["picture"] * len(new_pictures)
    if old_kinds != new_kinds:
        return [
            f"stored: {', '.join(old_kinds) or 'nothing'}; now: {', '.join(new_kinds) or 'nothing'}"
        ]
    if not values:
        old_marks, new_marks = (check_marks(texts) for texts in (old_texts, new_texts))
        told = f"stored check marks: {old_marks}; now: {new_marks}"
        return [told] if old_marks != new_marks else []
    found = [
        markup_difference(old, new)
        if kind in ("image/svg+xml", "text/html")
        else text_difference(old, new)
        for (kind, old), (_, new) in zip(old_texts, new_texts, strict=True)
    ]
    found += [
        picture_difference(old, new) for old, new in zip(old_pictures, new_pictures, strict=True)
    ]
    return [sentence for sentence in found if sentence]


def split(outputs: list[NotebookNode]) -> tuple[list[tuple[str, str]], list[str]]:
    """Texts with their kind, and pictures in base64: those of their own and those inside SVG and
    HTML.

    The note that says how a trained cell's outputs were made is none of them.
    """
    texts, pictures = [], []
    for output in outputs:
        if is_note(output):
            continue
        if output.output_type == "stream":
            texts.append((output.name, output.text))
        elif output.output_type == "error":
            texts.append(("error", f"{output.ename}: {output.evalue}"))
        for kind, value in sorted(output.get("data", {}).items()):
            words = output.get("metadata", {}).get(kind, {}).get("alt")
            if words is not None:
                texts.append(("words for a picture", words))
            if kind in ("image/png", "image/jpeg"):
                pictures.append(value)
            elif kind != WIDGET_VIEW:
                pictures += EMBEDDED.findall(str(value))
                texts.append((kind, sanitise(str(value))))
    return texts, pictures


def check_marks(texts: list[tuple[str, str]]) -> str:
    """What a cell's checks say, passed, failed or not attempted: no training may change that."""
    return "".join(re.findall("[\u2713\u2717\u25cb]", "".join(text for _, text in texts)))


def text_difference(old: str, new: str) -> str:
    """The first line that differs, or ""."""
    for before, after in zip(f"{old}\n".splitlines(), f"{new}\n".splitlines(), strict=False):
        if not alike(before, after):
            return f"stored: {before[:300]}\n   now: {after[:300]}"
    lines = old.count("\n"), new.count("\n")
    return f"stored: {lines[0]} line breaks, now: {lines[1]}" if lines[0] != lines[1] else ""


def alike(old: str, new: str) -> bool:
    """Equal to the letter but for numbers, which may differ as `close` says, and the spaces that
    align them."""
    if old == new:
        return True
    before, after = NUMBER.split(old), NUMBER.split(new)
    return len(before) == len(after) and all(
        close(a, b) if place % 2 else trimmed(a) == trimmed(b)
        for place, (a, b) in enumerate(zip(before, after, strict=True))
    )


def trimmed(text: str) -> str:
    """`text` with one space where several stand beside a number: 9.99 becomes 10.00 and takes a
    column more."""
    return re.sub(r"\A +| +\Z", " ", text)


def close(old: str, new: str) -> bool:
    """Equal within one unit of the last printed digit, the finer one where they differ in digits?

    Whole numbers below ten are compared to the letter.
    """
    if old == new:
        return True
    (a, unit_a), (b, unit_b) = value_and_unit(old), value_and_unit(new)
    if unit_a == unit_b == 1 and min(abs(a), abs(b)) < 10:
        return a == b
    return abs(a - b) <= 1.001 * min(unit_a, unit_b)


def value_and_unit(number: str) -> tuple[float, float]:
    """What the digits say, and what one more in the last of them would add."""
    plain = number.replace(",", "").replace("\u2212", "-").lower()
    mantissa, _, exponent = plain.partition("e")
    return float(plain), 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def markup_difference(old: str, new: str) -> str:
    """The first part of two SVG or HTML texts that differs, or "": tags, attributes by name, the
    text between."""
    before, after = TAG.split(old), TAG.split(new)
    depth = 0  # of <svg>: only there `width` is a coordinate
    for place, (a, b) in enumerate(zip_longest(before, after, fillvalue="(its end)")):
        depth += a.startswith("<svg") - a.startswith("</svg")
        same = alike_tags(a, b, in_svg=depth > 0) if place % 2 else alike(a, b)
        if not same:
            return f"stored: {a.strip()[:300]}\n   now: {b.strip()[:300]}"
    return ""


def alike_tags(old: str, new: str, in_svg: bool) -> bool:
    """The same element with the same attributes in the same order, and values as near as their
    names ask for?"""
    if old == new:
        return True
    before, after = ATTRIBUTE.findall(old), ATTRIBUTE.findall(new)
    if ATTRIBUTE.sub("", old) != ATTRIBUTE.sub("", new) or len(before) != len(after):
        return False
    return all(
        a == b and alike_attributes(a, x, y, in_svg)
        for (a, x), (b, y) in zip(before, after, strict=True)
    )


def alike_attributes(name: str, old: str, new: str, in_svg: bool) -> bool:
    """Coordinates within COORDINATE_SLACK, what a reader sees as `alike` says, everything else to
    the letter."""
    scales = re.search("scale|matrix|skew", old)  # factors, where 0.6 would be much
    if in_svg and name in GEOMETRY and not scales:
        before, after = COORDINATE.split(old), COORDINATE.split(new)
        return len(before) == len(after) and all(
            abs(float(a) - float(b)) <= COORDINATE_SLACK if place % 2 else a == b
            for place, (a, b) in enumerate(zip(before, after, strict=True))
        )
    return alike(old, new) if name in VISIBLE or scales else old == new


def picture_difference(old: str, new: str) -> str:
    """How many pixels differ, or "". A mean over the picture would miss a curve that is gone."""
    a, b = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(code))).convert("RGBA"), int)
        for code in (old, new)
    )
    if a.shape != b.shape:
        return (
            f"stored picture: {a.shape[1]} x {a.shape[0]} pixels, now: {b.shape[1]} x {b.shape[0]}"
        )
    share = float((abs(a - b) > PIXEL_STEP).any(axis=-1).mean())
    if share <= PIXEL_SHARE:
        return ""
    return f"{share:.2%} of the picture's pixels differ (allowed: {PIXEL_SHARE:.1%})"
