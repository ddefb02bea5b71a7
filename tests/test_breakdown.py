"""The breakdown of errors: each kind by hand, AP equal to coco_evaluate's, and counts."""

import math

import numpy as np
import pytest
import torch

from lesson_lib.breakdown import (
    KINDS,
    best_threshold,
    class_table,
    confusion_matrix,
    counting_table,
    error_costs,
    error_counts,
    judge,
    size_table,
)
from lesson_lib.evaluation import coco_evaluate

CLASSES = ("cat", "dog")


def target(*objects, **marks) -> dict:
    """objects: (x1, y1, x2, y2, label)."""
    rows = torch.tensor(objects, dtype=torch.float32).reshape(-1, 5)
    return {
        "boxes": rows[:, :4],
        "labels": rows[:, 4].long(),
        **{k: torch.tensor(v) for k, v in marks.items()},
    }


def prediction(*found) -> dict:
    """found: (x1, y1, x2, y2, label, score)."""
    rows = torch.tensor(found, dtype=torch.float64).reshape(-1, 6)
    return {"boxes": rows[:, :4].float(), "labels": rows[:, 4].long(), "scores": rows[:, 5]}


def random_pictures(seed: int, count: int = 12) -> tuple[list[dict], list[dict]]:
    """Objects of two classes, and detections that are shifted copies of some, of any class, and
    noise.
    """
    rng = np.random.default_rng(seed)
    predictions, targets = [], []
    for _ in range(count):
        corners = rng.uniform(0, 80, (rng.integers(0, 6), 2))
        objects = np.concatenate(
            (
                corners,
                corners + rng.uniform(8, 30, corners.shape),
                rng.integers(0, 2, (len(corners), 1)),
            ),
            1,
        )
        targets.append(target(*objects.tolist()))
        copies = objects.repeat(2, 0)[rng.random(2 * len(objects)) < 0.7]
        copies[:, :4] += rng.normal(0, 2.5, (len(copies), 4))
        copies[:, 4] = np.where(rng.random(len(copies)) < 0.2, 1 - copies[:, 4], copies[:, 4])
        noise = rng.uniform(0, 60, (2, 2))
        noise = np.concatenate((noise, noise + 20, rng.integers(0, 2, (2, 1))), 1)
        rows = np.concatenate((copies, noise))
        predictions.append(
            prediction(*np.concatenate((rows, rng.random((len(rows), 1))), 1).tolist())
        )
    return predictions, targets


@pytest.mark.parametrize(
    "box, label, kind",
    [
        ((0, 0, 10, 10), 0, "correct"),
        ((0, 0, 10, 5), 0, "correct"),  # IoU .5 exactly
        ((0, 0, 10, 4.9), 0, "localisation"),
        ((0, 0, 10, 1), 0, "localisation"),  # IoU .1 exactly
        ((0, 0, 10, 0.9), 0, "background"),
        ((0, 0, 10, 10), 1, "class"),
        ((0, 0, 10, 4.9), 1, "both"),
        ((50, 50, 60, 60), 0, "background"),
        ((20, 0, 30, 10), 0, "class"),  # the dog beside it
    ],
)
def test_kinds_by_hand(box, label, kind):
    judged = judge(
        [prediction((*box, label, 0.9))], [target((0, 0, 10, 10, 0), (20, 0, 30, 10, 1))]
    )
    assert judged.kinds.tolist() == [kind]
    meant = {"correct": 0, "localisation": 0, "class": 1 if box[0] == 20 else 0}.get(kind, -1)
    assert judged.objects.tolist() == [meant]


def test_duplicates_and_the_order_of_scores():
    predictions = [prediction((0, 0, 10, 9, 0, 0.5), (0, 0, 10, 10, 0, 0.3), (0, 0, 10, 8, 0, 0.9))]
    judged = judge(predictions, [target((0, 0, 10, 10, 0))])
    assert judged.scores.tolist() == [0.9, 0.5, 0.3] and judged.kinds.tolist() == [
        "correct",
        "duplicate",
        "duplicate",
    ]
    two = [prediction((0, 0, 10, 8, 0, 0.9), (0, 0, 10, 10, 0, 0.5))]
    judged = judge(two, [target((0, 0, 10, 10, 0), (0, 0, 10, 9, 0))])  # a second object is near
    assert judged.kinds.tolist() == ["correct", "correct"] and judged.objects.tolist() == [1, 0]


