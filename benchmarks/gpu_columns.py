"""Training steps on a GPU, a column in a process of its own, as `gpu_speed` starts it:

    python -m benchmarks.gpu_columns COLUMN --setting JSON --out FILE

Pictures a second, two kinds in turns on one card, "ours" beside "theirs":

    shipped     `training.step.one_step`, as `train` calls it, of pictures on the device; beside it
                torchvision as it is shipped: float32, its own layout and optimizer loop
    tuned       the same; beside it torchvision in half precision, channels_last, with the fused
                optimizer and the algorithms that cuDNN finds fastest
    scratch     the same of the network that trains from scratch, with its norms (RetinaNet: group,
                SSD: batch); beside it the step of `shipped` and `tuned`, whose norms are constants
    loader_memory, loader_workers    `train` itself, fed from real pictures; beside it its step
    compiled    the step with the network compiled; beside it torchvision tuned, its backbone and
                head compiled. `train` does not compile
    graph       the step as one CUDA graph; beside it the step. `train` makes no graph

Numbers:

    synchronisations    how often a step makes the host wait for the GPU
    memory_rehearsed, memory_measured   GiB, of `rehearsal`, and of torch.cuda.max_memory_allocated

What does not work is a word that says why.
"""

import argparse
import json
import textwrap
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.utils.data import get_worker_info

from benchmarks.run import _models, scene
from benchmarks.timing import in_turns
from lesson_lib.data.catalog import open_dataset
from lesson_lib.data.feed import MOST_WORKERS
from lesson_lib.data.objects import Objects
from lesson_lib.detectors.retinanet import RETINANET_CONFIGS, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD_CONFIGS, SSDConfig
from lesson_lib.files import write_whole
from lesson_lib.training.distributed import algorithms_chosen
from lesson_lib.training.loop import train
from lesson_lib.training.recipes import MODELS, Recipe, build_model, overridden
from lesson_lib.training.rehearsal import GIB, HALF, step_costs
from lesson_lib.training.step import one_step
from lesson_lib.training.update import Update

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
NEEDS_CUDA = "needs CUDA"
#: Of which model the trainings from scratch are.
FULL = {"ssd": "ssd300-vgg16", "retina": "retinanet-r50"}
#: Each kind is timed for so long at least; on the CPU the script is only tried.
SECONDS = 5.0 if ON_GPU else 0.0
#: Steps before the clock starts: torch, cuDNN and the allocator find what they then keep.
WARM_UP = 3 if ON_GPU else 0
BACKEND = "inductor" if ON_GPU else "eager"  # which compiles nothing, and needs no compiler
#: A rate so low that the weights stay, and with them the work of a step.
RECIPE = Recipe(optimizer="sgd", lr=1e-9, schedule="constant", warmup=0, clip=0, augment="photos")
Pair = dict[str, float]  # "ours", "theirs": images/s; "ratio": ours by theirs; "noise": A/A
Column = Pair | float | str
Step = Callable[[], Any]


class Setting(NamedTuple):
    """Which model and pictures; steps: of one turn; turns: at least so many; data: what the loader
    reads; precision: "bf16" or "fp16".
    """

    kind: str
    side: int
    batch: int
    steps: int
    turns: int
    data: str
    precision: str = "bf16"

    @property
    def recipe(self) -> Recipe:
        return replace(RECIPE, size=self.side, batch=self.batch, precision=self.precision)


# ---- the steps ----


def theirs(setting: Setting, tuned: bool, compile_: bool = False) -> Step:
    """torchvision's training step; compile_: its backbone and head, as its caller can."""
    model, _ = _models(setting.kind, setting.side)
    layout = torch.channels_last if tuned else torch.contiguous_format
    model = model.to(DEVICE).to(memory_format=layout)
    images = pictures(setting).to(memory_format=layout)
    truth = [{k: v.to(DEVICE) for k, v in t.items()} for t in scene(setting.batch, setting.side)]
    fused = True if tuned else None
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9, fused=fused)
    half = HALF[setting.precision]
    scaler = GradScaler(DEVICE.type, enabled=tuned and half == torch.float16)
    if compile_:
        model.backbone = torch.compile(model.backbone, backend=BACKEND)
        model.head = torch.compile(model.head, backend=BACKEND)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, half, tuned), algorithms_chosen(tuned):
            losses = model(list(images), truth)
        total: Tensor = sum(losses.values())
        with algorithms_chosen(tuned):
            scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def library(
    setting: Setting,
    network_of: Callable[[Any], Any] = lambda model: model,
    model_of: Callable[[Setting], Any] | None = None,
) -> Step:
    """The library's own step, as `train` calls it; network_of: what stands for the model in it;
    model_of: None: `ours`.
    """
    model, recipe = (model_of or ours)(setting), setting.recipe
    shift = int(setting.kind == "ssd")  # torchvision's labels of SSD count the background
    truth = [t | {"labels": t["labels"] - shift} for t in scene(setting.batch, setting.side)]
    objects = Objects.of(truth).to(DEVICE)
    update, anchors = Update(model, recipe), model.anchors(setting.side, DEVICE)
    update.prepare(1, recipe.lr)
    network, images = network_of(model), pictures(setting)
    return partial(one_step, network, model, images, objects, anchors, update, recipe)


