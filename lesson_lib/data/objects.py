"""The ground truth of a batch as a loss reads it: padded, and moved to a GPU in one piece.

objects = Objects.of(targets).to(device)     made and checked where the data is, then moved once
objects.boxes, objects.labels, objects.valid     (B, G, 4), (B, G), (B, G)
objects[0]["boxes"]                              those of one picture, as a target has them
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

#: On a GPU each batch has room for a multiple of so many objects: few shapes.
ROOM = 8


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device. To a GPU it crosses from pinned memory, and nobody waits."""
    tensor = tensor.pin_memory() if device.type == "cuda" else tensor
    return tensor.to(device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class Objects(Sequence[dict[str, Any]]):
    """B pictures with up to G objects each. What reads a sequence of targets can read it as one.

    boxes      (B, G, 4) xyxy pixels; 0 in the rows that stand for no object
    labels     (B, G) int64; difficult (B, G) bool
    valid      (B, G) bool: which rows are objects, the first `counts[b]` of picture b
    ids        the pictures' names, "" where they have none
    A training step so copies two or three times to a GPU: objects, the pictures unless they are
    kept there, and the numbers that change their colours.
    """

    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    valid: Tensor
    counts: tuple[int, ...]
    ids: tuple[str, ...]

    @classmethod
    def of(cls, targets: Sequence[dict[str, Any]]) -> "Objects":
        """From one dict a picture: "boxes" (G_b, 4), "labels" (G_b,), if known "difficult", "id".

        ValueError for a picture with unlike numbers of boxes and labels.
        """
        if isinstance(targets, Objects):
            return targets
        counts = tuple(len(target["boxes"]) for target in targets)
        for number, (target, count) in enumerate(zip(targets, counts)):
            if len(target["labels"]) != count:
                name = f" ({target['id']})" if target.get("id") else ""
                raise ValueError(
                    f"picture {number} of the batch{name} has {count} boxes and "
                    f"{len(target['labels'])} labels; give one label for each box."
                )
        labels = [target["labels"] for target in targets]
        valid = [torch.ones_like(x, dtype=torch.bool) for x in labels]
        marks = [t.get("difficult", torch.zeros_like(x)) for t, x in zip(targets, valid)]
        boxes, labels, difficult, valid = (
            pad_sequence(rows, batch_first=True)
            for rows in ([target["boxes"] for target in targets], labels, marks, valid)
        )
        ids = tuple(str(target.get("id") or "") for target in targets)
        return cls(boxes, labels, difficult, valid, counts, ids)

    def to(self, device: torch.device) -> "Objects":
        """On a device. To a GPU all crosses as one piece of pinned memory, nobody waits, and G
        becomes a multiple of ROOM.
        """
        if self.boxes.device == device:
            return self
        columns = self.labels, self.difficult, self.valid  # below 2^24: exact in float32
        table = torch.cat([self.boxes, *(x.float()[..., None] for x in columns)], -1)  # (B, G, 7)
        table = F.pad(table, (0, 0, 0, -table.shape[1] % ROOM))
        table = send(table, device)
        labels, difficult, valid = table[..., 4:].unbind(-1)
        boxes = table[..., :4].contiguous()
        return replace(
            self, boxes=boxes, labels=labels.long(), difficult=difficult > 0, valid=valid > 0
        )

    def pin_memory(self) -> "Objects":
        """What a DataLoader asks for; `to` pins all as one piece."""
        return self

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> "Objects": ...

    def __getitem__(self, index: int | slice) -> "dict[str, Any] | Objects":
        """The target of one picture, or the objects of some."""
        tensors = self.boxes, self.labels, self.difficult, self.valid
        if isinstance(index, slice):
            boxes, labels, difficult, valid = (x[index] for x in tensors)
            return Objects(boxes, labels, difficult, valid, self.counts[index], self.ids[index])
        boxes, labels, difficult = (x[index, : self.counts[index]] for x in tensors[:3])
        return {"boxes": boxes, "labels": labels, "difficult": difficult, "id": self.ids[index]}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))
