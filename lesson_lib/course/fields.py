"""What one answer of a detector can see: counted layer by layer, measured by gradient, drawn.

A *position* is a place on a feature map. Its receptive field is the part of the picture that its
values depend on, in pixels; the stride is how many pixels lie between neighbouring positions.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesson_lib.anchors import PyramidAnchors, Size, as_pair
from lesson_lib.colours import BLACK, BLUE, VERMILION
from lesson_lib.course import svg
from lesson_lib.data.samples import Sample
from lesson_lib.detectors import fpn
from lesson_lib.detectors.backbones import VGG16
from lesson_lib.detectors.retinanet import RetinaNet
from lesson_lib.detectors.ssd import SSD

Detector = SSD | RetinaNet
#: Where a field can be measured: at the backbone's map, at the map that the heads read, and at the
#: row of numbers that a head puts out.
PLACES = ("backbone", "map", "row")


class Layer(NamedTuple):
    """A convolution or pooling: dilation is how far apart the taps of its kernel stand."""

    name: str
    kernel: int
    stride: int = 1
    dilation: int = 1


def ssd300_layers(model: SSD, level: int) -> list[Layer]:
    """The layers from the picture to map `level` of an SSD on VGG16, and the head's convolution.

    Counts and kernels are read from the model; the poolings are those of `VGG16.forward`.
    """
    layers = []
    for number, (_, count) in enumerate(VGG16.STAGES, start=1):
        layers += [Layer(f"conv{number}_{i + 1}", 3) for i in range(count)]
        if number == 4 and level == 0:
            return [*layers, Layer("head", 3)]
        layers.append(Layer(f"pool{number}", 2, 2) if number < 5 else Layer("pool5", 3))
    for name in ("fc6", "fc7"):
        parts = model.backbone.body.get_submodule(name).modules()
        (conv,) = (part for part in parts if isinstance(part, nn.Conv2d))
        layers.append(Layer(name, conv.kernel_size[0], conv.stride[0], conv.dilation[0]))
    for number, extra in enumerate(model.layout[: level - 1], start=8):
        layers.append(Layer(f"conv{number}_1", 1))
        layers.append(Layer(f"conv{number}_2", extra.kernel, extra.stride))
    return [*layers, Layer("head", 3)]


def receptive_field(layers: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    """(field, stride) in px behind layers of (kernel, stride, dilation), from the picture on.

    field + (k - 1) d stride, then stride * s: a layer's stride widens only what comes after it.
    """
    field = stride = 1
    for kernel, step, dilation in layers:
        field += (kernel - 1) * dilation * stride
        stride *= step
    return field, stride


def skeleton(model: Detector) -> Detector:
    """A copy with one channel in each map, equal weights, no bias and no norm.

    What a position sees is a matter of kernels, strides and holes alone, so the copy's fields are
    the model's, and its gradients are positive wherever it sees anything. Weights of 1 / k keep
    them far from the ends of float32. (A group norm takes its mean over a whole map, and so lets
    everything see everything, a little: it is left out.)
    """
    bones = copy.deepcopy(model)
    for parent in list(bones.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                inputs = 3 if child.in_channels == 3 else 1
                conv: Any = copy.copy(child)  # its kernel, stride, padding and holes
                conv.in_channels, conv.out_channels, conv.groups = inputs, 1, 1
                conv.weight = nn.Parameter(torch.empty(1, inputs, *child.kernel_size))
                conv.bias = None
                nn.init.constant_(conv.weight, 1 / child.kernel_size[0])
                setattr(parent, name, conv)
            elif "Norm" in type(child).__name__:
                setattr(parent, name, nn.Identity())
    return bones.eval().requires_grad_(False)


@contextmanager
def _mean_pooling() -> Iterator[None]:
    """A maximum hands its gradient to one pixel; a mean over the same window to all of them."""

    def mean(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, **_):
        return F.avg_pool2d(x, kernel_size, stride, padding, ceil_mode)

    with mock.patch.object(F, "max_pool2d", mean):
        yield


def head_answer(model: Detector, maps: Sequence[Tensor], level: int) -> Tensor:
    """The box head's answer on map `level`, (B, 4 k, rows, columns), before it is cut into rows."""
    if isinstance(model, SSD):
        return model.heads.box[level](maps[level])
    return model.heads.box(model.heads.box_tower(maps[level]))


def measured_fields(model: Detector, levels: int, width: int = 1280) -> list[dict[str, int]]:
    """For each of the first `levels` maps: width in px of what its middle position has a gradient
    to, at each of PLACES (the backbone's maps end before SSD's extra ones).

    width  of the picture; ValueError where a field does not lie wholly inside it
    """
    bones = skeleton(model)
    bones.backbone.mean = torch.zeros_like(bones.backbone.mean)
    images = torch.ones(1, 3, 384, width, requires_grad=True)
    with _mean_pooling():
        own, maps = bones.backbone(images), bones.features(images)
        found: list[dict[str, int]] = []
        for level in range(levels):
            answers = {"map": maps[level], "row": head_answer(bones, maps, level)}
            if level < len(own):
                answers = {"backbone": own[level]} | answers
            found.append({place: _width(answer, images) for place, answer in answers.items()})
    return found


