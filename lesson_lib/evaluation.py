"""Average precision: VOC's 11-point and all-point, COCO's 101-point over ten IoU thresholds.

What is true or false is decided by matching detections, best score first, with objects of the same
class, an object at most once. Then precision (of the found, how many are right) is averaged over
recall (of the objects, how many are found). All benchmarks do this and differ in details, which the
functions here name.

predictions: a dict for each picture: "boxes" (N, 4) xyxy pixels, "scores" (N,), "labels" (N,) int
in 0..K-1.
targets: a dict for each picture: "boxes" (G, 4), "labels" (G,), and where known "difficult" (G,)
bool (VOC: to find it neither helps nor hurts), "crowd" (G,) bool (COCO: a box around many), "area"
(G,) (COCO: size). Computed in float64 on the CPU. Give every detection: a score threshold before
the evaluation lowers AP.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lesson_lib.boxes import box_area, pairwise_intersection, pairwise_iou

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = {
    "voc11": np.arange(11) / 10,
    "coco101": np.linspace(0, 1, 101),
}  # pycocotools' rounding
AREA_RANGES = {
    "all": (0, 1e10),
    "s": (0, 32**2),
    "m": (32**2, 96**2),
    "l": (96**2, 1e10),
}  # ends included
MAX_DETECTIONS = (1, 10, 100)  # a picture and class


def precision_recall(
    scores: np.ndarray, true_positive: np.ndarray, objects: int
) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision after each detection, best score first; of equal scores the earlier one
    first.

        recall = TP / objects            precision = TP / (TP + FP)

    scores (N,), true_positive (N,) bool (the others are false).
    Returns recall (N,), precision (N,).
    ValueError where there are no objects: recall is not defined there.
    """
    if objects < 1:
        raise ValueError("Recall has no meaning without objects; leave this class out of the mean.")
    order = np.argsort(-np.asarray(scores), kind="stable")
    found = np.cumsum(np.asarray(true_positive, dtype=float)[order])
    return found / objects, found / np.arange(1, len(found) + 1)


def average_precision(recall: np.ndarray, precision: np.ndarray, method: str = "coco101") -> float:
    """Area under the precision-recall curve, in the way of one benchmark.

    First precision is made falling: at each recall the best precision there or at any higher
    recall, and 0 beyond the last. "voc-all" (VOC from 2010) takes the exact area under these
    stairs, "voc11" (VOC 2007) their mean height at recall 0, .1, ..., 1, "coco101" at 0, .01, ...,
    1. recall, precision (N,), N >= 0.
    """
    envelope = np.maximum.accumulate(np.append(precision, 0.0)[::-1])[::-1]  # (N + 1,), ends in 0
    if method == "voc-all":
        return float(np.sum(np.diff(recall, prepend=0.0) * envelope[:-1]))
    if method not in RECALL_POINTS:
        raise ValueError(f"method is {method!r}; choose voc11, voc-all or coco101.")
    return float(envelope[np.searchsorted(recall, RECALL_POINTS[method])].mean())


# ---- VOC ----


def voc_evaluate(
    predictions: Sequence[dict],
    targets: Sequence[dict],
    classes: Sequence[str],
    iou: float = 0.5,
    method: str = "voc-all",
) -> dict:
    """AP of each class at one IoU threshold, as PASCAL VOC defines it.  Label k is classes[k].

    Best score first, a detection looks at the one object of its class that it overlaps most. Below
    `iou` it is false; if that object is difficult it does not count; if the object is already taken
    it is false.
    Returns {"mAP", "per_class": {name: AP}, "curves": {name: {"recall", "precision", "scores"}}}. A
    class without objects has AP nan and no curve, and mAP leaves it out (nan if there is no object
    at all).
    Departs from the development kit: boxes are continuous (no + 1 pixel).
    A crowd is treated as difficult.
    """
    per_class, curves = dict.fromkeys(classes, float("nan")), {}
    for name, pictures in zip(classes, _by_class(predictions, targets, len(classes))):
        objects = sum(int((~(p.difficult | p.crowd)).sum()) for p in pictures)
        if objects:
            true, counts = np.concatenate([_voc_match(p, iou) for p in pictures], axis=1)
            scores = np.concatenate([p.scores for p in pictures])[counts]
            curves[name] = _curve(scores, true[counts], objects)
            per_class[name] = average_precision(
                curves[name]["recall"], curves[name]["precision"], method
            )
    aps = [per_class[name] for name in curves]
    return {
        "mAP": float(np.mean(aps)) if aps else float("nan"),
        "per_class": per_class,
        "curves": curves,
    }


def _voc_match(picture: "_Picture", iou: float) -> np.ndarray:
    """For one picture and class: which detections are true, and which count.

    Returns (2, N) bool.
    """
    true, counts = (
        np.zeros(len(picture.scores), dtype=bool),
        np.ones(len(picture.scores), dtype=bool),
    )
    if picture.objects.shape[0] == 0:
        return np.stack((true, counts))
    overlap = pairwise_iou(picture.boxes, picture.objects).numpy()
    taken = set()
    for i, best in enumerate(overlap.argmax(1)):  # of equal overlaps the first object
        if overlap[i, best] < iou:
            continue
        if picture.difficult[best] or picture.crowd[best]:
            counts[i] = False
        elif best not in taken:
            true[i] = True
            taken.add(best)
    return np.stack((true, counts))


