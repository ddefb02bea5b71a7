"""`predict`: pictures with boxes, and COCO JSON."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from lesson_lib.data.annotated import read_picture
from lesson_lib.data.samples import Sample
from lesson_lib.data.voc import ENDINGS
from lesson_lib.files import write_whole
from lesson_lib.training import runs
from lesson_lib.training.loop import predict

COLOURS = (
    "#D55E00",
    "#0072B2",
    "#CC79A7",
    "#009E73",
    "#E69F00",
    "#56B4E9",
    "#F0E442",
)  # as in plots


def add_predict(commands) -> None:
    """predict RUN|NAME PICTURES... --out DIR [--score S]"""
    command = commands.add_parser(
        "predict", help="find objects: pictures with boxes, and COCO JSON"
    )
    command.add_argument("folder", metavar="RUN", help=runs.HELP)
    command.add_argument(
        "pictures", type=Path, nargs="+", metavar="PICTURE", help="files, or folders of them"
    )
    command.add_argument("--out", required=True, type=Path, metavar="DIR")
    command.add_argument(
        "--score", type=float, default=0.4, help="lowest score of a box, default .4"
    )
    command.set_defaults(run=run_prediction)


def run_prediction(options: argparse.Namespace) -> int:
    model, recipe, about = runs.load(
        options.folder, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )
    images, annotations = [], []
    options.out.mkdir(parents=True, exist_ok=True)
    files = [
        file
        for path in options.pictures
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        if file == path or file.suffix in ENDINGS
    ]
    for number, file in enumerate(files):
        sample = Sample(read_picture(file), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        p = predict(
            model, [sample], recipe.size, **recipe.inference | {"score_threshold": options.score}
        )[0]
        rows = list(zip(*(p[name].tolist() for name in ("boxes", "scores", "labels"))))
        images.append(
            {
                "id": number,
                "file_name": file.name,
                "height": sample.size[0],
                "width": sample.size[1],
            }
        )
        for (x1, y1, x2, y2), score, label in rows:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": label,
                    "score": score,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
        drawn(sample, rows, about["classes"]).save(options.out / f"{number:04d}-{file.stem}.png")
    categories = [{"id": label, "name": name} for label, name in enumerate(about["classes"])]
    write_whole(
        options.out / "predictions.json",
        json.dumps(
            {"images": images, "annotations": annotations, "categories": categories}
        ).encode(),
    )
    print(f"{len(annotations)} objects in {len(images)} pictures: {options.out}")
    return 0


def drawn(sample: Sample, rows: list[tuple], classes: Sequence[str]) -> Image.Image:
    """The picture with its (box, score, label), each with its class above it, so that no object is hidden."""
    picture = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
    pen = ImageDraw.Draw(picture)
    for (x1, y1, x2, y2), score, label in rows:
        colour = COLOURS[label % len(COLOURS)]
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=2)
        words, size = f"{classes[label]} {score:.2f}", {"font_size": 13, "stroke_width": 2}
        x = max(2, min(x1, picture.width - pen.textlength(words, font_size=13) - 2))
        pen.text((x, max(1, y1 - 17)), words, fill=colour, stroke_fill="white", **size)
    return picture
