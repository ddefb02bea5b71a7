"""Anchors: the fixed boxes that a one-stage detector starts from. SSD calls them default boxes.

Nothing here is learned, predicted or read off a picture: a specification always gives the same boxes. They
are xyxy float32 pixels in the order level, row, column, anchor: all anchors of a cell, then the next cell of
the row, then the next row, then the next (coarser) feature map. Heads must flatten in the same order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

Size = int | tuple[int, int]  # (height, width), or one number for a square


def _pair(value: Size) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _place(ys: Tensor, xs: Tensor, sizes: Tensor) -> Tensor:
    """k boxes at each of H x W centres: ys (H,), xs (W,), sizes (k, 2) w, h -> (H * W * k, 4) xyxy."""
    cy, cx = torch.meshgrid(ys, xs, indexing="ij")
    centres = torch.stack((cx, cy), -1)[:, :, None]  # (H, W, 1, 2)
    return torch.cat((centres - sizes / 2, centres + sizes / 2), -1).reshape(
        -1, 4
    )  # (H, W, k, 4) -> rows


def level_slices(counts: "Sequence[int] | DefaultBoxes") -> list[slice]:
    """Where each level lies among all anchors: `[anchors[s] for s in level_slices(counts)]` parts (A, 4)."""
    counts = counts.counts() if isinstance(counts, DefaultBoxes) else counts
    return [slice(end - count, end) for count, end in zip(counts, accumulate(counts))]


def anchor_address(
    index: int, grids: Sequence[Size], per_cell: Sequence[int]
) -> tuple[int, int, int, int]:
    """(level, row, column, anchor) of row `index` of all anchors. IndexError beyond the last."""
    rest = index
    for level, ((height, width), k) in enumerate(zip(map(_pair, grids), per_cell)):
        if 0 <= rest < height * width * k:
            return level, rest // (width * k), rest // k % width, rest % k
        rest -= height * width * k
    raise IndexError(f"anchor {index} does not exist: there are {index - rest}, counted from 0.")


def ssd_scales(m: int, s_min: float = 0.2, s_max: float = 0.9) -> tuple[float, ...]:
    """Sizes of the default boxes of m feature maps, fractions of the picture (SSD, arXiv:1512.02325, eq. 4).

        s_k = s_min + (s_max - s_min) / (m - 1) * (k - 1),   k = 1 .. m + 1

    Returns m + 1 numbers: the last map's extra box needs s_m+1, which the paper leaves undefined. Here it
    continues the step (1.04 for m = 6), as in the authors' release; torchvision's default is 1.
    """
    if m < 2:
        raise ValueError(f"m is {m}; the formula divides by m - 1: give at least 2 feature maps.")
    return tuple(s_min + (s_max - s_min) * k / (m - 1) for k in range(m + 1))


def release_scales(m: int = 6, low: int = 20, high: int = 90, first: int = 10) -> tuple[float, ...]:
    """The scales of SSD's released Caffe code, worked out in whole percents.

    conv4_3 is set apart (`first`), the other m - 1 maps climb in steps of floor((high - low) / (m - 2)):
        VOC   floor(70 / 4) = 17:  10 | 20 37 54 71 88 | 105 %  of 300 px:  30 | 60 111 162 213 264 | 315
        COCO  floor(75 / 4) = 18:   7 | 15 33 51 69 87 | 105 %  (low=15, first=7), torchvision's numbers too
    The step is rounded down, so the largest scale is 88 % or 87 %, not the 90 % that were asked for.
    """
    step = (high - low) // (m - 2)
    return (first / 100,) + tuple((low + step * k) / 100 for k in range(m))


@dataclass(frozen=True)
class DefaultBoxes:
    """A specification of SSD's default boxes (SSD section 2.2).

    image_size     pixels, (height, width) or one number for a square
    grids          cells of each feature map, finest first: (height, width) or one number
    scales         fractions of the picture, one more than there are maps
    aspect_ratios  w / h for each map: (2,) gives the ratios 1, 1 (extra), 2, 1/2; (2, 3) also 3, 1/3
    steps          None: the cells share the picture evenly, the paper's centres (i + .5) / |f_k|.
                   Numbers: pixels between centres, the release's (i + .5) * step. Of SSD300's 8, 16, 32, 64,
                   100, 300 only the last two fit: 300 / 38 is 7.89, and the last of ten steps of 32 has its
                   centre at 304, outside the picture.
    clip           limit widths and heights (not corners) to the picture's, as torchvision does
    """

    image_size: Size
    grids: tuple[Size, ...]
    scales: tuple[float, ...]
    aspect_ratios: tuple[tuple[float, ...], ...]
    steps: tuple[float, ...] | None = None
    clip: bool = False

    def __post_init__(self) -> None:
        maps = len(self.grids)
        if len(self.scales) != maps + 1:
            raise ValueError(
                f"{maps} grids need {maps + 1} scales (the last s_m+1), not {len(self.scales)}."
            )
        if len(self.aspect_ratios) != maps or (self.steps is not None and len(self.steps) != maps):
            raise ValueError(
                f"aspect_ratios and steps must have one entry for each of the {maps} grids."
            )
        numbers = [
            *_pair(self.image_size),
            *(n for grid in self.grids for n in _pair(grid)),
            *self.scales,
            *(ratio for ratios in self.aspect_ratios for ratio in ratios),
            *(self.steps or ()),
        ]
        if not all(0 < n < math.inf for n in numbers):
            raise ValueError(
                "image_size, grids, scales, aspect_ratios and steps must be positive numbers."
            )

    def per_cell(self) -> tuple[int, ...]:
        """Boxes in a cell of each map: two of ratio 1, and two for each further ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    def counts(self) -> tuple[int, ...]:
        """Boxes of each map."""
        return tuple(math.prod(_pair(grid)) * k for grid, k in zip(self.grids, self.per_cell()))

    @property
    def total(self) -> int:
        """Boxes of all maps: 8732 for SSD300."""
        return sum(self.counts())


