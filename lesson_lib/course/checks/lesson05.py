"""Cases for lesson 5: the loss of background, ranks, which of four miners is faulty, a choice from
a table, the ratio that a loss implies, which rows of a contest compare, mining.

The expected values are worked out with plain Python's sorting and numbers.
"""

import math
import random
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import wraps
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lesson_lib.course.checks import Case, Choice, Exercise, Told
from lesson_lib.course.review import Question


class _Calls(TorchDispatchMode):
    """Counts, while it is active, what is sorted and what the program must wait for: a number that
    Python asks a tensor for, which a GPU has to finish all its work for.
    """

    sorts = waits = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.sorts += str(function).split(".")[1] in ("sort", "argsort", "msort")
        self.waits += "_local_scalar_dense" in str(function)
        return function(*args, **(kwargs or {}))


def calls(function: Callable, *args: object) -> tuple[int, int]:
    """How often a call sorts, and how often it would make a GPU's program wait."""
    with _Calls() as seen:
        function(*args)
    return seen.sorts, seen.waits


#: Methods that take numbers out of a tensor: what is sorted after them is not seen, and no GPU
#: does it.
WAYS_OUT = ("numpy", "tolist", "item")


def one_sort(answer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor | Told]:
    """The same function; where it sorts more than once, or not with tensors, its result is that
    sentence.
    """

    @wraps(answer)
    def watched(*args):
        left = []

        def see(frame: FrameType, event: str, called: Any) -> None:
            out = event == "c_call" and called.__name__ in WAYS_OUT
            if out and isinstance(getattr(called, "__self__", None), Tensor):
                left.append(called.__name__)

        before = sys.getprofile()
        sys.setprofile(see)
        try:
            with _Calls() as seen:
                result = answer(*args)
        finally:
            sys.setprofile(before)
        if left or seen.waits:
            out = left[0] if left else "item"
            return Told(f"right or not, it took numbers out of PyTorch ({out}): sort tensors")
        if seen.sorts > 1:
            return Told(f"right or not, it sorted {seen.sorts} times, and once is enough")
        return result

    return watched


def _background_loss(why: str, logits: list) -> Case:
    def of(row):
        top = max(row)
        return top + math.log(sum(math.exp(x - top) for x in row)) - row[0]

    return Case(
        why,
        (torch.tensor(logits),),
        torch.tensor([[of(row) for row in picture] for picture in logits]),
    )


def _order(loss: list[float]) -> list[int]:
    return sorted(range(len(loss)), key=lambda a: (-loss[a], a))


def _ranks(why: str, loss: list[list[float]]) -> Case:
    ranks = [[_order(row).index(a) for a in range(len(row))] for row in loss]
    return Case(why, (torch.tensor(loss),), torch.tensor(ranks).reshape(len(loss), -1))


def _implied(why: str, pull: list[float], state: list[int], share: float) -> Case:
    background = sorted((Fraction(p) for p, s in zip(pull, state) if s == 0), reverse=True)
    line = Fraction(str(share)) * sum(background)  # exact: sums of floats differ between Pythons
    needed = next(n for n in range(len(background) + 1) if sum(background[:n]) >= line)
    label = torch.tensor(state)
    return Case(
        why,
        (torch.tensor(pull), label == 1, label == 0, share),
        needed / sum(s == 1 for s in state),
    )


def _mined(
    why: str, loss: list[list[float]], state: list[list[int]], ratio: float, least: int = 0
) -> Case:
    masks = []
    for row, states in zip(loss, state):
        order = [a for a in _order(row) if states[a] == 0]
        chosen = set(order[: max(math.floor(Fraction(str(ratio)) * states.count(1)), least)])
        masks.append([a in chosen for a in range(len(row))])
    label = torch.tensor(state)
    return Case(
        why, (torch.tensor(loss), label == 1, label == 0, ratio, least), torch.tensor(masks)
    )


def _fresh_background_loss(draw: random.Random) -> Case:
    logits = [[[draw.uniform(-3, 3) for _ in range(4)] for _ in range(3)]]
    return _background_loss("logits drawn anew", logits)


def _fresh_ranks(draw: random.Random) -> Case:
    loss = [[float(draw.randrange(7)) for _ in range(12)] for _ in range(2)]
    return _ranks("losses drawn anew, some of them equal", loss)


