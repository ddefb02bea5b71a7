"""Lesson 10's exercises: a right answer passes, each likely wrong one fails at the case that names
its mistake.
"""

import torch
from answers import exercise_tests

from lesson_lib.course.checks.lesson10 import EXERCISES


def rate(step, lr, warmup, drops):
    return (
        lr * (step + 1) / (warmup + 1)
        if step < warmup
        else lr * 0.1 ** sum(step >= drop for drop in drops)
    )


def zoom(boxes, size, factor, x, y):
    return (boxes + torch.tensor([x, y, x, y])) / factor


def crop(boxes, labels, patch):
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centre > patch[:2]) & (centre < patch[2:])).all(1)
    low, high = patch[:2].repeat(2), patch[2:].repeat(2)
    return torch.minimum(torch.maximum(boxes[inside], low), high) - low, labels[inside]


def crop_what_touches(boxes, labels, patch):
    touches = ((boxes[:, :2] < patch[2:]) & (boxes[:, 2:] > patch[:2])).all(1)
    low, high = patch[:2].repeat(2), patch[2:].repeat(2)
    return torch.minimum(torch.maximum(boxes[touches], low), high) - low, labels[touches]


def crop_without_cut(boxes, labels, patch):
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centre > patch[:2]) & (centre < patch[2:])).all(1)
    return boxes[inside] - patch[:2].repeat(2), labels[inside]


RIGHT = {"10.learning_rate": rate, "10.zoom_out": zoom, "10.crop": crop}
MISTAKES = [
    (
        "10.learning_rate",
        lambda s, lr, w, d: lr * 0.1 ** sum(s > x for x in d),
        "itself is dropped",
    ),
    ("10.learning_rate", lambda s, lr, w, d: lr * s / w if s < w else rate(s, lr, 0, d), "not 0"),
    ("10.learning_rate", lambda s, lr, w, d: rate(s, lr, 0, d), "first step of a warm-up"),
    ("10.learning_rate", lambda s, lr, w, d: rate(s, lr, w, d[:1]), "both drops"),
    (
        "10.learning_rate",
        lambda s, lr, w, d: rate(s, lr, w, [drop + w for drop in d]),
        "does not move the drops",
    ),
    ("10.zoom_out", lambda b, size, f, x, y: b / f + torch.tensor([x, y, x, y]), "bottom right"),
    ("10.zoom_out", lambda b, size, f, x, y: b / f, "bottom right"),
    ("10.zoom_out", lambda b, size, f, x, y: (b + torch.tensor([y, x, y, x])) / f, "40 and 8"),
    ("10.zoom_out", lambda b, size, f, x, y: b + torch.tensor([x, y, x, y]), "top left"),
    ("10.crop", crop_what_touches, "reaches in"),
    ("10.crop", crop_without_cut, "cut at the border"),
    ("10.crop", lambda b, n, p: (crop(b, n, p)[0] + p[:2].repeat(2), crop(b, n, p)[1]), "moves"),
    ("10.crop", lambda b, n, p: (crop(b, n, p)[0], n[: len(crop(b, n, p)[0])]), "labels go with"),
]


test_every_exercise_is_tried, test_right, test_mistake, test_stub = exercise_tests(
    EXERCISES, RIGHT, MISTAKES
)
