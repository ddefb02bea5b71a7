"""ONNX: a trained detector as one file that other programs run without PyTorch.

    export_onnx(model, "cells.onnx", size=300)
    outputs = run_onnx("cells.onnx", images)                    # by ONNX Runtime: as model(images)
    found = model.detections(outputs, model.anchors(300), (300, 300))

The file holds everything but the last step: `boxes` and `scores` need only a score threshold and
NMS by class, which every runtime has in its own way; `cls_logits` and `box_deltas` lead to this
package's own inference.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from lesson_lib.anchors import Size, as_pair
from lesson_lib.boxes import clip_boxes, cxcywh_to_xyxy, xyxy_to_cxcywh
from lesson_lib.coding import decode
from lesson_lib.detectors.criterion import Outputs
from lesson_lib.detectors.retinanet import RetinaNet
from lesson_lib.detectors.ssd import SSD

OUTPUTS = ("cls_logits", "box_deltas", "boxes", "scores")


class Exported(nn.Module):
    """Pictures (B, 3, H, W), float in 0..1 -> OUTPUTS of every anchor.

    boxes (B, A, 4) xyxy pixels inside the picture; scores (B, A, K), without background, and 0
    where a box lies wholly outside.
    """

    def __init__(self, model: SSD | RetinaNet, size: tuple[int, int]):
        super().__init__()
        self.model, self.size, self.background = model, size, isinstance(model, SSD)
        device = next(model.parameters()).device
        self.register_buffer(
            "anchors", xyxy_to_cxcywh(model.anchors(size, device)), persistent=False
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits, deltas = self.model(images)
        boxes = decode(deltas, self.anchors, self.model.config.variances)
        scores = logits.softmax(-1)[..., 1:] if self.background else logits.sigmoid()
        boxes = clip_boxes(cxcywh_to_xyxy(boxes), self.size)
        inside = (boxes[..., 2:] > boxes[..., :2]).all(-1, keepdim=True)
        return logits, deltas, boxes, scores * inside


def export_onnx(model: SSD | RetinaNet, file: str | Path, size: Size) -> Path:
    """Writes `model` for pictures of size (height, width) or size x size, in any number at once.

    It is written as it works in evaluation, and is left in the mode it was in. Returns the file.
    Raises ModuleNotFoundError with one sentence where onnx and onnxscript are not installed.
    """
    height, width = as_pair(size)
    training, device = model.training, next(model.parameters()).device
    images = torch.rand(
        2, 3, height, width, device=device
    )  # of one, the batch would become a constant
    try:
        torch.onnx.export(
            Exported(model, (height, width)).eval(),
            (images,),
            str(file),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=OUTPUTS,
            external_data=False,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    finally:
        model.train(training)
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
        "pip install onnx onnxscript onnxruntime."
    )
