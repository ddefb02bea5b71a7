"""How well anchors cover the objects of a data set: a report to read before training, and after
each change.

An object is covered when an anchor overlaps it by the matching threshold or more. One that is not
learns from forced matches only (`matching.match_ssd`), and without these from nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lesson_lib.anchors import Size, as_pair
from lesson_lib.boxes import box_area, pairwise_iou
from lesson_lib.data.annotated import Entry
from lesson_lib.data.samples import Sample

SIZES = (16, 32, 64, 128, 256)  # borders of the rows by size: sqrt(area), px of the network's input
SHAPES = (1.5, 2, 3)  # borders of the rows by shape: long side / short side


@dataclass(frozen=True, eq=False)
class Coverage:
    """What `coverage` found, an entry for each of n objects in the data set's order.

    boxes (n, 4) xyxy px of the network's input, best (n,) highest IoU with an anchor, count (n,)
    anchors that reach the threshold; pictures by id, classes: the names of labels 0, 1, ...
    """

    pictures: list[str]
    boxes: Tensor
    labels: Tensor
    best: Tensor
    count: Tensor
    classes: tuple[str, ...]
    threshold: float

    def recall(self, rows: Tensor | slice = slice(None)) -> float:
        """The share of the objects, or of those that a mask picks, that are covered;
        NaN of none.
        """
        return (self.best[rows] >= self.threshold).double().mean().item()

    def groups(self) -> Iterator[tuple[str, Tensor]]:
        """(title, mask (n,)): all objects, then by class, by size and by shape."""
        short, long = (self.boxes[:, 2:] - self.boxes[:, :2]).aminmax(dim=1)
        yield "all objects", self.labels >= 0
        yield from ((name, self.labels == k) for k, name in enumerate(self.classes))
        for values, borders, unit in (
            (box_area(self.boxes).sqrt(), SIZES, "px"),
            (long / short, SHAPES, ": 1"),
        ):
            for low, high in zip((0, *borders), (*borders, torch.inf)):
                title = f"{low} to {high} {unit}" if high < torch.inf else f"{low} {unit} and more"
                yield title, (low <= values) & (values < high)

    def text(self, worst: int = 5) -> str:
        """A table with a row for each group that has objects; then the `worst` objects, to be
        looked at.
        """
        lines = [f"{'':16}{'objects':>9}{'covered':>9}{'best IoU':>10}{'anchors':>9}"]
        lines += [
            f"{title:16}{int(rows.sum()):>9}{self.recall(rows):>9.1%}{self.best[rows].median():>10.2f}"
            f"{int(self.count[rows].median()):>9}"
            for title, rows in self.groups()
            if rows.any()
        ]
        lines.append(
            f"covered: an anchor reaches IoU {self.threshold:g}; the next two: medians; px of the "
            "input"
        )
        for row in self.best.argsort(stable=True)[:worst].tolist():
            x1, y1, x2, y2 = self.boxes[row].tolist()
            lines.append(
                f"  {self.pictures[row]}: {self.classes[self.labels[row]]}, {x2 - x1:.0f} x "
                f"{y2 - y1:.0f} px, best IoU {self.best[row]:.2f}"
            )
        return "\n".join(lines)


def coverage(
    data: Sequence[Sample],
    anchors: Tensor | Callable[[tuple[int, int]], Tensor],
    size: Size | None = None,
    threshold: float = 0.5,
) -> Coverage:
    """Compare every object of a data set, crowd regions left out, with all anchors.

    anchors  (A, 4) xyxy, or a function of the input's (height, width), such as
             `anchors.pyramid_anchors`
    size     (height, width) of the network's input, to which each picture is stretched, or a
             square's side; None: every picture keeps its own size, and `anchors` must be a function
    Picture files are not decoded. Without data.classes the labels' numbers are the names.
    """
    if size is None and not callable(anchors):
        raise ValueError(
            "Pictures of their own sizes need anchors for each size: give a function, or a size."
        )
    place = lru_cache(8)(anchors) if callable(anchors) else lambda _: anchors
    pictures, boxes, labels = [], [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)]
    best, count = [torch.zeros(0)], labels[:]
    readable: Iterable[Sample | Entry] = getattr(data, "entries", data)
    for picture in readable:  # what readers of files know without decoding
        target = picture.target() if isinstance(picture, Sample) else picture.target
        height, width = picture.size if size is None else as_pair(size)
        real = ~target["crowd"]
        labels.append(target["labels"][real])
        pictures += [picture.id] * len(labels[-1])
        boxes.append(
            target["boxes"][real]
            * torch.tensor([width / picture.size[1], height / picture.size[0]] * 2)
        )
        for few in boxes[-1].split(32):  # (<= 32, A) overlaps in memory at a time
            overlaps = pairwise_iou(few, place((height, width)))
            best.append(overlaps.amax(1))
            count.append((overlaps >= threshold).sum(1))
    labels = torch.cat(labels)
    names = getattr(data, "classes", None) or map(
        str, range(int(labels.max()) + 1 if len(labels) else 0)
    )
    return Coverage(
        pictures,
        torch.cat(boxes),
        labels,
        torch.cat(best),
        torch.cat(count),
        tuple(names),
        threshold,
    )
