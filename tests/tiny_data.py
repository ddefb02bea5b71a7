"""Data sets of a few small pictures of noise, written where a test wants them; imports no package
of ours.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def picture(
    path: Path, width: int = 20, height: int = 10, seed: int = 0, mode: str = "RGB", **save
) -> np.ndarray:
    """Write noise; returns its pixels (height, width, 3) as RGB, as they were before a lossy
    format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **save)
    return pixels


def voc_object(name: str, box: tuple, difficult: int = 0, more: str = "") -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>{more}"
        f"<bndbox>{corners}</bndbox></object>"
    )


def voc_picture(
    root: Path,
    name: str,
    objects: str = "",
    width: int = 20,
    height: int = 10,
    seed: int = 0,
    size: str | None = None,
    ending: str = ".png",
) -> None:
    """One picture and its annotation; size: the XML to write instead of the picture's own size."""
    picture(root / "JPEGImages" / (name + ending), width, height, seed)
    (root / "Annotations").mkdir(exist_ok=True)
    size = f"<size><width>{width}</width><height>{height}</height></size>" if size is None else size
    (root / "Annotations" / f"{name}.xml").write_text(
        f"<annotation><filename>{name}{ending}</filename>{size}{objects}</annotation>"
    )


def voc_split(root: Path, split: str, *names: str) -> None:
    (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(
        "".join(f"{name}\n" for name in names)
    )


def voc_folder(root: Path) -> Path:
    """Picture a, in train: a cat and a difficult dog; b, in val: a dog; c, in test: nothing."""
    voc_picture(
        root, "a", voc_object("dog", (2, 3, 11, 9), 1) + voc_object("cat", (1, 1, 20, 10)), seed=1
    )
    voc_picture(root, "b", voc_object("dog", (5, 5, 9, 9)), seed=2)
    voc_picture(root, "c", seed=3)
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        voc_split(root, split, name)
    return root


def coco_file(
    root: Path, split: str = "train", pictures: int = 2, seed: int = 0, folder: str = "", **change
) -> Path:
    """annotations/SPLIT.json, images/SPLIT/*.png; categories 3, 7, 20; only the first picture has
    objects.
    """
    names = [f"{folder}{split}{k}.png" for k in range(pictures)]
    for k, name in enumerate(names):
        picture(root / "images" / split / name, seed=seed + k)
    data = {
        "images": [
            {"id": 10 + k, "file_name": name, "width": 20, "height": 10}
            for k, name in enumerate(names)
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 10,
                "category_id": 20,
                "bbox": [1, 2, 3, 4],
                "area": 7.5,
                "iscrowd": 0,
            },
            {
                "id": 2,
                "image_id": 10,
                "category_id": 3,
                "bbox": [0, 0, 20, 10],
                "area": 9,
                "iscrowd": 1,
            },
        ],
        "categories": [
            {"id": 20, "name": "cup"},
            {"id": 3, "name": "bus"},
            {"id": 7, "name": "fox"},
        ],
    }
    data.update(change)
    file = root / "annotations" / f"{split}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(data))
    return file


def renamed_categories(file: Path, *names: str) -> None:
    """The categories of `coco_file`, 3, 7 and 20, get these names."""
    data = json.loads(file.read_text())
    data["categories"] = [{"id": k, "name": n} for k, n in zip((3, 7, 20), names, strict=True)]
    file.write_text(json.dumps(data))
