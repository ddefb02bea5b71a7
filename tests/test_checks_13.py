"""Lesson 13's checks: right answers pass, and each wrong idea is told by the case that shows it."""

import torch
from answers import exercise_tests

from lesson_lib.course import handover
from lesson_lib.course.checks import TODO, verdict
from lesson_lib.course.checks.lesson13 import CHOSEN, EXERCISES, LETTERS, SIGNS
from lesson_lib.data.tiles import join_tiles as library_join
from lesson_lib.nms import class_aware_nms, nms


def validation(names, every):
    groups = sorted({name.rpartition("_")[0] for name in names})
    return [groups.index(name.rpartition("_")[0]) % every == 0 for name in names]


def join(found, corners, iou_threshold, suppress=class_aware_nms, order=(0, 1, 0, 1)):
    moved = [
        tile["boxes"] + torch.tensor(corner).float()[list(order)]
        for tile, corner in zip(found, corners)
    ]
    boxes = torch.cat(moved)
    scores, labels = (torch.cat([tile[name] for tile in found]) for name in ("scores", "labels"))
    kept = suppress(boxes, scores, labels, iou_threshold)
    return boxes[kept], scores[kept], labels[kept]


def _by(key, names, every):
    groups = sorted({key(name) for name in names})
    return [groups.index(key(name)) % every == 0 for name in names]


def all_of_them(boxes, scores, labels, iou_threshold):
    return scores.argsort(descending=True)


def in_no_order(boxes, scores, labels, iou_threshold):
    return class_aware_nms(boxes, scores, labels, iou_threshold).sort().values


def whatever_class(boxes, scores, labels, iou_threshold):
    return nms(boxes, scores, iou_threshold)


def at_any_overlap(boxes, scores, labels, iou_threshold):
    return class_aware_nms(boxes, scores, labels, 0.1)


RIGHT = {
    "13.validation": validation,
    "13.choose": lambda: CHOSEN,
    "13.confused": handover.fault_of,
    "13.join_tiles": join,
}
MISTAKES = [
    (
        "13.validation",
        lambda names, every: [i % every == 0 for i in range(len(names))],
        "one group",
    ),
    (
        "13.validation",
        lambda names, every: [
            v and "reef" not in n for v, n in zip(validation(names, every), names)
        ],
        "every second",
    ),
    (
        "13.validation",
        lambda names, every: [
            sorted({n.split("_")[0] for n in names}).index(n.split("_")[0]) % every == 0
            for n in names
        ],
        "two underscores",
    ),
    (
        "13.validation",
        lambda names, every: _by(lambda n: n.rstrip("0123456789_"), names, every),
        "end in a digit",
    ),
    ("13.validation", lambda names, every: _by(lambda n: n[:-2], names, every), "end in a digit"),
    ("13.choose", lambda: "D", "your row"),
    ("13.choose", lambda: "G", "your row"),
    (
        "13.confused",
        lambda letter: handover.fault_of(letter if letter != "D" else "B"),
        "matrix D",
    ),
    ("13.join_tiles", library_join, "which is the answer itself"),
    ("13.join_tiles", lambda f, c, t: join(f, [(0, 0)] * len(c), t), "one tile elsewhere"),
    ("13.join_tiles", lambda f, c, t: join(f, c, t, order=(1, 0, 1, 0)), "one tile elsewhere"),
    ("13.join_tiles", lambda f, c, t: join(f, c, t, in_no_order), "the surer detection"),
    ("13.join_tiles", lambda f, c, t: join(f, c, t, all_of_them), "one cell in both tiles"),
    ("13.join_tiles", lambda f, c, t: join(f, c, t, whatever_class), "a platelet on a red cell"),
    ("13.join_tiles", lambda f, c, t: join(f, c, t, at_any_overlap), "neighbours that touch"),
    ("13.join_tiles", lambda f, c, t: join(f, c, 0.5), "a threshold of 0.3"),
    ("13.join_tiles", lambda f, c, t: join(f, c, min(t, 0.5)), "a threshold of 0.7"),
]


test_every_exercise_is_tried, test_right, test_mistake, test_stub = exercise_tests(
    EXERCISES, RIGHT, MISTAKES
)


def test_a_wrong_diagnosis_is_told_why_and_the_right_one_never_said():
    for letter in LETTERS:
        right = handover.fault_of(letter)
        for fault in set(handover.FAULTS) - {right}:
            said = verdict(
                "13.confused",
                lambda k, here=letter, fault=fault: fault if k == here else handover.fault_of(k),
            )
            assert f"matrix {letter}" in said and SIGNS[fault] in said and right not in said, said
    assert "is none of the words" in verdict("13.confused", lambda letter: True)
    assert verdict("13.confused", lambda letter: ...).startswith(TODO)


def test_the_check_of_the_choice_never_says_the_letter():
    assert CHOSEN not in verdict("13.choose", lambda: "A").partition(":")[2]
