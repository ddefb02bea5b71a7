"""What the synthetic smears have in common with BCCD: `python tests/smear_statistics.py` prints the
numbers.

Shares of objects, sides and overlaps do not depend on a picture's size; colour and sharpness are
compared at 256 x 256 pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from lesson_lib.boxes import box_area, pairwise_iou
from lesson_lib.config import CELL_CLASSES, dataset_roots
from lesson_lib.data.samples import Sample, resize
from lesson_lib.data.smears import Smears

# BCCD's training split, as `describe` measures it: test_smears compares where the data set is at
# hand.
BCCD_TRAIN = {
    "RBC a picture: mean, sd": (11.615, 4.102),
    "RBC side: 5, 50, 95 %": (0.152, 0.186, 0.219),
    "RBC width/height: 5, 50, 95 %": (0.768, 1.040, 1.432),
    "RBC overlap: 50, 90 %": (0.044, 0.219),
    "WBC a picture: mean, sd": (1.044, 0.228),
    "WBC side: 5, 50, 95 %": (0.211, 0.342, 0.434),
    "WBC width/height: 5, 50, 95 %": (0.913, 1.075, 1.539),
    "WBC overlap: 50, 90 %": (0.044, 0.086),
    "Platelets a picture: mean, sd": (1.020, 1.150),
    "Platelets side: 5, 50, 95 %": (0.057, 0.071, 0.099),
    "Platelets width/height: 5, 50, 95 %": (0.779, 1.047, 1.319),
    "Platelets overlap: 50, 90 %": (0.004, 0.050),
    "colour, mean: R, G, B": (188.010, 177.521, 182.283),
    "colour, sd in a picture: R, G, B": (14.883, 25.560, 18.537),
    "colour, sd between pictures: R, G, B": (3.300, 3.648, 3.596),
    "sharpness: mean, sd": (13.563, 1.723),
}


def _quantiles(values: list[torch.Tensor], at: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(
        torch.cat(values).double().quantile(torch.tensor(at, dtype=torch.float64)).tolist()
    )


def describe(samples: Sequence[Sample]) -> dict[str, tuple[float, ...]]:
    """Row -> numbers. Side: sqrt(box area / picture area). Overlap: largest IoU with another box.

    Sharpness: the step to the next pixel in green that 2 % of a picture's pixels exceed: edges, not
    noise.
    """
    counts, sides, aspects, overlaps, pixels, steps = (
        [],
        [[], [], []],
        [[], [], []],
        [[], [], []],
        [],
        [],
    )
    for sample in (samples[i] for i in range(len(samples))):
        boxes, area = sample.boxes, sample.size[0] * sample.size[1]
        iou = pairwise_iou(boxes, boxes).fill_diagonal_(0)
        counts.append(torch.bincount(sample.labels, minlength=3).double())
        for k in range(3):
            mine = sample.labels == k
            sides[k].append((box_area(boxes[mine]) / area).sqrt())
            aspects[k].append((boxes[mine, 2] - boxes[mine, 0]) / (boxes[mine, 3] - boxes[mine, 1]))
            overlaps[k].append(iou[mine].amax(1) if len(boxes) else torch.zeros(0))
        image = (sample if sample.size == (256, 256) else resize(sample, 256)).image.double()
        pixels.append(torch.stack((image.mean((1, 2)), image.std((1, 2)))))
        steps.append((image[1, :, 1:] - image[1, :, :-1]).abs().flatten().quantile(0.98))
    counts, pixels, steps = torch.stack(counts), torch.stack(pixels), torch.stack(steps)
    rows = {}
    for k, name in enumerate(CELL_CLASSES):
        rows[f"{name} a picture: mean, sd"] = (
            counts[:, k].mean().item(),
            counts[:, k].std().item(),
        )
        rows[f"{name} side: 5, 50, 95 %"] = _quantiles(sides[k], (0.05, 0.5, 0.95))
        rows[f"{name} width/height: 5, 50, 95 %"] = _quantiles(aspects[k], (0.05, 0.5, 0.95))
        rows[f"{name} overlap: 50, 90 %"] = _quantiles(overlaps[k], (0.5, 0.9))
    rows["colour, mean: R, G, B"] = tuple(pixels[:, 0].mean(0).tolist())
    rows["colour, sd in a picture: R, G, B"] = tuple(pixels[:, 1].mean(0).tolist())
    rows["colour, sd between pictures: R, G, B"] = tuple(pixels[:, 0].std(0).tolist())
    rows["sharpness: mean, sd"] = (steps.mean().item(), steps.std().item())
    return rows


def bccd_folder() -> Path | None:
    return next(
        (root / "bccd" for root in dataset_roots() if (root / "bccd" / "Annotations").is_dir()),
        None,
    )


def main() -> None:
    ours = describe(Smears("val", 200, 256, seed=0, cache=False))
    for row, theirs in BCCD_TRAIN.items():
        print(
            f"{row:38s}", *(f"{a:8.3f}" for a in theirs), " | ", *(f"{b:8.3f}" for b in ours[row])
        )


if __name__ == "__main__":
    main()
