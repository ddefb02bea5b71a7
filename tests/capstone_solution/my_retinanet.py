"""A solution of the capstone: RetinaNet with torch and torchvision.ops alone, on the other
solution's backbone.
"""

import math

import torch
import torch.nn.functional as F
from my_ssd import Backbone, best, decode, encode, grid, rows
from torch import Tensor, nn
from torchvision.ops import box_iou, sigmoid_focal_loss

CHANNELS, STRIDES, V = 64, (8, 16, 32, 64, 128), (1, 1)


def tower(outputs: int) -> nn.Sequential:
    layers = []
    for _ in range(4):
        layers += [
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.GroupNorm(8, CHANNELS),
            nn.ReLU(),
        ]
    last = nn.Conv2d(CHANNELS, outputs, 3, padding=1)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


class Detector(nn.Module):
    def __init__(self, num_classes: int, image_size: int):
        super().__init__()
        self.backbone, self.classes = Backbone(), num_classes
        self.lateral = nn.ModuleList(nn.Conv2d(c, CHANNELS, 1) for c in Backbone.channels)
        self.smooth = nn.ModuleList(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in Backbone.channels
        )
        self.p6 = nn.Conv2d(Backbone.channels[-1], CHANNELS, 3, 2, 1)
        self.p7 = nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1)
        self.cls, self.box = tower(9 * num_classes), tower(9 * 4)
        nn.init.constant_(self.cls[-1].bias, -math.log(0.99 / 0.01))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.backbone(2 * images - 1)
        levels, above = [], None
        for m, lateral, smooth in list(zip(maps, self.lateral, self.smooth))[::-1]:
            above = (
                lateral(m)
                if above is None
                else lateral(m) + F.interpolate(above, m.shape[-2:], mode="nearest")
            )
            levels.insert(0, smooth(above))
        levels.append(self.p6(maps[-1]))
        levels.append(self.p7(levels[-1].relu()))
        return rows([self.cls(level) for level in levels], self.classes), rows(
            [self.box(level) for level in levels], 4
        )

    def anchors(self, image_size: int, device="cpu") -> Tensor:
        levels, cells = [], image_size
        for stride in STRIDES:
            cells = math.ceil(image_size / stride)
            sides = [
                (2 * stride * scale * math.sqrt(r), 2 * stride * scale / math.sqrt(r))
                for scale in (1, 2 ** (1 / 3), 2 ** (2 / 3))
                for r in (0.5, 1, 2)
            ]
            levels.append(grid(cells, cells, stride, sides))
        return torch.cat(levels).to(device)

    def criterion(self, outputs, anchors: Tensor, targets: list[dict]) -> dict[str, Tensor]:
        cls, box, positives = 0 * outputs[0].sum(), 0 * outputs[1].sum(), 0
        for logits, deltas, target in zip(*outputs, targets):
            wanted, used = torch.zeros_like(logits), torch.ones(len(anchors), dtype=torch.bool)
            if len(target["boxes"]):
                overlaps = box_iou(target["boxes"], anchors)  # (G, A)
                most, who = overlaps.max(0)
                own = overlaps.max(1, keepdim=True).values
                positive = (most >= 0.5) | ((overlaps == own) & (own > 0)).any(0)
                used = positive | (most < 0.4)
                wanted[positive, target["labels"][who[positive]]] = 1
                offsets = encode(target["boxes"][who[positive]], anchors[positive], V)
                box = box + F.smooth_l1_loss(deltas[positive], offsets, beta=0.11, reduction="sum")
                positives += int(positive.sum())
            cls = cls + sigmoid_focal_loss(logits[used], wanted[used], 0.25, 2, "sum")
        return {"cls": cls / max(1, positives), "box": box / max(1, positives)}

    @torch.no_grad()
    def detections(
        self, outputs, anchors: Tensor, size: tuple[int, int]
    ) -> list[dict[str, Tensor]]:
        found = []
        for logits, deltas in zip(*outputs):
            scores, chosen = logits.sigmoid().flatten().topk(min(1000, logits.numel()))
            scores, chosen = scores[scores > 0.05], chosen[scores > 0.05]
            anchor, label = chosen // self.classes, chosen % self.classes
            found.append(best(decode(deltas, anchors, V)[anchor], scores, label, size, 0.5, 100))
        return found
