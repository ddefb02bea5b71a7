"""Lesson 10's exercises: a right answer passes, each likely wrong one fails at the case that names
its mistake.
"""

import math

import pytest
import torch
from answers import exercise_tests

from lesson_lib.course.checks import DONE, verdict
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


def by_the_formula(weight, parts):
    """Without autograd, by place, and in halves: all of it is allowed."""
    count, total = sum(len(parts[n][1]) for n in range(len(parts))), torch.zeros_like(weight)
    for half in (parts[: len(parts) // 2], parts[len(parts) // 2 :]):
        for x, y in half:
            total += 2 * x.T @ (x @ weight - y) / count
    return total


def gradients_added(weight, parts):
    weight = weight.clone().requires_grad_()
    count = sum(y.numel() for _, y in parts)
    losses = (((x @ weight - y) ** 2).sum() / count for x, y in parts)
    return sum(torch.autograd.grad(loss, weight)[0] for loss in losses)


def joined(weight, parts, join=torch.cat):
    weight = weight.clone().requires_grad_()
    x, y = parts[0]
    for more, told in parts[1:]:
        x, y = join((x, more)), torch.cat((y, told))
    ((x @ weight - y) ** 2).mean().backward()
    return weight.grad


def one_graph(weight, parts):
    weight = weight.clone().requires_grad_()
    count = sum(len(y) for _, y in parts)
    sum(((x * weight).sum(1) - y).square().sum() for x, y in parts).div(count).backward()
    return weight.grad


def kept_in_a_list(weight, parts):
    return accumulate(weight, list(parts))


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
    ("10.accumulate", joined, "same size: it stopped with MemoryError in line"),
    ("10.accumulate", lambda w, parts: joined(w, parts, torch.vstack), "vstack makes one of"),
    ("10.accumulate", one_graph, "without any row: it stopped with MemoryError"),
    ("10.accumulate", kept_in_a_list, "there is room for two parts"),
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


@pytest.mark.parametrize("answer", [by_the_formula, gradients_added])
def test_other_ways_to_the_gradient_of_the_parts_are_right(answer):
    assert verdict("10.accumulate", answer).startswith(DONE)


def test_where_a_part_did_not_fit_is_the_learners_line():
    said = verdict("10.accumulate", kept_in_a_list)
    assert "MemoryError in line" in said and "of kept_in_a_list: " in said
