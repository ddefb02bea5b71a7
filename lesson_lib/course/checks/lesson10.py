"""Cases for lesson 10: how many workers feed a GPU, gradients of a batch in parts, four logs, SSD's
crop.

Expected values are worked out here in plain Python numbers.
"""

import math
import random
import weakref
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lesson_lib.course.checks import Case, Choice, Exercise
from lesson_lib.course.review import Question

#: The logs of section 10.8, by letter, and what was planted in each (`course.faulty_logs`).
FAULTS = {
    "A": "the rate is too high",
    "B": "the parts are not divided",
    "C": "the optimizer's state was lost",
    "D": "the loader starves the GPU",
}
#: For each log, what speaks against each of the other three.
REASONS = {
    "A": {
        "the parts are not divided": "under AdamW that changes the gradient, hardly the loss.",
        "the optimizer's state was lost": "there is no state to lose before the first step.",
        "the loader starves the GPU": "its waiting is some ms, as the healthy log's.",
    },
    "B": {
        "the rate is too high": "its loss falls as the healthy one does.",
        "the optimizer's state was lost": "nothing happens in the middle of its curves.",
        "the loader starves the GPU": "its waiting is some ms, as the healthy log's.",
    },
    "C": {
        "the rate is too high": "it is healthy for ten steps at that rate.",
        "the parts are not divided": "its gradient is the healthy one's until the middle.",
        "the loader starves the GPU": "its waiting is some ms, as the healthy log's.",
    },
    "D": {
        "the rate is too high": "its loss is that of the healthy log, step by step.",
        "the parts are not divided": "its gradient is that of the healthy log, step by step.",
        "the optimizer's state was lost": "nothing happens in the middle of its curves.",
    },
}


def _workers(why: str, picture_ms: float, batch: int, step_ms: float) -> Case:
    return Case(why, (picture_ms, batch, step_ms), math.ceil(picture_ms * batch / step_ms))


def _random_workers(rng: random.Random) -> Case:
    numbers = rng.randint(2, 30) + 0.5, rng.randint(4, 64), rng.randint(20, 400) + 0.25
    return _workers(f"{numbers[0]} ms, batch {numbers[1]}, {numbers[2]} ms a step", *numbers)


_Row = tuple[list[float], float]  # the features, and what they should give
#: Functions that make one tensor of several.
JOINS = {
    *("cat", "concat", "concatenate", "stack", "block_diag"),
    *("vstack", "row_stack", "hstack", "column_stack", "dstack"),
}


