"""What counts as the same output: tools/compare.py, and conftest.py's use of it beside nbval."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from notebook_outputs import png, shown, stream

from tools import compare, notebooks


def picture(alt: str = "", **how: int):
    return [shown({"image/png": png(**how)}, metadata={"image/png": {"alt": alt}} if alt else {})]


def embedded(**how: int):
    return [shown({"text/html": f'<img alt="a" src="data:image/png;base64,{png(**how)}">'})]


def svg(body: str):
    return [shown({"image/svg+xml": f'<svg viewBox="0 0 400 300" width="400">{body}</svg>'})]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("AP50 0.85, .85 and 99 %", ["0.85", ".85", "99"]),
        ("1,591,768 of (3,4)", ["1,591,768", "3", "4"]),
        ("-3, 3-4, x=-0.00, +2, \u22121.5", ["-3", "3", "4", "-0.00", "+2", "\u22121.5"]),
        ("4.699e-13 1E+06 5e", ["4.699e-13", "1E+06", "5"]),
        ("conv4_3, SSD300, v1.2, #009E73, P7", []),
        ("300 x 300, 47px, 2.14.1", ["300", "300", "47", "2.14"]),
    ],
)
def test_a_number_is_what_a_reader_takes_for_one(text, numbers):
    assert compare.NUMBER.findall(text) == numbers


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("0.853", "0.854", True),
        ("0.853", "0.855", False),
        ("0.999", "1.000", True),
        ("9.99e-05", "1.00e-04", True),
        ("1.20e-04", "1.22e-04", False),
        ("1.20e-04", "1.20e-05", False),
        ("100", "99.9", True),  # three significant digits of 99.95
        ("100", "99.8", False),
        ("-0.00", "0.00", True),
        ("\u22120.50", "-0.51", True),
        ("47", "48", True),
        ("47", "49", False),
        ("1,204", "1,205", True),
        ("1,204", "1,206", False),
        ("999", "1,000", True),
        ("8", "9", False),  # a label, an index or a count
        ("9", "10", False),
        ("0", "1", False),
        ("0.5", "-0.5", False),
    ],
)
def test_numbers_may_differ_by_one_unit_of_their_last_digit(old, new, same):
    assert compare.close(old, new) == compare.close(new, old) == same
    assert compare.alike(f"AP {old}, told", f"AP {new}, told") == same


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("loss   9.99 |", "loss  10.00 |", True),
        ("loss 0.5", "cost 0.5", False),
        ("SSD300", "SSD301", False),
        ("#009E73", "#009E74", False),
        ("a  b", "a b", False),
        ("True", "False", False),
        ("nan", "0.5", False),
        ("1 2", "1 2 3", False),
    ],
)
def test_everything_else_is_compared_to_the_letter(old, new, same):
    assert compare.alike(old, new) == compare.alike(new, old) == same


CIRCLE = '<circle cx="200" cy="5" r="4" fill="#009E73"/>'
CURVE = '<path d="M10 20L30.5-40 50,60Z" stroke-width="2" stroke="#0072B2"/>'
WORDS = '<text x="5" y="6" font-size="14" transform="rotate(-90 20 100)">AP 0.85, best</text>'


@pytest.mark.parametrize(
    ("body", "before", "after", "same"),
    [
        (CIRCLE, "200", "200.5", True),
        (CIRCLE, "200", "200.7", False),
        (CIRCLE, "#009E73", "#009E74", False),
        (CIRCLE, 'r="4"', 'r="4" id="a"', False),
        (CIRCLE, "circle", "ellipse", False),
        (CURVE, "-40", "-40.5", True),
        (CURVE, "-40", "-41", False),
        (CURVE, "L30", "M30", False),
        (CURVE, "50,60", "50,60 70,80", False),
        (CURVE, 'stroke-width="2"', 'stroke-width="3"', False),
        (WORDS, "0.85", "0.86", True),
        (WORDS, "0.85", "0.87", False),
        (WORDS, "best", "worst", False),
        (WORDS, 'x="5"', 'x="5.5"', True),
        (WORDS, 'font-size="14"', 'font-size="15"', False),
        (WORDS, "20 100)", "20.5 100)", True),
        (WORDS, "rotate(-90 20 100)", "scale(1.5)", False),
        ('<g transform="scale(1.5)"/>', "1.5", "2.0", False),
    ],
)
def test_coordinates_of_an_svg_may_move_by_six_tenths(body, before, after, same):
    assert before in body
    old, new = svg(body), svg(body.replace(before, after))
    assert (not compare.differences(old, new)) == (not compare.differences(new, old)) == same


def test_a_width_is_a_coordinate_in_an_svg_only():
    table = '<td width="100">0.85</td><svg width="100"></svg>'
    inside, outside = (
        table.replace('g width="100"', 'g width="100.5"'),
        table.replace("100", "100.5", 1),
    )
    assert not compare.markup_difference(table, inside)
    assert compare.markup_difference(table, outside)


@pytest.mark.parametrize(
    ("stored", "fresh", "same"),
    [
        ([stream("AP 0.50\n")], [stream("AP 0.51\n")], True),
        ([stream("AP 0.50\n")], [stream("AP 0.52\n")], False),
        ([stream("a\n")], [stream("a\nb\n")], False),
        ([stream("a\n")], [stream("a")], False),
        (picture(), picture(marked=10), True),  # 0.1 % of 10,000 pixels
        (picture(), picture(marked=11), False),
        (picture(), picture(marked=10_000, step=64), True),
        (picture(), picture(marked=10_000, step=65), False),
        (picture(), picture(height=99), False),
        (picture("a cell"), picture("a cell"), True),
        (picture("a cell"), picture("two cells"), False),
        (embedded(), embedded(marked=10), True),
        (embedded(), embedded(marked=11), False),
    ],
)
def test_outputs_are_compared(stored, fresh, same):
    assert (not compare.differences(stored, fresh)) == same
    assert not compare.differences(stored, fresh, values=False)


@pytest.mark.parametrize(
    ("stored", "fresh"),
    [
        ([stream("a\n")], []),
        ([], [stream("a\n")]),
        (picture(), []),
        (picture(), picture() * 2),
        ([stream("a\n")], [stream("a\n", "stderr")]),
        ([stream("a\n")], [shown({"text/html": "a"})]),
        (svg(CIRCLE), picture()),
        ([shown({"text/plain": "a"})], [shown({"text/plain": "a", "text/html": "a"})]),
    ],
)
def test_kinds_of_outputs_and_their_number_always_count(stored, fresh):
    assert compare.differences(stored, fresh)
    assert compare.differences(stored, fresh, values=False)


def test_check_marks_count_in_trained_cells_too():
    stored = [stream("\u2713 1 shapes: 1,524 anchors\n\u2713 5 metric gate: AP50 0.83\n")]
    moved = [stream("\u2713 1 shapes: 1,524 anchors\n\u2713 5 metric gate: AP50 0.61\n")]
    fallen = [stream("\u2713 1 shapes: 1,524 anchors\n\u2717 5 metric gate: AP50 0.11\n")]
    assert not compare.differences(stored, moved, values=False)
    (sentence,) = compare.differences(stored, fallen, values=False)
    assert sentence == "stored check marks: \u2713\u2713; now: \u2713\u2717"


def test_a_difference_is_told_in_a_sentence():
    assert compare.differences([stream("a\nb\n")], [stream("a\nc\n")]) == ["stored: b\n   now: c"]
    assert compare.differences(picture(), picture(marked=88)) == [
        "0.88% of the picture's pixels differ (allowed: 0.1%)"
    ]
    assert compare.differences([], picture()) == ["stored: nothing; now: picture"]
    moved = svg(CIRCLE.replace("200", "215"))
    assert 'cx="215"' in compare.differences(svg(CIRCLE), moved)[0]


def test_the_note_beside_trained_outputs_is_left_out():
    note = shown({"text/html": "Trained here"}, metadata={compare.NOTE: {"seconds": 3}})
    assert compare.differences([stream("a\n"), note], [stream("a\n")]) == []


# A lesson with a cell for each thing that can go wrong, run by nbval as `lab.py test` runs it.
DRAWING = """
import base64, io
from IPython.display import HTML, SVG, Image, display
from PIL import Image as Pictures, ImageDraw
def drawn(points):
    picture, file = Pictures.new("RGB", (200, 100)), io.BytesIO()
    ImageDraw.Draw(picture).line(points, fill="white", width=2)
    picture.save(file, "PNG")
    return Image(file.getvalue())
