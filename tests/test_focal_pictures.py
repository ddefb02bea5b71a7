"""Lesson 4's pictures and its race: what is painted, charted and counted is what the answers
say.
"""

import math
import re
from types import SimpleNamespace

import pytest
import torch

from lesson_lib.anchors import PyramidAnchors, pyramid_anchors
from lesson_lib.course import focal_charts as charts
from lesson_lib.course.focal_pictures import (
    Answers,
    anchor_losses,
    answers,
    background_share,
    brightness_key,
    glowing,
    loss_map,
    spread,
)
from lesson_lib.course.race import (
    ANCHORS,
    SIDE,
    RaceNet,
    among_surest,
    hits_of_yes,
    race_set,
    said_yes,
)
from lesson_lib.course.story import running_smear
from lesson_lib.data.samples import Sample
from lesson_lib.data.smears import Smears
from lesson_lib.losses import binary_cross_entropy, sigmoid_focal_loss
from lesson_lib.matching import IGNORE, NEGATIVE, POSITIVE, match_retinanet

SPEC = PyramidAnchors(sizes=(10, 20, 40, 80, 160))


class Fixed:
    """A model that says the same of every picture: `logits` (A, K)."""

    def __init__(self, logits):
        self.logits = logits

    def eval(self):
        return self

    def anchor_spec(self, size):
        return SPEC

    def anchors(self, size):
        return pyramid_anchors(size, SPEC)

    def __call__(self, images):
        assert images.dtype == torch.float32 and images.max() <= 1
        return SimpleNamespace(cls_logits=self.logits[None])


@pytest.fixture
def one_cell():
    """One white cell in a grey picture of 128 px, and the match of SPEC's anchors."""
    box = torch.tensor([[40.0, 40.0, 66.0, 62.0]])
    image = torch.full((3, 128, 128), 200, dtype=torch.uint8)
    sample = Sample(image, box, torch.tensor([1]))
    return sample, match_retinanet(box, pyramid_anchors(128, SPEC))


def test_answers_are_turned_towards_the_right_one_and_ignored_anchors_left_out(one_cell):
    sample, match = one_cell
    logits = torch.full((len(match.label), 3), -5.0)
    logits[match.label == POSITIVE, 1] = 7.0
    logits[match.label == IGNORE] = 99.0
    first = (match.label == POSITIVE).nonzero()[0, 0]
    logits[first] = torch.tensor([3.0, -2.0, -5.0])  # wrong: class 0 instead of class 1
    said = answers(Fixed(logits), sample)
    positive, negative = said.turned()
    count = int((match.label == POSITIVE).sum())
    assert sorted(positive.tolist()) == [-2.0] + [7.0] * (count - 1)
    assert len(negative) == 3 * int((match.label != IGNORE).sum()) - count
    assert sorted(negative.tolist())[:2] == [-3.0, 5.0] and negative.max() == 5
    assert sum(said.counts) == len(logits) and said.strides == (8, 16, 32, 64, 128)


def test_the_loss_of_an_anchor_is_its_cross_entropy_at_gamma_0_and_nothing_where_ignored(one_cell):
    sample, match = one_cell
    said = answers(Fixed(torch.randn(len(match.label), 3)), sample)
    losses = anchor_losses(said, sigmoid_focal_loss, 0.0)
    plain = binary_cross_entropy(said.logits, said.targets).sum(1)
    assert torch.allclose(losses[said.label != IGNORE], plain[said.label != IGNORE])
    assert (losses[said.label == IGNORE] == 0).all() and (said.label == IGNORE).any()
    background = plain[said.label == NEGATIVE].sum() / plain[said.label != IGNORE].sum()
    assert background_share(said, losses) == pytest.approx(background.item(), rel=1e-4)


def flat(label=NEGATIVE, count=3069):
    """Answers of a picture of 128 px whose anchors all have one label."""
    zeros = torch.zeros(count, 3)
    labels = torch.full((count,), label)
    return Answers(zeros, zeros.bool(), labels, SPEC.counts((128, 128)), SPEC.strides)