def ours(setting: Setting) -> Any:
    """The library's model with torchvision's weights."""
    return _models(setting.kind, setting.side)[1].to(DEVICE)


def from_scratch(setting: Setting) -> Any:
    """The model that trainings from scratch train, with as many classes."""
    config, _ = overridden(MODELS[FULL[setting.kind]], setting.recipe, ("pretrained=false",))
    model = build_model(config, config_of(setting).num_classes, setting.side).to(DEVICE)
    return model.to(memory_format=torch.channels_last)


def config_of(setting: Setting) -> SSDConfig | RetinaNetConfig:
    """The measured model's."""
    ssd = setting.kind == "ssd"
    return SSD_CONFIGS["torchvision-300"] if ssd else RETINANET_CONFIGS["torchvision"]


def pictures(setting: Setting) -> Tensor:
    return torch.rand(setting.batch, 3, setting.side, setting.side, device=DEVICE)


def compiled(setting: Setting) -> Step:
    def network_of(model: nn.Module) -> Any:
        return torch.compile(model, backend=BACKEND)

    return library(setting, network_of)


def graphed(step: Step) -> Step:
    """The whole step, forward, backward and update, as one CUDA graph.

    The graph reads and writes what the step holds (model, pictures, optimizer) where it lies, and
    keeps none of it: what is returned does.
    """
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(held: Step = step) -> None:
        graph.replay()

    return replay


# ---- how they are timed ----


def wait() -> None:
    """For the GPU, where there is one."""
    if ON_GPU:
        torch.cuda.synchronize()


def several(step: Step, count: int) -> None:
    for _ in range(count):
        step()


def beside(
    setting: Setting, mine: Callable[[Setting], Step], other: Callable[[Setting], Step]
) -> Pair:
    """Both steps in turns of several, which the host may run ahead of as in a training."""
    steps = mine(setting), other(setting)
    for step in steps:
        several(step, WARM_UP)
    turns = (partial(several, step, setting.steps) for step in steps)
    found = in_turns(*turns, setting.turns, wait, 3 * SECONDS)
    count = setting.batch * setting.steps
    return {
        "ours": count / found.ours,
        "theirs": count / found.theirs,
        "ratio": found.ratio,
        "noise": found.noise,
    }


def rate(setting: Setting, step: Step) -> float:
    """Images/s of a step."""
    several(step, WARM_UP)
    wait()
    start, turns = time.perf_counter(), 0
    while turns < setting.turns or time.perf_counter() - start < SECONDS:
        several(step, setting.steps)
        turns += 1
        wait()
    return setting.batch * setting.steps * turns / (time.perf_counter() - start)


def fed(setting: Setting, cache: str) -> Pair:
    """`train` from real pictures, beside its step before and after."""
    step = library(setting)
    before = rate(setting, step)
    found = fed_rate(setting, cache)
    after = rate(setting, step)
    synthetic = (before + after) / 2
    noise = max(before / after, after / before)
    return {"ours": found, "theirs": synthetic, "ratio": found / synthetic, "noise": noise}


