"""Two settings compared: seed by seed where they ran with the same seeds, or apart.

    held(worse, better, 4.8)                           "holds", "is turned round", "cannot be said"
    paired(ours["without"], ours["with"])      Difference(by_seed=[...], mean=1.9, half=0.7)

Runs of one seed share their first weights and the order of their pictures, so part of what is luck
is the same on both sides and falls out of the difference. Within one recording, that is: another
machine or newer code may move all seeds alike, and that looks just like an effect. The interval is
Student's ("The probable error of a mean", Biometrika 6, 1908), for differences that scatter like a
normal distribution.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch


class Seeds(dict[int, float]):
    """{seed: AP} of one setting, with the words for what it was recorded on; "" pairs with all."""

    def __init__(self, values: Mapping[int, float], recording: str = "") -> None:
        super().__init__(values)
        self.recording = recording


class Difference(NamedTuple):
    """By how much a second setting is above a first.

    by_seed   a difference for each seed that both have, in the order of the seeds
    mean      of these;  half: half the width of the interval, which is mean - half to mean + half
    """

    by_seed: list[float]
    mean: float
    half: float

    @property
    def says(self) -> str:
        """ "more", "less", or "not decided" where the interval holds 0."""
        if abs(self.mean) <= self.half:
            return "not decided"
        return "more" if self.mean > 0 else "less"


def paired(
    first: Mapping[int, float], second: Mapping[int, float], sure: float = 0.95
) -> Difference:
    """second - first over the seeds that both have, with an interval that holds the true difference
    with the probability `sure`.

    first, second   {seed: AP}, in one unit
    ValueError where fewer than two seeds are in both: one difference says nothing of the scatter;
    and where both are `Seeds` of two recordings.
    """
    places = [side.recording for side in (first, second) if isinstance(side, Seeds)]
    if len(set(filter(None, places))) > 1:
        raise ValueError(
            f"Seeds pair within one recording only; here one side ran on {places[0]}, the other "
            f"on {places[1]}."
        )
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        raise ValueError(f"Two settings need two seeds in common to be paired; here {len(seeds)}.")
    differences = [second[seed] - first[seed] for seed in seeds]
    spread = statistics.stdev(differences) / math.sqrt(len(seeds))
    half = student(sure, len(seeds) - 1) * spread
    return Difference(differences, statistics.mean(differences), half)


def unpaired_t(first: Sequence[float], second: Sequence[float]) -> float:
    """How far the second mean lies above the first, in units of their difference's uncertainty
    (Welch's t).

    first, second   AP of a setting, a number for each seed; at least two each
    """
    spread = sum(statistics.variance(side) / len(side) for side in (first, second))
    return (statistics.fmean(second) - statistics.fmean(first)) / math.sqrt(spread)


def held(worse: Sequence[float], better: Sequence[float], bound: float) -> str:
    """What becomes here of a paper's order of two settings, by `unpaired_t`.

    worse, better   AP of each setting, as the paper ranks them, a number for each seed
    bound           beyond which t decides
    """
    t = unpaired_t(worse, better)
    return "holds" if t > bound else "is turned round" if t < -bound else "cannot be said"


def student(sure: float, freedom: float) -> float:
    """Beyond how many of its own standard errors a mean lies from the true one by luck only, sure
    to the probability `sure`: 12.7 for one degree of freedom at .95, 1.96 for very many.

    freedom   n - 1 for n values; 2 (n - 1) for two sides of n; need not be whole

    t = sqrt(freedom) tan(angle) turns Student's density (1 + t^2 / freedom)^(-(freedom + 1) / 2)
    into cos(angle)^(freedom - 1), which is summed on a fine grid.
    """
    angles = torch.linspace(0, math.pi / 2, 200_001, dtype=torch.float64)
    share = torch.cumulative_trapezoid(angles.cos() ** (freedom - 1), angles)
    angle = angles[1 + int(torch.searchsorted(share, sure * share[-1].item()))]
    return math.sqrt(freedom) * math.tan(angle.item())
