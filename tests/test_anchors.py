import math
from dataclasses import replace

import pytest
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from lesson_lib.anchors import (
    RETINANET,
    SSD300_SCALES,
    SSD512,
    DefaultBoxes,
    PyramidAnchors,
    anchor_address,
    default_boxes,
    level_slices,
    pyramid_anchors,
    release_scales,
    ssd_scales,
)
from lesson_lib.boxes import xyxy_to_cxcywh

TWO_MAPS = DefaultBoxes((100, 200), ((2, 5), (1, 2)), (0.1, 0.4, 0.9), ((2,), (2, 3)))


def torchvision_anchors(generator, image_size, grids):
    pictures = ImageList(torch.zeros(1, 3, *image_size), [image_size])
    return generator(pictures, [torch.zeros(1, 1, *grid) for grid in grids])[0]


# ---------------------------------------------------------------- SSD


def test_scales_of_equation_4():
    assert ssd_scales(6) == pytest.approx((0.2, 0.34, 0.48, 0.62, 0.76, 0.9, 1.04))
    assert ssd_scales(5) == pytest.approx((0.2, 0.375, 0.55, 0.725, 0.9, 1.075))
    assert ssd_scales(2, 0.1, 0.5) == pytest.approx((0.1, 0.5, 0.9))
    with pytest.raises(ValueError, match="at least 2"):
        ssd_scales(1)


