"""Running, normalising and comparing lessons: tools/notebooks.py, and conftest.py's part beside nbval."""

import base64
import io
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from tools import notebooks

VIEW = notebooks.WIDGET_VIEW


def stream(text: str, name: str = "stdout"):
    return new_output("stream", text=text, name=name)


def shown(data: dict):
    return new_output("display_data", data=data)


def png(width: int = 100, height: int = 100, marked: int = 0, step: int = 255) -> str:
    """A black picture in base64 with the first `marked` pixels brighter by `step`."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels.reshape(-1, 3)[:marked] = step
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def picture(**how: int):
    return [shown({"image/png": png(**how)})]


def embedded(**how: int):
    return [shown({"text/html": f'<img alt="a" src="data:image/png;base64,{png(**how)}">'})]


def svg(x: float):
    return [shown({"image/svg+xml": f'<svg><circle cx="{x}" cy="5" fill="#009E73"/></svg>'})]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<object at 0x7f32a8b0>", "<object at 0x55dd1234>"),
        ("100%|##| 3/3 [00:01<00:00,  2.9it/s]", "100%|##| 3/3 [00:00<00:00, 31.0it/s]"),
        ("/tmp/ipykernel_12/34.py:5: note", "/tmp/ipykernel_7/891.py:5: note"),
        ("File ~/course/lesson_lib/boxes.py:7", "File /srv/a-b/course/lesson_lib/boxes.py:7"),
        ("VBox(children=(HTML(value='a'),\n b))", "VBox(children=())"),
    ],
)
def test_what_may_differ_between_runs_is_taken_out_once(old, new):
    assert (
        notebooks.sanitise(old)
        == notebooks.sanitise(new)
        == notebooks.sanitise(notebooks.sanitise(old))
    )


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/data/a.zip",
        "3/4 of data/cache",
        "Match(gt_index=0, label=1)",
        "at 12:30 [a<b]",
        "loss 0.1234e-05",
        "DefaultBoxes(image_size=300)",
    ],
)
def test_what_a_lesson_says_is_left_alone(text):
    assert notebooks.sanitise(text) == text


def test_the_normal_form_keeps_what_a_reader_sees():
    inside = {"output_type": "stream", "name": "stdout", "text": "inside\n"}
    widgets = {
        "model": {"state": {"children": ["IPY_MODEL_area"]}},
        "area": {"state": {"outputs": [inside]}},
    }
    metadata = {
        "kernelspec": {"name": "mine", "display_name": "mine"},
        "language_info": {"name": "python", "version": "3.11.7"},
        "widgets": {"application/vnd.jupyter.widget-state+json": {"state": widgets}},
    }
    outputs = [
        stream("one\n"),
        stream("warned\n", "stderr"),
        stream("10%\r20%\rtwo\n"),
        shown({VIEW: {"model_id": "model"}, "image/svg+xml": "<svg/>", "text/plain": "VBox(a=1)"}),
        new_output("execute_result", data={"text/plain": "<a at 0x12>"}, execution_count=7),
    ]
    notebook = new_notebook(
        metadata=metadata,
        cells=[
            new_code_cell(
                "w\n",
                id="a",
                execution_count=7,
                metadata={"execution": {}, "tags": ["varies"]},
                outputs=outputs,
            )
        ],
    )
    normal = notebooks.normalise(notebook)
    cell = normal.cells[0]
    assert normal.metadata == notebooks.METADATA
    assert cell.metadata == {"tags": ["varies"]} and cell.source == "w"
    assert [output.get("text", output.get("data")) for output in cell.outputs] == [
        "one\ntwo\n",
        "warned\n",
        {"image/svg+xml": "<svg/>", "text/plain": "VBox(...)"},
        "inside\n",
        {"text/plain": "<a at 0x...>"},
    ]
    assert cell.execution_count == cell.outputs[-1].execution_count == 1
    assert notebooks.as_text(notebooks.normalise(normal)) == notebooks.as_text(normal)
    assert notebook.cells[0].outputs[0].text == "one\n"  # the original is as it was


@pytest.mark.parametrize(
    ("stored", "fresh", "strict", "tolerant"),
    [
        ([stream("AP 0.50\n")], [stream("AP 0.50\n")], True, True),
        ([stream("AP 0.50\n")], [stream("AP 0.51\n")], False, True),
        ([stream("AP 0.50\n")], [stream("AP 0.56\n")], False, False),
        ([stream("loss 1.20e-04")], [stream("loss 1.21e-04")], False, True),
        ([stream("loss 1.20e-04")], [stream("loss 1.20e-05")], False, False),
        (
            [stream("loss 0.01\n")],
            [stream("loss 0.02\n")],
            False,
            True,
        ),  # one unit of the last digit
        (
            [stream("100 steps\n")],
            [stream("101 steps\n")],
            False,
            False,
        ),  # whole numbers do not drift
        ([stream("loss 0.5\n")], [stream("cost 0.5\n")], False, False),
        ([stream("a\n")], [stream("a\nb\n")], False, False),
        ([stream("a\n")], [stream("a")], False, False),
        ([stream("a\n")], [], False, False),
        ([stream("a\n")], [stream("a\n", "stderr")], False, False),
        (picture(), picture(), True, True),
        (picture(), picture(marked=10), True, True),  # 0.1 % of 10,000 pixels
        (picture(), picture(marked=11), False, True),
        (picture(), picture(marked=501), False, False),
        (picture(), picture(marked=10_000, step=64), True, True),
        (picture(), picture(marked=10_000, step=65), False, False),
        (picture(), picture(height=99), False, False),
        (picture(), [], False, False),
        (embedded(), embedded(marked=10), True, True),
        (embedded(), embedded(marked=11), False, True),
        (svg(200), svg(200), True, True),
        (svg(200), svg(203.5), False, True),
        (svg(200), svg(215), False, False),
    ],
)
def test_outputs_are_compared(stored, fresh, strict, tolerant):
    assert (
        not notebooks.differences(stored, fresh),
        not notebooks.differences(stored, fresh, True),
    ) == (strict, tolerant)


def test_a_difference_is_told_in_a_sentence():
    assert notebooks.differences([stream("a\nb\n")], [stream("a\nc\n")]) == ["stored: b\n   now: c"]
    assert notebooks.differences(picture(), picture(marked=88)) == [
        "0.88% of the picture's pixels differ (allowed: 0.1%)"
    ]
    assert notebooks.differences([], picture()) == ["stored: nothing; now: picture"]


LESSON = [
    ("plain", "", "import os, ipywidgets, base64\nprint(os.environ['LESSON_DATASETS'])\nobject()"),
    (
        "still",
        "",
        "class Still(ipywidgets.VBox):\n"
        "    def _repr_mimebundle_(self, **kwargs):\n"
        "        return super()._repr_mimebundle_(**kwargs) | {'image/svg+xml': '<svg/>'}\n"
        "Still([ipywidgets.IntSlider()])",
    ),
    (
        "area",
        "nbval-ignore-output",
        "@ipywidgets.interact(x=(0, 9))\ndef square(x=3): print(x * x)",
    ),
    ("clock", "varies", "import time\nprint(time.time())"),
    (
        "trained",
        "tolerance",
        "drift = int(os.environ['DRIFT'])\nprint(f'AP {0.5 + 0.01 * drift:.3f}')",
    ),
    ("steady", "tolerance", "print(f'AP {0.5 + 0.001 * drift:.3f}')"),
    ("error", "raises-exception", "1 / 0"),
    (
        "picture",
        "",
        "from IPython.display import Image, display\n"
        f"display(Image(base64.b64decode([{png()!r}, {png(marked=11)!r}][drift > 1])))",
    ),
]


@pytest.fixture(scope="module")
def lesson(tmp_path_factory) -> Path:
    """A lesson with one cell of each kind, as refresh wrote it."""
    path = tmp_path_factory.mktemp("notebooks") / "01_small.ipynb"
    cells = [
        new_code_cell(source, id=name, metadata={"tags": tags.split()})
        for name, tags, source in LESSON
    ]
    nbformat.write(new_notebook(cells=cells), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRIFT", "0")
        patch.setenv("LESSON_DATASETS", "none")
        notebooks.refresh(path)
    return path


@pytest.fixture
def drift(monkeypatch):
    """drift(n): one trained number moves by n / 100, one by n / 1000, the picture from n = 2 on."""
    monkeypatch.setenv("LESSON_DATASETS", "none")
    return lambda steps: monkeypatch.setenv("DRIFT", str(steps))


def test_refreshing_twice_gives_the_same_bytes_and_check_agrees(lesson, drift):
    before = lesson.read_bytes()
    drift(0)
    assert notebooks.check(lesson) == []
    notebooks.refresh(lesson)
    assert lesson.read_bytes() == before
    shown = {cell.id: cell.outputs for cell in nbformat.read(lesson, 4).cells}
    assert shown["area"][1].text == "9\n" and shown["plain"][0].text == "none\n"
    assert shown["still"][0].data["image/svg+xml"] == "<svg/>" and VIEW not in str(shown)


def test_check_names_the_cell_and_the_difference(lesson, drift):
    drift(9)
    assert notebooks.check(lesson) == [
        "cell trained: stored: AP 0.500\n   now: AP 0.590",
        "cell picture: 0.11% of the picture's pixels differ (allowed: 0.1%)",
    ]


def test_beside_nbval_pictures_and_tolerant_cells_are_compared(lesson, drift):
    drift(9)
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "conftest",
            "-p",
            "no:cacheprovider",
            "--color=no",
            "--nbval",
            "--nbval-current-env",
            "--nbval-sanitize-with=tools/nbval_sanitize.cfg",
            str(lesson),
        ],
        cwd=notebooks.ROOT,
        capture_output=True,
        text=True,
    )
    assert "2 failed, 6 passed" in run.stdout.splitlines()[-1], run.stdout + run.stderr
    assert "now: AP 0.590" in run.stdout and "0.11% of the picture's pixels differ" in run.stdout


def test_the_command_says_what_it_cannot_do(monkeypatch, capsys):
    for arguments, sentence in (([], "refresh [01 02"), (["refresh", "99"], "no such lesson")):
        with pytest.raises(SystemExit, match=sentence.replace("[", r"\[")):
            notebooks.main(arguments)


def test_a_failing_lesson_is_told_and_not_written(tmp_path, monkeypatch, capsys):
    path = tmp_path / "01_broken.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("no_such_name", id="a")]), path)
    before = path.read_bytes()
    monkeypatch.setattr(notebooks.lab, "lessons", lambda: [path])
    monkeypatch.setattr(notebooks.os, "environ", dict(notebooks.os.environ))
    assert notebooks.main(["refresh", "01"]) == 1
    assert "NameError" in capsys.readouterr().out and path.read_bytes() == before
