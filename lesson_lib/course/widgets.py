"""What moves: sliders bound to a drawing, and boxes that are dragged over a picture.

Both draw SVG made by lesson_lib.course.svg. Both carry a still of themselves, so that a page
without a kernel (GitHub, a book, a notebook not yet run) shows the picture instead of nothing.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import torch
import traitlets
from IPython.display import display
from torch import Tensor

from lesson_lib.colours import CURVES
from lesson_lib.course import frames, svg

Update = Callable[..., tuple[str, list[dict]]]


def control_values(controls: dict[str, ipywidgets.Widget]) -> dict[str, Any]:
    """The present value of each control."""
    return {name: getattr(widget, "value") for name, widget in controls.items()}  # noqa: B009


def plain_bundle(bundle: Any) -> dict[str, Any]:
    """What a widget shows itself as, {MIME type:
    data}, without the metadata that may be beside it.
    """
    return dict(bundle[0] if isinstance(bundle, tuple) else bundle)


class Panel(ipywidgets.VBox):
    """A column of widgets that also shows itself as a still: `still()` returns SVG."""

    def still(self) -> str:
        """The drawing as it stands now, as SVG."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = plain_bundle(super()._repr_mimebundle_(**kwargs))
        return bundle | {
            "text/plain": type(self).__name__,
            "image/svg+xml": svg.still(self.still()),
        }


def control(name: str, spec: Any) -> ipywidgets.Widget:
    """A widget for one value: (low, high, step, value) makes a slider, a list a drop-down
    (its first entry is chosen), True or False a tick box; a widget is taken as it is. `name` is its
    description, _ a space.
    """
    label = {"description": name.replace("_", " "), "style": {"description_width": "initial"}}
    if isinstance(spec, ipywidgets.Widget):
        return spec
    if isinstance(spec, bool):
        return ipywidgets.Checkbox(value=spec, indent=False, **label)
    if isinstance(spec, list):
        return ipywidgets.Dropdown(options=spec, **label)
    if isinstance(spec, tuple) and len(spec) == 4:
        whole = all(isinstance(value, int) for value in spec)
        kind, layout = (
            (ipywidgets.IntSlider if whole else ipywidgets.FloatSlider),
            {"width": "420px"},
        )
        readout = (
            {}
            if whole
            else {"readout_format": ".2f" if spec[2] < 0.1 else ".1f" if spec[2] < 1 else ".0f"}
        )
        return kind(
            min=spec[0], max=spec[1], step=spec[2], value=spec[3], layout=layout, **readout, **label
        )
    raise ValueError(
        f"{name}={spec!r}: give (low, high, step, value), a list of choices, a bool, or a widget."
    )


class SliderFigure(Panel):
    """A drawing and the controls that change it; made by `slider_figure`."""

    def __init__(self, draw: Callable[..., str], controls: dict[str, ipywidgets.Widget]) -> None:
        self.draw, self.controls = draw, controls
        self.page = ipywidgets.HTML()
        for widget in controls.values():
            widget.observe(self._redraw, names="value")
        self._redraw()
        super().__init__([*controls.values(), self.page])

    def values(self) -> dict[str, Any]:
        """The present value of each control."""
        return control_values(self.controls)

    def still(self) -> str:
        return self.draw(**self.values())

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(**kwargs)
        if limit := frames.wanted():  # for the book
            bundle[frames.MIME] = frames.frames(self.draw, self.controls, limit)
        return bundle

    def _redraw(self, _: Any = None) -> None:
        try:
            self.page.value = svg.live(self.draw(**self.values()))
        except Exception as error:  # shown in the panel: a callback's traceback would be lost
            self.page.value = f'<p role="alert">{type(error).__name__}: {escape(str(error))}</p>'


def slider_figure(draw: Callable[..., str], **controls: Any) -> SliderFigure:
    """Sliders over a drawing: `draw(**values)` returns SVG and is called again whenever a control
    moves.

    controls: see `control`. A keyword is the name of the value and, unless a widget is given, its
    label.
    """
    return SliderFigure(draw, {name: control(name, spec) for name, spec in controls.items()})


class _Canvas(anywidget.AnyWidget):
    """The page's side of BoxPlayground: static/playground.js draws, drags and asks;
    Python answers.
    """

    _esm = Path(__file__).parent / "static" / "playground.js"
    image = traitlets.Unicode().tag(sync=True)
    size = traitlets.List().tag(sync=True)  # [width, height] in pixels of the picture
    names = traitlets.List().tag(sync=True)
    looks = traitlets.List().tag(sync=True)  # of svg.shape, one for each box
    request = traitlets.Dict().tag(sync=True)  # {"seq": int, "boxes": [[x1, y1, x2, y2], ...]}
    answer = traitlets.Dict().tag(sync=True)  # {"seq": int, "readout": str, "shapes": [...]}


