import contextlib
import io

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lesson_lib.evaluation import average_precision, coco_evaluate, precision_recall, voc_evaluate

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
NOTHING = {
    "boxes": torch.zeros(0, 4),
    "scores": torch.zeros(0),
    "labels": torch.zeros(0, dtype=torch.long),
}


def found(boxes, scores, labels=None):
    labels = [0] * len(boxes) if labels is None else labels
    return {
        "boxes": torch.tensor(boxes).float().view(-1, 4),
        "scores": torch.tensor(scores).float(),
        "labels": torch.tensor(labels).long(),
    }


def truth(boxes, labels=None, **marks):
    target = found(boxes, [0] * len(boxes), labels)
    del target["scores"]
    return target | {name: torch.tensor(value) for name, value in marks.items()}


def random_scene(
    seed, pictures=12, num_classes=4, grid=None, crowd=0.15, area=False, many=False
):  # long: a scene of every kind of object
    """Predictions scattered about the objects, with doubles, wrong classes and misses; class 3
    never occurs among the objects; some pictures have no object, some no prediction. grid:
    coordinates and scores are rounded, so that equal scores, equal overlaps and overlaps exactly at
    a threshold happen.
    """
    g = np.random.default_rng(seed)
    predictions, targets = [], []
    for number in range(pictures):
        count = 0 if number % 5 == 3 else g.integers(1, 9)
        corner = g.uniform(0, 250, (count, 2))
        size = g.choice([20, 60, 200], (count, 1)) * g.uniform(0.5, 1.5, (count, 2))
        boxes, labels = (
            np.concatenate((corner, corner + size), 1),
            g.integers(0, num_classes - 1, count),
        )
        target = {
            "labels": labels,
            "crowd": g.random(count) < crowd,
            "difficult": g.random(count) < 0.2,
        }
        copies = np.repeat(np.arange(count), g.integers(0, 40 if many else 5, count))
        near = boxes[copies] + np.tile(size[copies], 2) * g.normal(0, 0.08, (len(copies), 4))
        wild = g.uniform(0, 300, (g.integers(0, 6), 2))
        wild = np.concatenate((wild, wild + g.uniform(5, 150, wild.shape)), 1)
        guess = np.concatenate((near, wild)) if number % 5 != 1 else np.zeros((0, 4))
        if grid:
            boxes, guess = (np.round(b / grid) * grid for b in (boxes, guess))
            boxes[:, 2:], guess[:, 2:] = (
                np.maximum(b[:, 2:], b[:, :2] + grid) for b in (boxes, guess)
            )
        chance = g.random(len(guess))
        scores = np.round(chance * 4) / 4 if grid else chance
        guessed = np.where(
            g.random(len(guess)) < 0.8,
            np.resize(np.append(labels[copies], 3), len(guess)),
            g.integers(0, num_classes, len(guess)),
        )
        if area:
            target["area"] = (boxes[:, 2:] - boxes[:, :2]).prod(1) * g.uniform(0.3, 1, count)
        targets.append(
            {"boxes": torch.tensor(boxes)} | {k: torch.tensor(v) for k, v in target.items()}
        )
        predictions.append(
            {
                "boxes": torch.tensor(guess),
                "scores": torch.tensor(scores),
                "labels": torch.tensor(guessed).long(),
            }
        )
    return predictions, targets


def pycocotools_figures(predictions, targets, num_classes):  # long: their format, field by field
    def rows(items, extra):
        for number, item in enumerate(items):
            for i, (x1, y1, x2, y2) in enumerate(item["boxes"].tolist()):
                yield {
                    "image_id": number + 1,
                    "category_id": item["labels"][i].item() + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                } | extra(item, i, (x2 - x1) * (y2 - y1))

    def api(annotations):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i + 1} for i in range(len(targets))],
            "annotations": annotations,
            "categories": [{"id": k + 1} for k in range(num_classes)],
        }
        for i, annotation in enumerate(annotations):
            annotation["id"] = i + 1
        coco.createIndex()
        return coco

    crowd = torch.zeros(1000)
    objects = list(
        rows(
            targets,
            lambda t, i, box: {
                "iscrowd": int(t.get("crowd", crowd)[i]),
                "area": t["area"][i].item() if "area" in t else box,
            },
        )
    )
    guesses = list(
        rows(
            predictions,
            lambda p, i, box: {"iscrowd": 0, "area": box, "score": p["scores"][i].item()},
        )
    )
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(api(objects), api(guesses), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return dict(zip(FIGURES, run.stats.tolist())), run.eval["precision"]


# ---- COCO ----


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"grid": 10},
        {"grid": 20},
        {"area": True},
        {"many": True},
        {"crowd": 0.6},
        {"grid": 10, "many": True, "area": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(4))
