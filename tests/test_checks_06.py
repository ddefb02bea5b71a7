"""Lesson 6's exercises: a right answer passes, each likely wrong one fails at the case that names
its mistake.
"""

import numpy as np
import pytest
import torch

from lesson_lib.boxes import pairwise_iou
from lesson_lib.course.checks import DONE, TODO, WRONG, verdict
from lesson_lib.course.checks.lesson06 import EXERCISES
from lesson_lib.evaluation import average_precision, precision_recall
from lesson_lib.nms import greedy_nms


def true_or_false(boxes, scores, objects, by_rank=True, inclusive=True, once=True, voc=False):
    true, taken = torch.zeros(len(boxes), dtype=torch.bool), set()
    order = scores.argsort(descending=True, stable=True) if by_rank else torch.arange(len(boxes))
    for i in order.tolist():
        overlap = pairwise_iou(boxes[i : i + 1], objects)[0]
        if taken and once and not voc:
            overlap[list(taken)] = -1
        if not len(objects):
            continue
        best = int(overlap.argmax())
        enough = overlap[best] >= 0.5 if inclusive else overlap[best] > 0.5
        if enough and not (voc and best in taken):
            true[i] = True
            taken.add(best)
    return true


def area(scores, true, objects, method="voc-all"):
    return average_precision(*precision_recall(scores.numpy(), true.numpy(), objects), method)


def area_without_envelope(scores, true, objects):
    recall, precision = precision_recall(scores.numpy(), true.numpy(), objects)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def unsorted(scores, true, objects):
    return area(-torch.arange(len(scores), dtype=torch.float32), true, objects)


def nms_that_drops_by_dropped(boxes, scores, threshold):
    order = scores.argsort(descending=True)
    over = pairwise_iou(boxes[order], boxes[order]).triu(1) > threshold
    return order[~over.any(0)]


def counting(predicted, annotated):
    error = (predicted - annotated).double()
    return error.mean(), error.abs().mean()


RIGHT = {
    "06.nms": greedy_nms,
    "06.true_or_false": true_or_false,
    "06.counting": counting,
    "06.average_precision": area,
}

MISTAKES = [
    ("06.nms", lambda b, s, t: torch.arange(len(b)), "the better box comes second"),
    (
        "06.nms",
        lambda b, s, t: greedy_nms(b, -torch.arange(len(b)).float(), t),
        "the better box comes second",
    ),
    ("06.nms", lambda b, s, t: greedy_nms(b, s, t).sort().values, "best first"),
    ("06.nms", lambda b, s, t: greedy_nms(b, s, t - 1e-6), "equal to the threshold"),
    ("06.nms", nms_that_drops_by_dropped, "a chain"),
    ("06.nms", lambda b, s, t: greedy_nms(b, s, t)[:7], "eighty"),
    ("06.true_or_false", lambda b, s, o: true_or_false(b, s, o, inclusive=False), "exactly 0.5"),
    ("06.true_or_false", lambda b, s, o: true_or_false(b, s, o, once=False), "found twice"),
    ("06.true_or_false", lambda b, s, o: true_or_false(b, s, o, by_rank=False), "the higher score"),
    (
        "06.true_or_false",
        lambda b, s, o: true_or_false(b, s, o, voc=True),
        "its best object is taken",
    ),
    ("06.true_or_false", lambda b, s, o: pairwise_iou(b, o).amax(1) >= 0.5, "found twice"),
    ("06.counting", lambda p, a: (counting(p, a)[0], abs(counting(p, a)[0])), "two too many here"),
    ("06.counting", lambda p, a: ((p - a).sum().item(), counting(p, a)[1]), "five pictures"),
    ("06.average_precision", unsorted, "out of order"),
    ("06.average_precision", area_without_envelope, "precision rises again"),
    ("06.average_precision", lambda s, t, o: area(s, t, o, "voc11"), "the five detections"),
    ("06.average_precision", lambda s, t, o: area(s, t, o, "coco101"), "the five detections"),
    ("06.average_precision", lambda s, t, o: area(s, t, int(t.sum()) or 1), "the five detections"),
]


@pytest.mark.parametrize("name", EXERCISES)
def test_a_right_answer_passes(name):
    assert verdict(name, RIGHT[name]).startswith(DONE)


@pytest.mark.parametrize(("name", "answer", "case"), MISTAKES)
def test_a_mistake_is_named(name, answer, case):
    said = verdict(name, answer)
    assert said.startswith(WRONG) and case in said, said


@pytest.mark.parametrize("name", EXERCISES)
def test_a_stub_is_not_attempted(name):
    assert verdict(name, lambda *args: ...).startswith(TODO)
