"""ONNX: a trained detector as one file that other programs run without PyTorch.

    export_onnx(model, "cells.onnx", size=300)
    outputs = run_onnx("cells.onnx", images)                    # by ONNX Runtime: as model(images)
    found = model.detections(outputs, model.anchors(300), (300, 300))

    export_onnx(model, "cells.onnx", size=300, nms={"score_threshold": 0.4})

Without `nms` the file holds everything but the last step: `boxes` and `scores` need only a score
threshold and NMS by class, which every runtime has in its own way; `cls_logits` and `box_deltas`
lead to this package's own inference. With `nms` it holds all of `model.detections`, by ONNX's own
NonMaxSuppression.
"""

import inspect
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lesson_lib.anchors import Size, as_pair
from lesson_lib.boxes import clip_boxes, cxcywh_to_xyxy, xyxy_to_cxcywh
from lesson_lib.coding import decode
from lesson_lib.detectors.criterion import Outputs
from lesson_lib.detectors.inference import (
    inference_options,
    retinanet_detections,
    ssd_detections,
)
from lesson_lib.detectors.retinanet import RetinaNet
from lesson_lib.detectors.ssd import SSD
from lesson_lib.files import write_whole

OUTPUTS = ("cls_logits", "box_deltas", "boxes", "scores")
FOUND = ("boxes", "scores", "labels")  # with NMS