def test_crowds_and_difficult_objects_count_for_nothing():
    targets = [
        target((0, 0, 40, 40, 0), (60, 0, 70, 10, 0), crowd=[True, False], difficult=[False, True])
    ]
    found = [prediction((5, 5, 10, 10, 0, 0.9), (60, 0, 70, 10, 0, 0.8), (5, 5, 10, 10, 1, 0.7))]
    judged = judge(found, targets)
    assert judged.kinds.tolist() == ["background"] and judged.labels.tolist() == [
        1
    ]  # another class: no excuse
    assert len(judged.truth) == 0


@pytest.mark.parametrize(
    "predictions, targets",
    [
        ([], []),
        ([prediction()], [target()]),
        ([prediction()], [target((0, 0, 9, 9, 1))]),
        ([prediction((0, 0, 9, 9, 1, 0.5))], [target()]),
    ],
)
def test_nothing(predictions, targets):
    judged = judge(predictions, targets)
    counts, costs = error_counts(judged, CLASSES, 0), error_costs(judged, 2)
    assert sum(row["background"] for row in counts.values()) == sum(
        len(p["boxes"]) for p in predictions
    )
    objects = sum(len(t["boxes"]) for t in targets)
    assert sum(row["missed"] for row in counts.values()) == objects
    assert math.isnan(costs["AP"]) == (objects == 0)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError):
        judge([prediction()], [])