def test_the_loss_is_painted_where_its_position_is():
    losses = torch.zeros(3069)
    losses[9 * (16 * 2 + 5) + 3] = 64.0  # P3: row 2, column 5, the fourth of nine anchors
    losses[9 * (256 + 8 * 1 + 0)] = 512.0  # P4: row 1, column 0
    painted = spread(flat(), losses, (128, 128))
    assert painted[16:24, 40:48].tolist() == [[1.0] * 8] * 8
    assert painted[16:32, :16].tolist() == [[2.0] * 16] * 16
    assert painted.sum() == 64 + 512
    assert spread(flat(), losses, (128, 128), "P3").sum() == 64
    assert spread(flat(), losses, (128, 128), "P4").sum() == 512
    assert spread(flat(), losses, (128, 128), "P7").sum() == 0


def test_a_picture_glows_where_the_loss_is():
    image, painted = torch.full((3, 8, 8), 120, dtype=torch.uint8), torch.zeros(8, 8)
    painted[:4] = 1.0
    painted[0, 0] = 30.0
    lit = glowing(image, painted).float().sum(0)
    assert lit.shape == (8, 8) and lit[0, 0] > lit[2, 2] > lit[6, 6]


def test_the_map_says_who_makes_the_loss(one_cell):
    sample, match = one_cell
    logits = torch.full((len(match.label), 3), -4.0)
    said = answers(Fixed(logits), sample)
    for gamma in (0.0, 2.0):
        share = background_share(said, anchor_losses(said, sigmoid_focal_loss, gamma))
        words = re.search(
            r"background (\d+)% of the loss, objects (\d+)%",
            loss_map(sample, said, sigmoid_focal_loss, gamma),
        )
        assert [int(part) for part in words.groups()] == pytest.approx(
            [100 * share, 100 - 100 * share], abs=0.6
        )
    assert "painted: P4" in loss_map(sample, said, sigmoid_focal_loss, 0.0, "P4")


def test_the_brightest_place_is_framed_where_it_lies_in_no_box(one_cell):
    sample, match = one_cell
    inside = (match.label == POSITIVE).nonzero()[0, 0]
    said = answers(Fixed(torch.full((len(match.label), 3), -9.0)), sample)
    for at, framed in ((inside, False), (0, True)):  # anchor 0 lies at the picture's corner
        said.logits.fill_(-9.0)
        said.logits[at, 0] = 9.0
        said.logits[match.label == POSITIVE, 1] = 9.0
        drawn = loss_map(sample, said, sigmoid_focal_loss, 2.0)
        assert (">no label</text>" in drawn) == framed


def test_the_key_of_the_map_stands_at_the_brightness_of_its_numbers():
    image, painted = torch.full((3, 1, 100), 153, dtype=torch.uint8), torch.zeros(1, 100)
    painted[0, :2] = torch.tensor([60.0, 40.0])  # times the even share
    lit = glowing(image, painted)
    assert torch.equal(lit[:, 0, 0], lit[:, 0, 1]), "from 40 times the even share on alike"
    places = dict(
        re.findall(r'<text x="([\d.]+)" y="31"[^>]*>([\d.]+)', brightness_key(marks=(0, 1, 40)))
    )
    at = {mark: float(x) for x, mark in places.items()}
    assert at["0"] == 260 and at["40"] == 560
    assert at["1"] == pytest.approx(260 + 300 * math.log(2) / math.log(41), abs=0.1)


def test_the_shipped_detector_shows_what_the_lesson_says():
    """At gamma 0 nearly all of the loss is background's, at 2 less than half."""
    import lesson_lib

    detector = lesson_lib.load("retinanet-tiny-smears")
    said = answers(detector.model, running_smear(detector.size))
    shares = [
        background_share(said, anchor_losses(said, sigmoid_focal_loss, g)) for g in (0.0, 2.0)
    ]
    assert shares[0] > 0.8 and shares[1] < 0.35


