"""Lesson 10's exercises: a right answer passes, each likely wrong one fails at the case that names
its mistake.
"""

import math

import torch
from answers import exercise_tests

from lesson_lib.course.checks.lesson10 import EXERCISES, FAULTS


def accumulate(weight, parts):
    weight = weight.clone().requires_grad_()
    count = sum(len(y) for _, y in parts)
    for x, y in parts:
        (((x @ weight - y) ** 2).sum() / count).backward()
    return weight.grad


def sum_of_means(weight, parts, divisor=1):
    weight = weight.clone().requires_grad_()
    for x, y in parts:
        (((x @ weight - y) ** 2).mean() / divisor).backward()
    return weight.grad


def last_part_alone(weight, parts):
    for x, y in parts:
        weight = weight.detach().clone().requires_grad_()
        ((x @ weight - y) ** 2).mean().backward()
    return weight.grad


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


RIGHT = {
    "10.workers": lambda ms, batch, step: math.ceil(ms * batch / step),
    "10.accumulate": accumulate,
    "10.logs": FAULTS.get,
    "10.crop": crop,
}
MISTAKES = [
    ("10.workers", lambda ms, batch, step: ms * batch / step, "one is enough"),
    ("10.workers", lambda ms, batch, step: round(ms * batch / step) or 1, "a little more"),
    ("10.workers", lambda ms, batch, step: int(ms * batch / step) + 1, "exactly two"),
    ("10.workers", lambda ms, batch, step: math.ceil(ms * batch / 100), "fast GPU"),
    ("10.accumulate", sum_of_means, "same size"),
    ("10.accumulate", last_part_alone, "same size"),
    ("10.accumulate", lambda w, parts: sum_of_means(w, parts, len(parts)), "three rows"),
    ("10.logs", lambda letter: FAULTS["A"], "log B"),
    ("10.logs", lambda letter: FAULTS[letter if letter in "AB" else "A"], "log C"),
    ("10.logs", lambda letter: "the loader starves the GPU", "log A"),
    ("10.crop", crop_what_touches, "reaches in"),
    ("10.crop", crop_without_cut, "cut at the border"),
    ("10.crop", lambda b, n, p: (crop(b, n, p)[0] + p[:2].repeat(2), crop(b, n, p)[1]), "moves"),
    ("10.crop", lambda b, n, p: (crop(b, n, p)[0], n[: len(crop(b, n, p)[0])]), "labels go with"),
]


test_every_exercise_is_tried, test_right, test_mistake, test_stub = exercise_tests(
    EXERCISES, RIGHT, MISTAKES
)
