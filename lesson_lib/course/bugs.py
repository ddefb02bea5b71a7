"""What each rung of the ladder proves: a matrix of rungs and injected bugs, filled by running it.

    rows = fill("ssd", ["none", "no permute"], rungs=("shapes", "known batch"))
    matrix_drawing(rows)                    SVG: one row for each bug, one column for each rung

Each bug is the library's small detector with one method changed; none of them raises an error.
Every rung is tried for itself, also above one that has caught the bug.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lesson_lib.anchors import PyramidAnchors
from lesson_lib.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from lesson_lib.colours import BLUE, GREEN, ORANGE
from lesson_lib.course import svg
from lesson_lib.course.checks import DONE
from lesson_lib.course.checks.ladder import RUNGS, climb
from lesson_lib.detectors.criterion import Outputs, retinanet_criterion, ssd_criterion
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSDConfig


class SmallSSD(SSD):
    """SSD on a backbone of a few thin layers: lesson 8's."""

    def __init__(self, num_classes: int = 3, image_size: int = 128) -> None:
        super().__init__(
            SSDConfig(num_classes=num_classes, backbone="tiny", norm="group", image_size=image_size)
        )


class SmallRetinaNet(RetinaNet):
    """RetinaNet on the same backbone, 32 channels wide, anchors from 16 px on: lesson 9's."""

    prior = 0.01

    def __init__(self, num_classes: int = 3, image_size: int = 128) -> None:
        spec = PyramidAnchors(sizes=(16, 32, 64, 128, 256))
        super().__init__(
            RetinaNetConfig(
                num_classes=num_classes,
                backbone="tiny",
                channels=32,
                anchors=spec,
                prior=self.prior,
            )
        )


def _without_permute(answers: Sequence[Tensor], values: int) -> Tensor:
    return torch.cat([answer.reshape(len(answer), -1, values) for answer in answers], dim=1)


class _NoPermuteSSD(SmallSSD):
    def forward(self, images: Tensor) -> Outputs:
        maps, heads = self.features(images), self.heads
        cls = [conv(x) for conv, x in zip(heads.cls, maps)]
        box = [conv(x) for conv, x in zip(heads.box, maps)]
        return Outputs(_without_permute(cls, heads.outputs), _without_permute(box, 4))


class _NoPermuteRetinaNet(SmallRetinaNet):
    def forward(self, images: Tensor) -> Outputs:
        maps, heads = self.features(images), self.heads
        cls = [heads.cls(heads.cls_tower(x)) for x in maps]
        box = [heads.box(heads.box_tower(x)) for x in maps]
        return Outputs(_without_permute(cls, heads.num_classes), _without_permute(box, 4))


def _by_all_anchors(base: Any) -> Any:
    """Divides the sum by all anchors of the batch, not by the positive ones."""

    class ByAllAnchors(base):
        def criterion(self, outputs, anchors, targets, normaliser=None, **options):
            def everyone(matched: Tensor) -> Tensor:
                return torch.full_like(matched, len(anchors) * len(targets))

            return super().criterion(outputs, anchors, targets, everyone, **options)

    return ByAllAnchors


def _trained_with(base: Any, **changed: Any) -> Any:
    """Its criterion is always given these options."""

    class Changed(base):
        def criterion(self, outputs, anchors, targets, normaliser=None, **options):
            return super().criterion(outputs, anchors, targets, normaliser, **(options | changed))

    return Changed


def _ratio_flipped(base: Any) -> Any:
    """Trained with ratio = w / h, used with anchors of h / w."""

    class RatioFlipped(base):
        def detections(self, outputs, anchors, size, **options):
            flipped = cxcywh_to_xyxy(xyxy_to_cxcywh(anchors)[:, [0, 1, 3, 2]])
            return super().detections(outputs, flipped, size, **options)

    return RatioFlipped


