"""What a feature map knows, without training a detector: the simplest classifier there is, a linear
one, says of each point of a grid what lies there, reading the features at that point alone.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lesson_lib.data.samples import Sample
from lesson_lib.detectors.fpn import enlarge

ANSWERS = ("nothing", "red", "white", "platelet")


def points_in(boxes: Tensor, side: int, step: int = 8) -> Tensor:
    """For each box (G, 4) which points of a grid of `step` px in a picture of `side` px lie in its
    ellipse: (G, n, n) bool.
    """
    points = (torch.arange(side // step) + 0.5) * step
    y, x = torch.meshgrid(points, points, indexing="ij")
    x1, y1, x2, y2 = boxes.T[..., None, None]
    across, down = (2 * x - x1 - x2) / (x2 - x1), (2 * y - y1 - y2) / (y2 - y1)
    return across**2 + down**2 < 1


def what_lies_there(sample: Sample, step: int = 8) -> Tensor:
    """For each point of a grid of `step` px in a square picture: 0 nothing, 1 + label inside the
    ellipse of a box, the smallest where several lie. (n, n) int64.
    """
    inside = points_in(sample.boxes, sample.image.shape[-1], step)
    result = torch.zeros(inside.shape[1:], dtype=torch.int64)
    sizes = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(dim=1)
    for g in sizes.argsort(descending=True):
        result[inside[g]] = sample.labels[g] + 1
    return result


def read(
    samples: Iterable[Sample], look: Callable[[Sample], Sequence[Tensor]]
) -> tuple[list[Tensor], Tensor]:
    """Features of all points, one (N, C) for each of the maps that `look` gives, finest first, and
    what lies there (N,). Coarse maps are enlarged to the finest one's grid by copying.
    """
    stores: list[list[Tensor]] = []
    truth = []
    for sample in samples:
        finest, *coarser = look(sample)
        maps = [finest, *(enlarge(m, like=finest) for m in coarser)]
        stores = stores or [[] for _ in maps]
        for store, m in zip(stores, maps):
            store.append(m[0].flatten(1).T)
        step = sample.image.shape[-1] // finest.shape[-1]
        truth.append(what_lies_there(sample, step).flatten())
    return [torch.cat(store).double() for store in stores], torch.cat(truth)


def fit(features: Tensor, truth: Tensor, ridge: float = 0.1) -> tuple[Tensor, Tensor]:
    """Weights (4, C) and bias (4,) of a linear classifier of (N, C) features: least squares, in
    which every answer has the same say however many points it has.
    """
    mean, spread = features.mean(dim=0), features.std(dim=0)
    x = torch.cat([(features - mean) / spread, torch.ones(len(features), 1)], dim=1)
    say = (1 / torch.bincount(truth, minlength=4).double())[truth]
    wanted = F.one_hot(truth, 4).double()
    squares = x.T @ (x * say[:, None]) + ridge * torch.eye(x.shape[1])
    solution = torch.linalg.solve(squares, x.T @ (wanted * say[:, None]))
    weights = (solution[:-1] / spread[:, None]).T
    return weights, solution[-1] - weights @ mean


def guess(features: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """(N,) the answer of the classifier at each point."""
    return (features @ weights.T + bias).argmax(dim=1)


def shares_right(guesses: Tensor, truth: Tensor) -> list[float]:
    """Of the points of each answer, the share that is guessed right; guessing blindly gives 1/4."""
    return [(guesses[truth == k] == k).double().mean().item() for k in range(len(ANSWERS))]


def patches(answers: Tensor, least: int = 4) -> list[tuple[int, int, int]]:
    """(row, column, answer) of one place deep inside each patch of at least `least` equal answers
    that touch each other, in a map (n, n) of them: where a letter can stand. Nothing (0) has none.
    """
    found = []
    for answer in range(1, len(ANSWERS)):
        left = answers == answer
        while left.any():
            patch = _touching(left)
            left = left & ~patch
            if patch.sum() >= least:
                found.append((*_deepest(patch), answer))
    return found


def _touching(mask: Tensor) -> Tensor:
    """Of the places in `mask` (n, n) the first one and all that hang together with it."""
    patch = torch.zeros_like(mask)
    patch[tuple(mask.nonzero()[0])] = True
    while True:
        grown = ~_shrunk(~patch) & mask
        if torch.equal(grown, patch):
            return patch
        patch = grown


def _shrunk(mask: Tensor) -> Tensor:
    """Places whose eight neighbours are in `mask` too; what lies outside of the map counts so."""
    return F.max_pool2d((~mask)[None].float(), 3, stride=1, padding=1)[0] == 0


def _deepest(patch: Tensor) -> tuple[int, int]:
    """The place of a patch (n, n) that is farthest from its edge, the middle one of equals."""
    while (smaller := _shrunk(F.pad(patch, (1, 1, 1, 1)))[1:-1, 1:-1]).any():
        patch = smaller
    places = patch.nonzero()
    away = (places - places.double().mean(dim=0)).square().sum(dim=1)
    row, column = places[away.argmin()].tolist()
    return row, column
