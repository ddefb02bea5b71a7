"""The command line, `lesson-lib COMMAND` or `python -m lesson_lib COMMAND`: a module for each."""

import argparse
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

from lesson_lib import __version__
from lesson_lib.cli.data import add_data
from lesson_lib.cli.evaluate import add_evaluate
from lesson_lib.cli.export import add_export
from lesson_lib.cli.memory import out_of_memory, too_small
from lesson_lib.cli.predict import add_predict
from lesson_lib.cli.rehearse import add_rehearse
from lesson_lib.cli.train import add_train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Exit status 0; 1 for problems or an error, in a sentence; 2 for misuse."""
    _print_any_character()
    script = Path(sys.argv[0]).stem == "lesson-lib"
    parser = argparse.ArgumentParser(
        prog="lesson-lib" if script else "python -m lesson_lib",
        description="One-stage object detection.",
    )
    parser.add_argument("--version", action="version", version=f"lesson-lib {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_train(commands)
    add_evaluate(commands)
    add_predict(commands)
    add_export(commands)
    add_data(commands)
    add_rehearse(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except BrokenPipeError:  # whoever read the output, as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError, ImportError) as error:  # one sentence, where the package raised it
        print(_sentence(error), file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        print(too_small(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "Stopped; the same command goes on with a download or a training from where it is.",
            file=sys.stderr,
        )
        return 130


def _sentence(error: Exception) -> str:
    """What the package says of it, or the system of a file."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}."
    return str(error)


def _print_any_character() -> None:
    """Letters that the console lacks are printed as \\u732b instead of stopping the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
