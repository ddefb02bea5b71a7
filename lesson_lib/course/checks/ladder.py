"""The ladder: five checks that a detector of one's own climbs, each dearer and more telling than
the one before.

    ladder(MySSD, "ssd")                a class, called as MySSD(3, 128): number of classes, size of
                                        the picture
    ladder(my_ssd, "ssd")               a module, my_ssd.py, that holds such a class called Detector
    ladder(model, "retinanet")          a model; it is copied, and stays as it is

Such a detector is an nn.Module and has, as the library's SSD and RetinaNet have,
    model(images)                       (B, 3, H, W), float in 0..1 -> cls_logits (B, A, C),
                                        box_deltas (B, A, 4)
    model.anchors(image_size, device)   (A, 4) xyxy pixels, in the order of the rows
    model.criterion(outputs, anchors, targets)   {"cls", "box"}, two scalars; a target is {"boxes",
                                                 "labels"}
    model.detections(outputs, anchors, size)     one dict {"boxes", "scores", "labels"} for each
                                                 picture
C is K + 1 for "ssd", the background first, and K for "retinanet".
"""

import copy
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesson_lib.course.checks import DONE, TODO, WRONG, difference
from lesson_lib.data.samples import Sample
from lesson_lib.data.smears import Smears
from lesson_lib.detectors.criterion import Outputs, retinanet_criterion, ssd_criterion
from lesson_lib.detectors.detector import Detector
from lesson_lib.evaluation import coco_evaluate
from lesson_lib.training.loop import Recipe, predict, train

SIZE, CLASSES = 128, 3
PACKAGE = Path(__file__).resolve().parents[2]
ORACLES = {"ssd": ssd_criterion, "retinanet": retinanet_criterion}
GATES = {"ssd": 0.5, "retinanet": 0.3}  # AP50 asked after the short training
SPOTS = [(34.0, 34.0), (94.0, 34.0), (34.0, 94.0), (94.0, 94.0)]  # x, y, where rows are sampled
#: How far from its anchor a row may read, px, on the finest map and the next one. In six seeds the
#: rows of sound detectors read up to 19 and 40 px off; of rows cut wrongly the worst 58 at least.
LIMITS = (SIZE / 4, 3 * SIZE / 8)


class Fall(Exception):
    """What to look at, in a sentence."""


def shapes(model: Any, kind: str) -> str:
    """Shapes; rows that read the picture where their anchors stand; RetinaNet's prior."""
    pictures = (torch.stack([s.image for s in Smears("train", 2, SIZE)]) / 255).requires_grad_()
    (cls, box), anchors = given(model.eval()(pictures)), given(model.anchors(SIZE, "cpu"))
    count, outputs = len(anchors), CLASSES + (kind == "ssd")
    for name, got, wanted in (
        ("cls_logits", cls, (2, count, outputs)),
        ("box_deltas", box, (2, count, 4)),
    ):
        if tuple(got.shape) != wanted:
            raise Fall(
                f"{name}: expected shape {wanted} for {count} anchors, got {tuple(got.shape)}."
            )
    if not (anchors[:, 2:] > anchors[:, :2]).all() or anchors.max() < SIZE / 2:
        raise Fall(
            f"anchors: expected x1, y1, x2, y2 in pixels of a picture of {SIZE} px, got values "
            f"from {anchors.min():.3g} to {anchors.max():.3g}, the first row {anchors[0].tolist()}."
        )
    rows_read_where_their_anchors_stand({"cls_logits": cls, "box_deltas": box}, anchors, pictures)
    if kind == "retinanet" and not 0.003 < cls.sigmoid().mean() < 0.03:
        raise Fall(
            f"an untrained anchor gives each class {cls.sigmoid().mean():.3f}: the last bias lacks "
            "the prior."
        )
    return (
        f"{count:,} anchors, {outputs} + 4 numbers each; sampled rows of both heads, on the two "
        "finest maps, read the picture where their anchors stand"
    )


