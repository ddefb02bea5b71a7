"""The exercises of lesson 8: a right answer passes, and each wrong idea is told by the name of its
case.
"""

import pytest
import torch
import torch.nn.functional as F
from answers import exercise_tests

from lesson_lib.anchors import anchor_address
from lesson_lib.course import pieces
from lesson_lib.course.checks import verdict
from lesson_lib.course.checks.lesson08 import CATCHES, EXERCISES, STARTS, first_losses
from lesson_lib.detectors.heads import flatten_predictions


def address(row, maps):
    """Counted through, one row after the other."""
    for level, (rows, columns, k) in enumerate(maps):
        for place in range(rows * columns * k):
            if row == 0:
                return level, place // (columns * k), place // k % columns, place % k
            row -= 1
    return len(maps), 0, 0, 0


def flatten(prediction, values):
    return torch.cat(
        [
            prediction[:, :, y, x].reshape(len(prediction), -1, values)
            for y in range(prediction.shape[2])
            for x in range(prediction.shape[3])
        ],
        dim=1,
    )


def scores(logits):
    best, label = logits.softmax(1)[:, 1:].max(1)
    return best, label


def ssd_loss(
    cls_logits,
    box_deltas,
    labels,
    box_targets,
    positive,
    ratio=3,
    shift=1,
    pooled=False,
    all_boxes=False,
    blank=True,
    least=1,
):
    loss = F.cross_entropy(
        cls_logits.transpose(1, 2), torch.where(positive, labels + shift, 0), reduction="none"
    )
    conf = loss[positive].sum()
    rows = [(loss.flatten(), positive.flatten())] if pooled else zip(loss, positive)
    for row, found in rows:
        conf = conf + row[~found].sort(descending=True).values[: ratio * found.sum()].sum()
    loc = F.smooth_l1_loss(box_deltas, box_targets, reduction="none")
    loc = loc[positive].sum() if blank else (loc * positive[..., None]).sum()
    n = positive.numel() if all_boxes else positive.sum().clamp(min=least)
    return conf / n, loc / n


def unsteady(cls_logits, box_deltas, labels, box_targets, positive):
    """The logarithm of a softmax that has become 0."""
    logits = cls_logits.softmax(dim=-1).log()
    return ssd_loss(logits, box_deltas, labels, box_targets, positive)


