"""Everything that wants a GPU, in one restartable script:

    LESSON_DATASETS=DIR python -m benchmarks.gpu_run [--out results/gpu] [--minutes 7] [--seeds 0]
    [--small]

measures training steps against torchvision (`gpu_speed`), trains SSD300-VGG16 and
RetinaNet-R50-FPN from scratch on BCCD and aquarium and evaluates them on the test split, both by
the command line's own commands. Run it again until it says "all done": it stops within --minutes,
with the state saved, and goes on from there; each time it comes further, however short the time.
What is done stands in OUT/*.json and is not done again; `tools/record.py readme` puts it into
README.md, and `course.plans` gives it to lessons 10 and 11. What fails costs nothing else: it is
said in a sentence, and tried again the next time, after all the rest.

How long a part may take: --minutes are looked at between two columns of `gpu_speed`, and after each
step of a training. A column that has begun is finished, in one to three minutes, or about five
where torch compiles (after gpu_speed.MOST_MINUTES it is stopped as hanging); a training that has
come to its end is evaluated, a minute; starting a process takes up to half a minute more. So under
a hard limit of ten minutes take --minutes 5; what is cut off all the same is only done again.

All that is written lies in --out: figures in OUT/*.json, and in OUT/runs the checkpoints (300 to
500 MB each), what the columns said (logs) and what was compiled. To go on elsewhere, copy all of
OUT; on a machine of another kind the speed is measured anew.

--small is the same at toy size, on smears, for a machine without a GPU.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu_speed import (
    ROOMY,
    Asked,
    Card,
    card,
    columns_left,
    environment,
    of_another,
    row,
    settings,
    speed_part,
    write,
)
from lesson_lib.data.catalog import facts
from lesson_lib.files import write_whole
from lesson_lib.training.recipes import MODELS, NAMED, overridden
from lesson_lib.training.rehearsal import ERROR, recipe_costs
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


def trainings(small: bool, seeds: Sequence[int], gpu: Card | None = None) -> list[Training]:
    """All of them, as the GPU can do them; from random weights, with the norm that then learns."""
    if small:
        changes = ("pretrained=false", "size=96", "batch=4", "steps=16", "lr=4e-3")
        models = "ssd-tiny", "retinanet-tiny"
        return [
            Training(m, "smears", s, (*changes, "augment=smears")) for s in seeds for m in models
        ]
    augments = {"bccd": "smears", "aquarium": "photos"}
    found = [
        Training(model, data, seed, ("pretrained=false", f"size={size}", f"augment={augment}"))
        for seed in seeds
        for data, augment in augments.items()
        for model, size in SIZES.items()
    ]
    return found if gpu is None else [for_card(training, gpu) for training in found]


def for_card(training: Training, gpu: Card) -> Training:
    """The same in fp16 where the GPU calculates in no bf16, and in as many parts of a batch as it
    takes to fit beside the decoded pictures.
    """
    own = training.settings
    if gpu.precision == "fp16":
        own += ("precision=fp16",)
    if gpu.memory < ROOMY:
        config, recipe = overridden(MODELS[training.model], NAMED["any-gpu"].recipe, own)
        about = facts(training.data)
        kept = 3 * recipe.stored_side**2 * sum(about["pictures"].values())
        costs = recipe_costs(config, len(about["classes"]), recipe, gpu.precision)
        roomy = gpu.gpu(1 - ERROR)
        largest = costs.largest_batch(roomy, recipe.optimizer, recipe.ema > 0, kept)
        parts = -(-recipe.batch // max(1, largest))
        if parts > 1:
            own += (f"accumulate={parts}",)
    return training._replace(settings=own)


def train_part(training: Training, out: Path, small: bool, deadline: float) -> bool:
    """Goes on with one training until it is done (its figures are written) or has failed, which is
    kept; False where the time is up first: then one step more than before is done and saved at
    least.
    """
    failed = failure_of(training, out)
    failed.unlink(missing_ok=True)
    try:
        return goes_on(training, out, small, deadline)
    except CommandFailed as error:
        write_whole(failed, f"{error}\n".encode())
        print(f"{training.name} failed, and is tried again the next time: {error}", flush=True)
        return True


def failure_of(training: Training, out: Path) -> Path:
    """The file that says that a training failed when it was tried last."""
    return out / "runs" / "logs" / f"{training.name}-failed.txt"


def goes_on(training: Training, out: Path, small: bool, deadline: float) -> bool:
    """The same; CommandFailed where it fails."""
    folder = out / "runs" / training.name
    train, evaluate = training.train(folder), training.evaluate(folder)
    minutes = max(0.0, deadline - time.monotonic()) / 60
    command(out, *train, "--save-every", str(SAVE_EVERY), "--minutes", f"{minutes:.4f}")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    step, steps = log[-1]["step"], log[-1]["steps"]
    if step < steps:
        print(f"{training.name}: step {step} of {steps}", flush=True)
        return False
    figures = json.loads(command(out, *evaluate, listening=True).splitlines()[-1])
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


class CommandFailed(RuntimeError):
    """A command of the command line ended with an error, which it has said itself."""


def command(out: Path, *arguments: str, listening: bool = False) -> str:
    """`python -m lesson_lib ARGUMENTS` in a process of its own -> what it prints, if listened to.

    An error of the GPU ends that process alone, and its memory is free again.
    """
    done = subprocess.run(
        [sys.executable, "-m", "lesson_lib", *arguments],
        stdout=subprocess.PIPE if listening else None,
        env=environment(out / "runs"),
        encoding="utf-8",
    )
    if done.returncode:
        raise CommandFailed(
            f"python -m lesson_lib {shlex.join(arguments)} ended with status {done.returncode}, "
            "see above."
        )
    return done.stdout or ""


def jobs(out: Path, small: bool, seeds: Sequence[int]) -> list[Callable[[float], bool]]:
    """What is not done yet, last of all what failed before. Each does a part of it until a
    deadline, and says whether it came to its end.
    """
    new, failed, gpu = list[Callable[[float], bool]](), list[Callable[[float], bool]](), card()
    for setting in settings(small, gpu):
        untried, again = columns_left(out, setting, small)
        for names, jobs_ in ((untried, new), (again, failed)):
            if names:
                jobs_.append(partial(speed_part, out, setting, small, names))
    for training in trainings(small, seeds, gpu):
        if not (out / f"{training.name}.json").exists():
            jobs_ = failed if failure_of(training, out).exists() else new
            jobs_.append(partial(train_part, training, out, small))
    return new + failed


def main(arguments: Sequence[str] | None = None) -> bool:
    """Does what is left, as far as the time goes; True when nothing is left."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_run", description=__doc__.partition("\n")[0]
    )
    p.add_argument(
        "--out",
        type=Path,
        help="for all that is written; default: results/gpu; with --small runs/gpu, which no page "
        "shows",
    )
    p.add_argument(
        "--minutes",
        type=float,
        default=7.0,
        help="then it stops; the part that has begun may take some more",
    )
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--small", action="store_true")
    args = p.parse_args(arguments)
    deadline, gpu = time.monotonic() + 60 * args.minutes, card()
    if gpu is None and not args.small:
        p.error("there is no CUDA here; --small tries the script at toy size.")
    out = args.out or Path("runs/gpu" if args.small else "results/gpu")
    for setting in settings(args.small, gpu):
        if sentence := of_another(out, setting, args.small):
            print(sentence, flush=True)
    for number, job in enumerate(jobs(out, args.small, args.seeds)):
        if (number and time.monotonic() > deadline) or not job(deadline):
            print("the time is up: run it again to go on", flush=True)
            return False
    if jobs(out, args.small, args.seeds):
        print("done, but for what failed above: run it again to try that again", flush=True)
        return False
    print("all done", flush=True)
    return True


if __name__ == "__main__":
    raise SystemExit(not main())
