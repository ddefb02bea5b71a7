"""What `predict` is to look at: the files that are meant by files, folders and links."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lesson_lib.data.pictures import ENDINGS

VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv"}


@dataclass
class Found:
    """The files to look at, and what was passed over.

    files    path -> the name that it goes by, no two alike: relative to the folder that was given
    faults   a sentence for each folder that could not be read
    others   files in folders that are neither picture nor video, counted by their ending
    hidden   pictures in folders whose names begin with a dot, as the files ._* that macOS leaves
    """

    files: dict[Path, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    hidden: int = 0

    def passed_over(self) -> str:
        """One sentence about the files that are not looked at; "" where there is none."""
        parts = []
        if self.others:
            endings = ", ".join(
                f"{count} {ending or 'without an ending'}"
                for ending, count in self.others.most_common(5)
            )
            parts.append(f"{self.others.total()} files that are no pictures ({endings}, ...)")
        if self.hidden:
            parts.append(f"{self.hidden} hidden pictures (.*)")
        return f"Passed over: {' and '.join(parts)}." if parts else ""


def find_pictures(given: Sequence[Path], out: Path) -> Found:
    """Files as they are given, whatever their ending; from folders all with a known ending.

    Subfolders are searched too, but not `out`, where drawings go. Endings count in any case. A link
    to nowhere stays in the list: whoever reads it says what is wrong.
    """
    found, seen, names = Found(), set[str](), dict[Path, Path]()
    for path in given:
        for file in _below(path, out.absolute(), found) if path.is_dir() else [path]:
            if (place := os.path.abspath(file)) not in seen:
                seen.add(place)
                names[file] = file.relative_to(path) if path.is_dir() else Path(file.name)
    found.files = _told_apart(names)
    return found


def _below(folder: Path, out: Path, found: Found) -> Iterator[Path]:
    """Pictures and videos of a folder and its subfolders by name; each real folder once."""
    entered = set()
    walk = os.walk(folder, onerror=lambda e: found.faults.append(_told(e)), followlinks=True)
    for place, folders, files in walk:
        real = os.path.realpath(place)
        if real in entered or Path(place).absolute() == out:
            folders.clear()  # a link that leads back up, or the drawings
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            ending = os.path.splitext(name)[1].lower()
            if ending not in (*ENDINGS, *VIDEOS):
                found.others[ending] += not name.startswith(".")
            elif name.startswith("."):
                found.hidden += 1
            else:
                yield Path(place, name)
    found.others += Counter()  # drops those counted as 0


def _told(error: OSError) -> str:
    return f"The folder {error.filename} cannot be read ({error.strerror}): mend its rights."


def _told_apart(names: dict[Path, Path]) -> dict[Path, str]:
    """Each file's name; files of one name get as many folders before it as tell them apart."""
    chosen = {file: name.as_posix() for file, name in names.items()}
    length = {file: len(name.parts) for file, name in names.items()}
    while True:
        count = Counter(chosen.values())
        alike = [file for file, name in chosen.items() if count[name] > 1]
        if not alike:
            return chosen
        for file in alike:
            length[file] += 1
            chosen[file] = Path(*file.absolute().parts[-length[file] :]).as_posix()