def rows_read_where_their_anchors_stand(
    heads: Mapping[str, Tensor], anchors: Tensor, pictures: Tensor
) -> None:
    """Raises Fall for a sampled row that reacts to another place of the picture.

    heads: each (B, A, values), made of pictures (B, 3, SIZE, SIZE); anchors (A, 4) xyxy. Coarser
    maps than two see too much of the picture to tell; the order of the boxes at one position
    cannot be told from an untrained network.
    """
    middle = (anchors[:, :2] + anchors[:, 2:]) / 2
    for rows, limit in zip(two_finest_maps(middle), LIMITS):
        for spot in torch.tensor(SPOTS):
            far = (middle[rows] - spot).norm(dim=1)
            for row in rows[far < far.min() + 0.5][:2].tolist():  # boxes of the nearest position
                for name, values in heads.items():
                    seen = read_around(values[0, row], pictures)
                    if not (seen - middle[row]).norm() <= limit:
                        raise Fall(
                            f"row {row} of {name} has its anchor at {middle[row].long().tolist()} "
                            f"(x, y), but reads the picture around {seen.long().tolist()}: the "
                            "rows must stand in the anchors' order."
                        )


def two_finest_maps(middle: Tensor) -> list[Tensor]:
    """The numbers of the rows of the two largest maps, finest first; middle (A, 2) x, y.

    A map begins where the anchors jump up the picture.
    """
    jumps = middle[:-1, 1] - middle[1:, 1] > SIZE / 4
    level = F.pad(jumps.long().cumsum(0), (1, 0))
    sizes = level.bincount()
    largest = sizes.topk(min(2, len(sizes))).indices
    return [(level == one).nonzero()[:, 0] for one in largest]


def read_around(values: Tensor, pictures: Tensor) -> Tensor:
    """The middle (x, y) of what some outputs for the first picture react to."""
    (slope,) = torch.autograd.grad(values.sum(), pictures, retain_graph=True)
    weight = slope[0].square().sum(0)
    if not weight.max() > 0:
        raise Fall("a row does not depend on the picture at all.")
    weight = (weight / weight.max()).square()  # (H, W): the strongest reactions alone
    pixel = torch.arange(SIZE) + 0.5
    return torch.stack((weight.sum(0) @ pixel, weight.sum(1) @ pixel)) / weight.sum()


def known_batch(model: Any, kind: str) -> str:
    """The loss of outputs and objects that are always the same, beside the library's."""
    anchors, seeded = model.anchors(SIZE, "cpu"), torch.Generator().manual_seed(0)
    smears = [{"boxes": s.boxes, "labels": s.labels} for s in Smears("val", 2, SIZE)]
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    for why, targets in (
        ("two smears and an empty picture", [*smears, empty]),
        ("no object at all", [empty] * 2),
    ):
        outputs = Outputs(
            *(
                torch.randn(len(targets), len(anchors), n, generator=seeded).requires_grad_()
                for n in (CLASSES + (kind == "ssd"), 4)
            )
        )
        got, wanted = (
            given(model.criterion(outputs, anchors, targets)),
            ORACLES[kind](outputs, anchors, targets),
        )
        if not isinstance(got, dict) or not wanted.keys() <= got.keys():
            raise Fall(f'criterion: expected a dict with "cls" and "box", got {got!r:.80}.')
        for name in wanted:
            if fault := difference(torch.as_tensor(got[name]).detach(), wanted[name].item(), 1e-3):
                raise Fall(f"{why}, {name!r}: {fault}")
        slopes = torch.autograd.grad(got["cls"] + got["box"], list(outputs), allow_unused=True)
        if not all(slope is None or slope.isfinite().all() for slope in slopes):
            raise Fall(f"{why}: the loss is right, but its gradient is not finite.")
    return "as the library's, with and without objects"


def overfit(model: Any, kind: str) -> str:
    """One picture, learnt by heart."""
    picture = [Smears("train", 3, SIZE)[2]]
    words = fit(model, picture, Recipe(epochs=80, batch=1, size=SIZE, augment="none"), share=0.2)
    return f"{words}; on itself {gate(model, kind, picture, 0.9)}"


