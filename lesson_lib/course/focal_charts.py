"""Lesson 4's curves: focal loss and its slope, who makes the loss, alpha against gamma, the prior.

Each returns SVG. p_t is the probability of the right answer, z its logit: p_t = sigmoid(z).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lesson_lib.colours import BLUE, COLOURS
from lesson_lib.course.focal_pictures import Answers
from lesson_lib.course.svg import Chart, below, beside, key_line
from lesson_lib.losses import huber_loss, l2_loss, sigmoid_focal_loss

#: FL's Figure 1: gamma -> name, dash and width of its curve. All in the text's colour: the course's
#: colours mean cells and labels.
LOOKS = {
    0.0: ("γ = 0 (CE)", "solid", 1.5),
    0.5: ("γ = 0.5", "dashed", 1.5),
    1.0: ("γ = 1", "dashdot", 1.5),
    2.0: ("γ = 2", "dotted", 2.5),
    5.0: ("γ = 5", "longdash", 1.5),
}
INK = "currentColor"
#: The reader's own curve or point, thick.
YOURS, THICK = BLUE, 4.0
OBJECT, BACKGROUND = COLOURS["positive"], COLOURS["negative"]
PANEL: dict[str, Any] = {"width": 380, "height": 350}  # one of two beside each other, px
TOWARDS = "z, the logit towards the right answer"
#: FL, table 1b: for each gamma the alpha with the best AP on COCO, and that AP.
TABLE_1B = {
    0: (0.75, 31.1),
    0.1: (0.75, 31.4),
    0.2: (0.75, 31.9),
    0.5: (0.50, 32.9),
    1: (0.25, 33.7),
    2: (0.25, 34.0),
    5: (0.25, 32.2),
}


def focal_at(z: Tensor, gamma: float) -> Tensor:
    """FL without alpha at logits turned towards the right answer: (...) -> (...)."""
    return sigmoid_focal_loss(z, torch.ones_like(z), alpha=None, gamma=gamma)


def pull(z: Tensor, gamma: float) -> Tensor:
    """How hard an answer is corrected: minus the slope of `focal_at`, (n,) -> (n,)."""
    z = z.clone().requires_grad_()
    return -torch.autograd.grad(focal_at(z, gamma).sum(), z)[0]


def figure_1(gamma: float, alpha: float = 0.25) -> str:
    """FL's Figure 1 with one more gamma, and beside it that gamma with alpha."""
    p_t = torch.linspace(0.005, 0.995, 199, dtype=torch.float64)
    z = p_t.logit()
    nine = torch.tensor([0.9], dtype=torch.float64).logit()
    discount = (focal_at(nine, 0.0) / focal_at(nine, gamma)).item()
    times = f"{discount:,.0f}" if discount >= 20 else f"{discount:.1f}"
    axes: dict[str, Any] = {
        "x": (0, 1),
        "y": (0, 5),
        "x_label": "pₜ, probability of the right answer",
    }
    axes |= {"y_label": "loss", "key": True, **PANEL}
    plain = Chart(f"γ = {gamma:.1f}: at pₜ = .9, CE / {times}", **axes)
    for paper, (name, dash, width) in LOOKS.items():
        plain.curve(p_t.tolist(), focal_at(z, paper).tolist(), name, dash, INK, width)
    plain.curve(p_t.tolist(), focal_at(z, gamma).tolist(), "yours", "solid", YOURS, THICK)
    plain.vline(0.5, label="well-classified")
    weighted = Chart(f"With α: objects × {alpha:.2f}, background × {1 - alpha:.2f}", **axes)
    weighted.curve(p_t.tolist(), focal_at(z, 0.0).tolist(), "cross entropy", "solid", INK, 1.5)
    weighted.curve(
        p_t.tolist(), focal_at(z, gamma).tolist(), "yours, without α", "solid", YOURS, THICK
    )
    yours = focal_at(z, gamma)
    weighted.curve(p_t.tolist(), (alpha * yours).tolist(), "object", "dashed", OBJECT)
    other = (1 - alpha) * yours
    weighted.curve(p_t.tolist(), other.tolist(), "background", "dashdot", BACKGROUND)
    return beside(plain.svg(), weighted.svg())


def slopes(gamma: float, alpha: float) -> str:
    """The pull of cross entropy and of focal loss over z, without alpha and with it."""
    z = torch.linspace(-6, 6, 121, dtype=torch.float64)
    axes: dict[str, Any] = {
        "x": (-6, 6),
        "y": (0, 1.4),
        "x_label": TOWARDS,
        "y_label": "minus the slope",
    }
    axes |= PANEL
    charts = (
        Chart(f"γ = {gamma:.1f}, without α", **axes),
        Chart(f"With α: objects × {alpha:.2f}, background × {1 - alpha:.2f}", **axes),
    )
    for chart in charts:
        chart.curve(z.tolist(), pull(z, 0.0).tolist(), "cross entropy", "solid", INK, 1.5)
        chart.vline(0.0, label="pₜ = .5")
    yours = pull(z, gamma)
    charts[0].curve(z.tolist(), yours.tolist(), "", "solid", YOURS, THICK)
    charts[0].label(-5, yours[10].item(), f"γ = {gamma:.1f}", YOURS)  # where the curves are apart
    charts[1].curve(z.tolist(), (alpha * yours).tolist(), "", "dashed", OBJECT)
    charts[1].label(-4, alpha * yours[20].item(), "object", OBJECT)
    other = (1 - alpha) * yours
    charts[1].curve(z.tolist(), other.tolist(), "background", "dashdot", BACKGROUND)
    return beside(*(chart.svg() for chart in charts))


