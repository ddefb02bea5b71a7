"""The curves of a recorded training."""

import json
import re

import matplotlib.pyplot as plt

from lesson_lib.config import REPOSITORY
from lesson_lib.course.run_charts import below_the_loss, curves


def test_a_runs_curves_show_each_recorded_point_in_percent():
    run = {
        "figures": {"AP50": 0.8},
        "curve": {"loss": [[10, 4.0], [20, 2.0]], "val AP50": [[10, 0.5], [20, 0.75]]},
    }
    figure = curves(run)
    left, right = figure.axes
    assert left.lines[0].get_xydata().tolist() == [[10, 4], [20, 2]]
    assert right.lines[0].get_ydata()[0] == 80
    assert right.lines[1].get_xydata().tolist() == [[10, 50], [20, 75]]
    assert [text.get_text() for text in right.texts] == ["test, once: 80.0", "50.0", "75.0"]
    plt.close(figure)


def test_the_full_size_runs_on_record_have_curves_that_fall_and_rise():
    runs = json.loads((REPOSITORY / "results" / "detectors.json").read_text(encoding="utf-8"))
    full = {
        run["name"]: run for run in runs if run["name"] in ("bccd-retinanet-r50", "bccd-ssd300")
    }
    for run in full.values():
        loss, judged = run["curve"]["loss"], run["curve"]["val AP50"]
        assert loss[-1][1] < 0.6 * loss[0][1]
        assert judged[-1][1] > judged[0][1]
    assert len(full) == 2


def test_below_the_loss_the_rate_is_at_its_top_where_it_was_and_each_evaluation_has_its_ap():
    records = [
        {"step": step, "grad_norm": 8.0 / step, "lr": 0.002 * min(step, 8 - step)}
        for step in range(1, 8)
    ]
    records[3]["AP"], records[6]["AP"] = 0.25, 0.5
    drawing = below_the_loss(records)
    assert re.findall(r">AP (\d+)<", drawing) == ["25", "50"]
    rate = re.search(r'd="(M[^"]*)" fill="none" stroke="#7f7f7f"[^>]*dasharray="18 5"', drawing)
    heights = [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", rate[1])]
    assert heights.index(min(heights)) == 3  # the highest rate, of step 4, lies highest
    dots = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', drawing)]
    assert len(dots) == 2 and dots[0] > dots[1]
