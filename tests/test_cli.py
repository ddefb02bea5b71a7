"""The command line, run in this process but for one call."""

import os
import subprocess
import sys

import pytest
from tiny_data import coco_file, voc_folder, voc_object, voc_picture

from lesson_lib import cli
from lesson_lib.data import catalog


@pytest.fixture
def nothing_here(monkeypatch, tmp_path):
    monkeypatch.setattr(catalog, "dataset_roots", lambda: [tmp_path / "none"])
    monkeypatch.setattr(catalog, "DOWNLOADS", tmp_path / "none")


def test_list_tells_what_is_here_and_what_is_not(nothing_here, tmp_path, capsys):
    (tmp_path / "none" / "bccd" / "Annotations").mkdir(parents=True)
    assert cli.main(["data", "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert tuple(lines) == catalog.names()
    assert (
        lines["bccd"] == f"bccd       train 205, val 87, test 72; MIT; {tmp_path / 'none' / 'bccd'}"
    )
    assert lines["aquarium"].endswith("CC BY 4.0 (Roboflow); not on this machine")
    assert "no download" in lines["smears"]


@pytest.mark.parametrize("name", catalog.names())
def test_every_card_can_be_read(name, capsys):
    assert cli.main(["data", "card", name]) == 0
    assert "What is wrong with it" in capsys.readouterr().out


def test_check_is_0_for_a_clean_folder_and_1_for_one_with_problems(tmp_path, capsys):
    assert cli.main(["data", "check", str(voc_folder(tmp_path / "good"))]) == 0
    assert "no problems" in capsys.readouterr().out
    voc_picture(tmp_path / "bad", "a", voc_object("cat", (1, 1, 1, 1)) * 11)
    assert cli.main(["data", "check", f"voc:{tmp_path / 'bad'}"]) == 1
    assert "empty box: 11" in (out := capsys.readouterr().out) and "... and 1 more" in out
    assert cli.main(["data", "check", f"voc:{tmp_path / 'bad'}", "--all"]) == 1
    assert "more" not in capsys.readouterr().out
    file = coco_file(tmp_path / "coco")
    assert cli.main(["data", "check", f"coco:{file}", "--classes", "bus,fox,cup"]) == 0
    assert cli.main(["data", "check", f"coco:{tmp_path / 'coco'}", "--classes", "bus,fox"]) == 1
    assert "(cup: 1, 2, 4, 6) is of no known class" in capsys.readouterr().out


def test_download_from_a_folder(nothing_here, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(catalog, "download", lambda *what: asked.append(what) or tmp_path / what[0])
    assert cli.main(["data", "download", "bccd", "--from", "some/folder"]) == 0
    assert cli.main(["data", "download", "voc2007"]) == 0
    assert asked == [("bccd", "some/folder"), ("voc2007", None)]
    assert capsys.readouterr().out.splitlines()[0] == f"bccd lies in {tmp_path / 'bccd'}"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["data", "card", "bcd"], "did you mean 'bccd'?"),
        (["data", "check", "bccd"], "is not on this machine"),
        (["data", "check", "voc:/no/such/folder"], "has no folder Annotations"),
        (["data", "check", "coco:/no/such.json"], "is missing; give a COCO JSON file"),
        (["data", "download", "bccd", "--from", "/no/such"], "is no folder; --from takes"),
        (["data", "download", "smears"], "drawn by this package"),
    ],
)
def test_every_error_is_one_sentence_on_stderr(nothing_here, arguments, sentence, capsys):
    assert cli.main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and sentence in err and err.count("\n") == 1 and "Traceback" not in err


def test_an_interrupted_command_says_how_to_go_on(monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog, "download", stop)
    assert cli.main(["data", "download", "bccd"]) == 130
    assert "goes on with a download" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["data"], ["data", "nonsense"], ["nonsense"], ["data", "check"]]
)
def test_misuse_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2 and "usage:" in capsys.readouterr().err


def test_python_dash_m():
    command = [sys.executable, "-m", "lesson_lib", "data", "card", "nope"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1 and "No data set is called 'nope'" in run.stderr


def test_names_in_letters_that_the_console_lacks_are_printed_as_numbers(tmp_path):
    voc_picture(tmp_path, "a", voc_object("\u732b", (1, 1, 9, 9)))
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, "-m", "lesson_lib", "data", "check", f"voc:{tmp_path}"]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0 and b"\\u732b" in done.stdout and done.stderr == b""


def test_an_error_of_the_system_is_a_sentence_that_names_the_file(tmp_path, monkeypatch, capsys):
    def refused(*_):
        raise PermissionError(13, "Permission denied", "some/file.json")

    monkeypatch.setattr(catalog, "download", refused)
    assert cli.main(["data", "download", "bccd"]) == 1
    assert capsys.readouterr().err == "some/file.json: Permission denied.\n"


def test_a_reader_of_the_output_that_goes_away_is_no_error(tmp_path):
    voc_picture(tmp_path, "a", voc_object("cat", (1, 1, 1, 1)) * 9)
    program = f"{sys.executable} -u -m lesson_lib data check voc:{tmp_path}; echo $? >&2"
    done = subprocess.run(
        ["bash", "-c", f"({program}) | true"], capture_output=True, text=True, check=False
    )
    assert done.stderr == "1\n"
