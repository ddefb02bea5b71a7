"""The exercises of lesson 3: a right answer passes, and each wrong idea is told by the name of its
case.
"""

import itertools
import math
import re

import pytest
import torch

from lesson_lib.anchors import SSD300_SCALES, default_boxes, pyramid_anchors
from lesson_lib.boxes import pairwise_iou
from lesson_lib.course.checks import verdict
from lesson_lib.course.checks.lesson03 import (
    BUG_REASONS,
    BUGS,
    STRIP,
    THREE,
    TOY,
    bug_tables,
    rule_of,
)
from lesson_lib.course.matching_pictures import (
    best_overlaps,
    close_pairs,
    forced_within,
    match_index,
    matched_shapes,
    orphaned,
    six_grids,
)
from lesson_lib.course.story import running_smear
from lesson_lib.course.svg import shape
from lesson_lib.matching import match_retinanet, match_ssd


def iou(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def by_threshold(best, positive, negative):
    return torch.where(best >= positive, 1, torch.where(best < negative, 0, -1))


def labels(overlaps, positive, negative, force_best, ties=True, nothing=False, rule=by_threshold):
    """RetinaNet's labels, row by row; the keywords make mistakes."""
    best = torch.zeros(overlaps.shape[1])
    for row in overlaps:
        best = torch.maximum(best, row)
    label = rule(best, positive, negative)
    for row in overlaps if force_best else []:
        own = (row == row.max()) & (nothing | (row > 0))
        label[own if ties else own.nonzero()[:1, 0]] = 1
    return label


def labels_by(rule):
    return lambda *args: labels(*args, rule=rule)


def of_the_first_object(overlaps, positive, negative, force_best):
    return labels(overlaps[:1], positive, negative, force_best)


def forced_if_its_own(overlaps, positive, negative, force_best):
    """Forces an anchor only where the object is the one that the anchor overlaps most."""
    result = labels(overlaps, positive, negative, False)
    for row in overlaps if force_best else []:
        result[(row == row.max()) & (row == overlaps.amax(dim=0)) & (row > 0)] = 1
    return result


def forced_if_background(overlaps, positive, negative, force_best):
    plain = labels(overlaps, positive, negative, False)
    return torch.where(plain < 0, -1, labels(overlaps, positive, negative, force_best))


def without_a_word_for_no_object(overlaps, *rest):
    return labels(overlaps, *rest) if overlaps.amax(dim=0) is not None else None


def needed(side, picture, anchor, threshold):
    return picture * anchor * math.sqrt(threshold) / side


def input_side(side, picture, anchor, threshold, inputs, least=needed, pick=min):
    """The keywords make mistakes."""
    enough = [size for size in inputs if size >= least(side, picture, anchor, threshold)]
    return pick(enough) if enough else 0


def sides_by(least):
    return lambda *args: input_side(*args, least=least)


def rounded_by(whole):
    """The side that an object needs in the network's input, rounded first."""
    return lambda s, z, a, t: z * whole(a * math.sqrt(t)) / s


def only_while_smaller(side, picture, anchor, threshold, inputs):
    """Asks that the object is no larger than the smallest anchor."""
    small = [size for size in inputs if side * size / picture <= anchor]
    return input_side(side, picture, anchor, threshold, small)


def more_than_needed(*args):
    return input_side(*args[:4], [size for size in args[4] if size != needed(*args[:4])])


def best_pairs(overlaps):
    result, free = [-1] * len(overlaps), set(range(len(overlaps[0]) if overlaps else 0))
    while free and -1 in result:
        overlap, anchor, g = min(
            (-overlaps[g][a], a, g) for g in range(len(overlaps)) if result[g] < 0 for a in free
        )
        if overlap > -1e-6:
            break
        result[g] = anchor
        free.remove(anchor)
    return result


def each_its_best(overlaps):
    """The mistake: every object takes its best anchor, whoever has it already."""
    return [row.index(max(row)) if max(row) > 1e-6 else -1 for row in overlaps]


def plain_overwrite(overlaps):
    """The same, and an object that overlaps nothing takes anchor 0."""
    return [row.index(max(row)) for row in overlaps]


def in_turn(overlaps):
    """The objects choose one after the other."""
    taken = []
    for row in overlaps:
        left = [a for a in range(len(row)) if a not in taken]
        best = max(left, key=row.__getitem__, default=-1)
        taken.append(best if left and row[best] > 1e-6 else -1)
    return taken


def by_own_best(overlaps):
    """Each object in the order of its own best overlap, not the best pair of all that are left."""
    order = sorted(range(len(overlaps)), key=lambda g: -max(overlaps[g]))
    taken = in_turn([overlaps[g] for g in order])
    return [taken[order.index(g)] for g in range(len(overlaps))]


def from_bar(bar):
    """Pairs as they must be, but an overlap of at most `bar` is none."""

    def pairs(overlaps):
        found = best_pairs([[value + 1 for value in row] for row in overlaps])
        return [
            a if a >= 0 and row[a] > bar else -1 for row, a in zip(overlaps, found, strict=True)
        ]

    return pairs


def even_at_nothing(overlaps):
    """Objects that overlap no anchor are given one all the same."""
    result = best_pairs(overlaps)
    free = [a for a in range(len(overlaps[0])) if a not in result] if overlaps else []
    return [a if a >= 0 else free.pop(0) for a in result]


def largest_sum(overlaps):
    """The assignment whose overlaps add up to most, not the best pair first."""
    anchors = [*range(len(overlaps[0]) if overlaps else 0), *[-1] * len(overlaps)]
    options = itertools.permutations(anchors, len(overlaps))
    worth = [(sum(row[a] for row, a in zip(overlaps, one) if a >= 0), one) for one in options]
    chosen = max(worth, key=lambda pair: pair[0])[1]
    return [a if a >= 0 and row[a] > 1e-6 else -1 for row, a in zip(overlaps, chosen, strict=True)]


def highest_of_equals(overlaps):
    """Of equal overlaps the anchor that stands last."""
    turned = best_pairs([row[::-1] for row in overlaps])
    return [len(row) - 1 - a if a >= 0 else -1 for row, a in zip(overlaps, turned, strict=True)]


def match(
    objects, anchors, threshold, pairs=best_pairs, over=lambda value, bar: value >= bar, force=True
):
    overlaps = [[iou(g, a) for a in anchors.tolist()] for g in objects.tolist()]
    result = torch.full((len(anchors),), -1)
    for a in range(len(anchors)):
        column = [row[a] for row in overlaps]
        if column and over(max(column), threshold - 1e-9):
            result[a] = column.index(max(column))
    for g, a in enumerate(pairs(overlaps) if force else []):
        if a >= 0:
            result[a] = g
    return result


def last_over_the_bar(objects, anchors, threshold):
    result = match(objects, anchors, 2.0)
    for g, row in enumerate([[iou(g, a) for a in anchors.tolist()] for g in objects.tolist()]):
        for a, value in enumerate(row):
            result[a] = g if value >= threshold else result[a]
    return result


def threshold_has_the_last_word(objects, anchors, threshold):
    over = match(objects, anchors, threshold, force=False)
    return torch.where(over >= 0, over, match(objects, anchors, 2.0))


def claimed_only_if_over(objects, anchors, threshold):
    return match(objects, anchors, threshold, force=False)


RIGHT = {"labels": labels, "input_side": input_side, "match": match, "bugs": BUGS.get}
WRONG = [
    (
        "labels",
        labels_by(lambda b, p, n: torch.where(b > p, 1, torch.where(b < n, 0, -1))),
        "upper threshold",
    ),
    (
        "labels",
        labels_by(lambda b, p, n: torch.where(b >= p, 1, torch.where(b <= n, 0, -1))),
        "lower threshold",
    ),
    (
        "labels",
        labels_by(lambda b, p, n: by_threshold(b, 0.5, n if n in (0.25, 0.5) else 0.4)),
        "other thresholds",
    ),
    ("labels", labels_by(lambda b, p, n: by_threshold(b, p, n).clamp(min=0)), "each kind"),
    (
        "labels",
        labels_by(lambda b, p, n: torch.where(b >= p, 1, torch.where(b < n, -1, 0))),
        "each kind",
    ),
    ("labels", of_the_first_object, "the one that an anchor overlaps most decides"),
    ("labels", lambda *a: labels(*a[:3], True), "lower threshold"),
    ("labels", lambda *a: labels(*a[:3], False), "the second object's best anchor"),
    ("labels", lambda *a: labels(*a, ties=False), "two anchors tie"),
    ("labels", forced_if_its_own, "another object overlaps more"),
    ("labels", forced_if_background, "would be ignored"),
    ("labels", lambda *a: labels(*a, nothing=True), "overlaps nothing forces nothing"),
    ("labels", without_a_word_for_no_object, "no object"),
    (
        "labels",
        lambda t, p, n, force: match_retinanet(STRIP[: len(t)], STRIP, p, n, force).label,
        "match_retinanet",
    ),
    ("input_side", sides_by(lambda s, z, a, t: z * a * t / s), "20 px"),
    ("input_side", sides_by(lambda s, z, a, t: z * a / s), "20 px"),
    ("input_side", sides_by(lambda s, z, a, t: z * a * math.sqrt(0.5) / s), "just suffice"),
    ("input_side", sides_by(lambda s, z, a, t: z * 32 * math.sqrt(t) / s), "21 px"),
    ("input_side", sides_by(lambda s, z, a, t: 640 * a * math.sqrt(t) / s), "no input will do"),
    ("input_side", lambda *a: input_side(*a, pick=max), "20 px"),
    ("input_side", lambda *a: input_side(*a, pick=lambda sizes: sizes[0]), "another order"),
    ("input_side", lambda *a: input_side(*a) or max(a[4]), "no input will do"),
    ("input_side", more_than_needed, "just suffice"),
    ("input_side", lambda *a: needed(*a[:4]), "20 px"),
    ("input_side", sides_by(rounded_by(math.floor)), "nothing is rounded"),
    ("input_side", sides_by(rounded_by(math.ceil)), "nothing is rounded"),
    ("input_side", sides_by(rounded_by(lambda side: round(2 * side) / 2)), "nothing is rounded"),
    ("input_side", only_while_smaller, "larger than the smallest anchor"),
    ("bugs", {**BUGS, "P": "nothing is forced"}.get, "program P"),
    ("bugs", {**BUGS, "Q": "nothing is forced"}.get, "program Q"),
    ("bugs", {**BUGS, "R": "last claim wins"}.get, "program R"),
    ("match", lambda g, a, t: match(g, a, t, pairs=even_at_nothing), "overlaps none"),
    ("match", lambda g, a, t: match(g, a, t, pairs=largest_sum), "the best pair stands"),
    ("match", lambda g, a, t: match(g, a, t, pairs=highest_of_equals), "equally well"),
    ("match", lambda g, a, t: match_index(g, a, t), "match_index"),
    ("match", lambda g, a, t: match_ssd(g, a, t).gt_index, "match_ssd"),
    ("match", lambda *a: match(*a, over=lambda v, bar: v > bar + 2e-9), "0.5 counts"),
    ("match", lambda *a: match(*a, pairs=plain_overwrite), "two objects want anchor 0"),
    ("match", claimed_only_if_over, "a small object"),
    ("match", lambda *a: match(*a, pairs=each_its_best), "two objects want anchor 0"),
    ("match", lambda *a: match(*a, pairs=in_turn), "the other order"),
    ("match", lambda *a: match(*a, pairs=by_own_best), "best pair of all that are left"),
    ("match", lambda *a: match(*a, pairs=from_bar(1e-2)), "small, and still one"),
    ("match", lambda *a: match(*a, pairs=from_bar(1e-3)), "small, and still one"),
    ("match", lambda *a: match(*a, pairs=from_bar(0)), "at most 0.000001 is none"),
    ("match", lambda *a: match(*a).float(), "whole numbers"),
    ("match", lambda *a: match(*a).int(), "whole numbers"),
    ("labels", lambda *a: labels(*a).float(), "whole numbers"),
    ("bugs", {**BUGS, "P": "nothing forced"}.get, "none of the words"),
    ("match", last_over_the_bar, "goes to the one that overlaps it more"),
    ("match", lambda g, a, t: match(g, a, 0.5), "goes to the one that overlaps it more"),
    ("match", lambda g, a, t: match(g, a, 2.0), "two anchors"),
    ("match", threshold_has_the_last_word, "stays with the first"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name):
    assert verdict(f"03.{name}", RIGHT[name]).startswith("✓")
    assert verdict(f"03.{name}", lambda *_: None).startswith("○")


@pytest.mark.parametrize("name, answer, words", WRONG)
def test_a_wrong_answer_is_told_with_its_case(name, answer, words):
    told = verdict(f"03.{name}", answer)
    assert told.startswith("✗") and words in told, told


def test_a_wrong_diagnosis_is_told_why_and_not_the_right_one():
    words = {*BUGS.values(), "nothing is forced"}
    for letter, bug in BUGS.items():
        assert {bug, *BUG_REASONS[letter]} == words
        for wrong, reason in BUG_REASONS[letter].items():
            told = verdict("03.bugs", {**BUGS, letter: wrong}.get)
            assert reason in told and bug not in told, told


def test_the_three_tables_differ_and_show_their_bugs():
    assert bug_tables() == {"P": [[], [7], [4]], "Q": [[7], [], [4]], "R": [[7], [8], [4]]}
    assert rule_of("nothing is forced").unique().tolist() == [-1, 0]  # so no two words fit a table
    overlaps = pairwise_iou(THREE, TOY)
    assert overlaps.argmax(dim=1).tolist() == [7, 7, 4]
    assert (overlaps.amax(dim=1) >= 0.7).tolist() == [True, False, False]
    best, next_best, third = overlaps.topk(3, dim=1).values.unbind(dim=1)
    assert (best > next_best + 0.01).all() and next_best[1] > third[1] + 0.01  # no ties decide


def test_the_pictures_say_what_is_matched():
    smear, spec = running_smear(300), SSD300_SCALES["torchvision-coco"]
    anchors = default_boxes(spec)
    match = match_ssd(smear.boxes, anchors)
    words, shapes = matched_shapes(match, anchors, smear.boxes)
    positive = int((match.label == 1).sum())
    assert f"{positive} positive, 0 ignored, {8732 - positive:,} background" in words
    assert [s.get("owner") for s in shapes[1:]] == [g for g in range(17) for _ in range(2)]
    for g, box in enumerate(smear.boxes.tolist()):  # over its thin ones the one that fits it best
        own = anchors[match.gt_index == g]
        best = max(own.tolist(), key=lambda anchor: iou(box, anchor))
        thin, thick = shapes[1 + 2 * g : 3 + 2 * g]
        assert thin["d"] == shape("matched", own)["d"] and thin["width"] < thick["width"] / 2
        assert thick["d"] == shape("positive", torch.tensor(best))["d"]
    grids = six_grids(smear.image, spec, match, anchors, smear.boxes)
    assert len(grids) < 220_000  # a lesson has 600 kB for all of its pictures
    counts = dict(re.findall(r"(\d+ x \d+): (\d+) of", grids))
    assert len(counts) == 6 and sum(map(int, counts.values())) == positive


def test_an_object_without_anchors_is_filled():
    anchors = default_boxes(SSD300_SCALES["torchvision-coco"])
    lost = torch.tensor([[1000.0, 1000, 1010, 1010]])
    words, shapes = matched_shapes(match_ssd(lost, anchors), anchors, lost)
    assert "1 without any" in words and shapes[1]["kind"] == "shared"


def test_the_play_of_an_object_in_its_anchor_gives_its_share_of_places():
    anchors, side = pyramid_anchors(256), 32 / math.sqrt(2) + 0.005
    long_side = math.sqrt(2) * 32  # of the 2:1 anchor
    for ratio in (2, 3):  # the play along or across it that is less, against 8 px
        play = min(long_side - side * ratio**0.5, long_side / 2 - side / ratio**0.5)
        share = (best_overlaps(anchors, side, ratio) >= 0.5).float().mean().item()
        assert share == pytest.approx(play / 8, abs=0.02)
    assert (best_overlaps(anchors, side, 1) >= 0.5).all()
    assert (best_overlaps(anchors, side - 0.1, 1) < 0.5).all()


def test_of_equal_overlaps_float32_keeps_a_few():
    """A square of 12 px: an anchor of area 32² that holds it whole has 12²/32², and so have all."""
    anchors, tiny = pyramid_anchors(300), torch.tensor([100.0, 100, 112, 112])
    holds = (anchors[:, :2] <= tiny[:2] + 1e-4).all(1) & (anchors[:, 2:] >= tiny[2:] - 1e-4).all(1)
    sides = anchors[:, 2:] - anchors[:, :2]
    on_paper = holds & ((sides.prod(1) - 32**2).abs() < 0.01)
    overlaps = pairwise_iou(tiny[None], anchors)[0]
    assert torch.equal(overlaps >= overlaps.max() - 1e-6, on_paper) and int(on_paper.sum()) == 17
    forced = match_retinanet(tiny[None], anchors).label == 1
    assert torch.equal(forced, overlaps == overlaps.max()) and 0 < forced.sum() < 17


def lost_on_paper(pair, anchors):
    """Whether the smaller square answers for none of the anchors of area 32² that hold it whole:
    these fit it equally well, and the larger one has each that it overlaps more.
    """
    larger, smaller = pair.tolist()
    held = [
        a
        for a in anchors.tolist()
        if all(a[i] <= smaller[i] + 1e-4 and a[i + 2] >= smaller[i + 2] - 1e-4 for i in (0, 1))
        and abs((a[2] - a[0]) * (a[3] - a[1]) - 32**2) < 0.01
    ]
    assert held
    return all(iou(larger, a) >= iou(smaller, a) for a in held)


@pytest.mark.parametrize("side", [6, 8, 12])
def test_pairs_that_lose_one_to_rounding_lose_none_on_paper(side):
    anchors = pyramid_anchors(300)
    pairs = close_pairs(side, 150, torch.Generator().manual_seed(1))
    apart = (pairs[:, 0, :2] + pairs[:, 0, 2:] - pairs[:, 1, :2] - pairs[:, 1, 2:]).norm(dim=1) / 2
    torch.testing.assert_close(apart, torch.full((150,), float(side)), atol=1e-3, rtol=0)
    finest = anchors[: 9 * 38 * 38]
    share = sum(lost_on_paper(pair, finest) for pair in pairs) / 150
    assert orphaned(forced_within(pairs, anchors, 1e-6)) == pytest.approx(share) and share < 0.01
    as_printed = forced_within(pairs, anchors, 0)
    assert torch.equal(as_printed, match_retinanet(pairs, anchors).gt_index)
    assert orphaned(as_printed) > share + 0.005


def test_an_orphan_is_counted_once_a_picture():
    gt_index = torch.tensor([[0, 1, -1], [0, 0, -1], [1, -1, 1], [-1, -1, -1]])
    assert orphaned(gt_index) == 0.75
