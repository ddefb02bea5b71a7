"""`predict`: pictures and videos with boxes, and COCO JSON."""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lesson_lib.cli.drawing import draw_boxes, drawing_name, words_for
from lesson_lib.cli.pictures import VIDEOS, Found, find_pictures
from lesson_lib.data.pictures import read_picture
from lesson_lib.data.samples import Sample
from lesson_lib.data.video import Frame, VideoWriter, read_frames
from lesson_lib.files import write_whole
from lesson_lib.training import runs
from lesson_lib.training.loop import predict

SCORE = 0.4  # where a run has no threshold of its own
BATCH, BATCH_PIXELS = 8, 50_000_000  # pictures at a time; fewer where they are large
DRAWING = re.compile(r"\d{4,}-.*\.(png|mp4)")
FAULTS = OSError, ValueError, ImportError  # what is told of one file, and costs no other


class Look(NamedTuple):
    """A picture, or a frame of a video, to look at: uint8 (H, W, 3)."""

    file: Path
    number: int  # of the file
    name: str
    pixels: np.ndarray
    frame: Frame | None = None


def add_predict(commands) -> None:
    """predict RUN|NAME PICTURES... --out DIR [--score S] [--no-drawings]"""
    command = commands.add_parser(
        "predict",
        help="find objects: pictures and videos with boxes, and COCO JSON",
        description="Exit status 1 where a file could not be read or written; all others are done.",
    )
    command.add_argument("folder", metavar="RUN", help=runs.HELP)
    command.add_argument(
        "pictures", type=Path, nargs="+", metavar="PICTURE", help="files, or folders of them"
    )
    command.add_argument("--out", required=True, type=Path, metavar="DIR")
    command.add_argument(
        "--score",
        type=float,
        help=f"lowest score of a box, below 1; default: what was chosen on val, else {SCORE}",
    )
    command.add_argument("--checkpoint", choices=("best", "last"), help="default: best, if any")
    command.add_argument("--no-drawings", action="store_true", help="only predictions.json")
    command.set_defaults(run=run_prediction)


def run_prediction(options: argparse.Namespace) -> int:
    check_score(options.score)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, recipe, about = runs.load(options.folder, device, options.checkpoint)
    score = about.get("threshold", SCORE) if options.score is None else options.score
    _make_folder(options.out)
    found = find_pictures(options.pictures, options.out)
    if not found.files:
        raise ValueError(
            f"There is no picture in {', '.join(map(str, options.pictures))}; name picture "
            f"files, or folders of them. {found.passed_over()}".rstrip()
        )
    ids = about.get("category_ids") or range(1, len(about["classes"]) + 1)
    words, lacking = words_for(about["classes"], ids)
    tell(*found.faults, found.passed_over(), "" if options.no_drawings else lacking)
    results, drawings = Predictions(about["classes"], ids), Drawings(options.out, words)
    faults, stopped = list(found.faults), False
    inference = recipe.inference | {"score_threshold": score}
    try:
        for looks in batches(_bar(read_all(found, faults), found)):
            samples = [_sample(look.pixels) for look in looks]
            detections = predict(model, samples, recipe.resizing, **inference)
            for look, detected in zip(looks, detections, strict=True):
                rows = _rows(detected)
                drawing = None if options.no_drawings else drawings.add(look, rows)
                results.add(look, rows, drawing)
    except KeyboardInterrupt:
        stopped = True  # what was found is written all the same
    drawings.close()
    results.write(options.out / "predictions.json")
    return _summary(options.out, results, drawings, faults, stopped)


def check_score(score: float | None) -> None:
    """Raises ValueError with one sentence for a --score that no detection can be over."""
    if score is not None and not 0 <= score < 1:
        raise ValueError(
            f"--score is {score:g}; give a number from 0 up, below 1: what scores more is found."
        )


def _summary(
    out: Path, results: "Predictions", drawings: "Drawings", faults: list[str], stopped: bool
) -> int:
    earlier = sorted(
        file.name
        for file in out.iterdir()
        if DRAWING.fullmatch(file.name) and file.name not in drawings.written
    )
    if earlier:
        tell(
            f"{out} holds {len(earlier)} drawings of an earlier run beside these, {earlier[0]} for "
            "one: delete them, or give another --out."
        )
    print(f"{len(results.annotations)} objects in {len(results.images)} pictures: {out}")
    if faults:
        tell(f"{len(faults)} files or folders could not be read; they are named above.")
    if drawings.faults:
        tell(f"{len(drawings.faults)} drawings could not be written; predictions.json has it all.")
    if stopped:
        tell("Stopped: the pictures after these were not looked at.")
        return 130
    return 1 if faults or drawings.faults else 0


def tell(*sentences: str) -> None:
    """On stderr, above a bar where there is one; empty ones are passed over."""
    for sentence in filter(None, sentences):
        tqdm.write(sentence, file=sys.stderr)


