"""Bringing files onto this disk: transfers that resume, checksums,
archives that are not trusted.
"""

import errno
import gzip
import hashlib
import http.client
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

SPARE = 64 * 2**20  # bytes of disk that stay free
BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)


class NoRoom(OSError):
    """The disk is full, or would be: trying again at once is of no use."""


def fetch(url: str, target: Path, tries: int = 4, pause: float = 1.0) -> None:
    """Download url to target.

    What came so far waits in target + ".part"; the next try goes on from there.

    It goes on only when the server confirms (If-Range) that its file is still the one the part is
    of; a server without ranges sends all of it again. Raises OSError with one sentence; the part
    stays.
    """
    part = target.with_name(target.name + ".part")
    for attempt in range(1, tries + 1):
        try:
            _transfer(url, part)
            break
        except NoRoom:
            raise
        except HTTPError as error:
            error.close()
            if error.code == 416:  # the part is longer than the file: it is of another one
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise OSError(
                    f"{url} answers {error.code} ({error.reason}); try later, or take a copy that "
                    "you have with --from DIR."
                ) from error
            reason = error
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise NoRoom(
                    f"The disk is full, with {part.stat().st_size} bytes of {url} on it; make room "
                    "and run the same command again: it goes on from there."
                ) from error
            reason = error
        if attempt == tries:
            raise OSError(
                f"No full transfer of {url} in {tries} tries ({reason}); what came is kept. Run "
                "the same command again, take a copy that you have with --from DIR, or go on with "
                "'smears', which need no download."
            ) from reason
        time.sleep(pause * attempt)
    part.replace(target)
    part.with_suffix(".mark").unlink(missing_ok=True)


def _transfer(url: str, part: Path) -> None:
    mark = part.with_suffix(".mark")  # what the server calls the version the part is of
    have = part.stat().st_size if part.is_file() and mark.is_file() else 0
    headers = {"User-Agent": "lesson-lib", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": mark.read_text()}
    with urlopen(Request(url, headers=headers), timeout=30) as answer:
        if answer.status != 206 or not answer.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        ):
            have, etag = 0, answer.headers.get("ETag", "")
            version = (
                etag if etag[:1] == '"' else answer.headers.get("Last-Modified", "")
            )  # not W/"..."
            mark.write_text(version) if version else mark.unlink(missing_ok=True)
        length = int(answer.headers.get("Content-Length") or 0)
        need_room(part.parent, length)
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(
                desc=part.stem,
                total=have + length or None,
                initial=have,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as bar,
        ):  # None: no bar where nobody watches
            while block := answer.read(2**18):
                file.write(block)
                bar.update(len(block))
    if part.stat().st_size < have + length:
        raise ConnectionError("the connection broke")


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_sha256(file: Path, wanted: str | None, aside: bool = True) -> None:
    """Raises ValueError with one sentence for another checksum; with aside, the file becomes
    FILE.bad.

    wanted None: the checksum is not known and nothing is checked.
    """
    found = sha256(file)
    if wanted not in (None, found):
        where = file.replace(file.with_name(file.name + ".bad")) if aside else file
        raise ValueError(
            f"{file.name} is not the file it should be (SHA-256 {found}, expected {wanted}); "
            f"nothing was unpacked, it is kept as {where.name}."
        )


def tree_digest(root: Path, patterns: list[str]) -> str:
    """SHA-256 of the lines "SHA-256 path" (as sha256sum prints them) of all files that match, by
    path.
    """
    files = sorted({file.relative_to(root).as_posix() for p in patterns for file in root.glob(p)})
    return hashlib.sha256(
        "".join(f"{sha256(root / file)}  {file}\n" for file in files).encode()
    ).hexdigest()


def unpack(source: Path, target: Path, patterns: dict[str, str]) -> int:
    """Files of a zip, a tar or a folder that match a pattern, written to
    target/patterns[pattern]/name.

    Only regular files are written, under their last name only, so nothing can land outside; an
    archive with a path that tries ("..", absolute), or with a link where a file is wanted, is
    refused whole: ValueError.
    Returns the number of files. The first pattern that matches counts; its * matches / too. Paths
    in a folder begin with "./".
    """
    with _members(source) as members:
        wanted = []
        for name, size, opener in members:
            parts = PurePosixPath(name.replace("\\", "/")).parts
            folder = next(
                (f for pattern, f in patterns.items() if fnmatchcase(name, pattern)), None
            )
            if ".." in parts or parts[:1] == ("/",) or ":" in "".join(parts[:1]):
                raise ValueError(
                    f"{source} holds the path {name!r}, which leads out of it; none unpacked."
                )
            if folder is not None and opener is None:
                raise ValueError(
                    f"{source} holds a link, {name!r}, instead of a file; none unpacked."
                )
            if folder is not None:
                wanted.append((target / folder / parts[-1], size, opener))
        need_room(target, sum(size for _, size, _ in wanted))
        for path, _, opener in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            with opener() as stream, path.open("wb") as file:
                shutil.copyfileobj(stream, file)
    return len(wanted)


@contextmanager
def _members(source: Path) -> Iterator[list[tuple[str, int, Callable[[], IO[bytes]] | None]]]:
    """(path, bytes, how to open it or None for a link) of everything in an archive or folder but
    folders.
    """
    try:
        if source.is_dir():
            yield [
                (f"./{f.relative_to(source).as_posix()}", f.stat().st_size, partial(f.open, "rb"))
                for f in sorted(source.rglob("*"))
                if f.is_file()
            ]
        elif zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as z:
                yield [
                    (m.filename, m.file_size, partial(z.open, m))
                    for m in z.infolist()
                    if not m.is_dir()
                ]
        else:
            with tarfile.open(source) as t:
                yield [
                    (m.name, m.size, partial(_content, t, m) if m.isfile() else None)
                    for m in t
                    if not m.isdir()
                ]
    except BROKEN as error:
        reason = str(error).partition(":\n")[0]
        raise ValueError(
            f"{source} is no archive that can be read ({reason}); delete it."
        ) from error


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    assert stream is not None, "a regular file has a content"
    return stream


def need_room(folder: Path, size: int) -> None:
    """Raises NoRoom with one sentence where the disk of `folder` has no room for `size` bytes."""
    folder = next(f for f in (folder, *folder.parents) if f.exists())
    free = shutil.disk_usage(folder).free
    if free < size + SPARE:
        raise NoRoom(
            f"{size / 2**20:.0f} MB are to be written but {folder} has {free / 2**20:.0f} MB free; "
            "make room and run the same command again."
        )
