"""Drawings of architectures: what stands in them is what the model has.

Expected numbers are the papers'.
"""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from lesson_lib.course.diagrams import draw_architecture, read_shapes
from lesson_lib.detectors.backbones import build_backbone
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSD_CONFIGS, SSDConfig


@pytest.fixture
def drawn():
    """drawn(model, size) -> words in the drawing, number of arrows."""
    figures = []

    def draw(model, size, **options):
        figure, axes = plt.subplots()
        figures.append(figure)
        assert draw_architecture(axes, model, size, **options) is axes
        arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
        return [text.get_text() for text in axes.texts if text.get_text()], arrows

    yield draw
    for figure in figures:
        plt.close(figure)


@pytest.fixture(scope="module")
def paper_ssd():
    return SSD(SSD_CONFIGS["paper-300"])


def tiny_retinanet(**options):
    return RetinaNet(RetinaNetConfig(num_classes=3, backbone="tiny-8", channels=16, **options))


def test_the_papers_ssd_reads_as_in_its_figure(drawn, paper_ssd):
    words, arrows = drawn(paper_ssd, 300)
    for name, cells, channels in (
        ("conv4_3", 38, 512),
        ("fc7", 19, 1024),
        ("conv8_2", 10, 512),
        ("conv9_2", 5, 256),
        ("conv10_2", 3, 256),
        ("conv11_2", 1, 256),
    ):
        assert f"{name}\n{cells} × {cells} × {channels}" in words
    assert [w for w in words if w.replace(",", "").isdigit()] == [
        "5,776",
        "2,166",
        "600",
        "150",
        "36",
        "4",
    ]
    assert "8,732 anchors" in words
    assert [w for w in words if w.startswith("3 × 3, 6")] == ["3 × 3, 6 × (21 classes + 4)"] * 3
    assert len(arrows) == 1 + 5 + 2 * 6  # picture, from map to map, to and from each head


def test_the_model_and_its_mode_stay_as_they_were(paper_ssd):
    paper_ssd.train()
    before = {name: value.clone() for name, value in paper_ssd.state_dict().items()}
    read_shapes(paper_ssd, 300)
    assert paper_ssd.training and all(p.device.type == "cpu" for p in paper_ssd.parameters())
    assert all(torch.equal(before[name], value) for name, value in paper_ssd.state_dict().items())


@pytest.mark.parametrize("p6_from, start", [("C5", 2.52), ("P5", 5.52)])
def test_a_pyramid_says_where_p6_comes_from(drawn, p6_from, start):
    words, arrows = drawn(tiny_retinanet(p6_from=p6_from), (96, 160))
    assert "C5\n3 × 5 × 64" in words and "P3\n12 × 20 × 16" in words and "P7\n1 × 2 × 16" in words
    assert words.count("enlarge, add") == 2
    assert (
        sum(
            "4 times 3 × 3 × 16" in w and "9 × 3 classes" in w and "9 × 4 offsets" in w
            for w in words
        )
        == 1
    )
    ends = [tuple(arrow._posA_posB) for arrow in arrows]
    assert [a[0] for a, b in ends if a[1] == 2.3 and b[1] in (2.7, 3)] == [
        start
    ]  # from the third map to P6


def test_counts_are_those_of_the_outputs(drawn):
    model = tiny_retinanet()
    words, _ = drawn(model, (96, 160))
    outputs = model.eval()(torch.zeros(1, 3, 96, 160)).cls_logits
    assert f"{outputs.shape[1]:,} anchors" in words
    assert (
        sum(int(w.replace(",", "")) for w in words if w.replace(",", "").isdigit())
        == outputs.shape[1]
    )
    millions = sum(p.numel() for p in model.heads.parameters()) / 1e6
    assert f"heads, shared by all levels\n{millions:.2f} M" in words


def test_other_backbones_count_levels_by_their_stride(drawn):
    words, _ = drawn(SSD(SSDConfig(num_classes=3, backbone="tiny-8", image_size=64)), 64)
    assert [w.split("\n")[0] for w in words if " × " in w][:6] == [
        "picture",
        "C3",
        "C4",
        "C5",
        "extra 1",
        "3 × 3, 4 × (4 classes + 4)",
    ]


def test_a_backbone_alone(drawn):
    words, arrows = drawn(build_backbone("tiny-8"), 64)
    assert words == [
        "picture\n64 × 64 × 3",
        "C3\n8 × 8 × 32",
        "C4\n4 × 4 × 48",
        "C5\n2 × 2 × 64",
        words[-1],
    ]
    assert words[-1].startswith("backbone Tiny\n0.") and len(arrows) == 3


@pytest.mark.parametrize("make", [lambda: SSD(SSD_CONFIGS["paper-300"]), tiny_retinanet])
def test_parallel_heads_each_read_their_level_and_end_in_one_nms(make):
    model, (figure, axes) = make(), plt.subplots()
    draw_architecture(axes, model, 300, parallel_heads=True)
    _, levels, (_, classes) = read_shapes(model, 300)
    counts = model.anchor_spec().per_position
    words = [text.get_text() for text in axes.texts]
    assert [w for w in words if w.startswith("class head")] == [
        f"class head: {k} × {classes}" for k in counts
    ]
    assert [w for w in words if w.startswith("box head")] == [f"box head: {k} × 4" for k in counts]
    ends = [p._posA_posB for p in axes.patches if isinstance(p, FancyArrowPatch)]
    into = [end for _, end in ends if end[0] == pytest.approx(7.5 - 0.95)]
    assert len(into) == len({y for _, y in into}) == 2 * len(levels)
    assert [y for (x, y), end in ends if end[0] == pytest.approx(9.9)] == list(range(len(levels)))
    size = sum(p.numel() for p in model.heads.parameters()) / 1e6
    shared = sum(w.startswith(f"one pair for all, {size:.2f} M:\n4 times 3 × 3") for w in words)
    assert shared == isinstance(model, RetinaNet)
    assert sum("NMS" in w for w in words) == 1
    plt.close(figure)


