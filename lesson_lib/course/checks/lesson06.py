"""Cases for lesson 6: suppression, true or false, three faulty graders, what to mend first,
counting, average precision.

The expected values are lists of plain Python numbers, worked out here without the package's
functions or by hand.
"""

import random

import torch

from lesson_lib.course.checks import Case, Choice, Exercise
from lesson_lib.course.review import Question


def _iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = width * height if width > 0 and height > 0 else 0.0
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def _row(count: int, step: float, side: float = 10.0) -> list[list[float]]:
    """Squares in a row, each `step` px to the right of the one before."""
    return [[i * step, 0.0, i * step + side, side] for i in range(count)]


def _crowd(count: int, seed: int) -> tuple[list[list[float]], list[float]]:
    rng = random.Random(seed)
    places = [(rng.uniform(0, 60), rng.uniform(0, 60), rng.uniform(15, 30)) for _ in range(count)]
    return [[x, y, x + s, y + s] for x, y, s in places], rng.sample(
        [i / count for i in range(1, count + 1)], count
    )


def _kept(boxes: list[list[float]], scores: list[float], threshold: float) -> list[int]:
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def _nms(
    why: str,
    boxes: list[list[float]],
    scores: list[float],
    threshold: float,
    expected: list[int] | None = None,
) -> Case:
    expected = _kept(boxes, scores, threshold) if expected is None else expected
    return Case(
        why,
        (torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), threshold),
        torch.tensor(expected, dtype=torch.int64),
    )


def _true(
    boxes: list[list[float]], scores: list[float], objects: list[list[float]], iou: float
) -> list[bool]:
    true, free = [False] * len(boxes), set(range(len(objects)))
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        over = [(_iou(boxes[i], objects[g]), -g) for g in free if _iou(boxes[i], objects[g]) >= iou]
        if over:
            true[i] = True
            free.remove(-max(over)[1])
    return true


def _judged(
    why: str, boxes: list, scores: list[float], objects: list, expected: list[bool] | None = None
) -> Case:
    expected = _true(boxes, scores, objects, 0.5) if expected is None else expected
    return Case(
        why,
        (
            torch.tensor(boxes).reshape(-1, 4),
            torch.tensor(scores),
            torch.tensor(objects).reshape(-1, 4),
        ),
        torch.tensor(expected, dtype=torch.bool),
    )


def _ap(scores: list[float], true: list[bool], objects: int) -> float:
    """For each object found, in order: the best precision at that recall or beyond; their sum over
    the objects.
    """
    ranked = [hit for _, hit in sorted(zip(scores, true), key=lambda pair: -pair[0])]
    precision = [sum(ranked[:n]) / n for n in range(1, len(ranked) + 1)]
    return sum(max(precision[i:]) for i, hit in enumerate(ranked) if hit) / objects


def _area(
    why: str, scores: list[float], true: list[bool], objects: int, expected: float | None = None
) -> Case:
    expected = _ap(scores, true, objects) if expected is None else expected
    return Case(
        why, (torch.tensor(scores), torch.tensor(true, dtype=torch.bool), objects), expected
    )


def _many(count: int, seed: int) -> tuple[list[float], list[bool], int]:
    rng = random.Random(seed)
    scores = rng.sample([i / count for i in range(1, count + 1)], count)
    true = [rng.random() < score for score in scores]
    return scores, true, sum(true) + 7


def _fresh_nms(draw: random.Random) -> Case:
    return _nms("twenty boxes drawn anew", *_crowd(20, draw.randrange(10**6)), 0.45)


def _fresh_judged(draw: random.Random) -> Case:
    found, objects = _crowd(15, draw.randrange(10**6)), _crowd(8, draw.randrange(10**6))[0]
    return _judged("fifteen boxes drawn anew", *found, objects)


