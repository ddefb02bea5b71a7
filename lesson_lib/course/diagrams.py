"""An architecture as a drawing, read from the model itself: what a backbone, SSD or RetinaNet does
at one size.

Levels stand in rows, the finest map at the bottom; the more positions a map has, the wider its
block. Blue is the backbone, green what the detector adds to it, orange the heads, grey a norm
between a map and its heads, white what goes in. M: million parameters.
"""

import copy
import math

import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import nn

from lesson_lib.anchors import Size, as_pair
from lesson_lib.detectors.backbones import VGG16, Backbone
from lesson_lib.detectors.retinanet import RetinaNet
from lesson_lib.detectors.ssd import SSD

BACKBONE, NECK, HEAD, SHARED, DATA = "#d6e6f2", "#d3efe6", "#fbe3cf", "#fdf3ea", "white"
NORM = "#e2e2e2"
INK = {BACKBONE: "#2c6a99", NECK: "#1c7a5a"}  # of words that name such blocks
PROPER = {"vgg16": "VGG16", "resnet50": "ResNet-50"}  # names as the papers write them
SUMS, PYRAMID = 4.0, 5.52  # where the pyramid's sums and its levels stand
Model = Backbone | SSD | RetinaNet
Shapes = list[tuple[int, ...]]


def read_shapes(model: Model, image_size: Size) -> tuple[Shapes, Shapes, tuple[int, ...]]:
    """The backbone's maps and those that the heads read, each (channels, rows, columns), finest
    first; and the class logits' (anchors, classes); for a backbone the same maps twice and (0, 0).
    Only shapes, without data, go through a copy of the model (torch's device "meta").
    """
    height, width = as_pair(image_size)
    ghost = copy.deepcopy(model).to("meta").eval()
    images = torch.zeros(1, 3, height, width, device="meta")
    with torch.no_grad():
        if isinstance(ghost, Backbone):
            maps = [tuple(m.shape[1:]) for m in ghost(images)]
            return maps, maps, (0, 0)
        maps = [tuple(m.shape[1:]) for m in ghost.backbone(images)]
        levels = [tuple(m.shape[1:]) for m in ghost.features(images)]
        return maps, levels, tuple(ghost(images).cls_logits.shape[1:])


def level_names(backbone: Backbone, count: int) -> list[str]:
    """The papers' names: conv4_3, fc7, conv8_2 ... for VGG16; else C and the stride's power of two,
    then extras.
    """
    if isinstance(backbone.body, VGG16):
        return ["conv4_3", "fc7", *(f"conv{8 + i}_2" for i in range(count - 2))]
    names = [f"C{int(math.log2(stride))}" for stride in backbone.strides]
    return names + [f"extra {i + 1}" for i in range(count - len(names))]


def draw_architecture(
    axes: Axes,
    model: Model,
    image_size: Size,
    parallel_heads: bool = False,
    complete: bool = False,
    letters: float = 1.0,
    totals: bool = True,
) -> Axes:
    """Draws what `read_shapes` finds: axes 8 inches wide, 0.8 high for a level; a backbone alone
    3.5 wide.

    parallel_heads: class head and box head as blocks of their own, with an arrow from each level to
    each, and NMS, which all of them end in.
    complete: also what lies between two maps where the papers' figures leave it out, and SSD's
    L2Norms.
    letters: times their usual size, for axes that fill their figure.
    totals: with the parameters of each part and the numbers of anchors, which a page may want to
    ask for first.
    """
    maps, levels, (anchors, classes) = read_shapes(model, image_size)
    backbone = model if isinstance(model, Backbone) else model.backbone
    fpn, (height, width) = isinstance(model, RetinaNet), as_pair(image_size)
    beside = isinstance(model, SSD) and not totals  # its parts are named at their blocks
    axes.set(
        xlim=(-0.1, 10.85) if parallel_heads else (0, 10 if anchors else 4),
        ylim=(
            -1.05 if fpn or not anchors else -1.45,
            len(levels) - (0.5 if parallel_heads else 0.6),
        ),
    )
    side = 1.5 if parallel_heads else 1.3  # of the picture's block
    axes.axis("off")
    column = maps if fpn else levels  # SSD's extra maps stand on the backbone's
    colours = [BACKBONE] * len(maps) + [NECK] * (len(column) - len(maps))
    near = parallel_heads and not complete  # nothing stands between SSD's maps and their heads
    at, spread = (2.52, (1.3, 0.5)) if fpn else (4.2 if near else 2.75, (1.2, 0.8))
    x, y = (at, -1.1) if beside else (0.7, 0)
    _block(axes, x, y, side, f"picture\n{height} × {width} × 3", DATA)
    edges = _draw_maps(axes, at, column, level_names(backbone, len(column)), colours, spread)
    into = ((at, y + 0.3), (at, -0.3)) if beside else ((x + side / 2, 0), (2 * at - edges[0], 0))
    _arrow(axes, *into, _way_in(backbone) if beside and complete else "")
    between = _ways_up(model, len(column)) if complete else [""] * len(column)
    for i in range(1, len(column)):
        _arrow(axes, (at, i - 0.7), (at, i - 0.3), between[i - 1])
    _name_column(axes, model, at, max(edges), (len(maps), len(column)), totals)
    if isinstance(model, RetinaNet):
        edges = _draw_pyramid(axes, model, edges, levels, complete)
        _below(axes, PYRAMID, "pyramid", model.fpn if totals else None)
    if not isinstance(model, Backbone):
        draw_heads = _draw_parallel_heads if parallel_heads else _draw_heads
        draw_heads(axes, model, edges, levels, classes, totals)
        total = f"{anchors:,} anchors" if totals else ""
        x = 8.85 if parallel_heads else 9.0
        axes.text(x, -0.8, total, fontsize=8, va="center", weight="bold")
    if complete and isinstance(model, SSD):
        _draw_l2norms(axes, model, edges)
    for text in axes.texts:
        text.set_fontsize(letters * float(text.get_fontsize()))
    return axes


