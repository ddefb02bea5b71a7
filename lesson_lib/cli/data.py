"""`data`: list, read a card, download, check, convert."""

import argparse
from collections import Counter
from pathlib import Path

from lesson_lib.cli.opening import add_reading, reading, words
from lesson_lib.data import catalog
from lesson_lib.data.convert import FORMS, convert
from lesson_lib.data.inspect import inspect_dataset, layout, open_what_can_be

WHAT = (
    "a name, voc:DIR, coco:FILE (FILE may hold {split}), yolo:DIR, or a folder in one of "
    "these layouts"
)


def add_data(commands) -> None:
    """data list | card NAME | download NAME | check WHAT | convert WHAT --to FORM --out DIR"""
    help_text = "data sets: list, read a card, download, check, convert"
    data = commands.add_parser("data", help=help_text)
    actions = data.add_subparsers(title="actions", required=True, metavar="ACTION")
    every = actions.add_parser("list", help="which there are, and where they lie on this machine")
    every.set_defaults(run=list_data)
    card = actions.add_parser("card", help="licence, counts, what is wrong with it")
    card.add_argument("name")
    card.set_defaults(run=show_card)
    download = actions.add_parser("download", help="fetch one, or take a copy that is on this disk")
    download.add_argument("name")
    download.add_argument(
        "--from", dest="source", metavar="DIR", help="a folder with a copy or its archives"
    )
    download.set_defaults(run=download_data)
    check = actions.add_parser(
        "check", help="corrupt pictures, bad boxes, duplicates; exit status 1 if any"
    )
    check.add_argument("what", help=WHAT)
    check.add_argument(
        "--classes", metavar="A,B,...", help="classes to expect; others are a problem"
    )
    check.add_argument(
        "--all", action="store_true", help="name every file, not only the first ten of a kind"
    )
    add_reading(check)
    check.set_defaults(run=check_data)
    _add_convert(actions)


def _add_convert(actions) -> None:
    command = actions.add_parser(
        "convert", help="write a data set in another form, with its pictures"
    )
    command.add_argument("what", help=WHAT)
    command.add_argument("--to", required=True, choices=tuple(FORMS), dest="form")
    command.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="a new folder, or an empty one"
    )
    command.add_argument(
        "--link", action="store_true", help="hard links to the pictures instead of copies"
    )
    add_reading(command)
    command.set_defaults(run=convert_data)


def list_data(options: argparse.Namespace) -> int:
    for name in catalog.names():
        if name == "smears":
            print(f"{name:10} drawn by this package, any number; needs no download")
            continue
        about, folder = catalog.facts(name), catalog.find_dataset(name)
        count = ", ".join(f"{split} {number}" for split, number in about["pictures"].items())
        print(f"{name:10} {count}; {about['licence']}; {folder or 'not on this machine'}")
    return 0


def show_card(options: argparse.Namespace) -> int:
    if options.name not in catalog.names():
        catalog.facts(options.name)  # tells an unknown name
    print((catalog.CARDS / f"{options.name}.md").read_text(encoding="utf-8"))
    return 0


def download_data(options: argparse.Namespace) -> int:
    print(f"{options.name} lies in {catalog.download(options.name, options.source)}")
    return 0


def check_data(options: argparse.Namespace) -> int:
    classes = options.classes.split(",") if options.classes else None
    kind, place = layout(options.what)
    read = reading(options, f"{kind}:{place}" if kind else place)
    report = inspect_dataset(options.what, classes, **read)
    print(report.text(None if options.all else 10))
    return 1 if report.problems else 0


def convert_data(options: argparse.Namespace) -> int:
    kind, place = layout(options.what)
    word = f"{kind}:{place}" if kind else place
    read = reading(options, word)
    if (kind or catalog.facts(place)["format"]) == options.form and not read:
        raise ValueError(f"{options.what} is in {options.form}'s form already; copy it.")
    splits = open_what_can_be(options.what, **read)
    readable = {split: data for split, data in splits.items() if len(data)}
    if not readable:
        first = next(problem for data in splits.values() for problem in data.problems)
        raise ValueError(f"{options.what} has no picture that can be used; first of all: {first}")
    done = convert(readable, options.form, options.out, options.link)
    for split, count in done.pictures.items():
        print(f"{split}: {count} pictures, {done.objects[split]} objects")
    for sentence, count in done.lost.items():
        if count:
            print(f"not carried over: {count} {sentence}")
    kinds = Counter(problem.kind for data in splits.values() for problem in data.problems)
    kinds += Counter(note.kind for data in splits.values() for note in data.remarks)
    if kinds:
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        print(f"seen while reading: {counts}; `data check {words(word, read)}` names them")
    print(f"{options.out} holds it as {options.form}:{options.out}")
    return 0
