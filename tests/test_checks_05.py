"""Lesson 5's exercises: a right answer passes, each likely wrong one fails at the case that names
its mistake.
"""

import math
from fractions import Fraction
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch

from lesson_lib.course.checks import DONE, WRONG, verdict
from lesson_lib.course.checks.lesson05 import (
    BUG_REASONS,
    BUGS,
    COMPARISON_REASONS,
    COMPARISONS,
    CONTRADICTED,
    DECISION_REASONS,
    DECISIONS,
    DIFFERENCES,
    EXERCISES,
    NO_PAIR,
    SHOWN,
    TABLE_1D,
    UNTOLD,
    bug_tables,
    calls,
    one_sort,
)
from lesson_lib.course.mining_pictures import implied_ratio as library_ratio
from lesson_lib.losses import softmax_cross_entropy
from lesson_lib.mining import hard_negative_mask, hard_negative_mask_by_rank


def background_loss(logits):
    return -logits.log_softmax(-1)[..., 0]


def ranks_twice(loss):
    return loss.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def ranks_once(loss):
    order = loss.argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(1, order, torch.arange(loss.shape[1]).expand_as(order))


def numpy_twice(loss):
    order = np.argsort(-loss.numpy(), axis=1, kind="stable")
    return torch.from_numpy(np.argsort(order, axis=1))


def sorted_lists(loss):
    orders = [sorted(range(len(row)), key=lambda a: -row[a]) for row in loss.tolist()]
    return torch.tensor([[order.index(a) for a in range(len(order))] for order in orders])


def counted(loss):
    """Who is before each anchor, asked number by number."""
    ranks = torch.zeros_like(loss, dtype=torch.int64)
    for row, out in zip(loss, ranks):
        keys = [(-float(x), a) for a, x in enumerate(row)]
        for a, key in enumerate(keys):
            out[a] = sum(other < key for other in keys)
    return ranks


def implied_ratio(pull, positive, negative, share):
    total = pull[negative].double().sort(descending=True).values.cumsum(0)
    line = share * total[-1] * (1 - 1e-12)
    return (int((total < line).sum()) + 1) / positive.sum().item()


def absolute_slack(pull, positive, negative, share):
    total = pull[negative].double().sort(descending=True).values.cumsum(0)
    return (int((total < share * total[-1] - 1e-9).sum()) + 1) / positive.sum().item()


def mined(loss, positive, negative, ratio, least=0):
    """The rule, written with loops over pictures."""
    mask = torch.zeros_like(negative)
    for row, pos, neg, out in zip(loss, positive, negative, mask):
        quota = max(math.floor(Fraction(str(ratio)) * int(pos.sum())), least)
        order = row.masked_fill(~neg, -math.inf).argsort(descending=True, stable=True)
        out[order[: min(quota, int(neg.sum()))]] = True
    return mask


def least_after_the_cut(loss, positive, negative, ratio, least):
    quota = (ratio * positive.sum(1, keepdim=True) + 1e-6).floor()
    quota = torch.minimum(quota, negative.sum(1, keepdim=True)).clamp(min=least)
    return ranks_once(loss.masked_fill(~negative, -math.inf)) < quota


def mined_by_rank(loss, positive, negative, ratio, least, *, fill=-math.inf, stable=True, how=None):
    """The same with ranks; `how` makes the quota of ratio, positives (B, 1) and least."""
    how = how or rounded
    loss = loss.masked_fill(~negative, fill)
    rank = loss.argsort(dim=1, descending=True, stable=stable).argsort(dim=1)
    quota = how(ratio, positive.sum(1, keepdim=True), least)
    return rank < torch.minimum(quota, negative.sum(1, keepdim=True))


def rounded(ratio, count, least):
    return (ratio * count.double() + 1e-6).floor().clamp(min=least)


def least_added(ratio, count, least):
    return rounded(ratio, count, 0) + least


def least_for_the_empty(ratio, count, least):
    return torch.where(count == 0, least, rounded(ratio, count, 0))


ROW, _, _, BEST, BECAUSE = DECISIONS
PRIOR, MINES, ADDS, NEEDS = COMPARISONS
RIGHT = {
    "05.background_loss": background_loss,
    "05.ranks": one_sort(ranks_once),
    "05.bugs": BUGS.get,
    "05.decide": DECISIONS.get,
    "05.implied_ratio": implied_ratio,
    "05.honest": COMPARISONS.get,
    "05.mine": mined,
}

