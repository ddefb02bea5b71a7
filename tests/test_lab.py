"""lab.py without ever making a real environment: a record of what it was asked for stands for
`lab.run`.
"""

import ast
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest

import lab

SOURCE = Path(lab.__file__).read_text()


class Course:
    """A small copy of the repository in a folder with a space in its name, and the commands that
    were run.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.venv, self.commands, self.environments, self.codes = (
            root,
            root / ".venv",
            [],
            [],
            [],
        )
        self.notebooks = root / "notebooks"
        self.notebooks.mkdir(parents=True)
        for name in ("requirements.txt", "pyproject.toml"):
            (root / name).write_text(f"{name}, as it is today")

    def run(self, command: list[str], env: dict[str, str]) -> int:
        self.commands.append(command)
        self.environments.append(env)
        if "venv" in command:
            (self.venv / "bin").mkdir(parents=True, exist_ok=True)
            (self.venv / "bin" / "python").touch()
        return self.codes.pop(0) if self.codes else 0

    def lesson(self, name: str, *sources: str, printed: str = "1") -> Path:
        cells = [
            {
                "cell_type": "code",
                "id": f"cell-{i}",
                "metadata": {},
                "source": [source],
                "outputs": [printed],
                "execution_count": 1,
            }
            for i, source in enumerate(sources)
        ]
        path = self.notebooks / name
        path.write_text(json.dumps({"cells": cells}))
        return path

    @property
    def stamp(self) -> str:
        return (self.venv / "course-stamp").read_text()


@pytest.fixture
def course(tmp_path, monkeypatch) -> Course:
    course = Course(tmp_path / "my course")
    monkeypatch.setattr(lab, "ROOT", course.root)
    monkeypatch.setattr(lab, "run", course.run)
    monkeypatch.setattr(lab, "DISK_NEEDED_GB", 0)
    monkeypatch.setattr(lab.shutil, "which", lambda name: None)  # no uv
    monkeypatch.setattr(lab.signal, "signal", lambda *_: None)
    monkeypatch.setattr(lab.subprocess, "run", lambda *_, **__: None)  # no lesson is signed
    return course


@pytest.fixture
def ready(course) -> Course:
    """A course whose environment is there."""
    lab.environment()
    course.commands.clear()
    course.environments.clear()
    return course


def stops(function, *arguments) -> str:
    """The sentence with which `function` ends the program."""
    with pytest.raises(SystemExit) as stop:
        function(*arguments)
    return str(stop.value.code)


def test_an_older_python_is_told_in_a_sentence_because_it_can_read_the_file(monkeypatch):
    ast.parse(SOURCE, feature_version=(3, 6))
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    sentence = stops(exec, compile(SOURCE, "lab.py", "exec"), {"__name__": "lab"})
    assert "3.11 or newer" in sentence and "this is Python 3.10" in sentence


def test_the_environment_is_made_once(course):
    python = lab.environment()
    assert [command[1:3] for command in course.commands] == [["-m", "venv"], ["-m", "pip"]]
    assert course.commands[1][0] == python == str(course.venv / "bin" / "python")
    assert course.commands[1][-2:] == ["-r", "requirements.txt"]
    assert lab.environment() == python and len(course.commands) == 2


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml"])
def test_the_environment_is_updated_when_its_files_change(ready, name):
    (ready.root / name).write_text("torch==3")
    (ready.venv / "kept").touch()
    lab.environment()
    assert [command[1:3] for command in ready.commands] == [["-m", "pip"]] and (
        ready.venv / "kept"
    ).exists()
    lab.environment()
    assert len(ready.commands) == 1


def test_a_folder_that_was_moved_is_installed_again(ready, monkeypatch):
    moved = ready.root.rename(ready.root.with_name("elsewhere"))
    monkeypatch.setattr(lab, "ROOT", moved)
    lab.environment()
    assert len(ready.commands) == 1


def test_an_installation_that_was_cut_off_does_not_look_finished(course, monkeypatch):
    def cut_off(command: list[str], env: dict[str, str]) -> int:
        course.run(command, env)
        if "pip" in command:
            (course.venv / "half").touch()
            raise MemoryError("the process is gone")
        return 0

    monkeypatch.setattr(lab, "run", cut_off)
    pytest.raises(MemoryError, lab.environment)
    assert course.stamp == lab.UNFINISHED
    monkeypatch.setattr(lab, "run", course.run)
    lab.environment()
    assert not (course.venv / "half").exists() and course.stamp == lab.fingerprint()
    assert ["venv" in command for command in course.commands] == [True, False, True, False]


def test_an_environment_of_somebodys_own_is_updated_and_not_removed(course):
    course.run(["venv"], {})
    (course.venv / "theirs").touch()
    lab.environment()
    assert (
        (course.venv / "theirs").exists()
        and "pip" in course.commands[-1]
        and len(course.commands) == 2
    )


def test_without_a_network_there_is_a_sentence_and_the_next_try_starts_again(course):
    course.codes = [0, 1]
    assert "could not be installed" in stops(lab.environment)
    assert course.stamp == lab.UNFINISHED


def test_a_failed_update_keeps_the_old_packages_but_not_the_old_stamp(ready):
    before = ready.stamp
    (ready.root / "requirements.txt").write_text("new")
    ready.codes = [1]
    assert "could not be installed" in stops(lab.environment)
    assert ready.stamp == before != lab.fingerprint()


def test_ctrl_c_during_an_installation_is_quiet(course):
    course.codes = [0, 130]
    assert stops(lab.environment) == "130" and course.stamp == lab.UNFINISHED


def test_a_disk_that_is_too_small(course, monkeypatch):
    monkeypatch.setattr(lab, "DISK_NEEDED_GB", 8)
    monkeypatch.setattr(lab.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=3.14e9))
    sentence = stops(lab.environment)
    assert "about 8 GB" in sentence and "3.1 GB are free" in sentence and not course.venv.exists()


def test_a_python_without_venv_is_told_debians_package(course, monkeypatch):
    monkeypatch.setattr(
        lab.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else name
    )
    assert "apt-get install python3-venv" in stops(lab.environment) and not course.venv.exists()


def test_uv_is_used_where_it_is(course, monkeypatch):
    monkeypatch.setattr(lab.shutil, "which", {"uv": "/bin/uv"}.get)
    lab.environment()
    assert [command[:2] for command in course.commands] == [["/bin/uv", "venv"], ["/bin/uv", "pip"]]


def test_the_interpreter_lies_elsewhere_on_windows(ready, monkeypatch):
    monkeypatch.setattr(lab, "os", types.SimpleNamespace(**vars(os) | {"name": "nt"}))
    assert Path(lab.environment()) == ready.venv / "Scripts" / "python.exe"


def test_jupyterlab_opens_the_first_lesson_with_the_courses_settings_only(ready, monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", "/another/project")
    monkeypatch.setenv("PYTHONPATH", "/another/project")
    assert lab.main(["--no-browser", "--ip=0.0.0.0"]) == 0
    (command,), (env,) = ready.commands, ready.environments
    assert command[1:3] == ["-m", "jupyterlab"] and {"--no-browser", "--ip=0.0.0.0"} < set(command)
    assert f"--ServerApp.root_dir={ready.root}" in command
    assert "--LabApp.default_url=/lab/tree/my_course/00_start_here.ipynb" in command
    assert env["JUPYTER_CONFIG_PATH"] == str(ready.root / ".jupyter") and "PYTHONPATH" not in env
    assert Path(env["JUPYTER_CONFIG_DIR"]).is_relative_to(ready.root)


def test_stored_pictures_are_shown_because_the_lessons_are_signed(ready, monkeypatch):
    signed = []
    monkeypatch.setattr(lab.subprocess, "run", lambda command, **_: signed.extend(command))
    lesson = ready.lesson("00_start_here.ipynb", "1")
    lab.lab([])
    assert signed[1:] == ["-m", "nbformat.sign", str(lesson)]


@pytest.mark.parametrize("form", [["--port", "{}"], ["--port={}"]])
def test_a_port_that_is_taken_is_refused_and_a_free_one_is_the_only_one_tried(ready, form):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        arguments = [part.format(port) for part in form]
        assert f"Port {port} is taken" in stops(lab.main, arguments) and not ready.commands
    lab.main(arguments)
    assert {f"--ServerApp.port={port}", "--ServerApp.port_retries=0"} < set(ready.commands[0])


def test_a_port_that_cannot_be(ready):
    assert "Port 70000 is taken or not allowed" in stops(lab.main, ["--port", "70000"])


def test_the_settings_are_ones_that_jupyterlab_knows():
    settings = Path(lab.__file__).parent / ".jupyter/labconfig/default_setting_overrides.json"
    schemas = Path(sys.prefix, "share/jupyter/lab/schemas")
    kinds = {"string": str, "boolean": bool}
    for plugin, values in json.loads(settings.read_text()).items():
        schema = json.loads((schemas / f"{plugin.replace(':', '/')}.json").read_text())
        for key, value in values.items():
            known = schema["properties"][key]
            assert isinstance(value, kinds[known["type"]])
            assert value in [choice["const"] for choice in known.get("oneOf", [{"const": value}])]


def test_test_runs_everything_reproducibly(ready, monkeypatch):
    monkeypatch.setenv("LESSON_BUDGET", "gpu")
    lesson = ready.lesson("01_boxes.ipynb", "1")
    ready.codes = [1]
    assert lab.main(["test", "-k", "boxes"]) == 1
    (command,), (env,) = ready.commands, ready.environments
    assert {"--nbval", "--nbval-current-env"} < set(command)
    assert command[-4:] == ["-k", "boxes", "tests", str(lesson)]
    assert (env["LESSON_BUDGET"], env["OMP_NUM_THREADS"], env["CUDA_VISIBLE_DEVICES"]) == (
        "ci",
        "1",
        "",
    )
    assert env["LESSON_NOTEBOOKS"] == str(lesson)


def test_what_passed_tests_wrote_does_not_fill_the_disk(tmp_path):
    """A checkpoint of RetinaNet takes 850 MB: a run of everything once left 10 GB behind, on a
    machine that had 7.
    """
    (tmp_path / "test_two.py").write_text(
        "def test_passes(tmp_path): (tmp_path / 'weights').write_text('large')\n"
        "def test_fails(tmp_path): (tmp_path / 'trace').write_text('wanted'); assert False\n"
    )
    settings = ["-c", str(Path(lab.__file__).with_name("pyproject.toml")), "-p", "no:cacheprovider"]
    kept = tmp_path / "kept"
    command = [sys.executable, "-m", "pytest", *settings, f"--basetemp={kept}", "-n", "2"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    run = subprocess.run([*command, tmp_path], capture_output=True, text=True, env=clean)
    assert "1 failed, 1 passed" in run.stdout, run.stdout + run.stderr
    assert [path.name for path in kept.rglob("*") if path.is_file()] == ["trace"]


def test_named_tests_are_the_only_ones_and_a_word_after_k_names_none(ready):
    lesson = ready.lesson("01_boxes.ipynb", "1")
    lab.main(["test", "tests/test_boxes.py::test_iou", "-x"])
    lab.main(["test", "-k", "tests"])
    assert ready.commands[0][-2:] == ["tests/test_boxes.py::test_iou", "-x"]
    assert ready.commands[1][-2:] == ["tests", str(lesson)]


def test_a_learner_works_in_copies_and_the_published_lessons_are_tested(ready, capsys):
    lesson = ready.lesson("00_start_here.ipynb", "a = 1")
    before = lesson.read_bytes()
    lab.lab([])
    mine = ready.root / "my_course" / "00_start_here.ipynb"
    assert "my_course/" in capsys.readouterr().out
    mine.write_text(mine.read_text().replace("a = 1", "a = 2"))
    lab.lab([])
    assert "a = 2" in mine.read_text() and lesson.read_bytes() == before
    lab.test([])
    assert ready.commands[-1][-1] == str(lesson)


def test_reset_and_update_lose_nothing(ready, capsys):
    ready.lesson("03_matching.ipynb", "a = 1")
    lab.lab([])
    mine = ready.root / "my_course" / "03_matching.ipynb"
    mine.write_text(mine.read_text().replace("a = 1", "a = 2"))
    ready.lesson("03_matching.ipynb", "a = 3")
    assert lab.main(["update"]) == 0
    assert "a = 2" in mine.read_text() and "a = 3" in mine.read_text()
    assert lab.main(["reset", "3"]) == 0
    assert "a = 2" not in mine.read_text()
    assert "a = 2" in (mine.parent / "kept" / "03_matching_1.ipynb").read_text()
    assert "kept as my_course/kept/03_matching_1.ipynb" in capsys.readouterr().out
    lab.main(["update"])
    assert "are those of this course already" in capsys.readouterr().out


def test_reset_says_what_it_cannot_do(ready):
    ready.lesson("01_boxes.ipynb", "1")
    assert "There is no lesson 9: there are 01." in stops(lab.reset, ["9"])
    assert "Say which lesson" in stops(lab.reset, [])


def test_progress_counts_exercises_and_hits(ready, capsys):
    ready.lesson("03_matching.ipynb", 'check("03.match", f)', 'check("03.labels", g)')
    lab.lab([])
    capsys.readouterr()
    lab.main(["progress"])
    assert "0 of 2 exercises" in capsys.readouterr().out
    kept = {
        "exercises": {"03.match": {}, "04.other": {}},
        "guesses": {"03.a": {"hit": True}, "03.b": {"hit": False}},
    }
    (ready.root / "my_course" / "progress.json").write_text(json.dumps(kept))
    lab.main(["progress"])
    said = capsys.readouterr().out
    assert said.startswith("03 matching") and "1 of 2 exercises, 1 of 2 guesses were hits" in said


def test_an_unknown_command_is_answered_with_the_known_ones(course):
    sentence = stops(lab.main, ["tset"])
    assert "'tset'" in sentence and "lab.py reset 03" in sentence


@pytest.mark.parametrize("words", ["-h", "--help", "reset -h", "update --help", "progress --help"])
def test_help_names_the_courses_own_commands_and_does_nothing(course, capsys, words):
    assert lab.main(words.split()) == 0
    told = capsys.readouterr().out
    assert all(f"lab.py {name}" in told for name in ("test", "reset", "update", "progress", "book"))
    assert not course.commands


def test_the_makefile_and_ci_call_the_same_commands():
    root = Path(lab.__file__).parent
    assert "python3 lab.py $(ARGS)" in (root / "Makefile").read_text()
    assert "python3 lab.py test" in (root / "Makefile").read_text()
    script = (root / ".ci" / "run").read_text()
    assert "\nmake test\n" in script and 'make test ARGS="--machine default ' in script
    assert os.access(root / ".ci" / "run", os.X_OK) and shutil.which("bash")


@pytest.mark.skipif(os.name == "nt", reason="signals are sent the way of POSIX here")
@pytest.mark.parametrize(
    ("sent", "to_group", "code"), [("SIGINT", True, 130), ("SIGTERM", False, 7)]
)
def test_a_signal_is_the_programs_to_answer(sent, to_group, code):
    child = (
        "import signal, sys, time; stop = lambda *_: sys.exit(7); signal.signal(signal.SIGTERM, "
        "stop); signal.signal(signal.SIGINT, stop); print('ready', flush=True); time.sleep(60)"
    )
    parent = (
        f"import lab, os, sys; sys.exit(lab.run([sys.executable, '-c', {child!r}], "
        "dict(os.environ)))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        cwd=Path(lab.__file__).parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    (os.killpg if to_group else os.kill)(process.pid, getattr(signal, sent))
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (code, "")


CPUINFO = "processor\t: 0\nflags\t\t: fpu avx avx2 fma\n"


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """processor(name, cpuinfo): lab.py runs on such a machine."""

    def pretend(name: str, cpuinfo: str = CPUINFO) -> None:
        file = tmp_path / "cpuinfo"
        file.write_text(cpuinfo)
        monkeypatch.setattr(lab.platform, "machine", lambda: name)
        monkeypatch.setattr(lab, "CPUINFO", file)

    return pretend


def test_ipythons_folder_needs_no_environment_in_the_checkout():
    """IPython warns where the folder over its own is missing, and tests take that as an error."""
    assert Path(lab.REPRODUCIBLE["IPYTHONDIR"]).parent == lab.ROOT


@pytest.mark.parametrize("machine", ["default", "avx2", "threads1", "threads2"])
def test_a_machine_is_imitated_in_every_process_of_the_tests(ready, processor, capsys, machine):
    processor("x86_64")
    assert lab.main(["test", "--machine", machine, "-k", "boxes"]) == 0
    (command,), (env,) = ready.commands, ready.environments
    assert "--machine" not in command and command[-3:] == ["-k", "boxes", "tests"]
    assert env.items() >= (lab.REPRODUCIBLE | lab.MACHINES[machine]).items()
    said = capsys.readouterr().out
    assert f"Imitating {machine}" in said and "Not imitated: other processors" in said


@pytest.mark.parametrize(
    ("machine", "name", "cpuinfo", "sentence"),
    [
        ("avx512", "x86_64", CPUINFO, "this processor lacks avx512bw, avx512dq, avx512f, avx512vl"),
        ("default", "arm64", "", "only threads1 and threads2 can be imitated here"),
        ("cray", "x86_64", CPUINFO, "choose one of default, avx2, avx512, threads1, threads2"),
    ],
)
def test_what_cannot_be_imitated_is_told(ready, processor, machine, name, cpuinfo, sentence):
    processor(name, cpuinfo)
    assert sentence in stops(lab.main, ["test", "--machine", machine]) and not ready.commands


def test_an_unknown_processor_is_told_too(processor, capsys):
    processor("AMD64", "no such line")
    assert lab.imitation("avx2") == lab.MACHINES["avx2"]
    assert "Nobody can tell here whether the processor has avx2" in capsys.readouterr().out


def test_the_imitated_machine_is_the_one_that_torch_sees():
    seen = "import torch; print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())"
    for machine, answer in (("default", "DEFAULT 1"), ("threads2", "2")):
        if lab.platform.machine().lower() not in ("x86_64", "amd64") and machine == "default":
            continue
        env = os.environ | lab.REPRODUCIBLE | lab.imitation(machine)
        run = subprocess.run([sys.executable, "-c", seen], env=env, capture_output=True, text=True)
        assert run.stdout.strip().endswith(answer), run.stderr


def test_the_lessons_alone(ready):
    lesson = ready.lesson("01_boxes.ipynb", "1")
    lab.main(["test", "--lessons"])
    assert ready.commands[0][-1] == str(lesson) and "tests" not in ready.commands[0]


@pytest.mark.parametrize("outside", [None, "1"])
def test_the_tests_on_a_gpu_see_it_and_leave_the_lessons_out(ready, monkeypatch, outside):
    ready.lesson("01_boxes.ipynb", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if outside is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", outside)
    assert lab.main(["test", "--gpu", "-k", "matching"]) == 0
    (command,), (env,) = ready.commands, ready.environments
    assert command[-3:] == ["-k", "matching", "tests"] and "--gpu" not in command
    assert env.get("CUDA_VISIBLE_DEVICES") == outside and env["LESSON_NOTEBOOKS"] == ""
    assert lab.REPRODUCIBLE["CUDA_VISIBLE_DEVICES"] == ""  # for the next


def test_the_lessons_are_not_compared_with_a_gpus(ready):
    assert "are a CPU's" in stops(lab.main, ["test", "--gpu", "--lessons"]) and not ready.commands
