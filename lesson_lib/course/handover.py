"""Lesson 13's stage: its commands, a large smear, and five confusion matrices of one detector,
each with one fault around it.

    terminal("data", "list")                   a command of this package, printed and run
    large_smear()                              a field of view that one look cannot take in
    confused("A", detector, samples)           counts, as `breakdown.confusion_matrix`

Which fault belongs to which letter stands at the end of this file: look when you have guessed.
"""

import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any, TextIO

import numpy as np
import torch

from lesson_lib.boxes import pairwise_iou
from lesson_lib.breakdown import confusion_matrix
from lesson_lib.cli import main
from lesson_lib.colours import CLASS_COLOURS
from lesson_lib.config import CELL_CLASSES
from lesson_lib.course import svg
from lesson_lib.data.samples import Sample
from lesson_lib.data.smear_painter import paint_smear
from lesson_lib.training.trained import TrainedDetector

SCALE = 0.52  # of the cells, against BCCD's: as large as in a smear of 333 x 333 px
Found = list[dict[str, torch.Tensor]]


def terminal(*words: str, without: Sequence[str] = ()) -> int:
    """A command of this package, printed as one types it, and run; returns its exit status.

    without: a line that holds one of these is left out, such as one that tells what is still asked.
    """
    print("python -m lesson_lib", *words)
    if not without:
        return main(words)
    with redirect_stdout(_Without(sys.stdout, without)):
        return main(words)


class _Without(io.TextIOBase):
    """Hands on what is written to it as soon as a line is whole, but not the lines with one of
    these words.
    """

    def __init__(self, out: TextIO, words: Sequence[str]):
        self.out, self.words, self.begun = out, words, ""

    def write(self, text: str) -> int:
        *lines, self.begun = (self.begun + text).split("\n")
        for line in lines:
            if not any(word in line for word in self.words):
                self.out.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        self.out.flush()


def large_smear(side: int = 720, number: int = 39) -> Sample:
    """A field of side x side px with cells as large as in a small picture: many of them."""
    image, objects = paint_smear((0, "test", number), side, side, SCALE)
    return Sample(
        torch.from_numpy(image),
        torch.tensor([box for _, box in objects]).float().reshape(-1, 4),
        torch.tensor([label for label, _ in objects], dtype=torch.int64),
        id=f"large-{number}",
    )


def drawn(sample: Sample, found: dict[str, torch.Tensor], score: float, width: int) -> str:
    """A picture, its annotations dashed, and the detections that score over `score`, in the colour
    and with the letter of their class; under it how many are right; SVG.
    """
    counts = confusion_matrix([found], [sample.target()], len(CELL_CLASSES), score)
    right, over = int(counts.diagonal().sum()), int((found["scores"] > score).sum())
    boxes = "box" if over - right == 1 else "boxes"
    words = f"{right} of {len(sample.boxes)} objects found, {over - right} {boxes} too many."
    shapes = [*_shapes(found, score), svg.shape("truth", sample.boxes)]
    labels = _letters(found, score, width / sample.size[1])
    return svg.picture(sample.image, shapes, words, labels, caption=words, width=width)


def at_best(samples: Sequence[Sample], found: Found, score: float) -> str:
    """On how many samples everything is found with no box too many, and how wide the right boxes
    are against their objects, in words; detections that score over `score`.
    """
    flawless, widths = 0, []
    for sample, rows in zip(samples, found, strict=True):
        counts = confusion_matrix([rows], [sample.target()], len(CELL_CLASSES), score)
        flawless += int(counts.diagonal().sum() == counts.sum())
        boxes = rows["boxes"][rows["scores"] > score]
        overlap = pairwise_iou(sample.boxes, boxes)
        right, best = overlap.amax(1) >= 0.5, overlap.argmax(1)
        widths.append(_width(boxes[best])[right] / _width(sample.boxes)[right])
    return (
        f"everything found and no box too many on {flawless} of {len(samples)} smears; "
        f"median width of a box over its object's: {torch.cat(widths).median():.2f}"
    )


def _width(boxes: torch.Tensor) -> torch.Tensor:
    return boxes[:, 2] - boxes[:, 0]