def _width(answer: Tensor, images: Tensor) -> int:
    middle = answer[..., answer.shape[2] // 2, answer.shape[3] // 2].sum()
    (slope,) = torch.autograd.grad(middle, images, retain_graph=True)
    columns = (slope[0].sum(dim=(0, 1)) > 0).nonzero().flatten()
    if columns[0] == 0 or columns[-1] == images.shape[-1] - 1:
        raise ValueError(f"A field reaches the border: give a width over {images.shape[-1]} px.")
    return int(columns[-1] - columns[0] + 1)


@contextmanager
def _fixed(way_down: bool) -> Iterator[None]:
    """Group norms whose mean and spread have no gradient: they are taken over a whole map, and so
    let every pixel move every row a little. Without `way_down`, no gradient comes down a pyramid.
    """

    def group_norm(
        x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5
    ) -> Tensor:
        groups = x.detach().unflatten(1, (num_groups, -1)).flatten(2)
        spread, mean = torch.std_mean(groups, dim=2, correction=0)
        each = x.shape[1] // num_groups
        mean, scale = (
            v.repeat_interleave(each, dim=1)[..., None, None]
            for v in (mean, (spread**2 + eps).rsqrt())
        )
        return (x - mean) * scale * weight[:, None, None] + bias[:, None, None]

    enlarge = fpn.enlarge

    def held(coarse: Tensor, like: Tensor) -> Tensor:
        return enlarge(coarse if way_down else coarse.detach(), like)

    with mock.patch.object(F, "group_norm", group_norm), mock.patch.object(fpn, "enlarge", held):
        yield


def pulls(
    model: Detector, levels: int, samples: Sequence[Sample], way_down: bool = True
) -> list[Tensor]:
    """For each of the first `levels` maps, how much the rows at its middle position depend on each
    pixel: (H, W), sums to 1; the mean over pictures of one size.

    The statistics of group norms count as fixed. way_down: whether what comes down through a
    feature pyramid counts.
    """
    totals = [torch.zeros(()) for _ in range(levels)]
    for sample in samples:
        images = (sample.image[None] / 255).requires_grad_()
        with _fixed(way_down):
            maps = model.features(images)
            answers = [head_answer(model, maps, level) for level in range(levels)]
        for level, answer in enumerate(answers):
            middle = answer[..., answer.shape[2] // 2, answer.shape[3] // 2].abs().sum()
            (slope,) = torch.autograd.grad(middle, images, retain_graph=True)
            totals[level] = totals[level] + slope[0].abs().sum(dim=0)
    return [total / total.sum() for total in totals]


def middle_of(model: Detector, level: int, size: Size) -> float:
    """Where the middle position of map `level` has its anchors' centre, in px, in square pictures
    of `size`: anchors and rows belong together by their order, so that is where it ought to look.
    """
    side = as_pair(size)[0]
    spec = model.anchor_spec(size)
    grids = spec.grids_for(side) if isinstance(spec, PyramidAnchors) else spec.grids_for()
    rows = grids[level][0]
    stride = spec.strides[level] if spec.strides else side / rows
    return (rows // 2 + 0.5) * stride


def side_that_holds(share: float, weights: Tensor, centre: float) -> int:
    """Side in px of the smallest square around (centre, centre) that holds `share` of `weights`
    (H, W), which sum to 1; twice the picture's side where none does.
    """
    for half in range(1, len(weights)):
        low, high = max(0, round(centre - half)), round(centre + half)
        if weights[low:high, low:high].sum() >= share:
            return 2 * half
    return 2 * len(weights)


def square(centre: Sequence[float], side: float) -> Tensor:
    """A square box (4,) xyxy around a point (x, y)."""
    x, y = float(centre[0]), float(centre[1])
    return torch.tensor([x - side / 2, y - side / 2, x + side / 2, y + side / 2])


def growth_drawing(
    image: Tensor, layers: Sequence[Layer], count: int, at: tuple[float, float]
) -> str:
    """The smear, and what a position at (x, y) sees after each of the first `count` layers: the
    newest field thick, every second one before it thin, blue the distance to its neighbours.
    Returns SVG.
    """
    fields = [receptive_field([layer[1:] for layer in layers[:n]]) for n in range(count + 1)]
    (field, stride), rows = fields[-1], [square(at, side) for side, _ in fields]
    older = sorted({float(row[2] - row[0]) for row in rows[:-1]})[::-2]  # all would be a blot
    shapes = [svg.shape("anchor", square(at, side), colour=BLACK) for side in older]
    shapes += [svg.shape("prediction", rows[-1], colour=VERMILION)]
    shapes += [svg.shape("positive", square(at, stride), colour=BLUE)]
    name = layers[count - 1].name if count else "the picture itself"
    beyond = ", beyond this picture" if field > image.shape[-1] else ""
    words = (
        f"After {name} ({count} of {len(layers)} layers): one position sees {field} px "
        f"(orange{beyond}; black: every second one before), its neighbour stands {stride} px away "
        "(blue)."
    )
    return svg.picture(image, shapes, alt=words, caption=words)


def cone_drawing(
    layers: Sequence[Layer], pixels: int = 24, width: int = 640, followed: bool = True
) -> str:
    """One line of pixels at the bottom, one line of positions for each layer above it, and in
    colour the middle position at the top and, if `followed`, all that it is made of. Returns SVG.

    Positions stand over the middle of what they see; paddings are left out.
    """
    places, links = _rows_of_places(layers, pixels)
    seen, top = [set() for _ in places], len(places) - 1
    seen[top] = {len(places[top]) // 2}
    for n in range(top if followed else 0, 0, -1):
        seen[n - 1] = {below for at in seen[n] for below in links[n - 1][at]}
    step, left = (width - 190) / pixels, 170
    height, body = 44 * len(places) + 20, ""

    def spot(n: int, i: int) -> tuple[float, float]:
        return left + (places[n][i] + 0.5) * step, height - 30 - 44 * n

    faint = ".12" if followed else ".45"
    for n, row in enumerate(links):
        for at, below in enumerate(row):
            for i in below:
                (x, y), (a, b), own = spot(n + 1, at), spot(n, i), followed and at in seen[n + 1]
                look = f'"{VERMILION}" stroke-width="1.6"' if own else '"currentColor"'
                dim = "" if own else f' stroke-opacity="{faint}"'
                body += f'<path d="M{x:.1f} {y:.1f}L{a:.1f} {b:.1f}" stroke={look}{dim}/>'
    for n, row in enumerate(places):
        for i in range(len(row)):
            x, y = spot(n, i)
            look = f'r="5" fill="{VERMILION}"' if i in seen[n] else 'r="3" fill="currentColor"'
            dim = "" if i in seen[n] else ' fill-opacity=".4"'
            body += f'<circle cx="{x:.1f}" cy="{y:.1f}" {look}{dim}/>'
        words = layers[n - 1].name if n else "pixels"
        words += f": sees {len(_span(seen, links, n))}" if n and followed else ""
        body += svg.text(4, spot(n, 0)[1] + 5, words)
    made = f"is made of {len(seen[0])} of the {pixels} pixels at the bottom" if followed else ""
    alt = (
        f"Lines of dots for {', '.join(layer.name for layer in layers)}; the middle dot of the top "
        f"line {made or 'is orange'}."
    )
    return svg.document(body, width, height, alt)


def _rows_of_places(
    layers: Sequence[Layer], pixels: int
) -> tuple[list[list[float]], list[list[list[int]]]]:
    """Where the positions of each layer stand, in pixels, and which of the row below each reads."""
    places: list[list[float]] = [[float(i) for i in range(pixels)]]
    links: list[list[list[int]]] = []
    for _, kernel, stride, dilation in layers:
        below, reach = places[-1], (kernel - 1) * dilation
        starts = range(0, len(below) - reach, stride)
        links.append([[start + tap * dilation for tap in range(kernel)] for start in starts])
        places.append([sum(below[i] for i in taps) / kernel for taps in links[-1]])
    return places, links


def _span(seen: list[set[int]], links: list[list[list[int]]], n: int) -> set[int]:
    """The pixels behind one of the coloured positions of row n."""
    found = {min(seen[n])}
    for row in reversed(links[:n]):
        found = {below for at in found for below in row[at]}
    return found


def holes_drawing(image: Tensor, at: tuple[float, float], width: int = 245) -> str:
    """What fc6 reads around (x, y), three times: the classifier's 7 x 7 kernel on positions of
    32 px, every third of its taps, and SSD's 3 x 3 kernel with holes of 6 on positions of 16 px.

    Each tap is drawn as the outline of the pixels between it and its neighbours. Returns SVG.
    """
    kinds = (
        ("7 x 7, every 32 px", 7, 32, 1),
        ("3 x 3, holes of 3", 3, 32, 3),
        ("SSD: 16 px, holes of 6", 3, 16, 6),
    )
    panels = []
    for words, taps, stride, dilation in kinds:
        offsets = [(tap - (taps - 1) / 2) * dilation * stride for tap in range(taps)]
        boxes = torch.stack(
            [square((at[0] + x, at[1] + y), stride) for y in offsets for x in offsets]
        )
        drawn = [svg.shape("matched", boxes, colour=BLUE)]
        alt = f"{words}; {(taps - 1) * dilation * stride} px from first tap to last."
        panels.append(svg.picture(image, drawn, alt=alt, caption=words, width=width))
    return svg.beside(*panels)