# ---- COCO ----


def coco_evaluate(predictions: Sequence[dict], targets: Sequence[dict], num_classes: int) -> dict:
    """COCO's twelve figures, equal to those of pycocotools, with what is needed to look behind
    them.

    AP (mean over IoU .50:.95), AP50, AP75; APs, APm, APl for objects of area below 32^2, to 96^2,
    above; AR1, AR10, AR100: recall with so many detections a picture and class; ARs, ARm, ARl with
    100. Each is a mean over the classes with such objects, -1 where there is none
    (as in pycocotools).
    Besides: "per_class": [AP of label 0, 1, ...], nan without objects; "curves": {label: {"recall",
    "precision", "scores"}} at IoU .5 and any area, for the classes with objects.
    Crowds: detections in them do not count.  "difficult" is not read: COCO has no such mark.
    """
    shape = (num_classes, len(AREA_RANGES), len(IOU_THRESHOLDS))
    ap, ar = (
        np.full(shape, np.nan),
        np.full((len(MAX_DETECTIONS), *shape), np.nan),
    )  # nan: no such objects
    curves = {}
    for label, pictures in enumerate(_by_class(predictions, targets, num_classes)):
        if not pictures:
            continue
        matches = [_coco_match(p) for p in pictures]
        true = np.concatenate([m[0] for m in matches], axis=-1)  # (R, T, N)
        counts = np.concatenate([m[1] for m in matches], axis=-1)  # (R, T, N)
        objects = np.sum([m[2] for m in matches], axis=0)  # (R,)
        scores = np.concatenate([p.scores[: MAX_DETECTIONS[-1]] for p in pictures])
        rank = np.concatenate([np.arange(m[0].shape[-1]) for m in matches])  # in its picture
        for r in np.flatnonzero(objects):
            for m, most in enumerate(MAX_DETECTIONS):
                ar[m, label, r] = true[r][:, rank < most].sum(-1) / objects[r]
            for t in range(len(IOU_THRESHOLDS)):
                curve = _curve(scores[counts[r, t]], true[r, t][counts[r, t]], objects[r])
                ap[label, r, t] = average_precision(curve["recall"], curve["precision"], "coco101")
                if r == t == 0:
                    curves[label] = curve
    figures = {
        "AP": ap[:, 0],
        "AP50": ap[:, 0, 0],
        "AP75": ap[:, 0, 5],
        "APs": ap[:, 1],
        "APm": ap[:, 2],
        "APl": ap[:, 3],
        "AR1": ar[0, :, 0],
        "AR10": ar[1, :, 0],
        "AR100": ar[2, :, 0],
        "ARs": ar[2, :, 1],
        "ARm": ar[2, :, 2],
        "ARl": ar[2, :, 3],
    }
    known = {name: values[~np.isnan(values)] for name, values in figures.items()}
    means = {name: float(values.mean()) if len(values) else -1.0 for name, values in known.items()}
    return {**means, "per_class": ap[:, 0].mean(-1).tolist(), "curves": curves}


