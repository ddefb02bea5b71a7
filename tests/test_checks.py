"""Exercise checks: one line, never an exception, the failing case named and the answer never
printed.
"""

import math
import re

import pytest
import torch

from lesson_lib import boxes, coding
from lesson_lib.course.checks import Case, Exercise, check, difference, find, lesson01, verdict
from lesson_lib.course.museum import bug_of


def own_iou(a, b):
    sides = (
        torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])
    ).clamp(min=0)
    shared = sides.prod(-1)
    area = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1)
    return shared / (area - shared).clamp(min=1e-12)


def own_centres(b):
    return torch.cat(((b[..., :2] + b[..., 2:]) / 2, b[..., 2:] - b[..., :2]), -1)


def own_decode(t, d, variances=(0.1, 0.2)):
    v, w = variances
    return torch.cat((d[:, :2] + v * t[:, :2] * d[:, 2:], d[:, 2:] * (w * t[:, 2:]).exp()), 1)


def slip(side, overlap):
    return side - side * math.sqrt(2 * overlap / (1 + overlap))


RIGHT = {
    "00.dashed": lambda: 17,
    "00.broadcasting": (3, 5, 4),
    "00.convolution": 10,
    "00.softmax_sigmoid": (0.5, 0.5, 0.5, 0.99),
    "00.cross_entropy": (0.105, 2.303),
    "00.loss_curves": ("B", "C", "D"),
    "01.to_cxcywh": own_centres,
    "01.which_format": ("cxcywh", "xyxy", "xywh"),
    "01.largest_slip": slip,
    "01.fair_bar": (0, 0, 0.5, 0.75, 0.75),
    "01.decode": own_decode,
    "01.pairwise_iou": own_iou,
}


def no_clamp(a, b):
    sides = torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])
    shared = sides.prod(-1)
    area = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1)
    return shared / (area - shared)


def clamped_too_late(a, b):
    shared = (
        (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2]))
        .prod(-1)
        .clamp(min=0)
    )
    area = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1)
    return torch.where(area > shared, shared / (area - shared).clamp(min=1e-12), 0.0)


def nan_for_nothing(a, b):
    sides = (
        torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])
    ).clamp(min=0)
    shared = sides.prod(-1)
    return shared / (
        (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1) - shared
    )


def pixels_counted_from_one(a, b):
    wider = torch.tensor([0.0, 0.0, 1.0, 1.0])
    return own_iou(a + wider, b + wider)


def over_the_smaller(a, b):
    iou = own_iou(a, b)
    areas = [(side[:, 2:] - side[:, :2]).prod(1) for side in (a, b)]
    shared = iou / (1 + iou) * (areas[0][:, None] + areas[1])
    return shared / torch.minimum(areas[0][:, None], areas[1])


