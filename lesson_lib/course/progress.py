"""What a learner has solved and guessed: one local JSON file, which is theirs to read and to
delete.

    record_exercise("03.match")            solved, now
    record_guess("03.owners", hit=True)    a prediction that was compared with what came out
    keep_function("pairwise_iou", source)  one that passed, for `course.mine`
    summary()                              for the map in lesson 0 and for `python3 lab.py progress`

The file is my_course/progress.json beside the lessons, or what LESSON_PROGRESS names; "none" keeps
nothing, which is how lessons are tested. Nothing in it leaves this machine.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lesson_lib.config import REPOSITORY
from lesson_lib.course.sources import standing_alone
from lesson_lib.files import write_whole

HEAD = (
    "# Your {name}, as it passed {exercise}. Lessons and playgrounds use it; delete this file to "
    "use the library's.\n"
)
EMPTY: dict[str, dict[str, Any]] = {"exercises": {}, "guesses": {}}


def progress_file() -> Path | None:
    """Where progress is kept; None where nothing shall be."""
    named = os.environ.get("LESSON_PROGRESS")
    if named == "none":
        return None
    return Path(named).expanduser() if named else REPOSITORY / "my_course" / "progress.json"


def read() -> dict[str, dict[str, Any]]:
    """{"exercises": {name: {...}}, "guesses": {name: {...}}}; empty where there is no file or it
    cannot be read.
    """
    file = progress_file()
    try:
        kept = json.loads(file.read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError):
        kept = {}
    return {part: kept[part] if isinstance(kept.get(part), dict) else {} for part in EMPTY}


def record_exercise(name: str) -> None:
    """Exercise `name` ("03.match") is solved; the first time counts."""
    kept = read()
    if name not in kept["exercises"]:
        kept["exercises"][name] = {"solved": time.strftime("%Y-%m-%d %H:%M")}
        _write(kept)


def record_guess(name: str, guess: Any, value: Any, hit: bool) -> None:
    """Prediction `name` was compared with what came out; the first guess counts."""
    kept = read()
    if name not in kept["guesses"]:
        kept["guesses"][name] = {"guess": guess, "value": value, "hit": hit}
        _write(kept)


def summary() -> dict[str, dict[str, int]]:
    """{"03": {"solved": 2, "guessed": 4, "hits": 3}, ...}, for the lessons in which anything was
    done.
    """
    kept, lessons = read(), dict[str, dict[str, int]]()
    for part, key in (("exercises", "solved"), ("guesses", "guessed")):
        for name in kept[part]:
            row = lessons.setdefault(name[:2], {"solved": 0, "guessed": 0, "hits": 0})
            row[key] += 1
    for name, guess in kept["guesses"].items():
        lessons[name[:2]]["hits"] += bool(guess.get("hit"))
    return dict(sorted(lessons.items()))


def _write(kept: dict[str, dict[str, Any]]) -> None:
    """A lesson goes on where its progress cannot be written, say on a disk that is full."""
    file = progress_file()
    if file is None:
        return
    try:
        write_whole(file, json.dumps(kept, indent=1, ensure_ascii=False).encode())
    except OSError as error:
        print(f"Your progress could not be kept ({error}); the lesson goes on.")


def source_of(name: str, exercise: str, function: Callable) -> str | None:
    """A file that defines `function`, which passed `exercise`, as NAME; None for a function without
    source, or where nothing is kept.

    As source, so that it lives longer than its kernel.
    """
    if _function_file(name) is None:
        return None
    try:
        source = standing_alone(function)
    except (OSError, TypeError):
        return None
    return f"{HEAD.format(name=name, exercise=exercise)}{source}\n\n{name} = {function.__name__}\n"


def keep_function(name: str, source: str) -> None:
    """Write such a file as functions/NAME.py beside the progress file."""
    file = _function_file(name)
    if file is None:
        return
    try:
        write_whole(file, source.encode())
    except OSError as error:
        print(f"Your {name} could not be kept ({error}); the lesson goes on.")


def kept_function(name: str) -> str | None:
    """The source that was kept under `name`; None where there is none."""
    file = _function_file(name)
    return file.read_text(encoding="utf-8") if file and file.is_file() else None


def _function_file(name: str) -> Path | None:
    file = progress_file()
    return file.parent / "functions" / f"{name}.py" if file else None
