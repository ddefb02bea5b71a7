"""The learner's own functions: kept by a check that passes, used by later lessons, told when they
broke.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import zeros_like

from lesson_lib import boxes
from lesson_lib.course import checks, mine, progress
from lesson_lib.course.checks import Case, Exercise, check, hint, verdict


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder of its own for what is kept, and an exercise that serves."""
    monkeypatch.setenv("LESSON_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.setattr(mine, "_FETCHED", {})
    monkeypatch.setattr(checks, "_GIVEN", {})
    case = Case(
        "a box with itself",
        (torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 2]])),
        torch.ones(1, 1),
    )

    def fresh(draw):
        side = draw.randint(2, 9)
        box = torch.tensor([[0.0, 0, side, side]])
        half = torch.tensor([[0.0, 0, side, side / 2]])
        return Case(f"half of {side} px", (box, half), torch.full((1, 1), 0.5))

    exercise = Exercise(
        [case],
        "it serves.",
        fresh=fresh,
        refused=("pairwise_iou", "box_iou"),
        hints=("Look at the corners.", "The inner corners.", "The larger left, the smaller right."),
        serves="pairwise_iou",
    )
    monkeypatch.setattr(checks, "find", lambda name: exercise)
    return tmp_path


def my_iou(a, b):
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = [(x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b)]
    return shared / (area[0][:, None] + area[1] - shared)


def test_a_function_that_passed_drives_what_asks_for_it(place, capsys):
    assert mine.mine("pairwise_iou") is boxes.pairwise_iou
    check("01.pairwise_iou", my_iou)
    assert capsys.readouterr().out.startswith("✓")
    kept = mine.mine("pairwise_iou")
    assert kept is not boxes.pairwise_iou
    assert mine.whose("pairwise_iou") == "your pairwise_iou"
    assert torch.equal(
        kept(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[0.0, 0, 4, 2]])), torch.tensor([[0.5]])
    )
    assert "01.pairwise_iou" in progress.read()["exercises"]


@pytest.mark.parametrize(
    "broken", ["def my_iou(a, b):\n    return 0\npairwise_iou = my_iou\n", "1 +", "x = 1\n"]
)
def test_one_that_was_broken_since_is_told_and_left_alone(place, capsys, broken):
    check("01.pairwise_iou", my_iou)
    file = place / "functions" / "pairwise_iou.py"
    head = file.read_text(encoding="utf-8").splitlines()[0]
    file.write_text(f"{head}\n{broken}", encoding="utf-8")
    assert mine.mine("pairwise_iou") is boxes.pairwise_iou
    assert "was tried again and failed" in capsys.readouterr().out


def test_deleting_the_file_gives_the_librarys_back(place):
    check("01.pairwise_iou", my_iou)
    mine.mine("pairwise_iou")
    (place / "functions" / "pairwise_iou.py").unlink()
    assert mine.mine("pairwise_iou") is boxes.pairwise_iou


def test_every_name_of_the_library_is_there():
    assert all(callable(mine.library(name)) for name in mine.LIBRARY)


def test_the_librarys_own_function_is_refused_however_it_is_called():
    from torchvision.ops import box_iou

    alias = boxes.pairwise_iou
    for answer in (
        alias,
        lambda a, b: alias(a, b),
        lambda a, b: getattr(boxes, "pairwise" + "_iou")(a, b),
    ):
        assert "lesson_lib's pairwise_iou" in verdict("01.pairwise_iou", answer)
    assert "torchvision's box_iou" in verdict("01.pairwise_iou", lambda a, b: box_iou(a, b))
    assert verdict("01.pairwise_iou", my_iou).startswith("✓")


def test_an_answer_written_for_the_fixed_case_fails_on_a_fresh_one():
    assert "half of" in verdict("01.pairwise_iou", lambda a, b: torch.ones(1, 1))


def test_hints_come_one_by_one_and_the_last_stays(capsys):
    for _ in range(4):
        hint("01.pairwise_iou")
    lines = capsys.readouterr().out.splitlines()
    assert [line[:11] for line in lines] == [
        "Hint 1 of 3",
        "Hint 2 of 3",
        "Hint 3 of 3",
        "Hint 3 of 3",
    ]


def test_a_solution_is_no_progress(place, capsys):
    def iou_solution(a, b):
        return my_iou(a, b)

    check("01.pairwise_iou", iou_solution)
    assert progress.read() == progress.EMPTY and not (place / "functions").exists()


SHIFT = 0.0


def helper(a, b):
    return my_iou(a, b) + SHIFT


def leans_on_its_notebook(a, b):
    return helper(a, b).clamp(max=1) + math.log(1) + zeros_like(a[:, :1])


def test_what_a_function_uses_of_its_notebook_is_kept_with_it(place, capsys):
    """Helpers, constants, modules and imported functions; asked in a place without any of them."""
    check("01.pairwise_iou", leans_on_its_notebook)
    assert capsys.readouterr().out.count("\n") == 1  # the check mark, and no reproach
    source = progress.kept_function("pairwise_iou")
    assert source and "def helper" in source and "def my_iou" in source and "SHIFT = 0.0" in source
    a = torch.tensor([[0.0, 0, 4, 4]])
    assert torch.equal(mine.mine("pairwise_iou")(a, a), torch.ones(1, 1))
    assert mine.whose("pairwise_iou") == "your pairwise_iou"


def test_what_cannot_work_by_itself_is_told_at_once_and_not_kept(place, capsys):
    offset = torch.zeros(1)

    def closure(a, b):
        return my_iou(a, b) + offset

    for answer in (closure, lambda a, b: my_iou(a, b)):
        check("01.pairwise_iou", answer)
        said = capsys.readouterr().out
        assert said.startswith("✓") and "does not work by itself" in said
        assert progress.kept_function("pairwise_iou") is None
    assert mine.mine("pairwise_iou") is boxes.pairwise_iou


def small_boxes_only(a, b):
    """Right up to 5 px; it uses nothing of its notebook."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = [(x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b)]
    return (shared / (area[0][:, None] + area[1] - shared)).where(a[0, 2] < 6, torch.zeros(()))


def test_one_that_was_lucky_in_its_first_draw_gets_the_cross_alone(place, capsys, monkeypatch):
    """Its copy fails on a value, so that it works by itself is not the question; nothing is
    kept, and it does not count as solved.
    """
    exercise, sides = checks.find(""), iter((4, 9, 9))

    def fresh(draw):
        side = next(sides)
        box = torch.tensor([[0.0, 0, side, side]])
        return Case(f"half of {side} px", (box, box * torch.tensor([1, 1, 1, 0.5])), half)

    half = torch.full((1, 1), 0.5)
    monkeypatch.setattr(checks, "find", lambda name: replace(exercise, fresh=fresh))
    check("01.pairwise_iou", small_boxes_only)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.startswith("✗") and "half of 9 px: 1 of 1" in said
    assert progress.kept_function("pairwise_iou") is None and progress.read() == progress.EMPTY


def test_copy_and_answer_meet_the_same_fresh_case(place, capsys):
    """Whatever is drawn: one line, a tick or a cross with its case, and no advice."""
    for _ in range(60):
        check("01.pairwise_iou", small_boxes_only)
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("✓") or ("✗" in line and "half of" in line)
