"""my_course/: copies without answers, updates and resets that lose nothing a learner wrote."""

import ast
import json
import shutil
from pathlib import Path

import pytest

from tools import workspace

ROOT = Path(__file__).resolve().parent.parent


def code(id, source, *tags, outputs=()):
    metadata = {"tags": list(tags)} if tags else {}
    return {
        "id": id,
        "cell_type": "code",
        "metadata": metadata,
        "source": source.splitlines(keepends=True),
        "execution_count": 1,
        "outputs": list(outputs),
    }


def lesson(*cells):
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def publish(root, *cells, name="03_matching.ipynb"):
    (root / "notebooks" / "capstone").mkdir(parents=True, exist_ok=True)
    (root / "notebooks" / "capstone" / "my_ssd.py").write_text("...\n")
    (root / "notebooks" / name).write_text(json.dumps(lesson(*cells)))


def mine(root, name="03_matching.ipynb"):
    return json.loads((root / "my_course" / name).read_text())


def change(root, id, source):
    notebook = mine(root)
    for cell in notebook["cells"]:
        if cell["id"] == id:
            cell["source"] = source
    (root / "my_course" / "03_matching.ipynb").write_text(json.dumps(notebook))


def texts(root):
    return [(cell["id"], workspace.text_of(cell)) for cell in mine(root)["cells"]]


STUB = code(
    "stub",
    "def iou():\n    ...",
    outputs=[{"output_type": "stream", "name": "stdout", "text": "1"}],
)
SOLUTION = code(
    "answer", "def iou_solution():\n    return 1\nprint('done')", "solution", "hide-cell"
)


def test_a_copy_has_no_outputs_and_its_solutions_are_folded_and_silent(tmp_path):
    publish(tmp_path, STUB, SOLUTION)
    assert workspace.make(tmp_path) == ["03_matching.ipynb"]
    stub, answer = mine(tmp_path)["cells"]
    assert stub["outputs"] == [] and stub["execution_count"] is None
    assert answer["source"][0] == "%%capture\n" and answer["metadata"]["jupyter"]["source_hidden"]
    assert (tmp_path / "my_course" / "capstone" / "my_ssd.py").is_file()


def test_making_it_again_touches_nothing(tmp_path):
    publish(tmp_path, STUB)
    workspace.make(tmp_path)
    change(tmp_path, "stub", "return 7")
    (tmp_path / "my_course" / "capstone" / "my_ssd.py").write_text("mine")
    assert workspace.make(tmp_path) == []
    assert texts(tmp_path) == [("stub", "return 7")]
    assert (tmp_path / "my_course" / "capstone" / "my_ssd.py").read_text() == "mine"


def test_reset_keeps_every_copy(tmp_path):
    publish(tmp_path, STUB)
    workspace.make(tmp_path)
    for number, text in ((1, "first"), (2, "second")):
        change(tmp_path, "stub", text)
        assert f"kept/03_matching_{number}.ipynb" in workspace.reset(tmp_path, "3")
        kept = json.loads(
            (tmp_path / "my_course" / "kept" / f"03_matching_{number}.ipynb").read_text()
        )
        assert workspace.text_of(kept["cells"][0]) == text
    assert texts(tmp_path) == [("stub", "def iou():\n    ...")]
    with pytest.raises(LookupError, match="no lesson 9"):
        workspace.reset(tmp_path, "9")


@pytest.mark.parametrize(
    ("touched", "published", "expected"),
    [
        ("", "x = 2", [("a", "x = 2")]),  # untouched: the new one
        ("mine", "x = 1", [("a", "mine")]),  # the course did not change it: the learner's
        ("x = 2", "x = 2", [("a", "x = 2")]),  # both made the same change
    ],
)
def test_update_of_one_cell(tmp_path, touched, published, expected):
    publish(tmp_path, code("a", "x = 1"), code("b", "y"))
    workspace.make(tmp_path)
    if touched:
        change(tmp_path, "a", touched)
    publish(tmp_path, code("a", published), code("b", "y = 2"))
    assert workspace.update(tmp_path) == ["03_matching.ipynb is up to date."]
    assert texts(tmp_path) == [*expected, ("b", "y = 2")]
    assert workspace.update(tmp_path) == []


def test_update_keeps_a_changed_cell_and_shows_the_new_one_beside(tmp_path):
    publish(tmp_path, code("a", "x = 1"))
    workspace.make(tmp_path)
    change(tmp_path, "a", "mine")
    publish(tmp_path, code("a", "x = 2"))
    assert "1 cells of yours stay" in workspace.update(tmp_path)[0]
    assert [id for id, _ in texts(tmp_path)] == ["a", "a-note", "a-new"]
    assert texts(tmp_path)[0][1] == "mine" and texts(tmp_path)[2][1] == "x = 2"


def test_update_keeps_the_learners_own_cells_in_their_places_and_dropped_ones_that_they_changed(
    tmp_path,
):
    publish(tmp_path, code("a", "1"), code("gone", "2"), code("dropped", "3"))
    workspace.make(tmp_path)
    notebook = mine(tmp_path)
    notebook["cells"].insert(1, code("notes", "my notes"))
    notebook["cells"].insert(0, code("top", "my top"))
    (tmp_path / "my_course" / "03_matching.ipynb").write_text(json.dumps(notebook))
    change(tmp_path, "gone", "changed")
    publish(tmp_path, code("a", "1"), code("new", "4"))
    workspace.update(tmp_path)
    assert texts(tmp_path) == [
        ("top", "my top"),
        ("a", "1"),
        ("notes", "my notes"),
        ("new", "4"),
        ("gone", "changed"),
    ]


def test_update_keeps_outputs_of_cells_that_did_not_change(tmp_path):
    publish(tmp_path, code("a", "1"), code("b", "2"))
    workspace.make(tmp_path)
    notebook = mine(tmp_path)
    notebook["cells"][0]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "mine"}]
    (tmp_path / "my_course" / "03_matching.ipynb").write_text(json.dumps(notebook))
    publish(tmp_path, code("a", "1"), code("b", "3"))
    workspace.update(tmp_path)
    assert mine(tmp_path)["cells"][0]["outputs"][0]["text"] == "mine"


@pytest.mark.parametrize("broken", ["{", "[]", '{"cells": [{}]}'])
def test_a_copy_that_cannot_be_read_stays_as_it_is(tmp_path, broken):
    publish(tmp_path, STUB)
    workspace.make(tmp_path)
    file = tmp_path / "my_course" / "03_matching.ipynb"
    file.write_text(broken)
    publish(tmp_path, code("stub", "new"))
    assert "cannot be read" in workspace.update(tmp_path)[0]
    assert file.read_text() == broken


def test_the_published_lessons_become_copies_that_python_can_read(tmp_path):
    shutil.copytree(
        ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns("mine", ".*")
    )
    assert len(workspace.make(tmp_path)) == len(workspace.lessons(ROOT))
    for path in sorted((tmp_path / "my_course").glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == []
                ast.parse(workspace.text_of(cell).removeprefix("%%capture\n"))
