"""Make data/focal_outputs.npz, the record that lesson 4 draws FL's figure 4 from: all that a small
RetinaNet, trained with focal loss (gamma 2, alpha .25), says of pictures that it has never seen.

    python tools/focal_outputs.py [FILE]          about 2 minutes on one CPU core

One number for each class of each anchor that is not ignored: z, the logit turned towards the right
answer, so that p_t = sigmoid(z). Kept is how many entries had which z, in steps of 1 / 64:

    steps      (L,) int16: z = steps / 64, rising
    positives  (L,) int32: entries "this anchor, the class of its object"
    negatives  (L,) int32: all others
    pictures   whose outputs these are
    recall     share of each class found at IoU .5 by the best 20 detections
"""

import sys
from pathlib import Path

import numpy as np
import torch

from lesson_lib.anchors import PyramidAnchors
from lesson_lib.data.smears import Smears
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.evaluation import recall_at
from lesson_lib.matching import IGNORE, POSITIVE, match_retinanet, take_matched
from lesson_lib.training.loop import Recipe, predict, train

SIZE, STEPS = 128, 64
CONFIG = RetinaNetConfig(
    num_classes=3,
    backbone="tiny-8",
    norm="batch",
    channels=32,
    anchors=PyramidAnchors(sizes=(10, 20, 40, 80, 160)),
)


@torch.inference_mode()
def turned_logits(model: RetinaNet, samples: Smears) -> tuple[torch.Tensor, torch.Tensor]:
    """z of all positive and of all negative entries, each (entries,);
    ignored anchors are left out.
    """
    anchors, found = model.eval().anchors(SIZE), ([], [])
    for sample in samples:
        logits = model(sample.image[None] / 255).cls_logits[0]  # (A, K)
        match = match_retinanet(sample.boxes, anchors)
        labels = take_matched(sample.labels, match.gt_index, default=0)  # (A,)
        target = (labels[:, None] == torch.arange(logits.shape[1])) & (match.label == POSITIVE)[
            :, None
        ]
        found[0].append(logits[target])
        found[1].append(-logits[~target & (match.label != IGNORE)[:, None]])
    return torch.cat(found[0]), torch.cat(found[1])


def main(file: Path) -> None:
    torch.manual_seed(0)
    model, pictures = RetinaNet(CONFIG), Smears("val", 400, SIZE)
    for record in train(
        model, list(Smears("train", 400, SIZE)), Recipe(epochs=20, size=SIZE, lr=4e-3)
    ):
        print(
            f"\rstep {record['step']}/{record['steps']}  loss {record['loss']:.3f}",
            end="",
            flush=True,
        )
    recall = recall_at(
        predict(model, pictures, SIZE),
        [s.target() for s in pictures],
        Smears.classes,
        0.5,
        max_detections=20,
    )
    positive, negative = (
        (z * STEPS).round().short().numpy() for z in turned_logits(model, pictures)
    )
    steps = np.unique(np.concatenate((positive, negative)))
    counts = {
        name: np.bincount(np.searchsorted(steps, z), minlength=len(steps)).astype(np.int32)
        for name, z in (("positives", positive), ("negatives", negative))
    }
    np.savez_compressed(
        file, steps=steps, pictures=len(pictures), recall=list(recall.values()), **counts
    )
    print(
        f"\n{len(positive):,} positive, {len(negative):,} negative entries, "
        f"{file.stat().st_size:,} bytes, {recall}"
    )


if __name__ == "__main__":
    main(
        Path(sys.argv[1])
        if sys.argv[1:]
        else Path(__file__).parent.parent / "data" / "focal_outputs.npz"
    )
