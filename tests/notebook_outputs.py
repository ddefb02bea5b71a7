"""Outputs of cells, made for the tests of what compares and stores them."""

import base64
import io

import numpy as np
from nbformat import NotebookNode
from nbformat.v4 import new_output
from PIL import Image


def stream(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", text=text, name=name)


def shown(data: dict, **more) -> NotebookNode:
    return new_output("display_data", data=data, **more)


def png(width: int = 100, height: int = 100, marked: int = 0, step: int = 255) -> str:
    """A black picture in base64 with the first `marked` pixels brighter by `step`."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels.reshape(-1, 3)[:marked] = step
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
