"""Corrupt small data sets by chance and see what the readers make of them.

    python tools/corrupt.py [--seed S] [--count N] [--only KIND] [--first K]

Case k of a seed is always the same. It lays out a clean set of a few pictures as VOC, COCO or
YOLO, spoils one file of it, and then does what `data check` and `train` do first: check, open
every split, decode every picture, feed them, evaluate nothing against them. A case falls short if
anything is raised that is not one sentence naming a file of the set, if a box that is outside its
picture or has no area gets as far as a batch, or if it takes more than LIMIT seconds of CPU. Exit
status 1 if any case falls short; each is told with how to repeat it.
"""

import argparse
import contextlib
import copy
import faulthandler
import io
import json
import re
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from lesson_lib.cli import main as command_line
from lesson_lib.data.annotated import Annotated
from lesson_lib.data.catalog import open_dataset
from lesson_lib.data.feed import Feed
from lesson_lib.evaluation import coco_evaluate

LIMIT = 10  # seconds of CPU for one case
STUCK = 300  # seconds of the clock after which a case that no signal ends stops everything
NAMES = ("cat", "dog")
BOXES = [(4, 3, 16, 15), (18, 6, 30, 20)]  # of every picture of 32x24 px
SIZE = (32, 24)
RAW = re.compile(r"\[Errno|'[\w-]+' codec|\w+Error\b|Traceback")
HUGE = "9" * 5000  # more digits than Python's int takes from a text
NUMBERS = ["", "x", "NaN", "inf", "-inf", "1e308", "-1e308", "-0", "0", "-1", "1,5", "1e-320", HUGE]
NUMBERS += ["null", "[]", "0x10", "1_0", "\u0661", "2147483648", "1e400", "true", "4 4", "<b>1</b>"]
VALUES = [None, [], {}, [1], {"a": 1}, True, False, "", "x", "1", "\u732b", 0, -1, -0.0, 1.5, 1e308]
VALUES += [float("nan"), float("inf"), 10**400, 2**63, [[]], [None] * 4, ["a"] * 4, [1e308] * 4]
VALUES += [[0, 0, 0, 0], [-5, -5, 99, 99], [1, 1, 1e-9, 5], "../../x", "/", ".", "a\0b", "y" * 300]
LINES = ["..", "/", "a\0b", "y" * 300, "img0", "img0 -1", "img0.jpg", "\u732b", "  "]
LINES += ["C:\\x\\img0.jpg"]
ZERO = '<!DOCTYPE a [<!ENTITY x SYSTEM "/dev/zero">]>'
BOMB = "".join(f'<!ENTITY e{k} "{f"&e{k - 1};" * 10 if k else "ha"}">' for k in range(10))


class Case(NamedTuple):
    """What was spoilt: the words for the data set, the file, and how."""

    what: str
    file: Path
    how: str


def lay_out(root: Path, form: str) -> None:
    """A clean set: splits train of three pictures and test of two."""
    splits = {"train": ["img0", "img1", "img2"], "test": ["img3", "img4"]}
    for split, names in splits.items():
        folder = {"voc": "JPEGImages", "coco": f"images/{split}", "yolo": f"images/{split}"}[form]
        for name in names:
            _draw(root / folder / (name + (".png" if name == "img1" else ".jpg")), int(name[-1]))
        LAYOUTS[form](root, split, names)


