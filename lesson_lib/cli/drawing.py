"""Pictures with boxes, as `predict` writes them."""

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lesson_lib.colours import CYCLE

#: Bytes of a picture's name in that of its drawing: file systems take 255, Windows 260 for a path.
LONGEST = 100


def draw_boxes(pixels: np.ndarray, rows: Iterable[tuple], words: Sequence[str]) -> Image.Image:
    """The picture with its boxes, each with class and score above it, so that no object is hidden.

    pixels: uint8 (H, W, 3); rows: (xyxy pixels, score, label); words: what is written for a label.
    Lines and letters grow with the picture, so that they can be read when all of it is looked at.
    """
    picture = Image.fromarray(pixels)
    pen, longer = ImageDraw.Draw(picture), max(picture.size)
    line, height = max(2, longer // 400), max(13, longer // 50)
    font = _font(height)
    for (x1, y1, x2, y2), score, label in rows:
        colour = CYCLE[label % len(CYCLE)]
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=line)
        text = f"{words[label]} {score:.2f}"
        x = max(2, min(x1, picture.width - pen.textlength(text, font) - 2))
        place = (x, max(1, y1 - height - 4))
        pen.text(place, text, colour, font, stroke_fill="white", stroke_width=2)
    return picture


def words_for(classes: Sequence[str], category_ids: Sequence[int]) -> tuple[list[str], str]:
    """What is written for each class, and a sentence about what the font cannot write, or ""."""
    names = [" ".join(name.split()) for name in classes]
    words = [
        name if name and all(map(in_font, name)) else f"category {number}"
        for name, number in zip(names, category_ids, strict=True)
    ]
    lacking = [(name, word) for name, word in zip(names, words, strict=True) if name != word]
    if not lacking:
        return words, ""
    stand_in = ", ".join(f"{word!r} for {name}" for name, word in lacking)
    return words, f"The font of the drawings lacks characters: they say {stand_in}."


@cache
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


@cache
def in_font(character: str) -> bool:
    """Whether Pillow's own font has it: all that it lacks is drawn as one and the same sign."""
    return character == " " or _glyph(character) != _glyph("\uffff")


def _glyph(character: str) -> tuple[tuple[int, int], bytes]:
    mask = _font(13).getmask(character)
    pixels = bytes(mask)  # pyright: ignore[reportArgumentType]  a sequence of them, untyped in Pillow
    return mask.size, pixels


def drawing_name(number: int, stem: str, ending: str) -> str:
    """0012-STEM.png: the number tells pictures of one name apart; a long stem is cut."""
    short = stem.encode("utf-8", "replace")[:LONGEST].decode("utf-8", "ignore")
    return f"{number:04d}-{short}{ending}"
