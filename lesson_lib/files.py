"""Files that are always whole: whoever is killed, or meets a full disk,
leaves the old file or the new one.
"""

import contextlib
import os
import threading
from pathlib import Path


def write_whole(file: Path, data: bytes, shared: bool = False) -> None:
    """`data` as `file`, which is at no time half written; its folder is made if need be.

    The data go to a file beside it, are brought to the disk, and then take its name in one step.
    shared: other threads or processes may write the same file at the same time; the last one stays.
    OSError with one sentence where that is impossible; the old file stays.
    """
    own = f".{os.getpid()}-{threading.get_ident()}" if shared else ""
    part = file.with_name(f"{file.name}{own}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        kept = "the last good one is kept" if file.exists() else "nothing was saved yet"
        raise OSError(
            f"{file} could not be written ({error.strerror}), {kept}: make room or mend the "
            "folder, and run the same command again."
        ) from error
