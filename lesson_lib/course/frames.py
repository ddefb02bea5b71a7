"""What moves, kept for pages without a kernel: frames drawn ahead, and where boxes start.

The book (tools/book.py) has no Python behind its sliders: it shows, for each stop of each control,
the picture that the lesson's own function drew. `frames` draws them all and packs them: a drawing
is cut into its tags, a path into its closed parts; each different piece is stored once (a
photograph, too), and a frame is a list of numbers of pieces.

Boxes that are dragged have too many places for frames. `playground` keeps how they start, and the
tensors that their Python answer reads; the page answers with the same functions in JavaScript.
"""

import inspect
import itertools
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ipywidgets
from torch import Tensor

#: Names a variable that says how many frames a figure draws ahead when it is shown; unset: none.
VARIABLE = "LESSON_FRAMES"
#: The kind of output that carries what is kept of a figure or a playground.
MIME = "application/vnd.lesson-frames+json"
#: A tag; of a path each of its closed parts; a photograph, in whose letters Z means nothing, whole.
_TAG = re.compile(r"<image[^>]*>|[^>Z]*[>Z]|[^>Z]+$")


class Stops(NamedTuple):
    """The values that a control can take, as far as frames are drawn for them.

    kind    "slider", "choice" or "tick"
    values  what the drawing is called with;  texts  what a reader sees for each
    start   index of the value that it stands at
    """

    label: str
    kind: str
    values: list[Any]
    texts: list[str]
    start: int


def stops(widget: ipywidgets.Widget) -> Stops:
    """All values of a control. ValueError for a kind that the book cannot show."""
    label = getattr(widget, "description", "")
    value: Any = getattr(widget, "value", None)
    if isinstance(widget, ipywidgets.Checkbox | ipywidgets.ToggleButton):
        return Stops(label, "tick", [False, True], ["off", "on"], int(bool(value)))
    if hasattr(widget, "options"):
        values = list(getattr(widget, "_options_values"))  # noqa: B009  Widget's type has neither
        texts = list(getattr(widget, "_options_labels"))  # noqa: B009
        return Stops(label, "choice", values, texts, values.index(value))
    if isinstance(widget, ipywidgets.IntSlider):
        values = list(range(widget.min, widget.max + 1, widget.step))
        return _slider(label, values, value, "d")
    if isinstance(widget, ipywidgets.FloatSlider | ipywidgets.FloatLogSlider):
        step = widget.step or 0.1  # ipywidgets' default, where it is None
        count = math.floor((widget.max - widget.min) / step + 1e-9) + 1
        values = [round(widget.min + k * step, 10) for k in range(count)]
        if isinstance(widget, ipywidgets.FloatLogSlider):
            values = [widget.base**exponent for exponent in values]
        return _slider(label, values, value, widget.readout_format)
    raise ValueError(f"The book cannot draw a {type(widget).__name__} ahead.")


def _slider(label: str, values: list, value: float, readout: str) -> Stops:
    start = min(range(len(values)), key=lambda k: abs(values[k] - value))
    return Stops(label, "slider", values, [format(v, readout) for v in values], start)


def thinned(controls: Sequence[Stops], limit: int) -> list[Stops]:
    """Sliders with fewer stops, until all combinations are at most `limit`, or none can have fewer.

    Again and again the slider with the most stops keeps every second one: where it stands, its
    ends, and the steps between; a choice among numbered pictures likewise. Other choices and ticks
    stay whole, and each slider has three stops left.
    """
    kept = list(controls)
    while math.prod(len(one.values) for one in kept) > limit:
        longest = max(
            (k for k, one in enumerate(kept) if len(one.values) > 3 and _may_thin(one)),
            key=lambda k: len(kept[k].values),
            default=None,
        )
        if longest is None:
            break
        kept[longest] = _every_second(kept[longest])
    return kept


def _may_thin(one: Stops) -> bool:
    """Sliders, and choices among numbered pictures; other choices are all there for a reason."""
    return one.kind == "slider" or (one.kind == "choice" and all(map(str.isdigit, one.texts)))