def _counted(
    why: str,
    true: list[list[bool]],
    annotated: list[int],
    expected: tuple[float, float, float] | None = None,
) -> Case:
    missed = [cells - sum(row) for row, cells in zip(true, annotated)]
    extra = [len(row) - sum(row) for row in true]
    errors = [more - less for more, less in zip(extra, missed)]
    several = len(true)
    computed = (
        sum(errors) / several,
        sum(map(abs, errors)) / several,
        (sum(missed) + sum(extra)) / several,
    )
    verdicts = [torch.tensor(row, dtype=torch.bool) for row in true]
    return Case(why, (verdicts, torch.tensor(annotated)), expected or computed)


def _fresh_counts(draw: random.Random) -> Case:
    true = [[draw.random() < 0.8 for _ in range(draw.randrange(12))] for _ in range(6)]
    return _counted("six pictures drawn anew", true, [sum(row) + draw.randrange(4) for row in true])


def _fresh_area(draw: random.Random) -> Case:
    return _area("forty detections drawn anew", *_many(40, draw.randrange(10**6)))


#: Five detections, not sorted by score, of three objects: the overlap of each pair.
GRADED = [0.6, 0.9, 0.5, 0.8, 0.7]
OVERLAPS = [[0.7, 0.0, 0.0], [0.6, 0.1, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.9], [0.0, 0.0, 0.8]]
BUGS = {
    "P": "an object can be found twice",
    "Q": "the order of the list, not of the scores",
    "R": "an overlap of exactly 0.5 is not enough",
}
BUG_REASONS = {
    "P": {
        BUGS["Q"]: "both detections on the first object are true; an order gives it to one.",
        BUGS["R"]: "the detection that overlaps by exactly 0.5 is called true.",
        "nothing is wrong": "there are three objects, and five detections are called true.",
    },
    "Q": {
        BUGS["P"]: "no object has two true detections here.",
        BUGS["R"]: "the detection that overlaps by exactly 0.5 is called true.",
        "nothing is wrong": "of the two detections on the first object the surer one is called "
        "false.",
    },
    "R": {
        BUGS["P"]: "no object has two true detections here.",
        BUGS["Q"]: "of the two detections on the first object the surer one is true.",
        "nothing is wrong": "the second object's only detection is called false: does it overlap "
        "enough?",
    },
}


def _graded(by_score: bool = True, once: bool = True, inclusive: bool = True) -> list[bool]:
    order = sorted(range(5), key=lambda i: -GRADED[i]) if by_score else range(5)
    true, taken = [False] * 5, set()
    for i in order:
        best = max(range(3), key=lambda g: OVERLAPS[i][g])
        enough = OVERLAPS[i][best] >= 0.5 if inclusive else OVERLAPS[i][best] > 0.5
        true[i] = enough and best not in taken
        taken |= {best} if true[i] and once else set()
    return true


def bug_tables() -> dict[str, list[bool]]:
    """{"P": [true or false for each detection], ...}: what three programs make of GRADED."""
    return {
        "P": _graded(once=False),
        "Q": _graded(by_score=False),
        "R": _graded(inclusive=False),
    }


#: Of four detectors and each kind of error: how many at a score of .5 or more, and the AP50 gained,
#: in points, if all of that kind were repaired.
REPAIRS = {
    "A": {
        "class": (4, 0.3),
        "localisation": (58, 1.1),
        "duplicate": (31, 6.2),
        "background": (96, 0.8),
        "missed": (12, 1.5),
    },
    "B": {
        "class": (17, 7.4),
        "localisation": (64, 0.9),
        "duplicate": (3, 0.1),
        "background": (41, 1.2),
        "missed": (8, 0.6),
    },
    "C": {
        "class": (3, 0.2),
        "localisation": (70, 1.3),
        "duplicate": (5, 0.2),
        "background": (9, 0.4),
        "missed": (52, 9.8),
    },
    "D": {
        "class": (2, 0.1),
        "localisation": (71, 5.6),
        "duplicate": (4, 0.2),
        "background": (23, 2.1),
        "missed": (11, 0.9),
    },
}
#: What somebody saw who looked at two kinds of errors, the costliest among them.
LOOKED_AT = {
    "A": {
        "background": "smudges of stain",
        "duplicate": "pairs of boxes on one cell, IoU 0.5 to 0.6",
    },
    "B": {
        "class": "white cells, of which the set has 40, called red",
        "localisation": "boxes a fifth too wide",
    },
    "C": {
        "localisation": "objects of 9 to 14 px; the smallest anchor has 32",
        "missed": "cells in clumps, where a neighbour's box drops theirs",
    },
    "D": {
        "background": "smudges of stain",
        "localisation": "most fit a cell that has no box, IoU 0.7 or more",
    },
}
CURES = {
    "class": "more pictures of the rare class",
    "localisation": "box loss and resolution",
    "duplicate": "a lower NMS threshold",
    "background": "harder negatives",
    "missed": "anchors that fit",
}
ANNOTATE, LOOSEN = "complete the annotations", "a higher NMS threshold"
DECISIONS = {"A": CURES["duplicate"], "B": CURES["class"], "C": LOOSEN, "D": ANNOTATE}


