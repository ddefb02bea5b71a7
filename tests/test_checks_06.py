"""Lesson 6's exercises: a right answer passes, each likely wrong one fails at the case that names
its mistake.
"""

import numpy as np
import pytest
import torch
from answers import exercise_tests

from lesson_lib.boxes import pairwise_iou
from lesson_lib.course.checks import verdict
from lesson_lib.course.checks.lesson06 import (
    ANNOTATE,
    BUG_REASONS,
    BUGS,
    CURES,
    DECISION_REASONS,
    DECISIONS,
    EXERCISES,
    GRADED,
    LOOKED_AT,
    LOOSEN,
    OVERLAPS,
    REPAIRS,
    bug_tables,
    repairs_table,
)
from lesson_lib.course.detection_pictures import (
    crowd_ap,
    nms_step_picture,
    nms_steps,
    verdicts,
    wrong_ones,
    wrong_picture,
)
from lesson_lib.course.svg import shape
from lesson_lib.data.smears import Smears, left_out_boxes
from lesson_lib.evaluation import average_precision, precision_recall
from lesson_lib.nms import greedy_nms, nms


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


def claims(boxes, scores, objects, choose):
    """Each detection claims the free object that `choose` picks of those that overlap enough."""
    true, taken = torch.zeros(len(boxes), dtype=torch.bool), set()
    for i in scores.argsort(descending=True, stable=True).tolist():
        row = pairwise_iou(boxes[i : i + 1], objects)[0].tolist()
        fits = [g for g, overlap in enumerate(row) if overlap >= 0.5 and g not in taken]
        if fits:
            true[i] = True
            taken.add(choose(fits, row))
    return true


def curve(scores, true, objects):
    """Recall and precision down the list, in numpy."""
    hits = true[scores.argsort(descending=True)].numpy().astype(float).cumsum()
    return hits / objects, hits / np.arange(1, len(hits) + 1)


def area(scores, true, objects, points=None):
    """The area under the falling stairs, or the mean height at `points` recalls."""
    recall, precision = curve(scores, true, objects)
    if points is None:
        falling = np.maximum.accumulate(precision[::-1])[::-1]
        return float(np.sum(np.diff(recall, prepend=0.0) * falling))
    grid = np.linspace(0, 1, points)
    return float(np.mean([precision[recall >= r].max(initial=0.0) for r in grid]))


