"""Lesson 5's exercises: a right answer passes, each likely wrong one fails at the case that names
its mistake.
"""

import pytest
import torch

from lesson_lib.course.checks import DONE, WRONG, verdict
from lesson_lib.course.checks.lesson05 import EXERCISES, one_sort
from lesson_lib.losses import softmax_cross_entropy
from lesson_lib.mining import hard_negative_mask, hard_negative_mask_by_rank


def background_loss(logits):
    return softmax_cross_entropy(logits, torch.zeros(logits.shape[:-1], dtype=torch.long))


def ranks_twice(loss):
    return loss.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def ranks_once(loss):
    order = loss.argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(1, order, torch.arange(loss.shape[1]).expand_as(order))


def implied_ratio(pull, positive, negative, share):
    total = pull[negative].double().sort(descending=True).values.cumsum(0)
    return (int((total < share * total[-1] - 1e-9).sum()) + 1) / positive.sum().item()


RIGHT = {
    "05.background_loss": background_loss,
    "05.ranks": one_sort(ranks_once),
    "05.implied_ratio": implied_ratio,
    "05.mine": hard_negative_mask,
}

MISTAKES = [
    ("05.background_loss", lambda x: -x.softmax(-1)[..., 0].log(), "+-100"),
    ("05.background_loss", lambda x: -x.log_softmax(-1)[..., 1], "sure of"),
    ("05.background_loss", lambda x: x.softmax(-1)[..., 1:].amax(-1), "two equal"),
    ("05.background_loss", lambda x: -x[..., 0], "two equal"),
    ("05.background_loss", lambda x: -x.log_softmax(1)[..., 0], "two equal"),
    ("05.ranks", lambda x: x.argsort(dim=1, descending=True, stable=True), "inverse"),
    ("05.ranks", lambda x: x.argsort(dim=1).argsort(dim=1), "falling"),
    ("05.ranks", one_sort(ranks_twice), "sorted 2 times"),
    ("05.ranks", lambda x: (x[:, None] > x[..., None]).sum(2), "equal losses"),
    (
        "05.implied_ratio",
        lambda pull, pos, neg, share: implied_ratio(pull, pos, ~pos, share),
        "ignored",
    ),
    (
        "05.implied_ratio",
        lambda pull, pos, neg, share: implied_ratio(pull, pos, neg, share) * int(pos.sum()),
        "two objects",
    ),
    (
        "05.implied_ratio",
        lambda pull, pos, neg, share: implied_ratio(-pull, pos, neg, share),
        "equal background",
    ),
    (
        "05.implied_ratio",
        lambda pull, pos, neg, share: share * int(neg.sum()) / int(pos.sum()),
        "one hard",
    ),
    ("05.mine", lambda x, p, n, r, m: hard_negative_mask(x, p, ~p, r, m), "ignored"),
    ("05.mine", lambda x, p, n, r, m: hard_negative_mask(x, p, n, r), "at least 2"),
    ("05.mine", lambda x, p, n, r, m: hard_negative_mask(-x, p, n, r, m), "three to one"),
    ("05.mine", lambda x, p, n, r, m: hard_negative_mask(x, p, n, r + 0.5, m), "rounded down"),
    (
        "05.mine",
        lambda x, p, n, r, m: hard_negative_mask(
            *(t.reshape(1, -1) for t in (x, p, n)), r, m
        ).reshape(x.shape),
        "each picture by itself",
    ),
    (
        "05.mine",
        lambda x, p, n, r, m: hard_negative_mask(x.flip(1), p.flip(1), n.flip(1), r, m).flip(1),
        "equal losses",
    ),
    ("05.mine", lambda x, p, n, r, m: hard_negative_mask(x, p, n, r, max(m, 1)), "without objects"),
    ("05.mine", lambda x, p, n, r, m: hard_negative_mask(x, p, n, r, m) | p, "three to one"),
    (
        "05.mine",
        lambda x, p, n, r, m: ranks_twice(x.masked_fill(~n, -1)) < r * p.sum(1, keepdim=True),
        "rounded down",
    ),
    (
        "05.mine",
        lambda x, p, n, r, m: (
            ranks_twice(x.masked_fill(~n, -1)) < (r * p.sum(1, keepdim=True)).long()
        ),
        "more wanted",
    ),
]


@pytest.mark.parametrize("name", EXERCISES)
def test_a_right_answer_passes(name):
    assert verdict(name, RIGHT[name]).startswith(DONE)


def test_sorting_twice_and_the_library_by_rank_are_right_answers_too():
    assert verdict("05.ranks", ranks_twice).startswith(DONE)
    assert verdict("05.mine", hard_negative_mask_by_rank).startswith(DONE)


@pytest.mark.parametrize(("name", "answer", "case"), MISTAKES)
def test_a_wrong_answer_is_told_which_case_it_misses(name, answer, case):
    sentence = verdict(name, answer)
    assert sentence.startswith(f"{WRONG} {name}") and case in sentence