def repairs_table() -> str:
    """REPAIRS and LOOKED_AT as a Markdown table."""
    kinds = list(REPAIRS["A"])
    rows = []
    for name, row in REPAIRS.items():
        cells = [f"{count} (+{gain:g})" for count, gain in row.values()]
        seen = "<br>".join(f"{kind}: {words}" for kind, words in LOOKED_AT[name].items())
        rows.append(f"| {' | '.join([name, *cells, seen])} |")
    head = "| detector: errors (AP50 points gained) | " + " | ".join(kinds)
    rule = "|---" * (len(kinds) + 2) + "|"
    return "\n".join([head + " | what was seen, of two kinds |", rule, *rows])


def _refuted(name: str, kind: str) -> str:
    """Why the cure of `kind` is not what this detector needs first."""
    count, gain = REPAIRS[name][kind]
    if (count, gain) == max(REPAIRS[name].values(), key=lambda pair: pair[1]):
        return "it is the usual cure of the costliest kind, but read what was seen of these errors."
    return (
        f"that is for {kind} errors, of which {name} has {count}, and without any of them it "
        f"gains {gain:g} points; something else costs it more."
    )


UNSEEN = {
    ANNOTATE: "nobody saw a cell without a box in {}.",
    LOOSEN: "nobody saw a cell in {} that lost its box to another one's.",
}
DECISION_REASONS = {
    name: {
        **{cure: _refuted(name, kind) for kind, cure in CURES.items() if cure != right},
        **{cure: reason.format(name) for cure, reason in UNSEEN.items() if cure != right},
    }
    for name, right in DECISIONS.items()
}


