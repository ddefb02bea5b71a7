"""What pytest adds when nbval runs the lessons: the comparison of what a cell shows with what is
stored.

nbval compares texts to the letter and skips every PNG. Its comparison is switched off; what a cell
showed stays on its test item, and tools/compare.py compares that by the kind of the cell, so no
lesson runs twice.
"""

from collections.abc import Generator

import pytest
from nbval.plugin import IPyNbCell

from tools.compare import differences, tags, values_count
from tools.notebooks import normalise_outputs


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors in this repository's own code; what nbval does with the null device is
    not that."""
    config.addinivalue_line(
        "filterwarnings", "ignore:unclosed file .*(/dev/null|nul)'.*:ResourceWarning"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """nbval runs the cells and compares nothing."""
    for item in items:
        if isinstance(item, IPyNbCell):
            item.options["check"] = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """After nbval has run a lesson's cell, our comparison; real pictures, which nobody stores, are
    left out."""
    result = yield
    if isinstance(item, IPyNbCell) and "nbval-ignore-output" not in tags(item.cell):
        stored, fresh = normalise_outputs(item.cell.outputs), normalise_outputs(item.test_outputs)
        if problems := differences(stored, fresh, values_count(item.cell)):
            item.raise_cell_error("Cell outputs differ", "\n".join(problems))
    return result
