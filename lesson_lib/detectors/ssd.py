"""SSD (arXiv:1512.02325): default boxes on several feature maps, one convolution each for classes
and boxes.

    SSD(SSD_CONFIGS["paper-300"])                                          as published, VGG16, 20
                                                                           classes
    SSD(replace(SSD_CONFIGS["paper-300"], num_classes=3, norm="group"))    the same, to train from
                                                                           scratch
    SSD(SSDConfig(num_classes=3, backbone="resnet34", norm="group"))       on another backbone

The model gives raw outputs; its `criterion` and `detections` are those of criterion.py and
inference.py with the options of its config.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from lesson_lib.anchors import (
    SSD300_COCO,
    SSD300_SCALES,
    SSD512,
    SSD512_COCO,
    DefaultBoxes,
    Size,
    as_pair,
    ssd_scales,
)
from lesson_lib.coding import VARIANCES
from lesson_lib.detectors.backbones import build_backbone
from lesson_lib.detectors.criterion import Outputs, Targets, ssd_criterion
from lesson_lib.detectors.detector import Normaliser, OneStage
from lesson_lib.detectors.heads import SSDHeads
from lesson_lib.detectors.inference import (
    Detections,
    check_config,
    inference_options,
    ssd_detections,
)
from lesson_lib.detectors.norms import L2Norm, Norm, conv_block


class Extra(NamedTuple):
    """One more feature map: a 1 x 1 convolution to `middle` channels, then the one that makes it
    smaller.
    """

    middle: int
    channels: int
    kernel: int = 3
    stride: int = 2
    padding: int = 1

    def positions(self, n: int) -> int:
        """Rows (or columns) of the new map, from those of the one before."""
        return (n + 2 * self.padding - self.kernel) // self.stride + 1


#: conv8_2 .. conv11_2: 10, 5, 3, 1 positions a side. SSD512's end at conv12_2: 16, 8, 4, 2, 1
#: (the release's kernels).
SSD300_EXTRAS = (
    Extra(256, 512),
    Extra(128, 256),
    Extra(128, 256, stride=1, padding=0),
    Extra(128, 256, stride=1, padding=0),
)
SSD512_EXTRAS = (
    Extra(256, 512),
    Extra(128, 256),
    Extra(128, 256),
    Extra(128, 256),
    Extra(128, 256, kernel=4, stride=1),
)


@dataclass(frozen=True)
class SSDConfig:
    """What makes one SSD; "paper-300" and the others in SSD_CONFIGS are made of it.

    num_classes         K, without the background: the model has K + 1 outputs for classes
    backbone, nodes, norm, pretrained, freeze   see `build_backbone`; a norm that learns is in the
                                                extras too
    image_size          pixels, (height, width) or one number; the default boxes are laid out for it
    l2norm              each of the backbone's maps is scaled by an L2Norm, as VGG16's conv4_3 is in
                        the paper: for pretrained networks whose maps differ in scale
    extras              maps after the backbone's; None: as many of stride 2 as it takes to end at
                        one position
    anchors             default boxes; None: scales of equation 4 from s_min to s_max, ratios as in
                        SSD300
    variances           offsets are divided by them in training, multiplied in inference and export
    Of the matching, for `criterion`; see `match_ssd`:
    inclusive           an IoU of exactly .5 matches (the release, torchvision), or not
                        (paper: "higher than")
    best                how an object gets its best box
    Of inference, what is meant where nothing else is asked for; see `ssd_detections`:
    score_threshold, nms_threshold, max_detections, topk, vote
    """

    num_classes: int = 20
    backbone: str = "vgg16"
    nodes: tuple[str, ...] = ()
    norm: Norm = "group"
    pretrained: bool | str = False
    freeze: tuple[str, ...] = ()
    image_size: Size = 300
    l2norm: bool = False
    extras: tuple[Extra, ...] | None = None
    anchors: DefaultBoxes | None = None
    s_min: float = 0.1
    s_max: float = 0.9
    variances: tuple[float, float] = VARIANCES
    inclusive: bool = True
    best: str = "bipartite"
    score_threshold: float = 0.01
    nms_threshold: float = 0.45
    max_detections: int = 200
    topk: int = 400
    vote: float = 0.0

    def __post_init__(self) -> None:
        check_config(self)


_PAPER_300 = SSDConfig(
    norm=None, extras=SSD300_EXTRAS, anchors=SSD300_SCALES["paper-conv4_3"], inclusive=False
)
SSD_CONFIGS = {
    # As printed: conv4_3 .1, the others by equation 4; positions share the picture evenly; IoU over
    # .5.
    "paper-300": _PAPER_300,
    "paper-512": replace(_PAPER_300, image_size=512, extras=SSD512_EXTRAS, anchors=SSD512),
    # Section 3.4: smaller default boxes for COCO.
    "paper-300-coco": replace(_PAPER_300, num_classes=80, anchors=SSD300_COCO),
    "paper-512-coco": replace(
        _PAPER_300, num_classes=80, image_size=512, extras=SSD512_EXTRAS, anchors=SSD512_COCO
    ),
    # The authors' Caffe code for VOC: sizes in whole percents, strides in whole pixels, ">=".
    "caffe-300": replace(_PAPER_300, anchors=SSD300_SCALES["caffe-voc"], inclusive=True),
    # torchvision's ssd300_vgg16: COCO's number n is label n - 1; boxes are clamped; the last claim
    # wins.
    "torchvision-300": replace(
        _PAPER_300,
        num_classes=90,
        anchors=SSD300_SCALES["torchvision-coco"],
        inclusive=True,
        best="overwrite",
    ),
}


class SSD(OneStage):
    """Pictures (B, 3, H, W), float in 0..1 -> Outputs: cls_logits (B, A, K + 1), box_deltas
    (B, A, 4).

    Channel 0 of the logits is the background, k + 1 the class k. The rows stand in the order of
    `anchors`. Other picture sizes than config.image_size work: grids grow, default boxes keep their
    fraction of it. Those with strides in pixels are for one size alone.
    ValueError where a paper's network without weights is to be trained (see `Backbone`).
    """

    def __init__(self, config: SSDConfig):
        super().__init__()
        self.config = config
        self.backbone = build_backbone(
            config.backbone, config.norm, config.pretrained, config.nodes, config.freeze
        )
        self.scales = (
            nn.ModuleList(L2Norm(c) for c in self.backbone.channels) if config.l2norm else None
        )
        norm = (
            config.norm if config.norm in ("batch", "group") else None
        )  # what is new has nothing to freeze
        last = map_grids(config.image_size, self.backbone.strides)[-1]
        self.layout = (
            _down_to_one_position(last, self.backbone.channels[-1])
            if config.extras is None
            else config.extras
        )
        self.extras = _extra_maps(self.backbone.channels[-1], self.layout, norm)
        grids = self.grids(config.image_size)
        self.spec = config.anchors or _fitted_boxes(config, grids)
        own = self.grids(self.spec.image_size)
        if self.spec.grids_for() != own:
            raise ValueError(
                f"The default boxes are laid out for {len(self.spec.grids)} maps of "
                f"{self.spec.grids_for()}; at {self.spec.image_size} px the network has {len(own)} "
                f"of {own}: change anchors or extras."
            )
        self.heads = SSDHeads(
            [*self.backbone.channels, *(extra.channels for extra in self.layout)],
            self.spec.per_position,
            config.num_classes + 1,
        )

    def features(self, images: Tensor) -> list[Tensor]:
        """The maps that the heads read, finest first."""
        maps = self.backbone(images)
        if self.scales is not None:
            maps = [scale(x) for scale, x in zip(self.scales, maps)]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps

    def forward(self, images: Tensor) -> Outputs:
        return Outputs(*self.heads(self.features(images)))

    def grids(self, image_size: Size) -> tuple[tuple[int, int], ...]:
        """Positions (rows, columns) of every map, finest first."""
        return map_grids(image_size, self.backbone.strides, self.layout)

    def anchor_spec(self, image_size: Size | None = None) -> DefaultBoxes:
        """The default boxes, laid out for pictures of `image_size` (None: the config's)."""
        size = as_pair(self.config.image_size if image_size is None else image_size)
        if size == as_pair(self.spec.image_size):
            return self.spec
        return laid_out(self.spec, size, self.grids(size))

    def criterion(
        self,
        outputs: Outputs,
        anchors: Tensor,
        targets: Targets,
        normaliser: Normaliser | None = None,
        **options: Any,
    ) -> dict[str, Tensor]:
        """`ssd_criterion` with the config's variances and matching; options go before the latter.

        Mined by rank on a GPU, which then waits for nothing, by topk on a CPU.
        """
        config, mining = self.config, "topk" if outputs[0].is_cpu else "rank"
        defaults = {"best": config.best, "inclusive": config.inclusive, "mining": mining}
        return ssd_criterion(
            Outputs(*outputs),
            anchors,
            targets,
            variances=config.variances,
            normaliser=normaliser,
            **defaults | options,
        )

    def detections(
        self, outputs: Outputs, anchors: Tensor, size: tuple[int, int], **options: Any
    ) -> Detections:
        """`ssd_detections` with the config's variances and options; those given go before the
        latter.
        """
        options = inference_options(self.config) | options
        return ssd_detections(outputs, anchors, size, variances=self.config.variances, **options)


def _extra_maps(channels: int, layout: tuple[Extra, ...], norm: Norm) -> nn.ModuleList:
    """The convolutions that make the maps after the backbone's, whose last has `channels`."""
    inputs = [channels, *(extra.channels for extra in layout)]
    extras = nn.ModuleList(
        nn.Sequential(
            conv_block(c, extra.middle, 1, norm=norm),
            conv_block(
                extra.middle,
                extra.channels,
                extra.kernel,
                stride=extra.stride,
                padding=extra.padding,
                norm=norm,
            ),
        )
        for c, extra in zip(inputs, layout)
    )
    for conv in extras.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
    return extras


def laid_out(
    spec: DefaultBoxes, image_size: tuple[int, int], grids: tuple[tuple[int, int], ...]
) -> DefaultBoxes:
    """The same default boxes on other grids, for pictures of another size: scales stay fractions.

    ValueError for strides in pixels, which were published for one size and put centres outside
    others, and for a picture so small that a map has no position.
    """
    if spec.strides:
        raise ValueError(
            f"These default boxes have strides in pixels for pictures of {spec.image_size}, not of "
            f"{image_size}: use that size, or lay them out evenly, with "
            "anchors=replace(config.anchors, strides=None)."
        )
    if not all(rows > 0 and columns > 0 for rows, columns in grids):
        raise ValueError(
            f"Pictures of {image_size} are too small for this network: its maps have {grids} "
            "positions."
        )
    return replace(spec, image_size=image_size, grids=grids)


def map_grids(
    image_size: Size, strides: tuple[int, ...], extras: tuple[Extra, ...] = ()
) -> tuple[tuple[int, int], ...]:
    """Positions (rows, columns) of a backbone's maps and of the extra ones, by arithmetic alone."""
    height, width = as_pair(image_size)
    grids = [(-(-height // stride), -(-width // stride)) for stride in strides]
    for extra in extras:
        grids.append((extra.positions(grids[-1][0]), extra.positions(grids[-1][1])))
    return tuple(grids)


def _down_to_one_position(grid: tuple[int, int], channels: int) -> tuple[Extra, ...]:
    extras, longest, width = (
        [],
        max(grid),
        min(256, channels),
    )  # as wide as SSD300's, or as a small backbone
    while longest > 1:
        extras.append(Extra(width // 2, width))
        longest = extras[-1].positions(longest)
    return tuple(extras)


def _fitted_boxes(config: SSDConfig, grids: tuple[tuple[int, int], ...]) -> DefaultBoxes:
    """Equation 4 for as many maps as there are; as in SSD300 four boxes a position on the first and
    the last two maps, six on those between.
    """
    last = len(grids) - 1
    ratios = tuple((2,) if level in (0, last - 1, last) else (2, 3) for level in range(last + 1))
    return DefaultBoxes(
        config.image_size, grids, ssd_scales(len(grids), config.s_min, config.s_max), ratios
    )
