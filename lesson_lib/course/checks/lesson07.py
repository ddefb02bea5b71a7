"""Cases for lesson 7: receptive fields, ports that went wrong, plans of anchors, L2Norm, the
top-down path.

The expected values are counted or added up here in plain Python, with pixels as sets and maps as
lists.
"""

import math
import random

import torch

from lesson_lib.course.checks import Case, Choice, Exercise
from lesson_lib.course.review import Question

Map = list[list[list[float]]]  # [channel][row][column]

_STAGE = [(3, 1, 1)] * 3
_TO_CONV4_3 = [(3, 1, 1), (3, 1, 1), (2, 2, 1)] * 2 + _STAGE + [(2, 2, 1)] + _STAGE
_TO_FC7 = [*_TO_CONV4_3, (2, 2, 1), *_STAGE, (3, 1, 1), (3, 1, 6), (1, 1, 1)]

#: Four ports of SSD300's backbone and what is wrong with each.
PORTS = {
    "K": "pooling rounds down",
    "L": "fc6 has no holes",
    "M": "the last two maps are padded",
    "N": "pool5 halves",
}
#: What the rows on C3, C4 and C5 of the trained SSD see in effect, and how far they stand apart.
SEEN, STRIDES = (42, 90, 178), (8, 16, 32)
#: Four plans of anchors for these maps: (side in px of the square, the most elongated ratio).
PLANS = {
    "F": ((24, 1), (48, 1), (80, 1)),
    "G": ((36, 1), (72, 1), (150, 1)),
    "H": ((30, 1), (55, 3), (120, 1)),
    "I": ((20, 1), (53, 1), (86, 1)),
}


def _judged(plan: tuple[tuple[int, int], ...]) -> list[tuple[str, bool, str]]:
    """(map and fault, whether the map has it, what speaks for or against it) for all six: whether
    each anchor is seen whole, and reaches IoU 0.5 with an object of its shape that lies half a
    stride off both ways.
    """
    found = []
    for name, (side, ratio), seen, stride in zip(("C3", "C4", "C5"), plan, SEEN, STRIDES):
        width, height = side * math.sqrt(ratio), side / math.sqrt(ratio)
        shared = (width - stride / 2) * (height - stride / 2)
        iou = shared / (2 * side**2 - shared)
        whole = f"its longest side is {width:.0f} px, and {name}'s rows see {seen} px."
        near = f"half a stride off both ways, IoU on {name} is {iou:.2f}."
        found += [(f"{name} seen in part", width > seen, whole)]
        found += [(f"{name} too far apart", iou < 0.5, near)]
    return found


def _verdict_on(plan: tuple[tuple[int, int], ...]) -> str:
    """The finest map at fault and its fault, or "right"."""
    return next((words for words, holds, _ in _judged(plan) if holds), "right")


MAPS = {letter: _verdict_on(plan) for letter, plan in PLANS.items()}

#: What speaks against each wrong answer of PORTS.
_COUNTS = "all six maps have the right number of positions."
PORT_REASONS = {
    "K": {
        "pool5 halves": "the first map is off already, long before pool5.",
        "fc6 has no holes": "holes change what is seen, not the positions, and fc7 sees 420 px.",
        "fc6 keeps holes of 3": "holes change what is seen, and fc7 sees 420 px.",
        "the last two maps are padded": "they have 3 positions and 1, as they should.",
    },
    "L": {
        "pooling rounds down": _COUNTS,
        "pool5 halves": _COUNTS,
        "fc6 keeps holes of 3": "fc7 would see more than 260 px: count it.",
        "the last two maps are padded": _COUNTS,
    },
    "M": {
        "pooling rounds down": "the maps of the poolings have 38 and 19 positions.",
        "pool5 halves": "fc7's map has its 19 positions.",
        "fc6 has no holes": "fc7 sees 420 px, as it should.",
        "fc6 keeps holes of 3": "fc7 sees 420 px, as it should.",
    },
    "N": {
        "pooling rounds down": "the first map has 38 positions.",
        "fc6 has no holes": "fc7 would see less than 420 px, and it sees more.",
        "fc6 keeps holes of 3": "fc7 would see less than 420 px, and it sees more.",
        "the last two maps are padded": "padding leaves a map its size, and each map is smaller "
        "than the one before.",
    },
}
_NOT_ALL = {
    "seen in part": "compare each anchor's longest side with what its rows see.",
    "too far apart": "an object can lie where the nearest anchor of its size shares too little "
    "with it: work out each map's worst case.",
}


def _map_reasons(plan: tuple[tuple[int, int], ...]) -> dict[str, str]:
    """What speaks against each wrong verdict on a plan."""
    verdict = _verdict_on(plan)
    also = "it holds, but a finer map has the same fault: name that one."
    reasons = {words: also if holds else said for words, holds, said in _judged(plan)}
    if verdict != "right":
        reasons["right"] = _NOT_ALL[verdict[3:]]
        del reasons[verdict]
    return reasons


