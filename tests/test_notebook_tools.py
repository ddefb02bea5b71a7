"""Running, normalising and storing lessons: tools/notebooks.py. What counts as the same:
test_compare.py."""

import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_outputs import png, shown, stream

from tools import notebooks
from tools.compare import NOTE, is_note, sanitise
from tools.compare import WIDGET_VIEW as VIEW


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
    assert sanitise(old) == sanitise(new) == sanitise(sanitise(old))


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
    assert sanitise(text) == text


def test_the_normal_form_keeps_what_a_reader_sees():  # long: one notebook with every kind of output
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
        "trained",
        "drift = int(os.environ['DRIFT'])\nprint(f'AP {0.5 + 0.01 * drift:.3f}')",
    ),
    ("also", "trained", "print(f'AP50 {0.7 + 0.01 * drift:.3f}')"),
    ("exact", "", "print(f'{0.5 + 0.001 * int(os.environ[\"DRIFT\"]):.3f}')"),
    ("error", "raises-exception", "1 / 0"),
    (
        "picture",
        "",
        "from IPython.display import Image, display\n"
        f"display(Image(base64.b64decode([{png()!r}, {png(marked=11)!r}][drift > 1])))",
    ),
]
CI = notebooks.arguments(["refresh"])
LAPTOP = notebooks.arguments(["refresh", "--budget", "laptop"])


@pytest.fixture(scope="module")
def as_stored(tmp_path_factory) -> bytes:
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
        notebooks.refresh(path, CI)
    return path.read_bytes()


@pytest.fixture
def lesson(as_stored, tmp_path) -> Path:
    """A copy of that lesson."""
    path = tmp_path / "01_small.ipynb"
    path.write_bytes(as_stored)
    return path


@pytest.fixture
def drift(monkeypatch):
    """drift(n): trained numbers move by n / 100, an exact one by n / 1000, the picture from n = 2
    on."""
    monkeypatch.setenv("LESSON_DATASETS", "none")
    return lambda steps: monkeypatch.setenv("DRIFT", str(steps))


def outputs_of(path: Path) -> dict[str, list]:
    return {cell.id: cell.outputs for cell in nbformat.read(path, 4).cells}


def notes(path: Path) -> dict[str, dict]:
    """The facts of each note, by the cell that shows it."""
    return {
        name: output.metadata[NOTE]
        for name, outputs in outputs_of(path).items()
        for output in outputs
        if is_note(output)
    }


def test_refreshing_twice_gives_the_same_bytes_and_check_agrees(lesson, drift):
    before = lesson.read_bytes()
    drift(0)
    assert notebooks.check(lesson, CI) == []
    notebooks.refresh(lesson, CI)
    assert lesson.read_bytes() == before
    shown = outputs_of(lesson)
    assert shown["area"][1].text == "9\n" and shown["plain"][0].text == "none\n"
    assert shown["still"][0].data["image/svg+xml"] == "<svg/>" and VIEW not in str(shown)


def test_check_names_the_cell_and_the_difference(lesson, drift):
    drift(9)
    assert notebooks.check(lesson, CI) == [
        "cell exact: stored: 0.500\n   now: 0.509",
        "cell picture: 0.11% of the picture's pixels differ (allowed: 0.1%)",
    ]


def test_refresh_keeps_what_a_training_made_and_rewrites_the_rest(lesson, drift):
    before = outputs_of(lesson)
    drift(1)
    assert notebooks.refresh(lesson, CI) == []
    after = outputs_of(lesson)
    assert after["exact"][0].text == "0.501\n"
    assert [name for name in before if before[name] != after[name]] == ["exact"]


def test_the_laptops_refresh_rewrites_what_a_training_made_and_nothing_else(lesson, drift):
    before = outputs_of(lesson)
    drift(9)
    problems = notebooks.refresh(lesson, LAPTOP)
    after = outputs_of(lesson)
    assert after["trained"][0].text == "AP 0.590\n" and after["also"][0].text == "AP50 0.790\n"
    assert [name for name in before if before[name] != after[name]] == ["trained", "also"]
    assert [problem.split(":")[0] for problem in problems] == ["cell exact", "cell picture"]