class BoxPlayground(Panel):
    """Boxes over a picture, dragged with mouse, finger or arrow keys; Python is asked at every
    step.

    image     (3, H, W) uint8
    boxes     (N, 4) xyxy, pixels of the picture; they stay inside it
    update    update(boxes (N, 4), **values of the controls) -> (readout sentence, list of
              `svg.shape`s)
    labels    a name for each box;  kinds  "truth" (dashed) or "prediction" (solid) for each
    controls  as in `slider_figure`: they call `update` as well
    Only the newest position is asked for while Python is busy, so that nothing queues up.
    """

    def __init__(
        self,
        image: Tensor,
        boxes: Tensor,
        update: Update,
        labels: Sequence[str] = (),
        kinds: Sequence[str] = (),
        **controls: Any,
    ) -> None:
        boxes = boxes.reshape(-1, 4).float()
        count = len(boxes)
        self.image, self.update = image, update
        self.controls = {name: control(name, spec) for name, spec in controls.items()}
        self.kinds = list(kinds) or [
            "truth" if i == 0 and count > 1 else "prediction" for i in range(count)
        ]
        self.canvas = _Canvas(
            image=svg.picture_uri(image),
            size=[image.shape[2], image.shape[1]],
            names=list(labels) or [f"box {i + 1}" for i in range(count)],
            looks=[svg.shape(kind, box) for kind, box in zip(self.kinds, boxes)],
            request={"seq": 0, "boxes": boxes.tolist()},
        )
        if len(self.canvas.names) != count or len(self.kinds) != count:
            raise ValueError(f"{count} boxes need {count} labels and kinds, or none.")
        self.canvas.observe(self._answer, names="request")
        for widget in self.controls.values():
            widget.observe(self._answer, names="value")
        self._answer()
        super().__init__([*self.controls.values(), self.canvas])

    @property
    def boxes(self) -> Tensor:
        """(N, 4) xyxy, where the boxes are now."""
        return torch.tensor(self.canvas.request["boxes"], dtype=torch.float32).reshape(-1, 4)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(**kwargs)
        if frames.wanted():  # for the book
            names = ("image", "size", "names", "looks", "request", "answer")
            canvas = {name: getattr(self.canvas, name) for name in names}
            bundle[frames.MIME] = frames.playground(self.update, canvas, self.controls)
        return bundle

    def _answer(self, _: Any = None) -> None:
        try:
            readout, shapes = self.update(self.boxes, **control_values(self.controls))
        except Exception as error:  # shown under the picture: a callback's traceback would be lost
            readout, shapes = f"{type(error).__name__}: {error}", []
        self.canvas.answer = {
            "seq": self.canvas.request["seq"],
            "readout": readout,
            "shapes": shapes,
        }

    def still(self) -> str:
        """Picture, shapes, boxes and the readout, in words for screen readers too."""
        answer, canvas = self.canvas.answer, self.canvas
        own = [svg.shape(kind, box) for kind, box in zip(self.kinds, self.boxes)]
        labels = [
            (x1, max(y1 - 3, 12), name)
            for (x1, y1, _, _), name in zip(self.boxes.tolist(), canvas.names)
        ]
        return svg.picture(
            self.image,
            [*answer["shapes"], *own],
            alt=answer["readout"],
            labels=labels,
            caption=answer["readout"],
        )


class _LiveChart(ipywidgets.HTML):
    """The curves while they grow; a page without a kernel shows nothing of it, `live_curves` ends
    with a still.
    """

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = plain_bundle(super()._repr_mimebundle_(**kwargs))
        return bundle | {"text/plain": "", "text/html": "<!-- curves, while the training runs -->"}


def live_curves(
    records: Iterable[dict],
    names: Sequence[str] = ("loss", "cls", "box"),
    title: str = "Training",
    every: float = 0.5,
    log: bool = True,
) -> list[dict]:
    """Draws the records of `training.loop.train` as they come, and returns them as a list.

    names   entries to draw over "step"; a record without one is passed over.  log: of the y axis
    every   seconds between two drawings: drawing costs time that training needs
    The last drawing stays as a still.
    What `records` raises goes on to the caller, after that drawing.
    """
    page, kept, drawn = _LiveChart(), [], 0.0
    display(page)
    try:
        for record in records:
            kept.append(record)
            if time.monotonic() - drawn > every:
                page.value, drawn = (
                    svg.live(training_chart(kept, names, title, log)),
                    time.monotonic(),
                )
    finally:
        page.close()
        drawing = svg.still(training_chart(kept, names, title, log))
        display({"image/svg+xml": drawing, "text/plain": title}, raw=True)
    return kept


#: One look for each record of a training, whatever is drawn beside it: colour and dash by its name.
RECORDS = {
    "loss": ("currentColor", "solid"),
    "cls": (CURVES["one"], "dashed"),
    "box": (CURVES["two"], "dotted"),
    "grad_norm": ("#7f7f7f", "dashdot"),
}


def training_chart(
    records: Sequence[dict], names: Sequence[str], title: str = "Training", log: bool = True
) -> str:
    """Curves of the records' entries `names` over "step", as SVG; long runs are thinned to 300
    points. Losses lie close and are ragged, so where there are several a key names them.
    """
    curves = {}
    for name in names:
        points = [
            (r["step"], float(r[name]))
            for r in records
            if name in r and math.isfinite(float(r[name]))
        ]
        curves[name] = points[:: max(1, len(points) // 300)]
    values = [y for points in curves.values() for _, y in points if y > 0 or not log] or [0.1, 1.0]
    low, high = (
        (0.8 * min(values), 1.25 * max(values))
        if log
        else (min(0.0, *values), 1.05 * max(values) + 1e-9)
    )
    last = max((r.get("step", 0) for r in records), default=0)
    chart = svg.Chart(
        title,
        x=(0, max(1, last)),
        y=(low, high),
        x_label="step",
        y_label=("length" if set(names) == {"grad_norm"} else "loss") if log else "",
        y_log=log,
        height=300,
        key=len(names) > 1,
    )
    for name, points in curves.items():
        colour, dash = RECORDS.get(name, (None, "longdash"))
        x, y = [step for step, _ in points], [value for _, value in points]
        chart.curve(x, y, label=name, dash=dash, colour=colour)
    return chart.svg()
