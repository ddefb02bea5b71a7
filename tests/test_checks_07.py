"""Lesson 7's exercises: a right answer passes, each likely wrong one fails at the case that names
its mistake.
"""

import pytest
import torch
import torch.nn.functional as F
from answers import exercise_tests

from lesson_lib.course import fields, pieces
from lesson_lib.course.checks import WRONG, verdict
from lesson_lib.course.checks.lesson07 import (
    EXERCISES,
    MAPS,
    PLANS,
    PORTS,
    SEEN,
    STRIDES,
    port_logs,
)


def receptive_field(layers, jump_after=True, use_dilation=True):
    field, jump = 1, 1
    for kernel, stride, dilation in layers:
        jump = jump if jump_after else jump * stride
        field += (kernel - 1) * (dilation if use_dilation else 1) * jump
        jump = jump * stride if jump_after else jump
    return field, jump


def no_stride_with_holes(layers):
    return receptive_field([(k, s if d == 1 else 1, d) for k, s, d in layers])


def l2norm(x, scale, dim=1, eps=1e-12):
    return x / x.norm(dim=dim, keepdim=True).clamp(min=eps) * scale[:, None, None]


def top_down(maps, weights, mode="nearest", size=True, chain=True, pictures=None):
    maps = [x[:pictures] for x in maps]
    mixed = [torch.einsum("dc,bchw->bdhw", w, x) for x, w in zip(maps, weights)]
    merged = mixed[-1:]
    for i in range(len(maps) - 2, -1, -1):
        above = merged[0] if chain else mixed[i + 1]
        how = {"size": mixed[i].shape[-2:]} if size else {"scale_factor": 2}
        merged.insert(0, mixed[i] + F.interpolate(above, mode=mode, **how))
    return merged


RIGHT = {
    "07.receptive_field": receptive_field,
    "07.ports": PORTS.get,
    "07.maps": MAPS.get,
    "07.l2norm": l2norm,
    "07.top_down": top_down,
}

MISTAKES = [
    ("07.receptive_field", fields.receptive_field, "calls lesson_lib's receptive_field"),
    ("07.l2norm", lambda x, scale: pieces.l2norm(x, scale), "calls lesson_lib's l2norm"),
    ("07.top_down", pieces.top_down, "calls lesson_lib's top_down"),
    ("07.ports", lambda letter: "pooling rounds down", "port L"),
    ("07.ports", (PORTS | {"K": "pool5 halves"}).get, "port K"),
    ("07.ports", (PORTS | {"L": "fc6 keeps holes of 3"}).get, "more than 260 px"),
    ("07.ports", (PORTS | {"N": "fc6 has no holes"}).get, "port N"),
    ("07.maps", lambda letter: "right", "plan F"),
    ("07.maps", (MAPS | {"F": "C4 too far apart"}).get, "plan F"),
    ("07.maps", (MAPS | {"G": "C5 seen in part"}).get, "plan G"),
    ("07.maps", (MAPS | {"H": "right"}).get, "plan H"),
    ("07.maps", (MAPS | {"I": "right"}).get, "plan I"),
    ("07.maps", (MAPS | {"I": "C5 too far apart"}).get, "a finer map has the same fault"),
    (
        "07.receptive_field",
        lambda layers: receptive_field(layers, jump_after=False),
        "stride 2 first",
    ),
    (
        "07.receptive_field",
        lambda layers: receptive_field(layers, use_dilation=False),
        "dilation 6",
    ),
    (
        "07.receptive_field",
        lambda layers: (1 + sum(k - 1 for k, _, _ in layers), receptive_field(layers)[1]),
        "stride 2 first",
    ),
    ("07.receptive_field", lambda layers: receptive_field(layers)[::-1], "one 3 x 3"),
    ("07.receptive_field", no_stride_with_holes, "stride and holes in one layer"),
    ("07.l2norm", lambda x, scale: x / x.norm() * scale[:, None, None], "two positions"),
    ("07.l2norm", lambda x, scale: l2norm(x, torch.ones_like(scale)), "the learned scale"),
    (
        "07.l2norm",
        lambda x, scale: x / x.norm(dim=1, keepdim=True) * scale[:, None, None],
        "a position of zeros",
    ),
    ("07.l2norm", lambda x, scale: l2norm(x, scale, eps=0.01), "a position of length 0.0005"),
    ("07.l2norm", lambda x, scale: l2norm(x, scale, dim=(2, 3)), "the values 3 and 4"),
    ("07.l2norm", lambda x, scale: l2norm(x, scale.detach()), "no gradient reaches scale"),
    (
        "07.l2norm",
        lambda x, scale: (
            x / x.norm(dim=1, keepdim=True).clamp(min=1e-12).detach() * scale[:, None, None]
        ),
        "the gradient by x is not theirs",
    ),
    ("07.l2norm", lambda x, scale: l2norm(x, scale, dim=(0, 1)), "two pictures"),
    ("07.top_down", lambda maps, weights: top_down(maps, weights, pictures=1), "two pictures"),
    (
        "07.top_down",
        lambda maps, weights: top_down(maps, weights, mode="bilinear"),
        "each value is copied",
    ),
    (
        "07.top_down",
        lambda maps, weights: top_down(maps, weights, chain=False),
        "passes on what it was given",
    ),
    ("07.top_down", lambda maps, weights: top_down(maps, weights, size=False), "odd pictures"),
    ("07.top_down", lambda maps, weights: top_down(maps, weights)[::-1], "two maps"),
    (
        "07.top_down",
        lambda maps, weights: top_down(maps, [w.flip(0) for w in weights]),
        "two channels from three",
    ),
]


