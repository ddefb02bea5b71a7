"""Picture files: found by the names that annotations give them, measured by their header, decoded
upright.
"""

import os
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# In the order in which they are taken where an annotation does not tell; in any case of letters.
ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jfif", ".jpe"),
    *(".dib", ".ppm", ".pgm", ".pbm", ".jp2", ".tga", ".avif"),
)
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_picture(path: Path) -> bool:
    """Whether a file's name is that of a picture;
    `._*` of macOS and other hidden files are none.
    """
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def read_picture(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """A picture file as uint8 (3, H, W) RGB, turned upright as its EXIF orientation says.

    Greyscale and palettes become RGB; transparency is dropped; of several frames the first is
    taken.
    size: (height, width) by the annotation; a picture of another size is refused, since the boxes
    then belong to another version of it. Raises FileNotFoundError or ValueError with one sentence.
    """
    image, turn = _load(path, size)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # a palette may hold the transparency of each colour
    image = image.convert("RGB")
    pixels = np.array(image if turn == 1 else image.transpose(TURNS[turn]))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def picture_fault(path: Path, size: tuple[int, int] | None = None) -> str | None:
    """Why `read_picture` would refuse the picture, or None: all of the file is read, for a third of
    the time.

    A JPEG is decoded at an eighth of its size: that skips what follows the reading of its data.
    """
    try:
        _load(path, size, draft=True)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright picture by the file's header,
    for annotations that do not say.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path) as image:
                return _upright_size(image)
        except Exception as error:
            raise ValueError(f"The size of the picture {path} cannot be read ({error}).") from error


def picture_orientation(path: Path) -> int:
    """The EXIF orientation of a picture file, 1 to 8; 1 where it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            return orientation(image)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, also where the EXIF block is corrupt."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow's reader raises whatever it stumbles over
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def _load(path: Path, size: tuple[int, int] | None, draft: bool = False) -> tuple[Image.Image, int]:
    """The decoded picture as the file has it, and its orientation;
    the sentences of `read_picture`.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"The picture {path} is missing; restore it or take it out of the split."
        )
    with warnings.catch_warnings():  # Pillow warns of odd EXIF blocks and of very large pictures
        warnings.simplefilter("ignore")
        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    raise ValueError(
                        "more than 8 bits a channel: which range to keep is your choice"
                    )
                turn, found = orientation(image), _upright_size(image)
                if draft:
                    image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
        except Exception as error:  # Pillow's decoders raise whatever they stumble over
            raise ValueError(
                f"The picture {path} cannot be read ({error}); replace or remove it."
            ) from error
    if size is not None and found != size:
        before = " before its EXIF orientation is applied" if found[::-1] == size else ""
        raise ValueError(
            f"The picture {path} is {found[1]}x{found[0]} pixels but its annotation says "
            f"{size[1]}x{size[0]}{before if turn > 4 else ''}; its boxes may be wrong: correct one."
        )
    return image, turn


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width); EXIF orientations 5 to 8 swap the sides."""
    width, height = image.size
    return (width, height) if orientation(image) > 4 else (height, width)


class PictureFiles:
    """The picture files of some folders, found by whatever name an annotation gives them.

    A folder is listed once, so that 100,000 names cost no more than the listing.
    """

    def __init__(self, folders: Iterable[Path]):
        self.folders = tuple(folders)
        self._listings: dict[Path, tuple[set[str], dict[str, list[str]]]] = {}

    def find(self, name: str) -> Path | None:
        """The file of a picture, or None. Tried in turn, each in every folder:

        the name as it is; with slashes for a Windows path's backslashes; what follows `?d=` of an
        address; with %20 and the like resolved; then each of these without its first folder,
        without the second, ... A name also finds a file that differs from it in case, in the form
        of its accents or in the ending.
        """
        for text in readings(name):
            for folder in self.folders:
                path = self._lookup(folder / text)
                if path is not None:
                    return path
        return None

    def _lookup(self, path: Path) -> Path | None:
        """The file that `path` means within its own folder."""
        exact, alike = self._listing(path.parent)
        if path.name in exact:
            return path
        stem = path.stem if path.suffix.lower() in ENDINGS else path.name
        for key in (_plain(path.name), _plain(stem)):
            if key in alike:
                return path.parent / min(alike[key], key=_by_ending)
        return None

    def _listing(self, folder: Path) -> tuple[set[str], dict[str, list[str]]]:
        """All names of files in a folder; those of pictures by plain name, with and without their
        ending.
        """
        if folder not in self._listings:
            exact, alike = set[str](), dict[str, list[str]]()
            try:
                with os.scandir(folder) as entries:
                    exact = {entry.name for entry in entries if entry.is_file()}
            except (OSError, ValueError):  # no folder; a name that is too long or no name at all
                pass
            for name in sorted(filter(lambda name: is_picture(Path(name)), exact)):
                for key in (_plain(name), _plain(Path(name).stem)):
                    alike.setdefault(key, []).append(name)
            self._listings[folder] = exact, alike
        return self._listings[folder]


def readings(name: str) -> Iterator[str]:
    """What a name of a picture may mean, the likeliest first; `PictureFiles.find` tells which."""
    slashed = name.strip().replace("\\", "/")
    texts = [name, slashed, slashed.rpartition("?d=")[2]]
    texts += [unquote(text).replace("\\", "/") for text in texts[1:]] if "%" in name else []
    texts += [slashed.partition("?")[0]] if "://" in name else []
    texts = list(dict.fromkeys(text for text in texts if text and "\0" not in text))
    yield from texts
    for text in reversed(texts[1:] or texts):
        parts = PurePosixPath(text).parts
        yield from ("/".join(parts[k:]) for k in range(1, len(parts)))


def _plain(name: str) -> str:
    """A name without what file systems change: the case of letters, the form of accents, blanks at
    the ends.
    """
    return unicodedata.normalize("NFC", name).casefold().strip()


def _by_ending(name: str) -> int:
    return ENDINGS.index(Path(name).suffix.lower())