def test_coco_is_pycocotools_in_all_twelve_figures(seed, options):
    predictions, targets = random_scene(seed, **options)
    ours = coco_evaluate(predictions, targets, 4)
    theirs, precision = pycocotools_figures(predictions, targets, 4)
    assert {name: ours[name] for name in FIGURES} == pytest.approx(theirs, abs=1e-6)
    assert 0 < ours["AP"] < ours["AP50"] < 1
    for label in range(4):
        expected = precision[:, :, label, 0, 2].mean() if label < 3 else np.nan
        assert ours["per_class"][label] == pytest.approx(expected, nan_ok=True)
    assert set(ours["curves"]) == {0, 1, 2}


def test_coco_figures_with_nothing_to_find_or_nothing_found():
    predictions, targets = random_scene(0)
    nothing, nobody = [NOTHING] * len(targets), [truth([])] * len(targets)
    for case in ((nothing, targets), (predictions, nobody), (nothing, nobody), ([], [])):
        ours, theirs = coco_evaluate(*case, 4), pycocotools_figures(*case, 4)[0]
        assert {name: ours[name] for name in FIGURES} == pytest.approx(theirs, abs=1e-6)
    assert (
        coco_evaluate(nothing, targets, 4)["AP"] == 0
        and coco_evaluate(predictions, nobody, 4)["AP"] == -1
    )


def test_coco_ignores_detections_in_a_crowd_as_often_as_they_come():
    target = truth([[0, 0, 10, 10], [50, 50, 90, 90]], crowd=[False, True])
    in_crowd = [[52, 52, 60, 60], [70, 70, 80, 80], [55, 55, 95, 95]]  # the last one to 77 %
    got = coco_evaluate([found([[0, 0, 10, 10], *in_crowd], [0.1, 0.9, 0.8, 0.7])], [target], 1)
    assert got["AP50"] == pytest.approx(1) and len(got["curves"][0]["recall"]) == 1
    target["crowd"][1] = False
    assert (
        coco_evaluate([found([[0, 0, 10, 10], *in_crowd], [0.1, 0.9, 0.8, 0.7])], [target], 1)[
            "AP50"
        ]
        < 1
    )