def _fresh_mined(draw: random.Random) -> Case:
    loss = [[float(draw.randrange(9)) for _ in range(20)] for _ in range(3)]
    state = [[draw.choice((0, 0, 0, 0, 1, -1)) for _ in range(20)] for _ in range(3)]
    return _mined("three pictures drawn anew", loss, state, 3, draw.choice((0, 2)))


#: Two pictures of six anchors: losses, and 1 positive, 0 negative, -1 ignored.
BATCH = [[0.9, 3.0, 0.2, 1.1, 0.7, 0.4], [2.5, 0.3, 1.6, 0.1, 2.0, 2.2]]
STATE = [[1, -1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
IGNORED, WHOLE, EASIEST = "ignored anchors are candidates", "whole batch", "easiest kept"
NAMES, SOUND = "names, not ranks", "nothing wrong"
BUGS = {"P": IGNORED, "Q": SOUND, "R": NAMES, "S": WHOLE}
BUG_REASONS = {
    "P": {
        WHOLE: "each picture keeps two, its own quota.",
        EASIEST: "picture 1 keeps the two highest losses of its background.",
        NAMES: "picture 1 keeps its two highest losses, as ranks do.",
        SOUND: "look at picture 0: may each of its two be chosen?",
    },
    "Q": {
        IGNORED: "no ignored anchor is kept.",
        WHOLE: "the four loudest of all would be unequally many in the two pictures.",
        EASIEST: "picture 1 keeps the two highest losses of its background.",
        NAMES: "with -inf last the order of picture 1 is 5, 4, 2, 1, 3, 0: at which places do "
        "numbers below 2 stand?",
    },
    "R": {
        IGNORED: "no ignored anchor is kept.",
        WHOLE: "the four loudest of all would include anchor 4 of picture 1.",
        EASIEST: "picture 1 keeps anchor 5, the loudest of its background.",
        SOUND: "picture 0 leaves out anchor 3, the loudest that may be chosen.",
    },
    "S": {
        IGNORED: "no ignored anchor is kept.",
        EASIEST: "picture 1 keeps the three highest losses of its background.",
        NAMES: "each picture would then keep two.",
        SOUND: "each picture has one positive: how many may each keep?",
    },
}


def _kept(row: list[float], states: list[int], candidates: tuple[int, ...], quota: int) -> list:
    order = [a for a in _order(row) if states[a] in candidates]
    return sorted(order[:quota])


def bug_tables() -> dict[str, list[list[int]]]:
    """{"P": [anchors kept in picture 0, in picture 1], ...}: what four programs keep of BATCH at
    2 : 1.
    """
    rows = list(zip(BATCH, STATE))
    everybody = [(loss, b, a) for b, (row, _) in enumerate(rows) for a, loss in enumerate(row)]
    hardest = sorted((e for e in everybody if STATE[e[1]][e[2]] == 0), reverse=True)[:4]
    names = []
    for row, states in rows:
        left = [loss if state == 0 else -math.inf for loss, state in zip(row, states)]
        names.append([a for a, name in enumerate(_order(left)) if name < 2])
    return {
        "P": [_kept(row, states, (0, -1), 2) for row, states in rows],
        "Q": [_kept(row, states, (0,), 2) for row, states in rows],
        "R": names,
        "S": [sorted(a for _, b, a in hardest if b == picture) for picture in (0, 1)],
    }


#: AP on COCO for batches of 128, 256 and 512 anchors: FL (arXiv:1708.02002), table 1d.
TABLE_1D = {
    "OHEM, NMS at .7": (31.1, 31.8, 30.6),
    "OHEM, NMS at .5": (32.8, 31.0, 27.6),
    "OHEM 1:3, NMS at .5": (31.1, 28.3, 24.0),
}
SHOWN, CONTRADICTED, UNTOLD = "the table shows it", "the table contradicts it", "it cannot tell"
DECISIONS = {
    "the row, before you know the batch": max(TABLE_1D, key=lambda name: min(TABLE_1D[name])),
    "with NMS at .5, forcing 1:3 costs AP": SHOWN,
    "in every row a larger batch is worse": CONTRADICTED,
    "each at its best batch, NMS at .5 beats NMS at .7": SHOWN,
    "focal loss wins because it keeps everybody": UNTOLD,
}
_FIRST, _FORCED, _LARGER, _BEST, _WINS = DECISIONS
DECISION_REASONS = {
    _FIRST: {
        name: f"in its worst batch it gives {min(row):g}, and another row's worst is better."
        for name, row in TABLE_1D.items()
        if name != DECISIONS[_FIRST]
    },
    _FORCED: {
        CONTRADICTED: "compare the two lower rows, batch by batch: in which does 1:3 give more?",
        UNTOLD: "two rows differ in the forced ratio alone, and every batch was measured.",
    },
    _LARGER: {
        SHOWN: "read each row from left to right: one of them rises first.",
        UNTOLD: "three batches were measured in each row; do all three rows agree?",
    },
    _BEST: {
        CONTRADICTED: "take the highest number of either row, whatever its batch.",
        UNTOLD: "both rows were measured with three batches, so each has a best one.",
    },
    _WINS: {
        SHOWN: "that focal loss gives more is measured; what else differs between the two?",
        CONTRADICTED: "focal loss does give more; the sentence says why, and no row tests that.",
    },
}

#: Section 5.8's contest by the numbers of its rows -> what differs between two of them.
DIFFERENCES = {
    "1 and 2": "the prior",
    "1 and 3": "mining",
    "1 and 4": "the loss and the prior",
    "2 and 3": "the loss and the prior",
    "2 and 4": "focal loss's factor",
    "3 and 4": "the loss and the prior",
}
NO_PAIR = "no two rows"
COMPARISONS = {
    "does the prior help cross entropy?": "1 and 2",
    "does mining help a network without the prior?": "1 and 3",
    "does focal loss add something to the prior?": "2 and 4",
    "does focal loss need the prior?": NO_PAIR,
}
_NEEDED = dict(zip(COMPARISONS, ("the prior", "mining", "focal loss's factor", "the prior")))


def _against(question: str, rows: str) -> str:
    """What speaks against comparing these two rows."""
    if rows == NO_PAIR:
        return f"there are two rows that differ in {_NEEDED[question]} alone."
    if COMPARISONS[question] == NO_PAIR:
        return f"they differ in {DIFFERENCES[rows]}; is focal loss in both of your rows?"
    return f"they differ in {DIFFERENCES[rows]}."


COMPARISON_REASONS = {
    question: {rows: _against(question, rows) for rows in (*DIFFERENCES, NO_PAIR) if rows != right}
    for question, right in COMPARISONS.items()
}

_rng = random.Random(5)
_MANY = (
    [[float(_rng.randrange(12)) for _ in range(60)] for _ in range(4)],
    [[_rng.choice([0, 0, 0, 0, 0, 1, -1]) for _ in range(60)] for _ in range(3)] + [[0] * 60],
)
#: Ninety positives, then 120 candidates of rising loss.
_NINETY = [[1.0] * 90 + [float(n) for n in range(120)]], [[1] * 90 + [0] * 120]

EXERCISES = {
    "05.background_loss": Exercise(
        [
            _background_loss("two equal logits", [[[0.0, 0.0]]]),
            _background_loss(
                "sure of the background, sure of a class", [[[5.0, 0.0, 0.0], [0.0, 5.0, 0.0]]]
            ),
            _background_loss(
                "two pictures, shape (2, 1, 3)", [[[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]]]
            ),
            _background_loss("logits of +-100", [[[-100.0, 100.0, 0.0], [100.0, -100.0, 0.0]]]),
        ],
        "this number decides who is mined.",
        fresh=_fresh_background_loss,
        refused=("softmax_cross_entropy", "softmax_focal_loss"),
        hints=(
            "Which channel is the background's, and what is its probability in the softmax?",
            "Write that probability as a fraction: its logarithm is a difference of two terms.",
            "One of the terms overflows if it is written as a logarithm of a sum of exponentials; "
            "torch has a function of that name that does not.",
        ),
    ),
    "05.ranks": Exercise(
        [
            _ranks("falling already", [[3.0, 2.0, 1.0]]),
            _ranks("rising", [[1.0, 2.0, 3.0]]),
            _ranks("a list that is not its own inverse", [[0.2, 0.9, 0.1, 0.5]]),
            _ranks("equal losses: the first anchor first", [[1.0, 2.0, 1.0, 2.0]]),
            _ranks(
                "many equal losses: the first anchor first",
                [[float(_rng.randrange(9)) for _ in range(40)] for _ in range(3)],
            ),
        ],
        "the second sort was only the inverse of a list.",
        fresh=_fresh_ranks,
        hints=(
            "Look at the arrows: the sort gives you the left picture. You want the right one.",
            "Indexing and `gather` read at the places that a list names. You need to write there.",
            "What is written at the places that `order` names, in each row? 0, 1, 2 and so on. "
            "And ask the sort to leave equal losses as they stood.",
        ),
    ),
    "05.bugs": Exercise(
        [
            Case(
                f"program {letter}: is your diagnosis right?",
                (letter,),
                Choice(answer, BUG_REASONS[letter]),
            )
            for letter, answer in BUGS.items()
        ],
        "four miners, told apart by whom they keep.",
        hints=(
            "Work out on paper what is right: one positive, so two negatives in each picture.",
            "Compare each program with that: whom does it keep that it may not, and how many?",
            "For the last one, write down `order` of each picture with -inf for whom may not be "
            "chosen, and compare it with 2, entry by entry.",
        ),
    ),
    "05.decide": Exercise(
        [
            Case(
                f"{case}: is that right?",
                (case,),
                Choice(answer, DECISION_REASONS[case]),
            )
            for case, answer in DECISIONS.items()
        ],
        "a best value is worth little if you cannot know where it lies, and a cause needs its own "
        "row.",
        hints=(
            "If you must choose the row before you know the batch, ask for each row what you get "
            "at worst.",
            "For each sentence: which two numbers would have to be compared? One pair that goes "
            'the other way contradicts an "is".',
            'A sentence with "because" wants two rows that differ in nothing but that cause.',
        ),
    ),
    "05.implied_ratio": Exercise(
        [
            _implied(
                "one object, equal background", [9.0, 1.0, 1.0, 1.0, 1.0], [1, 0, 0, 0, 0], 0.5
            ),
            _implied("one hard anchor carries it all", [1.0, 100.0, 0.1, 0.1], [1, 0, 0, 0], 0.9),
            _implied("not in falling order", [1.0, 0.5, 3.0, 1.5], [1, 0, 0, 0], 0.5),
            _implied("the unit does not matter", [2.0**-33] * 11, [1] + [0] * 10, 0.9),
            _implied("the unit does not matter", [1e-10] * 11, [1] + [0] * 10, 0.9),
            _implied("two objects", [1.0, 1.0, 4.0, 3.0, 2.0, 1.0], [1, 1, 0, 0, 0, 0], 0.6),
            _implied(
                "ignored anchors do not count", [1.0, 50.0, 3.0, 2.0, 2.0], [1, -1, 0, 0, 0], 0.7
            ),
            _implied(
                "a hundred anchors",
                [_rng.random() ** 4 for _ in range(100)],
                [1] * 4 + [0] * 96,
                0.9,
            ),
        ],
        "now you can ask any loss what ratio it stands for.",
        refused=("carriers", "implied_ratio"),
        hints=(
            "Only the negatives' pulls count. In which order, if as few as possible shall do?",
            "Add them up one by one: at which place does the running sum reach the line?",
            "Count those that have not reached it; one more does. Sums of many floats are safer "
            "in double precision.",
        ),
        serves="implied_ratio",
    ),
    "05.honest": Exercise(
        [
            Case(
                f"{question} Are these the rows?",
                (question,),
                Choice(answer, COMPARISON_REASONS[question]),
            )
            for question, answer in COMPARISONS.items()
        ],
        "one difference between two rows, and it is the one that was asked for.",
        hints=(
            "Take the two columns of the table: in which of them may your two rows differ?",
            "A question about the prior wants two rows with one loss; a question about the loss "
            "wants two with one prior.",
            "For the last one: how many rows train with focal loss, and what is their prior?",
        ),
    ),
    "05.mine": Exercise(
        [
            _mined(
                "one object, three to one",
                [[9.0, 1.0, 5.0, 2.0, 4.0, 3.0]],
                [[1, 0, 0, 0, 0, 0]],
                3,
            ),
            _mined(
                "each picture by itself",
                [[9.0, 8.0, 7.0, 6.0], [9.0, 1.0, 3.0, 2.0]],
                [[0, 0, 0, 1], [1, 0, 0, 0]],
                1,
            ),
            _mined(
                "ignored anchors are no candidates",
                [[9.0, 8.0, 7.0, 6.0, 1.0]],
                [[1, -1, -1, 0, 0]],
                1,
            ),
            _mined("at least 3, and one candidate", [[9.0, 8.0, 1.0]], [[1, -1, 0]], 1, 3),
            _mined(
                "a ratio of 1.8 is rounded down, too", [[9.0, 1.0, 2.0, 3.0]], [[1, 0, 0, 0]], 1.8
            ),
            _mined("a candidate whose loss is 0", [[5.0, 0.0, 3.0, 0.0]], [[1, -1, 0, 0]], 2),
            _mined("a ratio of 1.5 is rounded down", [[9.0, 3.0, 2.0, 1.0]], [[1, 0, 0, 0]], 1.5),
            _mined("more wanted than there are", [[9.0, 8.0, 3.0]], [[1, 1, 0]], 3),
            _mined(
                "equal losses: the first anchor first",
                [[9.0, 1.0, 2.0, 1.0, 1.0]],
                [[1, 0, 0, 0, 0]],
                2,
            ),
            _mined("many equal losses: the first anchor first", [[1.0] * 40], [[1] + [0] * 39], 5),
            _mined("a picture without objects", [[3.0, 2.0, 1.0]], [[0, 0, 0]], 3),
            _mined("a picture without objects, at least 2", [[3.0, 1.0, 2.0]], [[0, 0, 0]], 3, 2),
            _mined(
                "one object at 1 : 1, at least 3",
                [[9.0, 4.0, 3.0, 2.0, 1.0]],
                [[1, 0, 0, 0, 0]],
                1,
                3,
            ),
            _mined("1.3 x 90 is 117", *_NINETY, 1.3),
            _mined("0.7 x 90 is 63", *_NINETY, 0.7),
            _mined("four pictures, 60 anchors, many equal losses", *_MANY, 3),
            _mined("the same, at least 5 and a ratio of .5", *_MANY, 0.5, 5),
        ],
        "that is SSD's hard negative mining, with every corner.",
        fresh=_fresh_mined,
        refused=("hard_negative_mask", "hard_negative_mask_by_rank", "ohem_mask"),
        hints=(
            "Three questions, in this order: who may be chosen, in which place does each stand, "
            "how many places are there?",
            "Give those who may not be chosen a loss that can never win; the ranks are those of "
            "exercise 2.",
            "The quota is one number a picture, shape (B, 1): round it, raise it to the least, "
            "then cut it at the number of candidates. Without that cut the -inf ones get in. A "
            "product just short of a whole number: add a millionth in double precision.",
        ),
        serves="hard_negative_mask",
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "Which negatives does SSD keep for its loss?",
        (
            "those with the highest confidence loss, at most three for each positive",
            "a random choice of three for each positive",
            "all with an overlap below .5",
        ),
        "The ones that it is most wrong about.",
    ),
    Question(
        "What does a picture without objects teach SSD?",
        (
            "nothing: no positive, so no negative is mined",
            "that all is background",
            "three negatives",
        ),
        "RetinaNet's focal loss still learns from it.",
    ),
    Question(
        "What does the argsort of an argsort give?",
        ("the rank of each entry", "the sorted entries", "the order once more, unchanged"),
        "The first says who stands at each place, the second at which place each one stands.",
    ),
    Question(
        "By what does SSD divide its loss?",
        (
            "by the number of matched boxes",
            "by the number of boxes in the loss",
            "by the number of pictures",
        ),
        "N counts the matched boxes; the mined negatives are in the sum but not in N.",
    ),
    Question(
        "May losses of two detectors be compared to say which is better?",
        (
            "no: other losses count other things",
            "yes, if both are divided by N",
            "yes, after the same number of steps",
        ),
        "Compare AP. Even the same detector's AP can rise while its loss does.",
    ),
]