def port_logs() -> dict[str, tuple[list[int], int]]:
    """For each port: positions a side of its maps at 300 px, and px that a position of fc7 sees."""
    logs = {}
    for letter, bug in PORTS.items():
        down, halves = bug == "pooling rounds down", bug == "pool5 halves"
        side = 300
        for _ in range(3):
            side = side // 2 if down else -(-side // 2)
        sides = [side, side // 2 if down else -(-side // 2)]
        if halves:
            sides[1] = -(-sides[1] // 2)
        paddings = (1, 1, 1, 1) if bug == "the last two maps are padded" else (1, 1, 0, 0)
        for stride, padding in zip((2, 2, 1, 1), paddings):
            if sides[-1] + 2 * padding >= 3:
                sides.append((sides[-1] + 2 * padding - 3) // stride + 1)
        pool5 = (2, 2, 1) if halves else (3, 1, 1)
        holes = 1 if bug == "fc6 has no holes" else 6
        layers = [*_TO_CONV4_3, (2, 2, 1), *_STAGE, pool5, (3, 1, holes), (1, 1, 1)]
        logs[letter] = sides, _seen(layers)[0]
    return logs


def _seen(layers: list[tuple[int, int, int]]) -> tuple[int, int]:
    """(field, stride) by following one position, and its neighbour, back to all the pixels that
    reach them.
    """
    ends = []
    for cell in (0, 1):
        reached = {cell}
        for kernel, stride, dilation in reversed(layers):
            reached = {
                place * stride + tap * dilation for place in reached for tap in range(kernel)
            }
        ends.append((min(reached), max(reached)))
    return ends[0][1] - ends[0][0] + 1, ends[1][0] - ends[0][0]


def _field(
    why: str, layers: list[tuple[int, int, int]], expected: tuple[int, int] | None = None
) -> Case:
    return Case(why, (layers,), expected or _seen(layers))


def _normed(x: Map, scale: list[float]) -> Map:
    rows, columns = len(x[0]), len(x[0][0])
    length = [
        [math.sqrt(sum(c[i][j] ** 2 for c in x)) or 1.0 for j in range(columns)]
        for i in range(rows)
    ]
    return [
        [[c[i][j] / length[i][j] * s for j in range(columns)] for i in range(rows)]
        for c, s in zip(x, scale)
    ]


def _norm_case(why: str, x: Map, scale: list[float], expected: Map | None = None) -> Case:
    return Case(
        why, (torch.tensor([x]), torch.tensor(scale)), torch.tensor([expected or _normed(x, scale)])
    )


def _two_pictures(why: str, first: Case, second: Case) -> Case:
    """Two cases with the same last argument as one batch of two pictures."""

    def join(a, b):
        return (
            torch.cat([a, b])
            if isinstance(a, torch.Tensor)
            else [torch.cat(pair) for pair in zip(a, b)]
        )

    return Case(
        why,
        (join(first.args[0], second.args[0]), first.args[1]),
        join(first.expected, second.expected),
    )


def _random_map(channels: int, rows: int, columns: int, seed: int) -> Map:
    rng = random.Random(seed)
    return [
        [[rng.uniform(-1, 1) for _ in range(columns)] for _ in range(rows)] for _ in range(channels)
    ]


def _merged(maps: list[Map], weights: list[list[list[float]]]) -> list[Map]:
    """From the coarsest map down: weights[l][d][c] mixes channels, the map above is copied into the
    positions it covers.
    """
    above, result = None, []
    for x, mix in zip(reversed(maps), reversed(weights)):
        rows, columns = len(x[0]), len(x[0][0])
        here = [
            [
                [
                    sum(m * c[i][j] for m, c in zip(row, x))
                    + (
                        0.0
                        if above is None
                        else above[d][i * len(above[d]) // rows][j * len(above[d][0]) // columns]
                    )
                    for j in range(columns)
                ]
                for i in range(rows)
            ]
            for d, row in enumerate(mix)
        ]
        above = here
        result.insert(0, here)
    return result


def _pyramid(why: str, maps: list[Map], weights: list[list[list[float]]]) -> Case:
    return Case(
        why,
        ([torch.tensor([x]) for x in maps], [torch.tensor(w) for w in weights]),
        [torch.tensor([x]) for x in _merged(maps, weights)],
    )


def _random_pyramid(
    why: str, sizes: list[tuple[int, int]], channels: list[int], width: int, seed: int
) -> Case:
    maps = [_random_map(c, *size, seed + i) for i, (c, size) in enumerate(zip(channels, sizes))]
    weights = [_random_map(1, width, c, seed + 10 + i)[0] for i, c in enumerate(channels)]
    return _pyramid(why, maps, weights)


def _two_maps(seed: int) -> Case:
    """Maps by `seed`, mixed by weights that are always the same."""
    maps = [_random_map(2, 2, 4, seed), _random_map(3, 1, 2, seed + 1)]
    return _pyramid("", maps, [_random_map(1, 2, c, c)[0] for c in (2, 3)])


def _fresh_field(draw: random.Random) -> Case:
    layers = [
        (draw.choice((1, 3, 5)), draw.choice((1, 1, 2)), draw.choice((1, 1, 2))) for _ in range(4)
    ]
    return _field(f"layers drawn anew, {layers}", layers)


def _fresh_norm(draw: random.Random) -> Case:
    seed = draw.randrange(1000)
    return _norm_case("a map drawn anew", _random_map(3, 2, 3, seed), [1.0, 20.0, 3.0])


def _fresh_pyramid(draw: random.Random) -> Case:
    rows, columns = draw.randint(3, 7), draw.randint(3, 7)
    sizes = [(rows, columns), (-(-rows // 2), -(-columns // 2))]
    return _random_pyramid(
        f"maps drawn anew, {sizes[0]} and {sizes[1]}", sizes, [2, 3], 2, draw.randrange(1000)
    )


EXERCISES = {
    "07.receptive_field": Exercise(
        [
            _field("one 3 x 3 convolution", [(3, 1, 1)], (3, 1)),
            _field("two of them", [(3, 1, 1), (3, 1, 1)], (5, 1)),
            _field("stride 2 first, then 3 x 3", [(3, 2, 1), (3, 1, 1)], (7, 2)),
            _field("3 x 3 first, then stride 2", [(3, 1, 1), (3, 2, 1)], (5, 2)),
            _field("a 1 x 1 convolution adds nothing", [(3, 2, 1), (1, 1, 1)], (3, 2)),
            _field("dilation 6 reaches further", [(3, 1, 6)], (13, 1)),
            _field("stride and holes in one layer", [(3, 2, 2), (3, 1, 1)], (9, 2)),
            _field("no layer at all: the pixel itself", [], (1, 1)),
            _field("VGG16 to conv4_3", _TO_CONV4_3, (92, 8)),
            _field("SSD's VGG16 to fc7, with pool5 and holes", _TO_FC7, (420, 16)),
        ],
        "what a position can see, and how far its neighbour stands.",
        fresh=_fresh_field,
        refused=("receptive_field",),
        hints=(
            "In the picture with the dots: how many pixels does a position of conv1_2 see, and why "
            "two more than one of conv1_1? What changes behind pool1?",
            "A kernel of k taps reaches k - 1 steps further. How long is such a step, in pixels, "
            "and what does dilation do to it?",
            "Keep two numbers through the loop: what is seen, and how far neighbours stand. The "
            "layer's own stride may only count for the layers after it.",
        ),
        serves="receptive_field",
    ),
    "07.ports": Exercise(
        [
            Case(
                f"port {letter}: is your diagnosis right?",
                (letter,),
                Choice(answer, PORT_REASONS[letter]),
            )
            for letter, answer in PORTS.items()
        ],
        "four ports, told apart by six numbers and a field.",
        hints=(
            "SSD300's maps have 38, 19, 10, 5, 3 and 1 positions, and fc7 sees 420 px. Where does "
            "each log leave this road?",
            "If the sizes are right, the mistake changes no size: only what is seen.",
            "75 / 2, once rounded up and once down; 19 halved once more; 5 - 2 against 5.",
        ),
    ),
    "07.maps": Exercise(
        [
            Case(
                f"plan {letter}: is your verdict right?",
                (letter,),
                Choice(answer, _map_reasons(PLANS[letter])),
            )
            for letter, answer in MAPS.items()
        ],
        "an anchor has a largest size on its map, and a smallest.",
        hints=(
            "Two tests for each anchor: its longest side against what the rows of its map see, and "
            "its overlap with an object that lies half a stride off, both ways.",
            "Of a square of side s that is moved by d both ways, (s - d) squared is still shared. "
            "What do both cover together?",
            "At equal area, 3 : 1 makes a box longer by the root of 3.",
        ),
    ),
    "07.l2norm": Exercise(
        [
            _norm_case(
                "one position with the values 3 and 4",
                [[[3.0]], [[4.0]]],
                [1.0, 1.0],
                [[[0.6]], [[0.8]]],
            ),
            _norm_case("the learned scale", [[[3.0]], [[4.0]]], [20.0, 10.0], [[[12.0]], [[8.0]]]),
            _norm_case(
                "two positions: each has its own length",
                [[[3.0, 0.0]], [[4.0, 5.0]]],
                [1.0, 1.0],
                [[[0.6, 0.0]], [[0.8, 1.0]]],
            ),
            _norm_case(
                "a position of zeros stays zero",
                [[[0.0, 2.0]], [[0.0, 0.0]]],
                [20.0, 20.0],
                [[[0.0, 20.0]], [[0.0, 0.0]]],
            ),
            _norm_case(
                "a position of length 0.0005 gets length 1 like any other",
                [[[3e-4]], [[4e-4]]],
                [1.0, 1.0],
                [[[0.6]], [[0.8]]],
            ),
            _norm_case(
                "six channels, 4 x 3 cells",
                _random_map(6, 4, 3, seed=1),
                [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            ),
            _two_pictures(
                "two pictures: each position of each has its own length",
                *(_norm_case("", _random_map(2, 2, 2, seed), [1.0, 2.0]) for seed in (2, 3)),
            ),
        ],
        "every position speaks with the same loudness.",
        fresh=_fresh_norm,
        refused=("l2norm", "forward"),
        learns=(
            _norm_case("a map of 3 channels", _random_map(3, 2, 2, seed=4), [1.0, 2.0, 3.0]),
            {"x": 0, "scale": 1},
        ),
        hints=(
            "Along which of the four dimensions does a position's vector run?",
            "Reduce that one and keep a 1 in its place, so that the division lines up. A position "
            "of zeros would be 0 / 0: what must its length at least be?",
            "`scale` has one dimension and must meet C of (B, C, H, W): give it two more behind.",
        ),
        serves="l2norm",
    ),
    "07.top_down": Exercise(
        [
            _pyramid("one map only: mixed, nothing to add", [[[[1.0, 2.0]]]], [[[3.0]]]),
            _pyramid(
                "two maps, one channel",
                [[[[1.0, 2.0], [3.0, 4.0]]], [[[10.0]]]],
                [[[1.0]], [[1.0]]],
            ),
            _pyramid(
                "a coarse map of 1 x 2 above one of 2 x 4: each value is copied, none is averaged",
                [[[[0.0] * 4] * 2], [[[1.0, 5.0]]]],
                [[[1.0]], [[1.0]]],
            ),
            _random_pyramid(
                "two channels from three: the 1 x 1 convolution mixes them",
                [(2, 2), (1, 1)],
                [3, 3],
                2,
                3,
            ),
            _random_pyramid(
                "three maps: the middle one passes on what it was given",
                [(4, 4), (2, 2), (1, 1)],
                [2, 3, 4],
                2,
                5,
            ),
            _random_pyramid(
                "5 rows, then 3, then 2, as odd pictures give",
                [(5, 7), (3, 4), (2, 2)],
                [2, 2, 3],
                3,
                7,
            ),
            _two_pictures("two pictures", _two_maps(11), _two_maps(13)),
        ],
        "P5 to P3, from an empty function.",
        fresh=_fresh_pyramid,
        refused=("top_down", "enlarge", "forward"),
        hints=(
            "Which of the maps has nothing above it? Begin there.",
            "A matrix (D, C) at every position is a 1 x 1 convolution: `F.conv2d` wants it with "
            "two more dimensions.",
            "`F.interpolate` can be told a `size` as well as a factor, and its mode decides "
            "whether a value is copied or averaged. What goes up to the next map is the sum.",
        ),
        serves="top_down",
    ),
}

#: Asked again in later lessons by `course.review`; the right answer stands first.
REVIEW = [
    Question(
        "Why does a deeper map see more of the picture?",
        (
            "each layer adds to its receptive field, at the stride it has by then",
            "it has more channels",
            "its weights are larger",
        ),
        "Kernel minus one, times the stride so far, layer by layer.",
    ),
    Question(
        "What does FPN's top-down path bring to a fine map?",
        ("what the coarse maps know of the whole", "a larger resolution", "more anchors"),
        "A 1 x 1 lateral, plus the map above copied larger, then a 3 x 3 convolution.",
    ),
    Question(
        "From what is P6 made in the paper?",
        (
            "C5, by a 3 x 3 convolution of stride 2",
            "P5, by pooling",
            "P5, by a 3 x 3 convolution of stride 2",
        ),
        "torchvision takes P5 unless asked otherwise.",
    ),
    Question(
        "Why is conv4_3 L2-normalised in SSD?",
        (
            "its values are of another size than those of the deeper maps",
            "to save memory",
            "its boxes are the smallest",
        ),
        "Each position is scaled to length 1 and then by a learned factor, 20 at first.",
    ),
    Question(
        "How many positions has SSD300's first map, and why not 37 x 37?",
        ("38 x 38: pool3 rounds 75 up", "38 x 38: it is padded by one", "37 x 37 is right"),
        "75 / 2 is rounded up in the release; ports that round down have other boxes.",
    ),
]