def default_boxes(spec: DefaultBoxes, device: torch.device | str | None = None) -> Tensor:
    """All default boxes of a specification -> (A, 4) xyxy, pixels; they may reach beyond the picture.

        w = s_k sqrt(r),  h = s_k / sqrt(r)   and one extra square box of scale sqrt(s_k s_k+1)

    In a cell: ratio 1, the extra box, then r and 1 / r of each further ratio. w is a fraction of the
    picture's width, h of its height. Computed in float64: torchvision's differ by a float32's rounding.
    """
    height, width = _pair(spec.image_size)
    levels = []
    for level, (grid, scale, ratios) in enumerate(zip(spec.grids, spec.scales, spec.aspect_ratios)):
        rows, columns = _pair(grid)
        extra = math.sqrt(scale * spec.scales[level + 1])
        shapes = [(scale, scale), (extra, extra)]
        for root in map(math.sqrt, ratios):
            shapes += [(scale * root, scale / root), (scale / root, scale * root)]
        sizes = torch.tensor(shapes, dtype=torch.float64)  # (k, 2), fractions
        sizes = (sizes.clamp(max=1) if spec.clip else sizes) * torch.tensor((width, height))
        step_y, step_x = (
            (spec.steps[level],) * 2 if spec.steps else (height / rows, width / columns)
        )
        ys = (torch.arange(rows, dtype=torch.float64) + 0.5) * step_y
        xs = (torch.arange(columns, dtype=torch.float64) + 0.5) * step_x
        levels.append(_place(ys, xs, sizes))
    return torch.cat(levels).to(device, torch.float32)


