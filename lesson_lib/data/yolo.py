"""Labels in YOLO's text form, turned into COCO JSON once, when a data set is downloaded."""

import json
import re
import shutil
from pathlib import Path

from PIL import Image


def yolo_to_coco(
    source: Path, target: Path, split: str, classes: list[str], longest: int | None
) -> None:
    """source/{images/*.jpg, labels/*.txt} become target/{annotations/SPLIT.json, images/SPLIT/*.jpg}.

    A line of a label file is `class cx cy w h`, as fractions of the picture's sides; a picture without a
    label file has no objects. Boxes are rounded to .01 px; category ids count from 1. Names lose the suffix
    that Roboflow's exports add. longest: pictures are shrunk to this longest side, in px, and saved as JPEG
    of quality 90; None copies the files as they are.
    """
    out = target / "images" / split
    out.mkdir(parents=True)
    pictures, boxes = [], []
    names = {
        re.sub(r"(_jpg)?\.rf\.[0-9a-f]+$", "", file.stem) + ".jpg": file
        for file in (source / "images").glob("*.jpg")
    }
    for number, (name, file) in enumerate(sorted(names.items()), 1):
        with Image.open(file) as image:
            width, height = image.size
            if longest is None:
                shutil.copyfile(file, out / name)
            else:
                width, height = (round(side * longest / max(image.size)) for side in image.size)
                image.convert("RGB").resize((width, height), Image.LANCZOS).save(
                    out / name, quality=90
                )
        pictures.append({"id": number, "file_name": name, "width": width, "height": height})
        text = source / "labels" / f"{file.stem}.txt"
        for line in text.read_text().splitlines() if text.is_file() else ():
            kind, cx, cy, w, h = line.split()
            w, h = float(w) * width, float(h) * height
            x, y = (
                max(0, round(float(cx) * width - w / 2, 2)),
                max(0, round(float(cy) * height - h / 2, 2)),
            )
            boxes.append(
                {
                    "id": len(boxes) + 1,
                    "image_id": number,
                    "category_id": int(kind) + 1,
                    "bbox": [x, y, round(w, 2), round(h, 2)],
                    "area": round(w * h, 2),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": k, "name": name} for k, name in enumerate(classes, 1)]
    (target / "annotations").mkdir(exist_ok=True)
    (target / "annotations" / f"{split}.json").write_text(
        json.dumps({"images": pictures, "annotations": boxes, "categories": categories})
    )