def test_figure_1_says_the_discount():
    assert "at pₜ = .9, CE / 100" in charts.figure_1(2.0)
    assert "at pₜ = .9, CE / 10.0" in charts.figure_1(1.0)


def test_the_slope_is_steeper_by_what_finite_differences_say():
    z = torch.linspace(-6, 6, 121, dtype=torch.float64)
    step = 1e-6
    found = (charts.focal_at(z - step, 2.0) - charts.focal_at(z + step, 2.0)) / (2 * step)
    assert torch.allclose(charts.pull(z, 2.0), found, atol=1e-6)
    most = (found / (1 - z.sigmoid())).max().item()
    assert 1.2 < most < 1.25  # as the lesson says in its answer, and the chart's title does not
    assert "times as steep" not in charts.slopes(2.0, 0.25)


@pytest.fixture
def tally():
    """Three positives at z 2, 0, -1; a thousand negatives at z 4 and ten at -3; one ignored."""
    logits = torch.cat(
        [torch.tensor([2.0, 0, -1]), torch.full((1000,), -4.0), torch.full((11,), 3.0)]
    )
    label = torch.cat([torch.ones(3), torch.zeros(1010), -torch.ones(1)]).long()
    return charts.Tally([Answers(logits[:, None], (label == 1)[:, None], label, (), ())])


def test_a_tally_counts_all_answers_easiest_first(tally):
    assert [tally.total(kind) for kind in ("positives", "negatives")] == [3, 1010]
    places = {kind: tally.z[count > 0].tolist() for kind, count in tally.counts.items()}
    assert places == {"positives": [2.0, 0.0, -1.0], "negatives": [4.0, -3.0]}
    softplus = [math.log1p(math.exp(-z)) for z in (2.0, 0.0, -1.0)]
    assert tally.loss("positives", 0.0) == pytest.approx(sum(softplus))


def test_a_tally_says_who_makes_the_loss(tally):
    easy, hard = 1000 * math.log1p(math.exp(-4)), 10 * math.log1p(math.exp(3))
    assert tally.of_hardest("negatives", 0.0, 10 / 1010) == pytest.approx(hard / (easy + hard))
    faded = [easy * (1 + math.exp(4)) ** -2, hard * (1 + math.exp(-3)) ** -2]
    assert tally.of_hardest("negatives", 2.0, 10 / 1010) == pytest.approx(faded[1] / sum(faded))
    assert tally.of_hardest("negatives", 2.0, 1.0) == 1
    alpha = tally.balancing_alpha(2.0)
    assert alpha * tally.loss("positives", 2.0) == pytest.approx((1 - alpha) * sum(faded))
    share = f"{1 - tally.balancing_alpha(0.0):.0%}"  # at alpha .5 each side counts as it is
    assert f"the objects make {share} of the loss" in charts.balance(tally, 0.0, 0.5)


def test_every_chart_has_words_for_those_who_do_not_see_it(tally):
    lanes = {"platelets": {"focal": [(0, 0.0), (50, 0.4), (100, 0.8)]}}
    drawn = (
        charts.figure_4(tally, 2.0),
        charts.opposites(2.0, 1.0),
        charts.first_loss(2.0, 0.0),
        charts.race_charts(lanes),
    )
    for picture, words in zip(drawn, ("hardest 1%", "Huber", "least at", "platelets: focal")):
        assert words in re.search(r'aria-label="([^"]*)"', picture)[1]
    assert ">10⁻⁵</text>" in charts.first_loss(2.0, 0.0)
    at = re.search(r"least at π = ([\d.]+)", charts.first_loss(2.0, 0.0))[1]
    assert float(at) == pytest.approx(100 / 8_000_100, rel=0.3)  # the share of "yes" in all answers


def test_a_dot_marks_the_lowest_first_loss_of_each_gamma():
    dots = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', charts.first_loss(2.0, 0.0))
    (theirs, _), (plain, _) = ((float(x), float(y)) for x, y in dots)
    assert plain < theirs  # cross entropy asks for a firmer "no" than focal loss
    assert len(re.findall("<circle", charts.first_loss(2.0, 2.0))) == 1


