"""Cases for lesson 8: a row's place, flattening a head, scores without the background, SSD's loss,
first losses that give a bug away, and which rung catches what.

The expected values come from plain Python numbers and loops, never from the library.
"""

import math
import random

import torch

from lesson_lib.course.checks import Case, Choice, Exercise
from lesson_lib.course.review import Question

#: Five SSDs that say nothing yet (all logits 0), and what each does wrong.
STARTS = {
    "F": "no mining",
    "G": "divided by all boxes",
    "H": "right",
    "I": "no background channel",
    "J": "no negatives",
}
#: The cheapest rung that catches each bug; tests/test_bugs.py runs them.
CATCHES = {
    "no permute": "shapes",
    "divided by all anchors": "known batch",
    "no mining": "known batch",
    "background read as class 0": "overfit one picture",
    "ratio flipped in use": "overfit one picture",
}
#: What speaks against each wrong diagnosis of STARTS; log 4 = 1.386, log 3 = 1.099.
_MANY = "all 5,998 negatives, divided by 98, would come to some 85 and more."
_FEW = "a division by 6,096 would leave less than a tenth of one row's loss."
_LOG3 = "four rows for each positive, with three even shares each, would give 4 log 3."
_RIGHT = "four rows for each positive, with four even shares each, would give 4 log 4."
_ALONE = "the positives alone would give one log 4 each."
START_REASONS = {
    "F": {
        "right": _RIGHT,
        "no negatives": _ALONE,
        "divided by all boxes": _FEW,
        "no background channel": _LOG3,
    },
    "G": {
        "right": _RIGHT,
        "no negatives": _ALONE,
        "no mining": _MANY,
        "no background channel": _LOG3,
    },
    "H": {
        "no mining": _MANY,
        "no negatives": _ALONE,
        "divided by all boxes": _FEW,
        "no background channel": _LOG3,
    },
    "I": {
        "no mining": _MANY,
        "no negatives": _ALONE,
        "divided by all boxes": _FEW,
        "right": _RIGHT,
    },
    "J": {
        "no mining": _MANY,
        "right": _RIGHT,
        "divided by all boxes": _FEW,
        "no background channel": _LOG3,
    },
}
#: What speaks against each rung that is not the first one to catch it.
_BY_NUMBERS = (
    "it looks at what the outputs cost, and this bug leaves the cost of given outputs alone."
)
_BY_ROWS = (
    "it looks at shapes and at which pixels a row depends on; every row of this one is in place."
)
_LATE = "whether it sees this bug or not, a cheaper rung does."
RUNG_REASONS = {
    bug: {
        "shapes": _BY_ROWS,
        "known batch": _BY_NUMBERS,
        "overfit one picture": _LATE,
        "short training": _LATE,
        "metric gate": _LATE,
    }
    for bug in CATCHES
}
SSD300_MAPS = [(38, 38, 4), (19, 19, 6), (10, 10, 6), (5, 5, 6), (3, 3, 4), (1, 1, 4)]


def first_losses(positives: int = 98, rows: int = 6096, classes: int = 3) -> dict[str, float]:
    """The first class loss of each of STARTS: every softmax is even, P of the rows are matched."""
    even, kept = math.log(classes + 1), 4 * positives
    sums = {
        "no mining": rows * even,
        "divided by all boxes": kept * even,
        "right": kept * even,
        "no background channel": kept * math.log(classes),
        "no negatives": positives * even,
    }
    return {
        letter: sums[bug] / (rows if bug == "divided by all boxes" else positives)
        for letter, bug in STARTS.items()
    }


def _numbered(
    why: str, pictures: int, rows: int, columns: int, per_position: int, values: int
) -> Case:
    """A map whose every entry is another number, and the list of rows that belongs to it."""
    shape = (pictures, per_position * values, rows, columns)
    number = {
        (b, ch, y, x): float(((b * shape[1] + ch) * rows + y) * columns + x)
        for b in range(pictures)
        for ch in range(shape[1])
        for y in range(rows)
        for x in range(columns)
    }
    expected = [
        [
            [number[b, a * values + v, y, x] for v in range(values)]
            for y in range(rows)
            for x in range(columns)
            for a in range(per_position)
        ]
        for b in range(pictures)
    ]
    return Case(
        why, (torch.arange(math.prod(shape)).float().reshape(shape), values), torch.tensor(expected)
    )