MISTAKES = [
    ("05.bugs", (BUGS | {"P": "whole batch"}).get, "program P"),
    ("05.bugs", (BUGS | {"Q": "whole batch"}).get, "program Q"),
    ("05.bugs", (BUGS | {"R": "easiest kept"}).get, "program R"),
    ("05.bugs", (BUGS | {"R": "nothing wrong", "Q": "names, not ranks"}).get, "program Q"),
    ("05.bugs", (BUGS | {"S": "nothing wrong"}).get, "program S"),
    ("05.decide", lambda case: "OHEM, NMS at .5", "before you know"),
    ("05.decide", lambda case: "OHEM 1:3, NMS at .5", "before you know"),
    (
        "05.decide",
        lambda case: DECISIONS[ROW] if case == ROW else SHOWN,
        "in every row a larger batch",
    ),
    ("05.decide", lambda case: DECISIONS[ROW] if case == ROW else UNTOLD, "forcing 1:3"),
    ("05.decide", (DECISIONS | {BEST: CONTRADICTED}).get, "each at its best batch"),
    ("05.decide", (DECISIONS | {BEST: UNTOLD}).get, "each at its best batch"),
    ("05.decide", (DECISIONS | {BECAUSE: SHOWN}).get, "because it keeps everybody"),
    ("05.decide", (DECISIONS | {BECAUSE: CONTRADICTED}).get, "because it keeps everybody"),
    ("05.background_loss", lambda x: -x.softmax(-1)[..., 0].log(), "+-100"),
    ("05.background_loss", lambda x: -x.log_softmax(-1)[..., 1], "sure of"),
    ("05.background_loss", lambda x: x.softmax(-1)[..., 1:].amax(-1), "two equal"),
    ("05.background_loss", lambda x: -x[..., 0], "two equal"),
    ("05.background_loss", lambda x: -x.log_softmax(1)[..., 0], "two equal"),
    ("05.ranks", lambda x: x.argsort(dim=1, descending=True, stable=True), "inverse"),
    ("05.ranks", lambda x: x.argsort(dim=1).argsort(dim=1), "falling"),
    ("05.ranks", one_sort(ranks_twice), "sorted 2 times"),
    ("05.ranks", one_sort(numpy_twice), "(numpy)"),
    ("05.ranks", one_sort(sorted_lists), "(tolist)"),
    ("05.ranks", one_sort(counted), "(item)"),
    ("05.ranks", lambda x: ranks_once(x).float(), "dtype int64"),
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
    (
        "05.implied_ratio",
        lambda pull, pos, neg, share: (
            (int((pull[neg].cumsum(0) < share * pull[neg].sum() - 1e-6).sum()) + 1) / int(pos.sum())
        ),
        "not in falling order",
    ),
    ("05.implied_ratio", absolute_slack, "the unit"),
    ("05.honest", (COMPARISONS | {PRIOR: "1 and 4"}).get, "does the prior help"),
    ("05.honest", (COMPARISONS | {MINES: "2 and 3"}).get, "does mining help"),
    ("05.honest", (COMPARISONS | {ADDS: "1 and 4"}).get, "does focal loss add"),
    ("05.honest", (COMPARISONS | {NEEDS: "1 and 4"}).get, "does focal loss need"),
    ("05.honest", (COMPARISONS | {NEEDS: "2 and 4"}).get, "does focal loss need"),
    ("05.mine", lambda *args: mined_by_rank(*args, fill=0), "loss is 0"),
    ("05.mine", lambda *args: mined_by_rank(*args, how=least_added), "1 : 1, at least 3"),
    ("05.mine", lambda *args: mined_by_rank(*args, how=least_for_the_empty), "1 : 1, at least 3"),
    ("05.mine", lambda *args: mined_by_rank(*args, stable=False), "many equal losses: the first"),
    (
        "05.mine",
        lambda *args: mined_by_rank(*args, how=lambda r, n, m: (r * n).floor().clamp(min=m)),
        "1.3 x 90 is 117",
    ),
    (
        "05.mine",
        lambda *args: mined_by_rank(*args, how=lambda r, n, m: (r * n.double()).long().clamp(m)),
        "0.7 x 90 is 63",
    ),
    (
        "05.mine",
        lambda *args: mined_by_rank(*args, how=lambda r, n, m: (r * n + 0.3).floor().clamp(min=m)),
        "1.8 is rounded down",
    ),
    ("05.mine", least_after_the_cut, "at least 3, and one candidate"),
    ("05.mine", lambda x, p, n, r, m: mined(x, p, ~p, r, m), "ignored"),
    ("05.mine", lambda x, p, n, r, m: mined(x, p, n, r), "at least 2"),
    ("05.mine", lambda x, p, n, r, m: mined(-x, p, n, r, m), "three to one"),
    ("05.mine", lambda x, p, n, r, m: mined(x, p, n, r + 0.5, m), "rounded down"),
    (
        "05.mine",
        lambda x, p, n, r, m: mined(*(t.reshape(1, -1) for t in (x, p, n)), r, m).reshape(x.shape),
        "each picture by itself",
    ),
    (
        "05.mine",
        lambda x, p, n, r, m: mined(x.flip(1), p.flip(1), n.flip(1), r, m).flip(1),
        "equal losses",
    ),
    ("05.mine", lambda x, p, n, r, m: mined(x, p, n, r, max(m, 1)), "without objects"),
    ("05.mine", lambda x, p, n, r, m: mined(x, p, n, r, m) | p, "three to one"),
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


def test_the_ranks_with_a_rounded_quota_are_a_right_answer_too():
    assert verdict("05.mine", lambda *args: mined_by_rank(*args)).startswith(DONE)


def test_the_comparisons_follow_from_the_rows_of_the_contest():
    rows = {"1": ("ce", None), "2": ("ce", 0.01), "3": ("mining", None), "4": ("focal", 0.01)}
    differ = {
        f"{a} and {b}": tuple(x != y for x, y in zip(rows[a], rows[b]))
        for a, b in combinations(rows, 2)
    }
    assert list(differ) == list(DIFFERENCES)
    single = {pair for pair, (loss, prior) in differ.items() if loss != prior}
    assert single == {pair for pair, words in DIFFERENCES.items() if " and " not in words}
    assert {pair for pair in COMPARISONS.values() if pair != NO_PAIR} == single


def test_of_a_second_sort_the_line_names_no_case_and_no_error():
    line = verdict("05.ranks", one_sort(ranks_twice))
    assert line == "✗ 05.ranks: right or not, it sorted 2 times, and once is enough"


def test_sorting_twice_is_a_right_answer_too():
    assert verdict("05.ranks", ranks_twice).startswith(DONE)


@pytest.mark.parametrize(
    ("name", "answer", "borrowed"),
    [
        ("05.mine", lambda *args: hard_negative_mask(*args), "hard_negative_mask"),
        ("05.mine", lambda *args: hard_negative_mask_by_rank(*args), "hard_negative_mask_by_rank"),
        (
            "05.background_loss",
            lambda x: softmax_cross_entropy(x, torch.zeros(x.shape[:-1], dtype=torch.long)),
            "softmax_cross_entropy",
        ),
        ("05.implied_ratio", lambda *args: library_ratio(*args), "implied_ratio"),
    ],
)
def test_the_librarys_own_function_is_refused_by_name(name, answer, borrowed):
    assert f"calls lesson_lib's {borrowed}," in verdict(name, answer)


def test_a_solution_under_one_sort_keeps_its_name_so_that_it_counts_for_nobody():
    assert one_sort(ranks_once).__name__ == "ranks_once"


def test_each_diagnosis_fits_what_the_program_keeps():
    tables = bug_tables()
    assert len({str(table) for table in tables.values()}) == len(tables) == 4
    assert tables["P"] == [[1, 3], [4, 5]]  # anchor 1 is ignored
    assert tables["Q"] == [[3, 4], [4, 5]]  # what is right
    assert tables["R"] == [[4, 5], [3, 5]]  # where 0 and 1 stand in order
    assert sorted(map(len, tables["S"])) == [1, 3]  # unlike numbers: pictures were mined together


def test_the_decisions_are_worked_out_from_the_table():
    loose, strict, forced = TABLE_1D.values()
    assert min(TABLE_1D[DECISIONS[ROW]]) == max(map(min, TABLE_1D.values()))
    assert max(strict) > max(loose)
    assert all(free > bound for free, bound in zip(strict, forced))  # forcing costs at each batch
    assert (
        loose[1] > loose[0] and strict[1] < strict[0]
    )  # the larger batch: better here, worse there


def test_sorts_and_waits_are_counted():
    loss, positive = torch.rand(2, 50), torch.rand(2, 50) < 0.1
    positive[:, 0] = True
    assert calls(hard_negative_mask_by_rank, loss, positive, ~positive) == (2, 0)
    assert calls(partial(hard_negative_mask, dense=True), loss, positive, ~positive) == (0, 2)


@pytest.mark.parametrize(("name", "answer", "case"), MISTAKES)
def test_a_wrong_answer_is_told_which_case_it_misses(name, answer, case):
    sentence = verdict(name, answer)
    assert sentence.startswith(f"{WRONG} {name}") and case in sentence


def test_each_wrong_choice_is_told_why_it_cannot_be():
    for case, right in DECISIONS.items():
        assert right not in DECISION_REASONS[case]
        for wrong, reason in DECISION_REASONS[case].items():
            assert right not in reason
            assert reason in verdict("05.decide", {**DECISIONS, case: wrong}.get)


def test_each_wrong_pair_of_rows_is_told_why_it_cannot_be():
    for question, right in COMPARISONS.items():
        assert {right, *COMPARISON_REASONS[question]} == {NO_PAIR, *DIFFERENCES}
        for wrong, reason in COMPARISON_REASONS[question].items():
            assert right not in reason
            assert reason in verdict("05.honest", {**COMPARISONS, question: wrong}.get)


def test_each_wrong_diagnosis_is_told_why_it_cannot_be():
    for letter, right in BUGS.items():
        assert len(BUG_REASONS[letter]) == 4 and right not in BUG_REASONS[letter]
        for wrong, reason in BUG_REASONS[letter].items():
            assert right not in reason
            assert reason in verdict("05.bugs", {**BUGS, letter: wrong}.get)
