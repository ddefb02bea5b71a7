"""Settings that every room of the package reads: the budget, where data lies, the cells' names."""

import os
import platform
from pathlib import Path

import torch

BUDGETS = ("ci", "laptop", "gpu")
CELL_CLASSES = ("RBC", "WBC", "Platelets")


def find_checkout(package: Path) -> Path | None:
    """The course's folder, where `package` is a checkout's lesson_lib; None where installed."""
    folder = package.parent
    ours = (folder / "lab.py", folder / "pyproject.toml", folder / "data" / "README.md")
    return folder if all(file.is_file() for file in ours) else None


CHECKOUT = find_checkout(Path(__file__).resolve().parent)
#: Where the course keeps its own files (results, my_course): the checkout, else where one works.
REPOSITORY = CHECKOUT or Path.cwd()


def budget() -> str:
    """Size and time of training: `LESSON_BUDGET`; by default "gpu" with CUDA, else "laptop".

    Raises ValueError for a name that is not in BUDGETS.
    """
    name = os.environ.get("LESSON_BUDGET") or ("gpu" if torch.cuda.is_available() else "laptop")
    if name not in BUDGETS:
        raise ValueError(
            f"LESSON_BUDGET is {name!r}; set it to one of {', '.join(BUDGETS)}, or unset it."
        )
    return name


def downloads_dir() -> Path:
    """Folder for downloaded data sets: a checkout's data/downloads, else the user's own folder.

    platformdirs says where that is, on Linux ~/.local/share/lesson-lib/datasets. Never the
    package's folder, which may be read-only and is wiped by the next installation.
    """
    if CHECKOUT:
        return CHECKOUT / "data" / "downloads"
    import platformdirs  # a checkout works where it is not installed

    return platformdirs.user_data_path("lesson-lib", appauthor=False) / "datasets"


def dataset_roots() -> list[Path]:
    """Folders that may hold data sets, best first: `LESSON_DATASETS` if set, `downloads_dir()`.

    `LESSON_DATASETS=none` hides both: the lessons are stored as they look without any download.
    """
    named = os.environ.get("LESSON_DATASETS")
    if named == "none":
        return []
    return ([Path(named).expanduser()] if named else []) + [downloads_dir()]


def cache_dir() -> Path:
    """Folder for what can be made again at any time.

    `LESSON_CACHE` if set, else a checkout's data/cache, else the user's folder for caches
    (platformdirs; on Linux ~/.cache/lesson-lib).
    """
    if named := os.environ.get("LESSON_CACHE"):
        return Path(named).expanduser()
    if CHECKOUT:
        return CHECKOUT / "data" / "cache"
    import platformdirs

    return platformdirs.user_cache_path("lesson-lib", appauthor=False)


def hardware() -> str:
    """What calculates here: the GPU, or the processor with its cores and torch's threads."""
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return f"{torch.cuda.get_device_name()}, {memory:.0f} GiB"
    cores, threads = os.cpu_count(), torch.get_num_threads()
    return f"{_processor()}, {cores} cores, {threads} thread{'s' * (threads != 1)}"


def _processor() -> str:
    """Its name, or its kind where the system tells no name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe_machine() -> str:
    """One line: what this machine is, which budget applies, which data sets are at hand."""
    here = sorted(
        {
            folder.name
            for root in dataset_roots()
            if root.is_dir()
            for folder in root.iterdir()
            if folder.is_dir()
        }
    )
    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, {hardware()}: "
        f"budget {budget()!r}. "
        f"Pictures: synthetic smears{''.join(', ' + name for name in here)}."
    )
