"""Still figures, in one look: data -> Axes.

What a colour means is fixed here for the whole course.
"""

import io
from collections.abc import Sequence
from html import escape

import matplotlib as mpl
import matplotlib.pyplot as plt
import PIL.Image
import PIL.ImageColor
from IPython.display import HTML, Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from lesson_lib import colours

#: By meaning, and "one" to "five" for curves, which have none; see lesson_lib.colours.
COLOURS = colours.COLOURS | colours.CURVES
CLASS_COLOURS = tuple(colours.CLASS_COLOURS.values())
#: What a picture with few colours keeps in any case.
FIXED = tuple(dict.fromkeys([*COLOURS.values(), "#FFFFFF", "#000000"]))
CLASS_LETTERS = ("R", "W", "P")
#: How a box is drawn: ground truth dashed, prediction solid, anchors thin.
BOX_STYLES = {
    "truth": {"linestyle": (0, (4, 2)), "linewidth": 1.6},
    "prediction": {"linestyle": "-", "linewidth": 1.6},
    "anchor": {"linestyle": "-", "linewidth": 0.7},
    "positive": {"linestyle": "-", "linewidth": 1.8},
    "ignored": {"linestyle": (0, (4, 2)), "linewidth": 1.2},
    "negative": {"linestyle": ":", "linewidth": 0.7},
}
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.titlelocation": "left",
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "figure.facecolor": "white",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "svg.hashsalt": "lesson",
}


def use_style() -> None:
    """The course's look for all figures from here on: a lesson's first cell asks for it."""
    plt.rcParams.update(mpl.RcParams(STYLE))


def show(figure: Figure, alt: str, caption: str, sharp: bool = False, colours: int = 64) -> None:
    """Display a figure with words for those who do not see it, a caption sentence under it, and
    close it.

    `alt` goes into the output's metadata, where nbconvert looks for it; the caption is text on the
    page. The figure stays white, a card on a dark page. sharp: twice the pixels at the same size on
    the page, in so many colours: 64 for drawings with small letters, 256 where a smear is in it.
    """
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format="png",
        dpi=2 * figure.dpi if sharp else "figure",
        bbox_inches="tight",
        pad_inches=0.08,
        metadata={"Software": None},
    )
    plt.close(figure)
    png = _few_colours(buffer, colours) if sharp else buffer.getvalue()
    display(Image(png, format="png", alt=alt, retina=sharp))
    display(HTML(f'<p style="max-width:46em;margin:.2em 0 1em"><em>{escape(caption)}</em></p>'))


def _few_colours(picture: io.BytesIO, colours: int) -> bytes:
    """The same PNG with a palette; 64 colours are a third of the size for a drawing.

    The palette holds the course's colours as they are: a photograph's many tints would crowd out a
    thin line's, and a platelet's box turn grey.
    """
    full = PIL.Image.open(picture).convert("RGB")
    fixed = [part for colour in FIXED for part in PIL.ImageColor.getrgb(colour)]
    tints = full.quantize(colours - len(FIXED)).getpalette() or []
    palette = PIL.Image.new("P", (1, 1))
    palette.putpalette(fixed + tints)
    small = io.BytesIO()
    full.quantize(palette=palette, dither=PIL.Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def draw_picture(axes: Axes, image: Tensor) -> Axes:
    """A uint8 picture (3, H, W) without ticks; data coordinates are its pixels' edges, y down."""
    height, width = image.shape[-2:]
    axes.imshow(
        image.permute(1, 2, 0).cpu().numpy(), extent=(0, width, height, 0), interpolation="nearest"
    )
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    axes.spines[:].set_visible(False)
    return axes


def draw_boxes(
    axes: Axes,
    boxes: Tensor,
    kind: str = "truth",
    labels: Tensor | None = None,
    texts: Sequence[str] | None = None,
    colour: str | None = None,
) -> Axes:
    """Boxes (G, 4) xyxy pixels of one kind, a key of BOX_STYLES.

    labels (G,) colours them by class of cell and letters them R, W, P; `texts` replaces the
    letters. Letters stand outside the box, above its top left corner (below it at the picture's
    upper border).
    """
    halo = [withStroke(linewidth=2.2, foreground="white")]
    names = labels.tolist() if labels is not None else [None] * len(boxes)
    for i, ((x1, y1, x2, y2), name) in enumerate(zip(boxes.tolist(), names)):
        shade = colour or (CLASS_COLOURS[name] if name is not None else COLOURS.get(kind, "black"))
        axes.add_patch(
            Rectangle(
                (x1, y1),
                x2 - x1,
                y2 - y1,
                fill=False,
                edgecolor=shade,
                path_effects=halo if kind != "anchor" else None,
                **BOX_STYLES[kind],
            )
        )
        text = texts[i] if texts is not None else CLASS_LETTERS[name] if name is not None else ""
        if text:
            below = y1 < 12
            axes.annotate(
                text,
                (max(x1, 0), y2 if below else y1),
                xytext=(1, -1 if below else 1),
                fontsize=7.5,
                textcoords="offset points",
                va="top" if below else "bottom",
                color=shade,
                weight="bold",
                path_effects=halo,
                annotation_clip=True,
            )
    return axes
