"""Each planted fault shows in the column of its log that the lesson reads it from, whatever the
seed.
"""

import pytest

from lesson_lib.course.checks.lesson10 import FAULTS
from lesson_lib.course.faulty_logs import LOST, PARTS, PLANTED, SLOW, STEPS, draw_logs, logs


@pytest.fixture(scope="module", params=(0, 1, 2))
def found(request):
    return logs(request.param)


def test_there_is_a_diagnosis_for_each_fault(found):
    assert list(found) == list(PLANTED) == ["healthy", *FAULTS]
    assert all([row.step for row in rows] == list(range(1, STEPS + 1)) for rows in found.values())


def test_a_rate_too_high_jumps_after_the_first_step(found):
    assert found["A"][0].loss == pytest.approx(found["healthy"][0].loss, rel=1e-3)
    assert max(row.loss for row in found["A"][1:4]) > 2 * found["A"][0].loss
    assert max(row.loss for row in found["healthy"][1:4]) < found["healthy"][0].loss


def test_parts_that_are_not_divided_lengthen_the_gradient_alone(found):
    first, healthy = found["B"][0], found["healthy"][0]
    assert first.grad_norm == pytest.approx(PARTS * healthy.grad_norm, rel=1e-3)
    last = [log[-1].loss for log in (found["B"], found["healthy"])]
    assert last[0] == pytest.approx(last[1], rel=0.25)
    assert found["B"][-1].grad_norm > 2 * found["healthy"][-1].grad_norm


def test_a_lost_state_jumps_where_it_was_lost(found):
    before, after = found["C"][LOST].loss, found["C"][LOST + 1].loss
    assert before == pytest.approx(found["healthy"][LOST].loss, rel=1e-2)
    assert after > 1.4 * before and found["healthy"][LOST + 1].loss < before


def test_a_starving_gpu_learns_alike_and_waits(found):
    assert found["D"][5].loss == pytest.approx(found["healthy"][5].loss, rel=1e-2)
    assert min(row.wait for row in found["D"]) >= 1000 * SLOW
    assert min(row.wait for row in found["healthy"]) < 1000 * SLOW


def test_the_drawing_has_a_column_for_each_log(found):
    figure = draw_logs(found)
    titles = [axes.get_title() for axes in figure.axes[: len(found)]]
    assert titles == ["healthy", "log A", "log B", "log C", "log D"]
    for axes in figure.axes[: 2 * len(found)]:  # no curve of loss or gradient leaves its panel
        low, high = axes.get_ylim()
        assert all(low <= y <= high for line in axes.lines for y in line.get_ydata())
    for axes in figure.axes[2 * len(found) :]:  # waits: one scale for all, that shows D's
        assert axes.get_yscale() == "linear" and axes.get_ylim() == (0, 150)
        assert 1000 * SLOW < 150