def _name_column(
    axes: Axes, model: Model, at: float, right: float, counts: tuple[int, int], totals: bool
) -> None:
    """Names what stands around x = at, up to x = right: below it; without totals an SSD's backbone
    and extra maps at the left of their blocks, in their colours. counts: of the backbone's maps, of
    all.
    """
    backbone = model if isinstance(model, Backbone) else model.backbone
    known = type(backbone.body).__name__ if isinstance(model, Backbone) else model.config.backbone
    known = known if totals else PROPER.get(known, known)
    if not isinstance(model, SSD) or totals:
        _below(axes, at, f"backbone {known}", backbone if totals else None)
        if isinstance(model, SSD):
            _below(axes, at, "extra maps", model.extras, -1.2)
        return
    x, (own, count) = 2 * at - right - 0.15, counts
    parts = ((f"backbone\n{known}", -0.3, own, BACKBONE), ("extra maps", own - 0.3, count, NECK))
    for words, low, end, colour in parts:
        y, high = (low + end - 0.7) / 2, end - 0.7
        axes.plot((x, x), (low, high), color=INK[colour], linewidth=1.5)
        axes.text(x - 0.12, y, words, fontsize=7.5, ha="right", va="center", color=INK[colour])


def _way_in(backbone: Backbone) -> str:
    """What lies between the picture and conv4_3 of a VGG16; nothing for other backbones."""
    body = backbone.body
    if not isinstance(body, VGG16):
        return ""
    convs = sum(isinstance(m, nn.Conv2d) for m in body.get_submodule("conv4").modules())
    return f"conv1_1 to conv4_{convs}; pool1 to pool3\n(pool3 rounds up)"


def _ways_up(model: Model, count: int) -> list[str]:
    """What lies between each of `count` maps and the one above it, where the papers' figures leave
    it out: SSD's way through conv5 and fc6, and its extra maps.
    """
    words = [""] * count
    if not isinstance(model, SSD):
        return words
    body = model.backbone.body
    if isinstance(body, VGG16):
        (fc6,) = (m for m in body.fc6.modules() if isinstance(m, nn.Conv2d))
        convs = sum(isinstance(m, nn.Conv2d) for m in body.get_submodule("conv5").modules())
        (fc7,) = (m for m in body.fc7.modules() if isinstance(m, nn.Conv2d))
        size, holes, last = fc6.kernel_size[0], fc6.dilation[0], fc7.kernel_size[0]
        words[0] = (
            f"pool4, conv5_1 to 5_{convs}, pool5 (stride 1),\n"
            f"fc6: {size} × {size}, holes of {holes}; fc7: {last} × {last}"
        )
    own = len(model.backbone.channels)
    for i, extra in enumerate(model.layout):
        side = f"{extra.kernel} × {extra.kernel}"
        how = f", stride {extra.stride}" if extra.stride > 1 else ""
        rim = "" if extra.padding else ", no padding"
        words[own - 1 + i] = f"1 × 1 × {extra.middle}, {side}{how}{rim}"
    return words


