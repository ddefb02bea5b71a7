"""Every lesson in a real browser: it runs, its controls move, and what they show is the right number.

Each expected number is worked out here from what the page says (the slider's value, the boxes' corners), never
with the function that the lesson calls.
"""
import json
import re
import statistics

import pytest
from reading import chart


def overlap(a: list[float], b: list[float]) -> float:
    """IoU of two boxes xyxy, in plain Python."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def read_overlap(playground) -> tuple[float, float]:
    """IoU that stands under the picture, and IoU of the boxes where they are."""
    said = re.search(r"IoU (\d\.\d+)", playground.readout())
    return float(said[1]), overlap(*playground.boxes())


def test_lesson_1_runs_and_its_boxes_and_sliders_answer(course, lesson, tmp_path):
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
    assert said == pytest.approx(true, abs=6e-4) and said != pytest.approx(overlap(*before), abs=0.01)
    assert playground.pixels() != picture

    playground.press(1, "ArrowRight", "Shift+ArrowUp", "Alt+ArrowDown")
    moved, (said, true) = playground.boxes()[1], read_overlap(playground)
    assert moved == pytest.approx([v + d for v, d in zip(after[1], (1, -10, 1, -9))], abs=0.051)
    assert said == pytest.approx(true, abs=6e-4)

    slip = lesson.slider("slide-slider", "shift")
    picture = slip.pixels()
    slip.press("ArrowRight", times=3)
    assert slip.value() == 8
    points = {round(side): height for side, height in chart(slip.drawing()).points}
    assert points == pytest.approx({18: 10 / 26, 50: 42 / 58, 95: 87 / 103}, abs=0.003)
    assert slip.pixels() != picture

    beta = lesson.slider("beta-slider", "beta")
    beta.press("ArrowLeft", times=10)
    assert beta.value() == pytest.approx(0.5)
    assert "beta 0.50" in " ".join(chart(beta.drawing()).words)
    smooth = chart(beta.drawing()).curves[2]
    inside, outside = min(smooth, key=lambda p: abs(p[0] - 0.25)), min(smooth, key=lambda p: abs(p[0] - 2))
    assert inside[1] == pytest.approx(inside[0] ** 2 / (2 * 0.5), abs=0.01)
    assert outside[1] == pytest.approx(abs(outside[0]) - 0.25, abs=0.01)

    times = {"slider": beta.milliseconds(20), "drag": playground.milliseconds(1, 20)}
    (tmp_path / "latency_ms.json").write_text(json.dumps(times))
    for name, values in times.items():
        assert len(values) == 20
        print(f"{name} to changed pixels: median {statistics.median(values):.0f} ms, "
              f"slowest {max(values):.0f} ms of {len(values)}; all in {tmp_path / 'latency_ms.json'}")
