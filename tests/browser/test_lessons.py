"""Every lesson in a real browser: it runs, its controls move, and what they show is the right
number.

Each expected number is worked out here from what the page says (the slider's value, the boxes'
corners), never with the function that the lesson calls.
"""

import json
import math
import re
import statistics
from collections.abc import Callable
from typing import NamedTuple

import nbformat
import numpy as np
import pytest
from live_lab import Slider, published
from reading import chart
from trim import needed

import lab
from lesson_lib.data.smears import Smears


def overlap(a: list[float], b: list[float]) -> float:
    """IoU of two boxes xyxy, in plain Python."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return (
        width
        * height
        / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)
    )


def read_overlap(playground) -> tuple[float, float]:
    """IoU that stands under the picture, and IoU of the boxes where they are."""
    said = re.search(r"px²: (\d\.\d+)", playground.readout())
    return float(said[1]), overlap(*playground.boxes())


def test_lesson_1_runs_and_its_boxes_and_sliders_answer(
    course, lesson, tmp_path
):  # long: one page, which is dear to open
    lesson.open(course.lesson("01"))
    still = lesson.cell("playground").locator(".jp-RenderedSVG svg, .jp-RenderedSVG img")
    assert still.count() == 1, "before the lesson is run, a still stands in the playground's place"
    lesson.run_all()

    playground = lesson.playground("playground")
    before, picture = playground.boxes(), playground.pixels()
    said, true = read_overlap(playground)
    assert said == pytest.approx(true, abs=6e-4)

    playground.drag(1, 20, 30)
    after, (said, true) = playground.boxes(), read_overlap(playground)
    assert after[0] == before[0]
    assert after[1] == pytest.approx([v + d for v, d in zip(before[1], (20, 30, 20, 30))], abs=1)
    assert said == pytest.approx(true, abs=6e-4) and said != pytest.approx(
        overlap(*before), abs=0.01
    )
    assert playground.pixels() != picture

    playground.press(1, "ArrowRight", "Shift+ArrowUp", "Alt+ArrowDown")
    moved, (said, true) = playground.boxes()[1], read_overlap(playground)
    assert moved == pytest.approx([v + d for v, d in zip(after[1], (1, -10, 1, -9))], abs=0.051)
    assert said == pytest.approx(true, abs=6e-4)

    slip = lesson.slider("slide-slider", "shift")
    picture = slip.pixels()
    slip.press("ArrowRight", times=3)
    assert slip.value() == 13
    points = chart(slip.drawing()).points
    assert [round(height, 2) for _, height in points] == pytest.approx(
        [(side - 13) / (side + 13) for side, _ in points], abs=0.01
    )
    assert sorted(round(side, -1) for side, _ in points) == [20, 50, 110]
    assert slip.pixels() != picture

    beta = lesson.slider("beta-slider", "beta")
    beta.press("ArrowLeft", times=10)
    assert beta.value() == pytest.approx(0.5)
    assert "beta 0.50" in " ".join(chart(beta.drawing()).words)
    smooth = chart(beta.drawing()).curves[2]
    inside, outside = (
        min(smooth, key=lambda p: abs(p[0] - 0.25)),
        min(smooth, key=lambda p: abs(p[0] - 2)),
    )
    assert inside[1] == pytest.approx(inside[0] ** 2 / (2 * 0.5), abs=0.01)
    assert outside[1] == pytest.approx(abs(outside[0]) - 0.25, abs=0.01)

    times = {"slider": beta.milliseconds(20), "drag": playground.milliseconds(1, 20)}
    (tmp_path / "latency_ms.json").write_text(json.dumps(times))
    for name, values in times.items():
        assert len(values) == 20
        print(
            f"{name} to changed pixels: median {statistics.median(values):.0f} ms, "
            f"slowest {max(values):.0f} ms of {len(values)}; all in {tmp_path / 'latency_ms.json'}"
        )


class Visit(NamedTuple):
    """What is moved in a lesson, and what must be seen: right(slider, words before, words now)
    asserts it.
    """

    cell: str
    slider: str
    key: str
    times: int
    right: Callable[[Slider, str, str], None]


def numbers(pattern: str, words: str) -> list[float]:
    """The groups of the pattern in the words, as numbers."""
    found = re.search(pattern, words)
    assert found, f"{pattern!r} is not in {words!r}"
    return [float(group.replace(",", "")) for group in found.groups()]


def default_boxes_are_counted(slider, before, now):
    (per_cell,) = numbers(r"(\d+) boxes; the best", now)
    assert numbers(r"([\d,]+) boxes on 5 maps", now) == [
        per_cell * sum(n * n for n in (38, 19, 10, 5, 3))
    ]


def a_small_object_fills_its_share_of_the_anchor(slider, before, now):
    """At its best place an object of 3:1 and area 25 x 25, 43 x 14 px, lies wholly inside
    RetinaNet's smallest anchor of 2:1, 45 x 23 px, of area 32 x 32.
    """
    assert slider.value() == 3 and "3:1" in now
    assert chart(slider.drawing()).curve_at(0, 25) == pytest.approx(25**2 / 32**2, abs=0.005)


def an_easy_answer_is_discounted(slider, before, now):
    assert slider.value() == 2 and numbers(r"CE / ([\d,.]+)", now) == [round(1 / (1 - 0.9) ** 2)]


def mining_keeps_the_ratio(slider, before, now):
    """At 1 : 1 the picture shows as many as its positives; at 0.5 : 1 half of that, floored."""
    pattern = r"(\d+) of [\d,]+ negatives.*?(\d+) of [\d,]+ negatives"
    assert slider.value() == 1 and min(numbers(pattern, before)) > 0
    assert numbers(pattern, before) == [kept // 2 for kept in numbers(pattern, now)]


def the_anchor_is_compared_with_what_is_seen(slider, before, now):
    anchor, effect = numbers(r"Anchor (\d+) px .*In effect \(orange, (\d+) px", now)
    assert anchor == slider.value() == 32
    assert f"sees {'the whole anchor' if effect >= anchor else 'only a part'}" in now


def a_row_has_its_address(slider, before, now):
    """Rows 0 .. 5775 are the 38 x 38 x 4 of the first map; then come 19 x 19 cells of 6 boxes."""
    cell, box = divmod(int(slider.value()) - 38 * 38 * 4, 6)
    assert numbers(r"row (\d+), column (\d+), box (\d+)", now) == [*divmod(cell, 19), box]


def the_first_focal_loss_is_computed(slider, before, now):
    """100,000 anchors x 80 classes at p = .5 and gamma 1.5: each costs .75 x .5 ^ 1.5 x log 2."""
    expected = 100_000 * 80 * 0.75 * 0.5 ** slider.value() * math.log(2)
    assert slider.value() == 1.5 and f"{expected:,.0f}" in now


def two_workers_keep_the_gpu_twice_as_busy(slider, before, now):
    """Two workers make two batches of 32 pictures, 11 ms each, while the GPU takes 26 for one."""
    assert slider.value() == 2 and "2 workers" in now
    assert numbers(r"the GPU works (\d+)%", now) == [round(100 * 2 * 26 / (32 * 11))]


def both_parts_of_the_first_loss_are_computed(slider, before, now):
    """Curves at the prior 0.01, on logarithmic axes: gamma 1.5, alpha .25."""
    matched, background = (chart(slider.drawing()).curve_at(i, 0.01) for i in (0, 1))
    assert matched == pytest.approx(0.25 * 0.99**1.5 * math.log(100), rel=0.05)
    assert background == pytest.approx(200_000 * 0.75 * 0.01**1.5 * -math.log(0.99), rel=0.1)


def luck_shrinks_with_seeds(slider, before, now):
    """Means of four seeds of spread 1 differ with a spread of sqrt(2 / 4): at 1 point the better
    one wins in 92 %.
    """
    assert slider.value() == 4 and "4 seeds" in now
    assert chart(slider.drawing()).curve_at(1, 1) == pytest.approx((1 + math.erf(1)) / 2, abs=0.004)


def platelets_are_covered_at_last(slider, before, now):
    """Share of the close-ups' platelets that one of RetinaNet's anchors overlaps by .5, by plain
    arithmetic.
    """
    side, best = int(slider.value()), []
    for sample in Smears("train", 48, size=96):
        boxes = sample.boxes[sample.labels == 2].numpy() * side / 96
        overlaps = np.zeros(len(boxes))
        for stride in (8, 16, 32, 64, 128):
            at = (np.arange(math.ceil(side / stride)) + 0.5) * stride
            x, y = np.meshgrid(at, at)
            for area in (4 * stride * 2 ** (i / 3) for i in range(3)):
                for ratio in (0.5, 1, 2):
                    w, h = area * ratio**0.5, area / ratio**0.5
                    for n, (x1, y1, x2, y2) in enumerate(boxes):
                        shared = np.clip(
                            np.minimum(x + w / 2, x2) - np.maximum(x - w / 2, x1), 0, None
                        ) * np.clip(np.minimum(y + h / 2, y2) - np.maximum(y - h / 2, y1), 0, None)
                        iou = shared / (w * h + (x2 - x1) * (y2 - y1) - shared)
                        overlaps[n] = max(overlaps[n], iou.max())
        best += overlaps.tolist()
    least, most = (
        100 * sum(iou >= 0.5 + d for iou in best) / len(best) for d in (1e-6, -1e-6)
    )  # ties may round
    assert numbers(r"Platelets (\d+)%", before) == [0] and side == 192 and 0 < least < 100
    assert least - 0.51 <= numbers(r"Platelets (\d+)%", now)[0] <= most + 0.51
    assert least - 1 <= 100 * chart(slider.drawing()).curve_at(2, side) <= most + 1


def boxes_apart_still_have_a_slope(slider, before, now):
    """Boxes of 40 px, 64 px from each other: the hull is 104 px wide, 24 of it empty."""
    shift = slider.value()
    assert shift == 64 and numbers(r"GIoU is (\d\.\d+)", now) == [round(1 + (64 - 40) / 104, 2)]
    drawing = chart(slider.drawing())
    assert drawing.curve_at(0, 100) == pytest.approx(1 + 60 / 140, abs=0.02)
    assert drawing.curve_at(1, 100) == pytest.approx(1, abs=0.02)


VISITS = {
    "02": Visit("explorer", "maps", "ArrowLeft", 1, default_boxes_are_counted),
    "03": Visit(
        "smallest-slider",
        "shape of object",
        "ArrowRight",
        3,
        a_small_object_fills_its_share_of_the_anchor,
    ),
    "04": Visit("figure-1", "gamma", "ArrowRight", 5, an_easy_answer_is_discounted),
    "05": Visit("ratio-slider", "ratio", "ArrowRight", 1, mining_keeps_the_ratio),
    "07": Visit(
        "fields-slider", "anchor", "ArrowRight", 1, the_anchor_is_compared_with_what_is_seen
    ),
    "08": Visit("flatten-slider", "row", "ArrowRight", 1, a_row_has_its_address),
    "09": Visit("first-loss-slider", "gamma", "ArrowLeft", 1, the_first_focal_loss_is_computed),
    "10": Visit("timeline", "workers", "ArrowRight", 1, two_workers_keep_the_gpu_twice_as_busy),
    "11": Visit(
        "first-loss-slider", "gamma", "ArrowLeft", 1, both_parts_of_the_first_loss_are_computed
    ),
    "12": Visit("noise-slider", "seeds", "ArrowRight", 1, luck_shrinks_with_seeds),
    "13": Visit("coverage-slider", "input side", "ArrowRight", 2, platelets_are_covered_at_last),
    "14": Visit("giou-slider", "shift", "ArrowRight", 1, boxes_apart_still_have_a_slope),
}


@pytest.mark.parametrize("number", VISITS)
def test_a_control_of_each_lesson_shows_the_right_number(course, lesson, number):
    """Only the cells up to the control are run, without the trainings."""
    visit = VISITS[number]
    lesson.open(course.lesson(number, needed(nbformat.read(published(number), 4), visit.cell)))
    lesson.run_all()
    slider = lesson.slider(visit.cell, visit.slider)
    before, picture = slider.words(), slider.pixels()
    slider.press(visit.key, visit.times)
    visit.right(slider, before, slider.words())
    assert slider.pixels() != picture


def test_lesson_6_says_who_is_dropped_by_whom(course, lesson):
    lesson.open(course.lesson("06", needed(nbformat.read(published("06"), 4), "nms-drag")))
    lesson.run_all()
    playground = lesson.playground("nms-drag")
    playground.press(1, "Shift+ArrowLeft")
    (said,) = numbers(r"A drops B \(IoU (\d\.\d+)\)", playground.readout())
    assert said == pytest.approx(overlap(*playground.boxes()[:2]), abs=0.006)


def counted_boxes(slider: Slider) -> tuple[int, int]:
    """Boxes that are drawn, and all, as the caption of lesson 0's first picture has them."""
    drawn, of_all = re.search(r"([\d,]+) of ([\d,]+) boxes", slider.words()).groups()
    return int(drawn.replace(",", "")), int(of_all.replace(",", ""))


def test_lesson_0_opens_on_all_boxes_and_says_how_many_anchors(course, lesson):
    lesson.open(course.lesson("00"))
    lesson.run_all()
    slider = lesson.slider("opening", "score")
    (left, of_all), picture = counted_boxes(slider), slider.pixels()
    slider.press("ArrowRight", times=8)
    assert slider.value() == pytest.approx(0.9)
    assert counted_boxes(slider)[0] < left < of_all and slider.pixels() != picture
    slider.press("Home")
    assert slider.value() == 0 and left < counted_boxes(slider)[0] < of_all
    lesson.cell("opening").locator("input[type=checkbox]").click()
    slider.press("ArrowRight")
    assert counted_boxes(slider)[1] == of_all
    slider.press("ArrowLeft")
    assert f"All {of_all:,} boxes" in slider.words()
    count = 38 * 38 * 4 + (19 * 19 + 10 * 10 + 5 * 5) * 6 + (3 * 3 + 1) * 4
    assert (
        f"of {count:,} are background"
        in lesson.cell("imbalance").locator(".jp-OutputArea-output").first.text_content()
    )


def test_every_lesson_is_visited():
    assert {path.name[:2] for path in lab.lessons()} == {"00", "01", "06", *VISITS}