SQUARE, HALF_RIGHT, FAR = [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [80.0, 80.0, 90.0, 90.0]
EXERCISES = {
    "06.nms": Exercise(
        [
            _nms("two boxes far apart", [SQUARE, FAR], [0.9, 0.8], 0.5, [0, 1]),
            _nms(
                "the better box comes second",
                [SQUARE, [1.0, 0.0, 11.0, 10.0]],
                [0.6, 0.9],
                0.5,
                [1],
            ),
            _nms(
                "three boxes, scores out of order: best first",
                [FAR, SQUARE, [40.0, 0.0, 50.0, 10.0]],
                [0.2, 0.7, 0.4],
                0.5,
                [1, 2, 0],
            ),
            _nms(
                "an overlap equal to the threshold is not higher",
                [SQUARE, HALF_RIGHT],
                [0.9, 0.8],
                0.5,
                [0, 1],
            ),
            _nms(
                "a chain: the middle one is dropped, so it drops nobody",
                _row(3, 3),
                [0.9, 0.8, 0.7],
                0.5,
                [0, 2],
            ),
            _nms(
                "a box inside another",
                [[0.0, 0.0, 40.0, 40.0], [10.0, 10.0, 20.0, 20.0]],
                [0.9, 0.8],
                0.3,
                [0, 1],
            ),
            _nms("no box at all", [], [], 0.5, []),
            _nms("eighty boxes in a crowd", *_crowd(80, seed=6), 0.45),
        ],
        "of many boxes on one cell, one stays.",
        fresh=_fresh_nms,
        refused=("nms", "greedy_nms", "class_aware_nms", "batched_nms", "nms_steps"),
        hints=(
            "The picture with the step slider is the whole rule: what changes from step to step?",
            "Keep a list of those that are left, best first. Each round takes its first one and "
            "makes the list shorter.",
            "One row of overlaps tells who stays in the list; mind the sign of equal, and the "
            "picture without a box.",
        ),
        serves="nms",
    ),
    "06.true_or_false": Exercise(
        [
            _judged("one object, found", [SQUARE], [0.9], [[1.0, 0.0, 11.0, 10.0]], [True]),
            _judged("an overlap of exactly 0.5 counts", [HALF_RIGHT], [0.9], [SQUARE], [True]),
            _judged(
                "found twice: only once true",
                [SQUARE, [1.0, 0.0, 11.0, 10.0]],
                [0.9, 0.8],
                [SQUARE],
                [True, False],
            ),
            _judged(
                "the second box has the higher score and goes first",
                [SQUARE, [1.0, 0.0, 11.0, 10.0]],
                [0.6, 0.9],
                [SQUARE],
                [False, True],
            ),
            _judged(
                "two objects, two boxes on the first",
                [SQUARE, SQUARE, FAR],
                [0.9, 0.8, 0.1],
                [SQUARE, FAR],
                [True, False, True],
            ),
            _judged(
                "its best object is taken, but another is free and overlaps enough",
                [SQUARE, [1.0, 0.0, 11.0, 10.0]],
                [0.9, 0.8],
                [SQUARE, [3.0, 0.0, 13.0, 10.0]],
                [True, True],
            ),
            _judged(
                "two free objects overlap enough: the better one is claimed, and it comes second",
                [[4.0, 0.0, 24.0, 20.0], [-4.0, 0.0, 16.0, 20.0]],
                [0.9, 0.8],
                [[0.0, 0.0, 20.0, 20.0], [4.0, 0.0, 24.0, 20.0]],
                [True, True],
            ),
            _judged(
                "two free objects overlap enough: the better one is claimed, and it comes first",
                [[4.0, 0.0, 24.0, 20.0], [-4.0, 0.0, 16.0, 20.0]],
                [0.9, 0.8],
                [[4.0, 0.0, 24.0, 20.0], [0.0, 0.0, 20.0, 20.0]],
                [True, True],
            ),
            _judged("a picture without objects", [SQUARE, FAR], [0.9, 0.8], [], [False, False]),
            _judged("no detections", [], [], [SQUARE], []),
            _judged("thirty boxes, twelve objects", *_crowd(30, seed=7), _crowd(12, seed=8)[0]),
        ],
        "every detection now has a verdict, and every object at most one finder.",
        fresh=_fresh_judged,
        refused=("judge", "coco_evaluate", "voc_evaluate", "verdicts"),
        hints=(
            "Two loops in one: over the detections by falling score, and over who is still free.",
            "Keep a bool for each object: free or not. What overlap may an object have that is "
            "not free?",
            "Write the verdict at the detection's own place, not at its rank; and a picture "
            "without objects has no largest overlap.",
        ),
    ),
    "06.bugs": Exercise(
        [
            Case(
                f"program {letter}: is your diagnosis right?",
                (letter,),
                Choice(answer, BUG_REASONS[letter]),
            )
            for letter, answer in BUGS.items()
        ],
        "three graders, told apart by their verdicts.",
        hints=(
            "Write down the right verdicts first: best score first, each object once, .5 is "
            "enough.",
            "Which program calls more of them true than there are objects?",
            "Two detections lie on the first object. Which one should have it, and who gave it "
            "to the other?",
        ),
    ),
    "06.decide": Exercise(
        [
            Case(
                f"detector {name}: is that what to mend first?",
                (name,),
                Choice(answer, DECISION_REASONS[name]),
            )
            for name, answer in DECISIONS.items()
        ],
        "mend what costs most, not what is seen most, and look before you mend.",
        hints=(
            "The number of errors and their price are two columns in one: which of them does AP "
            "feel?",
            "What is the usual cure of that kind? The table above names one for each.",
            "Is that cure one for what was seen of this kind? A cell that had its box and lost it "
            "had its anchor, too; a box that fits a cell is wrong only by the list.",
        ),
    ),
    "06.counting": Exercise(
        [
            _counted("one picture, two too many", [[True, False, True, False]], [2], (2.0, 2.0, 2)),
            _counted(
                "a right count, but one cell is missed and one box lies on nothing",
                [[True, True, False]],
                [3],
                (0.0, 0.0, 2.0),
            ),
            _counted(
                "two too many here, two too few there",
                [[True, False, False], [True]],
                [1, 3],
                (0.0, 2.0, 2.0),
            ),
            _counted("a picture without detections", [[], [True]], [4, 1], (-2.0, 2.0, 2.0)),
            _counted(
                "three pictures",
                [[True, True, False], [False, False], [True, True, True, True, True]],
                [4, 0, 6],
            ),
        ],
        "a count can be right while its boxes are wrong.",
        fresh=_fresh_counts,
        refused=("counting_table", "error_counts", "judge"),
        hints=(
            "For each picture three numbers say all: how many are true, how many are false, how "
            "many cells are annotated.",
            "Missed are the annotated cells that no true detection stands for. The count's error "
            "is false minus missed; what must be corrected is their sum.",
            "All three results are means over pictures; one lets signs cancel, the others do not. "
            "A picture may have no detection at all.",
        ),
    ),
    "06.average_precision": Exercise(
        [
            _area("one object, found at once", [0.9], [True], 1, 1.0),
            _area(
                "the five detections of this lesson",
                [0.95, 0.9, 0.8, 0.6, 0.5],
                [True, False, True, False, True],
                4,
                (1 + 2 / 3 + 3 / 5) / 4,
            ),
            _area("half of two objects found", [0.9], [True], 2, 0.5),
            _area("scores out of order", [0.2, 0.9, 0.5], [False, True, True], 2, 1.0),
            _area(
                "precision rises again: the best one further right counts",
                [0.9, 0.8, 0.7, 0.6],
                [False, True, True, True],
                3,
                0.75,
            ),
            _area("only false detections", [0.9, 0.8], [False, False], 3, 0.0),
            _area("no detections", [], [], 3, 0.0),
            _area("two hundred detections", *_many(200, seed=9)),
        ],
        "this is VOC's all-point AP, from an empty function.",
        fresh=_fresh_area,
        refused=("average_precision", "precision_recall", "coco_evaluate", "voc_evaluate"),
        hints=(
            "Recall rises by 1 / objects exactly where a detection is true: the area under the "
            "stairs is a sum over these places alone.",
            "The precision after n detections: how many of the first n are true. `cumsum` counts.",
            "Each place is credited with the best precision there or further right; `cummax` "
            "looks to the left, and `flip` turns a list round.",
        ),
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "Which boxes does non-maximum suppression remove?",
        (
            "those that overlap a better one of the same class by more than the threshold",
            "those with a score below the threshold",
            "those that overlap any other",
        ),
        "Best first, and what is left competes on.",
    ),
    Question(
        "Three detections of one cell, all with IoU over .5. How many are true positives?",
        ("one", "three", "none"),
        "The one with the highest score; the others count as false positives.",
    ),
    Question(
        "VOC 2007 and COCO differ in how they read the curve. How many recall points do they use?",
        ("11 and 101", "101 and 11", "all, and 11"),
        "All-point AP is of VOC's later kit.",
    ),
    Question(
        "May a score threshold be set before AP is computed?",
        (
            "better not: it cuts the end of the curve",
            "yes, AP does not depend on it",
            "yes, at .5 as the papers do",
        ),
        "What was cut off can no longer raise recall. SSD keeps all above .01.",
    ),
    Question(
        "A dropped box overlaps a third one heavily. Does it drop that one?",
        (
            "no: only a box that stays drops others",
            "yes, if its score is the higher of the two",
            "yes, whatever the scores",
        ),
        "As soon as the box that dropped it is gone, it may. So NMS must go strictly by score.",
    ),
]
