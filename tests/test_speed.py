"""The table of ratios against torchvision, as the README shows it."""

import json

import pytest

from tools import speed
from tools.marks import put


def run(quiet, busy, date="2026-11-30"):
    rows = [
        {"name": "mine", "sizes": "8,732", "ours_ms": 1.25, "ratio": quiet, "must": 8},
        {"name": "mine busy", "sizes": "8,732", "ours_ms": 2.5, "ratio": busy, "must": 8},
    ]
    return {"hardware": "a laptop, 2 cores, 2 threads", "date": date, "rows": rows}


def test_a_row_shows_both_runs_quiet_and_busy_and_what_falls_short():
    lines = speed.table([run(9.0, 0.9), run(7.5, 1.1)]).splitlines()
    assert lines[2] == "| mine | 8,732 | 1.2 | 9.00 and **7.50** | **0.90** and 1.10 | 8 |"
    assert len(lines) == 5 and "in one run and in another" in lines[4]
    assert "a laptop, 2 cores, 2 threads, 2026-11-30;" in lines[4]


def test_rows_of_one_name_and_two_sizes_are_two_lines():
    one = run(9.0, 1.0)
    one["rows"] += [row | {"sizes": "49,104", "ratio": row["ratio"] + 1} for row in one["rows"]]
    lines = speed.table([one]).splitlines()
    assert lines[2].endswith("| 8,732 | 1.2 | 9.00 | 1.00 | 8 |")
    assert lines[3].endswith("| 49,104 | 1.2 | 10.00 | 2.00 | 8 |")


def test_one_run_without_a_busy_core():
    one = run(9.0, 1.0)
    one["rows"].pop()
    lines = speed.table([one]).splitlines()
    assert lines[2].endswith("| 9.00 | - | 8 |") and "in one run;" in lines[4]


def test_the_readme_is_written_of_the_runs_that_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "RESULTS", tmp_path / "benchmarks.json")
    monkeypatch.setattr(speed, "README", tmp_path / "README.md")
    speed.README.write_text(f"before\n{speed.MARKS[0]}\nof yesterday\n{speed.MARKS[1]}\nafter\n")
    speed.main([])
    assert "No run has been recorded yet." in speed.README.read_text()
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file, found in zip(files, (run(9.0, 1.2), run(8.5, 1.3))):
        file.write_text(json.dumps(found))
    speed.main(list(map(str, files)))
    assert speed.recorded() == [run(9.0, 1.2), run(8.5, 1.3)]
    text = speed.README.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "yesterday" not in text
    assert speed.readme(text) == text and "9.00 and 8.50" in text


def test_the_time_to_equal_ap_names_every_seed_and_what_falls_short(tmp_path, monkeypatch):
    seeds = [
        {"seed": 0, "AP": 0.512, "ours_s": 60.4, "theirs_s": 151.0, "ratio": 2.5},
        {"seed": 1, "AP": 0.508, "ours_s": 80.0, "theirs_s": 120.0, "ratio": 1.5},
    ]
    found = {"ratio": 2.0, "must": 1.8, "holds": True, "seeds": seeds}
    found["runs"] = [{"machine": "A laptop: budget 'laptop'. Pictures: bccd."}]
    text = speed.equal_ap(found)
    assert "comes 2.00 times sooner" in text and "median of 2 seeds; asked: 1.8" in text
    assert "AP 0.51 after 60 s and 151 s; AP 0.51 after 80 s and 120 s. A laptop." in text
    assert "**1.50** times" in speed.equal_ap(found | {"ratio": 1.5, "holds": False})
    monkeypatch.setattr(speed, "EQUAL_AP", tmp_path / "equal_ap.json")
    page = f"{speed.MARKS[0]}\n{speed.MARKS[1]}\n"
    assert "equal AP" not in speed.readme(page)
    speed.EQUAL_AP.write_text(json.dumps(found))
    assert speed.readme(page).rstrip().endswith(f"{text}\n{speed.MARKS[1]}")


def test_the_published_table_is_that_of_the_recorded_runs():
    text = speed.README.read_text(encoding="utf-8")
    assert speed.recorded() and speed.readme(text) == text


@pytest.mark.parametrize("text", ["", "a", "b", "b a"])
def test_a_page_without_its_marks_is_told(text):
    with pytest.raises(ValueError, match="no place between a and b"):
        put(text, ("a", "b"), "new")
