"""The course's commands, with nothing but Python's standard library.

    python3 lab.py [--no-browser] [--port N] [...]   make .venv once, then open JupyterLab
    python3 lab.py test [...]                        make .venv once, then every test and lesson
    python3 lab.py test --machine default [...]      the same as if this were another machine: an
                                                     x86 processor without AVX; avx2 and avx512 are
                                                     others, threads1 and threads2 set the threads
    python3 lab.py test --lessons [...]              the lessons without the other tests
    python3 lab.py test --gpu [...]                  the tests without the lessons, and with this
                                                     machine's GPU, which else is hidden from them
    python3 lab.py reset 03                          lesson 03 afresh; yours is kept
    python3 lab.py update                            a newer course comes into your lessons, cell by
                                                     cell; what you wrote stays
    python3 lab.py progress                          what you have solved and guessed
    python3 lab.py book                              the course as static pages, into build/book

You work in my_course/, your own copies of the lessons; notebooks/ stays as published.

Further arguments go to JupyterLab (`--ip 0.0.0.0`), those of `test` to pytest (`-k boxes`); their
own lists of them: `python3 lab.py lab --help`, `python3 lab.py test --help`.
"""

import sys

if sys.version_info < (
    3,
    11,
):  # above everything that an older Python could not run; the file parses on 3.6
    sys.exit(
        "This course needs Python 3.11 or newer, and this is Python %d.%d: install a newer one, "
        "and "
        "start this file with it." % sys.version_info[:2]
    )

import argparse
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from tools import workspace

