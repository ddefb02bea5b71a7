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


class Turns(NamedTuple):
    """Two works in turns: median seconds of each, ratio and noise as `measure` gives them."""

    ours: float
    theirs: float
    ratio: float
    noise: float


def in_turns(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    rounds: int,
    synchronise: Callable[[], None] = lambda: None,
    seconds: float | None = None,
) -> Turns:
    """Times both, theirs before and after ours in each round, so that whatever changes meanwhile
    (a card that grows warm, another's work) meets both.

    seconds: rounds go on for so long, up to MOST_ROUNDS of them; None: LEAST_SECONDS.
    """
    seconds = LEAST_SECONDS if seconds is None else seconds
    times, first = [], time.perf_counter()
    while len(times) < rounds or (
        len(times) < MOST_ROUNDS and time.perf_counter() - first < seconds
    ):
        spent = []
        for work in (theirs, ours, theirs):
            synchronise()
            start = time.perf_counter()
            work()
            synchronise()
            spent.append(time.perf_counter() - start)
        times.append(spent)
    before, own, after = (statistics.median(column) for column in zip(*times))
    ratio = statistics.median((a + c) / (2 * b) for a, b, c in times)
    return Turns(own, (before + after) / 2, ratio, max(before / after, after / before))


def measure(row: Row, rounds: int) -> dict[str, Any]:
    """{"name", "sizes", "ours_ms", "theirs_ms", "ratio", "noise", "must", "aim", "holds"}.

    Each round runs theirs, ours, theirs again; its ratio is the mean of theirs by ours, its noise
    the second of theirs by the first (A/A). All figures are medians over the rounds; noise is the
    larger of ratio and 1 / ratio. A row that is over in less than LEAST_SECONDS gets more rounds,
    up to MOST_ROUNDS: a few calls of half a millisecond say little.
    """
    row.equal(row.ours(), row.theirs())
    found = in_turns(row.ours, row.theirs, rounds)
    return {
        "name": row.name,
        "sizes": row.sizes,
        "ours_ms": round(1e3 * found.ours, 3),
        "theirs_ms": round(1e3 * found.theirs, 3),
        "ratio": round(found.ratio, 2),
        "noise": round(found.noise, 2),
        "must": row.must,
        "aim": row.aim,
        "holds": found.ratio >= row.must,
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