def test_a_note_says_how_the_trained_outputs_of_a_section_were_made(lesson, drift):
    assert [note["budget"] for note in notes(lesson).values()] == ["ci"]
    drift(0)
    notebooks.refresh(lesson, LAPTOP)
    assert list(notes(lesson)) == ["trained"]
    made = notes(lesson)["trained"]
    assert made["budget"] == "laptop" and made["machine"] == notebooks.processor()
    assert made["seconds"] < 60 and re.fullmatch(r"20\d\d-\d\d-\d\d", made["date"])
    sentence = outputs_of(lesson)["trained"][-1].data["text/html"]
    assert sentence == notebooks.note_text(made) and f"in {made['seconds']} s" in sentence
    before = lesson.read_bytes()
    notebooks.refresh(lesson, CI)
    assert lesson.read_bytes() == before and notebooks.check(lesson, CI) == []


def test_trained_outputs_of_another_kind_are_stored_anew_with_their_section(lesson, drift):
    drift(0)
    notebooks.refresh(lesson, LAPTOP)
    notebook = nbformat.read(lesson, 4)
    next(cell for cell in notebook.cells if cell.id == "also").outputs = []
    nbformat.write(notebook, lesson)
    notebooks.refresh(lesson, CI)
    assert outputs_of(lesson)["also"][0].text == "AP50 0.700\n"
    assert notes(lesson)["trained"]["budget"] == "ci"


def test_an_edited_cell_does_not_keep_what_its_former_source_showed(lesson, drift):
    drift(0)
    notebooks.refresh(lesson, LAPTOP)
    for command in ("init -q", "add .", "-c user.name=a -c user.email=b commit -qm stored"):
        subprocess.run(["git", *command.split()], cwd=lesson.parent, check=True)
    notebook = nbformat.read(lesson, 4)
    for cell in notebook.cells:
        if cell.id in ("clock", "also"):
            cell.source = cell.source.replace("print(", "print('new'); print(", 1)
    nbformat.write(notebook, lesson)
    assert notebooks.edited(lesson) == {"clock", "also"}
    assert notebooks.refresh(lesson, CI) == [f"cell also: {notebooks.FORMER}"]
    shown = outputs_of(lesson)
    assert shown["clock"][0].text.startswith("new") and shown["also"][0].text == "AP50 0.700\n"


def test_sections_have_a_note_each():
    cells = [
        new_code_cell("1", id=name, metadata={"tags": ["trained"]}) for name in ("a", "b", "c")
    ]
    cells[2:2] = [new_markdown_cell("## The next section"), new_code_cell("2", id="exact")]
    groups = notebooks.trained_groups(new_notebook(cells=cells))
    assert [[cell.id for cell in group] for group in groups] == [["a", "b"], ["c"]]


SEEDS = "torch.manual_seed(0)\nprint(torch.rand(1).item(), np.random.default_rng(7).random())"


def test_moved_seeds_reach_trained_cells_only(tmp_path):
    path = tmp_path / "01_seeds.ipynb"
    cells = [
        new_code_cell(f"import numpy as np, torch\n{SEEDS}", id="before"),
        new_code_cell(SEEDS, id="trained", metadata={"tags": ["trained"]}),
        new_code_cell(SEEDS, id="after"),
    ]
    nbformat.write(new_notebook(cells=cells), path)
    plain = [cell.outputs[0].text for cell in notebooks.execute(path).fresh.cells]
    moved = [cell.outputs[0].text for cell in notebooks.execute(path, seed=1).fresh.cells]
    assert len(set(plain)) == 1
    assert moved[0] == moved[2] == plain[0]
    assert all(a != b for a, b in zip(moved[1].split(), plain[1].split(), strict=True))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ([], "arguments are required: command"),
        (["refresh", "--seed", "1"], "--seed and --machine are for check"),
        (["check", "--machine", "cray"], "invalid choice: 'cray'"),
    ],
)
def test_the_command_says_what_it_cannot_do(line, sentence, capsys):
    with pytest.raises(SystemExit):
        notebooks.main(line)
    assert sentence in capsys.readouterr().err


def test_a_lesson_that_is_not_there():
    with pytest.raises(SystemExit, match="no such lesson"):
        notebooks.main(["refresh", "99"])


def test_a_failing_lesson_is_told_and_not_written(tmp_path, monkeypatch, capsys):
    path = tmp_path / "01_broken.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("no_such_name", id="a")]), path)
    before = path.read_bytes()
    monkeypatch.setattr(notebooks.lab, "lessons", lambda: [path])
    monkeypatch.setattr(notebooks.os, "environ", dict(notebooks.os.environ))
    assert notebooks.main(["refresh", "01"]) == 1
    assert "NameError" in capsys.readouterr().out and path.read_bytes() == before