class Exported(nn.Module):
    """Pictures (B, 3, H, W), float in 0..1 -> OUTPUTS of every anchor.

    boxes (B, A, 4) xyxy pixels inside the picture; scores (B, A, K), without background, and 0
    where a box lies wholly outside.
    """

    anchors: Tensor

    def __init__(self, model: SSD | RetinaNet, size: tuple[int, int]):
        super().__init__()
        self.model, self.size, self.background = model, size, isinstance(model, SSD)
        device = next(model.parameters()).device
        self.register_buffer(
            "anchors", xyxy_to_cxcywh(model.anchors(size, device)), persistent=False
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits, deltas = self.model(images)
        boxes, inside = self.boxes(deltas)
        return logits, deltas, boxes, self.scores(logits) * inside

    def boxes(self, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """Decoded and clipped (B, A, 4), and whether anything is left of each (B, A, 1)."""
        boxes = decode(deltas, self.anchors, self.model.config.variances)
        boxes = clip_boxes(cxcywh_to_xyxy(boxes), self.size)
        return boxes, (boxes[..., 2:] > boxes[..., :2]).all(-1, keepdim=True)

    def scores(self, logits: Tensor) -> Tensor:
        """(B, A, K), without background."""
        return logits.softmax(-1)[..., 1:] if self.background else logits.sigmoid()


class ExportedWithNMS(nn.Module):
    """Pictures (B, 3, H, W), float in 0..1 -> FOUND, what `model.detections` finds with `options`.

    boxes (B, M, 4) xyxy pixels, scores (B, M), labels (B, M) int64, best first; M is max_detections
    (or all there is). A picture with fewer has rows of score 0 and label -1 at the end. What
    NonMaxSuppression keeps is written into a picture of the scores that is 0 elsewhere: so each
    picture of a batch gets its own best M, without a loop.
    """

    def __init__(self, model: SSD | RetinaNet, size: tuple[int, int], options: Mapping[str, Any]):
        super().__init__()
        self.raw = Exported(model, size)
        names = {"score_threshold", "nms_threshold", "max_detections", "topk", "vote"}
        rules = _defaults(model) | inference_options(model.config) | dict(options)
        self.rules = {name: rules[name] for name in names}
        #: Anchors of each group of which the best `topk` take part: RetinaNet's levels.
        self.counts = None if self.raw.background else model.config.anchors.counts(size)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, deltas = self.raw.model(images)
        boxes, inside = self.raw.boxes(deltas)
        scores = self._best_of_groups(self.raw.scores(logits)) * inside
        scores = scores.transpose(1, 2)  # (B, K, A)
        kept = _suppressed(boxes, scores, self.rules).flatten(1)  # (B, K * A), 0 where not kept
        most = min(self.rules["max_detections"], kept.shape[1])
        values, place = kept.topk(most)
        labels, rows = place // boxes.shape[1], place % boxes.shape[1]  # (B, M)
        found = boxes.gather(1, rows.unsqueeze(-1).expand(-1, -1, 4))
        if self.rules["vote"]:
            found = self._voted(found, labels, boxes, scores)
        return found, values, torch.where(values > 0, labels, -1)

    def _best_of_groups(self, scores: Tensor) -> Tensor:
        """0 for what is not among its group's best `topk`, (B, A, K):
        SSD's groups are the classes.
        """
        topk = self.rules["topk"]
        if self.counts is None:
            least = scores.topk(min(topk, scores.shape[1]), dim=1).values[:, -1:]
            return torch.where(scores >= least, scores, 0.0)
        parts = []
        for level in scores.split(list(self.counts), dim=1):
            flat = level.flatten(1)
            least = flat.topk(min(topk, flat.shape[1]), dim=1).values[:, -1:].unsqueeze(-1)
            parts.append(torch.where(level >= least, level, 0.0))
        return torch.cat(parts, 1)

    def _voted(self, found: Tensor, labels: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
        """`box_vote` for a batch: found (B, M, 4), labels (B, M), boxes (B, A, 4), scores
        (B, K, A).
        """
        over = torch.where(scores > self.rules["score_threshold"], scores, 0.0)
        same = over.gather(1, labels.unsqueeze(-1).expand(-1, -1, boxes.shape[1]))  # (B, M, A)
        low = torch.maximum(found[:, :, None, :2], boxes[:, None, :, :2])
        high = torch.minimum(found[:, :, None, 2:], boxes[:, None, :, 2:])
        shared = (high - low).clamp(min=0).prod(-1)  # (B, M, A)
        sides = [(x[..., 2:] - x[..., :2]).prod(-1) for x in (found, boxes)]
        union = sides[0].unsqueeze(2) + sides[1].unsqueeze(1) - shared
        weights = same * (shared >= self.rules["vote"] * union)
        return weights @ boxes / weights.sum(-1, keepdim=True).clamp(min=1e-12)


def _suppressed(boxes: Tensor, scores: Tensor, rules: Mapping[str, Any]) -> Tensor:
    """scores (B, K, A), 0 where NMS by class does not keep the box, or it is not over the
    threshold.

    ONNX's NonMaxSuppression gives rows (picture, class, anchor), as many as it keeps: how many is
    not known before, so the two operators that use them stand for ONNX's as well.
    """
    onnx = torch.onnx.ops.symbolic
    numbers = (
        torch.tensor([rules["max_detections"]]),
        torch.tensor([rules["nms_threshold"]]),
        torch.tensor([float(rules["score_threshold"])]),
    )
    rows = onnx("::NonMaxSuppression", (boxes, scores, *numbers), dtype=torch.int64, shape=(1, 3))
    values = onnx("::GatherND", (scores, rows), dtype=scores.dtype, shape=(1,))
    nothing = torch.zeros_like(scores)
    return onnx("::ScatterND", (nothing, rows, values), dtype=scores.dtype, shape=scores.shape)


def _defaults(model: SSD | RetinaNet) -> dict[str, Any]:
    rule = ssd_detections if isinstance(model, SSD) else retinanet_detections
    return {p.name: p.default for p in inspect.signature(rule).parameters.values()}


def export_onnx(
    model: SSD | RetinaNet,
    file: str | Path,
    size: Size,
    nms: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
) -> Path:
    """Writes `model` for pictures of size (height, width) or size x size, in any number at once.

    nms      options of inference, {} for the model's own: the file then gives FOUND, else OUTPUTS
    classes  names to write into the file's metadata, as JSON under "classes", beside "size"
    It is written as it works in evaluation, and is left in the mode it was in. Returns the file.
    Raises ModuleNotFoundError with one sentence where onnx and onnxscript are not installed.
    """
    height, width = as_pair(size)
    training, device = model.training, next(model.parameters()).device
    images = torch.rand(2, 3, height, width, device=device)  # of one, the batch would be constant
    plain, pair = nms is None, (height, width)
    network = Exported(model, pair) if nms is None else ExportedWithNMS(model, pair, nms)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's, about its own insides
            program = torch.onnx.export(
                network.eval(),
                (images,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=OUTPUTS if plain else FOUND,
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            )
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    finally:
        model.train(training)
    assert program is not None, "dynamo=True gives a program"
    about = {"classes": json.dumps(list(classes)), "size": json.dumps([height, width])}
    program.model.metadata_props.update(about)
    write_whole(Path(file), program.model_proto.SerializeToString())
    return Path(file)


def run_onnx(file: str | Path, images: Tensor) -> Outputs:
    """What the exported model says of images (B, 3, H, W), float in 0..1, by ONNX Runtime on the
    CPU.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = session.run(list(OUTPUTS[:2]), {"images": images.cpu().numpy()})
    return Outputs(*map(torch.from_numpy, found))


def _missing(error: ModuleNotFoundError) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"ONNX needs a package that is not here ({error.name}): "
        'pip install "lesson-lib[onnx]" (or pip install onnx onnxscript onnxruntime).'
    )
