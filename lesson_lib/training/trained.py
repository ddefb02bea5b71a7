"""Trained detectors, ready to predict: those that come with the package, and those of one's own
runs.

detector = lesson_lib.load("ssd-tiny-bccd")
for found in detector.predict(["blood.jpg"]):
    print([detector.classes[label] for label in found["labels"]], found["boxes"])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lesson_lib import weights
from lesson_lib.data.pictures import read_picture
from lesson_lib.data.resizing import Resizing
from lesson_lib.data.samples import Sample
from lesson_lib.detectors.retinanet import RetinaNet
from lesson_lib.detectors.ssd import SSD
from lesson_lib.training import runs
from lesson_lib.training.loop import predict


@dataclass(frozen=True, eq=False)
class TrainedDetector:
    """A model with all that predicting takes.

    model      SSD or RetinaNet, in evaluation mode
    classes    names; label k is classes[k]
    size       pixels, and resizing: how pictures are brought to it, as in training
    inference  options of `model.detections` that it was evaluated with
    about      data, command, machine, figures, ...: what its card or its run.json says
    """

    model: SSD | RetinaNet
    classes: tuple[str, ...]
    resizing: Resizing
    inference: dict[str, Any]
    about: dict[str, Any]

    @property
    def size(self) -> int:
        return self.resizing.size

    def predict(
        self, pictures: Sequence[Sample | str | Path], **options: Any
    ) -> list[dict[str, Tensor]]:
        """{"boxes" (N, 4) xyxy in each picture's own pixels, "scores" (N,), "labels" (N,)}, best
        first.

        pictures: samples, or picture files. options go before those in `inference`.
        """
        samples = [
            picture if isinstance(picture, Sample) else _unlabelled(Path(picture))
            for picture in pictures
        ]
        return predict(self.model, samples, self.resizing, **self.inference | options)


def load(name: str | Path, device: torch.device | str = "cpu") -> TrainedDetector:
    """A detector that comes with the package, by name, or the folder of a run.

    ValueError with one sentence, and the names that there are, for an unknown one.
    """
    if not Path(name).exists() and str(name) not in weights.names():
        near = get_close_matches(str(name), weights.names(), 1, 0.4)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"No detector is called {str(name)!r}; {guess}There are {', '.join(weights.names())}, "
            "and the folders of your own runs."
        )
    model, recipe, about = runs.load(name, device)
    classes = tuple(about["classes"])
    return TrainedDetector(model, classes, recipe.resizing, recipe.inference, about)


def _unlabelled(file: Path) -> Sample:
    return Sample(
        read_picture(file), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), id=file.stem
    )
