"""What the tests share."""

import os
from pathlib import Path

import pytest

from lesson_lib.threads import prepare

prepare()  # before torch is loaded

from lesson_lib.config import dataset_roots  # noqa: E402

#: No test writes into a learner's own progress, however the tests were started.
os.environ["LESSON_PROGRESS"] = "none"


@pytest.fixture
def real_datasets():
    """real_datasets(name) -> folder of a real data set; the test is skipped, by name, where it is
    not at hand.
    """

    def find(name: str) -> Path:
        for root in dataset_roots():
            if (root / name).is_dir():
                return root / name
        pytest.skip(
            f"the data set {name} is not on this machine: set LESSON_DATASETS, or run "
            f"`python -m lesson_lib data download {name}`"
        )

    return find