def test_scales_of_the_release_are_whole_percents():
    assert [round(300 * s, 9) for s in release_scales()] == [30, 60, 111, 162, 213, 264, 315]
    assert release_scales(low=15, first=7) == (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
    assert release_scales(7, low=15, first=7) == pytest.approx(SSD512.scales)  # 5 divides 75


@pytest.mark.parametrize(
    "name, sides",
    [
        ("paper-eq4", (60, 102, 144, 186, 228, 270, 312)),
        ("paper-conv4_3", (30, 60, 112.5, 165, 217.5, 270, 322.5)),
        ("caffe-voc", (30, 60, 111, 162, 213, 264, 315)),
        ("torchvision-coco", (21, 45, 99, 153, 207, 261, 315)),
    ],
)
def test_the_four_published_sets(name, sides):
    spec = SSD300_SCALES[name]
    boxes = default_boxes(spec)
    assert spec.per_position == (4, 6, 6, 6, 4, 4) and spec.counts() == (
        5776,
        2166,
        600,
        150,
        36,
        4,
    )
    assert boxes.shape == (spec.total(), 4) == (8732, 4) and boxes.dtype == torch.float32
    for level, rows in enumerate(level_slices(spec)):
        first, extra = xyxy_to_cxcywh(boxes[rows])[:2, 2:]
        assert first.tolist() == pytest.approx([sides[level]] * 2, abs=1e-3)
        between = math.sqrt(sides[level] * sides[level + 1])
        assert extra.tolist() == pytest.approx(
            [min(between, 300) if spec.clip else between] * 2, abs=1e-3
        )
    for other in SSD300_SCALES:
        assert other == name or not torch.equal(boxes, default_boxes(SSD300_SCALES[other]))


def test_ssd512():
    assert SSD512.total() == len(default_boxes(SSD512)) == 24564 and SSD512.per_position == (
        4,
        6,
        6,
        6,
        6,
        4,
        4,
    )
    assert SSD512.scales == pytest.approx((0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05))


def test_a_cell_by_hand():
    """Height 100, width 200, two rows of five: cell (1, 2) has its centre at (100, 75); .1 is
    20 x 10 px.
    """
    cell = xyxy_to_cxcywh(default_boxes(TWO_MAPS))[4 * (1 * 5 + 2) :][:4]
    root = math.sqrt(2)
    expected = torch.tensor(
        [
            [100, 75, 20, 10],
            [100, 75, 40, 20],  # sqrt(.1 * .4) = .2
            [100, 75, 20 * root, 10 / root],
            [100, 75, 20 / root, 10 * root],
        ]
    )
    torch.testing.assert_close(cell, expected)


def test_centre_rules():
    """The paper's cells share the picture; the release's steps leave it: 304 on the 10 x 10 map."""
    paper, release = (
        xyxy_to_cxcywh(default_boxes(SSD300_SCALES[n])) for n in ("paper-conv4_3", "caffe-voc")
    )
    fine, _, third, *_ = level_slices(SSD300_SCALES["caffe-voc"])
    assert (
        paper[fine][4, 0].item() == pytest.approx(1.5 * 300 / 38)
        and release[fine][4, 0].item() == 12
    )
    assert paper[third][-1, :2].tolist() == [285, 285] and release[third][-1, :2].tolist() == [
        304,
        304,
    ]


@pytest.mark.parametrize("spec", [*SSD300_SCALES.values(), SSD512, TWO_MAPS])
@pytest.mark.parametrize("clip", [True, False])
def test_default_boxes_equal_torchvisions(spec, clip):
    spec = replace(spec, clip=clip)
    size, *grids = (g if isinstance(g, tuple) else (g, g) for g in (spec.image_size, *spec.grids))
    reference = DefaultBoxGenerator(
        [list(r) for r in spec.aspect_ratios],
        scales=list(spec.scales),
        steps=spec.strides and list(spec.strides),
        clip=clip,
    )
    expected = torchvision_anchors(reference, size, grids)
    torch.testing.assert_close(default_boxes(spec), expected, rtol=0, atol=1e-4)


def test_our_torchvision_set_is_what_torchvision_ships():
    from torchvision.models.detection import ssd300_vgg16

    generator = ssd300_vgg16(weights=None, weights_backbone=None).anchor_generator
    spec = SSD300_SCALES["torchvision-coco"]
    assert tuple(generator.scales) == spec.scales and tuple(generator.steps) == spec.strides
    assert (
        generator.clip is spec.clip
        and tuple(map(tuple, generator.aspect_ratios)) == spec.aspect_ratios
    )


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(scales=(0.1, 0.4)), "need 3 scales"),
        (dict(aspect_ratios=((2,),)), "one entry"),
        (dict(strides=(50,)), "one entry"),
        (dict(scales=(0.1, 0.4, 0.0)), "positive"),
        (dict(aspect_ratios=((2,), (-2,))), "positive"),
        (dict(scales=(0.1, 0.4, math.nan)), "positive"),
        (dict(grids=((2, 4), (0, 2))), "positive"),
        (dict(strides=(50, 0)), "positive"),
        (dict(image_size=(100, 0)), "positive"),
    ],
)
def test_a_nonsense_specification_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TWO_MAPS, **change)


# ---------------------------------------------------------------- RetinaNet


@pytest.mark.parametrize(
    "size, count",
    [(512, 49104), (600, 67995), (640, 76725), ((600, 1000), 113193), ((800, 1344), 201600)],
)
def test_counts_of_the_pyramid(size, count):
    assert sum(RETINANET.counts(size)) == len(pyramid_anchors(size)) == count


def test_nine_anchors_of_one_area_per_scale():
    boxes = xyxy_to_cxcywh(pyramid_anchors((256, 384)))
    for level, rows in enumerate(level_slices(RETINANET.counts((256, 384)))):
        stride, (w, h) = (
            8 * 2**level,
            boxes[rows][:9, 2:].reshape(3, 3, 2).unbind(-1),
        )  # (ratio, scale)
        torch.testing.assert_close(w / h, torch.tensor([[0.5], [1.0], [2.0]]).expand(3, 3))
        sides = 4 * stride * torch.tensor([1.0, 2 ** (1 / 3), 2 ** (2 / 3)])
        torch.testing.assert_close((w * h).sqrt(), sides.expand(3, 3))
        assert boxes[rows][:9, :2].unique().tolist() == [stride / 2]


