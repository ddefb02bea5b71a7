"""Your RetinaNet, from an empty file.

Climb the ladder with it, one rung at a time, from this folder:

    python -c "import my_retinanet as r; from lesson_lib.course.checks.ladder import ladder;
    ladder(r, kind='retinanet')"

Rules of the game: torch, torchvision.ops and what you have written in the lessons;
lesson_lib.detectors and torchvision.models stay closed until you are through. The papers and your
notebooks are open.
"""

from torch import Tensor, nn


class Detector(nn.Module):
    """RetinaNet (arXiv:1708.02002) for `num_classes` classes; there is no background class.

    A network of your own that halves the picture to strides 8, 16 and 32 is backbone enough; 32 or
    64 channels are enough for the pyramid and the heads, and a norm layer in them helps from
    scratch. Red cells are about 25 px here: begin the anchors' sizes at 16 px, not at 32.
    """

    def __init__(self, num_classes: int, image_size: int):
        super().__init__()
        raise NotImplementedError  # rung 1: backbone, pyramid, two heads shared by all levels

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W), float in 0..1 -> cls_logits (B, A, K) and box_deltas (B, A, 4)."""
        raise NotImplementedError  # rung 1; the last bias says 0.01 for every class

    def anchors(self, image_size: int, device) -> Tensor:
        """(A, 4) xyxy pixels, in the order of the outputs' rows: nine a cell."""
        raise NotImplementedError  # rung 1

    def criterion(self, outputs, anchors: Tensor, targets: list[dict]) -> dict[str, Tensor]:
        """{"cls", "box"}: sums over the batch, divided by max(1, its positives).

        outputs (cls_logits, box_deltas); a target is {"boxes" (G, 4) xyxy, "labels" (G,) 0..K-1}.
        IoU >= .5 positive, < .4 background, between ignored; an object's best anchors are positive
        at any IoU over 0, each for the object that it overlaps most. Focal loss, alpha .25, gamma
        2; smooth L1, beta .11, of offsets that no variance divides.
        """
        raise NotImplementedError  # rung 2

    def detections(
        self, outputs, anchors: Tensor, size: tuple[int, int]
    ) -> list[dict[str, Tensor]]:
        """One {"boxes" (N, 4) xyxy, "scores", "labels"} a picture, best first; size is
        (height, width).

        Score over .05, the best 1000, boxes cut at the border, NMS at .5 class by class, at most
        100.
        """
        raise NotImplementedError  # rung 3
