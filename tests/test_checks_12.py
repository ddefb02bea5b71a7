"""Lesson 12's exercises, and its museum: each exhibit has the bug that its label says, and shows
it.
"""

import math
import statistics

import torch
from answers import exercise_tests

from lesson_lib.boxes import pairwise_iou
from lesson_lib.course import museum
from lesson_lib.course.checks import DONE, TODO, verdict
from lesson_lib.course.checks.lesson12 import EXERCISES, LETTERS, SIGNS, _questions
from lesson_lib.course.paired import held as library
from lesson_lib.course.paired import student, unpaired_t
from lesson_lib.data.smears import Smears
from lesson_lib.detectors.criterion import Outputs
from lesson_lib.detectors.inference import ssd_detections


def t_of(a, b, variance=statistics.variance, sizes=None, mean=statistics.fmean):
    n, m = sizes or (len(a), len(b))
    spread = variance(a) / n + variance(b) / m
    return (mean(b) - mean(a)) / math.sqrt(spread)


def word(t, bound):
    return "holds" if t > bound else "is turned round" if t < -bound else "cannot be said"


def held(a, b, bound):
    return word(t_of(a, b), bound)


def paired_t(a, b):
    d = [y - x for x, y in zip(a, b)]
    return statistics.fmean(d) / (statistics.stdev(d) or 1e-9) * math.sqrt(len(d))


def pooled_t(a, b):
    n, m = len(a), len(b)
    both = (n - 1) * statistics.variance(a) + (m - 1) * statistics.variance(b)
    spread = both / (n + m - 2) * (1 / n + 1 / m)
    return (statistics.fmean(b) - statistics.fmean(a)) / math.sqrt(spread)


def how_many(by_seed, most=20, t=student, stdev=statistics.stdev, root=math.sqrt):
    n, questions = len(by_seed), 0
    error = stdev(by_seed) / root(n)
    for asked in range(1, most + 1):
        if abs(statistics.fmean(by_seed)) > t(1 - 0.05 / asked, n - 1) * error:
            questions = asked
    return questions


def quantile(p):
    return statistics.NormalDist().inv_cdf(p)


def seeds_needed(gain, noise, sure, bound=0.975, sides=2, least=2, whole=math.ceil):
    return max(least, whole(sides * ((quantile(bound) + quantile(sure)) * noise / gain) ** 2))


def boxes_follow(augment, shape=(3, 40, 64), box=(8, 6, 36, 18), share=0.75, slack=0.5, calls=20):
    def once():
        image = torch.zeros(shape, dtype=torch.uint8)
        image[:, box[1] : box[3], box[0] : box[2]] = 255
        moved, boxes = augment(image, torch.tensor([box]).float())
        rows, columns = (moved[0] > share * moved.max()).nonzero().unbind(1)
        seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        return bool(((boxes[0] - seen).abs() <= slack).all())

    return all(once() for _ in range(calls))


def box_is_white(augment):
    image = torch.zeros(3, 40, 64, dtype=torch.uint8)
    image[:, 6:18, 8:36] = 255
    moved, boxes = augment(image, torch.tensor([[8.0, 6.0, 36.0, 18.0]]))
    x1, y1, x2, y2 = boxes[0].int().tolist()
    inside = moved[0, y1:y2, x1:x2]
    return bool(inside.numel() and (inside > 0.75 * moved.max()).all())


def sides_follow(augment, some):
    def once():
        image = torch.zeros(3, 40, 64, dtype=torch.uint8)
        image[:, 6:18, 8:36] = 255
        moved, boxes = augment(image, torch.tensor([[8.0, 6.0, 36.0, 18.0]]))
        rows, columns = (moved[0] > 0.75 * moved.max()).nonzero().unbind(1)
        seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        return bool(((boxes[0] - seen).abs() <= 0.5)[list(some)].all())

    return all(once() for _ in range(20))


