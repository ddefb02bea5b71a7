"""RetinaNet under online hard example mining instead of focal loss, the rival in FL's table 1d."""

from typing import Any

from torch import Tensor, nn

from lesson_lib.data.objects import Objects
from lesson_lib.detectors.criterion import Outputs, Targets, anchor_targets
from lesson_lib.detectors.detector import Normaliser
from lesson_lib.detectors.retinanet import RetinaNet
from lesson_lib.losses import binary_cross_entropy, retinanet_loss
from lesson_lib.matching import IGNORE, POSITIVE, match_retinanet
from lesson_lib.mining import ohem_mask


class OHEMRetinaNet(RetinaNet):
    """RetinaNet as in FL's table 1d: cross entropy of the anchors of highest loss instead of focal
    loss of all.
    """

    def criterion(
        self,
        outputs: Outputs,
        anchors: Tensor,
        targets: Targets,
        normaliser: Normaliser | None = None,
        *,
        keep: int = 128,
        nms_threshold: float | None = None,
        ratio: float | None = None,
        **options: Any,
    ) -> dict[str, Tensor]:
        """{"cls", "box"} of the mined anchors, by the positives among them.

        keep, nms_threshold, ratio: see `ohem_mask`.
        """
        if options:
            raise TypeError(f"OHEM knows no option {min(options)!r}.")
        objects = Objects.of(targets)
        gt, valid = objects.boxes, objects.valid  # (B, G, 4), (B, G)
        match = match_retinanet(gt, anchors, valid=valid)
        labels, offsets = anchor_targets(match, gt, objects, anchors, self.config.variances)
        positive = match.label == POSITIVE
        is_class = nn.functional.one_hot(labels, self.config.num_classes) * positive[..., None]
        loss = binary_cross_entropy(outputs.cls_logits.detach(), is_class).sum(-1)  # (B, A)
        mined = ohem_mask(
            loss, anchors, keep, nms_threshold, ratio, positive, match.label != IGNORE
        )
        label = match.label.masked_fill(~mined, IGNORE)
        return retinanet_loss(
            *outputs,
            labels,
            offsets,
            label,
            alpha=None,
            gamma=0,
            beta=self.config.beta,
            n=normaliser((label == POSITIVE).sum()) if normaliser else None,
        )
