"""Cases for lesson 9: the first loss, a prior to choose, parameters of the shared heads, what the
ladder's lines give away, RetinaNet's loss.

The expected values come from plain Python numbers and loops, never from the library.
"""

import math
import random

import torch

from lesson_lib.course.checks import Case, Choice, Exercise, UntoldNumber
from lesson_lib.course.review import Question

#: Detectors whose lines on the ladder are shown without their names, and the bug of each; all of
#: lesson_lib.course.bugs.
CAUGHT = {
    "P": "divided by all anchors",
    "Q": "ignored as background",
    "R": "no prior",
    "S": "variances in the loss alone",
    "T": "alpha swapped",
}
#: On the list of diagnoses, too, and right for none of CAUGHT.
NOBODY = "smooth L1 that bends at 1"
#: What speaks against each wrong diagnosis of CAUGHT.
CAUGHT_REASONS = {
    "P": {
        "ignored as background": "a few anchors more can only make the loss larger.",
        "no prior": "its untrained answer is not what the known batch, whose outputs are given, "
        "looks at.",
        "variances in the loss alone": "offsets do not enter 'cls'.",
        "alpha swapped": "by how many times is it too small, and what are the two weights?",
        NOBODY: "offsets do not enter 'cls'.",
    },
    "Q": {
        "divided by all anchors": "that would make the loss many times smaller, and it is larger.",
        "no prior": "the known batch brings its outputs along, and no prior enters them.",
        "variances in the loss alone": "offsets do not enter 'cls'.",
        "alpha swapped": "nearly all answers are no: a smaller weight for them makes it smaller.",
        NOBODY: "offsets do not enter 'cls'.",
    },
    "R": {
        "divided by all anchors": "it fell before any loss was computed.",
        "ignored as background": "it fell before any loss was computed.",
        "variances in the loss alone": "it fell before any loss was computed.",
        "alpha swapped": "it fell before any loss was computed.",
        NOBODY: "it fell before any loss was computed.",
    },
    "S": {
        "divided by all anchors": "both losses would be smaller, and 'box' is larger.",
        "ignored as background": "'cls' would be wrong first, and the offsets of an anchor that is "
        "no positive are not read.",
        "no prior": "a prior moves class logits, and 'box' is wrong.",
        "alpha swapped": "alpha weighs class losses, and 'box' is wrong.",
        NOBODY: "that is the smaller of the two at every error, and this 'box' is larger.",
    },
    "T": {
        "divided by all anchors": "how many anchors are there for each positive, and by how many "
        "times is it too small?",
        "ignored as background": "a few anchors more can only make the loss larger.",
        "no prior": "the known batch brings its outputs along, and no prior enters them.",
        "variances in the loss alone": "offsets do not enter 'cls'.",
        NOBODY: "offsets do not enter 'cls'.",
    },
}
#: A detector of rare things: anchors, classes, positives of a batch, and the priors to choose from.
RARE = (200_000, 1200, 20)
PRIORS = (0.1, 0.01, 0.001, 0.0001)


def both_parts(
    pi: float, setting: tuple[int, int, int] = RARE, gamma: float = 2.0, alpha: float = 0.25
) -> tuple[float, float]:
    """Focal loss's first class loss by positives: what the background and what the objects give."""
    anchors, classes, positives = setting
    noes = anchors * classes - positives
    background = noes * (1 - alpha) * pi**gamma * -math.log1p(-pi) / positives
    return background, alpha * (1 - pi) ** gamma * -math.log(pi)


def largest_prior(setting: tuple[int, int, int]) -> float:
    """The largest of PRIORS that leaves the first word to the objects; 0 if none does."""
    parts = {pi: both_parts(pi, setting) for pi in PRIORS if setting[2]}
    return max(
        (pi for pi, (background, objects) in parts.items() if objects > background), default=0
    )


