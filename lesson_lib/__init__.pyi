"""What `import lesson_lib` offers.

`__init__.py` reads this file, and imports a name when it is first used.
"""

from .anchors import DefaultBoxes, PyramidAnchors, default_boxes, pyramid_anchors
from .boxes import cxcywh_to_xyxy, pairwise_giou, pairwise_iou, xyxy_to_cxcywh
from .coding import decode, encode
from .data.catalog import download, open_dataset
from .data.coco import CocoJson
from .data.inspect import inspect_dataset
from .data.samples import Dataset, Sample
from .data.smears import Smears
from .data.voc import VocFolder
from .data.yolo import YoloFolder
from .detectors.detector import Detector
from .detectors.export import export_onnx
from .detectors.retinanet import RetinaNet, RetinaNetConfig
from .detectors.ssd import SSD, SSDConfig
from .evaluation import coco_evaluate, voc_evaluate
from .losses import retinanet_loss, sigmoid_focal_loss, smooth_l1_loss, ssd_loss
from .matching import Match, match_retinanet, match_ssd
from .mining import hard_negative_mask
from .nms import class_aware_nms
from .training.loop import evaluate, fit, predict, train
from .training.recipes import MODELS, NAMED, Recipe, build_model, overridden
from .training.trained import TrainedDetector, load

__version__: str
__all__ = [
    "MODELS",
    "NAMED",
    "SSD",
    "CocoJson",
    "Dataset",
    "DefaultBoxes",
    "Detector",
    "Match",
    "PyramidAnchors",
    "Recipe",
    "RetinaNet",
    "RetinaNetConfig",
    "SSDConfig",
    "Sample",
    "Smears",
    "TrainedDetector",
    "VocFolder",
    "YoloFolder",
    "build_model",
    "class_aware_nms",
    "coco_evaluate",
    "cxcywh_to_xyxy",
    "decode",
    "default_boxes",
    "download",
    "encode",
    "evaluate",
    "export_onnx",
    "fit",
    "hard_negative_mask",
    "inspect_dataset",
    "load",
    "match_retinanet",
    "match_ssd",
    "open_dataset",
    "overridden",
    "pairwise_giou",
    "pairwise_iou",
    "predict",
    "pyramid_anchors",
    "retinanet_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "ssd_loss",
    "train",
    "voc_evaluate",
    "xyxy_to_cxcywh",
]
