"""What pytest adds when nbval runs the lessons: pictures are compared by pixels, tagged cells with tolerance.

nbval compares texts strictly and skips every PNG. What a cell showed stays on its test item, and the
comparison of tools/notebooks.py is made with that, so no lesson runs twice.
"""

from collections.abc import Generator

import pytest
from nbval.plugin import IPyNbCell

from tools.notebooks import differences, normalise_outputs, tags


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors in this repository's own code; what nbval does with the null device is not that."""
    config.addinivalue_line(
        "filterwarnings", "ignore:unclosed file .*(/dev/null|nul)'.*:ResourceWarning"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cells that nbval would compare too strictly: it only runs them."""
    for item in items:
        if isinstance(item, IPyNbCell) and {"tolerance", "varies"} & set(tags(item.cell)):
            item.options["check"] = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """After nbval's own comparison of a lesson's cell, ours."""
    result = yield
    if isinstance(item, IPyNbCell) and not {"varies", "nbval-ignore-output"} & set(tags(item.cell)):
        stored, fresh = normalise_outputs(item.cell.outputs), normalise_outputs(item.test_outputs)
        if problems := differences(stored, fresh, "tolerance" in tags(item.cell)):
            item.raise_cell_error("Cell outputs differ", "\n".join(problems))
    return result
