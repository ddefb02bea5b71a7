"""Training steps on a GPU against torchvision: the columns of `gpu_columns`, and the table of what
was to be reached.

Each column is measured in a process of its own. One that fails, kills its process or spoils the
device costs no other; it is said in a sentence, stands in the file as a word, and is tried again
the next time, after all that was never tried.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu_columns import COLUMNS, NEEDS_CUDA, Column, Setting, config_of
from lesson_lib.config import hardware
from lesson_lib.files import write_whole
from lesson_lib.training.gpus import Gpu
from lesson_lib.training.rehearsal import step_costs

ROOT = Path(__file__).resolve().parents[1]
NAMES = {"ssd": "SSD300-VGG16", "retina": "RetinaNet-R50"}
MODULE = "benchmarks.gpu_columns"  # what is started for a column
#: A column that takes longer hangs: its process is stopped.
MOST_MINUTES = 15
#: GiB. A GPU with as much holds the batches as they are.
ROOMY = 75


class Card(NamedTuple):
    """The GPU here: its name, GiB, and compute capability."""

    name: str
    memory: float
    capability: tuple[int, int]

    @property
    def precision(self) -> str:
        """The half precision that it calculates in itself; before Ampere that is fp16 alone."""
        return "bf16" if self.capability >= (8, 0) else "fp16"

    @property
    def judged(self) -> bool:
        """Whether it is one of those whose speed was asked for."""
        return any(name in self.name for name in ("H100", "H200"))

    def gpu(self, share: float) -> Gpu:
        """As `rehearsal` takes one, with a share of its memory."""
        return Gpu(self.name, share * self.memory, {}, {}, {})


def card() -> Card | None:
    """The first GPU; None without CUDA."""
    if not torch.cuda.is_available():
        return None
    about = torch.cuda.get_device_properties(0)
    return Card(about.name, about.total_memory / 2**30, (about.major, about.minor))


def settings(small: bool, gpu: Card | None) -> list[Setting]:
    """What is measured; on a GPU before Ampere in fp16, and in batches that fit."""
    if small or gpu is None:
        return [
            Setting("retina", 64, 1, 1, 1, "smears"),
            Setting("ssd", 300, 2, 1, 1, "smears"),  # two: batch norm of a map with one position
        ]
    full = [Setting("ssd", 300, 64, 10, 5, "bccd"), Setting("retina", 800, 32, 10, 5, "bccd")]
    return [fitting(setting._replace(precision=gpu.precision), gpu) for setting in full]


def fitting(setting: Setting, gpu: Card) -> Setting:
    """The same in the largest batch that fits, halved until it does: in float32, and with half as
    much again for torchvision, whose steps hold more.
    """
    if gpu.memory >= ROOMY:
        return setting
    config = config_of(setting)
    costs = step_costs(config, config.num_classes, setting.side)
    largest = costs.largest_batch(gpu.gpu(1 / 1.5))
    batch = setting.batch
    while batch > max(1, largest):
        batch //= 2
    return setting._replace(batch=batch)


# ---- what is asked ----


class Asked(NamedTuple):
    """What a figure shall come to; most: it shall be no more than that, else no less."""

    must: float
    aim: float
    most: bool = False


#: Images/s of a training step, on an H100 or H200.
RATES = {"ssd": Asked(1200, 1800), "retina": Asked(300, 400)}


def row(what: str, found: Column, asked: Asked | None) -> dict[str, Any]:
    """A line of the table of what was to be reached, for a JSON file; asked: None: nothing was."""
    must, aim, holds = None, None, None
    if asked is not None:
        must, aim = asked.must, asked.aim
        if isinstance(found, int | float):
            holds = found <= must if asked.most else found >= must
    return {"what": what, "found": found, "must": must, "aim": aim, "holds": holds}


def rows(
    setting: Setting, columns: Mapping[str, Column], judged: bool = True
) -> list[dict[str, Any]]:
    """What was to be reached, of the columns that are known.

    judged: whether the GPU is one whose speed was asked for; what does not depend on the GPU is
    judged on each.
    """

    def of(column: str, part: str) -> float | str:
        found = columns.get(column, "not measured")
        return found[part] if isinstance(found, dict) else found

    name = NAMES[setting.kind]
    step = f"{name}, {setting.side} px, batch {setting.batch}, {setting.precision}"
    tuned = "tuned" if isinstance(columns.get("tuned"), dict) else "shipped"
    speed = [
        (f"{step}, training, images/s", of(tuned, "ours"), RATES[setting.kind]),
        (f"{name}, times torchvision tuned the same way", of("tuned", "ratio"), Asked(1.7, 2.3)),
        (f"{name}, times torchvision as shipped", of("shipped", "ratio"), Asked(3.5, 5)),
        (f"{step}, training with norms from scratch, images/s", of("scratch", "ours"), None),
        (f"{name}, compiled, times torchvision compiled", of("compiled", "ratio"), None),
        (f"{name}, one CUDA graph (not in train), times train's step", of("graph", "ratio"), None),
    ]
    speed += [
        (
            f"{name}, real loader ({way}) behind synthetic input, %",
            _behind(of(f"loader_{way}", "theirs"), of(f"loader_{way}", "ours")),
            Asked(5, 2, most=True),
        )
        for way in ("memory", "workers")
    ]
    off = _behind(of("memory_measured", ""), of("memory_rehearsed", ""))
    off = off if isinstance(off, str) else abs(off)
    always = [
        (f"{name}, host synchronisations in a step", of("synchronisations", ""), Asked(0, 0, True)),
        (f"{name}, rehearsed memory off the measured, %", off, Asked(15, 5, most=True)),
    ]
    found = [row(what, value, asked if judged else None) for what, value, asked in speed]
    return found + [row(*one) for one in always]


def _behind(a: float | str, b: float | str) -> float | str:
    """How much less b is than a, in percent of a; the word of whichever is none."""
    if isinstance(a, str) or isinstance(b, str):
        return a if isinstance(a, str) else b
    return float(f"{100 * (1 - b / a):.3g}")


# ---- measuring, and what is kept ----


def has_failed(found: Column) -> bool:
    """Whether a column is a word for a failure; that there is no CUDA here is none."""
    return isinstance(found, str) and found != NEEDS_CUDA


def here() -> dict[str, str]:
    """Where a figure is measured."""
    return {"machine": hardware(), "torch": torch.__version__.split("+")[0]}


def write(file: Path, content: dict[str, Any]) -> None:
    """All of it or nothing, with the machine and the date."""
    about = here() | {"date": time.strftime("%Y-%m-%d")}
    write_whole(file, (json.dumps(about | content, indent=1) + "\n").encode())


def speed_file(out: Path, setting: Setting) -> Path:
    return out / f"speed-{setting.kind}.json"


def measured_of(setting: Setting, small: bool) -> dict[str, Any]:
    """What the columns of a file are of."""
    about = {"kind": setting.kind, "side": setting.side, "batch": setting.batch}
    about |= {"precision": setting.precision, "classes": config_of(setting).num_classes}
    return about | {"small": small}


def known_columns(out: Path, setting: Setting, small: bool) -> dict[str, Column]:
    """What the file holds that is of this machine and setting: figures of two make no ratio."""
    file = speed_file(out, setting)
    if not file.exists() or of_another(out, setting, small):
        return {}
    return json.loads(file.read_text(encoding="utf-8"))["columns"]


def of_another(out: Path, setting: Setting, small: bool) -> str:
    """A sentence where the file was measured on another machine, with another torch or of something
    else; "" where it was not, or there is none.
    """
    file = speed_file(out, setting)
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    for name, value in (here() | measured_of(setting, small)).items():
        if found is not None and found.get(name) != value:
            return (
                f"{file} is of another {name} ({found.get(name)}, here {value}): all of it is "
                "measured anew; give another --out to keep it."
            )
    return ""


def speed_part(
    out: Path, setting: Setting, small: bool, names: Sequence[str], deadline: float
) -> bool:
    """Measures the named columns and keeps each at once; False when the time is up before the last:
    then one more than before has been tried at least.
    """
    gpu = card()
    for number, name in enumerate(names):
        if number and time.monotonic() > deadline:
            return False
        log = out / "runs" / "logs" / f"{setting.kind}-{name}.txt"
        found = in_a_process(name, setting, log)
        known = known_columns(out, setting, small)
        known.pop(name, None)  # what failed before, and is measured now, comes last
        known |= {name: found}
        failed = f"failed, and is tried again the next time; see {log}: " * has_failed(found)
        print(f"{NAMES[setting.kind]}, {name}: {failed}{_told(found)}", flush=True)
        judged = gpu is not None and gpu.judged
        about = measured_of(setting, small) | {"columns": known}
        write(speed_file(out, setting), about | {"rows": rows(setting, known, judged)})
    return True


def _told(found: Column) -> str:
    if not isinstance(found, dict):
        return str(found)
    rates = f"{found['ours']:g} images/s beside {found['theirs']:g}"
    return f"{rates}, {found['ratio']:g} times (A/A {found['noise']:g})"


def in_a_process(name: str, setting: Setting, log: Path) -> Column:
    """A column, measured in a process of its own; a sentence where that ended without.

    log: where all goes that the process says.
    """
    result = log.with_suffix(".json")
    log.parent.mkdir(parents=True, exist_ok=True)
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", MODULE, name]
    command += ["--setting", json.dumps(setting), "--out", str(result)]
    with log.open("wb") as said:
        try:
            done = subprocess.run(
                command,
                stdout=said,
                stderr=said,
                env=environment(log.parents[1]),
                timeout=60 * MOST_MINUTES,
            )
        except subprocess.TimeoutExpired:
            return f"It was stopped after {MOST_MINUTES} minutes."
    if not result.exists():
        return f"Its process ended with {_status(done.returncode)}."
    return json.loads(result.read_text(encoding="utf-8"))


def _status(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"status {code}"


def environment(runs: Path) -> dict[str, str]:
    """Of a process of its own: it finds this checkout, and leaves what it compiles under `runs`."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    compiled = str((runs / "compiled").absolute())
    return {"TORCHINDUCTOR_CACHE_DIR": compiled} | os.environ | {"PYTHONPATH": path}


def columns_left(out: Path, setting: Setting, small: bool) -> tuple[list[str], list[str]]:
    """The columns that were never tried, and those that failed."""
    known = known_columns(out, setting, small)
    failed = [name for name in COLUMNS if name in known and has_failed(known[name])]
    return [name for name in COLUMNS if name not in known], failed