class _NoVariances(SmallSSD):
    """Learns offsets as they are; its detections multiply them by 0.1 and 0.2."""

    def criterion(self, outputs, anchors, targets, normaliser=None, **options):
        return ssd_criterion(Outputs(*outputs), anchors, targets, variances=(1.0, 1.0), **options)


class _OffByOne(SmallSSD):
    """Forgets in use that channel 0 is the background: reads channel k as class k."""

    def detections(self, outputs, anchors, size, **options):
        rolled = Outputs(outputs[0].roll(1, -1), outputs[1])
        return super().detections(rolled, anchors, size, **options)


class _NoPrior(SmallRetinaNet):
    prior = 0.5


class _NoTopDown(SmallRetinaNet):
    """The pyramid's sum is left out: every level has its lateral alone."""

    def features(self, images: Tensor) -> list[Tensor]:
        maps, fpn = self.backbone(images), self.fpn
        levels = [output(lateral(x)) for output, lateral, x in zip(fpn.output, fpn.lateral, maps)]
        p6 = fpn.p6(maps[-1])
        return [*levels, p6, fpn.p7(p6.relu())]


class _VariancesInTheLoss(SmallRetinaNet):
    """Learns offsets divided by 0.1 and 0.2; its detections take them as they are."""

    def criterion(self, outputs, anchors, targets, normaliser=None, **options):
        return retinanet_criterion(
            Outputs(*outputs), anchors, targets, variances=(0.1, 0.2), **options
        )


#: For each kind: the bug's name and the small detector that has it.
BUGS: Mapping[str, Mapping[str, Any]] = {
    "ssd": {
        "none": SmallSSD,
        "no permute": _NoPermuteSSD,
        "divided by all anchors": _by_all_anchors(SmallSSD),
        "no variances in the loss": _NoVariances,
        "no mining": _trained_with(SmallSSD, ratio=1e6),
        "background read as class 0": _OffByOne,
        "ratio flipped in use": _ratio_flipped(SmallSSD),
    },
    "retinanet": {
        "none": SmallRetinaNet,
        "no permute": _NoPermuteRetinaNet,
        "no prior": _NoPrior,
        "divided by all anchors": _by_all_anchors(SmallRetinaNet),
        "ignored as background": _trained_with(SmallRetinaNet, negative=0.5),
        "variances in the loss alone": _VariancesInTheLoss,
        "ratio flipped in use": _ratio_flipped(SmallRetinaNet),
        "no top-down path": _NoTopDown,
    },
}
#: What lesson 9 has its readers tell apart by the ladder's lines: one more than the matrix holds.
DIAGNOSES: Mapping[str, Any] = {
    **BUGS["retinanet"],
    "alpha swapped": _trained_with(SmallRetinaNet, alpha=0.75),
}
#: Where each bug is caught first; "" where no rung sees it. The tests run it.
FIRST = {
    "ssd": {
        "none": "",
        "no permute": "shapes",
        "divided by all anchors": "known batch",
        "no variances in the loss": "known batch",
        "no mining": "known batch",
        "background read as class 0": "overfit one picture",
        "ratio flipped in use": "overfit one picture",
    },
    "retinanet": {
        "none": "",
        "no permute": "shapes",
        "no prior": "shapes",
        "divided by all anchors": "known batch",
        "ignored as background": "known batch",
        "variances in the loss alone": "known batch",
        "ratio flipped in use": "overfit one picture",
        "no top-down path": "",
    },
}


class Outcome(NamedTuple):
    """Whether a rung was passed, what it said, and the AP50 that it measured, if it did."""

    passed: bool
    words: str
    ap50: float | None


class Row(NamedTuple):
    """One line of the matrix; `outcomes` has the rungs that were tried."""

    bug: str
    outcomes: dict[str, Outcome]