def test_coco_curve_by_hand():
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10]]
    guess = [[0, 0, 10, 5.2], [50, 50, 60, 60], boxes[1]]  # IoU .52, 0, 1
    got = coco_evaluate([found(guess, [0.9, 0.8, 0.7])], [truth(boxes)], 1)
    curve = got["curves"][0]  # at IoU .5
    assert curve["recall"].tolist() == [0.5, 0.5, 1] and curve["precision"].tolist() == [
        1,
        0.5,
        2 / 3,
    ]
    assert curve["scores"].tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert got["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert got["AP75"] == pytest.approx(51 / 101 / 3)
    assert got["AR1"] == pytest.approx(0.5 / 10) and got["AR10"] == pytest.approx(
        (1 + 9 * 0.5) / 10
    )


def test_coco_takes_the_last_of_equally_overlapped_objects():
    objects = [[0, 0, 10, 10], [2, 0, 12, 10]]
    case = [found([[1, 0, 11, 10], objects[0]], [0.9, 0.8])], [truth(objects)], 1
    ours, theirs = coco_evaluate(*case), pycocotools_figures(*case)[0]
    assert {name: ours[name] for name in FIGURES} == pytest.approx(theirs, abs=1e-6)
    assert ours["AP75"] == 1  # taking the first: .5


def test_coco_an_object_exactly_between_two_sizes_is_of_both():
    boxes = [[0, 0, 32, 32], [100, 0, 196, 96]]
    wild = [[300, 300, 332, 332], [400, 0, 496, 96]]  # false, and of both sizes too
    for case in (
        ([found(boxes, [0.9, 0.8])], [truth(boxes)], 1),
        ([found(boxes + wild, [0.5, 0.5, 0.9, 0.8])], [truth(boxes)], 1),
    ):
        ours, theirs = coco_evaluate(*case), pycocotools_figures(*case)[0]
        assert {name: ours[name] for name in FIGURES} == pytest.approx(theirs, abs=1e-6)
        assert ours["ARs"] == ours["ARm"] == ours["ARl"] == 1


def test_coco_boxes_of_zero_area_neither_match_nor_break():
    flat = [[5.0, 5, 5, 9], [3, 3, 3, 3]]
    case = (
        [found(flat, [0.9, 0.8])],
        [truth([[0, 0, 10, 10], *flat], crowd=[True, False, False])],
        1,
    )
    ours, theirs = coco_evaluate(*case), pycocotools_figures(*case)[0]
    assert {name: ours[name] for name in FIGURES} == pytest.approx(theirs, abs=1e-6) and ours[
        "AP"
    ] == 0


# ---- VOC ----


def voc_by_the_development_kit(predictions, targets, label, iou):
    """VOCevaldet.m again, in Python, one detection after the other; without its + 1."""
    rows = [
        (-s, n, b)
        for n, p in enumerate(predictions)
        for s, b, k in zip(p["scores"].tolist(), p["boxes"].tolist(), p["labels"].tolist())
        if k == label
    ]
    objects = {
        n: [
            [b, bool(d), False]
            for b, k, d in zip(t["boxes"].tolist(), t["labels"], t["difficult"])
            if k == label
        ]
        for n, t in enumerate(targets)
    }
    tp, fp = [], []
    for _, n, (x1, y1, x2, y2) in sorted(rows, key=lambda row: row[:2]):
        best, chosen = -1.0, None
        for entry in objects[n]:
            a1, b1, a2, b2 = entry[0]
            w, h = min(x2, a2) - max(x1, a1), min(y2, b2) - max(y1, b1)
            if w > 0 and h > 0:
                overlap = w * h / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - w * h)
                if overlap > best:
                    best, chosen = overlap, entry
        hit = best >= iou
        tp.append(int(hit and not chosen[1] and not chosen[2]))
        fp.append(int(not hit or (not chosen[1] and chosen[2])))
        if tp[-1]:
            chosen[2] = True
    npos = sum(not difficult for entries in objects.values() for _, difficult, _ in entries)
    tp, fp = np.cumsum(tp), np.cumsum(fp)
    recall, precision = tp / npos, tp / np.maximum(tp + fp, 1)
    eleven = np.mean([max(precision[recall >= t / 10], default=0) for t in range(11)])
    mrec, mpre = np.concatenate(([0], recall, [1])), np.concatenate(([0], precision, [0]))
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    step = np.flatnonzero(mrec[1:] != mrec[:-1]) + 1
    return {"voc11": eleven, "voc-all": np.sum((mrec[step] - mrec[step - 1]) * mpre[step])}


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("grid", [None, 10])
@pytest.mark.parametrize("seed", range(3))
def test_voc_is_the_development_kits(seed, grid, iou):
    predictions, targets = random_scene(seed, grid=grid, crowd=0)
    for method in ("voc11", "voc-all"):
        got = voc_evaluate(predictions, targets, ("a", "b", "c", "never"), iou, method)
        expected = [
            voc_by_the_development_kit(predictions, targets, k, iou)[method] for k in range(3)
        ]
        assert [got["per_class"][name] for name in "abc"] == pytest.approx(expected, abs=1e-12)
        assert got["mAP"] == pytest.approx(np.mean(expected)) and np.isnan(
            got["per_class"]["never"]
        )
        assert list(got["curves"]) == ["a", "b", "c"]


def test_voc_difficult_and_crowd_neither_help_nor_hurt():
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
    target = truth(boxes, difficult=[False, True, False], crowd=[False, False, True])
    guess = found([boxes[1], boxes[1], boxes[2], boxes[0]], [0.9, 0.8, 0.7, 0.1])
    got = voc_evaluate([guess], [target], ["x"])
    assert got["mAP"] == 1 and got["curves"]["x"]["recall"].tolist() == [1]


