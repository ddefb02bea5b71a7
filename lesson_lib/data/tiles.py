"""Large pictures in tiles: cut with overlap, detect in each, move boxes back, join at the seams.

    found = in_tiles(detector.predict, sample, side=288, overlap=96)

A detector shrinks a large picture to its own size, and small objects vanish. In tiles they keep
their size. What ends within EDGE px of a tile's inner edge is taken for cut and dropped, so the
overlap must be longer than the longest object by 2 * EDGE, and by as much more as boxes may be too
wide: then each lies whole in some tile. (The scheme is that of "Slicing Aided Hyper Inference",
arXiv:2202.06934, without its pass over the whole picture.)
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lesson_lib.data.samples import Sample
from lesson_lib.nms import class_aware_nms

Corner = tuple[int, int]  # x, y of a tile's upper left corner, px of the large picture
Found = dict[str, Tensor]  # "boxes" (N, 4) xyxy px, "scores" (N,), "labels" (N,)

EDGE = 2.0  # px: a box that ends this near to an inner edge was cut by it


def tile_corners(size: tuple[int, int], side: int, overlap: int) -> list[Corner]:
    """Corners of square tiles that cover a picture of size (height, width), row by row.

    Neighbours share `overlap` px or more. The last row and column end at the picture's border; in a
    picture that is smaller than a tile all tiles begin at 0.
    ValueError for an overlap that leaves no way forward.
    """
    if not 0 <= overlap < side:
        raise ValueError(
            f"Tiles of {side} px cannot overlap by {overlap} px: give 0 to {side - 1}."
        )
    starts = []
    for length in size:
        count = max(1, math.ceil((length - overlap) / (side - overlap)))
        last = max(0, length - side)
        starts.append([round(last * i / max(1, count - 1)) for i in range(count)])
    return [(x, y) for y in starts[0] for x in starts[1]]


def cut_tile(sample: Sample, corner: Corner, side: int) -> Sample:
    """One tile of a picture, without boxes; smaller where the picture ends."""
    x, y = corner
    image = sample.image[:, y : y + side, x : x + side]
    none = torch.zeros(0, dtype=torch.int64)
    return Sample(image, torch.zeros(0, 4), none, id=f"{sample.id}-{x}-{y}")


def whole_in_tile(found: Found, corner: Corner, side: int, size: tuple[int, int]) -> Found:
    """Detections of a tile without those that its inner edges cut; the picture's border cuts none.

    found: in px of the tile; size: (height, width) of the large picture
    """
    (x, y), (height, width), boxes = corner, size, found["boxes"]
    cut = torch.zeros(len(boxes), dtype=torch.bool)
    for inner, near in (
        (x > 0, boxes[:, 0] < EDGE),
        (y > 0, boxes[:, 1] < EDGE),
        (x + side < width, boxes[:, 2] > side - EDGE),
        (y + side < height, boxes[:, 3] > side - EDGE),
    ):
        if inner:
            cut |= near
    return {name: values[~cut] for name, values in found.items()}


def join_tiles(
    found: Sequence[Found], corners: Sequence[Corner], iou_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Detections of all tiles, in px of the tiles -> the picture's, best first.

    What two tiles found is there twice: NMS by class keeps the surer one. Returns boxes (N, 4) xyxy
    px of the picture, scores (N,), labels (N,).
    """
    moved = [
        tile["boxes"] + torch.tensor([x, y, x, y], dtype=torch.float32)
        for tile, (x, y) in zip(found, corners, strict=True)
    ]
    boxes = torch.cat(moved)
    scores, labels = (torch.cat([tile[name] for tile in found]) for name in ("scores", "labels"))
    kept = class_aware_nms(boxes, scores, labels, iou_threshold)
    return boxes[kept], scores[kept], labels[kept]


def in_tiles(
    predict: Callable[[list[Sample]], list[Found]],
    sample: Sample,
    side: int,
    overlap: int,
    iou_threshold: float = 0.5,
    join: Callable[..., tuple[Tensor, Tensor, Tensor]] = join_tiles,
) -> Found:
    """What a detector finds in a large picture, tile by tile; boxes in the picture's pixels.

    predict: from samples to detections in each one's own pixels, as `TrainedDetector.predict`;
    join: what puts the tiles together, called as `join_tiles`
    """
    corners = tile_corners(sample.size, side, overlap)
    found = predict([cut_tile(sample, corner, side) for corner in corners])
    whole = [
        whole_in_tile(tile, corner, side, sample.size)
        for tile, corner in zip(found, corners, strict=True)
    ]
    boxes, scores, labels = join(whole, corners, iou_threshold)
    return {"boxes": boxes, "scores": scores, "labels": labels}
