"""The settings of threads stand before torch is loaded, wherever a learner starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lab
from lesson_lib import threads

REPOSITORY = Path(__file__).resolve().parent.parent
# Imports the entry's module, and says at the moment when torch is asked for what the environment
# holds.
WATCH = """
import builtins, os, sys
plain = builtins.__import__
def watched(name, *rest):
    if name.partition(".")[0] == "torch":
        print(os.environ.get("GOMP_SPINCOUNT"))
        os._exit(0)
    return plain(name, *rest)
builtins.__import__ = watched
import importlib
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize("entry", ["lesson_lib.__main__", "benchmarks.__main__", "tests.conftest"])
@pytest.mark.parametrize(
    "chosen, expected",
    [
        ({}, threads.SETTINGS["GOMP_SPINCOUNT"]),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "None"),
    ],
)
def test_set_before_torch_is_loaded_unless_chosen(entry, chosen, expected):
    env = {name: value for name, value in os.environ.items() if name not in threads.CHOICES}
    found = subprocess.run(
        [sys.executable, "-c", WATCH, entry],
        cwd=REPOSITORY,
        env=env | chosen,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [expected]


def test_the_lessons_are_started_with_the_same(monkeypatch):
    for name in threads.CHOICES:
        monkeypatch.delenv(name, raising=False)
    assert lab.THREADS == threads.SETTINGS and lab.THREAD_CHOICES == threads.CHOICES
    assert threads.SETTINGS.items() <= lab.clean_environment().items()
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert not threads.SETTINGS.items() <= lab.clean_environment().items()
