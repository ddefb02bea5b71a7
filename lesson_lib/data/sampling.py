"""Which pictures an epoch shows, where some classes are rare: repeat factor sampling.

weights = repeat_factors([sample.labels for sample in samples], rare=0.1)
numbers = drawn(weights, np.random.default_rng(0))
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lesson_lib.data.samples import Sample


def repeat_factors(labels: Sequence[Tensor], rare: float) -> np.ndarray:
    """How often each picture comes up, against one of frequent classes (LVIS, arXiv:1908.03195,
    where rare is .001).

        r_c = max(1, sqrt(rare / f_c)),     r of a picture = the highest r_c of its classes

    labels: of each picture, (G,); f_c: the share of pictures that show class c. Returns (N,), 1 or
    more; 1 for a picture without objects.
    """
    classes = [set(row.tolist()) for row in labels]
    shown = Counter(label for row in classes for label in row)
    factor = {
        label: max(1.0, (rare * len(labels) / count) ** 0.5) for label, count in shown.items()
    }
    return np.array([max((factor[label] for label in row), default=1.0) for row in classes])


def drawn(weights: np.ndarray, chance: np.random.Generator) -> list[int]:
    """As many pictures as there are, in no order: picture i about N w_i / sum(w) times, each time
    rounded up or down by chance (systematic sampling).
    """
    count = len(weights)
    order = chance.permutation(count)
    ends = np.cumsum(weights[order]) * (count / weights.sum())
    place = np.searchsorted(ends, np.arange(count) + chance.random(), side="right")
    return chance.permutation(order[place.clip(max=count - 1)]).tolist()


def labels_of(samples: Sequence[Sample]) -> list[Tensor]:
    """The labels of all pictures, none of which is decoded where the data set knows them."""
    known = getattr(samples, "targets", None)
    if known:
        return [target["labels"] for target in known()]
    return [sample.labels for sample in samples]