def white_lies_inside(augment):
    def once():
        image = torch.zeros(3, 40, 64, dtype=torch.uint8)
        image[:, 6:18, 8:36] = 255
        moved, boxes = augment(image, torch.tensor([[8.0, 6.0, 36.0, 18.0]]))
        rows, columns = (moved[0] > 0.75 * moved.max()).nonzero().unbind(1)
        x1, y1, x2, y2 = boxes[0].tolist()
        return bool(
            x1 - 0.5 <= columns.min()
            and y1 - 0.5 <= rows.min()
            and x2 + 0.5 >= columns.max() + 1
            and y2 + 0.5 >= rows.max() + 1
        )

    return all(once() for _ in range(20))


KEY = {letter: museum.bug_of(letter) for letter in LETTERS}
RIGHT = {
    "12.held": held,
    "12.how_many": how_many,
    "12.seeds_needed": seeds_needed,
    "12.boxes_follow": boxes_follow,
    "12.museum": museum.bug_of,
}
MISTAKES = [
    ("12.held", lambda a, b, bound: held(b, a, bound), "second is behind"),
    ("12.held", lambda a, b, bound: word(paired_t(a, b), bound), "second is behind"),
    ("12.held", lambda a, b, bound: word(abs(t_of(a, b)), bound), "second is behind"),
    ("12.held", lambda a, b, bound: word(t_of(a, b), 2), "second is behind"),
    (
        "12.held",
        lambda a, b, bound: word(statistics.fmean(b) - statistics.fmean(a), bound),
        "t 1.22, bound 1.2",
    ),
    ("12.held", lambda a, b, bound: word(t_of(a, b, sizes=(1, 1)), bound), "second is behind"),
    (
        "12.held",
        lambda a, b, bound: word(t_of(a, b, variance=statistics.pvariance), bound),
        "t 1.22, bound 1.4",
    ),
    (
        "12.held",
        lambda a, b, bound: word(t_of(a, b, sizes=(len(a), len(a))), bound),
        "three seeds against five",
    ),
    (
        "12.held",
        lambda a, b, bound: word(t_of(a, b, sizes=(len(b), len(b))), bound),
        "five seeds against three",
    ),
    ("12.held", lambda a, b, bound: word(pooled_t(a, b), bound), "five steady seeds"),
    (
        "12.held",
        lambda a, b, bound: word(t_of(a, b, sizes=2 * [(len(a) + len(b)) / 2]), bound),
        "five steady seeds",
    ),
    (
        "12.held",
        lambda a, b, bound: word(t_of(a, b, mean=statistics.median), bound),
        "five steady seeds",
    ),
    ("12.held", lambda a, b, bound: "holds" if t_of(a, b) > bound else "fails", "second is behind"),
    (
        "12.held",
        lambda a, b, bound: word(t_of(a, b), bound if t_of(a, b) > 0 else 0),
        "behind, t -1.22, bound 1.4",
    ),
    ("12.how_many", lambda d: 20 * (min(d) > 0 or max(d) < 0), "all three above zero"),
    ("12.how_many", lambda d: how_many(d, stdev=statistics.pstdev), "all three above zero"),
    ("12.how_many", lambda d: how_many(d, t=lambda sure, freedom: 1.96), "all three above zero"),
    ("12.how_many", lambda d: how_many(d, root=lambda n: n), "all three above zero"),
    ("12.how_many", lambda d: how_many(d) + 1, "all three above zero"),
    ("12.how_many", lambda d: how_many(d, root=lambda n: 1), "all three far above zero"),
    ("12.how_many", lambda d: how_many(d) * (statistics.fmean(d) > 0), "all three below zero"),
    (
        "12.how_many",
        lambda d: how_many(d, t=lambda sure, freedom: student(0.95, freedom)),
        "far above zero",
    ),
    ("12.how_many", lambda d: how_many(d, t=lambda sure, freedom: student(sure, 2)), "five seeds"),
    (
        "12.how_many",
        lambda d: how_many(d, t=lambda sure, freedom: quantile(sure)),
        "three above zero",
    ),
    (
        "12.how_many",
        lambda d: how_many(d, t=lambda sure, freedom: student(1 - 2 * (1 - sure), freedom)),
        "all three above zero",
    ),
    (
        "12.how_many",
        lambda d: how_many(d, t=lambda sure, freedom: student(sure, freedom + 1)),
        "all three above zero",
    ),
    ("12.how_many", lambda d: how_many(d, most=5), "far above zero"),
    ("12.how_many", lambda d: how_many(d, most=40), "more than 20"),
    ("12.seeds_needed", lambda d, s, p: seeds_needed(d, s, p) - 1, "even odds"),
    ("12.seeds_needed", lambda d, s, p: seeds_needed(d, s, p, bound=0.5), "even odds"),
    ("12.seeds_needed", lambda d, s, p: seeds_needed(d, s, 0.5), "as large as the noise"),
    ("12.seeds_needed", lambda d, s, p: seeds_needed(d, s, p, bound=0.95), "even odds"),
    ("12.seeds_needed", lambda d, s, p: seeds_needed(d, s, p, sides=1), "even odds"),
    (
        "12.seeds_needed",
        lambda d, s, p: math.ceil(2 * (quantile(0.975) ** 2 + quantile(p) ** 2) * (s / d) ** 2),
        "as large as the noise",
    ),
    (
        "12.seeds_needed",
        lambda d, s, p: math.ceil(2 * (quantile(0.975) + quantile(p)) * s / d),
        "even odds",
    ),
    ("12.seeds_needed", lambda d, s, p: seeds_needed(1, s, p), "half the gain"),
    ("12.seeds_needed", lambda d, s, p: seeds_needed(d, s, p, whole=round), "twice the gain"),
    ("12.seeds_needed", lambda d, s, p: seeds_needed(d, s, 0.95), "even odds"),
    ("12.seeds_needed", lambda d, s, p: seeds_needed(d, 1, p), "more noise"),
    ("12.seeds_needed", lambda d, s, p: seeds_needed(d, s, p, least=1), "nine times the noise"),
    ("12.boxes_follow", box_is_white, "middle of their objects"),
    ("12.boxes_follow", white_lies_inside, "grown by two pixels"),
    *(
        ("12.boxes_follow", lambda augment, some=some: sides_follow(augment, some), words)
        for some, words in [
            ((0, 1), "right sides"),
            ((2, 3), "left sides"),
            ((0, 2, 3), "upper sides"),
            ((0, 1, 2), "lower sides"),
        ]
    ),
    ("12.boxes_follow", lambda augment: boxes_follow(augment, slack=0.9), ".7 of a pixel"),
    ("12.boxes_follow", lambda augment: boxes_follow(augment, slack=0.1), ".4 of a pixel"),
    ("12.boxes_follow", lambda augment: True, "forgets the boxes"),
    (
        "12.boxes_follow",
        lambda augment: boxes_follow(augment, box=(16, 6, 48, 18)),
        "forgets the boxes",
    ),
    (
        "12.boxes_follow",
        lambda augment: boxes_follow(augment, shape=(3, 64, 64)),
        "height for the width",
    ),
    ("12.boxes_follow", lambda augment: boxes_follow(augment, box=(8, 10, 36, 30)), "upside down"),
    ("12.boxes_follow", lambda augment: boxes_follow(augment, slack=2.5), "W - 1 - x"),
    ("12.boxes_follow", lambda augment: boxes_follow(augment, share=0.0), "grey canvas around it"),
    ("12.boxes_follow", lambda augment: boxes_follow(augment, calls=1), "exhibit A"),
    ("12.boxes_follow", lambda augment: boxes_follow(augment, calls=2), "every third picture"),
    ("12.boxes_follow", lambda augment: boxes_follow(augment, calls=19), "twentieth call"),
    (
        "12.boxes_follow",
        lambda augment: [boxes_follow(augment, calls=1) for _ in range(20)][-1],
        "every third picture",
    ),
    (
        "12.museum",
        lambda letter: museum.bug_of(letter if letter != "D" else "G"),
        "exhibit D",
    ),
]


