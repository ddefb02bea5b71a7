"""Tiles: they cover the picture, boxes come back to it, seams leave nothing twice or cut."""

import pytest
import torch

from lesson_lib import load
from lesson_lib.course.handover import FAULTS, confused, large_smear
from lesson_lib.data.samples import Sample
from lesson_lib.data.smears import Smears
from lesson_lib.data.tiles import EDGE, cut_tile, in_tiles, join_tiles, tile_corners, whole_in_tile
from lesson_lib.evaluation import coco_evaluate


def found(*rows):
    table = torch.tensor(rows).float().reshape(-1, 6)
    return {"boxes": table[:, :4], "scores": table[:, 4], "labels": table[:, 5].long()}


@pytest.mark.parametrize(
    ("size", "side", "overlap", "corners"),
    [
        ((100, 100), 100, 20, [(0, 0)]),
        ((40, 70), 100, 20, [(0, 0)]),  # smaller than a tile
        ((100, 180), 100, 20, [(0, 0), (80, 0)]),
        ((100, 181), 100, 20, [(0, 0), (40, 0), (81, 0)]),
        ((180, 100), 100, 20, [(0, 0), (0, 80)]),
        ((180, 180), 100, 0, [(0, 0), (80, 0), (0, 80), (80, 80)]),
    ],
)
def test_corners_worked_out_by_hand(size, side, overlap, corners):
    assert tile_corners(size, side, overlap) == corners


@pytest.mark.parametrize("width", range(90, 400, 7))
@pytest.mark.parametrize("overlap", [0, 30, 60])
def test_every_object_as_long_as_the_overlap_lies_whole_in_a_tile(width, overlap):
    starts = [x for x, _ in tile_corners((50, width), 90, overlap)]
    assert starts[0] == 0 and starts[-1] + 90 >= width and max(starts) <= max(0, width - 90)
    for left in range(width - overlap + 1):
        assert any(x <= left and left + overlap <= x + 90 for x in starts)


@pytest.mark.parametrize("overlap", [-1, 90, 100])
def test_an_overlap_that_cannot_be_is_told(overlap):
    with pytest.raises(ValueError, match="give 0 to 89"):
        tile_corners((100, 100), 90, overlap)


def test_a_tile_is_the_picture_from_its_corner_on():
    image = torch.arange(3 * 20 * 30).reshape(3, 20, 30).remainder(251).to(torch.uint8)
    sample = Sample(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), id="a")
    tile = cut_tile(sample, (22, 5), 10)
    assert tile.size == (10, 8) and torch.equal(tile.image, image[:, 5:15, 22:30])
    assert len(tile.boxes) == 0


@pytest.mark.parametrize(
    ("box", "corner", "stays"),
    [
        ((10, 10, 30, 30), (50, 50), True),
        ((0, 10, 30, 30), (50, 50), False),
        ((0, 10, 30, 30), (0, 50), True),  # the picture's own border cut it
        ((10, 1, 30, 30), (50, 50), False),
        ((10, 1, 30, 30), (50, 0), True),
        ((70, 10, 99, 30), (50, 50), False),
        ((70, 10, 99, 30), (100, 50), True),
        ((10, 70, 30, 100), (50, 50), False),
        ((10, 70, 30, 100), (50, 100), True),
        ((EDGE, EDGE, 100 - EDGE, 100 - EDGE), (50, 50), True),
    ],
)
def test_what_an_inner_edge_cuts_is_left_to_the_neighbour(box, corner, stays):
    left = whole_in_tile(found((*box, 0.5, 0)), corner, 100, (200, 200))
    assert (len(left["boxes"]) == 1) == stays and len(left["scores"]) == len(left["labels"])


@pytest.mark.parametrize(("longer", "kept"), [(2 * EDGE, True), (2 * EDGE - 1, False)])
def test_the_overlap_that_leaves_every_object_whole_in_a_tile(longer, kept):
    """An object of 50 px at every place, by half pixels, of a strip of five tiles of 100 px."""
    overlap = int(50 + longer)
    size = 100, 100 + 4 * (100 - overlap)
    corners = tile_corners(size, 100, overlap)
    assert len(corners) == 5
    for_each = [
        sum(
            len(
                whole_in_tile(found((at - x, 10, at - x + 50, 30, 0.5, 0)), (x, y), 100, size)[
                    "boxes"
                ]
            )
            for x, y in corners
            if x <= at <= x + 50
        )
        for at in torch.arange(0, size[1] - 49.5, 0.5).tolist()
    ]
    assert (min(for_each) > 0) == kept


def test_seams_keep_the_surer_of_two_and_both_classes():
    boxes, scores, labels = join_tiles(
        [
            found((70, 10, 90, 30, 0.6, 0), (10, 10, 20, 20, 0.9, 1)),
            found((10, 10, 30, 31, 0.8, 0), (10, 10, 30, 30, 0.3, 2)),
        ],
        [(0, 0), (60, 0)],
        0.5,
    )
    assert boxes.tolist() == [[10, 10, 20, 20], [70, 10, 90, 31], [70, 10, 90, 30]]
    assert scores.tolist() == pytest.approx([0.9, 0.8, 0.3]) and labels.tolist() == [1, 0, 2]


def test_a_perfect_detector_finds_every_object_once():
    """It gives of each tile what of the objects lies in it, cut as the tile cuts it."""
    big = large_smear()
    first = big.image[:, :1, :1]  # tiles are told apart by their ids

    def predict(tiles):
        rows = []
        for tile in tiles:
            x, y = map(int, tile.id.split("-")[-2:])
            boxes = big.boxes - torch.tensor([x, y, x, y])
            boxes = boxes.clamp(min=0).minimum(torch.tensor([*tile.size[::-1]] * 2).float())
            seen = (boxes[:, 2:] > boxes[:, :2]).all(1)
            scores = torch.linspace(1, 0.5, len(boxes))
            rows.append({"boxes": boxes[seen], "scores": scores[seen], "labels": big.labels[seen]})
        return rows

    assert first.numel() == 3
    joined = in_tiles(predict, big, 288, 96, iou_threshold=0.9)
    assert torch.equal(joined["boxes"], big.boxes) and torch.equal(joined["labels"], big.labels)


def test_tiles_find_what_one_look_at_a_large_smear_misses():
    detector, big = load("ssd-tiny-smears"), large_smear()
    whole = coco_evaluate(detector.predict([big]), [big.target()], 3)["AP50"]
    tiled = coco_evaluate([in_tiles(detector.predict, big, 288, 96)], [big.target()], 3)["AP50"]
    assert whole < 0.7 and tiled > 0.9


def test_the_five_matrices_are_five():
    detector, samples = load("ssd-tiny-smears"), list(Smears("val", 6, size=400))
    matrices = [confused(letter, detector, samples) for letter in "ABCDE"]
    assert len({matrix.tobytes() for matrix in matrices}) == len(FAULTS) == 5
    objects = sum(len(sample.boxes) for sample in samples)
    assert all(matrix[:-1].sum() == objects for matrix in matrices)
