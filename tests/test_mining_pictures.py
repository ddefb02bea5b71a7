"""Pictures of lesson 5: they show whom mining keeps, and the arrows of order and rank."""

import re

import pytest
import torch

from lesson_lib.course import mining_pictures as pictures
from lesson_lib.data.smears import draw_smear


def words(drawing: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing)


def test_the_arrows_of_order_and_rank_are_each_others_inverse():
    drawing = pictures.order_and_rank([0.2, 0.9, 0.1, 0.5], quota=2)
    assert {"order = [1, 3, 0, 2]", "rank = [2, 0, 3, 1]"} <= set(words(drawing))
    thick = drawing.count('stroke-width="3"')
    assert thick == 2 * 2 * 2  # two anchors and their two places, in both panels
    assert "#009E73" not in drawing  # the colour of positive anchors
    heights = re.findall(r'd="M[\d.]+ ([\d.]+)L[\d.]+ ([\d.]+)M', drawing)
    upwards = [float(start) > float(end) for start, end in heights]
    assert upwards == [True] * 4 + [False] * 4


def test_of_equal_losses_the_first_anchor_has_the_better_place():
    assert "rank = [1, 0, 2]" in words(pictures.order_and_rank([1.0, 2.0, 1.0], quota=1))


def test_the_picture_says_how_many_are_kept_and_marks_the_hardest():
    smear = draw_smear(0, 1, "val", 128)
    anchors = torch.cat([smear.boxes, smear.boxes + 4])
    positive = torch.arange(len(anchors)) < len(smear.boxes)
    kept = (~positive).nonzero().flatten()[:3]
    drawing = pictures.kept_picture(smear, anchors, positive, kept, "Trained", (0.014, 0.5))
    said = " ".join(words(drawing))
    assert f"Trained: 3 of {len(smear.boxes)} negatives kept" in said
    assert "of them reach IoU" in said
    assert "p(background) of the numbered boxes: 0.01, 0.50." in said
    assert len(re.findall('stroke="#F0E442"[^>]*stroke-width="2.5"', drawing)) == 2
    assert words(drawing)[:2] == ["1", "2"]
    assert "#E69F00" not in drawing  # the colour of ignored anchors
    nobody = pictures.kept_picture(smear, anchors, positive, kept[:0], "Trained", (0.5,))
    assert "0 of" in " ".join(words(nobody)) and "numbered" not in " ".join(words(nobody))


def test_the_numbers_of_boxes_on_one_another_keep_apart_and_stay_in_the_picture():
    boxes = torch.tensor([[20.0, 20, 60, 60]] * 3 + [[-9.0, -9, 105, 105]])
    first, second, third, outside = pictures._numbers(boxes, 96)
    assert [n for _, _, n in (first, second, third, outside)] == ["1", "2", "3", "4"]
    assert first[:2] == (22, 31) and second[:2] == (51, 57) and third[:2] == (51, 31)
    assert outside[:2] == (2, 93)


def test_negatives_of_one_centre_are_one_dot_and_all_dots_are_alike():
    smear = draw_smear(0, 1, "val", 128)
    centres_and_halves = ((30, 9), (60, 9), (60, 12), (90, 9), (90, 12), (90, 15))
    corners = [[x - half, 40 - half, x + half, 40 + half] for x, half in centres_and_halves]
    anchors = torch.tensor(corners, dtype=torch.float32)
    kept = torch.arange(len(anchors))
    drawing = pictures.kept_picture(smear, anchors, kept < 0, kept, "Trained")
    (dots,) = re.findall(r'd="([^"]*)" fill="#000000"', drawing)
    assert re.findall(r"h([\d.]+)v", dots) == ["4"] * 3
    assert "6 of 6 negatives kept (3 squares)" in " ".join(words(drawing))


@pytest.mark.parametrize(("share", "expected"), [(0.5, [1]), (0.9, [1, 2]), (1.0, [1, 2, 0])])
def test_the_fewest_that_carry_a_share_of_the_pull(share, expected):
    assert pictures.carriers(torch.tensor([0.1, 0.6, 0.3]), share).tolist() == expected


def test_what_carries_a_share_does_not_depend_on_the_unit():
    for unit in (1e-12, 1.0, 1e9):
        assert len(pictures.carriers(torch.full((10,), unit), 0.9)) == 9


def test_a_share_that_is_carried_exactly_is_carried_though_it_rounds_up():
    """0.56 times 25 is 14.000000000000002 in double precision."""
    assert len(pictures.carriers(torch.ones(25), 0.56)) == 14


def test_the_implied_ratio_counts_the_strongest_negatives_for_each_positive():
    pull = torch.tensor([9.0, 9.0, 4.0, 50.0, 3.0, 2.0, 1.0])
    label = torch.tensor([1, 1, 0, -1, 0, 0, 0])
    ratios = [pictures.implied_ratio(pull, label == 1, label == 0, s) for s in (0.4, 0.7, 1.0)]
    assert ratios == [0.5, 1, 2]


def test_lanes_have_a_dot_for_each_run_and_say_the_means():
    runs = {
        "one": {40: torch.tensor([0.0, 0.0]), 80: torch.tensor([0.1, 0.3])},
        "two": {40: torch.tensor([0.25, 0.25]), 80: torch.tensor([0.5, 0.5])},
    }
    drawing = pictures.lanes(runs, "platelets found")
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', drawing)]
    assert len(places) == 2 * 2 * 2
    assert places[0] == places[1] < places[2] == places[3] < places[4] < places[5]
    heights = [float(y) for y in re.findall(r'<circle [^>]*cy="([\d.]+)"', drawing)]
    assert heights[:2] != heights[2:4]  # a lane lower
    assert heights[1] - heights[0] == 10  # equal shares, and both are seen
    assert {"step 40", "step 80", "one", "two", "50%"} <= set(words(drawing))
    assert "one 0% at 40, 20% at 80; two 25% at 40, 50% at 80." in drawing


def test_a_share_of_more_than_half_has_a_place_of_its_own():
    runs = {"one": {40: torch.tensor([0.5, 0.6, 0.75])}}
    drawing = pictures.lanes(runs, "platelets found")
    half, more, most = (float(x) for x in re.findall(r'<circle cx="([\d.]+)"', drawing))
    assert most - half == pytest.approx(2.5 * (more - half), abs=0.3)
    assert "75%" in words(drawing) and "100%" not in words(drawing)


def test_the_chart_draws_a_curve_for_each_loss():
    pulls = {"one": torch.rand(200), "two": torch.rand(200) ** 4}
    drawing = pictures.pull_chart(pulls, "who carries it")
    assert {"one", "two"} <= set(words(drawing))
