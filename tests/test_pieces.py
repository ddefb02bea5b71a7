"""The library's versions of what learners write in lessons 7 to 9 pass the learners' cases."""

import pytest

from lesson_lib.course.checks import difference, find
from lesson_lib.course.mine import LIBRARY, library

SERVED = {
    "07.receptive_field": "receptive_field",
    "07.l2norm": "l2norm",
    "07.top_down": "top_down",
    "08.flatten": "flatten_predictions",
    "08.address": "address",
    "08.ssd_loss": "ssd_loss",
    "09.retinanet_loss": "retinanet_loss",
}


@pytest.mark.parametrize(("name", "served"), SERVED.items())
def test_a_piece_passes_its_exercise(name, served):
    exercise = find(name)
    assert exercise.serves == served and served in LIBRARY
    for case in exercise.cases:
        got = library(served)(*case.args)
        assert not difference(got, case.expected, exercise.tolerance), case.why