@pytest.mark.parametrize("size", [(608, 608), (512, 512), (800, 1088), (64, 96)])
def test_pyramid_equals_torchvisions(size):
    """Its order, ratios, whole-number sizes, rounding and centres, at the sizes that it pads
    pictures to.
    """
    from torchvision.models.detection.retinanet import _default_anchorgen

    spec = PyramidAnchors(aspect_ratios=(2, 1, 0.5), centre="corner", rounded=True)
    expected = torchvision_anchors(_default_anchorgen(), size, spec.grids_for(size))
    assert torch.equal(pyramid_anchors(size, spec), expected)
    if size == (608, 608):
        assert len(expected) == 69354


def test_what_torchvision_rounds_and_shifts():
    ours, rounded = (
        xyxy_to_cxcywh(pyramid_anchors(608, PyramidAnchors(rounded=r))) for r in (False, True)
    )
    assert ours[0, 2:].tolist() == pytest.approx([32 / math.sqrt(2), 32 * math.sqrt(2)])
    assert rounded[0, 2:].tolist() == [22, 46] and round(22 / 46, 3) == 0.478
    assert ours[4, 2].item() == pytest.approx(32 * 2 ** (1 / 3)) and rounded[4, 2].item() == 40
    for centre, first, steps in (
        ("half", 4, [8, 16, 32, 64, 128]),
        ("corner", 0, [8, 16, 32, 60, 121]),
    ):
        x = xyxy_to_cxcywh(pyramid_anchors(608, PyramidAnchors(centre=centre)))[:, 0]
        assert x[0].item() == pytest.approx(first, abs=1e-4)
        neighbours = [
            (x[rows][9] - x[rows][0]).item() for rows in level_slices(RETINANET.counts(608))
        ]
        assert neighbours == pytest.approx(steps)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(strides=(8,)), "as many"),
        (dict(sizes=(32, 0, 1, 1, 1)), "positive"),
        (dict(centre="middle"), "'half'"),
        (dict(scales=(math.inf,)), "positive"),
        (dict(aspect_ratios=(-1,)), "positive"),
    ],
)
def test_a_nonsense_pyramid_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        PyramidAnchors(**change)


# ---------------------------------------------------------------- order


@pytest.mark.parametrize("kind", ["ssd", "retinanet"])
def test_order_is_level_row_column_anchor(kind):
    """Follow one box to its address, and every address back to its row."""
    if kind == "ssd":
        grids, per_position, strides = TWO_MAPS.grids, TWO_MAPS.per_position, ((50, 40), (100, 100))
        boxes = default_boxes(TWO_MAPS)
    else:
        grids, per_position, boxes = (
            RETINANET.grids_for((70, 100)),
            (9,) * 5,
            pyramid_anchors((70, 100)),
        )
        strides = [(stride, stride) for stride in PyramidAnchors().strides]
    centres, index = xyxy_to_cxcywh(boxes)[:, :2], 0
    for level, ((height, width), (step_y, step_x)) in enumerate(zip(grids, strides)):
        for row in range(height):
            for column in range(width):
                for anchor in range(per_position[level]):
                    assert anchor_address(index, grids, per_position) == (
                        level,
                        row,
                        column,
                        anchor,
                    )
                    here = [(column + 0.5) * step_x, (row + 0.5) * step_y]
                    assert centres[index].tolist() == pytest.approx(here)
                    index += 1
    assert index == len(boxes)
    for beyond in (index, -1):
        with pytest.raises(IndexError, match=f"there are {index}"):
            anchor_address(beyond, grids, per_position)


def test_a_known_address():
    spec = SSD300_SCALES["paper-eq4"]
    assert anchor_address(5776, spec.grids, spec.per_position) == (1, 0, 0, 0)
    assert anchor_address(38 * 4 + 5, spec.grids, spec.per_position) == (0, 1, 1, 1)
    assert level_slices((5776, 2166, 600))[1] == slice(5776, 7942)
