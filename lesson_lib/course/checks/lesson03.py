"""Cases for lesson 3: RetinaNet's labels, the smallest object, best pairs first, SSD's whole rule.

Small enough to work out by hand; what is expected was written down from the overlaps, not by any
matching code.
"""

import random

import torch
from torch import Tensor

from lesson_lib.course.checks import Case, Choice, Exercise
from lesson_lib.course.review import Question
from lesson_lib.matching import match_retinanet, match_ssd

# Four anchors of 10 x 10 px side by side; overlaps of [x1, 0, x2, h] with them are easy fractions.
STRIP = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10], [30, 0, 40, 10]])


def _labels(
    why: str,
    overlaps: list[list[float]],
    expected: list[int],
    positive: float = 0.5,
    negative: float = 0.4,
    force_best: bool = False,
) -> Case:
    table = torch.tensor(overlaps).reshape(-1, len(expected))
    return Case(
        why, (table, positive, negative, force_best), torch.tensor(expected, dtype=torch.int64)
    )


def _matched(
    why: str,
    objects: list[list[float]],
    threshold: float,
    expected: list[int],
    anchors: Tensor = STRIP,
) -> Case:
    return Case(
        why,
        (torch.tensor(objects).reshape(-1, 4), anchors, threshold),
        torch.tensor(expected, dtype=torch.int64),
    )


GRID = torch.tensor([[12.0 + 8 * c, 12.0 + 8 * r] for r in range(3) for c in range(5)])
TOY = torch.cat([GRID - 12, GRID + 12], 1)  # the lesson's fifteen anchors of 24 px
#: A and B want anchor 7, and A alone reaches 0.7 with it; C's best, anchor 4, is nobody else's.
THREE = torch.tensor([[17.0, 9, 41.5, 31], [23, 14.3, 38.5, 26], [42.5, 2.5, 55, 15]])
BUGS = {"P": "last claim wins", "Q": "RetinaNet, forced", "R": "best pairs first"}


def rule_of(name: str) -> Tensor:
    """The gt_index (15,) that the rule of this name gives for THREE at the threshold 0.7."""
    if name == "RetinaNet, forced":
        return match_retinanet(THREE, TOY, positive=0.7).gt_index
    best = {"nothing is forced": "none", "best pairs first": "bipartite"}
    return match_ssd(THREE, TOY, threshold=0.7, best=best.get(name, "overwrite")).gt_index


def bug_tables() -> dict[str, list[list[int]]]:
    """{"P": [anchors of A, of B, of C], ...}: what three programs made of the same objects."""
    tables = {}
    for letter, rule in BUGS.items():
        index = rule_of(rule)
        tables[letter] = [(index == g).nonzero().flatten().tolist() for g in range(len(THREE))]
    return tables


#: Why a wrong diagnosis cannot be, for each program; read off the tables that the lesson prints.
BUG_REASONS = {
    "P": {
        "best pairs first": "that rule leaves out no object while one of its anchors is free, "
        "and here A has none.",
        "nothing is forced": "then only an overlap of 0.7 counts, and neither B nor C has one.",
        "RetinaNet, forced": "there an anchor answers for the object that it overlaps most; "
        "anchor 7 overlaps A most, yet B has it.",
    },
    "Q": {
        "best pairs first": "that rule leaves out no object while one of its anchors is free, "
        "and here B has none.",
        "last claim wins": "A and B want anchor 7 and B stands later in the list, yet A has it.",
        "nothing is forced": "no anchor reaches 0.7 with C, and C has one.",
    },
    "R": {
        "last claim wins": "A and B want anchor 7 and B stands later in the list, yet A has it.",
        "nothing is forced": "no anchor reaches 0.7 with B or C, and both have one.",
        "RetinaNet, forced": "anchor 8 is no object's best and reaches 0.7 with none, yet B has "
        "it.",
    },
}


def _overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (area - shared) if shared else 0.0


