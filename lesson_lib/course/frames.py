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
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import ipywidgets
from torch import Tensor

#: Names a variable that says how many frames a figure draws ahead when it is shown; unset: none.
VARIABLE = "LESSON_FRAMES"
#: The kind of output that carries what is kept of a figure or a playground.
MIME = "application/vnd.lesson-frames+json"
#: Stops that a slider keeps however few are left, because a lesson speaks of what is seen there:
#: name of the drawing function -> label of the control -> what it shows at these stops.
MUST = {
    "explore": {
        "s min": ("0.03", "0.05", "0.08", "0.11", "0.12", "0.15"),
        "on map": ("2", "3", "4", "5"),
        "along": ("14", "50", "72"),
    },
    "tune": {
        "first": ("0.05", "0.07", "0.14"),
        "s min": ("0.15", "0.30"),
        "zoom": ("0.50", "0.70"),
    },
    "draw_carriers": {"ratio": ("1.0", "7.0", "11.0")},
}
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


def thinned(
    controls: Sequence[Stops], limit: int, must: Mapping[str, Collection[str]] | None = None
) -> list[Stops]:
    """Sliders with fewer stops, until all combinations are at most `limit`, or none can have fewer.

    Again and again the slider with the most stops keeps every second one: where it stands, its
    ends, and the steps between; a choice among numbered pictures likewise. Other choices and ticks
    stay whole, and each slider has three stops left.

    must  label -> what a control shows at stops that it keeps in any case
    """
    kept, must = list(controls), must or {}
    needed = [_needed(one, must.get(one.label, ())) for one in kept]
    while math.prod(len(one.values) for one in kept) > limit:
        longest = max(
            (
                k
                for k, one in enumerate(kept)
                if len(one.values) > max(3, len(needed[k])) and _may_thin(one)
            ),
            key=lambda k: len(kept[k].values),
            default=None,
        )
        if longest is None:
            break
        kept[longest] = _every_second(kept[longest], needed[longest])
    return kept


def _may_thin(one: Stops) -> bool:
    """Sliders, and choices among numbered pictures; other choices are all there for a reason."""
    return one.kind == "slider" or (one.kind == "choice" and all(map(str.isdigit, one.texts)))


def _needed(one: Stops, must: Collection[str]) -> set[str]:
    """What a control shows at its ends, where it stands, and at the stops that it must keep."""
    return {one.texts[k] for k in (0, one.start, -1)} | set(one.texts).intersection(must)


def _every_second(one: Stops, needed: set[str]) -> Stops:
    last = len(one.values) - 1
    stay = {k for k, text in enumerate(one.texts) if text in needed}
    chosen = [k for k in range(last + 1) if (k - one.start) % 2 == 0 or k in stay]
    if len(chosen) == last + 1:  # between those that it needs no other is left out
        chosen = sorted(stay)
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
    fastest. A control with fewer stops than its widget has the widget's number of them in "of", a
    figure with some in MUST has these in "must".
    """
    whole = [stops(widget) for widget in controls.values()]
    must = MUST.get(getattr(draw, "__name__", ""), {})
    kept = thinned(whole, limit, must)
    pieces: dict[str, int] = {}
    packed = []
    for values in itertools.product(*(one.values for one in kept)):
        drawing = draw(**dict(zip(controls, values, strict=True)))
        packed.append([pieces.setdefault(tag, len(pieces)) for tag in _TAG.findall(drawing)])
    shown = [_shown(one, len(all_of_it.texts)) for one, all_of_it in zip(kept, whole, strict=True)]
    named = {"must": {label: list(texts) for label, texts in must.items()}} if must else {}
    return {"controls": shown, "pieces": list(pieces), "frames": packed, **named}


def _shown(one: Stops, of: int) -> dict[str, Any]:
    """A control as a page is told of it; `of`: how many stops its widget has."""
    told = {"label": one.label, "kind": one.kind, "texts": one.texts, "start": one.start}
    return told | ({"of": of} if len(one.texts) < of else {})


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
    kept = thinned(whole, limit, packed.get("must"))
    pieces: dict[str, int] = {}
    chosen = []
    for places in itertools.product(*(one.values for one in kept)):
        tags = [packed["pieces"][k] for k in _tags(packed, places)]
        chosen.append([pieces.setdefault(tag, len(pieces)) for tag in tags])
    shown = [
        _shown(one, before.get("of", len(before["texts"])))
        for one, before in zip(kept, controls, strict=True)
    ]
    return packed | {"controls": shown, "pieces": list(pieces), "frames": chosen}


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
