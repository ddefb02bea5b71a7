"""Self-test of lesson 0.

A wrong answer is told what to look at and never the right value: there is nothing but the value to
find.
"""

from typing import Any

from lesson_lib.course.checks import Case, Exercise
from lesson_lib.course.review import Question


class Secret:
    """Right values, letters in either case, numbers within `tolerance`; another answer is told what
    to look at.

    form    what an answer looks like, said when it does not
    parts   (value, advice) for each place of the answer; one pair for an answer that is one value
    """

    def __init__(self, form: str, *parts: tuple[float | str, str], tolerance: float = 0.0) -> None:
        self.form, self.parts, self.tolerance = form, parts, tolerance

    def fault(self, got: Any) -> str:
        """What speaks against `got`, and never the right value; "" when it is right."""
        malformed = f"expected {self.form}, got {' '.join(repr(got).split())[:80]}"
        try:
            values = list(got) if len(self.parts) > 1 else [got]
            if len(values) != len(self.parts):
                return malformed
            for place, (value, (right, advice)) in enumerate(zip(values, self.parts), start=1):
                if not self._agrees(value, right):
                    where = f" place {place}" if len(values) > 1 else ""
                    return f"got {value!r}. Look at{where}: {advice}"
        except (TypeError, ValueError, RuntimeError):
            return malformed
        return ""

    def _agrees(self, value: Any, right: float | str) -> bool:
        if isinstance(right, str):
            return str(value).strip().upper() == right
        return abs(float(value) - right) <= self.tolerance


EXERCISES = {
    "00.dashed": Exercise(
        [Case("the number of dashed boxes in the first picture", (), 17)],
        "that is how a check looks when it is content.",
    ),
    "00.broadcasting": Exercise(
        [
            Case(
                "the shape of a + b",
                (),
                Secret(
                    "a tuple with one size for each dimension",
                    (3, "a missing dimension counts as 1"),
                    (5, "1 stretches to the other's size"),
                    (4, "the shapes are aligned at the right end"),
                ),
            )
        ],
        "you are ready for all-pairs code.",
    ),
    "00.convolution": Exercise(
        [
            Case(
                "positions on a side",
                (),
                Secret("one number", (10, "floor((side + 2 padding - kernel) / stride) + 1")),
            )
        ],
        "and that is SSD's third map.",
    ),
    "00.softmax_sigmoid": Exercise(
        [
            Case(
                "softmax and sigmoid at 0, then at 5",
                (),
                Secret(
                    "four numbers",
                    (0.5, "two equal logits share 1"),
                    (0.5, "1 / (1 + exp(-logit))"),
                    (0.5, "softmax sees differences only"),
                    (0.99, "1 / (1 + exp(-logit))"),
                    tolerance=0.006,
                ),
            )
        ],
        "softmax compares, sigmoid judges each alone.",
    ),
    "00.cross_entropy": Exercise(
        [
            Case(
                "the loss at 0.9, then at 0.1",
                (),
                Secret(
                    "two numbers",
                    (0.10536, "minus the natural logarithm, three decimals"),
                    (2.302585, "minus the natural logarithm, three decimals"),
                    tolerance=0.001,
                ),
            )
        ],
        "being right is nearly free, being wrong is dear.",
    ),
    "00.loss_curves": Exercise(
        [
            Case(
                "too high, by heart, not finished",
                (),
                Secret(
                    "three letters",
                    ("B", "steps that are too long overshoot"),
                    ("C", "one loss falls, the other rises"),
                    ("D", "still on its way down at the end"),
                ),
            )
        ],
        "you can read a loss curve.",
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "How many passes of a network does a one-stage detector need for a picture?",
        ("one", "one for each anchor", "two: proposals, then classes"),
        (
            "It answers for all anchors at once; proposing regions first is what two-stage "
            "detectors do."
        ),
    ),
    Question(
        "What are the two questions that a detector answers for every anchor?",
        (
            "what is in it, and how it must be moved and stretched",
            "whether it overlaps another anchor, and by how much",
            "how large the picture is, and where its centre lies",
        ),
        "Scores for the classes, four numbers for the box.",
    ),
    Question(
        "Of 8,732 default boxes over a smear with about 14 cells, how many are background?",
        ("about 99 in 100", "about half", "about 9 in 10"),
        "Some 88 answer for a cell. This imbalance is what lessons 4 and 5 are about.",
    ),
    Question(
        "You ask for a score of 0.9 instead of 0.5. What happens to the count?",
        (
            "fewer boxes that fit no dashed one, and true cells are lost",
            "fewer boxes that fit no dashed one, and no true cell is lost",
            "more boxes of both kinds",
        ),
        "No score makes both errors zero. Lesson 6 turns all scores into one number.",
    ),
    Question(
        "What does dropping doubles do?",
        (
            "of several boxes on each other it keeps the best",
            "of several boxes on each other it makes their mean",
            "it keeps the best box of the picture for each class",
        ),
        "It is non-maximum suppression; many anchors find the same cell.",
    ),
]