def _draw_l2norms(axes: Axes, model: SSD, edges: list[float]) -> None:
    """A block on the way from a map to its heads wherever the model has an L2Norm there."""
    own = len(model.backbone.channels)
    if isinstance(model.backbone.body, VGG16):
        levels = [0]  # the body's own, on conv4_3 alone
    else:
        levels = list(range(own)) if model.scales is not None else []
    for i in levels:
        _block(axes, (edges[i] + 5.2) / 2, i, 0.8, "L2Norm", NORM, 0.5)


def _draw_pyramid(
    axes: Axes, model: RetinaNet, starts: list[float], levels: Shapes, complete: bool
) -> list[float]:
    """Laterals, sums on the way down, and levels; complete: with the convolutions' words."""
    own, names, half = len(starts), [f"P{3 + i}" for i in range(len(levels))], 0.18
    edges = _draw_maps(axes, PYRAMID, levels, names, [NECK] * len(levels), (1.3, 0.35))
    for i, start in enumerate(starts):
        _block(axes, SUMS, i, 2 * half, f"m{3 + i}", NECK, 0.4)
        _arrow(axes, (start, i), (SUMS - half, i))
        _arrow(axes, (SUMS + half, i), (2 * PYRAMID - edges[i], i))
        if i:
            _arrow(axes, (SUMS, i - 0.2), (SUMS, i - 0.8), "enlarge, add")
    top, left = (PYRAMID, own - 0.3), 2 * PYRAMID - edges[own]
    start, end = (2.52, (left, own)) if model.fpn.p6_from == "C5" else (PYRAMID, top)
    _arrow(axes, (start, own - 0.7), end)
    _arrow(axes, (PYRAMID, own + 0.3), (PYRAMID, own + 0.7))
    if complete:
        _draw_pyramids_words(axes, model, starts, edges)
    return edges


def _draw_pyramids_words(
    axes: Axes, model: RetinaNet, starts: list[float], edges: list[float]
) -> None:
    """What stands on the pyramid's arrows, read from its convolutions."""
    fpn, own = model.fpn, len(starts)
    p6, p7 = _convolution(fpn.p6), _convolution(fpn.p7)
    for i, start in enumerate(starts):
        middles = (start + SUMS - 0.18) / 2, (SUMS + 0.18 + 2 * PYRAMID - edges[i]) / 2
        for middle, part in zip(middles, (fpn.lateral[i], fpn.output[i])):
            conv = next(m for m in part.modules() if isinstance(m, nn.Conv2d))
            words = " × ".join(map(str, conv.kernel_size))
            axes.text(middle, i + 0.07, words, fontsize=5.6, ha="center", color="0.3")
    if fpn.p6_from == "C5":
        axes.text(3.6, own - 0.05, p6, fontsize=6.5, ha="right", va="center", color="0.3")
    else:
        axes.text(PYRAMID + 0.1, own - 0.5, p6, fontsize=6.5, va="center", color="0.3")
    words = f"ReLU, {p7}".replace(", stride", ",\nstride")
    axes.text(PYRAMID - 0.1, own + 0.5, words, fontsize=6.5, ha="right", va="center", color="0.3")


def _convolution(conv: nn.Conv2d) -> str:
    """Its kernel and stride in words."""
    return f"{conv.kernel_size[0]} × {conv.kernel_size[1]}, stride {conv.stride[0]}"


def _draw_heads(
    axes: Axes,
    model: SSD | RetinaNet,
    starts: list[float],
    levels: Shapes,
    classes: int,
    totals: bool,
) -> None:
    shared = isinstance(model, RetinaNet)
    middle, half = (7.55, 1.0) if shared else (6.4, 1.2)
    counts = model.anchor_spec().per_position
    if isinstance(model, RetinaNet):
        convs = (m for m in model.heads.box_tower.modules() if isinstance(m, nn.Conv2d))
        tower = [conv.out_channels for conv in convs]
        words = f"{len(tower)} times 3 × 3 × {tower[0]},\nthen {counts[0]} ×"
        _block(
            axes,
            middle,
            len(levels) / 2 - 0.5,
            2 * half,
            f"class head\n{words} {classes} classes\n\n\nbox head\n{words} 4 offsets",
            HEAD,
            len(levels) - 0.4,
        )
    for i, (k, (_, rows, columns)) in enumerate(zip(counts, levels)):
        if not shared:
            _block(axes, middle, i, 2 * half, f"3 × 3, {k} × ({classes} classes + 4)", HEAD)
        _arrow(axes, (starts[i], i), (middle - half, i))
        _arrow(axes, (middle + half, i), (8.95, i))
        if totals:
            axes.text(9.0, i, f"{rows * columns * k:,}", fontsize=8, va="center")
    _below(
        axes,
        middle,
        "heads, shared by all levels" if shared else "heads, one for each map",
        model.heads if totals else None,
    )


