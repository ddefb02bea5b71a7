"""Lesson 4 on a picture: what a detector answers, what each answer costs, and where the loss lies.

    said = answers(detector.model, smear)
    loss_map(smear, said, sigmoid_focal_loss, gamma=2.0)       SVG: the loss, painted over the smear

A loss is any function (logits, targets, alpha, gamma) -> elementwise loss, the learner's own too.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor

from lesson_lib.course import svg
from lesson_lib.data.samples import Sample
from lesson_lib.matching import IGNORE, NEGATIVE, POSITIVE, match_retinanet, take_matched

Loss = Callable[[Tensor, Tensor, float, float], Tensor]
ALL_LEVELS = "all levels"
#: A place that holds this many times its even share of the loss is painted as bright as can be.
BRIGHTEST = 40.0


class Answers(NamedTuple):
    """What a network says of one picture's anchors, and what it should have said.

    logits   (A, K);  targets (A, K) bool: this anchor, the class of its object
    label    (A,) POSITIVE, NEGATIVE or IGNORE
    counts   anchors of each level, in the order of the rows;  strides of the levels, px
    """

    logits: Tensor
    targets: Tensor
    label: Tensor
    counts: tuple[int, ...]
    strides: tuple[int, ...]

    def turned(self) -> tuple[Tensor, Tensor]:
        """z, the logit turned towards the right answer, so that p_t = sigmoid(z): of all entries
        "this anchor, the class of its object", and of all others that are not ignored.
        """
        used = (self.label != IGNORE)[:, None]
        return self.logits[self.targets], -self.logits[used & ~self.targets]


@torch.inference_mode()
def answers(model: Any, sample: Sample) -> Answers:
    """The answers of a RetinaNet to one sample, matched by RetinaNet's rule.

    sample: of the size, in px, at which the network shall see it.
    """
    spec = model.anchor_spec(sample.size)
    logits = model.eval()(sample.image[None].float() / 255).cls_logits[0]  # (A, K)
    match = match_retinanet(sample.boxes, model.anchors(sample.size))
    labels = take_matched(sample.labels, match.gt_index, default=0)  # (A,)
    holds = labels[:, None] == torch.arange(logits.shape[1])
    targets = holds & (match.label == POSITIVE)[:, None]
    return Answers(logits, targets, match.label, spec.counts(sample.size), spec.strides)


def anchor_losses(said: Answers, loss: Loss, gamma: float) -> Tensor:
    """The loss of each anchor, summed over its K answers, without alpha: (A,), 0 where ignored."""
    entries = 2 * loss(said.logits, said.targets.float(), 0.5, gamma)  # alpha .5, doubled: none
    return entries.sum(1) * (said.label != IGNORE)


def background_share(said: Answers, losses: Tensor) -> float:
    """The share of the loss that background anchors make, 0 to 1; losses (A,)."""
    return (losses[said.label == NEGATIVE].sum() / losses.sum()).item()


def spread(said: Answers, losses: Tensor, side: tuple[int, int], level: str = ALL_LEVELS) -> Tensor:
    """Where the loss lies: (H, W), the loss of each position spread evenly over its stride x stride
    pixels, all levels on top of each other, or one ("P3" ... "P7"). The sum stays what it was, but
    for what coarse positions spread beyond the picture's edge.
    """
    height, width = side
    painted = torch.zeros(height, width)
    for i, (part, stride) in enumerate(zip(losses.split(list(said.counts)), said.strides)):
        if level not in (ALL_LEVELS, f"P{i + 3}"):
            continue
        rows, columns = -(-height // stride), -(-width // stride)
        tiles = part.reshape(rows, columns, -1).sum(2) / stride**2
        pixels = tiles.repeat_interleave(stride, 0).repeat_interleave(stride, 1)
        painted += pixels[:height, :width]
    return painted


def glowing(image: Tensor, painted: Tensor) -> Tensor:
    """The picture in dark grey, and over it the loss: dark where there is none, bright where much.

    image (3, H, W) uint8; painted (H, W) from `spread`. Returns (3, H, W) uint8. Brightness goes
    with the logarithm of how many times the even share a pixel has.
    """
    return _lit(image.float().mean(0) / 255, painted / painted.mean().clamp(min=1e-30))


def _bright(times: Tensor) -> Tensor:
    """Brightness, 0 to 1, of places with `times` times the even share."""
    return (torch.log1p(times) / np.log1p(BRIGHTEST)).clamp(max=1)


def _lit(grey: Tensor, times: Tensor) -> Tensor:
    """A grey picture (H, W), 0 to 1, under the ink of `times` (H, W) -> (3, H, W) uint8."""
    ink = torch.from_numpy(mpl.colormaps["inferno"](_bright(times).numpy())[..., :3])
    return (255 * (0.45 * grey + 0.7 * ink.permute(2, 0, 1))).clamp(0, 255).to(torch.uint8)


def brightness_key(width: int = 768, marks: Sequence[float] = (0, 1, 5, 40)) -> str:
    """The key to the colours of `loss_map`: how many times the even share a place has -> SVG."""
    bar, left = 300, 260
    bright = torch.linspace(0, 1, bar).expand(12, bar)
    times = torch.expm1(bright * float(np.log1p(BRIGHTEST)))
    uri = svg.picture_uri(_lit(torch.full((12, bar), 0.6), times))
    body = svg.text(8, 15, "loss of a place, its even share = 1", 13)
    body += f'<image href="{uri}" x="{left}" y="4" width="{bar}" height="12"/>'
    for mark in marks:
        at = left + bar * _bright(torch.tensor(float(mark))).item()
        words = f"{mark:g}" + (" and more" if mark >= BRIGHTEST else "")
        body += svg.text(at, 31, words, 12, "middle")
    return svg.document(body, width, 36, "The brighter a place, the more of the loss it makes.")


def loss_map(
    sample: Sample,
    said: Answers,
    loss: Loss,
    gamma: float,
    level: str = ALL_LEVELS,
    width: int = 560,
) -> str:
    """Each anchor's loss at its position over the smear, objects dashed, and who makes it: SVG.

    Where the brightest place lies in no object's box, it is framed and named.
    """
    losses = anchor_losses(said, loss, gamma)
    painted = spread(said, losses, sample.size, level)
    share = background_share(said, losses)
    words = f"γ = {gamma:.1f}: background {share:.0%} of the loss, objects {1 - share:.0%}"
    if level != ALL_LEVELS:
        words += f"; painted: {level}, {painted.sum() / losses.sum():.0%} of it"
    frame = svg.shape("truth", sample.boxes, colour="#ffffff") | {"casing": "", "width": 1.3}
    shapes, marks = [frame], []
    y, x = (int(v) // 16 * 16 for v in divmod(int(painted.argmax()), painted.shape[1]))
    middle = torch.tensor([x + 8.0, y + 8.0])
    if not ((sample.boxes[:, :2] <= middle) & (middle <= sample.boxes[:, 2:])).all(1).any():
        shapes.append(svg.shape("hull", torch.tensor([x - 4.0, y - 4.0, x + 20.0, y + 20.0])))
        marks.append((x - 16.0, y + 36.0, "no label"))
    return svg.picture(glowing(sample.image, painted), shapes, words, marks, words, width)