def test_voc_a_second_detection_of_one_object_is_false():
    guess = found([[0, 0, 10, 10], [0, 0, 10, 9]], [0.9, 0.8])
    got = voc_evaluate([guess], [truth([[0, 0, 10, 10]])], ["x"])
    assert got["curves"]["x"]["precision"].tolist() == [1, 0.5]
    got = voc_evaluate(
        [NOTHING, guess, guess], [truth([]), truth([]), truth([[0, 0, 10, 10]])], ["x"]
    )
    assert got["curves"]["x"]["scores"].tolist() == pytest.approx([0.9, 0.9, 0.8, 0.8])
    assert got["curves"]["x"]["precision"].tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])


def test_voc_overlap_exactly_at_the_threshold_is_a_hit():
    case = [found([[0, 0, 10, 5]], [0.9])], [truth([[0, 0, 10, 10]])], ["x"]
    assert voc_evaluate(*case, iou=0.5)["mAP"] == 1 and voc_evaluate(*case, iou=0.501)["mAP"] == 0


def test_voc_with_nothing():
    assert np.isnan(voc_evaluate([NOTHING], [truth([])], ["x"])["mAP"])
    assert np.isnan(voc_evaluate([], [], ["x"])["mAP"])
    assert voc_evaluate([NOTHING], [truth([[0, 0, 1, 1]])], ["x"], method="voc11")["mAP"] == 0


# ---- the curve ----


def test_three_averages_of_one_curve_by_hand():
    """Five objects; the ranked list is true, true, false, true, false, true; one object is never
    found.
    """
    recall, precision = precision_recall([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1, 1, 0, 1, 0, 1], 5)
    assert recall.tolist() == pytest.approx([0.2, 0.4, 0.4, 0.6, 0.6, 0.8])
    assert precision.tolist() == pytest.approx([1, 1, 2 / 3, 3 / 4, 3 / 5, 2 / 3])
    assert average_precision(recall, precision, "voc-all") == pytest.approx(
        0.2 * (1 + 1 + 3 / 4 + 2 / 3)
    )
    assert average_precision(recall, precision, "voc11") == pytest.approx(
        (5 + 2 * 3 / 4 + 2 * 2 / 3) / 11
    )
    expected = (41 + 20 * 3 / 4 + 20 * 2 / 3) / 101
    assert average_precision(recall, precision, "coco101") == pytest.approx(expected)


@pytest.mark.parametrize("method", ["voc11", "voc-all", "coco101"])
def test_perfect_empty_and_tied(method):
    assert average_precision(
        *precision_recall([0.9, 0.8], [True, True], 2), method
    ) == pytest.approx(1)
    assert average_precision(*precision_recall([], [], 2), method) == 0
    assert average_precision(*precision_recall([0.9], [False], 2), method) == 0
    recall, precision = precision_recall(
        [0.5, 0.5, 0.7], [True, False, False], 1
    )  # a tie: in order
    assert recall.tolist() == [0, 1, 1] and precision.tolist() == [0, 0.5, 1 / 3]


def test_refuses_nonsense_with_a_sentence():
    with pytest.raises(ValueError, match="voc11, voc-all or coco101"):
        average_precision(np.zeros(1), np.zeros(1), "area")
    with pytest.raises(ValueError, match="without objects"):
        precision_recall([0.5], [True], 0)
    good, target = found([[0, 0, 1, 1]], [0.5]), truth([[0, 0, 1, 1]])
    for run in (lambda p, t: voc_evaluate(p, t, ["x"]), lambda p, t: coco_evaluate(p, t, 1)):
        run([good], [target])
        for predictions, targets, message in (
            ([good], [], "one for each picture"),
            ([found([[0, 0, 1, 1]], [float("nan")])], [target], r"predictions\[0\] holds NaN"),
            ([good, found([[0, float("nan"), 1, 1]], [0.5])], [target] * 2, r"ns\[1\] holds NaN"),
            ([good], [truth([[0, 0, 1, float("nan")]])], r"targets\[0\] holds NaN"),
            ([found([[0, 0, 1, 1]], [0.5, 0.6])], [target], "scores has"),
            ([good], [truth([[0, 0, 1, 1]], crowd=[True, False])], "crowd has"),
            ([found([[0, 0, 1, 1]], [0.5], [1])], [target], "labels run from 1 to 1"),
            ([good], [truth([[0, 0, 1, 1]], [-1])], "labels run from -1"),
            ([good | {"boxes": torch.zeros(1, 5)}], [target], r"\(N, 4\)"),
        ):
            with pytest.raises(ValueError, match=message):
                run(predictions, targets)
