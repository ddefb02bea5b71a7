"""Receptive fields: counted, measured by gradient and drawn.

The expected numbers are counted here with sets of pixels, or are the papers' layers worked out by
hand.
"""

import pytest
import torch

from lesson_lib.course import fields
from lesson_lib.course.fields import Layer, receptive_field, ssd300_layers
from lesson_lib.course.story import running_smear
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSD_CONFIGS, SSDConfig


@pytest.fixture(scope="module")
def paper():
    with torch.device("meta"):
        return SSD(SSD_CONFIGS["paper-300"])


def tiny_ssd():
    return SSD(SSDConfig(num_classes=3, backbone="tiny-8", image_size=64, extras=()))


def tiny_retinanet():
    return RetinaNet(RetinaNetConfig(num_classes=3, backbone="tiny-8", channels=16))


def test_the_papers_layers_are_counted_to_the_output_row(paper):
    """Maps 92, 420, 452, 516, 644, 772 px at strides 8 .. 64; the head's 3 x 3 adds 2 strides."""
    found = [receptive_field([x[1:] for x in ssd300_layers(paper, level)]) for level in range(6)]
    assert found == [(108, 8), (452, 16), (516, 32), (644, 64), (772, 64), (900, 64)]
    names = [layer.name for layer in ssd300_layers(paper, 1)]
    assert names[-4:] == ["pool5", "fc6", "fc7", "head"] and len(names) == 13 + 5 + 3


def test_what_is_measured_is_what_is_counted():
    """Tiny: 5 convolutions of stride 2, a residual 3 x 3 behind each of the last three."""
    stem = [(3, 2, 1), (3, 2, 1)]
    c3 = [*stem, (3, 2, 1), (3, 1, 1)]
    c4 = [*c3, (3, 2, 1), (3, 1, 1)]
    found = fields.measured_fields(tiny_ssd(), 2, width=384)
    for level, layers in enumerate((c3, c4)):
        own, _ = receptive_field(layers)
        row, _ = receptive_field([*layers, (3, 1, 1)])
        assert found[level] == {"backbone": own, "map": own, "row": row}


def test_the_pyramid_brings_the_coarsest_view_to_the_finest_map():
    model = tiny_retinanet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    p3, _, p5 = fields.measured_fields(model, 3, width=768)
    assert p3["backbone"] < p5["backbone"] <= p3["map"] <= p3["row"] - 2 * 4 * 8
    assert p5["row"] == p5["map"] + 5 * 2 * 32  # four convolutions of the tower, and the last
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_field_that_reaches_the_border_is_refused():
    with pytest.raises(ValueError, match="give a width over 96 px"):
        fields.measured_fields(tiny_retinanet(), 1, width=96)


def test_pull_is_a_share_and_its_square_holds_what_is_asked():
    weights = torch.zeros(20, 20)
    weights[8:12, 8:12] = 0.9 / 16
    weights[0, 0] = 0.1
    assert fields.side_that_holds(0.9 - 1e-4, weights, 10) == 4
    assert fields.side_that_holds(0.95, weights, 10) == 20
    assert fields.side_that_holds(1.5, weights, 10) == 40
    torch.manual_seed(0)
    model = tiny_retinanet().eval()
    near, far = fields.pulls(model, 2, [running_smear(64)])
    assert near.shape == (64, 64) and near.sum() == pytest.approx(1, abs=1e-4)
    assert (near >= 0).all() and not torch.equal(near, far)


def test_the_statistics_of_norms_let_nothing_be_seen():
    """Through a mean over the map every pixel moves every row; held fixed, only its field does."""
    torch.manual_seed(0)
    model = tiny_retinanet().eval()
    field = fields.measured_fields(tiny_ssd(), 1, width=384)[0]["backbone"] + 6 * 2 * 8
    widths = []
    for way_down in (False, True):
        (pull,) = fields.pulls(model, 1, [running_smear(288)], way_down)
        columns = (pull.sum(dim=0) > 0).nonzero().flatten()
        widths.append(int(columns[-1] - columns[0] + 1))
    assert widths[0] == field < widths[1] < 288
    images = torch.rand(1, 3, 64, 64)
    with fields._fixed(way_down=False):
        fixed = model.features(images)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(fixed, model.features(images)))


@pytest.mark.parametrize(("model", "stride"), [(tiny_ssd(), 8), (tiny_retinanet(), 8)])
def test_the_middle_position_has_its_anchors_there(model, stride):
    anchors = model.anchors(64)
    spec = model.anchor_spec(64)
    k, middle = spec.per_position[0], fields.middle_of(model, 0, 64)
    row = (4 * 8 + 4) * k
    centre = (anchors[row, :2] + anchors[row, 2:]) / 2
    assert centre.tolist() == pytest.approx([middle, middle]) and middle == 4.5 * stride


@pytest.mark.parametrize(("count", "words"), [(0, "sees 1 px"), (2, "sees 5 px"), (3, "6 px")])
def test_the_growing_field_says_what_is_seen(count, words):
    layers = [Layer("conv1_1", 3), Layer("conv1_2", 3), Layer("pool1", 2, 2)]
    drawn = fields.growth_drawing(running_smear(64).image, layers, count, (30, 30))
    assert words in drawn and drawn.count("<path") >= 2


def test_the_cone_colours_what_the_top_is_made_of():
    layers = [Layer("a", 3), Layer("b", 2, 2), Layer("c", 3, 1, 2)]
    drawn = fields.cone_drawing(layers, 24)  # 3, then 4, then 4 + 2 x 2 x 2
    assert [f"{name}: sees {n}" in drawn for name, n in zip("abc", (3, 4, 12))] == [True] * 3
    taps = {0, 2, 4}  # of c, on b, 2 pixels apart, each of 4 pixels
    assert f"made of {len({2 * t + i for t in taps for i in range(4)})} of the 24" in drawn


def test_before_the_question_the_cone_is_not_followed():
    drawn = fields.cone_drawing([Layer("a", 3), Layer("b", 2, 2)], 12, followed=False)
    assert "sees" not in drawn and "made of" not in drawn and drawn.count('r="5"') == 1


def test_three_kernels_span_the_same_pixels():
    drawn = fields.holes_drawing(running_smear(300).image, (150, 150))
    assert drawn.count("192 px from first tap to last.") >= 3