WRONG = [  # name, answer, words of the line that helps
    ("00.dashed", lambda: 19, "19"),
    ("00.broadcasting", (3, 1, 4), "shape of a + b"),
    ("00.convolution", 9, "positions on a side"),
    ("00.softmax_sigmoid", (0.5, 0.5, 0.99, 0.99), "softmax"),
    ("00.broadcasting", "(3, 5, 4)", "a tuple with one size"),
    ("00.convolution", (10, 10), "one number"),
    ("00.softmax_sigmoid", (0.5, 0.5, 0.5, 1.0), "place 4: 1 / (1 + exp(-logit))"),
    ("00.softmax_sigmoid", (0.5, ..., 0.5, 0.99), "four numbers"),
    ("00.softmax_sigmoid", (0.5, 0.99), "four numbers"),
    ("00.cross_entropy", (0.105, 0.105), "place 2"),
    ("00.cross_entropy", (0.046, 1.0), "natural logarithm"),
    ("00.loss_curves", ("C", "B", "D"), "overshoot"),
    ("00.loss_curves", ("B", "C", "A"), "place 3"),
    ("00.loss_curves", 7, "three letters"),
    ("01.to_cxcywh", lambda b: b, "one box"),
    ("01.to_cxcywh", lambda b: own_centres(b[0]), "one box"),
    ("01.largest_slip", lambda s, j: s * (1 - j) / (1 + j), "side 100"),
    ("01.decode", lambda t, d: own_decode(t, d, (1.0, 1.0)), "a shift of 1 to the right"),
    (
        "01.decode",
        lambda t, d: torch.cat(
            (d[:, :2] + 0.1 * t[:, :2] * d[:, 2:3], d[:, 2:] * (0.2 * t[:, 2:]).exp()), 1
        ),
        "a shift of 1 down",
    ),
    ("01.to_cxcywh", lambda b: torch.cat((b[..., :2], b[..., 2:] - b[..., :2]), -1), "one box"),
    ("01.to_cxcywh", lambda b: own_centres(b.reshape(-1, 4)), "one box"),
    ("01.which_format", ("xywh", "xyxy", "cxcywh"), "place 1"),
    ("01.which_format", ("cxcywh", "xyxy", "cxcywh"), "place 3"),
    ("01.which_format", "cxcywh", "three of the names"),
    ("01.largest_slip", lambda s, j: s * (1 - math.sqrt(j)), "side 100"),
    ("01.largest_slip", lambda s, j: 18.3503 / 100 * s if j < 1 else 0.0, "overlap 0.75"),
    ("01.fair_bar", (0, 0.5, 0.5, 0.75, 0.75), "place 2"),
    ("01.fair_bar", (0, 0, 0.5, 0.5, 0.75), "place 4"),
    ("01.fair_bar", 0.5, "five numbers"),
    ("01.pairwise_iou", no_clamp, "apart in both"),
    ("01.pairwise_iou", clamped_too_late, "apart in both"),
    ("01.pairwise_iou", nan_for_nothing, "zero area"),
    ("01.pairwise_iou", lambda a, b: own_iou(a, b).T, "no boxes on the left"),
    ("01.to_cxcywh", lambda b: torch.cat((own_centres(b)[..., :2], b[..., 2:]), -1), "one box"),
    ("01.to_cxcywh", lambda b: own_centres(b).floor(), "a batch"),
    ("01.which_format", ("xywh", "xyxy", "xywh"), "place 1"),
    ("01.largest_slip", lambda s, j: s * (1 - j), "side 100"),
    ("01.largest_slip", lambda s, j: math.sqrt(2) * slip(s, j), "side 100"),
    ("01.fair_bar", (0, 0, 0.5, 0.75, 0.5), "place 5"),
    ("01.decode", lambda t, d: own_decode(t, d, (0.2, 0.1)), "a shift of 1 to the right"),
    (
        "01.decode",
        lambda t, d: torch.cat((own_decode(t, d)[:, :2], d[:, 2:] * (1 + 0.2 * t[:, 2:])), 1),
        "twice as wide",
    ),
    ("01.decode", lambda t, d: boxes.cxcywh_to_xyxy(own_decode(t, d)), "offsets of zero"),
    ("01.decode", lambda t, d, v=(0.1, 0.2): own_decode(t, d), "variances (1, 1)"),
    (
        "01.decode",
        lambda t, d, v=(0.1, 0.2): own_decode(t, d, v if v == (1, 1) else (0.1, 0.2)),
        "drawn anew, variances",
    ),
    ("01.decode", lambda t, d: own_decode(t, d), "TypeError"),
    ("01.pairwise_iou", lambda a, b: own_iou(a, b).diagonal(), "a box with itself"),
    ("01.pairwise_iou", lambda a, b: own_iou(a, a), "slipped by half"),
    ("01.pairwise_iou", pixels_counted_from_one, "slipped by half"),
    ("01.pairwise_iou", over_the_smaller, "slipped by half"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_is_praised(name):
    assert verdict(name, RIGHT[name]).startswith(f"✓ {name}: ")


def test_every_exercise_of_lessons_0_and_1_has_a_right_answer_here():
    assert set(lesson01.EXERCISES) <= set(RIGHT)


@pytest.mark.parametrize("name, answer, words", WRONG)
def test_a_wrong_answer_is_told_in_one_line_that_names_the_case(name, answer, words):
    line = verdict(name, answer)
    assert line.startswith(f"✗ {name}, ") and words in line and "\n" not in line


@pytest.mark.parametrize(
    "name, function",
    [
        ("01.to_cxcywh", boxes.xyxy_to_cxcywh),
        ("01.decode", coding.decode),
        ("01.pairwise_iou", boxes.pairwise_iou),
    ],
)
def test_a_call_of_the_answer_is_refused(name, function):
    told = verdict(name, function)
    assert told.startswith(f"✗ {name}") and f"lesson_lib's {function.__name__}" in told


@pytest.mark.parametrize("name", lesson01.EXERCISES)
def test_every_exercise_of_lesson_1_has_three_hints(name):
    assert len(set(lesson01.EXERCISES[name].hints)) == 3


@pytest.mark.parametrize(
    "name, answer, secret",
    [
        ("00.broadcasting", (0, 0, 0), "3|5|4"),
        ("00.convolution", 9, "10"),
        ("00.softmax_sigmoid", (0, 0, 0, 0), r"\.5|\.99"),
        ("00.cross_entropy", (0, 0), r"\.105|2\.3"),
        ("00.loss_curves", ("A", "A", "A"), "'[BCD]'"),
    ],
)
def test_the_self_test_tells_what_to_look_at_and_never_the_value(name, answer, secret):
    for right in range(
        len(answer) if isinstance(answer, tuple) else 1
    ):  # the first places right, the rest wrong
        tried = RIGHT[name][:right] + answer[right:] if right else answer
        said, _, advice = verdict(name, tried).partition(". Look at")
        advice = advice.partition(": ")[2]
        assert advice and "expected" not in said and not re.search(secret, advice)


def test_letters_may_be_small_and_a_sigmoid_may_have_three_decimals():
    assert verdict("00.loss_curves", ["b", "c", "d"]).startswith("✓")
    assert verdict("00.softmax_sigmoid", torch.tensor([0.5, 0.5, 0.5, 0.993])).startswith("✓")


@pytest.mark.parametrize("stub", [..., None, NotImplemented, lambda *_: None, lambda *_: ...])
@pytest.mark.parametrize("name", ["00.convolution", "01.pairwise_iou"])
def test_a_stub_is_not_attempted(name, stub):
    assert verdict(name, stub) == f"○ not attempted yet: {name}"


def test_what_is_answered_is_judged_though_some_is_not_yet():
    none = dict.fromkeys("ABCDEFGH", ...)
    right = none | {"A": bug_of("A"), "C": bug_of("C")}
    some = verdict("12.museum", right.get)
    assert some.startswith("○ 12.museum: right so far, without an answer for 6 of 8: exhibit B,")
    wrong = right | {"C": bug_of("A")}
    assert verdict("12.museum", wrong.get).startswith("✗ 12.museum, exhibit C")
    assert verdict("12.museum", none.get) == "○ not attempted yet: 12.museum"


def raises_not_implemented(*_):
    raise NotImplementedError


def breaks(*_):
    raise IndexError("too far")


def eats_its_input(boxes):
    boxes += 1
    return boxes


def test_whatever_the_learner_does_check_never_raises(capsys):
    assert verdict("01.to_cxcywh", raises_not_implemented).startswith("○")
    assert "it stopped with IndexError in line" in verdict("01.to_cxcywh", breaks)
    assert "wrong number of arguments" not in verdict(
        "01.to_cxcywh", lambda: 1
    ) and "TypeError" in verdict("01.to_cxcywh", lambda: 1)
    assert "changed its own input" in verdict("01.to_cxcywh", eats_its_input)
    assert "no exercise '01.nothing'" in verdict("01.nothing", 1)
    assert "no lesson '77'" in verdict("77.x", 1) and "no lesson" in verdict("nonsense", 1)
    check("00.convolution", 10)
    assert capsys.readouterr().out.startswith("✓")


@pytest.mark.parametrize(
    "got, expected, words",
    [
        (1.0, torch.zeros(2), "expected a tensor"),
        (torch.zeros(3), torch.zeros(2), "expected shape (2,), got (3,)"),
        (torch.zeros(2), torch.tensor([True, False]), "dtype bool"),
        (torch.tensor([0.0, 1.0]), torch.zeros(2), "1 of 2"),
        (torch.tensor([math.nan]), torch.zeros(1), "differ"),
        ((1, 2), (1, 2, 3), "expected 3 values"),
        ((1, [2, 4]), (1, [2, 3]), "value 2 of 2: value 2 of 2: expected 3, got 4"),
        ({"a": 1}, {"a": 1, "b": 2}, "a dict with 'a', 'b'"),
        ({"a": torch.zeros(2)}, {"a": torch.ones(2)}, "'a': "),
        ("a", 1.0, "number"),
        (True, False, "expected False"),
        (1.2, 1.0, "expected 1"),
        (torch.tensor(2.0), torch.tensor(1.0), "expected 1, got 2"),
    ],
)
def test_differences_are_put_into_words(got, expected, words):
    assert words in difference(got, expected, 1e-4)
    assert difference(expected, expected, 1e-4) == ""


def test_the_tolerance_is_relative_for_large_and_absolute_for_small_numbers():
    assert difference(1000.05, 1000.0, 1e-4) == "" and difference(1000.2, 1000.0, 1e-4) != ""
    assert difference(0.00005, 0.0, 1e-4) == "" and difference(0.0002, 0.0, 1e-4) != ""


def test_an_exercise_is_found_by_its_name():
    exercise = find("01.decode")
    assert isinstance(exercise, Exercise) and all(isinstance(case, Case) for case in exercise.cases)