RIGHT = {
    "address": address,
    "flatten": flatten,
    "scores": scores,
    "ssd_loss": ssd_loss,
    "starts": STARTS.get,
    "catches": CATCHES.get,
}
WRONG = [
    (
        "address",
        lambda row, maps: anchor_address(row, [m[:2] for m in maps], [m[2] for m in maps]),
        "calls lesson_lib's anchor_address",
    ),
    ("flatten", flatten_predictions, "calls lesson_lib's flatten_predictions"),
    ("ssd_loss", pieces.ssd_loss, "calls lesson_lib's ssd_loss"),
    ("starts", lambda letter: "right", "network F"),
    ("starts", (STARTS | {"G": "no negatives", "J": "divided by all boxes"}).get, "network G"),
    ("starts", (STARTS | {"I": "right", "H": "no background channel"}).get, "network H"),
    ("catches", lambda bug: "shapes", "divided by all anchors"),
    ("catches", (CATCHES | {"no permute": "overfit one picture"}).get, "no permute"),
    (
        "ssd_loss",
        lambda *a: tuple(part.item() for part in ssd_loss(*a)),
        "no gradient reaches cls_logits",
    ),
    (
        "ssd_loss",
        lambda *a: (ssd_loss(*a)[0], ssd_loss(*a)[1].detach()),
        "no gradient reaches box_deltas",
    ),
    ("ssd_loss", lambda *a: unsteady(*a), "logits beyond 100"),
    (
        "scores",
        lambda z: (z.exp() / z.exp().sum(1, keepdim=True))[:, 1:].max(1),
        "logits beyond 100",
    ),
    ("catches", (CATCHES | {"ratio flipped in use": "known batch"}).get, "ratio flipped"),
    ("address", lambda row, maps: (0, *divmod(row // 4, 38), row % 4), "the first row of fc7"),
    (
        "address",
        lambda row, maps: (
            address(row, maps)[0],
            *address(row, maps)[2:0:-1],
            address(row, maps)[3],
        ),
        "the next position",
    ),
    ("address", lambda row, maps: tuple(i + 1 for i in address(row, maps)), "first row of all"),
    ("address", lambda row, maps: address(row, [(m, m, k) for m, _, k in maps]), "not square"),
    ("flatten", lambda p, v: p.reshape(len(p), -1, v), "three positions"),
    ("flatten", lambda p, v: p.permute(0, 3, 2, 1).reshape(len(p), -1, v), "2 rows, 3 columns"),
    ("flatten", lambda p, v: p.permute(0, 2, 3, 1), "one position with one box"),
    ("flatten", lambda p, v: flatten(p[:1], v), "two pictures"),
    ("scores", lambda z: z.softmax(1).max(1), "red cell (class 0)"),
    ("scores", lambda z: (z[:, 1:].softmax(1).max(1)[0], scores(z)[1]), "red cell"),
    ("scores", lambda z: (z.sigmoid()[:, 1:].max(1)[0], scores(z)[1]), "red cell"),
    ("scores", lambda z: (scores(z)[0], scores(z)[1] + 1), "red cell"),
    ("scores", lambda z: (z.exp()[:, 1:].max(1)[0], scores(z)[1]), "7 added"),
    ("ssd_loss", lambda *a: ssd_loss(*a, shift=0), "one positive, three negatives"),
    ("ssd_loss", lambda *a: ssd_loss(*a, ratio=100), "nine negatives"),
    ("ssd_loss", lambda *a: ssd_loss(*a, pooled=True), "two pictures, one without"),
    ("ssd_loss", lambda *a: ssd_loss(*a, all_boxes=True), "the same logits everywhere"),
    ("ssd_loss", lambda *a: ssd_loss(*a, ratio=0), "expected 3.363, got 2.3408"),
    ("ssd_loss", lambda *a: ssd_loss(*a, blank=False), "infinite"),
    ("ssd_loss", lambda *a: ssd_loss(*a, least=0), "no object"),
    (
        "ssd_loss",
        lambda *a: (
            ssd_loss(*a)[0],
            F.l1_loss(a[1][a[4]], a[3][a[4]], reduction="sum") / a[4].sum(),
        ),
        "one positive, three negatives",
    ),
]


test_every_exercise_is_tried, test_right, test_mistake, test_stub = exercise_tests(
    EXERCISES,
    {f"08.{name}": answer for name, answer in RIGHT.items()},
    [(f"08.{name}", answer, case) for name, answer, case in WRONG],
)


def test_the_first_losses_are_worked_out():
    """4 log 4 = 5.5452 for the right one; 6,096 / 98 rows of log 4; by 6,096; 4 log 3; log 4."""
    found = first_losses()
    assert {k: round(v, 3) for k, v in found.items()} == {
        "F": 86.233,
        "G": 0.089,
        "H": 5.545,
        "I": 4.394,
        "J": 1.386,
    }


@pytest.mark.parametrize("name", ["08.starts", "08.catches"])
def test_a_wrong_word_is_not_told_the_right_one(name):
    said = verdict(name, lambda _: "nonsense")
    words = STARTS if name == "08.starts" else CATCHES
    assert said.startswith("✗") and "is none of the words" in said
    assert all(word in said for word in words.values())


@pytest.mark.parametrize("name, right", [("08.starts", STARTS), ("08.catches", CATCHES)])
def test_a_wrong_diagnosis_is_refuted_without_the_right_one(name, right):
    rungs = {"shapes", "known batch", "overfit one picture", "short training", "metric gate"}
    words = set(STARTS.values()) if name == "08.starts" else rungs
    for asked, answer in right.items():
        for word in words - {answer}:
            said = verdict(name, (right | {asked: word}).get)
            reason = said.partition(f'"{word}" is not it: ')[2]
            assert reason and answer not in reason