def _draw_parallel_heads(
    axes: Axes,
    model: SSD | RetinaNet,
    starts: list[float],
    levels: Shapes,
    classes: int,
    totals: bool,
) -> None:
    """A pair of heads for each level, class head over box head, and what becomes of their outputs.

    SSD's pairs have weights of their own; RetinaNet's have the same ones, which a frame around each
    column of heads says. All outputs go into one NMS.
    """
    shared, middle, half, last = isinstance(model, RetinaNet), 7.5, 0.95, len(levels) - 1
    if shared:
        _block(axes, middle, last / 2, 2 * half + 0.3, "", SHARED, last + 0.9)
    for i, (k, (_, rows, columns)) in enumerate(zip(model.anchor_spec().per_position, levels)):
        for name, outputs, side in (("class", classes, 0.19), ("box", 4, -0.19)):
            end = i + side
            _block(axes, middle, end, 2 * half, f"{name} head: {k} × {outputs}", HEAD, 0.32)
            _arrow(axes, (starts[i], i + side / 2), (middle - half, end))
            _arrow(axes, (middle + half, end), (8.8 if totals else 9.9, i + side / 3))
        if totals:
            axes.text(8.85, i, f"{rows * columns * k:,}", fontsize=8, va="center")
            _arrow(axes, (9.6, i), (9.9, i))
    _block(axes, 10.35, last / 2, 0.9, "score,\nthen\ndrop\ndoubles\n(NMS)", DATA, last + 0.7)
    words, part = "heads, a pair a map", model.heads if totals else None
    words += "" if totals else ", each one 3 × 3"
    if isinstance(model, RetinaNet):
        convs = [m for m in model.heads.box_tower.modules() if isinstance(m, nn.Conv2d)]
        times, layer = f"{len(convs)} times", f"3 × 3 × {convs[0].out_channels}"
        words = f"one pair for all: {times}\n{layer}, and the last"
        if part is not None:
            words, part = (
                f"one pair for all, {_size(part)}:\n{times} {layer},\nthen the output",
                None,
            )
    _below(axes, middle, words, part, y=-0.8 if shared else -0.7)


def _draw_maps(
    axes: Axes,
    x: float,
    shapes: Shapes,
    names: list[str],
    colours: list[str],
    spread: tuple[float, float],
) -> list[float]:
    """A column of blocks around x; returns their right edges. spread: the least width, and what the
    finest map adds to it.
    """
    least, more = spread
    widths = [least + more * math.sqrt(rows / shapes[0][1]) for _, rows, _ in shapes]
    for i, (channels, rows, columns) in enumerate(shapes):
        _block(axes, x, i, widths[i], f"{names[i]}\n{rows} × {columns} × {channels}", colours[i])
    return [x + width / 2 for width in widths]


def _block(
    axes: Axes, x: float, y: float, width: float, words: str, colour: str, height: float = 0.6
) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            "round,pad=0,rounding_size=.06",
            facecolor=colour,
            edgecolor="0.25",
            linewidth=0.8,
        )
    )
    axes.text(x, y, words, ha="center", va="center", fontsize=7.5)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], words: str = ""
) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=8,
            linewidth=0.8,
            color="0.25",
            shrinkA=0,
            shrinkB=0,
        )
    )
    axes.text(
        start[0] + 0.1, (start[1] + end[1]) / 2, words, fontsize=6.5, va="center", color="0.3"
    )


def _below(axes: Axes, x: float, words: str, part: nn.Module | None, y: float = -0.7) -> None:
    """Words under a column, with the parameters of `part`, if there is one."""
    if part is not None:
        words += f"\n{_size(part)}"
    axes.text(x, y, words, ha="center", va="center", fontsize=7.5, color="0.3")


def _size(part: nn.Module) -> str:
    """Its parameters in words."""
    return f"{sum(p.numel() for p in part.parameters()) / 1e6:.2f} M"