def test_ssds_drawing_leaves_nothing_out(drawn, paper_ssd):
    """L2Norm on conv4_3 alone, the way to fc7 through conv5 and fc6, and each extra map's pair."""
    words, _ = drawn(paper_ssd, 300, complete=True)
    assert words.count("L2Norm") == 1
    way = "pool4, conv5_1 to 5_3, pool5 (stride 1),\nfc6: 3 × 3, holes of 6; fc7: 1 × 1"
    assert way in words
    assert "1 × 1 × 256, 3 × 3, stride 2" in words
    assert words.count("1 × 1 × 128, 3 × 3, no padding") == 2


def test_an_ssd_without_l2norm_shows_none_and_one_with_it_on_every_map_shows_each(drawn):
    for l2norm, count in ((False, 0), (True, 3)):
        config = SSDConfig(num_classes=3, backbone="tiny-8", image_size=64, l2norm=l2norm)
        words, _ = drawn(SSD(config), 64, complete=True)
        assert words.count("L2Norm") == count


def test_l2norm_has_a_colour_of_its_own_without_a_hue(paper_ssd):
    """It is no part of VGG16 (SSD section 3.1 adds it), and blue would say so."""
    figure, axes = plt.subplots()
    draw_architecture(axes, paper_ssd, 300, parallel_heads=True, complete=True)
    (at,) = (text.get_position() for text in axes.texts if text.get_text() == "L2Norm")
    (block,) = (
        patch
        for patch in axes.patches
        if isinstance(patch, FancyBboxPatch)
        and (patch.get_x() + patch.get_width() / 2, patch.get_y() + patch.get_height() / 2)
        == pytest.approx(at)
    )
    red, green, blue, _ = block.get_facecolor()
    assert red == green == blue < 1
    plt.close(figure)


@pytest.mark.parametrize("p6_from", ["C5", "P5"])
def test_a_complete_pyramid_names_its_convolutions(drawn, p6_from):
    """FL (arXiv:1708.02002), section 4, note 2: P6 by 3 x 3 of stride 2, P7 after a ReLU."""
    model = tiny_retinanet(p6_from=p6_from)
    plain, _ = drawn(model, 64, parallel_heads=True)
    words, _ = drawn(model, 64, parallel_heads=True, complete=True)
    new = [word for word in words if word not in plain]
    assert new == ["1 × 1", "3 × 3"] * 3 + ["3 × 3, stride 2", "ReLU, 3 × 3,\nstride 2"]


def test_the_way_down_adds_sums_and_not_levels(drawn):
    """m_l = lateral(C_l) + enlarge(m_l+1), P_l = conv(m_l): FPN (arXiv:1612.03144), section 3."""
    words, arrows = drawn(tiny_retinanet(), 64)
    assert [w for w in words if w[0] == "m"] == ["m3", "m4", "m5"]
    ends = [arrow._posA_posB for arrow in arrows]
    down = [(a, b) for a, b in ends if a[0] == b[0] and b[1] < a[1]]
    assert {a[0] for a, _ in down} == {4.0} and len(down) == 2
    assert sum(a == (4.0 + 0.18, i) and b[1] == i for i in range(3) for a, b in ends) == 3


@pytest.mark.parametrize("parallel_heads", [False, True])
@pytest.mark.parametrize("make", [lambda: SSD(SSD_CONFIGS["paper-300"]), tiny_retinanet])
def test_totals_are_left_out_where_a_page_asks_for_them(drawn, make, parallel_heads):
    words, _ = drawn(make(), 300, parallel_heads=parallel_heads, totals=False)
    assert not [w for w in words if "anchors" in w or w.endswith(" M")]
    assert not [w for w in words if w.replace(",", "").isdigit()]


@pytest.mark.parametrize("make", [lambda: SSD(SSD_CONFIGS["paper-300"]), tiny_retinanet])
def test_without_totals_each_head_has_one_arrow_and_it_ends_in_the_nms(drawn, make):
    words, arrows = drawn(make(), 300, parallel_heads=True, totals=False)
    heads = sum(w.startswith(("class head", "box head")) for w in words)
    ends = [arrow._posA_posB for arrow in arrows]
    assert [a[0] for a, b in ends if b[0] > 7.5] == pytest.approx([7.5 + 0.95] * heads)
    assert [b[0] for a, b in ends if b[0] > 7.5] == pytest.approx([9.9] * heads)


def test_without_totals_ssds_parts_are_named_at_their_blocks(drawn, paper_ssd):
    figure, axes = plt.subplots()
    draw_architecture(axes, paper_ssd, 300, parallel_heads=True, complete=True, totals=False)
    at = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert 0 < at["backbone\nVGG16"] < 2 < at["extra maps"] < 5
    assert (
        at["picture\n300 × 300 × 3"]
        < at["conv1_1 to conv4_3; pool1 to pool3\n(pool3 rounds up)"]
        < 0
    )
    assert "heads, a pair a map, each one 3 × 3" in at
    plt.close(figure)


def test_letters_grow_by_what_is_asked():
    figure, (small, large) = plt.subplots(1, 2)
    sizes = []
    for axes, letters in ((small, 1.0), (large, 1.5)):
        draw_architecture(axes, tiny_retinanet(), 64, complete=True, letters=letters)
        sizes.append([text.get_fontsize() for text in axes.texts])
    assert sizes[1] == pytest.approx([1.5 * size for size in sizes[0]])
    plt.close(figure)