test_every_exercise_is_tried, test_right, test_mistake, test_stub = exercise_tests(
    EXERCISES, RIGHT, MISTAKES
)


def test_the_logs_of_the_ports_are_worked_out():
    """By hand: 300 150 75 37 18; fc7 without holes sees 5 x 2 x 16 px less."""
    logs = port_logs()
    assert logs["K"] == ([37, 18, 9, 5, 3, 1], 420)
    assert logs["L"] == ([38, 19, 10, 5, 3, 1], 420 - 5 * 2 * 16)
    assert logs["M"][0] == [38, 19, 10, 5, 5, 5] and logs["N"][0] == [38, 10, 5, 3, 1]


def test_the_plans_are_judged_by_counting_pixels():
    """G and H's squares pass; 55 px at 3 : 1 are 95 px long; 80 and 20 px just miss 0.5. No plan
    has both faults.
    """
    for letter, plan in PLANS.items():
        faults = []
        for name, (side, ratio), seen, stride in zip(("C3", "C4", "C5"), plan, SEEN, STRIDES):
            here = {(x, y) for x in range(side) for y in range(side)}
            moved = {(x + stride // 2, y + stride // 2) for x, y in here}
            if side * ratio**0.5 > seen:
                faults.append(f"{name} seen in part")
            if len(here & moved) / len(here | moved) < 0.5:
                faults.append(f"{name} too far apart")
        assert [*faults, "right"][0] == MAPS[letter] and len({fault[3:] for fault in faults}) < 2


@pytest.mark.parametrize("name, right", [("07.ports", PORTS), ("07.maps", MAPS)])
def test_a_wrong_word_is_refuted_without_the_right_one(name, right):
    for case in EXERCISES[name].cases:
        (asked,), answer = case.args, case.expected
        for word in case.expected.reasons:
            said = verdict(name, (right | {asked: word}).get)
            reason = said.partition(f'"{word}" is not it: ')[2]
            assert said.startswith(WRONG) and reason and answer not in reason


@pytest.mark.parametrize(("name", "right", "count"), [("07.ports", PORTS, 5), ("07.maps", MAPS, 7)])
def test_a_word_that_is_none_of_them_is_told_which_there_are(name, right, count):
    said = verdict(name, lambda _: "nonsense")
    assert said.startswith(WRONG) and all(word in said for word in right.values())
    assert all(len(case.expected.reasons) == count - 1 for case in EXERCISES[name].cases)


def test_a_port_whose_holes_stay_at_3_would_see_324_px():
    """No port does: a tap less far by 3 positions of 16 px, on both sides of the middle."""
    layers = [*EXERCISES["07.receptive_field"].cases[-1].args[0]]
    layers[-2] = (3, 1, 3)
    assert receptive_field(layers) == (420 - 2 * 3 * 16, 16)
    assert 324 not in {seen for _, seen in port_logs().values()}