def test_counts_by_hand():
    targets = [
        target((0, 0, 10, 10, 0), (20, 0, 30, 10, 1), (60, 60, 70, 70, 1), (80, 0, 90, 10, 0))
    ]
    found = [
        prediction(
            (0, 0, 10, 10, 0, 0.9),
            (0, 0, 10, 9, 0, 0.8),
            (20, 0, 30, 10, 0, 0.7),
            (60, 60, 70, 64, 1, 0.6),
            (40, 40, 45, 45, 1, 0.55),
            (80, 0, 90, 10, 0, 0.1),
        )
    ]
    counts = error_counts(judge(found, targets), CLASSES, score_threshold=0.5)
    assert counts["cat"] == {
        "correct": 1,
        "class": 1,
        "localisation": 0,
        "both": 0,
        "duplicate": 1,
        "background": 0,
        "missed": 1,
        "objects": 2,
    }  # the one at 80 is below the score
    assert counts["dog"] == {
        "correct": 0,
        "class": 0,
        "localisation": 1,
        "both": 0,
        "duplicate": 0,
        "background": 1,
        "missed": 0,
        "objects": 2,
    }  # both dogs were nearly found
    assert error_counts(judge(found, targets), CLASSES, score_threshold=0)["cat"]["missed"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_ap_is_that_of_coco_evaluate_and_counts_add_up(seed):
    predictions, targets = random_pictures(seed)
    judged = judge(predictions, targets)
    costs = error_costs(judged, 2)
    assert costs["AP"] == pytest.approx(coco_evaluate(predictions, targets, 2)["AP50"], abs=1e-12)
    assert all(costs[kind] >= -1e-12 for kind in KINDS)
    counts = error_counts(judged, CLASSES, 0)
    for label, row in enumerate(counts.values()):
        assert sum(row[kind] for kind in ("correct", *KINDS[:-1])) == sum(
            int((p["labels"] == label).sum()) for p in predictions
        )
    kinds = {kind: sum(row[kind] for row in counts.values()) for kind in KINDS}
    assert all(kinds[kind] > 0 for kind in KINDS if kind != "both")


def test_costs_by_hand():
    """One cat found by .9, another only nearly, by .8: AP 51/101 (recall 0 to .50); repaired 1."""
    targets = [target((0, 0, 10, 10, 0), (20, 0, 30, 10, 0))]
    found = [prediction((0, 0, 10, 10, 0, 0.9), (20, 0, 30, 4, 0, 0.8))]
    costs = error_costs(judge(found, targets), 1)
    assert costs["AP"] == pytest.approx(51 / 101) and costs["localisation"] == pytest.approx(
        50 / 101
    )
    assert (
        costs["missed"] == costs["class"] == costs["background"] == 0
    )  # nearly found is not missed
    missed = error_costs(judge([prediction((0, 0, 10, 10, 0, 0.9))], targets), 1)
    assert missed["missed"] == pytest.approx(50 / 101) and missed["localisation"] == 0
    wrong = [prediction((0, 0, 10, 10, 0, 0.9), (20, 0, 30, 10, 1, 0.8), (20, 0, 30, 10, 1, 0.7))]
    judged = judge(wrong, [target((0, 0, 10, 10, 0), (20, 0, 30, 10, 0), (50, 0, 60, 10, 1))])
    assert judged.kinds.tolist() == ["correct", "class", "class"]
    costs = error_costs(judged, 2)  # dog: AP 0 before and after
    assert costs["AP"] == pytest.approx(51 / 202) and costs["class"] == pytest.approx(50 / 202)
    noisy = [prediction((60, 0, 70, 10, 0, 0.9), (0, 0, 10, 10, 0, 0.5))]
    first = error_costs(judge(noisy, [target((0, 0, 10, 10, 0))]), 1)
    assert first["AP"] == pytest.approx(0.5) and first["background"] == pytest.approx(0.5)


def test_tables():
    targets = [target((0, 0, 10, 10, 0), (0, 20, 50, 70, 0))]
    found = [prediction((0, 0, 10, 10, 0, 0.9), (60, 60, 70, 70, 0, 0.8), (0, 20, 50, 70, 0, 0.7))]
    figures = coco_evaluate(found, targets, 2)
    cat, dog = class_table(figures, CLASSES)
    assert (
        cat["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
        and cat["AP"] == figures["per_class"][0]
    )
    assert cat["F1"] == pytest.approx(0.8) and cat["score"] == 0.7  # precision 2/3, recall 1
    assert math.isnan(dog["AP"]) and math.isnan(dog["AP50"]) and dog["F1"] == 0
    small, medium, large = size_table(figures)
    assert (
        small["AP"] == figures["APs"]
        and medium["AR"] == figures["ARm"] == 1
        and math.isnan(large["AP"])
    )


def test_counting_by_hand():
    targets = [
        target((0, 0, 9, 9, 0), (0, 0, 5, 5, 0)),
        target((0, 0, 9, 9, 1), (0, 0, 90, 90, 1), crowd=[False, True]),
    ]
    found = [
        prediction((0, 0, 9, 9, 0, 0.9)),
        prediction(
            (0, 0, 9, 9, 0, 0.6), (0, 0, 9, 9, 1, 0.6), (1, 1, 9, 9, 1, 0.6), (2, 2, 9, 9, 1, 0.4)
        ),
    ]
    cat, dog = counting_table(found, targets, CLASSES)
    assert cat == {"class": "cat", "annotated": 2, "predicted": 2, "MAE": 1.0, "bias": 0.0}
    assert dog == {"class": "dog", "annotated": 1, "predicted": 2, "MAE": 0.5, "bias": 0.5}
    cat, dog = counting_table(found, targets, CLASSES, score_threshold=(0.7, 0.3))
    assert cat["predicted"] == 1 and dog["predicted"] == 3 and cat["bias"] == -0.5


def test_objects_are_numbered_through_all_pictures():
    targets = [
        target((0, 0, 10, 10, 0), (0, 0, 4, 4, 1), difficult=[False, True]),
        target(),
        target((0, 0, 10, 10, 1), (20, 0, 30, 10, 0)),
    ]
    found = [
        prediction((0, 0, 10, 10, 0, 0.3)),
        prediction(),
        prediction((20, 0, 30, 10, 0, 0.9), (0, 0, 10, 4, 1, 0.8)),
    ]
    judged = judge(found, targets)
    assert judged.objects.tolist() == [0, 2, 1] and judged.truth.tolist() == [0, 1, 0]
    assert judged.kinds.tolist() == ["correct", "correct", "localisation"]


# ---- who is taken for whom, and from which score on ----
def shot(*rows):
    """Detections as (box, score, label)."""
    boxes, scores, labels = zip(*rows) if rows else ((), (), ())
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor(scores, dtype=torch.float32),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def truth(*rows, **flags):
    """Objects as (box, label)."""
    boxes, labels = zip(*rows) if rows else ((), ())
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
    } | {name: torch.tensor(value) for name, value in flags.items()}


A, B, C = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)
HALF = (0, 0, 10, 5)  # IoU with A: exactly .5