class Part(Tensor):
    """The x of one part. MemoryError where it is joined with others: the batch does not fit."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.__name__ in JOINS:
            raise MemoryError(f"{func.__name__} makes one of the parts, and the batch does not fit")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


@dataclass
class Parts(Sequence):
    """The parts of a batch, ((n, F), (n,)) each, read anew whenever one is asked for, as a loader
    hands them out. There is room for two: MemoryError where a third is asked for while two are
    held, by a name, a list or a graph.

    rows: of each part; features: F.
    """

    rows: list[list[_Row]]
    features: int
    held: list[weakref.ref] = field(default_factory=list, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return Parts(self.rows[place], self.features, self.held)
        part = self.rows[place]
        self.held[:] = [block for block in self.held if block() is not None]
        if len(self.held) > 1:
            raise MemoryError(
                "there is room for two parts, and two are still held when a third is asked for "
                "(a list holds them, and so does a loss until its backward())"
            )
        values = [x for xs, _ in part for x in xs]
        block = array("f", values or [0.0])  # lives as long as any tensor that shares its numbers
        self.held.append(weakref.ref(block))
        x = torch.frombuffer(block, dtype=torch.float32)[: len(values)]
        return x.reshape(-1, self.features).as_subclass(Part), torch.tensor([y for _, y in part])


def _parts(why: str, weight: list[float], parts: list[list[_Row]]) -> Case:
    """Each part: rows of (features, what they should give)."""
    rows = [row for part in parts for row in part]
    gradient = [
        sum(2 * (sum(w * x for w, x in zip(weight, xs)) - y) * xs[i] for xs, y in rows) / len(rows)
        for i in range(len(weight))
    ]
    return Case(why, (torch.tensor(weight), Parts(parts, len(weight))), torch.tensor(gradient))


def _random_parts(rng: random.Random) -> Case:
    def part(count: int) -> list[tuple[list[float], float]]:
        return [([rng.uniform(-1, 1) for _ in range(3)], rng.uniform(-2, 2)) for _ in range(count)]

    sizes = rng.sample(range(7), 3) + [2]
    weight = [rng.uniform(-1, 1) for _ in range(3)]
    return _parts(f"parts of {sizes} rows", weight, [part(size) for size in sizes])


def _crop(why: str, boxes: list[list[float]], labels: list[int], patch: list[float]) -> Case:
    kept = [
        (box, label)
        for box, label in zip(boxes, labels)
        if patch[0] < (box[0] + box[2]) / 2 < patch[2]
        and patch[1] < (box[1] + box[3]) / 2 < patch[3]
    ]
    cut = [
        [
            max(b[0], patch[0]) - patch[0],
            max(b[1], patch[1]) - patch[1],
            min(b[2], patch[2]) - patch[0],
            min(b[3], patch[3]) - patch[1],
        ]
        for b, _ in kept
    ]
    return Case(
        why,
        (
            torch.tensor(boxes).reshape(-1, 4),
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor(patch),
        ),
        (
            torch.tensor(cut).reshape(-1, 4),
            torch.tensor([label for _, label in kept], dtype=torch.int64),
        ),
    )


def _random_crop(seed: int) -> Case:
    rng = random.Random(seed)
    corners = [(rng.uniform(0, 90), rng.uniform(0, 90)) for _ in range(30)]
    boxes = [[x, y, x + rng.uniform(4, 50), y + rng.uniform(4, 50)] for x, y in corners]
    labels = [rng.randrange(3) for _ in boxes]
    return _crop("thirty boxes, a patch in the middle", boxes, labels, [31.0, 22.0, 97.0, 84.0])


EXERCISES = {
    "10.workers": Exercise(
        [
            _workers("one is enough", 1.0, 32, 100.0),
            _workers("exactly two", 10.0, 20, 100.0),
            _workers("a little more than two", 10.0, 21, 100.0),
            _workers("decoding VOC for a fast GPU", 11.0, 32, 26.0),
        ],
        "before you rent a GPU you know how many cores it needs beside it.",
        tolerance=1e-9,
        fresh=_random_workers,
        hints=(
            "In the slider above, set the workers so that the GPU's row has no gap.",
            "How many milliseconds of work are in one batch, and in how many must it be there?",
            "Workers are whole: what happens to 2.1?",
        ),
    ),
    "10.accumulate": Exercise(
        [
            _parts(
                "one part is the whole batch",
                [1.0, 0.0],
                [[([1.0, 2.0], 0.0), ([0.0, 1.0], 1.0)]],
            ),
            _parts(
                "two parts of the same size",
                [1.0, -1.0],
                [[([1.0, 0.0], 0.0), ([2.0, 1.0], 0.0)], [([0.0, 1.0], 2.0), ([1.0, 1.0], 1.0)]],
            ),
            _parts(
                "three rows in one part, one in the other",
                [0.5, 2.0],
                [
                    [([1.0, 0.0], 0.0), ([0.0, 1.0], 0.0), ([1.0, 1.0], 3.0)],
                    [([4.0, 1.0], 0.0)],
                ],
            ),
            _parts(
                "a part without any row",
                [1.0, 1.0],
                [[([1.0, 2.0], 0.0)], [], [([2.0, 0.0], 1.0)]],
            ),
            _parts(
                "six parts, of which two fit",
                [1.0, 1.0],
                [[([float(n), 1.0], 0.5)] * n for n in range(1, 7)],
            ),
        ],
        "the gradient of the large batch, in the memory of a small one.",
        fresh=_random_parts,
        hints=(
            "With equal parts, by what factor is the sum of their gradients too long?",
            "A mean has already been divided: by which number, and by which should it have been?",
            "Add up sums, not means; the number to divide by is that of all parts together.",
        ),
    ),
    "10.logs": Exercise(
        [
            Case(
                f"log {letter}: is your diagnosis right?", (letter,), Choice(fault, REASONS[letter])
            )
            for letter, fault in FAULTS.items()
        ],
        "four faults told from three curves each.",
        hints=(
            "Which of its curves leaves the dotted, healthy one, and at which step?",
            "Two of them have their fault from the first step on: one in time, one in a length.",
            "One log is healthy until the middle and jumps; one is never healthy after step 1.",
        ),
    ),
    "10.crop": Exercise(
        [
            _crop(
                "a box inside the patch moves",
                [[30.0, 30.0, 50.0, 60.0]],
                [1],
                [20.0, 10.0, 90.0, 90.0],
            ),
            _crop(
                "a box whose centre is outside goes, though it reaches in",
                [[0.0, 30.0, 30.0, 60.0]],
                [0],
                [20.0, 10.0, 90.0, 90.0],
            ),
            _crop(
                "a box whose centre is inside is cut at the border",
                [[10.0, 30.0, 50.0, 60.0]],
                [2],
                [20.0, 10.0, 90.0, 90.0],
            ),
            _crop(
                "labels go with their boxes",
                [[0.0, 0.0, 8.0, 8.0], [40.0, 40.0, 60.0, 60.0], [85.0, 85.0, 99.0, 99.0]],
                [0, 1, 2],
                [20.0, 20.0, 95.0, 95.0],
            ),
            _crop(
                "a box larger than the patch",
                [[0.0, 0.0, 100.0, 100.0]],
                [1],
                [30.0, 30.0, 70.0, 80.0],
            ),
            _crop("no box is left", [[0.0, 0.0, 10.0, 10.0]], [0], [50.0, 50.0, 90.0, 90.0]),
            _crop("no box to begin with", [], [], [50.0, 50.0, 90.0, 90.0]),
            _random_crop(seed=5),
        ],
        "SSD's rule: centre inside, then cut.",
        refused=("iou_crop", "cut_to"),
        hints=(
            "Draw one box that reaches into the patch from outside: does it stay?",
            "A mask (N,) of the centres that lie inside, in x and in y; then the boxes alone.",
            "Both corners are kept inside the patch first; the patch's corner is their new origin.",
        ),
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "How much mAP does SSD's augmentation buy, by its Table 2?",
        ("8.8 points", "2 points", "20 points"),
        "65.5 to 74.3; zoom-out adds 2.9 more.",
    ),
    Question(
        (
            "A training was killed. What must a checkpoint hold so that it goes on as if nothing "
            "had happened?"
        ),
        (
            "weights, the optimizer's state, the step, and what fixes the pictures' order",
            "the weights",
            "weights and learning rate",
        ),
        "Momentum is lost otherwise, and pictures are seen twice.",
    ),
    Question(
        "Four parts of a batch, each with the mean of its own losses, one update. What is wrong?",
        (
            "the gradient is four times too long",
            "nothing",
            "the gradient is four times too short",
        ),
        "Means add up to a sum of means; with unequal parts no factor mends it.",
    ),
    Question(
        "When does the SSD recipe for VOC 07+12 drop its rate, of 120,000 steps?",
        ("at 80,000 and 100,000", "at 60,000 and 90,000", "never"),
        "The release's schedule; the paper's is 40k + 10k + 10k for VOC07, doubled with zoom-out.",
    ),
    Question(
        "The loss falls and AP stays 0. Where do you look first?",
        ("at decoding and evaluation", "at the learning rate", "at the augmentation"),
        "What the loss sees is right; something after it is not.",
    ),
]