def short_training(model: Any, kind: str) -> str:
    """Sixty-four smears, ten times over."""
    return fit(
        model, Smears("train", 64, SIZE), Recipe(epochs=10, batch=4, lr=3e-3, size=SIZE), share=0.5
    )


def fit(model: Detector, pictures: Smears | list, recipe: Recipe, share: float) -> str:
    """Train; the loss of the last tenth must be less than `share` of the first one."""
    losses = [record["loss"] for record in train(model, pictures, recipe)]
    tenth = losses[-(len(losses) // 10) :]
    words = f"loss {losses[0]:.2f} to {sum(tenth) / len(tenth):.2f} in {len(losses)} steps"
    if not sum(tenth) / len(tenth) < share * losses[0]:
        raise Fall(
            f"{words}; does the gradient reach every part, and does every row learn what its "
            "anchor must?"
        )
    return words


def gate(
    model: Any, kind: str, pictures: Sequence[Sample] | None = None, least: float | None = None
) -> str:
    """AP at IoU .5, by default on pictures that the short training has not seen."""
    judged, least = pictures or Smears("val", 32, SIZE), least or GATES[kind]
    figures = coco_evaluate(predict(model, judged, SIZE), [s.target() for s in judged], CLASSES)
    found = figures["AP50"]
    if found < least:
        raise Fall(
            f"AP50 {found:.2f}, {least:.2f} asked; look at decoding, variances, the background's "
            "channel, NMS."
        )
    return f"AP50 {found:.2f}, {least:.2f} asked"


def given(value: Any) -> Any:
    """The value itself, if a stub has not just returned nothing."""
    if value is None or value is ...:
        raise NotImplementedError
    return value


def place(error: Exception) -> str:
    """The innermost line of the learner's own code, or nothing: where torch or this package gave up
    helps nobody.
    """
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not Path(frame.filename).is_relative_to(PACKAGE)
        and "site-packages" not in frame.filename
    ]
    return f" in line {frames[-1].lineno} of {frames[-1].name}" if frames else ""


RUNGS = {
    "shapes": shapes,
    "known batch": known_batch,
    "overfit one picture": overfit,
    "short training": short_training,
    "metric gate": gate,
}


class Step(NamedTuple):
    """What one rung said of a detector: its name, DONE, TODO or WRONG, and a sentence."""

    rung: str
    mark: str
    words: str


def climb(
    subject: Any, kind: str, rungs: Sequence[str] = tuple(RUNGS), stop: bool = True
) -> Iterator[Step]:
    """One Step for each of `rungs`, in RUNGS' order, as it is climbed; nothing is raised.

    stop: at the first rung that is not passed. Without, every rung is tried for itself, which says
    what each of them proves. The gate judges what the rung before it has trained.
    """
    make = getattr(subject, "Detector", None) if isinstance(subject, ModuleType) else subject
    model: Any = None
    for name in rungs:
        rung = RUNGS[name]
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                if rung is not gate:
                    model = (
                        copy.deepcopy(make)
                        if isinstance(make, nn.Module)
                        else given(given(make)(CLASSES, SIZE))
                    )
                mark, words = DONE, rung(model, kind)
        except NotImplementedError:
            mark, words = TODO, "not attempted yet"
        except Fall as fall:
            mark, words = WRONG, str(fall)
        except Exception as error:  # whatever a learner's code may raise
            mark, words = WRONG, f"stopped with {type(error).__name__}{place(error)}: {error}"
        yield Step(name, mark, words)
        if stop and mark != DONE:
            return


def ladder(subject: Any, kind: str = "ssd", until: str = "metric gate") -> None:
    """Climb as far as the detector gets, at most to the rung `until`: prints a line for each, and
    never raises.
    """
    if kind not in ORACLES or until not in RUNGS:
        print(f"{WRONG} choose kind from {', '.join(ORACLES)}; until from {', '.join(RUNGS)}.")
        return
    names = list(RUNGS)
    rungs = names[: names.index(until) + 1]
    for number, step in enumerate(climb(subject, kind, rungs), start=1):
        print(f"{step.mark} {number} {step.rung}: {step.words}", flush=True)