def _prior(why: str, setting: tuple[int, int, int], expected: float) -> Case:
    """setting: anchors, classes, positives; `expected` worked out in the tests."""
    reasons = {
        pi: "a larger one also leaves the larger part to the objects."
        if pi < expected
        else "with it the background gives the larger part."
        for pi in (*PRIORS, 0)
        if pi != expected
    }
    return Case(why, setting, UntoldNumber(expected, reasons))


def _first(
    why: str,
    anchors: tuple[int, int, int],
    pi: float,
    gamma: float,
    alpha: float | None,
    expected: float,
) -> Case:
    """anchors: how many, of how many classes, and how many of them are positive."""
    return Case(why, (*anchors, pi, gamma, alpha), expected)


NO_AT_1_PERCENT, NO_AT_10_PERCENT = 0.01005033585, 0.10536051566  # -log(.99), -log(.9)


def retinanet_loss_by_loops(
    logits: list, deltas: list, labels: list, targets: list, state: list
) -> tuple[float, float]:
    """RetinaNet's two losses, one anchor and class after the other;
    nested lists [picture][anchor].
    """
    cls = box = matched = 0.0
    for z, d, k, t, states in zip(logits, deltas, labels, targets, state):
        for i, anchor in enumerate(states):
            if anchor == -1:
                continue
            for c, logit in enumerate(z[i]):
                is_class = anchor == 1 and c == k[i]
                towards = logit if is_class else -logit  # p_t = sigmoid(towards)
                surprise = -towards if towards < -500 else math.log1p(math.exp(-towards))
                wrong = math.exp(-towards - surprise)  # 1 - p_t
                cls += (0.25 if is_class else 0.75) * wrong**2 * surprise  # surprise is -log(p_t)
            if anchor == 1:
                matched += 1
                errors = [abs(x - y) for x, y in zip(d[i], t[i])]
                box += sum(e * e / 0.22 if e < 0.11 else e - 0.055 for e in errors)
    return cls / max(1, matched), box / max(1, matched)


def _batch(
    why: str,
    state: list[list[int]],
    seed: int = 0,
    spread: float = 1.0,
    classes: int = 3,
    unmatched: float = 0.0,
) -> Case:
    """A random batch; `unmatched` stands in the box targets of anchors without an object."""
    rng = random.Random(seed)
    flat = [label for row in state for label in row]
    size = len(state[0])
    rows = [
        [[rng.gauss(0, spread) for _ in range(classes)] for _ in flat],
        [[rng.gauss(0, 1) for _ in range(4)] for _ in flat],
        [rng.randrange(classes) for _ in flat],
        [[rng.gauss(0, 1) if label == 1 else unmatched for _ in range(4)] for label in flat],
    ]
    nested = [[row[i : i + size] for i in range(0, len(flat), size)] for row in rows] + [state]
    return Case(why, tuple(map(torch.tensor, nested)), retinanet_loss_by_loops(*nested))


def _fresh_first(draw: random.Random) -> Case:
    anchors, classes, positives = draw.randint(50, 900), draw.randint(2, 90), draw.randint(1, 9)
    pi, gamma, alpha = draw.choice((0.3, 0.1, 0.02)), draw.choice((1.0, 2.0)), 0.25
    no = (1 - alpha) * pi**gamma * -math.log1p(-pi)
    yes = alpha * (1 - pi) ** gamma * -math.log(pi)
    total = (anchors * classes - positives) * no + positives * yes
    words = f"{anchors} anchors, {classes} classes, {positives} positives, drawn anew"
    return _first(words, (anchors, classes, positives), pi, gamma, alpha, total / positives)


def _fresh_parameters(draw: random.Random) -> Case:
    channels, boxes, classes = draw.randint(2, 40), draw.randint(1, 12), draw.randint(1, 30)
    towers = 8 * (9 * channels * channels + channels)
    ends = (9 * channels + 1) * boxes * (classes + 4)
    return Case(
        f"{channels} channels, {boxes} anchors, {classes} classes, drawn anew",
        (channels, boxes, classes),
        towers + ends,
    )


