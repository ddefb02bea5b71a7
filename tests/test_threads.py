"""The settings of threads stand before torch is loaded, wherever a learner starts."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

import lab
from lesson_lib import threads

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INSTALLED = {command.partition(":")[0] for command in PROJECT["scripts"].values()}
ENTRIES = sorted(INSTALLED | {"lesson_lib.__main__", "benchmarks.__main__", "tests.conftest"})
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


@pytest.mark.parametrize("entry", ENTRIES)
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


@pytest.mark.parametrize(
    "shares, idle",
    [
        ([0.0, 0.0], 2),
        ([100.0, 0.0], 1),
        ([60.0, 55.0], 1),
        ([20.0, 10.0], 2),
        ([100.0, 100.0], 1),
        ([100.0, 0.0, 0.0, 95.0, 3.0, 0.0, 0.0, 0.0], 6),
    ],
)
def test_a_core_that_is_kept_busy_is_no_idle_one(monkeypatch, shares, idle):
    monkeypatch.setattr(threads.psutil, "cpu_percent", lambda interval, percpu: shares)
    assert threads.idle_cores() == idle


@pytest.mark.parametrize(
    "environment, cores, idle, expected",
    [
        ({}, 2, 1, "1"),
        ({}, 2, 2, None),
        ({}, 4, 7, None),  # eight logical cores on four: torch takes four anyway
        ({"OMP_NUM_THREADS": "2"}, 2, 1, "2"),
    ],
)
def test_busy_cores_are_left_before_torch_is_loaded(
    monkeypatch, environment, cores, idle, expected
):
    monkeypatch.setattr(threads.psutil, "cpu_count", lambda logical=True: cores)
    monkeypatch.setattr(threads, "idle_cores", lambda: idle)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    threads.leave_busy_cores(environment)
    assert environment.get("OMP_NUM_THREADS") == expected


def test_busy_cores_are_left_by_a_torch_that_is_loaded(monkeypatch):
    given = []
    torch = SimpleNamespace(get_num_threads=lambda: 4, set_num_threads=given.append)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(threads.psutil, "cpu_count", lambda logical=True: 4)
    monkeypatch.setattr(threads, "idle_cores", lambda: 3)
    environment = {}
    threads.leave_busy_cores(environment)
    assert given == [3] and environment == {}