def area_without_envelope(scores, true, objects):
    recall, precision = curve(scores, true, objects)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def suppressed(boxes, scores, threshold):
    """Greedy suppression, written with plain loops."""
    kept = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(pairwise_iou(boxes[i][None], boxes[j][None]) <= threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


def unsorted(scores, true, objects):
    return area(-torch.arange(len(scores), dtype=torch.float32), true, objects)


def nms_that_drops_by_dropped(boxes, scores, threshold):
    order = scores.argsort(descending=True)
    over = pairwise_iou(boxes[order], boxes[order]).triu(1) > threshold
    return order[~over.any(0)]


def counting(verdicts, annotated, corrections=lambda extra, missed: extra + missed):
    found = torch.tensor([int(row.sum()) for row in verdicts])
    extra = torch.tensor([len(row) for row in verdicts]) - found
    missed = annotated - found
    error = (extra - missed).double()
    wrong = corrections(extra, missed).double()
    return error.mean(), error.abs().mean(), wrong.mean()


RIGHT = {
    "06.nms": suppressed,
    "06.true_or_false": true_or_false,
    "06.bugs": BUGS.get,
    "06.decide": DECISIONS.get,
    "06.counting": counting,
    "06.average_precision": area,
}

MISTAKES = [
    ("06.bugs", (BUGS | {"P": BUGS["Q"]}).get, "program P"),
    ("06.bugs", (BUGS | {"Q": BUGS["R"]}).get, "program Q"),
    ("06.bugs", (BUGS | {"R": "nothing is wrong"}).get, "program R"),
    ("06.decide", lambda name: "box loss and resolution", "detector A"),
    ("06.decide", (DECISIONS | {"B": "harder negatives"}).get, "detector B"),
    ("06.decide", (DECISIONS | {"C": "anchors that fit"}).get, "detector C"),
    ("06.decide", (DECISIONS | {"C": "a lower NMS threshold"}).get, "detector C"),
    ("06.decide", (DECISIONS | {"D": "a higher NMS threshold"}).get, "detector D"),
    ("06.decide", (DECISIONS | {"D": "harder negatives"}).get, "detector D"),
    ("06.decide", (DECISIONS | {"B": "box loss and resolution"}).get, "detector B"),
    ("06.decide", (DECISIONS | {"D": "box loss and resolution"}).get, "detector D"),
    ("06.decide", (DECISIONS | {"A": "complete the annotations"}).get, "detector A"),
    ("06.decide", (DECISIONS | {"A": "harder negatives"}).get, "detector A"),
    ("06.counting", lambda v, a: (-counting(v, a)[0], *counting(v, a)[1:]), "two too many"),
    (
        "06.counting",
        lambda v, a: counting(v, a, corrections=lambda extra, missed: (extra - missed).abs()),
        "a right count",
    ),
    (
        "06.counting",
        lambda v, a: counting(v, a, corrections=lambda extra, missed: extra),
        "a right count",
    ),
    (
        "06.counting",
        lambda v, a: counting(v, a, corrections=torch.maximum),
        "a right count",
    ),
    (
        "06.counting",
        lambda v, a: (torch.cat(v).sum() - a.sum(), *counting(v, a)[1:]),
        "two too many",
    ),
    (
        "06.counting",
        lambda v, a: (*counting(v, a)[:2], sum((~row).float().mean() for row in v)),
        "one picture",
    ),
    ("06.nms", lambda b, s, t: torch.arange(len(b)), "the better box comes second"),
    (
        "06.nms",
        lambda b, s, t: suppressed(b, -torch.arange(len(b)).float(), t),
        "the better box comes second",
    ),
    ("06.nms", lambda b, s, t: suppressed(b, s, t).sort().values, "best first"),
    ("06.nms", lambda b, s, t: suppressed(b, s, t - 1e-6), "equal to the threshold"),
    ("06.nms", nms_that_drops_by_dropped, "a chain"),
    ("06.nms", lambda b, s, t: suppressed(b, s, t)[:7], "eighty"),
    ("06.true_or_false", lambda b, s, o: true_or_false(b, s, o, inclusive=False), "exactly 0.5"),
    ("06.true_or_false", lambda b, s, o: true_or_false(b, s, o, once=False), "found twice"),
    ("06.true_or_false", lambda b, s, o: true_or_false(b, s, o, by_rank=False), "the higher score"),
    (
        "06.true_or_false",
        lambda b, s, o: true_or_false(b, s, o, voc=True),
        "its best object is taken",
    ),
    ("06.true_or_false", lambda b, s, o: pairwise_iou(b, o).amax(1) >= 0.5, "found twice"),
    ("06.true_or_false", lambda *args: claims(*args, choose=lambda fits, _: fits[0]), "second"),
    ("06.true_or_false", lambda *args: claims(*args, choose=lambda fits, _: fits[-1]), "first"),
    (
        "06.true_or_false",
        lambda *args: claims(*args, choose=lambda fits, row: min(fits, key=row.__getitem__)),
        "the better one is claimed",
    ),
    ("06.nms", lambda b, s, t: suppressed(b, s, t).int(), "dtype int64"),
    (
        "06.counting",
        lambda v, a: (counting(v, a)[0], abs(counting(v, a)[0]), counting(v, a)[2]),
        "two too many here",
    ),
    (
        "06.counting",
        lambda v, a: tuple(len(v) * value for value in counting(v, a)),
        "two too many here",
    ),
    ("06.average_precision", unsorted, "out of order"),
    ("06.average_precision", area_without_envelope, "precision rises again"),
    ("06.average_precision", lambda s, t, o: area(s, t, o, 11), "the five detections"),
    ("06.average_precision", lambda s, t, o: area(s, t, o, 101), "the five detections"),
    ("06.average_precision", lambda s, t, o: area(s, t, int(t.sum()) or 1), "the five detections"),
]


test_every_exercise_is_tried, test_right, test_mistake, test_stub = exercise_tests(
    EXERCISES, RIGHT, MISTAKES
)


@pytest.mark.parametrize(
    ("name", "answer", "borrowed"),
    [
        ("06.nms", lambda *args: greedy_nms(*args), "lesson_lib's greedy_nms"),
        ("06.nms", lambda *args: nms(*args), "lesson_lib's nms"),
        (
            "06.nms",
            lambda b, s, t: torch.tensor([step.best for step in nms_steps(b, s, t)]),
            "lesson_lib's nms_steps",
        ),
        ("06.true_or_false", lambda *args: torch.tensor(verdicts(*args)), "lesson_lib's verdicts"),
        (
            "06.average_precision",
            lambda s, t, o: average_precision(*precision_recall(s.numpy(), t.numpy(), o)),
            "lesson_lib's precision_recall",
        ),
    ],
)
def test_the_answer_itself_is_refused_by_name(name, answer, borrowed):
    assert f"calls {borrowed}," in verdict(name, answer)


def test_each_diagnosis_fits_the_verdicts_and_differs_from_the_right_ones():
    order = sorted(range(5), key=lambda i: -GRADED[i])
    taken, right = set(), [False] * 5
    for i in order:
        best = int(np.argmax(OVERLAPS[i]))
        right[i] = OVERLAPS[i][best] >= 0.5 and best not in taken
        taken |= {best} if right[i] else set()
    tables = bug_tables()
    assert right == [False, True, True, True, False] and right not in tables.values()
    assert sum(tables["P"]) == 5 and tables["Q"][0] and not tables["R"][2]
    assert len({str(table) for table in tables.values()}) == 3


def test_the_steps_of_the_picture_are_those_of_suppression():
    generator = torch.Generator().manual_seed(6)
    corner = 60 * torch.rand(50, 2, generator=generator)
    boxes = torch.cat([corner, corner + 20], dim=1)
    scores = torch.rand(50, generator=generator)
    steps = nms_steps(boxes, scores, 0.45)
    assert [step.best for step in steps] == greedy_nms(boxes, scores, 0.45).tolist()
    assert sum(1 + len(step.dropped) for step in steps) == 50 and not steps[-1].left


def test_a_step_frames_those_that_stay_and_colours_boxes_by_class():
    boxes = torch.tensor([[4.0, 4, 24, 24], [5.0, 4, 25, 24], [40.0, 40, 60, 60]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1])
    steps = nms_steps(boxes, scores, 0.45)
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    before, first, last = (
        nms_step_picture(image, boxes, scores, labels, steps, number) for number in range(3)
    )
    frame, red, white = shape("kept", boxes)["stroke"], "#D55E00", "#0072B2"
    assert "3 boxes" in before and frame not in before and red in before and white in before
    assert "Step 1 of 2" in first and "drops 1 (dotted)" in first and "1 are left" in first
    both = shape("kept", boxes[[0, 2]])["d"]
    assert both in last and both not in first and "drops 0" in last


def test_a_crowd_costs_nothing_where_it_is_marked_and_much_where_it_is_not():
    assert crowd_ap(True) == 1 and crowd_ap(False) < 0.2


#: What each thing that somebody saw asks for, by itself.
CURE_OF = {
    "smudges of stain": CURES["background"],
    "pairs of boxes on one cell, IoU 0.5 to 0.6": CURES["duplicate"],
    "white cells, of which the set has 40, called red": CURES["class"],
    "boxes a fifth too wide": CURES["localisation"],
    "objects of 9 to 14 px; the smallest anchor has 32": CURES["missed"],
    "cells in clumps, where a neighbour's box drops theirs": LOOSEN,
    "most fit a cell that has no box, IoU 0.7 or more": ANNOTATE,
}


def costliest(name):
    return max(REPAIRS[name], key=lambda kind: REPAIRS[name][kind][1])


def test_what_to_mend_first_is_what_was_seen_of_the_kind_that_costs_most():
    for name, row in REPAIRS.items():
        assert DECISIONS[name] == CURE_OF[LOOKED_AT[name][costliest(name)]]
        assert max(row, key=lambda kind: row[kind][0]) != costliest(name) or name == "D"
        for kind, seen in LOOKED_AT[name].items():
            assert kind in row and f"{kind}: {seen}" in repairs_table()
    assert len({line.count("|") for line in repairs_table().splitlines()}) == 1


@pytest.mark.parametrize(
    ("column", "first_missed"),
    [
        (lambda name: CURES[costliest(name)], "C"),
        (lambda name: CURES[max(REPAIRS[name], key=lambda kind: REPAIRS[name][kind][0])], "A"),
        (lambda name: CURE_OF[next(iter(LOOKED_AT[name].values()))], "A"),
        (lambda name: CURE_OF[list(LOOKED_AT[name].values())[1]], "B"),
    ],
    ids=["price and usual cure", "number and usual cure", "first sight", "second sight"],
)
def test_what_to_mend_first_is_not_read_from_one_column(column, first_missed):
    told = verdict("06.decide", column)
    assert told.startswith("✗") and f"detector {first_missed}" in told


def test_wrong_boxes_come_surest_first_and_say_how_well_they_fit_a_cell_that_was_left_out():
    smears, others = Smears("val", 2, 128), [left_out_boxes(0, n, "val", 128) for n in range(2)]
    far = torch.tensor([[0.0, 0, 1, 1]])
    others[1] = others[1][:0]
    found = [
        {
            "boxes": torch.cat([smear.boxes[:1], far, extra]),
            "labels": torch.cat([smear.labels[:1], torch.zeros(1 + len(extra)).long()]),
            "scores": torch.tensor([0.9, 0.6, *[0.8] * len(extra)]),
        }
        for smear, extra in zip(smears, (others[0][:1], others[1]))
    ]
    wrong = wrong_ones(found, [smear.target() for smear in smears], others, least=0.5)
    assert [(one.picture, round(one.score, 1)) for one in wrong] == [(0, 0.8), (0, 0.6), (1, 0.6)]
    assert wrong[0].fit == 1 and torch.equal(wrong[0].box, others[0][0])
    assert wrong[1].fit < 0.5 and wrong[2].fit == 0
    assert not wrong_ones(found, [smear.target() for smear in smears], others, least=0.95)
    drawn = wrong_picture(wrong[0], smears[0], others[0], side=60)
    yellow = shape("shared", wrong[0].box)["fill"]
    assert (
        "score 0.80; yellow: a cell without a box, IoU 1.00" in drawn
        and f'fill="{yellow}"' in drawn
    )
    alone = wrong_picture(wrong[2], smears[1], others[1], side=60)
    assert "score 0.60" in alone and "yellow" not in alone


def test_each_wrong_choice_is_told_why_it_cannot_be():
    for case, right in DECISIONS.items():
        assert right not in DECISION_REASONS[case]
        for wrong, reason in DECISION_REASONS[case].items():
            assert right not in reason
            assert reason in verdict("06.decide", {**DECISIONS, case: wrong}.get)


def test_each_wrong_diagnosis_is_told_why_it_cannot_be():
    for letter, right in BUGS.items():
        assert len(BUG_REASONS[letter]) == 3 and right not in BUG_REASONS[letter]
        for wrong, reason in BUG_REASONS[letter].items():
            assert right not in reason
            assert reason in verdict("06.bugs", {**BUGS, letter: wrong}.get)
