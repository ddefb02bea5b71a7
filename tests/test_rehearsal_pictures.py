"""Pictures of lessons 10 and 11 say what the rehearsal and a count by hand say."""

import re
from dataclasses import replace

import pytest

from lesson_lib.course import rehearsal_pictures as pictures
from lesson_lib.training.recipes import MODELS, Recipe
from lesson_lib.training.rehearsal import GIB, GPUS, StepCosts, step_costs

#: A step of 1 GiB a picture, beside CUDA's own one.
COSTS = StepCosts(0, 0, 0, 0, GIB, 0, 10**12, 100, "fp32")


@pytest.mark.parametrize(
    ("batch", "gpu", "words"),
    [
        (11, "t4", "fits;"),
        (13, "t4", "just fits;"),  # the activations may be 15 % more
        (14, "t4", "only in 2 parts"),
        (100, "h200", "fits;"),
        (128, "h200", "just fits;"),
    ],
)
def test_a_step_fits_where_its_memory_does(batch, gpu, words):
    said = pictures.verdict_on(COSTS, Recipe(batch=batch, optimizer="sgd"), 1000 * batch, gpu)
    assert said.startswith(words)


def test_a_gpu_without_the_precision_or_room_for_one_says_so():
    recipe = Recipe(batch=2)
    assert pictures.verdict_on(replace(COSTS, precision="bf16"), recipe, 9, "t4").endswith("itself")
    large = replace(COSTS, per_picture=20 * GIB)
    assert pictures.verdict_on(large, recipe, 9, "t4") == "not even one picture fits"


def test_the_hours_are_operations_over_a_share_of_peak():
    """3,600 pictures of 1 TFLOP on a T4: 8.1 TFLOP/s in fp32, of which 40 to 90 % are reached."""
    said = pictures.verdict_on(COSTS, Recipe(batch=10, optimizer="sgd"), 36_000, "t4")
    assert said == "fits; 1.4 h to 3.1 h"
    hours = 36_000 / (0.9 * 8.1) / 3600
    assert hours == pytest.approx(1.37, abs=0.01)


def test_a_track_that_is_too_short_is_dashed_and_ends_before_the_line():
    drawing = pictures.memory_picture(COSTS, Recipe(batch=30, optimizer="sgd"), 3000, "x")
    line = float(re.search(r'd="M([\d.]+) 100V', drawing)[1])
    ends = [float(x) for x in re.findall(rf"M{pictures.LEFT} \d+H([\d.]+)", drawing)]
    dashed = re.findall(r'stroke-width="12" (stroke-dash|/)', drawing)
    fits = [gpu.memory > 31 for gpu in GPUS.values()]
    assert [end > line for end in ends] == fits == [mark == "/" for mark in dashed]


def test_a_gpu_that_does_not_calculate_in_the_precision_has_a_grey_track():
    drawing = pictures.memory_picture(replace(COSTS, precision="bf16"), Recipe(batch=4), 400, "x")
    colours = re.findall(rf'd="M{pictures.LEFT} \d+H[\d.]+" stroke="(#\w+)"', drawing)
    able = ["bf16" in gpu.tflops for gpu in GPUS.values()]
    assert [colour != pictures.GREY for colour in colours] == able and not all(able)


def test_a_picture_to_decide_from_says_neither_parts_nor_shares():
    asked = pictures.memory_picture(COSTS, Recipe(batch=100), 1000, "x", verdict=False)
    assert "GiB" in asked and not re.search(r"parts|fits|\d h\b", asked)
    assert "works" not in pictures.timeline(20, 4, 10, 60, 2000, verdict=False)


def test_only_the_gpus_that_are_asked_for_have_a_track():
    drawing = pictures.memory_picture(COSTS, Recipe(batch=10), 1000, "x", gpus=("a100",))
    assert drawing.count('stroke-width="12"') == 1 and "A100" in drawing and "T4" not in drawing


def test_averaged_weights_are_a_part_and_what_is_empty_has_no_key():
    costs = replace(COSTS, weight_bytes=2 * GIB)
    without, ema = (
        pictures.memory_picture(costs, Recipe(batch=4, ema=decay), 400, "x") for decay in (0.0, 0.9)
    )
    assert "averaged" not in without and "pictures 0" not in without
    assert "averaged 2.00" in ema and "9.0 GiB" in ema and "7.0 GiB" in without


def test_a_real_detector_can_be_drawn():
    costs = step_costs(MODELS["ssd-tiny"], 3, 64)
    drawing = pictures.memory_picture(costs, Recipe(batch=8), 800, "ssd-tiny")
    assert "activations" in drawing and "H200" in drawing


FEEDS = (20, 4, 16, 60), (5, 4, 16, 230)  # ms a picture, workers, batch, ms a step


@pytest.mark.parametrize(("workers", "gap"), [(1, 200), (2, 100), (4, 60)])
def test_the_gpu_steps_at_the_pace_of_its_workers_or_its_own(workers, gap):
    """10 pictures of 20 ms are 200 ms for one worker; the GPU itself takes 60."""
    done = pictures.turns(20, workers, 10, 60, 40)
    assert done[0].ready == 200
    assert (done[-1].end - done[workers - 1].end) / (40 - workers) == pytest.approx(gap, rel=0.05)


@pytest.mark.parametrize(("workers", "step_ms"), [(4, 400), (1, 250), (3, 60)])
def test_a_worker_waits_while_two_batches_a_worker_are_not_taken(workers, step_ms):
    done = pictures.turns(20, workers, 10, step_ms, 40)
    for number, turn in enumerate(done):
        start = turn.ready - 10 * 20
        assert sum(earlier.begin > start for earlier in done[:number]) < 2 * workers


def test_a_timeline_draws_who_waits_with_dashes():
    """Slow workers: the GPU waits; a slow GPU: the workers do. The first gap is no pause."""
    rows = [
        re.findall(r'height="(\d+)" fill="none"', pictures.timeline(*feed, 900)) for feed in FEEDS
    ]
    assert [set(heights) for heights in rows] == [{"22"}, {"12"}]


def test_the_gpu_alone_waits_in_orange():
    for feed, colour in zip(FEEDS, (pictures.IDLE, pictures.GREY), strict=True):
        looks = re.findall(r'fill="none" stroke="(#\w+)"', pictures.timeline(*feed, 900))
        assert set(looks) == {colour}


def test_the_timeline_says_what_share_of_the_time_the_gpu_works():
    assert "1 worker," in pictures.timeline(20, 1, 10, 60, 2000)
    assert "works 30% of the time" in pictures.timeline(20, 1, 10, 60, 2000)
    assert "works 100% of the time" in pictures.timeline(20, 4, 10, 60, 2000)


def test_a_drop_of_the_rate_is_a_drop_of_the_loss():
    """At rest the loss is n rate / (2 (2 - rate)) on average."""
    losses = pictures.noisy_valley([0.5] * 300 + [0.005] * 1500)
    before, after = sum(losses[100:300]) / 200, sum(losses[1300:]) / 500
    assert before == pytest.approx(30 * 0.5 / 3, rel=0.15)
    assert after == pytest.approx(30 * 0.005 / 3.99, rel=0.3)
    drawing = pictures.schedule_over_loss(Recipe(schedule="step", milestones=(0.6,), lr=0.5), 300)
    assert "at the end" in drawing