def fed_rate(setting: Setting, cache: str) -> float:
    """Images/s of `train`, from real pictures, between two of its records.

    Worker processes read ahead: while the first steps take long, two batches for each worker pile
    up, which then go faster than pictures are read. So pictures count that were trained on, or
    read in the same time, whichever are fewer.
    """
    samples = CountedReads(real_pictures(setting))
    count = min(setting.batch, len(samples))
    workers = -1 if ON_GPU else 1
    recipe = replace(setting.recipe, cache=cache, workers=workers, stored=2, steps=10**9)
    records = train(ours(setting), samples, recipe, every=setting.steps)
    first = next(record["step"] for record in records if record["step"] > 2 * WARM_UP)
    start, read, seconds = time.perf_counter(), samples.read(), 0.0
    # More batches than can have piled up, so that some are read meanwhile.
    least, trained = 3 * setting.steps * setting.turns, 0.0
    for record in records:
        seconds, trained = time.perf_counter() - start, record["step"] - first
        if trained >= least and seconds >= SECONDS:
            break
    read = samples.read() - read
    trained *= count
    return (min(trained, read) if cache == "workers" else trained) / seconds


class CountedReads:
    """A data set that counts how many of its pictures were read, by all processes together."""

    def __init__(self, samples: Any):
        self.samples = samples
        self.reads = torch.zeros(MOST_WORKERS, dtype=torch.int64).share_memory_()

    def read(self) -> int:
        return int(self.reads.sum())

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        worker = get_worker_info()
        self.reads[0 if worker is None else worker.id] += 1  # its own place: nobody else writes it
        return self.samples[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "samples":  # what a copy in another process lacks yet
            raise AttributeError(name)
        return getattr(self.samples, name)


def real_pictures(setting: Setting) -> Any:
    if setting.data == "smears":
        return open_dataset("smears", "train", count=2, size=setting.side)
    return open_dataset(setting.data, "trainval")


# ---- what else a step does ----


def synchronisations(setting: Setting) -> float:
    """In one step, when all that is made once is made."""
    step = library(setting)
    step()
    step()
    return waits_of(step)


def waits_of(step: Step) -> int:
    """How often torch sees the host wait for the GPU in a step."""
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return sum("called a synchronizing" in str(warning.message) for warning in seen)


def memory_measured(setting: Setting) -> float:
    """GiB at the fullest moment of a step, of this step alone."""
    before = torch.cuda.memory_allocated()
    step = library(setting)
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / GIB


def memory_rehearsed(setting: Setting) -> float:
    """GiB of the same step, as `rehearse` says, without CUDA's own context."""
    config = config_of(setting)
    costs = step_costs(config, config.num_classes, setting.side, setting.precision)
    memory = costs.memory(setting.batch, setting.recipe.optimizer)
    return (memory.total - memory.context) / GIB


# ---- the columns ----


def on_a_gpu(column: Callable[[Setting], Column]) -> Callable[[Setting], Column]:
    """The column where there is CUDA, else a word."""
    return lambda setting: column(setting) if ON_GPU else NEEDS_CUDA


#: In the order in which they are measured: what is likeliest to fail comes last.
COLUMNS: dict[str, Callable[[Setting], Column]] = {
    "shipped": lambda s: beside(s, library, partial(theirs, tuned=False)),
    "tuned": lambda s: beside(s, library, partial(theirs, tuned=True)),
    "scratch": lambda s: beside(s, partial(library, model_of=from_scratch), library),
    "loader_memory": partial(fed, cache="memory"),
    "loader_workers": partial(fed, cache="workers"),
    "synchronisations": on_a_gpu(synchronisations),
    "memory_rehearsed": memory_rehearsed,
    "memory_measured": on_a_gpu(memory_measured),
    "compiled": lambda s: beside(s, compiled, partial(theirs, tuned=True, compile_=True)),
    "graph": on_a_gpu(lambda s: beside(s, lambda s: graphed(library(s)), library)),
}


def measured(name: str, setting: Setting) -> Column:
    """A column. What does not work here is a finding: the error's first line, in short."""
    try:
        with algorithms_chosen(True):
            found = COLUMNS[name](setting)
    except Exception as error:  # whatever a driver or a compiler says
        traceback.print_exc()
        said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return textwrap.shorten(said.replace("|", "/"), 200, placeholder=" ...")
    if isinstance(found, dict):
        return {part: _short(value) for part, value in found.items()}
    return found if isinstance(found, str) else _short(found)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures one column and writes it as JSON."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu_columns")
    p.add_argument("column", choices=COLUMNS)
    p.add_argument("--setting", required=True, help="the fields of Setting, a JSON list")
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args(arguments)
    found = measured(args.column, Setting(*json.loads(args.setting)))
    write_whole(args.out, json.dumps(found).encode())


if __name__ == "__main__":
    main()
