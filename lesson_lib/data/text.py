"""Text and numbers as people's files have them: in other encodings, with a byte order mark, a
number as text.
"""

import codecs
from math import isfinite, nan
from pathlib import Path
from typing import Any

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LIKELY = ("utf-8", "gb2312", "cp1252", "latin-1")  # the last can read everything


def read_text(file: Path, encodings: tuple[str, ...] = ()) -> str:
    """A text file without its byte order mark; `decode` tells how it is read. Raises OSError."""
    return decode(file.read_bytes(), encodings)


def decode(data: bytes, encodings: tuple[str, ...] = ()) -> str:
    """Bytes as text: by their byte order mark, or by the first of `encodings`, then of LIKELY, that
    fits.

    gb2312 before cp1252, because its strict form wants two bytes above 0xA0 for a character, which
    text in a western encoding hardly ever has throughout.
    """
    for mark, name in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(name, errors="replace")
    if b"\0" in data[:2]:  # UTF-16 of a text that begins in ASCII
        encodings = ("utf-16-be" if data[:1] == b"\0" else "utf-16-le", *encodings)
    for name in (*encodings, *LIKELY):
        try:
            return data.decode(name)
        except (UnicodeError, LookupError):  # not this one; or the file names one that nobody knows
            continue
    raise AssertionError("latin-1 reads every byte")


def number(value: Any) -> float:
    """A number, or text that is one, whole or decimal; NaN for everything else, True and False
    among it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return nan
    try:
        return float(value)
    except (ValueError, OverflowError):  # no number; an integer of 400 digits
        return nan


def whole_number(value: Any) -> int | None:
    """As `number`, where it is whole ("2", 2.0, "64.0"), else None."""
    found = number(value)
    return int(found) if isfinite(found) and found == int(found) else None


def sides(height: Any, width: Any) -> tuple[int, int] | None:
    """(height, width) of a picture as a file gives them; None unless both are whole and above 0."""
    h, w = whole_number(height), whole_number(width)
    return (h, w) if h is not None and w is not None and min(h, w) > 0 else None


def identity(value: Any) -> int | str | None:
    """What an id of a file stands for: a whole number, also where it is text; other text; None if
    it is no id.

    Numbers beyond 2^53 stay as they are: a float would make neighbours one.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = value.strip()
        if text.isascii() and text.isdigit() and len(text) < 400:
            return int(text)
        return text if whole_number(text) is None else whole_number(text)
    return whole_number(value)
