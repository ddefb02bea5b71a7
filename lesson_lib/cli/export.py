"""`export`: a run as one ONNX file, which other programs run without PyTorch."""

import argparse
from pathlib import Path

from lesson_lib.cli.predict import SCORE, check_score
from lesson_lib.data.augment import MEAN_COLOUR
from lesson_lib.detectors.export import export_onnx
from lesson_lib.training import runs


def add_export(commands) -> None:
    """export RUN|NAME --out FILE.onnx [--nms] [--score S] [--checkpoint best|last]"""
    command = commands.add_parser(
        "export", help="one ONNX file, for programs without PyTorch (the extra onnx)"
    )
    command.add_argument("folder", metavar="RUN", help=runs.HELP)
    command.add_argument("--out", required=True, type=Path, metavar="FILE.onnx")
    command.add_argument(
        "--nms", action="store_true", help="with threshold and NMS inside: boxes, scores, labels"
    )
    command.add_argument(
        "--score", type=float, help="lowest score with --nms; default: as for predict"
    )
    command.add_argument("--checkpoint", choices=("best", "last"), help="default: best, if any")
    command.set_defaults(run=run_export)


def run_export(options: argparse.Namespace) -> int:
    check_score(options.score)
    if options.score is not None and not options.nms:
        raise ValueError("--score is for --nms: without it the file gives every box its scores.")
    if options.out.is_dir():
        raise ValueError(
            f"--out {options.out} is a folder; name a file, as {options.out}/model.onnx."
        )
    model, recipe, about = runs.load(options.folder, "cpu", options.checkpoint)
    score = about.get("threshold", SCORE) if options.score is None else options.score
    nms = recipe.inference | {"score_threshold": score} if options.nms else None
    size = recipe.resizing.largest()
    export_onnx(model, options.out, size, nms, about["classes"])
    inputs = f"images (B, 3, {size[0]}, {size[1]}), RGB in 0..1"
    outputs = (
        f"boxes, scores over {score:.3f}, labels" if nms else "boxes and scores of all anchors"
    )
    print(f"{options.out}: {inputs} -> {outputs}")
    if (views := recipe.inference.get("views", 1)) > 1:
        print(
            f"predict looks at {views} views of each picture; this file looks at the one that it "
            "is given, so its boxes and scores are a little less sure."
        )
    if recipe.resizing.keeps_aspect:
        print(
            "Pictures keep their aspect as in training: shrink or enlarge each so that it fits, "
            f"lay it at the upper left, and fill the rest with RGB {MEAN_COLOUR}."
        )
    return 0