def _address(why: str, row: int, maps: list[tuple[int, int, int]] = SSD300_MAPS) -> Case:
    """Found by counting through all rows."""
    places = [
        (level, y, x, box)
        for level, (rows, columns, k) in enumerate(maps)
        for y in range(rows)
        for x in range(columns)
        for box in range(k)
    ]
    return Case(why, (row, maps), places[row])


def _probabilities(why: str, *boxes: list[float], shift: float = 0.0) -> Case:
    """Logits made from probabilities (background first), and what one reads off them."""
    best = [max(range(len(p) - 1), key=lambda k, p=p: p[k + 1]) for p in boxes]
    logits = torch.tensor([[math.log(p) + shift for p in box] for box in boxes])
    return Case(
        why,
        (logits,),
        (torch.tensor([box[k + 1] for box, k in zip(boxes, best)]), torch.tensor(best)),
    )


def ssd_loss_by_loops(
    logits: list, deltas: list, labels: list, targets: list, positive: list
) -> tuple[float, float]:
    """SSD's two losses, one default box after the other; nested lists [picture][box] of plain
    numbers.
    """
    cls = box = matched = 0.0
    for z, d, k, t, is_positive in zip(logits, deltas, labels, targets, positive):
        background = []
        for i, found in enumerate(is_positive):
            total = max(z[i]) + math.log(sum(math.exp(x - max(z[i])) for x in z[i]))
            if not found:
                background.append(total - z[i][0])
                continue
            matched += 1
            cls += total - z[i][k[i] + 1]
            errors = [abs(x - y) for x, y in zip(d[i], t[i])]
            box += sum(e * e / 2 if e < 1 else e - 0.5 for e in errors)
        cls += sum(sorted(background, reverse=True)[: 3 * sum(is_positive)])
    return (cls / matched, box / matched) if matched else (0.0, 0.0)


def _batch(
    why: str, positive: list[list[bool]], seed: int = 0, spread: float = 1.0, unmatched: float = 0.0
) -> Case:
    """A random batch with K = 3; `unmatched` stands in the box targets of boxes without an
    object.
    """
    rng = random.Random(seed)
    shape = [(found, rng.randrange(3)) for row in positive for found in row]
    size = len(positive[0])
    rows = {
        "logits": [[rng.gauss(0, spread) for _ in range(4)] for _ in shape],
        "deltas": [[rng.gauss(0, spread) for _ in range(4)] for _ in shape],
        "labels": [label for _, label in shape],
        "targets": [
            [rng.gauss(0, 1) if found else unmatched for _ in range(4)] for found, _ in shape
        ],
    }
    nested = [[row[i : i + size] for i in range(0, len(shape), size)] for row in rows.values()] + [
        positive
    ]
    return Case(why, tuple(map(torch.tensor, nested)), ssd_loss_by_loops(*nested))


def _fresh_address(draw: random.Random) -> Case:
    maps = [(draw.randint(2, 5), draw.randint(2, 5), draw.choice((2, 3, 6))) for _ in range(3)]
    row = draw.randrange(sum(math.prod(m) for m in maps))
    return _address(f"row {row} of {maps}", row, maps)


def _fresh_flatten(draw: random.Random) -> Case:
    sizes = draw.randint(1, 2), draw.randint(2, 4), draw.randint(2, 4), draw.randint(2, 4)
    return _numbered(f"a map drawn anew, {sizes[1]} x {sizes[2]}", *sizes, draw.randint(2, 5))


def _fresh_scores(draw: random.Random) -> Case:
    weights = [[draw.uniform(0.1, 1) for _ in range(4)] for _ in range(3)]
    return _probabilities("boxes drawn anew", *([w / sum(row) for w in row] for row in weights))