def test_a_loss_that_finds_nothing_is_seen_above_the_axis():
    lane = [(0, 0.0), (50, 0.0), (100, 0.0)]
    drawn = charts.race_charts({"platelets": {"cross entropy": lane}})
    across = re.search(r'd="M0 ([\d.]+)L[\d.]+ \1L[\d.]+ \1"[^>]*stroke-width="2"', drawn)[1]
    axis = re.search(r'd="M0 0V([\d.]+)H', drawn)[1]
    assert float(axis) - float(across) > 8


def test_races_share_one_key():
    lanes = {"cross entropy": [(0, 0.0), (9, 1.0)], "focal": [(0, 0.0), (9, 0.5)]}
    drawn = charts.race_charts({"red cells": lanes, "platelets": lanes})
    assert drawn.count(">cross entropy</text>") == drawn.count(">focal</text>") == 1
    assert "red cells: cross entropy, focal platelets: cross entropy, focal" in drawn


class Knows(torch.nn.Module):
    """A racer that is sure of what it is told: logits (N, A), handed out in the order of asking."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.at = logits, 0

    def forward(self, images):
        part = self.logits[self.at : self.at + len(images)]
        self.at += len(images)
        return part


@pytest.fixture(scope="module")
def platelets():
    return race_set(Smears("val", 20, SIDE)[:], 2)


def test_the_race_on_platelets_is_the_less_balanced_one(platelets):
    red = race_set(Smears("val", 20, SIDE)[:], 0)
    assert platelets.label.shape == (20, ANCHORS.total(SIDE)) == (20, 5120)
    assert platelets.imbalance() > 1000 and red.imbalance() < 50
    ratio = (red.label == NEGATIVE).sum().item() / (red.label == POSITIVE).sum().item()
    assert red.imbalance() == pytest.approx(ratio)


def test_a_racer_that_knows_the_match_finds_all_and_one_that_says_no_finds_none(platelets):
    right = torch.where(platelets.label == POSITIVE, 5.0, -5.0)
    assert said_yes(Knows(right), platelets) > 0.8  # all that an anchor overlaps by .5
    assert said_yes(Knows(right - 6), platelets) == 0
    assert among_surest(Knows(right - 6), platelets) > 0.8  # it ranks, and says no
    assert among_surest(Knows(-right), platelets) == 0


def test_a_racer_that_says_yes_everywhere_finds_all_and_hits_little(platelets):
    right = torch.where(platelets.label == POSITIVE, 5.0, -5.0)
    assert hits_of_yes(Knows(right), platelets) > 0.9  # a best anchor may overlap by less than .5
    assert math.isnan(hits_of_yes(Knows(right - 6), platelets))
    everywhere = torch.full_like(right, 5.0)
    assert said_yes(Knows(everywhere), platelets) > 0.8
    assert hits_of_yes(Knows(everywhere), platelets) < 0.05


def test_a_racer_starts_at_the_prior_and_goes_on_in_the_mode_it_had(platelets):
    torch.manual_seed(0)
    network = RaceNet().train()
    logits = network(platelets.images[:2])
    assert logits.shape == (2, 5120)
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)
    said_yes(network, platelets)
    assert network.training


def test_the_rows_of_a_racer_are_those_of_its_anchors():
    """A bump of the last layer's bias for the third square shows at every third of five rows."""
    network = RaceNet().eval()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias[2] += 1
        logits = network(torch.zeros(1, 3, SIDE, SIDE))[0].reshape(-1, 5)
    assert (logits[:, 2] - logits[:, 0]).tolist() == pytest.approx([1.0] * 1024)
    sides = pyramid_anchors(SIDE, ANCHORS)[:5]
    assert (sides[:, 2] - sides[:, 0]).tolist() == pytest.approx(
        [8 * f for f in (1, 1.4, 2, 2.8, 4)]
    )