@pytest.mark.parametrize(
    "found, objects, expected",
    [
        (shot(), truth(), [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
        (shot(), truth((A, 0), (B, 1)), [[0, 0, 1], [0, 0, 1], [0, 0, 0]]),
        (shot((A, 0.9, 1), (C, 0.9, 0)), truth(), [[0, 0, 0], [0, 0, 0], [1, 1, 0]]),
        (shot((A, 0.9, 0), (B, 0.9, 0)), truth((A, 0), (B, 1)), [[1, 0, 0], [1, 0, 0], [0, 0, 0]]),
        (shot((A, 0.9, 0), (A, 0.8, 0)), truth((A, 0)), [[1, 0, 0], [0, 0, 0], [1, 0, 0]]),
        (shot((A, 0.9, 1), (A, 0.8, 0)), truth((A, 0)), [[1, 0, 0], [0, 0, 0], [0, 1, 0]]),
        (shot((HALF, 0.9, 0)), truth((A, 0)), [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),
        (shot((A, 0.5, 0)), truth((A, 0)), [[0, 0, 1], [0, 0, 0], [0, 0, 0]]),  # not over .5
        (shot((HALF, 0.9, 0), (A, 0.6, 1)), truth((A, 0)), [[0, 1, 0], [0, 0, 0], [1, 0, 0]]),
        (shot((A, 0.9, 0)), truth((A, 0), difficult=[True]), [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
        (shot((HALF, 0.9, 0)), truth((A, 0), crowd=[True]), [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
        (shot((A, 0.9, 1)), truth((A, 0), difficult=[True]), [[0, 0, 0], [0, 0, 0], [0, 1, 0]]),
    ],
)
def test_confusion_by_hand(found, objects, expected):
    assert confusion_matrix([found], [objects], 2).tolist() == expected


def test_confusion_counts_every_object_and_detection_once():
    generator = torch.Generator().manual_seed(0)
    predictions, targets = [], []
    for _ in range(20):
        sides = [torch.rand(n, 2, generator=generator) * 60 for n in (12, 6)]
        boxes = [torch.cat((xy, xy + 30), 1).tolist() for xy in sides]
        predictions.append(shot(*((box, 0.6, i % 3) for i, box in enumerate(boxes[0]))))
        targets.append(truth(*((box, i % 3) for i, box in enumerate(boxes[1]))))
    matrix = confusion_matrix(predictions, targets, 3)
    assert matrix[:3].sum(1).tolist() == [40, 40, 40] and matrix[:, :3].sum(0).tolist() == [80] * 3
    assert matrix[:3, :3].sum() > 20 and matrix[3, 3] == 0
    swapped = [target | {"labels": (target["labels"] + 1) % 3} for target in targets]
    assert confusion_matrix(predictions, swapped, 3)[:3].sum(1).tolist() == [40, 40, 40]


def brute_f1(predictions, targets, threshold):
    """F1 at a threshold, counted by the matrix with one class at a time."""
    true = detections = objects = 0
    for label in (0, 1):
        one = [{k: v[p["labels"] == label] for k, v in p.items()} for p in predictions]
        mine = [{k: v[t["labels"] == label] for k, v in t.items()} for t in targets]
        for part in (*one, *mine):
            part["labels"] = torch.zeros_like(part["labels"])
        matrix = confusion_matrix(one, mine, 1, threshold)
        true, detections = true + matrix[0, 0], detections + matrix[:, 0].sum()
        objects += matrix[0].sum()
    return 2 * true / (detections + objects)


def test_the_threshold_of_highest_f1():
    generator = torch.Generator().manual_seed(1)
    predictions, targets = [], []
    for _ in range(12):
        corners = torch.arange(5).float()[:, None] * torch.tensor([40.0, 0.0])
        boxes = torch.cat((corners, corners + 20), 1).tolist()
        scores = torch.rand(5, generator=generator)
        hit = torch.rand(5, generator=generator) < scores  # the surer, the more often right
        rows = [(b, float(s), i % 2) for i, (b, s) in enumerate(zip(boxes, scores))]
        predictions.append(shot(*rows))
        targets.append(truth(*((b, i % 2) for i, b in enumerate(boxes) if hit[i])))
    found = best_threshold(coco_evaluate(predictions, targets, 2), targets)
    grid = [brute_f1(predictions, targets, t) for t in torch.linspace(0, 1, 401).tolist()]
    assert found["F1"] == pytest.approx(max(grid)) and 0.05 < found["threshold"] < 0.95
    assert brute_f1(predictions, targets, found["threshold"]) == pytest.approx(found["F1"])


def test_thresholds_where_scores_are_equal_or_nothing_is_found():
    boxes = [shot((A, 0.7, 0), (B, 0.7, 0), (C, 0.7, 0))]
    found = best_threshold(coco_evaluate(boxes, [truth((A, 0))], 1), [truth((A, 0))])
    assert found == {"F1": pytest.approx(0.5), "threshold": pytest.approx(0.35)}
    for predictions, target in (([shot()], truth((A, 0))), ([shot((B, 0.9, 0))], truth((A, 0)))):
        figures = coco_evaluate(predictions, [target], 1)
        assert best_threshold(figures, [target]) == {"F1": 0.0, "threshold": 0.5}
    assert best_threshold(coco_evaluate([shot()], [truth()], 1), [truth()])["F1"] == 0