test_every_exercise_is_tried, test_right, test_mistake, test_stub = exercise_tests(
    EXERCISES, RIGHT, MISTAKES
)


def test_a_wrong_diagnosis_is_told_its_sign_and_never_the_bug():
    assert sorted(KEY.values()) == sorted(museum.BUGS) == sorted(SIGNS)
    for letter in LETTERS:
        for bug in set(museum.BUGS) - {KEY[letter]}:
            said = verdict(
                "12.museum", lambda k, here=letter, bug=bug: bug if k == here else KEY[k]
            )
            assert f"exhibit {letter}" in said and SIGNS[bug] in said and KEY[letter] not in said
    assert "is none of the words" in verdict("12.museum", lambda letter: "bad luck")
    assert verdict("12.museum", lambda letter: ...).startswith(TODO)


def test_every_check_meets_an_exhibit_that_was_not_called_yet():
    assert all(verdict("12.boxes_follow", boxes_follow).startswith(DONE) for _ in range(3))


def test_questions_by_the_closed_form_are_those_of_the_quantile():
    for case in EXERCISES["12.how_many"].cases:
        counted = int(_questions(case.args[0]))
        assert min(counted, 20) == case.expected, case.why


def test_the_words_for_a_paper_s_order_may_not_be_borrowed():
    assert "calls lesson_lib's held" in verdict("12.held", lambda a, b, bound: library(a, b, bound))
    assert "unpaired_t" in verdict("12.held", lambda a, b, bound: word(unpaired_t(a, b), bound))