def _fresh_match(draw: random.Random) -> Case:
    """Two objects on the strip, drawn anew; what is expected is worked out pair by pair."""
    boxes = [[x, 0, x + draw.uniform(6, 18), draw.uniform(6, 10)] for x in (draw.uniform(0, 8), 17)]
    table = [[_overlap(box, anchor) for anchor in STRIP.tolist()] for box in boxes]
    owner = [max(range(2), key=lambda g: table[g][a]) for a in range(4)]
    expected = [g if table[g][a] >= 0.5 else -1 for a, g in enumerate(owner)]
    pairs = sorted(((table[g][a], -a, -g) for g in range(2) for a in range(4)), reverse=True)
    done: set[tuple[str, int]] = set()
    for overlap, a, g in pairs:
        if overlap > 1e-6 and not done & {("g", g), ("a", a)}:
            expected[-a] = -g
            done |= {("g", g), ("a", a)}
    return _matched("two objects drawn anew", boxes, 0.5, expected)


EXERCISES = {
    "03.labels": Exercise(
        [
            _labels("one anchor of each kind", [[0.8, 0.45, 0.1]], [1, -1, 0]),
            _labels("exactly at the upper threshold", [[0.5]], [1]),
            _labels("exactly at the lower threshold", [[0.25]], [-1], negative=0.25),
            _labels(
                "two objects: the one that an anchor overlaps most decides",
                [[0.1, 0.45, 0.3], [0.6, 0.2, 0.1]],
                [1, -1, 0],
            ),
            _labels(
                "other thresholds than 0.5 and 0.4",
                [[0.8, 0.65, 0.45, 0.1]],
                [1, -1, -1, 0],
                positive=0.7,
                negative=0.3,
            ),
            _labels(
                "two equal thresholds: nothing is ignored",
                [[0.49, 0.5, 0.51]],
                [0, 1, 1],
                negative=0.5,
            ),
            _labels(
                "nothing is forced: an object may be left without",
                [[0.8, 0.1, 0.0], [0.0, 0.2, 0.3]],
                [1, 0, 0],
            ),
            _labels(
                "best forced: the second object's best anchor, too",
                [[0.8, 0.1, 0.0], [0.0, 0.2, 0.3]],
                [1, 0, 1],
                force_best=True,
            ),
            _labels(
                "best forced: two anchors tie for an object's best",
                [[0.25, 0.25, 0.125]],
                [1, 1, 0],
                force_best=True,
            ),
            _labels(
                "best forced: an anchor that would be ignored",
                [[0.45, 0.42]],
                [1, -1],
                force_best=True,
            ),
            _labels(
                "best forced: an object that overlaps nothing forces nothing",
                [[0.0, 0.0], [0.6, 0.1]],
                [1, 0],
                force_best=True,
            ),
            _labels(
                "best forced: an anchor that another object overlaps more is forced all the same",
                [[0.45, 0.6], [0.3, 0.1]],
                [1, 1],
                force_best=True,
            ),
            _labels("no object: every anchor is background", [], [0, 0, 0], force_best=True),
        ],
        "and that is RetinaNet's rule, with its forced matches.",
        refused=("match_retinanet", "match_ssd"),
        hints=(
            "Two best overlaps are asked for: each anchor's, over the objects, and each object's, "
            "over the anchors.",
            "Three cases, two thresholds, and the thresholds themselves: one belongs to the "
            "positives, one to the ignored. Then force, over whatever they said.",
            "One `torch.where` inside another: it takes a tensor as its last argument, too. "
            "Without objects there is no maximum: that comes first.",
        ),
    ),
    "03.input_side": Exercise(
        [  # what is needed: 724.08; exactly 320; 4525.5; 475.2 px
            Case(
                "an object of 20 px in a picture of 640 px, anchors of 32 px, threshold 0.5",
                (20.0, 640, 32, 0.5, [512, 640, 768, 1024]),
                768,
            ),
            Case(
                "an object of 32 px in a picture of 640 px, threshold 0.25: 320 px just suffice",
                (32.0, 640, 32, 0.25, [256, 320, 512]),
                320,
            ),
            Case(
                "the inputs in another order",
                (20.0, 640, 32, 0.5, [1024, 512, 768, 640]),
                768,
            ),
            Case(
                "an object of 10 px in a photograph of 2000 px: no input will do",
                (10.0, 2000, 32, 0.5, [512, 1024, 2048]),
                0,
            ),
            Case(
                "anchors of 21 px, as in torchvision's SSD300",
                (20.0, 640, 21, 0.5, [300, 512, 640]),
                512,
            ),
            Case(  # 22.0, 22.5, 22.75 and 23.0 px there; 22.63 are needed
                "inputs that differ little: nothing is rounded on the way",
                (20.0, 640, 32, 0.5, [704, 720, 728, 736]),
                728,
            ),
            Case(
                "an object that is larger than the smallest anchor: the larger ones take it",
                (200.0, 640, 32, 0.5, [320, 512]),
                320,
            ),
        ],
        "you can now choose an input before you train.",
        hints=(
            "Work in pixels of the network's input: how large is the object there?",
            "How large must it be there? Section 3.7 has the argument, for one anchor and one "
            "threshold.",
            "Each input gives the object one size there. Keep the inputs at which it is large "
            "enough; what if none is left?",
        ),
    ),
    "03.bugs": Exercise(
        [
            Case(
                f"program {letter}: is your diagnosis right?",
                (letter,),
                Choice(answer, BUG_REASONS[letter]),
            )
            for letter, answer in BUGS.items()
        ],
        "three programs, told apart by their tables alone.",
        hints=(
            "Find the rows in which an object has no anchor, and ask which rule can leave it so.",
            "B and C reach 0.7 with no anchor. Whoever gives one of them an anchor forces "
            "something.",
            "A and B want anchor 7. Who has it, and does the other have another one?",
        ),
    ),
    "03.match": Exercise(
        [
            _matched(
                "one object that is one of the anchors", [[10, 0, 20, 10]], 0.5, [-1, 0, -1, -1]
            ),
            _matched("no object: every anchor is background", [], 0.5, [-1, -1, -1, -1]),
            _matched(
                "a small object, overlap 0.2: it gets its best anchor all the same",
                [[0, 0, 10, 2]],
                0.5,
                [0, -1, -1, -1],
            ),
            _matched(
                "an object that reaches the threshold with two anchors",
                [[0, 0, 20, 10]],
                0.4,
                [0, 0, -1, -1],
            ),
            _matched(
                "exactly at the threshold: 0.5 counts",
                [[0, 0, 20, 10], [20, 0, 30, 5]],
                0.5,
                [0, 0, 1, -1],
            ),
            # With anchor 0 the first has 8/10, the second 2/10.2; the second's next is anchor 1:
            # .4/12
            _matched(
                "two objects want anchor 0: the weaker one takes its next",
                [[0, 0, 10, 8], [0, 0, 12, 2]],
                0.5,
                [0, 1, -1, -1],
            ),
            _matched(
                "the same two in the other order",
                [[0, 0, 12, 2], [0, 0, 10, 8]],
                0.5,
                [1, 0, -1, -1],
            ),
            _matched(
                "an object beside all anchors: it overlaps none and gets none",
                [[60, 0, 70, 10], [10, 0, 20, 10]],
                0.5,
                [-1, 1, -1, -1],
            ),
            _matched(
                "an object without area gets none",
                [[0, 0, 0, 0]],
                0.5,
                [-1, -1, -1, -1],
            ),
            # Anchor 1 has 80/200 with the first object and 70/200 with the second; 0 and 2 are
            # their best ones
            _matched(
                (
                    "an anchor over the threshold for two objects goes to the one that overlaps "
                    "it more"
                ),
                [[0, 0, 18, 10], [13, 0, 30, 10]],
                0.3,
                [0, 0, 1, -1],
            ),
            # Anchor 1 has 80/200 with the first object, over the threshold, and 20/100 with the
            # second, whose best it is
            _matched(
                (
                    "an anchor that is one object's best and over the threshold for another stays"
                    " with the first"
                ),
                [[12, 0, 16, 5], [0, 0, 18, 10]],
                0.3,
                [1, 0, -1, -1],
            ),
            # .95 and .32 with the two anchors, .77 and .34, .22 and .675. Served in the order of
            # their own best overlaps, the second would take anchor 1 from the third.
            _matched(
                "three objects: after each pair, look for the best pair of all that are left",
                [[0, 0, 20, 19], [1, 0, 21, 17], [12, 0, 30, 15]],
                0.99,
                [0, 2],
                torch.tensor([[0.0, 0, 20, 20], [10, 0, 30, 20]]),
            ),
            _matched(
                "an overlap of 0.00001 is small, and still one",
                [[0, 0, 10, 0.0001]],
                0.5,
                [0, -1, -1, -1],
            ),
            # 10 x .000005 of the anchor's 100 square pixels: an overlap of .0000005
            _matched(
                "an overlap of at most 0.000001 is none",
                [[0, 0, 10, 0.000005]],
                0.5,
                [-1, -1, -1, -1],
            ),
            _matched(
                "two anchors fit it equally well: the lower one is its best",
                [[0, 0, 20, 10]],
                0.9,
                [0, -1, -1, -1],
            ),
            # .53 and .37 with anchors 0 and 1; .5 and 0: the largest sum would cross them over
            _matched(
                "the best pair stands, even if the other object then gets none",
                [[1, 0, 17, 10], [0, 0, 10, 5]],
                0.9,
                [0, -1, -1, -1],
            ),
            _matched(
                "threshold 0.8: only the best anchor is left",
                [[0, 0, 14, 10]],
                0.8,
                [0, -1, -1, -1],
            ),
        ],
        "this is SSD's matching: only an object whose every anchor is taken goes without.",
        fresh=_fresh_match,
        refused=("match_ssd", "match_retinanet", "match_index"),
        hints=(
            "Do the two steps one after the other; which of them must have the last word?",
            "Step 2 first: the maximum over the objects gives each anchor its best overlap and "
            "whose it is. Without objects there is no maximum.",
            "Then step 1 over it: look for the largest overlap left, note its object and anchor, "
            "and take both out of the table before you look again.",
        ),
        serves="match_index",
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "By SSD's rule, which default boxes are matched to an object?",
        (
            "its best one, and all that overlap it by .5 or more",
            "its best one alone",
            "all that overlap it by .5 or more, and no other",
        ),
        "The first step saves objects that no box fits, the second makes most of the positives.",
    ),
    Question(
        "An anchor overlaps its best object by .45. What does RetinaNet teach it?",
        ("nothing: it is ignored", "background", "the object"),
        "From .4 to .5 it takes no part in the loss.",
    ),
    Question(
        "What is compared when anchors are matched?",
        (
            "objects with anchors",
            "objects with what the network predicts",
            "anchors with each other",
        ),
        "Matching is done before the network has said anything.",
    ),
    Question(
        (
            "The smallest anchor is a square of 32 px. From which side on does a square object "
            "reach .5 with it at best?"
        ),
        ("22.6 px", "16 px", "32 px"),
        "sqrt(.5 x 32 x 32): the object inside the anchor must fill half of it.",
    ),
    Question(
        "Two objects want the same best anchor. What does greedy bipartite matching do?",
        (
            "the larger overlap gets it, the other takes its next best",
            "the last object gets it",
            "both share it",
        ),
        "The best pair of all goes first. Writing by index lets the last one win silently.",
    ),
]