def _fresh_loss(draw: random.Random) -> Case:
    state = [[draw.choice((1, 0, 0, -1)) for _ in range(9)] for _ in range(2)]
    return _batch("a batch drawn anew", state, seed=draw.randrange(1000))


EXERCISES = {
    "09.first_loss": Exercise(
        [
            _first(
                "one anchor of background, one class, p = 0.5, cross entropy",
                (1, 1, 0),
                0.5,
                0.0,
                None,
                math.log(2),
            ),
            _first(
                "100,000 anchors, 80 classes, p = 0.5, cross entropy",
                (100_000, 80, 0),
                0.5,
                0.0,
                None,
                8e6 * math.log(2),
            ),
            _first(
                "the same with the prior 0.01",
                (100_000, 80, 0),
                0.01,
                0.0,
                None,
                8e6 * NO_AT_1_PERCENT,
            ),
            _first(
                "focal loss without the prior",
                (100_000, 80, 0),
                0.5,
                2.0,
                0.25,
                8e6 * 0.75 * 0.25 * math.log(2),
            ),
            _first(
                "focal loss with the prior",
                (100_000, 80, 0),
                0.01,
                2.0,
                0.25,
                8e6 * 0.75 * 1e-4 * NO_AT_1_PERCENT,
            ),
            _first(
                "one anchor with an object, three classes, p = 0.1, cross entropy",
                (1, 3, 1),
                0.1,
                0.0,
                None,
                math.log(10) + 2 * NO_AT_10_PERCENT,
            ),
            _first(
                "four of ten anchors with an object",
                (10, 2, 4),
                0.1,
                0.0,
                None,
                (4 * math.log(10) + 16 * NO_AT_10_PERCENT) / 4,
            ),
            _first(
                "objects under focal loss",
                (100_000, 80, 100),
                0.01,
                2.0,
                0.25,
                0.25 * 0.9801 * math.log(100) + 7_999_900 * 0.75 * 1e-4 * NO_AT_1_PERCENT / 100,
            ),
        ],
        "from five and a half million to six, and what the objects add, before a single step.",
        fresh=_fresh_first,
        hints=(
            "An anchor that holds an object gives K answers, too: to how many is the truth yes?",
            "Count the answers whose truth is yes, and those whose truth is no; all of one kind "
            "cost the same.",
            "What are p_t and alpha_t of a yes (lesson 4)? Without alpha both weights are 1.",
        ),
    ),
    "09.prior": Exercise(
        [
            _prior("rare things: 200,000 anchors, 1,200 classes, 20 positives", RARE, 0.001),
            _prior("49,104 anchors, 3 classes, 100 positives", (49_104, 3, 100), 0.01),
            _prior("1,000 anchors, 3 classes, 100 positives", (1000, 3, 100), 0.1),
            _prior("100,000 anchors, 80 classes, 8 positives", (100_000, 80, 8), 0.01),
            _prior("no positive at all", (1000, 3, 0), 0.0),
        ],
        "the more answers for each positive, the smaller the prior has to be.",
        tolerance=1e-9,
        hints=(
            "What does `first_loss` give for one anchor, one class and no positive? How many such "
            "answers are there for each positive?",
            "Take that part from the whole: what is left, the objects' part, is the larger one for "
            "which priors?",
            "Several priors leave it to the objects; the question asks for the largest of them. "
            "And without a positive?",
        ),
    ),
    "09.caught": Exercise(
        [
            Case(
                f"detector {letter}: is your diagnosis right?",
                (letter,),
                Choice(answer, CAUGHT_REASONS[letter]),
            )
            for letter, answer in CAUGHT.items()
        ],
        "five bugs told from the lines of the ladder.",
        hints=(
            "Which of the two losses is wrong, and is it too large or too small?",
            "Divide what was expected by what was got: which numbers of the batch and of the loss "
            "have that ratio?",
            "Which bug changes how many anchors count, which one what is divided by, and which "
            "one a weight? Which one touches neither loss of a known batch?",
        ),
    ),
    "09.head_parameters": Exercise(
        [
            Case("one channel, one anchor a position, one class", (1, 1, 1), 4 * 10 * 2 + 10 + 40),
            Case(
                "the paper's: 256 channels, 9 anchors a position, 80 classes",
                (256, 9, 80),
                6_463_220,
            ),
            Case("64 channels, 9 anchors, 3 classes", (64, 9, 3), 331_775),
        ],
        "five levels, and not one parameter more than for a single one.",
        fresh=_fresh_parameters,
        hints=(
            "How many convolutions are there in both heads, and do the levels matter?",
            "A 3 x 3 convolution from a to b channels has 9 a b weights and b biases.",
            "Four from `channels` to `channels` in each tower, and one at each end: to how many "
            "channels?",
        ),
    ),
    "09.retinanet_loss": Exercise(
        [
            Case(
                "one negative anchor, logit 0; its label 0 is not to be read",
                (
                    torch.zeros(1, 1, 1),
                    torch.zeros(1, 1, 4),
                    torch.zeros(1, 1).long(),
                    torch.zeros(1, 1, 4),
                    torch.zeros(1, 1).long(),
                ),
                (0.75 * 0.25 * math.log(2), 0.0),
            ),
            _batch("one positive, one negative", [[1, 0]], seed=1),
            _batch("an ignored anchor", [[1, 0, -1, -1]], seed=2),
            _batch("two positives: divided by both", [[1, 0, 1, 0]], seed=3),
            _batch("two pictures, one without an object", [[1, 1, 0, 0], [0, 0, 0, 0]], seed=4),
            _batch("no object at all: the background still teaches", [[0, 0, -1]], seed=5),
            _batch(
                "offsets of unmatched anchors are infinite",
                [[1, 0, -1]],
                seed=6,
                unmatched=-math.inf,
            ),
            _batch("logits beyond 100", [[1, 0, 1, 0]], seed=7, spread=150.0, classes=2),
        ],
        "lessons 1, 3 and 4 in one function: this is what RetinaNet is trained with.",
        fresh=_fresh_loss,
        refused=("retinanet_loss", "retinanet_criterion", "sigmoid_focal_loss"),
        hints=(
            "First the right answers, a boolean tensor (B, A, K): `F.one_hot` gives *every* anchor "
            "a yes; which of them may keep theirs?",
            "Then lesson 4's trick: turn the sign of the logit where the truth is no, and "
            "`F.logsigmoid` gives log p_t without the logarithm of a number that has become 0.",
            "Index the used rows and the positive rows; a mask times infinity is `nan`. Which "
            "anchors take no part at all, and by what is divided where nothing is positive?",
        ),
        serves="retinanet_loss",
        learns=(
            _batch("one positive, one negative", [[1, 0]], seed=1),
            {"cls_logits": 0, "box_deltas": 1},
        ),
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "What do RetinaNet's two heads share?",
        (
            "nothing with each other; each is shared by all levels",
            "all but the last layer",
            "their first two convolutions",
        ),
        "Four 3 x 3 convolutions each, apart.",
    ),
    Question(
        "How many channels has RetinaNet for the background?",
        ("none", "one", "one for each anchor"),
        "K sigmoids; background is all of them low.",
    ),
    Question(
        "First summed focal loss of 100,000 background anchors and 80 classes, with the prior?",
        ("about 6", "about 1 million", "about 80,000"),
        (
            "6.03; at p = .5 it would be 1.04 million, and plain cross entropy starts at 80,403 "
            "with the prior."
        ),
    ),
    Question(
        "At what point does the box loss of the authors' RetinaNet bend?",
        ("0.11", "1/9 by the paper", "1 by their code"),
        "Detectron sets it; the paper says only smooth L1.",
    ),
    Question(
        "With which learning rule does a normaliser by all anchors do the most harm?",
        ("SGD: its step shrinks with the gradient", "Adam", "both alike"),
        "Adam divides by the gradient's size, so a constant factor hardly matters.",
    ),
]