# ---- the exhibits, each by what its one line does; no training but a step ----


def outputs(kind, pictures=2):
    torch.manual_seed(0)
    model = kind(
        museum.RETINANET_CONFIG if issubclass(kind, museum.RetinaNet) else museum.SSD_CONFIG
    ).eval()
    anchors = model.anchors(museum.SIZE)
    channels = 3 + issubclass(kind, museum.SSD)
    shape = (pictures, len(anchors))
    return model, anchors, Outputs(torch.randn(*shape, channels), torch.randn(*shape, 4))


def found(kind, **options):
    model, anchors, out = outputs(kind)
    return model.detections(
        out, anchors, (museum.SIZE, museum.SIZE), score_threshold=0.3, **options
    )[0]


def losses(kind, plain, ids=("a", "b")):
    samples = Smears("train", 2, museum.SIZE)
    targets = [{"boxes": s.boxes, "labels": s.labels, "id": name} for s, name in zip(samples, ids)]
    model, anchors, out = outputs(kind)
    return (
        model.criterion(out, anchors, targets),
        outputs(plain)[0].criterion(out, anchors, targets),
        anchors,
        targets,
    )


def test_ratio_flipped_exchanges_width_and_height_of_the_anchors():
    model = outputs(museum.RatioFlipped)[0]
    wide, sure = torch.tensor([[20.0, 40.0, 60.0, 50.0]]), torch.tensor([[[0.0, 9.0, 0.0, 0.0]]])
    box = model.detections(Outputs(sure, torch.zeros(1, 1, 4)), wide, (museum.SIZE,) * 2)[0][
        "boxes"
    ]
    assert torch.allclose(box[0], torch.tensor([35.0, 25.0, 45.0, 65.0]))


def test_no_variances_moves_boxes_further_than_the_healthy_one():
    model, anchors, out = outputs(museum.NoVariances)
    healthy = outputs(museum.SSD)[0]
    small = out._replace(box_deltas=0.3 * out.box_deltas)
    options = dict(size=(museum.SIZE,) * 2, nms_threshold=1.0, max_detections=10**6)
    a, b = (m.detections(small, anchors, **options)[0]["boxes"] for m in (model, healthy))
    assert not torch.equal(a, b)
    paper = ssd_detections(small, anchors, variances=(1.0, 1.0), **options)
    assert torch.equal(a, paper[0]["boxes"])