def opposites(gamma: float, delta: float) -> str:
    """The share of its parent's loss (L2, cross entropy) that an example keeps under Huber's loss
    and under focal loss, over the parent's loss: easy at the left, hard at the right.
    """
    parent = torch.logspace(-3, 1, 161, dtype=torch.float64)
    residual = (2 * parent).sqrt()
    zero = torch.zeros_like(residual)
    huber = huber_loss(residual, zero, delta=delta) / l2_loss(residual, zero)
    towards = (-parent).exp().logit()  # the logit whose cross entropy is `parent`
    focal = focal_at(towards, gamma) / focal_at(towards, 0.0)
    chart = Chart(
        "Huber silences the outliers, focal loss silences the inliers",
        x=(1e-3, 10),
        y=(0, 1.1),
        x_log=True,
        x_label="the parent's loss (r²/2, or cross entropy): easy at the left, hard at the right",
        y_label="share of the parent's loss that is kept",
    )
    chart.curve(
        parent.tolist(), huber.tolist(), label=f"Huber, δ = {delta:.1f}", dash="dashed", colour=INK
    )
    chart.curve(
        parent.tolist(),
        focal.tolist(),
        label=f"focal loss, γ = {gamma:.1f}",
        colour=BLUE,
        width=3,
    )
    return chart.svg()