def _draw(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 1
    Image.fromarray(pixels).save(file, exif=exif)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _voc(root: Path, split: str, names: list[str]) -> None:
    for name in names:
        objects = "".join(
            f"<object><name>{kind}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin>"
            f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for kind, (x1, y1, x2, y2) in zip(NAMES, BOXES, strict=True)
        )
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
        text = f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>"
        _write(root / "Annotations" / f"{name}.xml", text)
    _write(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{name}\n" for name in names))


def _coco(root: Path, split: str, names: list[str]) -> None:
    images = [
        {
            "id": k,
            "file_name": f"{name}{'.png' if name == 'img1' else '.jpg'}",
            "width": SIZE[0],
            "height": SIZE[1],
        }
        for k, name in enumerate(names, 1)
    ]
    annotations = [
        {
            "id": 10 * image["id"] + k,
            "image_id": image["id"],
            "category_id": k,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
        }
        for image in images
        for k, (x1, y1, x2, y2) in enumerate(BOXES, 1)
    ]
    categories = [{"id": k, "name": name} for k, name in enumerate(NAMES, 1)]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    _write(root / "annotations" / f"{split}.json", json.dumps(tree))


def _yolo(root: Path, split: str, names: list[str]) -> None:
    for name in names:
        lines = [
            f"{k} {(x1 + x2) / 2 / SIZE[0]} {(y1 + y2) / 2 / SIZE[1]} "
            f"{(x2 - x1) / SIZE[0]} {(y2 - y1) / SIZE[1]}\n"
            for k, (x1, y1, x2, y2) in enumerate(BOXES)
        ]
        _write(root / "labels" / split / f"{name}.txt", "".join(lines))
    ending = {"img1": "png"}
    lines = [f"images/{split}/{name}.{ending.get(name, 'jpg')}\n" for name in names]
    _write(root / f"{split}.txt", "".join(lines))
    _write(root / "data.yaml", "train: train.txt\ntest: images/test\nnames:\n  0: cat\n  1: dog\n")


LAYOUTS = {"voc": _voc, "coco": _coco, "yolo": _yolo}
Draw = np.random.Generator


def spoil_bytes(data: bytes, draw: Draw) -> tuple[bytes, str]:
    """Some bytes flipped, cut, inserted, doubled or zeroed."""
    at = int(draw.integers(0, max(1, len(data))))
    length = int(draw.integers(1, 1 + max(1, len(data) // 4)))
    noise = draw.integers(0, 256, length, dtype=np.uint8).tobytes()
    ways = {
        "cut off": data[:at],
        "cut out": data[:at] + data[at + length :],
        "inserted": data[:at] + noise + data[at:],
        "overwritten": data[:at] + noise + data[at + length :],
        "zeroed": data[:at] + bytes(length) + data[at + length :],
        "doubled": data + data,
        "flipped": _flipped(data, draw),
        "emptied": b"",
    }
    way = str(draw.choice(list(ways)))
    return ways[way], f"bytes {way} at {at}"


def _flipped(data: bytes, draw: Draw) -> bytes:
    out = bytearray(data)
    for at in draw.integers(0, max(1, len(out)), int(draw.integers(1, 9))).tolist() if out else ():
        out[at] ^= 1 << int(draw.integers(0, 8))
    return bytes(out)


def spoil_encoding(data: bytes, draw: Draw) -> tuple[bytes, str]:
    """The text in another encoding, or with a byte order mark that fits or does not."""
    text = data.decode()
    ways = {
        "utf-16": text.encode("utf-16"),
        "utf-16-le": text.encode("utf-16-le"),
        "utf-32": text.encode("utf-32"),
        "utf-8-sig": text.encode("utf-8-sig"),
        "gb18030": ("\u732b" + text).encode("gb18030"),
        "latin-1": text.replace("a", "\xe4").encode("latin-1"),
        "cp037": text.encode("cp037"),
        "a wrong mark": b"\xff\xfe" + data,
        "CRLF": text.replace("\n", "\r\n").encode(),
        "one surrogate": data.replace(b"c", b"\xed\xa0\x80", 1),
    }
    way = str(draw.choice(list(ways)))
    return ways[way], f"text as {way}"


def spoil_number(data: bytes, draw: Draw) -> tuple[bytes, str]:
    """One to three numbers of the text become something else."""
    text, told = data.decode(), []
    for _ in range(int(draw.integers(1, 4))):
        found = list(re.finditer(r"-?\d+(\.\d+)?", text))
        if found:
            number, new = found[int(draw.integers(len(found)))], str(draw.choice(NUMBERS))
            text = text[: number.start()] + new + text[number.end() :]
            told.append(f"{number[0]} -> {new[:20]}")
    return text.encode(), ", ".join(told)


def spoil_tags(data: bytes, draw: Draw) -> tuple[bytes, str]:
    """A tag dropped, doubled, nested or renamed; entities; a namespace; very deep nesting."""
    text = data.decode()
    elements = list(re.finditer(r"<(\w+)>([^<]*)</\1>|<(bndbox|size|object)>.*?</\3>", text))
    one = elements[int(draw.integers(len(elements)))]
    start, end = one.span()
    body = text[text.index(">", start) + 1 : end]
    ways = {
        "dropped": text[:start] + text[end:],
        "doubled": text[:end] + text[start:],
        "nested": text[:start] + f"<object>{one[0]}</object>" + text[end:],
        "emptied": text[:start] + f"<{one[1] or one[3]}/>" + text[end:],
        "unclosed": text[:start] + body + text[end:],
        "a comment": text[:start] + f"<!-- {one[0]} -->" + text[end:],
        "an attribute": text[:start] + one[0].replace(">", " a='1'>", 1) + text[end:],
        "CDATA": text[:start] + f"<name><![CDATA[{one[0]}]]></name>" + text[end:],
        "entity bomb": f"<!DOCTYPE a [{BOMB}]>" + text.replace("cat", "&e9;"),
        "outer entity": ZERO + text.replace("cat", "&x;"),
        "namespace": text.replace("<annotation>", "<annotation xmlns='http://a/b'>"),
        "deep": text[:start] + "<a>" * 50_000 + "</a>" * 50_000 + text[end:],
        "another root": f"<annotations>{text}{text}</annotations>",
        "encoding nobody knows": f'<?xml version="1.0" encoding="klingon"?>{text}',
    }
    way = str(draw.choice(list(ways)))
    return ways[way].encode(), f"tag {one[1] or one[3]}: {way}"


def spoil_tree(data: bytes, draw: Draw) -> tuple[bytes, str]:
    """Nodes of a JSON tree replaced, dropped, doubled or nested."""
    tree, told = json.loads(data), []
    for _ in range(int(draw.integers(1, 4))):
        places = list(_places(tree))
        parent, key = places[int(draw.integers(len(places)))]
        way = str(draw.choice(["value", "value", "value", "dropped", "doubled", "nested"]))
        told.append(f"{key}: {way}")
        if way == "value":
            parent[key] = new = copy.deepcopy(VALUES[int(draw.integers(len(VALUES)))])
            told[-1] = f"{key}: {str(new)[:20]!r}"
        elif way == "nested":
            parent[key] = [parent[key]]
        elif way == "doubled" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        else:
            del parent[key]
        if not list(_places(tree)):
            break
    return json.dumps(tree).encode(), ", ".join(told)


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every (parent, key) below a dict or a list."""
    keys = list(node) if isinstance(node, dict) else range(len(node))
    found = [(node, key) for key in keys]
    for key in keys:
        if isinstance(node[key], dict | list):
            found += _places(node[key])
    return found


def spoil_lines(data: bytes, draw: Draw) -> tuple[bytes, str]:
    """A line dropped, doubled or replaced; a word more or less; lines joined or reversed."""
    lines = data.decode().split("\n")
    at = int(draw.integers(max(1, len(lines) - 1)))
    words, new = lines[at].split(), str(draw.choice(LINES))
    ways = {
        "dropped": lines[:at] + lines[at + 1 :],
        "doubled": lines[: at + 1] + lines[at:],
        "replaced": [*lines[:at], new, *lines[at + 1 :]],
        "a word less": [*lines[:at], " ".join(words[1:]), *lines[at + 1 :]],
        "a word more": [*lines[:at], " ".join([*words, new]), *lines[at + 1 :]],
        "many": lines * 50,
        "reversed": lines[::-1],
        "joined": [" ".join(lines)],
        "brackets": [*lines[:at], "[" * 3000, *lines[at + 1 :]],
    }
    way = str(draw.choice(list(ways)))
    return "\n".join(ways[way]).encode(), f"line {at + 1}: {way} ({new[:20]!r})"


TEXT = (spoil_bytes, spoil_encoding, spoil_number, spoil_lines)
KINDS: dict[str, tuple[str, str, tuple[Callable, ...]]] = {
    # kind: form, the files, ways
    "picture": ("voc coco yolo", "**/*.jpg **/*.png", (spoil_bytes,)),
    "xml": ("voc", "Annotations/*.xml", (spoil_tags, spoil_number, spoil_bytes, spoil_encoding)),
    "voc-list": ("voc", "ImageSets/Main/*.txt", TEXT),
    "json": ("coco", "annotations/*.json", (spoil_tree, spoil_tree, *TEXT[:3])),
    "yolo": ("yolo", "labels/**/*.txt", TEXT),
    "yaml": ("yolo", "data.yaml", TEXT),
    "yolo-list": ("yolo", "train.txt", TEXT),
}


def spoil(root: Path, kind: str, draw: Draw) -> Case:
    """Lay out a clean set in `root` and spoil one file of it."""
    forms, patterns, ways = KINDS[kind]
    form = str(draw.choice(forms.split()))
    lay_out(root, form)
    files = sorted(file for pattern in patterns.split() for file in root.glob(pattern))
    file, way = files[int(draw.integers(len(files)))], ways[int(draw.integers(len(ways)))]
    data, how = way(file.read_bytes(), draw)
    file.write_bytes(data)
    return Case(f"{form}:{root}", file, how)


def faults(case: Case, root: Path) -> list[str]:
    """What falls short, in sentences; none if all is well."""
    found = []
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command_line(["data", "check", case.what])
        except Exception:
            found.append(f"data check: {_last()}")
    if said := err.getvalue().strip():
        found += [f"data check: {fault}" for fault in not_a_sentence(said, case, root)]
    for split in ("train", "test"):
        try:
            found += [f"{split}: {fault}" for fault in _used(case, root, split)]
        except Exception:
            found.append(f"{split}: {_last()}")
    return found


def not_a_sentence(said: str, case: Case, root: Path) -> list[str]:
    """What is wrong with the words of an error: several lines, raw, or no file named."""
    if "\n" in said or RAW.match(said) or len(said) > 1000:
        return [f"no sentence: {said[:300]!r}"]
    named = any(name in said for name in (str(root), case.file.name, case.file.stem))
    return [] if named else [f"names no file: {said[:300]!r}"]


def _used(case: Case, root: Path, split: str) -> list[str]:
    """Open a split and use it as training does."""
    found = []
    try:
        data = open_dataset(case.what, split)
    except (OSError, ValueError) as error:
        return not_a_sentence(str(error), case, root)
    assert isinstance(data, Annotated), f"{case.what} names files"
    for problem in (*data.problems, *data.remarks):
        if "\n" in str(problem):
            found.append(f"several lines: {str(problem)[:300]!r}")
    whole = []
    for k in range(len(data)):
        try:
            sample = data[k]
        except (OSError, ValueError) as error:
            found += not_a_sentence(str(error), case, root)
            continue
        found += _bad_boxes(sample.boxes, *sample.size)
        whole.append(sample)
    if whole:
        for _, targets in Feed(whole, 32, len(whole)).epoch(0):
            found += [fault for t in targets for fault in _bad_boxes(t["boxes"], 32, 32)]
        nothing = {
            "boxes": torch.zeros(0, 4),
            "scores": torch.zeros(0),
            "labels": torch.zeros(0, dtype=torch.int64),
        }
        coco_evaluate([nothing] * len(data), data.targets(), len(data.classes))
    return found


def _bad_boxes(boxes: torch.Tensor, height: int, width: int) -> list[str]:
    sides = boxes[:, 2:] - boxes[:, :2]
    inside = (boxes >= 0).all(1) & (boxes[:, 2] <= width + 1e-3) & (boxes[:, 3] <= height + 1e-3)
    bad = ~(boxes.isfinite().all(1) & (sides > 0).all(1) & inside)
    return [f"a box {row} of a {width}x{height} picture" for row in boxes[bad].tolist()]


def _last() -> str:
    """The innermost line of the exception at hand, and what it says."""
    kind, error, trace = sys.exc_info()
    frame = traceback.extract_tb(trace)[-1]
    assert kind is not None
    return f"{kind.__name__} in {Path(frame.filename).name}:{frame.lineno}: {str(error)[:200]}"


class Hang(BaseException):
    """Raised in a case that takes too long; no `except Exception` hides it."""


def _stop(*_) -> None:
    raise Hang(f"more than {LIMIT} s of CPU")


def run(seed: int, k: int, only: str | None = None) -> tuple[str, Case, list[str]]:
    """Case k of a seed: its kind, what was done, and what fell short. In the main thread."""
    draw = np.random.default_rng([seed, k])
    kind = only or list(KINDS)[k % len(KINDS)]
    root = Path(tempfile.mkdtemp(prefix="corrupt-"))
    faulthandler.dump_traceback_later(STUCK, exit=True, file=sys.__stderr__ or sys.stderr)
    before = signal.signal(signal.SIGPROF, _stop)
    case = Case("", root, "nothing yet")
    try:
        case = spoil(root, kind, draw)
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kind, case, faults(case, root)
    except Hang as error:
        return kind, case, [str(error)]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        faulthandler.cancel_dump_traceback_later()
        shutil.rmtree(root)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--only", choices=tuple(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--first", type=int, default=0, metavar="K", help="begin with case K")
    options = parser.parse_args()
    short = 0
    for k in range(options.first, options.first + options.count):
        kind, case, found = run(options.seed, k, options.only)
        if found:
            short += 1
            again = f"--seed {options.seed} --first {k} --count 1"
            again += f" --only {options.only}" if options.only else ""
            print(f"{kind}, {case.file.name}, {case.how}  [{again}]")
            print(*(f"    {fault}" for fault in found), sep="\n", flush=True)
    print(f"{short} of {options.count} cases fall short")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
