"""RetinaNet (FL, arXiv:1708.02002): ResNet, feature pyramid, two heads shared by all levels, focal
loss.

    RetinaNet(RETINANET_CONFIGS["paper"])                             R50-FPN, 80 classes
    RetinaNet(replace(RETINANET_CONFIGS["paper"], pretrained=True))   with the backbone's ImageNet
                                                                      weights
    RetinaNet(RetinaNetConfig(num_classes=3, backbone="resnet18"))    to train from scratch: group
                                                                      norm

The model gives raw outputs; its `criterion` and `detections` are those of criterion.py and
inference.py with the options of its config.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lesson_lib.anchors import RETINANET, PyramidAnchors, Size
from lesson_lib.coding import NO_VARIANCES
from lesson_lib.detectors.backbones import build_backbone
from lesson_lib.detectors.criterion import Outputs, Targets, retinanet_criterion
from lesson_lib.detectors.detector import Normaliser, OneStage
from lesson_lib.detectors.fpn import FPN
from lesson_lib.detectors.heads import RetinaNetHeads
from lesson_lib.detectors.inference import (
    Detections,
    check_config,
    inference_options,
    retinanet_detections,
)
from lesson_lib.detectors.norms import FrozenBatchNorm, Norm
from lesson_lib.losses import BETA

#: torchvision's anchors: whole numbers, on the positions' corners; its ratios are h / w and run the
#: other way.
TORCHVISION_ANCHORS = PyramidAnchors(aspect_ratios=(2, 1, 0.5), centre="corner", rounded=True)


@dataclass(frozen=True)
class RetinaNetConfig:
    """What makes one RetinaNet; "paper" and "torchvision" in RETINANET_CONFIGS are made of it.

    num_classes         K; there is no background class
    backbone, nodes, norm, pretrained, freeze   see `build_backbone`: three maps at strides 8, 16
                                                and 32
    channels            of the pyramid and the heads; with a norm that learns they have group norm,
                        too
    head_norm           of the heads: "auto" as said above, None as in the paper, or "group" as in
                        torchvision's second version
    p6_from             "C5" (paper) or "P5" (torchvision)
    anchors             their strides, sizes and shapes
    image_size          pixels of the pictures that it is made for; any other size works, too
    prior               probability of each class that an untrained anchor predicts
    Of the losses, for `criterion`:
    beta                of the smooth L1 loss; .11 as in the authors' release, 0 for torchvision's
                        L1
    per_image           divide by each picture's positives, then average (torchvision), or by the
                        batch's
    variances           offsets are divided by them in training, multiplied in inference and export
    Of inference, what is meant where nothing else is asked for; see `retinanet_detections`:
    score_threshold, nms_threshold, max_detections, topk, vote
    norm_eps            of frozen norms; None keeps the classifier's, torchvision's published
                        detectors have 0
    """

    num_classes: int = 80
    backbone: str = "resnet50"
    nodes: tuple[str, ...] = ()
    norm: Norm = "group"
    pretrained: bool | str = False
    freeze: tuple[str, ...] = ()
    channels: int = 256
    head_norm: Norm = "auto"
    p6_from: str = "C5"
    anchors: PyramidAnchors = RETINANET
    image_size: Size = 608  # the paper's 600 as a multiple of 32
    prior: float = 0.01
    beta: float = BETA
    per_image: bool = False
    variances: tuple[float, float] = NO_VARIANCES
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100
    topk: int = 1000
    vote: float = 0.0
    norm_eps: float | None = None

    def __post_init__(self) -> None:
        check_config(self)


RETINANET_CONFIGS = {
    "paper": RetinaNetConfig(norm="frozen"),
    # retinanet_resnet50_fpn; its 91 classes are COCO's numbers 0 .. 90, and nothing is ever called
    # 0.
    "torchvision": RetinaNetConfig(
        num_classes=91,
        norm="frozen",
        p6_from="P5",
        anchors=TORCHVISION_ANCHORS,
        beta=0.0,
        per_image=True,
        max_detections=300,
        norm_eps=0.0,
    ),
}


class RetinaNet(OneStage):
    """Pictures (B, 3, H, W), float in 0..1 -> Outputs: cls_logits (B, A, K), box_deltas (B, A, 4).

    Rows stand in the order of `anchors`; any picture size will do.
    ValueError where the paper's network without weights is to be trained (see `Backbone`).
    """

    def __init__(self, config: RetinaNetConfig):
        super().__init__()
        self.config = config
        self.backbone = build_backbone(
            config.backbone, config.norm, config.pretrained, config.nodes, config.freeze
        )
        if self.backbone.strides != config.anchors.strides[:3] or len(config.anchors.strides) != 5:
            raise ValueError(
                f"RetinaNet reads maps at strides 8, 16 and 32, {config.backbone} has strides "
                f"{self.backbone.strides}: choose a ResNet, 'lite0', or other nodes."
            )
        for module in self.backbone.modules():
            if isinstance(module, FrozenBatchNorm) and config.norm_eps is not None:
                module.eps = config.norm_eps
        norm = "group" if config.norm in ("batch", "group") else None
        self.fpn = FPN(self.backbone.channels, config.channels, config.p6_from, norm)
        self.heads = RetinaNetHeads(
            config.channels,
            config.anchors.per_position[0],
            config.num_classes,
            config.prior,
            norm if config.head_norm == "auto" else config.head_norm,
        )

    def features(self, images: Tensor) -> list[Tensor]:
        """P3 .. P7."""
        return self.fpn(self.backbone(images))

    def forward(self, images: Tensor) -> Outputs:
        return Outputs(*self.heads(self.features(images)))

    def anchor_spec(self, image_size: Size | None = None) -> PyramidAnchors:
        """The anchors' specification, the same for every picture size."""
        return self.config.anchors

    def criterion(
        self,
        outputs: Outputs,
        anchors: Tensor,
        targets: Targets,
        normaliser: Normaliser | None = None,
        **options: Any,
    ) -> dict[str, Tensor]:
        """`retinanet_criterion` with the config's variances, beta and per_image.

        options go before the last two.
        """
        config = self.config
        if options.get("matcher") == "atss":
            options = {"levels": config.anchors.levels_of(anchors)} | options
        return retinanet_criterion(
            Outputs(*outputs),
            anchors,
            targets,
            variances=config.variances,
            normaliser=normaliser,
            **{"beta": config.beta, "per_image": config.per_image} | options,
        )

    def detections(
        self, outputs: Outputs, anchors: Tensor, size: tuple[int, int], **options: Any
    ) -> Detections:
        """`retinanet_detections` of each level's best, with the config's variances and options.

        Those given go before the latter.
        """
        options = (
            {"counts": self.config.anchors.counts(size)} | inference_options(self.config) | options
        )
        return retinanet_detections(
            outputs, anchors, size, variances=self.config.variances, **options
        )
