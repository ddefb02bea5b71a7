"""Lesson 5's contest: the class half of one small SSD, trained with one loss or another, and how
many objects of each class it then finds.

Its boxes are the default boxes themselves: nothing but the loss of the classes is compared.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lesson_lib.data.samples import Sample
from lesson_lib.detectors.ssd import SSD, SSDConfig
from lesson_lib.matching import match_ssd, pad_boxes, take_matched

#: 1,524 default boxes on smears of 128 px.
CONFIG = SSDConfig(num_classes=3, backbone="tiny-8", norm="batch", image_size=128, s_min=0.08)
RATE, PICTURES = 4e-3, 8  # of Adam, constant; in a batch

#: loss(cls_logits (B, A, 4), classes (B, A), positive (B, A), negative (B, A)) -> (B, A)
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ContestSet:
    """Pictures, and what each default box holds.

    images (N, 3, 128, 128) in 0..1;  classes (N, A), 0 for background;  index (N, A) the object
    that a box was matched to, -1 for none
    """

    images: Tensor
    classes: Tensor
    index: Tensor

    def imbalance(self) -> float:
        """Negative boxes for each positive one."""
        return ((self.classes == 0).sum() / (self.classes > 0).sum()).item()


def contest_set(samples: Sequence[Sample]) -> ContestSet:
    """Samples of 128 x 128 px, matched by SSD's rule."""
    boxes, valid = pad_boxes([sample.boxes for sample in samples])
    index = match_ssd(boxes, SSD(CONFIG).anchors(), valid=valid).gt_index
    classes = [
        take_matched(sample.labels + 1, row, default=0) for sample, row in zip(samples, index)
    ]
    images = torch.stack([sample.image for sample in samples]) / 255
    return ContestSet(images, torch.stack(classes), index)


def start(seed: int, prior: float | None) -> SSD:
    """The network before training; with a prior its softmax gives background 1 - prior."""
    torch.manual_seed(seed)
    model = SSD(CONFIG).train()
    if prior:
        for layer in model.heads.cls:
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            layer.bias.data.view(-1, 4)[:, 0] = math.log(3 * (1 - prior) / prior)
    return model


def learn(
    pupils: ContestSet, judged: ContestSet, loss: Loss, model: SSD, moments: Sequence[int]
) -> tuple[dict[int, Tensor], list[float]]:
    """Train the class half with one loss, as far as the last of the moments.

    Returns ({step: recall by class (3,)} at each of the moments, the loss at each step).
    """
    adam, losses, found = torch.optim.Adam(model.parameters(), lr=RATE), [], {}
    for step in range(1, max(moments) + 1):
        part = torch.randint(len(pupils.images), (PICTURES,))
        classes = pupils.classes[part]
        said = model(pupils.images[part]).cls_logits
        value = loss(said, classes, classes > 0, classes == 0).sum() / (classes > 0).sum()
        adam.zero_grad()
        value.backward()
        adam.step()
        losses.append(value.item())
        if step in moments:
            found[step] = recall_by_class(model.eval(), judged)
            model.train()
    return found, losses


@torch.no_grad()
def recall_by_class(model: SSD, judged: ContestSet) -> Tensor:
    """The share of the objects of each class that are found, (3,).

    The model points at as many boxes for a class as are positive for it, the surest of all
    pictures; an object is found when one of its own boxes is among them. No threshold.
    """
    scores = model(judged.images).cls_logits.softmax(dim=-1)
    picture = torch.arange(len(judged.images))[:, None].expand_as(judged.index)
    named = torch.stack([picture, judged.index], dim=-1)  # which object of which picture
    found = []
    for k in (1, 2, 3):
        own = judged.classes == k  # (N, A)
        surest = scores[..., k].flatten().topk(int(own.sum())).indices
        pointed = torch.zeros(own.numel(), dtype=torch.bool).scatter_(0, surest, True).view_as(own)
        hit = named[own & pointed].unique(dim=0)
        found.append(len(hit) / len(named[own].unique(dim=0)))
    return torch.tensor(found)