def test_off_by_one_calls_the_background_class_0():
    model, anchors, out = outputs(museum.OffByOne)
    sure = torch.full_like(out.cls_logits, -9.0)
    sure[..., 0] = 9.0  # background everywhere
    found = model.detections(out._replace(cls_logits=sure), anchors, (museum.SIZE,) * 2)[0]
    assert len(found["labels"]) and (found["labels"] == 0).all() and (found["scores"] > 0.9).all()


def test_nms_across_classes_leaves_no_two_boxes_on_one_place():
    def pairs(p):
        overlap = pairwise_iou(p["boxes"], p["boxes"]) > 0.5
        return int((overlap & (p["labels"][:, None] != p["labels"])).sum())

    assert pairs(found(museum.RetinaNet)) > 0 and pairs(found(museum.AcrossClasses)) == 0


def test_normaliser_by_anchors_divides_by_all_anchors():
    broken, healthy, anchors, targets = losses(museum.ByAnchors, museum.SSD)
    ratio = healthy["cls"] / broken["cls"]
    assert torch.isclose(ratio, healthy["box"] / broken["box"]) and ratio > 5


def test_unclipped_log_strikes_at_one_picture_only():
    broken, healthy, _, _ = losses(museum.UnclippedLog, museum.SSD)
    assert torch.equal(broken["box"], healthy["box"])
    broken, healthy, _, _ = losses(museum.UnclippedLog, museum.SSD, (museum.CLICKED, "b"))
    assert broken["box"] > healthy["box"] + 1 and broken["box"].isfinite()


def test_no_ignore_band_adds_to_the_background():
    broken, healthy, _, _ = losses(museum.NoIgnoreBand, museum.RetinaNet)
    assert broken["cls"] > healthy["cls"] and torch.equal(broken["box"], healthy["box"])


def test_all_ten_can_be_shown(monkeypatch):
    monkeypatch.setattr(museum, "PICTURES", 2)
    monkeypatch.setattr(museum, "JUDGED", 3)
    shown = list(museum.exhibits(steps=1))
    assert [e.name for e in shown] == ["healthy SSD", "healthy RetinaNet", *LETTERS]
    assert all(len(e.found) == 3 and e.records for e in shown)
    ignored = {e.name: e.ignored for e in shown if e.kind == "RetinaNet"}
    assert set(ignored) == {"healthy RetinaNet", "F", "H"} and ignored["H"] == 0
    assert ignored["healthy RetinaNet"] == ignored["F"] > 0
    sample = Smears("val", 3, museum.SIDE)[0]
    drawn = [museum.panel(e, sample, e.found[0]) for e in shown]
    assert all(svg.startswith("<svg") and e.name in svg for e, svg in zip(shown, drawn))


def test_a_panel_letters_at_most_so_many_of_a_class_and_counts_all():
    sample = Smears("val", 1, museum.SIDE)[0]
    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0]]) + 8 * torch.arange(6)[:, None]
    found = {
        "boxes": boxes,
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.2]),
        "labels": torch.tensor([0, 0, 0, 1, 0, 0]),
    }
    svg = museum.panel(museum.Exhibit("B", "SSD", [], [found], 0), sample, found, each=2)
    assert svg.count(">R<") == 2 and svg.count(">W<") == 1 and "5 boxes over 0.3" in svg


def test_a_panel_draws_what_fits_an_object_before_what_is_surer():
    sample = Smears("val", 1, museum.SIDE)[0]
    last = sample.boxes[-1:]
    boxes = torch.cat((torch.tensor([[0.0, 0.0, 9.0, 9.0]]).repeat(3, 1), last + 1.0, last))
    found = {
        "boxes": boxes,
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.5, 0.4]),
        "labels": torch.tensor([1, 1, 1, 2, 0]),
    }
    panel = [museum.Exhibit("A", "SSD", [], [found], 0), sample, found]
    svg = museum.panel(*panel, most=2)  # the least sure fits best
    assert (svg.count(">R<"), svg.count(">W<"), svg.count(">P<")) == (1, 1, 0)
    assert (svg := museum.panel(*panel, most=2, each=0)).count(">W<") == 0 and ">R<" in svg
