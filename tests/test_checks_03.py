"""The exercises of lesson 3: a right answer passes, and each wrong idea is told by the name of its
case.
"""

import math

import pytest
import torch

from lesson_lib.course.checks import verdict


def iou(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def labels(best, positive, negative):
    return torch.where(best >= positive, 1, torch.where(best < negative, 0, -1))


def input_side(side, picture, anchor, threshold):
    return picture * anchor * math.sqrt(threshold) / side


def best_pairs(overlaps):
    result, free = [-1] * len(overlaps), set(range(len(overlaps[0]) if overlaps else 0))
    while free and -1 in result:
        _, anchor, g = min(
            (-overlaps[g][a], a, g) for g in range(len(overlaps)) if result[g] < 0 for a in free
        )
        result[g] = anchor
        free.remove(anchor)
    return result


def each_its_best(overlaps):
    """The mistake: every object takes its best anchor, whoever has it already."""
    return [max(range(len(row)), key=row.__getitem__) for row in overlaps]


def in_turn(overlaps):
    """The objects choose one after the other."""
    taken = []
    for row in overlaps:
        left = [a for a in range(len(row)) if a not in taken]
        taken.append(max(left, key=row.__getitem__) if left else -1)
    return taken


def match(
    objects, anchors, threshold, pairs=best_pairs, over=lambda value, bar: value >= bar, force=True
):
    overlaps = [[iou(g, a) for a in anchors.tolist()] for g in objects.tolist()]
    result = torch.full((len(anchors),), -1)
    for a in range(len(anchors)):
        column = [row[a] for row in overlaps]
        if column and over(max(column), threshold - 1e-9):
            result[a] = column.index(max(column))
    for g, a in enumerate(pairs(overlaps) if force else []):
        if a >= 0:
            result[a] = g
    return result


def last_over_the_bar(objects, anchors, threshold):
    result = match(objects, anchors, 2.0)
    for g, row in enumerate([[iou(g, a) for a in anchors.tolist()] for g in objects.tolist()]):
        for a, value in enumerate(row):
            result[a] = g if value >= threshold else result[a]
    return result


def threshold_has_the_last_word(objects, anchors, threshold):
    over = match(objects, anchors, threshold, force=False)
    return torch.where(over >= 0, over, match(objects, anchors, 2.0))


def claimed_only_if_over(objects, anchors, threshold):
    return match(objects, anchors, threshold, force=False)


RIGHT = {"labels": labels, "input_side": input_side, "best_pairs": best_pairs, "match": match}
WRONG = [
    ("labels", lambda b, p, n: torch.where(b > p, 1, torch.where(b < n, 0, -1)), "upper threshold"),
    (
        "labels",
        lambda b, p, n: torch.where(b >= p, 1, torch.where(b <= n, 0, -1)),
        "lower threshold",
    ),
    (
        "labels",
        lambda b, p, n: labels(b, 0.5, 0.4) if n != 0.25 else labels(b, 0.5, 0.25),
        "other thresholds",
    ),
    ("labels", lambda b, p, n: labels(b, p, n).clamp(min=0), "each kind"),
    ("labels", lambda b, p, n: torch.where(b >= p, 1, torch.where(b < n, -1, 0)), "each kind"),
    ("input_side", lambda s, z, a, t: z * a * t / s, "32 px"),
    ("input_side", lambda s, z, a, t: z * a / s, "32 px"),
    ("input_side", lambda s, z, a, t: z * 32 * math.sqrt(t) / s, "21 px"),
    ("best_pairs", each_its_best, "two objects want anchor 0, the second"),
    ("best_pairs", in_turn, "two objects want anchor 0, the second"),
    ("best_pairs", lambda o: best_pairs(o) if len(o) != 3 else [0, 1, 2], "second choice is taken"),
    (
        "best_pairs",
        lambda o: (
            [len(o[0]) - 1 - a for a in best_pairs([r[::-1] for r in o])]
            if len(o) == 1
            else best_pairs(o)
        ),
        "equal overlaps",
    ),
    (
        "best_pairs",
        lambda o: best_pairs(o) if len(o) <= len(o[0]) else [0, 0],
        "more objects than anchors",
    ),
    ("match", lambda *a: match(*a, over=lambda v, bar: v > bar + 2e-9), "two anchors"),
    ("match", claimed_only_if_over, "a small object"),
    ("match", lambda *a: match(*a, pairs=each_its_best), "two objects want anchor 0"),
    ("match", lambda *a: match(*a, pairs=in_turn), "the other order"),
    ("match", last_over_the_bar, "goes to the one that overlaps it more"),
    ("match", lambda g, a, t: match(g, a, 0.5), "goes to the one that overlaps it more"),
    ("match", lambda g, a, t: match(g, a, 2.0), "two anchors"),
    ("match", threshold_has_the_last_word, "stays with the first"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name):
    assert verdict(f"03.{name}", RIGHT[name]).startswith("✓")
    assert verdict(f"03.{name}", lambda *_: None).startswith("○")


@pytest.mark.parametrize("name, answer, words", WRONG)
def test_a_wrong_answer_is_told_with_its_case(name, answer, words):
    told = verdict(f"03.{name}", answer)
    assert told.startswith("✗") and words in told, told
