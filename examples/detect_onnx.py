"""Objects in a picture, found without PyTorch: python detect_onnx.py MODEL.onnx PICTURE

MODEL.onnx is what `lesson-lib export RUN --out MODEL.onnx --nms` wrote. It needs numpy, pillow and
onnxruntime.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
classes, (height, width) = json.loads(about["classes"]), json.loads(about["size"])
picture = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
boxes, scores, labels = session.run(None, {"images": pixels.transpose(2, 0, 1)[None]})
scale = np.array([picture.width / width, picture.height / height] * 2)
for box, score, label in zip(boxes[0], scores[0], labels[0], strict=True):
    if label >= 0:  # the rows after the last detection are empty
        print(classes[label], f"{score:.3f}", *(f"{x:.1f}" for x in box * scale))