_SSD300 = dict(
    image_size=300,
    grids=(38, 19, 10, 5, 3, 1),
    aspect_ratios=((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
)
_RELEASE = dict(_SSD300, steps=(8, 16, 32, 64, 100, 300))

SSD300_SCALES = {  # as published in four places: 8732 boxes each, no two sets alike
    # Equation 4 as printed, m = 6: .2 .34 .48 .62 .76 .9 (1.04)
    "paper-eq4": DefaultBoxes(**_SSD300, scales=ssd_scales(6)),
    # Section 3.1: conv4_3 at .1; equation 4 with m = 5 for the others: .2 .375 .55 .725 .9 (1.075)
    "paper-conv4_3": DefaultBoxes(**_SSD300, scales=(0.1,) + ssd_scales(5)),
    # The authors' release for VOC: 30 60 111 162 213 264 (315) px
    "caffe-voc": DefaultBoxes(**_RELEASE, scales=release_scales()),
    # torchvision's ssd300_vgg16: the release's numbers for COCO: 21 45 99 153 207 261 (315) px
    "torchvision-coco": DefaultBoxes(**_RELEASE, scales=release_scales(low=15, first=7), clip=True),
}

#: SSD512 (section 3.3): one more map, s_min .15, conv4_3 at .07: 24,564 boxes. The steps divide 512 evenly.
SSD512 = DefaultBoxes(
    image_size=512,
    grids=(64, 32, 16, 8, 4, 2, 1),
    scales=(0.07,) + ssd_scales(6, 0.15),
    aspect_ratios=((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
)


@dataclass(frozen=True)
class PyramidAnchors:
    """A specification of RetinaNet's anchors on P3 .. P7 (FL, arXiv:1708.02002, section 4): 9 in a cell.

    strides        pixels between the cells of each level
    sizes          side of each level's square anchor, pixels
    scales         factors on `sizes`; the paper's three fill the octave up to the next level
    aspect_ratios  w / h at equal area
    centre         "half": (i + .5) * stride, a cell's middle; "corner": torchvision's i * (size // cells)
                   (where the stride does not divide the picture, another step: at 608 px, P7's is 121)
    rounded        torchvision's whole numbers: 32 * 2^(1/3) is 40, and half widths and heights are rounded,
                   so the 1:2 anchor of 32 is 22 x 46 with ratio .478. The paper rounds nothing.
    torchvision's ratios are h / w: its (.5, 1, 2) are (2, 1, .5) here, and then the order is the same too.
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    scales: tuple[float, ...] = (1, 2 ** (1 / 3), 2 ** (2 / 3))
    aspect_ratios: tuple[float, ...] = (0.5, 1, 2)
    centre: str = "half"
    rounded: bool = False

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.sizes):
            raise ValueError(
                f"{len(self.strides)} strides, {len(self.sizes)} sizes; give as many of each."
            )
        if not all(
            0 < n < math.inf for n in self.strides + self.sizes + self.scales + self.aspect_ratios
        ):
            raise ValueError(
                "strides, sizes, scales and aspect_ratios must all be positive numbers."
            )
        if self.centre not in ("half", "corner"):
            raise ValueError(f"centre is {self.centre!r}; choose 'half' or 'corner'.")

    @property
    def per_cell(self) -> int:
        """Anchors in a cell, the same on every level."""
        return len(self.scales) * len(self.aspect_ratios)


RETINANET = PyramidAnchors()


def pyramid_grids(
    image_size: Size, spec: PyramidAnchors = RETINANET
) -> tuple[tuple[int, int], ...]:
    """Cells (height, width) of each level: picture / stride, rounded up, as strided convolutions do."""
    height, width = _pair(image_size)
    return tuple((-(-height // stride), -(-width // stride)) for stride in spec.strides)


def pyramid_counts(image_size: Size, spec: PyramidAnchors = RETINANET) -> tuple[int, ...]:
    """Anchors of each level; 67,995 in all at 600 x 600."""
    return tuple(
        rows * columns * spec.per_cell for rows, columns in pyramid_grids(image_size, spec)
    )


def pyramid_anchors(
    image_size: Size, spec: PyramidAnchors = RETINANET, device: torch.device | str | None = None
) -> Tensor:
    """All anchors of a picture of (height, width) pixels -> (A, 4) xyxy, pixels; they may reach beyond it.

    w = size * scale * sqrt(r),  h = size * scale / sqrt(r),   in a cell the scales change fastest
    """
    height, width = _pair(image_size)
    levels = []
    for stride, size, (rows, columns) in zip(
        spec.strides, spec.sizes, pyramid_grids(image_size, spec)
    ):
        sides = [int(size * scale) if spec.rounded else size * scale for scale in spec.scales]
        shapes = [(s * math.sqrt(r), s / math.sqrt(r)) for r in spec.aspect_ratios for s in sides]
        sizes = torch.tensor(shapes, dtype=torch.float64)  # (k, 2)
        sizes = (sizes / 2).round() * 2 if spec.rounded else sizes
        ys, xs = torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64)
        if spec.centre == "corner":
            levels.append(_place(ys * (height // rows), xs * (width // columns), sizes))
        else:
            levels.append(_place((ys + 0.5) * stride, (xs + 0.5) * stride, sizes))
    return torch.cat(levels).to(device, torch.float32)
