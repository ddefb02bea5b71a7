"""Your SSD, from an empty file. Climb the ladder with it, one rung at a time, from this folder:

    python -c "import my_ssd; from lesson_lib.course.checks.ladder import ladder;
    ladder(my_ssd, kind='ssd')"

Rules of the game: torch, torchvision.ops and what you have written in the lessons;
lesson_lib.detectors and torchvision.models stay closed until you are through. The papers and your
notebooks are open.
"""

from torch import Tensor, nn


class Detector(nn.Module):
    """SSD (arXiv:1512.02325) for `num_classes` classes, without the background, and square
    pictures.

    A network of your own that halves the picture to strides 8, 16 and 32 is backbone enough. Cells
    are about 10 to 60 px wide in pictures of 128 px: default boxes of .1, .2 and .4 of the
    picture's side are a good start.
    """

    def __init__(self, num_classes: int, image_size: int):
        super().__init__()
        raise NotImplementedError  # rung 1: backbone, default boxes, two convolutions a map

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W), float in 0..1 -> cls_logits (B, A, K + 1), background first, and box_deltas
        (B, A, 4).
        """
        raise NotImplementedError  # rung 1

    def anchors(self, image_size: int, device) -> Tensor:
        """(A, 4) xyxy pixels, in the order of the outputs' rows."""
        raise NotImplementedError  # rung 1

    def criterion(self, outputs, anchors: Tensor, targets: list[dict]) -> dict[str, Tensor]:
        """{"cls", "box"}: sums over the batch, divided by its positives; both 0 where there are
        none.

        outputs (cls_logits, box_deltas); a target is {"boxes" (G, 4) xyxy, "labels" (G,) 0..K-1}.
        Matching: each object's best box, bipartite, then all with IoU >= .5. Mining 3:1, picture by
        picture. Softmax cross entropy; smooth L1 (beta 1) of offsets divided by .1, .1, .2, .2.
        """
        raise NotImplementedError  # rung 2

    def detections(
        self, outputs, anchors: Tensor, size: tuple[int, int]
    ) -> list[dict[str, Tensor]]:
        """One {"boxes" (N, 4) xyxy, "scores", "labels"} a picture, best first; size is
        (height, width).

        Score over .01, boxes cut at the border, NMS at .45 class by class, at most 200.
        """
        raise NotImplementedError  # rung 3
