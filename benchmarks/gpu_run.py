"""Everything that wants a GPU, in one restartable script:

    LESSON_DATASETS=DIR python -m benchmarks.gpu_run [--out results/gpu] [--minutes 9] [--seeds 0]
    [--small]

measures training steps against torchvision (`gpu_speed`), trains SSD300-VGG16 and
RetinaNet-R50-FPN from scratch on BCCD and aquarium and evaluates them on the test split, both by
the command line's own commands. Run it again until it says "all done": it stops within --minutes,
with the state saved, and goes on from there; each time it comes further, however short the time.
What is done stands in OUT/*.json and is not done again; `tools/record.py readme` puts it into
README.md, and `course.plans` gives it to lessons 10 and 11. --small is the same at toy size, on
smears, for a machine without a GPU.
"""

import argparse
import io
import json
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu_speed import Asked, Setting, row, speed_part
from lesson_lib import cli
from lesson_lib.config import hardware
from lesson_lib.files import write_whole
from tools.record import curve

SIZES = {"ssd300-vgg16": 300, "retinanet-r50": 512}
SAVE_EVERY = 200  # steps, if the time does not end before
#: Of GPU.md's table: what the test split shall say, (must, aim).
REACH = {
    "bccd": {"AP": Asked(0.60, 0.66), "AP50": Asked(0.91, 0.93)},
    "aquarium": {"AP50": Asked(0.50, 0.65)},
}


class Training(NamedTuple):
    """One training by the command line; settings: FIELD=VALUE, what differs from recipe any-gpu."""

    model: str
    data: str
    seed: int
    settings: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.model}-{self.data}-{self.seed}"

    def train(self, folder: Path) -> list[str]:
        """What follows `python -m lesson_lib`."""
        changes = [word for setting in self.settings for word in ("--set", setting)]
        choice = ["--data", self.data, "--model", self.model, "--recipe", "any-gpu", *changes]
        return ["train", *choice, "--seed", str(self.seed), "--out", str(folder)]

    def evaluate(self, folder: Path) -> list[str]:
        return ["evaluate", str(folder), "--data", self.data, "--split", "test", "--json"]


def trainings(small: bool, seeds: Sequence[int]) -> list[Training]:
    """All of them; from random weights, with the norm that then learns."""
    if small:
        changes = ("pretrained=false", "size=96", "batch=4", "steps=16", "lr=4e-3")
        models = "ssd-tiny", "retinanet-tiny"
        return [
            Training(m, "smears", s, (*changes, "augment=smears")) for s in seeds for m in models
        ]
    augments = {"bccd": "smears", "aquarium": "photos"}
    return [
        Training(model, data, seed, ("pretrained=false", f"size={size}", f"augment={augment}"))
        for seed in seeds
        for data, augment in augments.items()
        for model, size in SIZES.items()
    ]


def train_part(training: Training, out: Path, small: bool, deadline: float) -> bool:
    """Goes on with one training until it is done (True, its figures are written) or the time is up
    (False): then one step more than before is done and saved at least.
    """
    folder = out / "runs" / training.name
    train, evaluate = training.train(folder), training.evaluate(folder)
    minutes = max(0.0, deadline - time.monotonic()) / 60
    command(*train, "--save-every", str(SAVE_EVERY), "--minutes", f"{minutes:.4f}")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    step, steps = log[-1]["step"], log[-1]["steps"]
    if step < steps:
        print(f"{training.name}: step {step} of {steps}; run it again to go on", flush=True)
        return False
    with redirect_stdout(io.StringIO()) as said:
        command(*evaluate)
    figures = json.loads(said.getvalue().splitlines()[-1])
    figures = {name: round(x, 4) for name, x in figures.items() if isinstance(x, float)}
    print(f"{training.name}, test: {figures}", flush=True)
    write(
        out / f"{training.name}.json",
        {
            "name": f"gpu-{training.data}-{training.model}",
            "told": f"{training.data}, {training.model} from scratch",
            "small": small,
            "seed": training.seed,
            "train": f"python -m lesson_lib {shlex.join(train)}",
            "evaluate": f"python -m lesson_lib {shlex.join(evaluate)}",
            "seconds": round(log[-1]["seconds"]),
            "figures": figures,
            "curve": curve(log),
            "rows": [
                row(f"{training.data} test {key}, {training.model}", figures[key], asked)
                for key, asked in REACH.get(training.data, {}).items()
            ],
        },
    )
    return True


def command(*arguments: str) -> None:
    """`python -m lesson_lib ARGUMENTS` in this process. RuntimeError where it fails."""
    if cli.main(arguments):
        raise RuntimeError(f"python -m lesson_lib {shlex.join(arguments)} failed, see above.")


def write(file: Path, content: dict[str, Any]) -> None:
    """All of it or nothing, with the machine and the date."""
    about = {
        "machine": hardware(),
        "torch": torch.__version__.split("+")[0],
        "date": time.strftime("%Y-%m-%d"),
    }
    write_whole(file, (json.dumps(about | content, indent=1) + "\n").encode())


def jobs(out: Path, small: bool, seeds: Sequence[int]) -> list[Callable[[float], bool]]:
    """What is not done yet. Each does a part of it until a deadline, and says whether that was the
    rest.
    """
    settings = (
        [Setting("ssd", 300, 1, 1, "smears"), Setting("retina", 64, 1, 1, "smears")]
        if small
        else [Setting("ssd", 300, 64, 20, "bccd"), Setting("retina", 800, 32, 20, "bccd")]
    )
    left: list[Callable[[float], bool]] = []
    for setting in settings:
        file = out / f"speed-{setting.kind}.json"
        known = json.loads(file.read_text())["columns"] if file.exists() else {}
        if left_out := setting.lacking(known):
            keep = partial(write, file)
            left.append(partial(speed_part, setting, small, known, left_out, keep))
    for training in trainings(small, seeds):
        if not (out / f"{training.name}.json").exists():
            left.append(partial(train_part, training, out, small))
    return left


def main(arguments: Sequence[str] | None = None) -> bool:
    """Does what is left, as far as the time goes; True when nothing is left."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_run", description=__doc__.partition("\n")[0]
    )
    p.add_argument(
        "--out", type=Path, help="default: results/gpu; with --small runs/gpu, which no page shows"
    )
    p.add_argument("--minutes", type=float, default=9.0, help="stop in time for a limit of ten")
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--small", action="store_true")
    args = p.parse_args(arguments)
    deadline = time.monotonic() + 60 * args.minutes
    if not torch.cuda.is_available() and not args.small:
        p.error("there is no CUDA here; --small tries the script at toy size.")
    out = args.out or Path("runs/gpu" if args.small else "results/gpu")
    for number, job in enumerate(jobs(out, args.small, args.seeds)):
        if number and time.monotonic() > deadline:
            return False
        if not job(deadline):
            return False
    print("all done", flush=True)
    return True


if __name__ == "__main__":
    raise SystemExit(not main())
