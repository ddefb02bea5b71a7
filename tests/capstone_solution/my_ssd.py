"""A solution of the capstone: SSD with torch and torchvision.ops alone.

It proves that the ladder can be climbed.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Backbone(nn.Module):
    """Maps of 64, 96 and 128 channels at strides 8, 16 and 32."""

    channels = (64, 96, 128)

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Sequential(conv(3, 16, 2), conv(16, 32, 2), conv(32, 64, 2), conv(64, 64)),
                nn.Sequential(conv(64, 96, 2), conv(96, 96)),
                nn.Sequential(conv(96, 128, 2), conv(128, 128)),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def grid(rows: int, columns: int, stride: float, sides: list[tuple[float, float]]) -> Tensor:
    """(rows * columns * len(sides), 4) xyxy:
    at each cell's centre a box of each (width, height).
    """
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    centres, half = torch.stack((x, y), -1).reshape(-1, 1, 2) * stride, torch.tensor(sides) / 2
    return torch.cat((centres - half, centres + half), -1).reshape(-1, 4)


def centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def encode(boxes: Tensor, anchors: Tensor, v: tuple[float, float]) -> Tensor:
    (g, g_size), (d, d_size) = centre_size(boxes), centre_size(anchors)
    return torch.cat(((g - d) / d_size / v[0], torch.log(g_size / d_size) / v[1]), -1)


def decode(deltas: Tensor, anchors: Tensor, v: tuple[float, float]) -> Tensor:
    d, d_size = centre_size(anchors)
    centre, half = (
        d + deltas[..., :2] * v[0] * d_size,
        d_size * (deltas[..., 2:] * v[1]).clamp(max=4).exp() / 2,
    )
    return torch.cat((centre - half, centre + half), -1)


def rows(maps: list[Tensor], numbers: int) -> Tensor:
    """(B, boxes * numbers, H, W) of each level -> (B, A, numbers): row, column, box of the cell."""
    return torch.cat([m.permute(0, 2, 3, 1).reshape(len(m), -1, numbers) for m in maps], 1)


def best(
    boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int], nms: float, keep: int
) -> dict:
    boxes = clip_boxes_to_image(boxes, size)
    kept = batched_nms(boxes, scores, labels, nms)[:keep]
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}


class Detector(nn.Module):
    SCALES, RATIOS, V = (0.1, 0.2, 0.4, 0.7), (1, 2, 0.5), (0.1, 0.2)

    def __init__(self, num_classes: int, image_size: int):
        super().__init__()
        self.backbone, self.outputs = Backbone(), num_classes + 1
        count = len(self.RATIOS) + 1
        self.cls = nn.ModuleList(
            nn.Conv2d(c, count * self.outputs, 3, padding=1) for c in Backbone.channels
        )
        self.box = nn.ModuleList(nn.Conv2d(c, count * 4, 3, padding=1) for c in Backbone.channels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.backbone(2 * images - 1)
        return (
            rows([head(m) for head, m in zip(self.cls, maps)], self.outputs),
            rows([head(m) for head, m in zip(self.box, maps)], 4),
        )

    def anchors(self, image_size: int, device="cpu") -> Tensor:
        levels = []
        for stride, scale, larger in zip((8, 16, 32), self.SCALES, self.SCALES[1:]):
            sides = [(scale * math.sqrt(r), scale / math.sqrt(r)) for r in self.RATIOS]
            sides.append((math.sqrt(scale * larger),) * 2)
            cells = math.ceil(image_size / stride)
            levels.append(
                grid(cells, cells, stride, [(w * image_size, h * image_size) for w, h in sides])
            )
        return torch.cat(levels).to(device)

    def match(self, objects: Tensor, anchors: Tensor) -> Tensor:
        """(A,) the number of each anchor's object, -1: background."""
        owner = torch.full((len(anchors),), -1, device=anchors.device)
        if not len(objects):
            return owner
        overlaps = box_iou(objects, anchors)  # (G, A)
        most, who = overlaps.max(0)
        owner[most >= 0.5] = who[most >= 0.5]
        left = overlaps.clone()
        for _ in range(min(left.shape)):  # greedy, the best pair first
            g, a = divmod(int(left.argmax()), left.shape[1])
            owner[a], left[g], left[:, a] = g, -1, -1
        return owner

    def criterion(self, outputs, anchors: Tensor, targets: list[dict]) -> dict[str, Tensor]:
        cls, box, positives = 0 * outputs[0].sum(), 0 * outputs[1].sum(), 0
        for logits, deltas, target in zip(*outputs, targets):
            owner = self.match(target["boxes"], anchors)
            positive = owner >= 0
            wanted = torch.zeros_like(owner)
            wanted[positive] = target["labels"][owner[positive]] + 1
            losses = F.cross_entropy(logits, wanted, reduction="none")  # (A,)
            count = min(3 * int(positive.sum()), int((~positive).sum()))
            hardest = losses.detach().masked_fill(positive, -1).topk(count)
            cls = cls + losses[positive].sum() + losses[hardest.indices].sum()
            if positive.any():
                offsets = encode(target["boxes"][owner[positive]], anchors[positive], self.V)
                box = box + F.smooth_l1_loss(deltas[positive], offsets, reduction="sum")
            positives += int(positive.sum())
        return {"cls": cls / max(1, positives), "box": box / max(1, positives)}

    @torch.no_grad()
    def detections(
        self, outputs, anchors: Tensor, size: tuple[int, int]
    ) -> list[dict[str, Tensor]]:
        found = []
        for logits, deltas in zip(*outputs):
            scores = logits.softmax(-1)[:, 1:]
            anchor, label = (scores > 0.01).nonzero(as_tuple=True)
            found.append(
                best(
                    decode(deltas, anchors, self.V)[anchor],
                    scores[anchor, label],
                    label,
                    size,
                    0.45,
                    200,
                )
            )
        return found
