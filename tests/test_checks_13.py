"""Lesson 13's checks: right answers pass, and each wrong idea is told by the case that shows it."""

import math

import pytest

from lesson_lib.course.checks import verdict


def repair(box, width, height):
    x1, y1, x2, y2 = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    return [x1, y1, x2, y2] if x1 < x2 and y1 < y2 else []


def validation(names, every):
    groups = sorted({name.rpartition("_")[0] for name in names})
    return [groups.index(name.rpartition("_")[0]) % every == 0 for name in names]


def input_side(sides, picture, anchor, share):
    smallest = sorted(sides, reverse=True)[math.ceil(share * len(sides)) - 1]
    return 32 * math.ceil(picture * anchor * math.sqrt(0.5) / smallest / 32)


def to_coco(image_id, boxes, scores, labels, category_ids, threshold):
    rows = zip(boxes.tolist(), scores.tolist(), labels.tolist())
    return [
        [image_id, category_ids[label], x1, y1, x2 - x1, y2 - y1, score]
        for (x1, y1, x2, y2), score, label in sorted(rows, key=lambda row: -row[1])
        if score >= threshold
    ]


RIGHT = {"repair": repair, "validation": validation, "input_side": input_side, "to_coco": to_coco}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name):
    assert verdict(f"13.{name}", RIGHT[name]).startswith("✓")
    assert verdict(f"13.{name}", lambda *_: ...).startswith("○")


@pytest.mark.parametrize(
    "name, answer, case",
    [
        ("repair", lambda box, w, h: box, "lower right corner"),
        (
            "repair",
            lambda box, w, h: [max(v, 0) for v in repair([max(v, 0) for v in box], w, h)] or box,
            "beside",
        ),
        (
            "repair",
            lambda box, w, h: [min(max(v, 0), s) for v, s in zip(box, (w, h, w, h))],
            "beside the picture",
        ),
        (
            "repair",
            lambda box, w, h: repair(
                sorted(box[::2])[:1] + [box[1]] + sorted(box[::2])[1:] + [box[3]], w, h
            ),
            "corners that fall",
        ),
        (
            "validation",
            lambda names, every: [i % every == 0 for i in range(len(names))],
            "one group",
        ),
        (
            "validation",
            lambda names, every: [
                v and "reef" not in n for v, n in zip(validation(names, every), names)
            ],
            "every second",
        ),
        (
            "validation",
            lambda names, every: [
                sorted({n.split("_")[0] for n in names}).index(n.split("_")[0]) % every == 0
                for n in names
            ],
            "two underscores",
        ),
        (
            "input_side",
            lambda s, p, a, share: input_side(sorted(s)[:1], p, a, share),
            "three of four",
        ),
        ("input_side", lambda s, p, a, share: 32 * math.ceil(p * a / min(s) / 32), "every object"),
        ("input_side", lambda s, p, a, share: input_side(s, p, 32, share), "smaller anchor"),
        (
            "input_side",
            lambda s, p, a, share: (
                32 * math.ceil(p * a * math.sqrt(0.5) / s[math.ceil(share * len(s)) - 1] / 32)
            ),
            "every object",
        ),
        (
            "to_coco",
            lambda i, b, s, k, ids, t: [
                [*r[:2], r[2], r[3], r[2] + r[4], r[3] + r[5], r[6]]
                for r in to_coco(i, b, s, k, ids, t)
            ],
            "one detection",
        ),
        ("to_coco", lambda i, b, s, k, ids, t: to_coco(i, b, s, k, [0, 1, 2], t), "one detection"),
        (
            "to_coco",
            lambda i, b, s, k, ids, t: sorted(to_coco(i, b, s, k, ids, t), key=lambda row: row[1]),
            "best first",
        ),
        (
            "to_coco",
            lambda i, b, s, k, ids, t: [r for r in to_coco(i, b, s, k, ids, t) if r[-1] > t],
            "equals the threshold",
        ),
    ],
)
def test_a_wrong_answer_is_told_by_its_case(name, answer, case):
    told = verdict(f"13.{name}", answer)
    assert told.startswith("✗") and case in told, told
