"""Heads: convolutions that turn feature maps into class logits and box offsets for every anchor."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lesson_lib.detectors.norms import Norm, conv_block
from lesson_lib.losses import prior_bias


def flatten_predictions(prediction: Tensor, values: int) -> Tensor:
    """(B, k * values, H, W) -> (B, H * W * k, values): one row for each anchor, in the anchors'
    order.

    Channel a * values + v holds value v of anchor a of a position. Row ((y * W) + x) * k + a of the
    result is the position in row y, column x. For a channels_last tensor this is a view, otherwise
    a copy.
    """
    return prediction.permute(0, 2, 3, 1).reshape(
        prediction.shape[0], -1, values
    )  # (B, H, W, k v) first


def join_levels(predictions: Sequence[Tensor], values: int) -> Tensor:
    """Levels of (B, k_l * values, H_l, W_l), finest first -> (B, A, values)."""
    return torch.cat([flatten_predictions(p, values) for p in predictions], dim=1)


class SSDHeads(nn.Module):
    """One 3 x 3 convolution for classes and one for boxes on each map, nothing shared
    (SSD section 2.1).

        outputs of an m x n map with k default boxes a position and C classes:  (C + 4) k m n

    inputs    channels of each map
    per_position  default boxes at a position of each map
    outputs   C, the background's channel 0 among them
    """

    def __init__(self, inputs: Sequence[int], per_position: Sequence[int], outputs: int):
        super().__init__()
        self.outputs = outputs
        self.cls = nn.ModuleList(
            nn.Conv2d(c, k * outputs, 3, padding=1) for c, k in zip(inputs, per_position)
        )
        self.box = nn.ModuleList(
            nn.Conv2d(c, k * 4, 3, padding=1) for c, k in zip(inputs, per_position)
        )
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.xavier_uniform_(conv.weight)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Feature maps, finest first -> cls_logits (B, A, C), box_deltas (B, A, 4)."""
        return (
            join_levels([conv(x) for conv, x in zip(self.cls, maps)], self.outputs),
            join_levels([conv(x) for conv, x in zip(self.box, maps)], 4),
        )


class RetinaNetHeads(nn.Module):
    """Two towers of four 3 x 3 convolutions: classes and boxes (FL, arXiv:1708.02002, section 4).

    The same weights read every pyramid level; the towers share none with each other. A sigmoid for
    each class and anchor, K * k in all, no background; 4 k offsets, whatever the class.

    channels     of every level
    per_position     k, 9 in the paper
    num_classes  K
    prior        what an untrained anchor predicts for each class: the bias of the last
                 classification layer
    norm         None as in the paper, or "group". "batch" is refused: its statistics would mix the
                 levels.
    All weights are drawn with sigma .01, all other biases are 0 (FL section 4.1).
    """

    def __init__(
        self,
        channels: int,
        per_position: int,
        num_classes: int,
        prior: float = 0.01,
        norm: Norm = None,
    ):
        super().__init__()
        if norm not in (None, "group"):
            raise ValueError(
                f"norm is {norm!r}; heads that are shared by all levels take None or 'group'."
            )
        self.num_classes = num_classes
        self.cls_tower = nn.Sequential(
            *(conv_block(channels, channels, norm=norm) for _ in range(4))
        )
        self.box_tower = nn.Sequential(
            *(conv_block(channels, channels, norm=norm) for _ in range(4))
        )
        self.cls = nn.Conv2d(channels, per_position * num_classes, 3, padding=1)
        self.box = nn.Conv2d(channels, per_position * 4, 3, padding=1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.normal_(conv.weight, std=0.01)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        if self.cls.bias is not None:
            nn.init.constant_(self.cls.bias, prior_bias(prior))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Pyramid levels, finest first -> cls_logits (B, A, K), box_deltas (B, A, 4)."""
        return (
            join_levels([self.cls(self.cls_tower(x)) for x in maps], self.num_classes),
            join_levels([self.box(self.box_tower(x)) for x in maps], 4),
        )