def _coco_match(picture: "_Picture") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For one picture and class, in every area range (R) and at every IoU threshold (T): which of
    the N best detections are true (R, T, N), which count (R, T, N); and how many objects there are
    to find (R,).

    Best score first, a detection takes the object it overlaps most among those still free. If there
    is none, it may fall to one that is not to be found (a crowd, or of another size) and then does
    not count; nor does it count if it is unmatched and itself of another size. A crowd is never
    used up.
    """
    boxes, low_high = picture.boxes[: MAX_DETECTIONS[-1]], np.array(list(AREA_RANGES.values()))
    crowd, area = picture.crowd, picture.area
    aside = crowd | (area < low_high[:, :1]) | (area > low_high[:, 1:])  # (R, G)
    overlap = _coco_overlap(boxes, picture.objects, crowd)  # (N, G)
    matched = np.zeros((len(low_high), len(IOU_THRESHOLDS), len(boxes)), dtype=bool)
    ignored = matched.copy()
    taken = np.zeros((*matched.shape[:2], len(crowd)), dtype=bool)  # (R, T, G)
    for i in np.flatnonzero((overlap >= IOU_THRESHOLDS[0]).any(1)):
        free = (~taken | crowd) & (overlap[i] >= IOU_THRESHOLDS[:, None])
        wanted = free & ~aside[:, None]
        choice = np.where(wanted.any(-1, keepdims=True), wanted, free)
        last = len(crowd) - 1  # of equal overlaps COCO takes the last object
        best = last - np.where(choice, overlap[i], -1.0)[..., ::-1].argmax(-1)  # (R, T)
        got = choice & (np.arange(len(crowd)) == best[..., None])
        taken |= got
        matched[..., i] = got.any(-1)
        ignored[..., i] = (got & aside[:, None]).any(-1)
    own = box_area(boxes).numpy()
    outside = (own < low_high[:, :1]) | (own > low_high[:, 1:])  # (R, N)
    ignored |= ~matched & outside[:, None]
    return matched & ~ignored, ~ignored, (~aside).sum(1)


def _coco_overlap(boxes: Tensor, objects: Tensor, crowd: np.ndarray) -> np.ndarray:
    """IoU (N, G), but with a crowd the part of the detection that lies in it: intersection / own
    area.
    """
    inside = pairwise_intersection(boxes, objects) / box_area(boxes).clamp(min=1e-300)[:, None]
    return np.where(crowd, inside.numpy(), pairwise_iou(boxes, objects).numpy())


# ---- both ----


@dataclass(frozen=True)
class _Picture:
    """Detections and objects of one class in one picture; detections by falling score, ties in
    order.
    """

    boxes: Tensor  # (N, 4) float64
    scores: np.ndarray  # (N,)
    objects: Tensor  # (G, 4) float64
    difficult: np.ndarray  # (G,) bool
    crowd: np.ndarray  # (G,) bool
    area: np.ndarray  # (G,) square pixels


def _by_class(
    predictions: Sequence[dict], targets: Sequence[dict], num_classes: int
) -> list[list[_Picture]]:
    """For each class the pictures that hold a detection or an object of it, in order."""
    if len(predictions) != len(targets):
        raise ValueError(
            f"{len(predictions)} predictions for {len(targets)} targets; give one for each "
            "picture, with empty tensors where nothing was found."
        )
    pictures = [[] for _ in range(num_classes)]
    for number, (prediction, target) in enumerate(zip(predictions, targets)):
        _check(number, "predictions", prediction, ("scores", "labels"), num_classes)
        _check(number, "targets", target, ("labels", "difficult", "crowd", "area"), num_classes)
        boxes, objects = (x["boxes"].detach().cpu().double() for x in (prediction, target))
        scores = prediction["scores"].detach().cpu().double().numpy()
        found, labels = (x["labels"].cpu().numpy() for x in (prediction, target))
        none = torch.zeros(len(labels), dtype=torch.bool)
        difficult, crowd = (
            target.get(name, none).cpu().bool().numpy() for name in ("difficult", "crowd")
        )
        area = target.get("area", box_area(objects)).cpu().double().numpy()
        order = np.argsort(-scores, kind="stable")
        for label in np.union1d(found, labels).astype(int):
            n, g = order[found[order] == label], np.flatnonzero(labels == label)
            pictures[label].append(
                _Picture(boxes[n], scores[n], objects[g], difficult[g], crowd[g], area[g])
            )
    return pictures


def _check(number: int, side: str, picture: dict, names: tuple[str, ...], num_classes: int) -> None:
    """ValueError with a sentence unless every entry has one row for each box, and a meaning."""
    where = f"{side}[{number}]"
    boxes, labels = picture["boxes"], picture["labels"]
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"{where}: boxes have shape {tuple(boxes.shape)}; give (N, 4), and (0, 4) for none."
        )
    for name in names:
        if name in picture and picture[name].shape != boxes.shape[:1]:
            raise ValueError(
                f"{where}: {name} has shape {tuple(picture[name].shape)}; give one for "
                f"each of the {len(boxes)} boxes."
            )
    if boxes.isnan().any() or ("scores" in picture and picture["scores"].isnan().any()):
        raise ValueError(
            f"{where} holds NaN, which has no rank and no overlap: look where it came from."
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"{where}: labels run from {int(labels.min())} to {int(labels.max())}; number the "
            f"{num_classes} classes from 0, without background."
        )


def _curve(scores: np.ndarray, true: np.ndarray, objects: int) -> dict[str, np.ndarray]:
    """The curve of `precision_recall` with the falling scores beside it."""
    recall, precision = precision_recall(scores, true, objects)
    return {"recall": recall, "precision": precision, "scores": np.sort(scores)[::-1]}


def recall_at(
    predictions: Sequence[dict],
    targets: Sequence[dict],
    classes: Sequence[str],
    iou: float = 0.5,
    max_detections: int | None = None,
    score_threshold: float = 0.0,
) -> dict[str, float]:
    """Share of each class's objects that a detection of that class found: IoU >= `iou`, one
    detection each.

    max_detections: only so many of each picture count, those of the highest scores;
    score_threshold: only those from it on.
    Returns {name: recall} for the classes that have objects. Recall alone is easily raised by more
    detections: compare detectors at the same `max_detections`, and look at precision too.
    """
    kept = []
    for p in predictions:
        order = p["scores"].argsort(descending=True, stable=True)[:max_detections]
        order = order[p["scores"][order] >= score_threshold]
        kept.append({name: p[name][order] for name in ("boxes", "scores", "labels")})
    curves = voc_evaluate(kept, targets, classes, iou)["curves"]
    return {
        name: float(curve["recall"][-1]) if len(curve["recall"]) else 0.0
        for name, curve in curves.items()
    }
