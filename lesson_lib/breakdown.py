"""Behind the one number: what kinds of errors a detector makes, for which classes and sizes, and
how it counts.

predictions, targets and classes are those of evaluation.py, whose coco_evaluate also gives the
precision-recall curves. The kinds of errors are TIDE's ("A General Toolbox for Identifying Object
Detection Errors", arXiv:2008.08115, section 2.2), and so are what decides between them and what
repairs them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from lesson_lib.boxes import box_area, pairwise_intersection, pairwise_iou
from lesson_lib.evaluation import average_precision, precision_recall

KINDS = ("class", "localisation", "both", "duplicate", "background", "missed")


class Judged(NamedTuple):
    """N detections that count, best score first in each picture, and all G objects to be found."""

    scores: np.ndarray  # (N,)
    labels: np.ndarray  # (N,) as predicted
    kinds: np.ndarray  # (N,) "correct" or one of KINDS
    objects: np.ndarray  # (N,) which of the G is meant, found or nearly so; -1: none
    truth: np.ndarray  # (G,) their labels


def judge(
    predictions: Sequence[dict], targets: Sequence[dict], iou: float = 0.5, background: float = 0.1
) -> Judged:
    """The kind of every detection, for which the first line that fits decides:

        correct       of its class's free objects it overlaps one by IoU >= iou: it takes the best,
                      by rank
        localisation  its best IoU with an object of its class lies between `background` and iou
        class         it overlaps an object of another class by IoU >= iou
        duplicate     it overlaps an object of its class by IoU >= iou, which a better one has taken
        background    its IoU with every object is at most `background`
        both          the rest: near an object of another class only

    What falls on a crowd or a difficult object of its class, and on nothing to be found, does not
    count.
    """
    columns, truth, seen = [], [], 0
    for detected, target in zip(predictions, targets, strict=True):
        found = {name: value.cpu() for name, value in detected.items()}
        boxes, named = found["boxes"].double(), found["labels"].numpy()
        labels = target["labels"].cpu().numpy()
        overlap, real, aside = _overlaps(boxes, named, target, iou)  # (N, G), (G,), (N,)
        same = named[:, None] == labels  # (N, G)
        own, other, free = (
            np.where(real & same, overlap, -1),
            np.where(real & ~same, overlap, -1),
            real.copy(),
        )
        number = seen + np.cumsum(real) - 1  # among all G
        for i in found["scores"].argsort(descending=True, stable=True).tolist():
            kind, at = _kind(own[i], other[i], free, iou, background)
            if kind == "correct":
                free[at] = False
            elif aside[i]:
                continue
            columns.append(
                (found["scores"][i], found["labels"][i], kind, -1 if at < 0 else number[at])
            )
        truth, seen = [*truth, labels[real]], seen + int(real.sum())
    scores, names, kinds, meant = zip(*columns) if columns else ((), (), (), ())
    return Judged(
        np.array(scores, float),
        np.array(names, int),
        np.array(kinds, str),
        np.array(meant, int),
        np.concatenate([np.zeros(0, int), *truth]),
    )


def _kind(
    own: np.ndarray, other: np.ndarray, free: np.ndarray, iou: float, background: float
) -> tuple[str, int]:
    """(kind, object meant or -1) of one detection, from its IoU with each object: (G,), -1 where
    not asked.
    """
    if len(own) == 0:
        return "background", -1
    left = np.where(free, own, -1)
    if left.max() >= iou:
        return "correct", int(left.argmax())
    if background <= own.max() < iou:
        return "localisation", int(own.argmax())
    if other.max() >= iou:
        return "class", int(other.argmax())
    if own.max() >= iou:
        return "duplicate", -1
    return ("background" if max(own.max(), other.max()) <= background else "both"), -1


def error_counts(
    judged: Judged, classes: Sequence[str], score_threshold: float = 0.5
) -> dict[str, dict[str, int]]:
    """{class: {"correct": n, each of KINDS: n, "objects": n}}, of the detections of
    `score_threshold` or more.

    Detections stand under the class that they name, objects under their own. Missed is an object
    that no detection found or nearly found (a localisation or class error).
    """
    over = judged.scores >= score_threshold
    met = np.isin(np.arange(len(judged.truth)), judged.objects[over])
    counts = {}
    for label, name in enumerate(classes):
        kinds = judged.kinds[over & (judged.labels == label)]
        counts[name] = {kind: int((kinds == kind).sum()) for kind in ("correct", *KINDS[:-1])}
        counts[name] |= {
            "missed": int((~met & (judged.truth == label)).sum()),
            "objects": int((judged.truth == label).sum()),
        }
    return counts


def error_costs(judged: Judged, num_classes: int) -> dict[str, float]:
    """{"AP": AP at the judge's IoU, each of KINDS: what AP would gain if that kind alone were
    repaired}.

    An object that is not found lends itself to one repair: the best of the localisation and class
    errors that mean it becomes correct. All other wrong detections of the kind go; missed objects
    are taken off the count. The gains do not add up to 1 - AP. Departs from TIDE: difficult objects
    are set aside, as crowds are.
    """
    correct, order = judged.kinds == "correct", np.argsort(-judged.scores, kind="stable")
    repair = dict.fromkeys(judged.objects[correct].tolist())  # object -> None, or who is repaired
    for i in order[judged.objects[order] >= 0].tolist():
        repair.setdefault(int(judged.objects[i]), i)
    repaired = np.isin(np.arange(len(correct)), [i for i in repair.values() if i is not None])
    labels = judged.labels.copy()
    labels[repaired] = judged.truth[judged.objects[repaired]]
    costs = {"AP": _mean_ap(judged.scores, judged.labels, correct, judged.truth, num_classes)}
    for kind in KINDS:
        kept = (judged.kinds != kind) | repaired
        now = np.where(judged.kinds == kind, labels, judged.labels)[kept]
        truth = judged.truth[sorted(repair)] if kind == "missed" else judged.truth
        true = (correct | (judged.kinds == kind))[kept]
        costs[kind] = _mean_ap(judged.scores[kept], now, true, truth, num_classes) - costs["AP"]
    return costs


def _mean_ap(
    scores: np.ndarray, labels: np.ndarray, true: np.ndarray, truth: np.ndarray, num_classes: int
) -> float:
    """COCO's 101-point AP at one IoU: the mean over the classes that have objects;
    nan without any.
    """
    aps = [
        average_precision(*precision_recall(scores[labels == k], true[labels == k], objects))
        for k in range(num_classes)
        if (objects := int((truth == k).sum()))
    ]
    return float(np.mean(aps)) if aps else float("nan")


def class_table(figures: Mapping, classes: Sequence[str]) -> list[dict]:
    """From coco_evaluate's figures a row a class: AP, AP50, the best F1 at IoU .5 and the score
    that gives it.
    """
    rows = []
    for label, name in enumerate(classes):
        row = {
            "class": name,
            "AP": figures["per_class"][label],
            "AP50": float("nan"),
            "F1": 0.0,
            "score": 1.0,
        }
        if curve := figures["curves"].get(label):
            recall, precision = curve["recall"], curve["precision"]
            row["AP50"] = average_precision(recall, precision)
            f1 = 2 * recall * precision / np.maximum(recall + precision, 1e-12)
            if len(f1):
                row |= {"F1": float(f1.max()), "score": float(curve["scores"][f1.argmax()])}
        rows.append(row)
    return rows


def size_table(figures: Mapping) -> list[dict]:
    """A row a size, as COCO parts them (below 32^2, to 96^2, above, in square pixels); nan without
    objects.
    """
    return [
        {
            "size": name,
            **{
                kind: figures[kind + key] if figures[kind + key] >= 0 else float("nan")
                for kind in ("AP", "AR")
            },
        }
        for name, key in zip(("small", "medium", "large"), "sml")
    ]


def counting_table(
    predictions: Sequence[dict],
    targets: Sequence[dict],
    classes: Sequence[str],
    score_threshold: float | Sequence[float] = 0.5,
) -> list[dict]:
    """How many a class there are: annotated against detections of `score_threshold`
    (one, or one a class) or more.

    A row a class: "annotated" and "predicted" in all pictures; of a picture's error
    (predicted - annotated) "MAE" is the mean size and "bias" the mean: 0 where too many here make
    up for too few there. Crowds are not counted. Choose the scores on other pictures than those
    counted: `class_table` gives some.
    """
    rows = []
    for label, (name, least) in enumerate(
        zip(classes, np.broadcast_to(score_threshold, (len(classes),)).tolist())
    ):
        predicted = np.array(
            [int(((p["labels"] == label) & (p["scores"] >= least)).sum()) for p in predictions]
        )
        annotated = np.array(
            [
                int(((t["labels"] == label) & ~t.get("crowd", t["labels"] < 0)).sum())
                for t in targets
            ]
        )
        error = predicted - annotated
        rows.append(
            {
                "class": name,
                "annotated": int(annotated.sum()),
                "predicted": int(predicted.sum()),
                "MAE": float(np.abs(error).mean()),
                "bias": float(error.mean()),
            }
        )
    return rows


def best_threshold(figures: Mapping, targets: Sequence[dict]) -> dict[str, float]:
    """The score threshold of highest F1 over all classes together: {"F1", "threshold"}.

    figures: coco_evaluate's, of these targets. With the detections that score over the threshold,
    F1 = 2 true / (detections + objects), true at IoU .5: the harmonic mean of precision and recall
    (van Rijsbergen, Information Retrieval, 1979, chapter 7), counts summed over the classes that
    have objects. The threshold lies half way to the next lower score. Choose it on pictures that
    nothing is measured on: chosen on the test split it flatters. F1 0 and threshold .5 where
    nothing true is found.
    """
    curves, scores, true = figures["curves"], [np.zeros(0)], [np.zeros(0)]
    for curve in curves.values():
        found = np.arange(1, len(curve["scores"]) + 1)
        scores.append(np.asarray(curve["scores"], float))
        true.append(np.diff(np.rint(curve["precision"] * found), prepend=0))
    objects = sum(_objects(target, label) for target in targets for label in curves)
    all_scores = np.concatenate(scores)
    order = np.argsort(-all_scores, kind="stable")
    falling, hits = all_scores[order], np.concatenate(true)[order].cumsum()
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + objects)
    f1[:-1][falling[:-1] == falling[1:]] = 0  # equal scores are found together
    if not len(f1) or f1.max() <= 0:
        return {"F1": 0.0, "threshold": 0.5}
    best = int(f1.argmax())
    below = falling[best + 1] if best + 1 < len(falling) else 0.0
    return {"F1": float(f1[best]), "threshold": float((falling[best] + below) / 2)}


def _objects(target: Mapping, label: int) -> int:
    crowd = target.get("crowd", torch.zeros(len(target["labels"]), dtype=torch.bool))
    return int(((target["labels"] == label) & ~crowd).sum())


def confusion_matrix(
    predictions: Sequence[dict],
    targets: Sequence[dict],
    num_classes: int,
    score: float = 0.5,
    iou: float = 0.5,
) -> np.ndarray:
    """Who is taken for whom: counts (K + 1, K + 1), rows are the truth, columns what was predicted.

    Row k, column j: objects of class k that a detection of class j fell on. Row K, background:
    detections that fell on no object. Column K, missed: objects on which none fell. [K, K] is 0,
    nothing counts it. Of the detections that score over `score`, pairs with IoU >= `iou` are taken
    whatever their classes, highest IoU first, each detection and each object once: as in the
    ConfusionMatrix of Roboflow's supervision. Of equal pairs that of one class goes first. Crowds
    and difficult objects are no row, and what is left over and lies on one of its class does not
    count.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for detected, target in zip(predictions, targets, strict=True):
        found = {name: value.cpu() for name, value in detected.items()}
        over = found["scores"] > score
        boxes, named = found["boxes"][over].double(), found["labels"][over].numpy()
        overlap, real, aside = _overlaps(boxes, named, target, iou)
        truth = target["labels"].cpu().numpy()
        same = named[:, None] == truth  # (N, G)
        rows, columns = np.nonzero((overlap >= iou) & real)
        order = np.lexsort((~same[rows, columns], -overlap[rows, columns]))
        taken, met = set(), set()
        for i, g in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if i not in taken and g not in met:
                taken.add(i)
                met.add(g)
                matrix[truth[g], named[i]] += 1
        for g in set(np.flatnonzero(real).tolist()) - met:
            matrix[truth[g], num_classes] += 1
        for i in set(range(len(named))) - taken:
            matrix[num_classes, named[i]] += not aside[i]
    return matrix


def _overlaps(
    boxes: torch.Tensor, named: np.ndarray, target: Mapping, iou: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU (N, G); which objects are to be found (G,); which detections lie on another of theirs
    (N,).
    """
    objects, labels = target["boxes"].cpu().double(), target["labels"].cpu().numpy()
    none = torch.zeros(len(objects), dtype=torch.bool)
    crowd, difficult = (
        target.get(name, none).cpu().bool().numpy() for name in ("crowd", "difficult")
    )
    overlap, real = pairwise_iou(boxes, objects).numpy(), ~(crowd | difficult)
    area = box_area(boxes).clamp(min=1e-300)[:, None]
    inside = (pairwise_intersection(boxes, objects) / area).numpy()
    same = named[:, None] == labels
    aside = (same & ~real & (np.where(crowd, inside, overlap) >= iou)).any(1)
    return overlap, real, aside