def fill(kind: str, bugs: Sequence[str] = (), rungs: Sequence[str] = tuple(RUNGS)) -> list[Row]:
    """Let each bug (none named: all of its kind) climb each of `rungs`, for itself.

    ValueError for a kind, bug or rung that does not exist.
    """
    if kind not in BUGS:
        raise ValueError(f"kind is {kind!r}; choose from {', '.join(BUGS)}.")
    for name, known in ((bugs, BUGS[kind]), (rungs, RUNGS)):
        if unknown := [one for one in name if one not in known]:
            raise ValueError(f"There is no {unknown[0]!r}; choose from {', '.join(known)}.")
    rows = []
    for bug in bugs or BUGS[kind]:
        steps = climb(BUGS[kind][bug], kind, rungs, stop=False)
        rows.append(
            Row(bug, {s.rung: Outcome(s.mark == DONE, s.words, _ap50(s.words)) for s in steps})
        )
    return rows


def fill_for(kind: str, budget: str) -> list[Row]:
    """The matrix that a budget has time for: all of it, or at "ci" the two rungs that cost nothing,
    and one picture learned by heart without the permute.
    """
    if budget != "ci":
        return fill(kind)
    rows = fill(kind, rungs=("shapes", "known batch"))
    (heart,) = fill(kind, ["no permute"], ["overfit one picture"])
    return [
        row._replace(outcomes=row.outcomes | heart.outcomes) if row.bug == heart.bug else row
        for row in rows
    ]


def _ap50(words: str) -> float | None:
    found = re.search(r"AP50 (\d\.\d+)", words)
    return float(found[1]) if found else None


LEFT, TOP, WIDE, HIGH = 210, 40, 122, 34  # of the drawing: row names, head, one field


def matrix_drawing(rows: Sequence[Row], predicted: Mapping[str, Any] | None = None) -> str:
    """The matrix as SVG: a field for each bug and rung, green where it passes, orange where it is
    caught, with the AP50 where one was measured; empty where it was not tried.

    predicted  {bug: the rung that somebody expects to catch it}: these fields get a blue frame
    """
    columns, body, told = list(RUNGS), "", []
    for i, rung in enumerate(columns):
        body += svg.text(LEFT + WIDE * (i + 0.5), TOP - 14, rung, 12, "middle")
    for j, row in enumerate(rows):
        y = TOP + HIGH * j
        body += svg.text(LEFT - 10, y + 22, row.bug, 13, "end")
        for i, rung in enumerate(columns):
            x, outcome = LEFT + WIDE * i, row.outcomes.get(rung)
            body += _field(x, y, outcome)
            if predicted and predicted.get(row.bug) == rung:
                body += (
                    f'<rect x="{x + 3}" y="{y + 3}" width="{WIDE - 6}" height="{HIGH - 6}" '
                    f'fill="none" stroke="{BLUE}" stroke-width="3"/>'
                )
        caught = [rung for rung, outcome in row.outcomes.items() if not outcome.passed]
        told.append(f"{row.bug}: caught by {', '.join(caught) or 'no rung'}.")
    height = TOP + HIGH * len(rows) + 6
    return svg.document(body, LEFT + WIDE * len(columns) + 6, height, " ".join(told))


def _field(x: float, y: float, outcome: Outcome | None) -> str:
    frame = f'<rect x="{x + 1}" y="{y + 1}" width="{WIDE - 2}" height="{HIGH - 2}" rx="3"'
    if outcome is None:
        return frame + ' fill="none" stroke="currentColor" stroke-opacity=".25"/>'
    colour, word = (GREEN, "passes") if outcome.passed else (ORANGE, "caught")
    words = word if outcome.ap50 is None else f"{word}, {outcome.ap50:.2f}"
    field = frame + f' fill="{colour}" fill-opacity="{0.25 if outcome.passed else 0.85}"/>'
    return field + svg.text(x + WIDE / 2, y + 22, words, 13, "middle", _ink(outcome.passed))


def _ink(passed: bool) -> str:
    """Black on the strong orange, the page's own ink on the pale green."""
    return "currentColor" if passed else "#111111"
