"""All boxes that a detector proposes for one picture, and a drawing of those that are left when a
score is asked for: what lesson 0 opens on.

The network runs once, and so does NMS: going from the best box down, what it keeps of the boxes
over some score is what it keeps of all boxes, over that score. A slider only chooses.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lesson_lib.boxes import clip_boxes, cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from lesson_lib.coding import decode
from lesson_lib.colours import CLASS_COLOURS
from lesson_lib.course import svg
from lesson_lib.data.samples import Sample, resize
from lesson_lib.nms import class_aware_nms
from lesson_lib.training.trained import TrainedDetector

FOUND = 0.5  # a cell is found by a box of its class with this IoU
FEW = 60  # up to so many boxes are drawn bold, each with the letter of its class
SMALL = 400  # a narrower drawing's boxes are less bold, so that the truth under them is seen
LETTER = 12  # height of a letter with its halo, px of the screen
#: More of them: (how many at least, width in px, opacity as two hexadecimal digits).
THIN = ((1000, 0.5, "28"), (250, 0.7, "70"), (0, 1.0, "a0"))


@dataclass(frozen=True, eq=False)
class RawBoxes:
    """A row for each anchor, in the anchors' order.

    sample   the picture in its own size, with its true boxes
    classes  names of the labels
    boxes    (A, 4) xyxy, pixels of the picture, clipped to it
    scores   (A,) of the likeliest class, labels (A,) which one that is
    kept     (A,) bool: NMS keeps it, among all
    """

    sample: Sample
    classes: tuple[str, ...]
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    kept: Tensor

    def over(self, score: float, one_each: bool) -> Tensor:
        """(A,) bool: boxes with this score or more; one_each: of these the ones that NMS keeps."""
        chosen = self.scores >= score
        return chosen & self.kept if one_each else chosen

    def found(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Of the objects (G,) bool, which have a chosen box of their class on them; and of the
        chosen boxes (N,) bool, which lie on no object of theirs.
        """
        on = pairwise_iou(self.sample.boxes, self.boxes[chosen]) >= FOUND  # (G, N)
        on &= self.sample.labels[:, None] == self.labels[chosen]
        return on.any(dim=1), ~on.any(dim=0)

    @cached_property
    def paths(self) -> list[str]:
        """The outline of each box as an SVG path."""
        return [
            f"M{x1:g} {y1:g}H{x2:g}V{y2:g}H{x1:g}Z"
            for x1, y1, x2, y2 in self.boxes.double().round(decimals=1).tolist()
        ]


@torch.no_grad()
def raw_boxes(detector: TrainedDetector, sample: Sample) -> RawBoxes:
    """What an SSD says of a picture, for every anchor: its likeliest class and its box."""
    model, size = detector.model, detector.size
    images = resize(sample, size).image[None] / 255
    outputs, anchors = model(images), model.anchors(size)
    scores, labels = outputs.cls_logits[0].softmax(-1)[:, 1:].max(-1)  # channel 0 is background
    boxes = decode(outputs.box_deltas[0], xyxy_to_cxcywh(anchors), model.config.variances)
    height, width = sample.size
    boxes = cxcywh_to_xyxy(boxes) * (torch.tensor([width, height, width, height]) / size)
    boxes = clip_boxes(boxes, (height, width))
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    nms_threshold = detector.inference.get("nms_threshold", model.config.nms_threshold)
    kept[class_aware_nms(boxes, scores, labels, nms_threshold)] = True
    return RawBoxes(sample, detector.classes, boxes, scores, labels, kept)


def raw_drawing(
    raw: RawBoxes, score: float, one_each: bool, width: int = 560, words: str = ""
) -> str:
    """The boxes with this score or more over their picture, truth dashed, thin under many boxes; a
    caption counts them, where no other words are given.

    Returns SVG. Colours are those of the classes; a few boxes are bold, many are thin.
    """
    chosen = raw.over(score, one_each)
    count, small = int(chosen.sum()), width < SMALL
    truth = svg.shape("truth", raw.sample.boxes)
    thin_truth = truth | {"width": 1, "casing": ""}
    shapes = [truth if count <= FEW and not small else thin_truth]  # under the boxes
    for label, colour in enumerate(CLASS_COLOURS.values()):
        rows = (chosen & (raw.labels == label)).nonzero()[:, 0].tolist()
        path = "".join(raw.paths[row] for row in rows)
        if count <= FEW:
            bold = svg.stroke(path, colour)
            shapes.append(bold | {"width": 2.2, "casing": ""} if small else bold)
        else:
            thin, opacity = next(look[1:] for look in THIN if count >= look[0])
            shapes.append(svg.stroke(path, colour + opacity, thin) | {"casing": ""})
    words = words or caption(raw, score, one_each)
    least = LETTER * raw.sample.size[1] / width
    labels = _letters(raw, chosen, least) if count <= FEW else []
    return svg.picture(
        raw.sample.image, shapes, alt=words, labels=labels, caption=words, width=width
    )


def caption(raw: RawBoxes, score: float, one_each: bool) -> str:
    """How many boxes there are, how many are left, and what is on the cells."""
    chosen = raw.over(score, one_each)
    found, strange = raw.found(chosen)
    count, of_all = int(chosen.sum()), f"{len(raw.scores):,}"
    words = f"{count:,} of {of_all} boxes: score {score:.2f} or more" if score else ""
    words = words or (f"{count:,} of {of_all} boxes" if one_each else f"All {of_all} boxes")
    words += ", doubles dropped." if one_each else "."
    alone = int(strange.sum())
    if not score and not one_each:  # a carpet finds everything: that is no success
        return f"{words[:-1]}; {alone:,} fit no dashed box."
    none = f"{alone:,} box{' fits' if alone == 1 else 'es fit'}"
    return (
        f"{words} {int(found.sum())} of {len(found)} dashed boxes are found; {none} none of them."
    )


def _letters(raw: RawBoxes, chosen: Tensor, least: float) -> list[tuple[float, float, str]]:
    """The class's letter at each chosen box, with a "?" where the box fits none of the truth; its
    baseline lies `least` px of the picture or more below the picture's upper edge.
    """
    rows, (_, strange) = chosen.nonzero()[:, 0].tolist(), raw.found(chosen)
    places = [
        (*raw.boxes[row, :2].tolist(), raw.classes[raw.labels[row]][0] + "?" * int(alone))
        for row, alone in zip(rows, strange.tolist())
    ]
    return [(max(x, 1), max(y - 2, least), letter) for x, y, letter in places]
