"""The map of the course names every lesson, and what its reader has done of it."""

import json

import pytest

import lab
from lesson_lib.course import lesson_map


@pytest.fixture
def progress(tmp_path, monkeypatch):
    monkeypatch.setenv("LESSON_PROGRESS", str(tmp_path / "progress.json"))
    return tmp_path / "progress.json"


def test_every_lesson_stands_in_its_place(progress):
    rows = lesson_map.rows()
    assert [row.file for row in rows] == [path.name for path in lab.lessons()]
    assert all(row.minutes > 0 and row.afterwards and not row.done for row in rows)


def test_what_is_done_stands_beside_its_lesson(progress):
    hit, miss = ({"guess": 1, "value": value, "hit": value == 1} for value in (1, 2))
    kept = {"exercises": {"03.match": {}}, "guesses": {"03.a": hit, "03.b": miss}}
    progress.write_text(json.dumps(kept))
    done = {row.file[:2]: row.done for row in lesson_map.rows()}
    assert done.pop("03") == "1 solved, 1 of 2 guesses hit"
    assert not any(done.values())


def test_without_a_table_one_sentence_says_so(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("# A course\n")
    monkeypatch.setattr(lesson_map, "REPOSITORY", tmp_path)
    with pytest.raises(ValueError, match=r"README\.md has no table of lessons"):
        lesson_map.rows()
