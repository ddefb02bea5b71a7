"""Freed memory stays, where glibc is; the proof is the page faults of a process of its own."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lesson_lib import allocator

ROOT = Path(__file__).resolve().parent.parent
# As a training step: many blocks at once, all of them freed, then the same again. prctl(2) keeps
# the kernel from giving 2 MB at a time, PR_SET_THP_DISABLE, which some machines do unasked. Printed
# is the share of the pages that had to be given once more.
WORK = """
import ctypes, resource
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
{first}
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    blocks = [bytearray(8 * 2**20) for _ in range(12)]
step()
before = faults()
for _ in range(5):
    step()
print((faults() - before) * resource.getpagesize() / (5 * 12 * 8 * 2**20))
"""
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")


def given_again(first: str, **environment: str) -> float:
    """Of the memory of five steps, what the kernel gave anew, in a process that begins with the
    line `first`.
    """
    found = subprocess.run(
        [sys.executable, "-c", WORK.format(first=first)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(found.stdout)


@needs_glibc
@pytest.mark.parametrize("start", ["lesson_lib.__main__", "lesson_lib.course"])
def test_whoever_trains_keeps_the_memory_that_it_freed(start):
    assert given_again("pass") > 0.5
    assert given_again(f"import {start}") < 0.01
    owners_choice = {"MALLOC_TRIM_THRESHOLD_": "131072"}
    assert given_again(f"import {start}", **owners_choice) > 0.5


@pytest.mark.parametrize(
    "chosen", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"]
)
def test_nothing_is_changed_where_somebody_has_chosen(chosen):
    assert not allocator.keep_freed_memory({chosen: "1"})


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_nothing_is_changed_where_no_glibc_is(system, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    assert not allocator.keep_freed_memory({})


def test_nor_where_the_library_is_another(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert not allocator.keep_freed_memory({})