def read_all(found: Found, faults: list[str]) -> Iterator[Look]:
    """Every picture and frame in order; what cannot be read is told, and added to `faults`."""
    for number, (file, name) in enumerate(found.files.items()):
        try:
            if file.suffix.lower() in VIDEOS:
                for frame in read_frames(file):
                    yield Look(file, number, f"{name}#{frame.number}", frame.pixels, frame)
            else:
                yield Look(file, number, name, read_picture(file).permute(1, 2, 0).numpy())
        except FAULTS as error:
            faults.append(f"{error}" if str(file) in str(error) else f"{file}: {error}")
            tell(faults[-1])


def _bar(looks: Iterable[Look], found: Found) -> Iterable[Look]:
    """With a bar, where somebody watches; nobody knows how many frames a video has."""
    videos = any(file.suffix.lower() in VIDEOS for file in found.files)
    total = None if videos else len(found.files)
    return tqdm(looks, total=total, unit="frame" if videos else "picture", disable=None)


def batches(looks: Iterable[Look]) -> Iterator[list[Look]]:
    """BATCH at a time, fewer where they are of many pixels."""
    batch, pixels = list[Look](), 0
    for look in looks:
        batch.append(look)
        pixels += look.pixels.shape[0] * look.pixels.shape[1]
        if len(batch) == BATCH or pixels >= BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


class Predictions:
    """What predictions.json holds: COCO's images, annotations with a "score", and categories."""

    def __init__(self, classes: Sequence[str], category_ids: Sequence[int]):
        self.images, self.annotations = list[dict[str, Any]](), list[dict[str, Any]]()
        self.category_ids = list(category_ids)
        self.categories = [
            {"id": number, "name": name} for number, name in zip(category_ids, classes, strict=True)
        ]

    def add(self, look: Look, rows: list[tuple], drawing: str | None) -> None:
        """One picture or frame with its (box, score, label). Ids of both count from 1."""
        height, width = look.pixels.shape[:2]
        image = {"id": len(self.images) + 1, "file_name": look.name}
        image |= {"height": height, "width": width}
        if look.frame is not None:
            image |= {"video": look.name.rpartition("#")[0], "frame": look.frame.number}
            image |= {"seconds": look.frame.seconds}
        self.images.append(image | ({"drawing": drawing} if drawing else {}))
        for (x1, y1, x2, y2), score, label in rows:
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image["id"],
                    "category_id": self.category_ids[label],
                    "score": score,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )

    def write(self, file: Path) -> None:
        parts = {name: getattr(self, name) for name in ("images", "annotations", "categories")}
        write_whole(file, json.dumps(parts).encode())


class Drawings:
    """The pictures and videos with boxes in a folder.

    written  the names of those that are whole; faults: a sentence for each that is not
    """

    def __init__(self, out: Path, words: Sequence[str]):
        self.out, self.words = out, words
        self.written, self.faults = set[str](), list[str]()
        self.video: tuple[int, VideoWriter | None] = (-1, None)  # number of the file, None: failed

    def add(self, look: Look, rows: list[tuple]) -> str | None:
        """Writes one more; returns its name, None where that failed."""
        drawn = draw_boxes(look.pixels, rows, self.words)
        name = drawing_name(look.number, look.file.stem, ".mp4" if look.frame else ".png")
        try:
            if look.frame:
                self._add_frame(look.number, look.frame, name, np.asarray(drawn))
            else:
                drawn.save(self.out / name)
        except FAULTS as error:
            self._fail(f"The drawing {name} could not be written ({_reason(error)}).")
            return None
        if look.frame and self.video[1] is None:
            return None
        self.written.add(name)
        return name

    def _add_frame(self, number: int, frame: Frame, name: str, pixels: np.ndarray) -> None:
        if self.video[0] != number:
            self.close()
            self.video = number, None
            writer = VideoWriter(self.out / name, frame.rate, *pixels.shape[:2])
            self.video = number, writer
        if (writer := self.video[1]) is not None:
            writer.add(pixels)

    def close(self) -> None:
        """Finishes the video that is being written, if there is one."""
        _, writer = self.video
        self.video = -1, None
        try:
            if writer is not None:
                writer.close()
        except FAULTS as error:
            if writer is not None:
                self.written.discard(writer.file.name)
            self._fail(str(error))

    def _fail(self, sentence: str) -> None:
        if (writer := self.video[1]) is not None:
            self.written.discard(writer.file.name)
            self.video = self.video[0], None
        self.faults.append(sentence)
        tell(sentence)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"--out {out} cannot be made a folder ({error.strerror}): give the name of a folder."
        ) from error


def _sample(pixels: np.ndarray) -> Sample:
    image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    return Sample(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def _rows(detections: dict[str, Tensor]) -> list[tuple]:
    return list(
        zip(*(detections[name].tolist() for name in ("boxes", "scores", "labels")), strict=True)
    )