def part_drawn(
    sample: Sample,
    found: dict[str, torch.Tensor],
    score: float,
    part: Sequence[int],
    words: str,
    tile: Sequence[int] = (),
) -> str:
    """Detections as in `drawn`, in a part of the picture, 400 px wide; the caption counts those in
    all of it. part, and a tile that is outlined: (left, top, right, bottom) px.
    """
    left, top, right, bottom = part
    corner = torch.tensor([left, top, left, top])
    moved = found | {"boxes": found["boxes"] - corner}
    shapes, scale = _shapes(moved, score), 400 / (right - left)
    labels = [
        (x, y, letter)
        for x, y, letter in _letters(moved, score, scale)
        if x < right - left - 8 / scale and y < bottom - top
    ]
    if tile:
        x1, y1, x2, y2 = (torch.tensor(tile) - corner).tolist()
        shapes.append(svg.stroke(f"M{x1} {y1}H{x2}V{y2}H{x1}Z", "#111111", 3))
    words += f": {int((found['scores'] > score).sum())} boxes over {score:g} in the whole field, "
    words += f"{len(sample.boxes)} objects."
    image = sample.image[:, top:bottom, left:right]
    return svg.picture(image, shapes, words, labels, caption=words, width=400)


def _letters(
    found: dict[str, torch.Tensor], score: float, scale: float
) -> list[tuple[float, float, str]]:
    """The letter of the class at each box that is seen. scale: of the drawing, against pixels."""
    over = found["scores"] > score
    return [
        (max(x1, 1), max(y1 - 2, 13 / scale), CELL_CLASSES[label][0])
        for (x1, y1, x2, y2), label in zip(
            found["boxes"][over].tolist(), found["labels"][over].tolist(), strict=True
        )
        if x2 > 0 and y2 > 0
    ]


def _shapes(found: dict[str, torch.Tensor], score: float) -> list[dict[str, Any]]:
    over = found["scores"] > score
    return [
        svg.shape("prediction", found["boxes"][over & (found["labels"] == label)], colour=colour)
        | {"casing": "#ffffff"}
        for label, colour in enumerate(CLASS_COLOURS.values())
    ]


def _seen(detector: TrainedDetector, samples: Sequence[Sample]) -> Found:
    return detector.predict(samples, score_threshold=0.05)


def _blue_first(detector: TrainedDetector, samples: Sequence[Sample]) -> Found:
    return _seen(detector, [replace(sample, image=sample.image.flip(0)) for sample in samples])


def _by_alphabet(detector: TrainedDetector, samples: Sequence[Sample]) -> Found:
    order = torch.tensor([sorted(detector.classes).index(name) for name in detector.classes])
    return [p | {"labels": order[p["labels"]]} for p in _seen(detector, samples)]


def _not_brought_back(detector: TrainedDetector, samples: Sequence[Sample]) -> Found:
    found = _seen(detector, samples)
    return [
        p | {"boxes": p["boxes"] * (detector.size / sample.size[0])}
        for p, sample in zip(found, samples, strict=True)
    ]


Fault = tuple[Callable[[TrainedDetector, Sequence[Sample]], Found], float]
#: What is around the detector, and the score that a detection must be over.
FAULTS: dict[str, Fault] = {
    "threshold too low": (_seen, 0.08),
    "threshold too high": (_seen, 0.9),
    "classes in another order": (_by_alphabet, 0.5),
    "colours exchanged": (_blue_first, 0.5),
    "boxes not brought back to the picture's pixels": (_not_brought_back, 0.5),
}


def confused(letter: str, detector: TrainedDetector, samples: Sequence[Sample]) -> np.ndarray:
    """The confusion matrix of `detector` on `samples` with the fault of this letter."""
    predict, score = FAULTS[_KEY[letter]]
    targets = [sample.target() for sample in samples]
    return confusion_matrix(predict(detector, samples), targets, len(detector.classes), score)


def fault_of(letter: str) -> str:
    """What is wrong around the detector of this letter's matrix; one of FAULTS."""
    return _KEY[letter]


_KEY = dict(zip("ABCDE", (tuple(FAULTS)[i] for i in (2, 0, 4, 1, 3))))