class Tally:
    """All answers of a detector to some pictures, as numbers of entries at each z, easiest first.

    z           (L,) float64, falling, in steps of 1 / 64
    counts      {"positives": (L,), "negatives": (L,)}, entries: anchor x class, without the ignored
    """

    STEPS = 64

    def __init__(self, said: Iterable[Answers]) -> None:
        turned = [one.turned() for one in said]
        places = [(torch.cat(part).double() * self.STEPS).round().long() for part in zip(*turned)]
        low = int(min(part.min() for part in places))
        sizes = [torch.bincount(part - low) for part in places]
        length = max(map(len, sizes))
        padded = [torch.cat([size, size.new_zeros(length - len(size))]).flip(0) for size in sizes]
        self.z = torch.arange(low + length - 1, low - 1, -1, dtype=torch.float64) / self.STEPS
        self.counts: dict[str, Tensor] = dict(
            zip(("positives", "negatives"), (part.double() for part in padded))
        )

    def total(self, kind: str) -> float:
        """The number of entries of a kind."""
        return self.counts[kind].sum().item()

    def loss(self, kind: str, gamma: float) -> float:
        """The summed loss of a kind, without alpha."""
        return (self.counts[kind] * focal_at(self.z, gamma)).sum().item()

    def cumulative(self, kind: str, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        """Share of the entries, easiest first, and share of the loss that they make."""
        zero = torch.zeros(1, dtype=torch.float64)
        both = self.counts[kind], self.counts[kind] * focal_at(self.z, gamma)
        first, second = (torch.cat([zero, x.cumsum(0) / x.sum()]).numpy() for x in both)
        return first, second

    def of_hardest(self, kind: str, gamma: float, share: float) -> float:
        """The share of the loss that the hardest `share` of the entries make."""
        return 1 - float(np.interp(1 - share, *self.cumulative(kind, gamma)))

    def balancing_alpha(self, gamma: float) -> float:
        """The alpha at which positives and negatives make equally much of the loss."""
        positive, negative = self.loss("positives", gamma), self.loss("negatives", gamma)
        return negative / (positive + negative)


def figure_4(tally: Tally, gamma: float) -> str:
    """FL's Figure 4 for a tally: cumulative normalised loss of positives and of negatives."""
    looks = [(of, look) for of, look in LOOKS.items() if of <= 2 and of != gamma]
    curves = [(of, name, (dash, INK, width)) for of, (name, dash, width) in looks]
    curves.append((gamma, f"yours, γ = {gamma:g}", ("solid", YOURS, THICK)))
    charts = []
    for kind, low, hard in (("positives", 0.0, 0.2), ("negatives", 0.9, 0.01)):
        chart = Chart(
            f"{kind.capitalize()}: hardest {hard:.0%} make "
            f"{tally.of_hardest(kind, gamma, hard):.0%}",
            x=(low, 1),
            y=(0, 1.02),
            y_label="share of the loss",
            x_label=f"share of the {kind}, easiest first" + (" (the last tenth)" if low else ""),
            key=True,
            **PANEL,
        )
        x = np.linspace(low, 1, 150)
        for of, name, (dash, colour, width) in curves:
            y = np.interp(x, *tally.cumulative(kind, of)).tolist()
            chart.curve(x.tolist(), y, name, dash, colour, width)
        chart.key = None  # one key below serves both
        charts.append(chart.svg())
    return below(beside(*charts), key_line([(name, look) for _, name, look in curves]))


def balance(tally: Tally, gamma: float, alpha: float) -> str:
    """The alpha that gives both sides the same say, over gamma; FL's choices, and the reader's."""
    positive = alpha * tally.loss("positives", gamma)
    share = positive / (positive + (1 - alpha) * tally.loss("negatives", gamma))
    gammas = torch.linspace(0, 5, 51).tolist()
    chart = Chart(
        f"γ = {gamma:.1f}, α = {alpha:.2f}: the objects make {share:.0%} of the loss",
        x=(-0.15, 5.4),
        y=(0, 1.05),
        x_label="γ",
        y_label="α",
    )
    even = [tally.balancing_alpha(g) for g in gammas]
    chart.curve(gammas, even, label="our detector: α for equal loss", colour=INK)
    for g, (a, _) in TABLE_1B.items():
        chart.point(g, a, label="best on COCO" if g == 5 else "", colour=INK)
    here = gamma, alpha
    hidden = any(math.dist(here, (g, a)) < 0.12 for g, (a, _) in TABLE_1B.items())
    chart.point(*here, label="you, on COCO's best" if hidden else "you", colour=YOURS)
    return chart.svg()


def _first(pi: Tensor, objects: float, gamma: float, entries: int) -> tuple[Tensor, Tensor]:
    """First loss of the background and of the objects at each pi: (n,), (n,)."""
    alpha = 0.25 if gamma else None
    background = entries * sigmoid_focal_loss(pi.logit(), torch.zeros_like(pi), alpha, gamma)
    return background, objects * sigmoid_focal_loss(pi.logit(), torch.ones_like(pi), alpha, gamma)


def first_loss(log10_objects: float, gamma: float, entries: int = 8_000_000) -> str:
    """First loss of background and of objects over pi; alpha is .25 where gamma is over 0. Dotted:
    the sum at gamma 2. A dot marks each sum's lowest point.
    """
    objects = 10**log10_objects
    pi = torch.logspace(-6, math.log10(0.5), 120, dtype=torch.float64)
    background, positive = _first(pi, objects, gamma, entries)
    total = background + positive
    chart = Chart(
        f"γ = {gamma:g}, {'α = .25' if gamma else 'no α'}, {objects:,.0f} positive anchors: "
        f"least at π = {_two_digits(pi[total.argmin()].item())}",
        x=(1e-6, 0.5),
        y=(1, 1e7),
        x_log=True,
        y_log=True,
        powers=True,
        y_label="first loss, summed (logarithmic, as π is)",
        x_label="π, the probability that the untrained network starts with",
    )
    chart.curve(
        pi.tolist(), background.tolist(), label="background", dash="dashed", colour=BACKGROUND
    )
    chart.curve(pi.tolist(), positive.tolist(), label="objects", dash="dashdot", colour=OBJECT)
    chart.curve(pi.tolist(), total.tolist(), label="both", colour=INK, width=3)
    if gamma != 2:
        theirs = torch.stack(_first(pi, objects, 2.0, entries)).sum(dim=0)
        chart.curve(pi.tolist(), theirs.tolist(), "both at γ = 2", "dotted", INK)
        chart.point(*_lowest(pi, theirs), colour=INK)
    chart.point(*_lowest(pi, total), colour=INK)
    chart.vline(0.01, label="the paper's .01")
    return chart.svg()


def _lowest(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Where a curve (n,), (n,) is at its lowest."""
    least = int(y.argmin())
    return x[least].item(), y[least].item()


def _two_digits(value: float) -> str:
    """A number below 1 with two digits that count, never as 1.3e-05: 0.000013, 0.30."""
    return f"{value:.{1 + max(1, math.ceil(-math.log10(value)))}f}"


def race_charts(
    races: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], what: str = "said yes to"
) -> str:
    """One chart for each set, one curve for each loss: share of the objects over the step.

    races: {set: {loss: [(step, share in 0..1), ...]}}. The axis begins below 0, where a loss that
    finds nothing would be hidden by it.
    """
    looks = (("solid", INK, 2.0), ("dashed", INK, 2.0), ("solid", BLUE, 3.5))
    charts = []
    for name, lanes in races.items():
        last = max(step for lane in lanes.values() for step, _ in lane)
        chart = Chart(
            name,
            x=(0, last),
            y=(-0.06, 1.06),
            x_label="step",
            y_label=f"share {what}",
            key=True,
            **PANEL,
        )
        for (loss, lane), (dash, colour, width) in zip(lanes.items(), looks):
            steps, shares = zip(*lane)
            chart.curve(steps, shares, loss, dash, colour, width)
        chart.key = None  # one key below serves all
        charts.append(chart.svg())
    names = list(dict.fromkeys(loss for lanes in races.values() for loss in lanes))
    drawn = beside(*charts)
    return below(drawn, key_line(list(zip(names, looks))))