ROOT = Path(__file__).resolve().parent
# .venv takes 6.4 GB on Linux (measured), where torch brings CUDA's libraries, and under 2 GB
# elsewhere.
DISK_NEEDED_GB = 8 if sys.platform.startswith("linux") else 3
UNFINISHED = "unfinished"
CPUINFO = Path("/proc/cpuinfo")  # Linux's list of what the processor can do
# Variables of another Python or Jupyter on this machine that would change what the course does.
FOREIGN = (
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "MPLBACKEND",
    "JUPYTER_CONFIG",
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_CONFIG_PATH",
    "JUPYTER_PATH",
    "JUPYTERLAB_DIR",
    "JUPYTERLAB_SETTINGS_DIR",
    "JUPYTERLAB_WORKSPACES_DIR",
)
# How torch's threads wait for each other, and who has chosen it himself: lesson_lib/threads.py says
# why. It must stand in the environment before a kernel loads torch.
THREADS = {"GOMP_SPINCOUNT": "10000"}
THREAD_CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
# What the stored outputs are made with: the budget sets how long a lesson trains, trained numbers
# move with threads and device, sets of strings are ordered by the hash seed, and IPython would read
# its user's own start-up files.
REPRODUCIBLE = {
    "LESSON_BUDGET": "ci",
    "LESSON_PROGRESS": "none",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONHASHSEED": "0",
    "IPYTHONDIR": str(ROOT / ".ipython"),
}
# Kinds of machine that `test --machine` imitates: the instruction sets that torch, oneDNN, MKL and
# OpenBLAS choose their kernels by, and the number of threads. Results differ between them in the
# last bits, as between real machines.
MACHINES = {
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "NEHALEM",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AVX2",
        "OPENBLAS_CORETYPE": "HASWELL",
    },
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_CBWR": "AVX512",
        "OPENBLAS_CORETYPE": "SKYLAKEX",
    },
    "threads1": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    "threads2": {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
}
NEEDED_FLAGS = {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
NOT_IMITATED = (
    "Not imitated: other processors than this one's family (ARM), a GPU, NumPy's own loops, the "
    "speed."
)


def run(command: list[str], env: dict[str, str]) -> int:
    """Run a program to its end; Ctrl-C and a polite kill are its to answer. 130 if Ctrl-C ended it.

    Both are noted by handlers that are there before the program starts. A KeyboardInterrupt in
    their place could strike while the program's exit code is on its way, which would then be lost.
    """
    seen, running = set(), []

    def note(number: int, _: object) -> None:
        seen.add(number)
        if number == signal.SIGTERM:  # Ctrl-C reaches the program by itself
            for process in running:
                process.terminate()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process = subprocess.Popen(command, cwd=ROOT, env=env)
        running.append(process)
        if signal.SIGTERM in seen:
            process.terminate()
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 130 if signal.SIGINT in seen and code else code


def clean_environment(**settings: str) -> dict[str, str]:
    """This process's variables without those of another Python or Jupyter, and with `settings`."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    threads = {} if any(name in kept for name in THREAD_CHOICES) else THREADS
    return kept | threads | settings


def imitation(machine: str) -> dict[str, str]:
    """The variables that make this machine compute like one of that kind, or a sentence and the
    end.
    """
    if machine not in MACHINES:
        sys.exit(f"There is no machine {machine!r}: choose one of {', '.join(MACHINES)}.")
    if machine.startswith("threads"):
        return MACHINES[machine]
    if platform.machine().lower() not in ("x86_64", "amd64"):
        sys.exit(
            f"{machine} names instructions of x86 processors, and this is {platform.machine()}: "
            "only threads1 and threads2 can be imitated here."
        )
    text = CPUINFO.read_text() if CPUINFO.exists() else ""
    flags = re.search(r"^flags\s*: (.*)$", text, re.MULTILINE)
    missing = NEEDED_FLAGS.get(machine, set()) - set(flags[1].split()) if flags else set()
    if missing:
        sys.exit(
            f"{machine} cannot be imitated here: this processor lacks "
            f"{', '.join(sorted(missing))}, and instructions that it does not have cannot be run."
        )
    if machine in NEEDED_FLAGS and not flags:
        print(f"Nobody can tell here whether the processor has {machine}: without it, less is run.")
    return MACHINES[machine]


def fingerprint() -> str:
    """What .venv is made from: the two files, and the folder, because a .venv that was moved is
    broken."""
    parts = [(ROOT / name).read_bytes() for name in ("requirements.txt", "pyproject.toml")]
    return hashlib.sha256(b"\0".join([*parts, os.fsencode(ROOT)])).hexdigest()


def environment() -> str:
    """Path of the course's own Python. Makes .venv the first time; updates it when its files
    change.

    .venv/course-stamp holds the fingerprint of what was installed, and "unfinished" from the first
    moment of an installation to the last: one that was cut off is removed and made again. A .venv
    without a stamp is somebody's own: it is updated and never removed.
    """
    folder = ROOT / ".venv"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "course-stamp"
    before = stamp.read_text() if stamp.exists() else ""
    if before == fingerprint() and python.exists():
        return str(python)
    if before == UNFINISHED:
        print("The last installation did not finish: it starts again.", flush=True)
        shutil.rmtree(folder)
    new, free = not python.exists(), shutil.disk_usage(ROOT).free / 1e9
    make, install = installation_commands(str(python))
    if new and free < DISK_NEEDED_GB:
        sys.exit(
            f"The disk is too small: the packages need about {DISK_NEEDED_GB} GB, and {free:.1f} "
            f"GB are free in {ROOT}. Free some space, or move this folder to a larger disk."
        )
    print(
        "Installing the course's packages into .venv: once, for some minutes ..."
        if new
        else "Bringing the packages in .venv up to date with requirements.txt ...",
        flush=True,
    )
    folder.mkdir(exist_ok=True)
    stamp.write_text(UNFINISHED)
    code = (run(make, clean_environment()) if new else 0) or run(install, clean_environment())
    if code == 130:  # Ctrl-C
        sys.exit(code)
    if code:
        stamp.write_text(
            UNFINISHED if new else before
        )  # a failed update leaves the old packages whole
        sys.exit(
            "The packages could not be installed; the reason stands above. Check the network and "
            "the disk, then give the same command again."
        )
    stamp.write_text(fingerprint())
    return str(python)


def installation_commands(python: str) -> tuple[list[str], list[str]]:
    """The command that makes an empty .venv and the one that fills it: uv's if there is uv, else
    Python's."""
    uv, requirements = shutil.which("uv"), ["-r", "requirements.txt"]
    base = (
        getattr(sys, "_base_executable", None) or sys.executable
    )  # not a .venv that was just removed
    if uv:
        return (
            [uv, "venv", "--seed", "--allow-existing", "--python", base, ".venv"],
            [uv, "pip", "install", "--python", python, *requirements],
        )
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        sys.exit(
            "This Python cannot make a virtual environment: on Debian or Ubuntu run `sudo apt-get "
            "install python3-venv`, elsewhere install uv, then give the same command again."
        )
    return [base, "-m", "venv", ".venv"], [python, "-m", "pip", "install", *requirements]


def check_port(port: int) -> None:
    """Stop with a sentence when `port` cannot be listened on."""
    with socket.socket() as probe:
        if (
            os.name == "posix"
        ):  # a port left a moment ago is free; on Windows the option means something else
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            sys.exit(
                f"Port {port} is taken or not allowed: choose another with --port, or leave --port "
                "out and JupyterLab finds a free one."
            )


def lab(arguments: list[str]) -> int:
    """Open JupyterLab on the learner's copy of lesson 0, with the settings in .jupyter.

    `arguments` go to JupyterLab.
    """
    parser = argparse.ArgumentParser(prog="lab.py", add_help=False, allow_abbrev=False)
    parser.add_argument("--port", type=int)
    options, rest = parser.parse_known_args(arguments)
    if options.port is not None:
        check_port(options.port)
        rest += [
            f"--ServerApp.port={options.port}",
            "--ServerApp.port_retries=0",
        ]  # 0: no other one silently
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        rest.append(
            "--allow-root"
        )  # the usual user of a container; the server listens on this machine only
    python, settings = environment(), ROOT / ".jupyter"
    if workspace.make(ROOT):
        print(f"Your own copies of the lessons are in {workspace.FOLDER}/.", flush=True)
    # Settings that a learner changes, and the open tabs, stay with the course, apart from other
    # projects'.
    env = clean_environment(
        JUPYTER_CONFIG_PATH=str(settings), JUPYTER_CONFIG_DIR=str(settings / "user")
    )
    names = [str(path) for path in lessons()]
    if names:  # JupyterLab shows stored SVG only of notebooks that were signed on this machine
        subprocess.run([python, "-m", "nbformat.sign", *names], env=env, stdout=subprocess.DEVNULL)
    return run(
        [
            python,
            "-m",
            "jupyterlab",
            f"--ServerApp.root_dir={ROOT}",
            f"--LabApp.default_url=/lab/tree/{workspace.FOLDER}/00_start_here.ipynb",
            *rest,
        ],
        env,
    )


def lessons() -> list[Path]:
    """The lesson notebooks in their order."""
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def test(arguments: list[str]) -> int:
    """Run the unit tests and every lesson against its stored outputs; pytest gets other
    `arguments`.

    One pytest for both, so that its last line counts everything. nbval runs the cells, and
    conftest.py compares what they show. Two processes, all cells of a notebook in one.
    """
    parser = argparse.ArgumentParser(prog="lab.py test", add_help=False, allow_abbrev=False)
    parser.add_argument("--machine")
    parser.add_argument("--lessons", action="store_true")
    parser.add_argument("--gpu", action="store_true")
    options, arguments = parser.parse_known_args(arguments)
    if options.gpu and options.lessons:
        sys.exit("The lessons' stored outputs are a CPU's: give --gpu or --lessons, not both.")
    machine = imitation(options.machine) if options.machine else {}
    if machine:
        print(f"Imitating {options.machine}: {machine}. {NOT_IMITATED}", flush=True)
    python = environment()
    named = any(
        Path(argument).parts[:1] in (("tests",), ("notebooks",)) and before not in ("-k", "-m")
        for before, argument in zip(["", *arguments], arguments)
    )
    chosen = [] if named or options.gpu else lessons()
    settings = REPRODUCIBLE | machine | {"LESSON_NOTEBOOKS": os.pathsep.join(map(str, chosen))}
    if options.gpu:
        del settings["CUDA_VISIBLE_DEVICES"]  # as it is outside: all GPUs, or somebody's choice
    tests = [] if named or options.lessons else ["tests"]
    options_of_nbval = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=300"]
    return run(
        [
            python,
            "-m",
            "pytest",
            "-n",
            "2",
            "--dist",
            "loadscope",
            *options_of_nbval,
            *arguments,
            *tests,
            *map(str, chosen),
        ],
        clean_environment(**settings),
    )


def reset(numbers: list[str]) -> int:
    """Lessons afresh in my_course/; the learner's copies are kept beside them."""
    for number in numbers or sys.exit("Say which lesson, for example: python3 lab.py reset 03"):
        try:
            print(workspace.reset(ROOT, number))
        except LookupError as error:
            sys.exit(str(error))
    return 0


def update(_: list[str]) -> int:
    """Bring a newer course into my_course/; what the learner wrote stays."""
    print("\n".join(workspace.update(ROOT)) or "Your lessons are those of this course already.")
    return 0


def progress(_: list[str]) -> int:
    """What is solved and guessed, lesson by lesson."""
    print(workspace.progress(ROOT))
    return 0


def book(arguments: list[str]) -> int:
    """Build the course as static pages; tools/book.py says how."""
    command = [environment(), "tools/book.py", "build", *arguments]
    return run(command, clean_environment())


def main(arguments: list[str]) -> int:
    """Run the command that `arguments` name; without one, open JupyterLab."""
    commands = {
        "lab": lab,
        "test": test,
        "reset": reset,
        "update": update,
        "progress": progress,
        "book": book,
    }
    asked = (
        arguments[1:2] if arguments[:1] in (["reset"], ["update"], ["progress"]) else arguments[:1]
    )
    if asked in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    if not arguments or arguments[0].startswith("-"):
        return lab(arguments)
    if arguments[0] not in commands:
        sys.exit(f"There is no command {arguments[0]!r}.\n{__doc__}")
    return commands[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