""".strip()
LESSON = {
    "setup": ("", DRAWING),
    "curve-svg": ("", "display(SVG('<svg><path d=\"M0 10L40 20.0 80 30\"/></svg>'))"),
    "label-svg": ("", "display(SVG('<svg><text>SSD</text></svg>'))"),
    "curve-png": ("", "display(drawn([(0, 10), (100, 90), (199, 10)]))"),
    "number": ("", "print('AP 0.853 of 1,204')"),
    "missing": ("", "display(drawn([(0, 10), (9, 9)]))"),
    "kind": ("", "display(HTML('<b>bold</b>'))"),
    "stripped": ("", "print('something')"),
    "trained-value": ("trained", "print('AP 0.5')"),
    "trained-kind": ("trained", "display(drawn([(0, 10), (9, 9)]))"),
    "varies-value": ("varies", "print('3 s')"),
    "varies-kind": ("varies", "print('3 s')"),
    "trained-asserts": ("trained", "reached = 0.9\nprint(reached)\nassert reached > 0.5"),
    "runs": ("", "print('runs')"),
}


@pytest.fixture(scope="module")
def lesson(tmp_path_factory) -> nbformat.NotebookNode:
    """The lesson as a run stored it."""
    path = tmp_path_factory.mktemp("notebooks") / "01_small.ipynb"
    cells = [
        new_code_cell(source, id=name, metadata={"tags": tags.split()})
        for name, (tags, source) in LESSON.items()
    ]
    nbformat.write(new_notebook(cells=cells), path)
    return notebooks.execute(path).fresh


def failing(lesson, path: Path) -> set[str]:
    """Ids of the cells that fail when nbval runs `lesson`."""
    nbformat.write(lesson, path)
    options = [
        "-p",
        "conftest",
        "-p",
        "no:cacheprovider",
        "--color=no",
        "--nbval",
        "--nbval-current-env",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(path)],
        cwd=notebooks.ROOT,
        capture_output=True,
        text=True,
    )
    summary = run.stdout.splitlines()[-1]
    assert f"{len(LESSON)} passed" in summary or "failed" in summary, run.stdout + run.stderr
    numbers = re.findall(r"^FAILED .*::Cell (\d+)", run.stdout, flags=re.MULTILINE)
    return {lesson.cells[int(number)].id for number in numbers}


def planted(lesson, changes: dict[str, tuple[str, str]]) -> nbformat.NotebookNode:
    """A copy in which `before` became `after` in what those cells store."""
    copied = copy.deepcopy(lesson)
    for cell in copied.cells:
        before, after = changes.get(cell.id, ("", ""))
        for output in cell.outputs if before else []:
            holder = output if "text" in output else output.data
            key = next(key for key, value in holder.items() if before in str(value))
            holder[key] = holder[key].replace(before, after)
    return copied


def curve(middle: int) -> str:
    scope: dict = {}
    exec(DRAWING, scope)
    return (
        scope["base64"].b64encode(scope["drawn"]([(0, 10), (100, middle), (199, 10)]).data).decode()
    )


def test_one_unit_and_half_a_coordinate_pass(lesson, tmp_path):
    within = planted(
        lesson,
        {
            "curve-svg": ("20.0", "20.5"),
            "number": ("0.853 of 1,204", "0.854 of 1,203"),
            "trained-value": ("0.5", "0.9"),
            "varies-value": ("3 s", "12 s"),
        },
    )
    assert failing(within, tmp_path / "within.ipynb") == set()


def test_what_really_changed_is_caught(lesson, tmp_path):
    wrong = planted(
        lesson,
        {
            "curve-svg": ("20.0", "21.0"),
            "label-svg": ("SSD", "RetinaNet"),
            "number": ("0.853", "0.855"),
        },
    )
    cells = {cell.id: cell for cell in wrong.cells}
    stored = cells["curve-png"].outputs[0].data
    assert stored["image/png"].replace("\n", "") == curve(90)
    stored["image/png"] = curve(80)
    cells["missing"].source = cells["trained-kind"].source = "print('no picture')"
    cells["kind"].outputs = [stream("bold\n")]
    cells["stripped"].outputs = []
    cells["varies-kind"].outputs = [stream("3 s\n"), *picture()]
    cells["trained-asserts"].source = "reached = 0.4\nprint(reached)\nassert reached > 0.5"
    cells["runs"].source = "no_such_name"
    good = {"setup", "trained-value", "varies-value"}
    assert failing(wrong, tmp_path / "wrong.ipynb") == set(LESSON) - good


def test_a_stripped_notebook_is_caught(lesson, tmp_path):
    stripped = copy.deepcopy(lesson)
    for cell in stripped.cells:
        cell.outputs, cell.execution_count = [], None
    assert failing(stripped, tmp_path / "stripped.ipynb") == set(LESSON) - {"setup"}
