"""Videos, by PyAV (FFmpeg's libraries): frames read one at a time, and frames written as a video.

An extra: pip install "lesson-lib[video]".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Frame(NamedTuple):
    """uint8 (H, W, 3) RGB, upright; its number from 0; seconds from the start; frames a second."""

    pixels: np.ndarray
    number: int
    seconds: float
    rate: Fraction


def read_frames(file: Path) -> Iterator[Frame]:
    """The frames of a video in the order they are shown, turned as its display matrix says.

    Raises ValueError with one sentence, after the frames before it, for what cannot be decoded or
    holds no frame, and ModuleNotFoundError where PyAV is not installed.
    """
    av, index = _av(), -1
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise ValueError("it holds no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = stream.average_rate or Fraction(25)
            for index, frame in enumerate(container.decode(stream)):
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                seconds = index / float(rate) if frame.time is None else float(frame.time)
                yield Frame(np.ascontiguousarray(pixels), index, round(seconds, 3), rate)
        if index < 0:
            raise ValueError("it holds no frame")
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(
            f"The video {file} cannot be read after {index + 1} frames ({_reason(error)}); replace "
            "or remove it."
        ) from error


class VideoWriter:
    """Writes frames of one size as a video: H.264 where the codec is there, else MPEG-4."""

    def __init__(self, file: Path, rate: Fraction, height: int, width: int):
        av = _av()
        self.file, self.frame_of = file, av.VideoFrame.from_ndarray
        with _told(file):
            self.container = av.open(str(file), "w")
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            self.stream: Any = self.container.add_stream(codec, rate=rate)
            self.stream.pix_fmt = "yuv420p"  # what players expect; it wants even sides
            self.stream.width, self.stream.height = width + width % 2, height + height % 2

    def add(self, pixels: np.ndarray) -> None:
        """One more frame, uint8 (H, W, 3). OSError with one sentence where it cannot be written."""
        height, width = pixels.shape[:2]
        even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        with _told(self.file):
            self.container.mux(self.stream.encode(self.frame_of(even, format="rgb24")))

    def close(self) -> None:
        """Writes what the encoder still holds. OSError with one sentence where that fails."""
        with _told(self.file):
            try:
                self.container.mux(self.stream.encode())
            finally:
                self.container.close()


@contextmanager
def _told(file: Path) -> Iterator[None]:
    try:
        yield
    except (_av().FFmpegError, ValueError) as error:
        raise OSError(f"The video {file} could not be written ({_reason(error)}).") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'Videos need PyAV, which is not installed: pip install "lesson-lib[video]", or av.'
        ) from error
    return av