def _every_second(one: Stops) -> Stops:
    last = len(one.values) - 1
    chosen = [k for k in range(last + 1) if (k - one.start) % 2 == 0 or k in (0, last)]
    if len(chosen) == last + 1:  # only ends and the start are left
        chosen = sorted({0, one.start, last})
    return one._replace(
        values=[one.values[k] for k in chosen],
        texts=[one.texts[k] for k in chosen],
        start=chosen.index(one.start),
    )


def frames(
    draw: Callable[..., str], controls: dict[str, ipywidgets.Widget], limit: int
) -> dict[str, Any]:
    """Every combination of the controls' (thinned) stops, drawn and packed.

    Returns {"controls": [{"label", "kind", "texts", "start"}, ...], "pieces": [str, ...], "frames":
    [[index of a piece, ...], ...]}: a frame for each combination, the last control changing
    fastest.
    """
    kept = thinned([stops(widget) for widget in controls.values()], limit)
    pieces: dict[str, int] = {}
    packed = []
    for values in itertools.product(*(one.values for one in kept)):
        drawing = draw(**dict(zip(controls, values, strict=True)))
        packed.append([pieces.setdefault(tag, len(pieces)) for tag in _TAG.findall(drawing)])
    shown = [
        {"label": one.label, "kind": one.kind, "texts": one.texts, "start": one.start}
        for one in kept
    ]
    return {"controls": shown, "pieces": list(pieces), "frames": packed}


def playground(
    update: Callable, canvas: dict[str, Any], controls: dict[str, ipywidgets.Widget]
) -> dict[str, Any]:
    """A playground as it stands: what a page needs to draw it, and to answer for a moved box.

    canvas  what the page's side of the widget is given, by name
    Returns it with "answers", the name of the Python function that answers; "data", the tensors
    which that function reads from its lesson, by their names there; "controls", as in `frames`,
    each with its "values" and its name in "name".
    """
    read = inspect.getclosurevars(update).globals
    shown = [{"name": name, **stops(widget)._asdict()} for name, widget in controls.items()]
    return canvas | {
        "answers": update.__name__,
        "data": {name: _rows(value) for name, value in read.items() if isinstance(value, Tensor)},
        "controls": shown,
    }


def _rows(values: Tensor) -> list:
    """Nested lists whose numbers have as many digits as float32 needs to come back as it was."""
    return values.detach().float().cpu().numpy().astype(str).astype(float).tolist()


def coarser(packed: dict[str, Any], limit: int) -> dict[str, Any]:
    """The same figure with at most `limit` of its frames, as far as `thinned` goes."""
    controls = packed["controls"]
    whole = [
        Stops(one["label"], one["kind"], list(range(len(one["texts"]))), one["texts"], one["start"])
        for one in controls
    ]
    kept = thinned(whole, limit)
    pieces: dict[str, int] = {}
    chosen = []
    for places in itertools.product(*(one.values for one in kept)):
        tags = [packed["pieces"][k] for k in _tags(packed, places)]
        chosen.append([pieces.setdefault(tag, len(pieces)) for tag in tags])
    shown = [
        {"label": one.label, "kind": one.kind, "texts": one.texts, "start": one.start}
        for one in kept
    ]
    return {"controls": shown, "pieces": list(pieces), "frames": chosen}


def frame(packed: dict[str, Any], places: Sequence[int]) -> str:
    """The drawing at these places of the controls, as it was drawn."""
    return "".join(packed["pieces"][k] for k in _tags(packed, places))


def _tags(packed: dict[str, Any], places: Sequence[int]) -> list[int]:
    number = 0
    for place, one in zip(places, packed["controls"], strict=True):
        number = number * len(one["texts"]) + place
    return packed["frames"][number]


def wanted() -> int:
    """How many frames a figure draws ahead; 0 where nobody asks for them."""
    return int(os.environ.get(VARIABLE, "0"))