def _fresh_loss(draw: random.Random) -> Case:
    positive = [[draw.random() < 0.2 for _ in range(14)] for _ in range(2)]
    return _batch("a batch drawn anew", positive, seed=draw.randrange(1000))


EXERCISES = {
    "08.address": Exercise(
        [
            _address("the first row of all", 0),
            _address("the last box of the first position", 3),
            _address("the next position of the row", 4),
            _address("the first position of the second row", 38 * 4),
            _address("the last row of conv4_3", 5775),
            _address("the first row of fc7", 5776),
            _address("row 6,420", 6420),
            _address("the last row of all", 8731),
            _address("a map that is not square", 30, [(2, 3, 4), (1, 2, 4)]),
        ],
        "any of the 8,732 rows has its place in the picture.",
        fresh=_fresh_address,
        refused=("anchor_address",),
        hints=(
            "How many rows does the first map have, and what is left of the number behind it?",
            "Take off whole maps, `rows * columns * boxes` at a time, until the rest is smaller "
            "than the next one.",
            "In what is left, the box runs fastest, then the column, then the row: `%` and `//`.",
        ),
        serves="address",
    ),
    "08.flatten": Exercise(
        [
            _numbered("one position with one box", 1, 1, 1, 1, 4),
            _numbered("one position with two boxes", 1, 1, 1, 2, 4),
            _numbered("a row of three positions", 1, 1, 3, 1, 2),
            _numbered("2 rows, 3 columns, 2 boxes", 1, 2, 3, 2, 4),
            _numbered("two pictures, 6 boxes a position", 2, 3, 2, 6, 4),
        ],
        "each row of numbers is beside its own default box.",
        fresh=_fresh_flatten,
        refused=("flatten_predictions", "join_levels"),
        hints=(
            "A `reshape` goes through the entries in order, the last dimension fastest.",
            "In which order must the four dimensions stand, so that this is the order of the rows "
            "in the picture above?",
            "`permute` brings them there. The channels need no help: they split by themselves into "
            "box and value.",
        ),
        serves="flatten_predictions",
    ),
    "08.scores": Exercise(
        [
            _probabilities("a red cell (class 0) at 0.7", [0.2, 0.7, 0.06, 0.04]),
            _probabilities("a platelet (class 2) at 0.5", [0.3, 0.1, 0.1, 0.5]),
            _probabilities("a box that is background at 0.9", [0.9, 0.02, 0.06, 0.02]),
            _probabilities(
                "the same with 7 added to every logit", [0.9, 0.02, 0.06, 0.02], shift=7.0
            ),
            _probabilities("three boxes, one class", [0.4, 0.6], [0.99, 0.01], [0.5, 0.5]),
            _probabilities(
                "logits beyond 100", [0.9, 0.02, 0.06, 0.02], [0.2, 0.7, 0.06, 0.04], shift=150.0
            ),
        ],
        "the background takes its share of the softmax, and is no answer.",
        fresh=_fresh_scores,
        refused=("ssd_detections",),
        hints=(
            "Two questions with different answers: has the background a share in the softmax? May "
            "it be what the box reports?",
            "The softmax first, over all channels; leave the background out of the result.",
            "`max(dim=1)` gives values and indices at once.",
        ),
    ),
    "08.starts": Exercise(
        [
            Case(
                f"network {letter}: is your diagnosis right?",
                (letter,),
                Choice(answer, START_REASONS[letter]),
            )
            for letter, answer in STARTS.items()
        ],
        "five networks told apart by one number, before a single step.",
        hints=(
            "Work out the right one: N positives, 3 N mined negatives, each with the same loss.",
            "What is the loss of one row if its softmax has 4 equal shares, and what with 3?",
            "6,096 rows, 98 of them positive: which of them are summed, and what is divided by?",
        ),
    ),
    "08.catches": Exercise(
        [
            Case(
                f"{bug}: is it this rung?",
                (bug,),
                Choice(rung, {k: v for k, v in RUNG_REASONS[bug].items() if k != rung}),
            )
            for bug, rung in CATCHES.items()
        ],
        "you know what each rung proves.",
        hints=(
            "Which part of the detector does a rung use at all? The known batch never detects, and "
            "the shapes never look at a loss.",
            "A wrong loss is a wrong number; a wrong use of right outputs shows when something "
            "must be found.",
            "Ask of each bug: does it move a row, the loss of given outputs, or only what the "
            "detections make of outputs that are right?",
        ),
    ),
    "08.ssd_loss": Exercise(
        [
            Case(
                "one positive of four, the same logits everywhere",
                (
                    torch.tensor([2.0, 0.0, 0.0, 0.0]).expand(1, 4, 4),
                    torch.zeros(1, 4, 4),
                    torch.ones(1, 4).long(),
                    torch.zeros(1, 4, 4),
                    torch.tensor([[True, False, False, False]]),
                ),
                (4 * math.log(math.exp(2) + 3) - 3 * 2, 0.0),
            ),
            _batch("one positive, three negatives", [[True, False, False, False]], seed=1),
            _batch(
                "one positive, nine negatives: only three are mined",
                [[False] * 6 + [True] + [False] * 3],
                seed=2,
            ),
            _batch("large errors of the offsets", [[True, False, True, False]], seed=3, spread=4.0),
            _batch("two negatives for two positives", [[True, False, True, False]], seed=4),
            _batch(
                "two pictures, one without an object", [[True] + [False] * 7, [False] * 8], seed=5
            ),
            _batch(
                "two pictures: each has a quota of its own",
                [[True] * 2 + [False] * 10, [True] + [False] * 11],
                seed=6,
            ),
            _batch(
                "offsets of unmatched boxes are infinite",
                [[True] + [False] * 7],
                seed=7,
                unmatched=-math.inf,
            ),
            _batch("no object at all", [[False] * 5, [False] * 5], seed=8),
            _batch("logits beyond 100", [[True, False, True, False]], seed=9, spread=150.0),
        ],
        "lessons 1, 3 and 5 in one function: this is what SSD is trained with.",
        fresh=_fresh_loss,
        refused=("ssd_loss", "ssd_criterion", "hard_negative_mask", "hard_negative_mask_by_rank"),
        hints=(
            "Which channel should each row choose? Then its cross entropy is one number, for "
            "positive rows and the others alike.",
            "Mining is a sort in each picture; a slice that is too long is simply shorter.",
            "For the offsets, *index* the positive rows: infinity times a mask of zeros is `nan`. "
            "Mind what `F.smooth_l1_loss` does with the sum unless told otherwise.",
        ),
        serves="ssd_loss",
        learns=(
            _batch("one positive, three negatives", [[True, False, False, False]], seed=1),
            {"cls_logits": 0, "box_deltas": 1},
        ),
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "How many numbers does SSD put out at a position with 4 boxes and 20 classes?",
        ("100", "84", "96"),
        "4 boxes x (4 offsets + 21 scores, background among them).",
    ),
    Question(
        "A head's output is (B, k (4 + c), H, W). What comes before it is cut into boxes?",
        ("channels go last (permute)", "a softmax", "NMS"),
        (
            "Without it each row mixes positions, and the network can still learn one picture by "
            "heart."
        ),
    ),
    Question(
        "What does overfitting one picture to AP50 1.0 prove?",
        (
            "that the loss can be brought down and decoded again",
            "that the anchors stand where the network looks",
            "that it will work on other pictures",
        ),
        "Several bugs survive it, a missing permute among them.",
    ),
    Question(
        "Which layers of VGG16 does SSD replace?",
        ("fc6 and fc7 become convolutions, fc6 with holes", "all after conv3_3", "none"),
        "fc6 is 3 x 3 with dilation 6, fc7 is 1 x 1, both with 1,024 channels.",
    ),
    Question(
        "Which maps have 4 boxes at a position, not 6?",
        ("the first and the last two", "the last alone", "all six"),
        "conv4_3, conv10_2 and conv11_2.",
    ),
]
