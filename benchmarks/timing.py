"""How a row is measured: equality first, then turn by turn, the reference twice for the noise."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

#: Rows of less than a millisecond are judged by more rounds, until so many seconds or rounds.
LEAST_SECONDS, MOST_ROUNDS = 0.5, 100


class Row(NamedTuple):
    """One comparison.

    ours, theirs   do the same work; what they return is compared by `equal` before anything is
                   timed
    equal          (ours, theirs) -> None, AssertionError where they differ
    must, aim      times faster than the reference
    """

    name: str
    sizes: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    equal: Callable[[Any, Any], None]
    must: float
    aim: float


def measure(
    row: Row, rounds: int, synchronise: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """{"name", "sizes", "ours_ms", "theirs_ms", "ratio", "noise", "must", "aim", "holds"}.

    Each round runs theirs, ours, theirs again; its ratio is the mean of theirs by ours, its noise
    the second of theirs by the first (A/A). All figures are medians over the rounds; noise is the
    larger of ratio and 1 / ratio. A row that is over in less than LEAST_SECONDS gets more rounds,
    up to MOST_ROUNDS: a few calls of half a millisecond say little.
    """
    row.equal(row.ours(), row.theirs())
    times, first = [], time.perf_counter()
    while len(times) < rounds or (
        len(times) < MOST_ROUNDS and time.perf_counter() - first < LEAST_SECONDS
    ):
        spent = []
        for work in (row.theirs, row.ours, row.theirs):
            synchronise()
            start = time.perf_counter()
            work()
            synchronise()
            spent.append(time.perf_counter() - start)
        times.append(spent)
    before, ours, after = (statistics.median(column) for column in zip(*times))
    ratio = statistics.median((a + c) / (2 * b) for a, b, c in times)
    noise = max(before / after, after / before)
    return {
        "name": row.name,
        "sizes": row.sizes,
        "ours_ms": round(1e3 * ours, 3),
        "theirs_ms": round(5e2 * (before + after), 3),
        "ratio": round(ratio, 2),
        "noise": round(noise, 2),
        "must": row.must,
        "aim": row.aim,
        "holds": ratio >= row.must,
    }


@contextmanager
def busy_core() -> Iterator[subprocess.Popen]:
    """Within it another process takes all the time of one core that it gets.

    It ends with this one, even where that is killed and cannot end it, be it before the other has
    begun: so it is told whose child it is, and does not ask.
    """
    endless = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    neighbour = subprocess.Popen([sys.executable, "-c", endless])
    try:
        yield neighbour
    finally:
        neighbour.kill()
        neighbour.wait()


def close(ours: Any, theirs: Any, rtol: float = 1e-4, atol: float = 1e-4) -> None:
    """AssertionError unless both are alike, to the tolerance,
    in every tensor of the same nesting.
    """
    if isinstance(ours, torch.Tensor):
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=rtol, atol=atol)
    else:
        pairs = (
            [(ours[k], theirs[k]) for k in ours]
            if isinstance(ours, dict)
            else zip(ours, theirs, strict=True)
        )
        for one, other in pairs:
            close(one, other, rtol, atol)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text, one a line, those that miss their target marked."""
    lines = [
        f"{'row':28}{'sizes':34}{'ours ms':>10}{'theirs ms':>11}"
        f"{'ratio':>7}{'A/A':>6}{'must':>6}{'aim':>6}"
    ]
    lines += [
        f"{r['name']:28}{r['sizes']:34}{r['ours_ms']:10.2f}{r['theirs_ms']:11.2f}{r['ratio']:7.2f}"
        f"{r['noise']:6.2f}{r['must']:6.2f}{r['aim']:6.2f}{'' if r['holds'] else '  below must'}"
        for r in rows
    ]
    return "\n".join(lines)
