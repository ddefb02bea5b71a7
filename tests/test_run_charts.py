"""The curves of a recorded training."""

import json

import matplotlib.pyplot as plt

from lesson_lib.config import REPOSITORY
from lesson_lib.course.run_charts import curves


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
    assert "bccd-retinanet-r50" in full
