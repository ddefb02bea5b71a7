"""Training steps on a GPU, column by column, against torchvision in the same process.

    theirs            torchvision as it is shipped: float32, its own layout and optimizer loop
    theirs_tuned      the same model in bfloat16, channels_last, with the fused optimizer and the
                      algorithms that cuDNN finds fastest: all that its caller can do for it
    library           `training.step.one_step`, as `train` calls it, of pictures on the device
    compiled, graph   the same with the network compiled; as one CUDA graph
    loader_memory, loader_workers     `train` itself, fed from real pictures
    synchronisations  how often a step makes the host wait for the GPU
    memory_rehearsed, memory_measured   GiB, of `rehearsal`, and of torch.cuda.max_memory_allocated

All but the last three are images/s. A column is a number, or a word that says why it is none.
"""

import gc
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.run import CLASSES, _models, scene
from lesson_lib.data.catalog import open_dataset
from lesson_lib.data.objects import Objects
from lesson_lib.training.loop import train
from lesson_lib.training.recipes import Recipe
from lesson_lib.training.rehearsal import GIB, step_costs
from lesson_lib.training.step import one_step
from lesson_lib.training.update import Update

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NEEDS_CUDA = "needs CUDA"
NAMES = {"ssd": "SSD300-VGG16", "retina": "RetinaNet-R50"}
#: A rate so low that the weights stay, and with them the work of a step.
RECIPE = Recipe(
    optimizer="sgd",
    lr=1e-9,
    schedule="constant",
    warmup=0,
    clip=0,
    precision="bf16",
    augment="photos",
)
Column = float | str
Step = Callable[[], Any]


class Setting(NamedTuple):
    """Which model and pictures; rounds: steps that are timed; data: what the loader reads."""

    kind: str
    side: int
    batch: int
    rounds: int
    data: str

    def lacking(self, known: Mapping[str, Column]) -> list[str]:
        """The columns that have not been measured."""
        return [name for name in COLUMNS if name not in known]

    @property
    def recipe(self) -> Recipe:
        return replace(RECIPE, size=self.side, batch=self.batch)


class Asked(NamedTuple):
    """What a figure shall come to; most: it shall be no more than that, else no less."""

    must: float
    aim: float
    most: bool = False


#: Images/s of a training step.
RATES = {"ssd": Asked(1200, 1800), "retina": Asked(300, 400)}


def row(what: str, found: Column, asked: Asked) -> dict[str, Any]:
    """A line of the table of what was to be reached, for a JSON file."""
    holds = None
    if not isinstance(found, str):
        holds = found <= asked.must if asked.most else found >= asked.must
    return {"what": what, "found": found, "must": asked.must, "aim": asked.aim, "holds": holds}


def speed_part(
    setting: Setting,
    small: bool,
    known: dict[str, Column],
    lacking: Sequence[str],
    keep: Callable[[dict[str, Any]], None],
    deadline: float,
) -> bool:
    """Measures what is lacking, and keeps each column at once; True when nothing is lacking, False
    when the time is up: then one column more than before is known at least.
    """
    about = {"kind": setting.kind, "side": setting.side, "batch": setting.batch}
    about |= {"classes": CLASSES, "small": small}
    for number, name in enumerate(lacking):
        if number and time.monotonic() > deadline:
            return False
        known = known | {name: measured(name, setting)}
        print(f"{NAMES[setting.kind]}, {name}: {known[name]}", flush=True)
        keep(about | {"columns": known, "rows": rows(setting, known)})
    return True


def measured(name: str, setting: Setting) -> Column:
    """A column. What does not work here is a finding, not a failure: the error's first line."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
    try:
        with algorithms_chosen(name != "theirs"):
            found = COLUMNS[name](setting)
    except Exception as error:  # whatever a driver or a compiler says
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return found if isinstance(found, str) else float(f"{found:.4g}")


@contextmanager
def algorithms_chosen(wanted: bool) -> Iterator[None]:
    """Whether cuDNN tries its algorithms and takes the fastest, as the command line has it."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def rows(setting: Setting, columns: Mapping[str, Column]) -> list[dict[str, Any]]:
    """What was to be reached, of the columns that are known."""
    name = NAMES[setting.kind]
    ways = [columns[way] for way in ("library", "compiled", "graph") if way in columns]
    best = max((x for x in ways if not isinstance(x, str)), default="nothing ran")
    compared = [
        (f"{name}, {setting.side} px, bf16, training, images/s", best, None, RATES[setting.kind]),
        (
            f"{name}, times torchvision tuned the same way",
            best,
            columns.get("theirs_tuned"),
            Asked(1.7, 2.3),
        ),
        (f"{name}, times torchvision as shipped", best, columns.get("theirs"), Asked(3.5, 5)),
    ]
    found = [row(what, _over(a, b), asked) for what, a, b, asked in compared]
    synthetic = columns.get("library", "not measured")
    for way in ("memory", "workers"):
        what = f"{name}, real loader ({way}) behind synthetic input, %"
        real = columns.get(f"loader_{way}", "not measured")
        found.append(row(what, _behind(synthetic, real), Asked(5, 2, most=True)))
    waits = columns.get("synchronisations", "not measured")
    found.append(row(f"{name}, host synchronisations in a step", waits, Asked(0, 0, most=True)))
    memory = [columns.get(f"memory_{how}", "not measured") for how in ("measured", "rehearsed")]
    off = _behind(*memory)
    off = off if isinstance(off, str) else abs(off)
    found.append(row(f"{name}, rehearsed memory off the measured, %", off, Asked(15, 5, most=True)))
    return found


def _over(a: Column, b: Column | None) -> Column:
    """a / b, or a where there is no b; the word of whichever is none."""
    words = [x for x in (a, b) if isinstance(x, str)]
    if words:
        return words[0]
    return a if b is None else float(f"{float(a) / float(b):.3g}")


def _behind(a: Column, b: Column) -> Column:
    """How much less b is than a, in percent of a."""
    share = _over(b, a)
    return share if isinstance(share, str) else float(f"{100 * (1 - share):.3g}")


# ---- the columns ----


def theirs(setting: Setting, tuned: bool) -> Step:
    """torchvision's training step."""
    model, _ = _models(setting.kind, setting.side)
    layout = torch.channels_last if tuned else torch.contiguous_format
    model = model.to(DEVICE).to(memory_format=layout)
    images = pictures(setting).to(memory_format=layout)
    truth = [{k: v.to(DEVICE) for k, v in t.items()} for t in scene(setting.batch, setting.side)]
    fused = True if tuned else None
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9, fused=fused)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, tuned):
            losses = model(list(images), truth)
        total: Tensor = sum(losses.values())
        total.backward()
        optimizer.step()

    return step


def library(setting: Setting, network_of: Callable[[Any], Any] = lambda model: model) -> Step:
    """The library's own step, as `train` calls it; network_of: what stands for the model in it."""
    model, recipe = ours(setting), setting.recipe
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


def pictures(setting: Setting) -> Tensor:
    return torch.rand(setting.batch, 3, setting.side, setting.side, device=DEVICE)


def rate(setting: Setting, make: Callable[[Setting], Step]) -> Column:
    """Images/s of a step, after three to warm up on a GPU."""
    wait = torch.cuda.synchronize if DEVICE.type == "cuda" else lambda: None
    step = make(setting)
    for _ in range(3 if DEVICE.type == "cuda" else 0):
        step()
    wait()
    start = time.perf_counter()
    for _ in range(setting.rounds):
        step()
    wait()
    return setting.batch * setting.rounds / (time.perf_counter() - start)


def compiled(setting: Setting) -> Step:
    def network_of(model: nn.Module) -> Any:
        return torch.compile(model)

    return library(setting, network_of)


def graphed(step: Step) -> Step:
    """The whole step, forward, backward and update, as one CUDA graph."""
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def fed(setting: Setting, cache: str) -> Column:
    """Images/s of `train`, from real pictures, between its first record and its last."""
    samples = real_pictures(setting)
    count = min(setting.batch, len(samples))
    workers = -1 if DEVICE.type == "cuda" else 1
    recipe = replace(setting.recipe, cache=cache, workers=workers, stored=2)
    recipe = replace(recipe, steps=2 * setting.rounds)
    records = train(ours(setting), samples, recipe, every=setting.rounds)
    first = next(records)["step"]
    start = time.perf_counter()
    last = deque(records, maxlen=1).pop()["step"]
    return count * (last - first) / (time.perf_counter() - start)


def real_pictures(setting: Setting) -> Any:
    if setting.data == "smears":
        return open_dataset("smears", "train", count=2, size=setting.side)
    return open_dataset(setting.data, "trainval")


def synchronisations(setting: Setting) -> Column:
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


def memory_measured(setting: Setting) -> Column:
    """GiB at the fullest moment of a step, of this step alone."""
    before = torch.cuda.memory_allocated()
    step = library(setting)
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / GIB


def memory_rehearsed(setting: Setting) -> Column:
    """GiB of the same step, as `rehearse` says, without CUDA's own context."""
    config = _models(setting.kind, setting.side)[1].config
    costs = step_costs(config, CLASSES, setting.side, setting.recipe.precision)
    memory = costs.memory(setting.batch, setting.recipe.optimizer)
    return (memory.total - memory.context) / GIB


def on_a_gpu(column: Callable[[Setting], Column]) -> Callable[[Setting], Column]:
    """The column where there is CUDA, else a word."""
    return lambda setting: column(setting) if DEVICE.type == "cuda" else NEEDS_CUDA


COLUMNS: dict[str, Callable[[Setting], Column]] = {
    "theirs": partial(rate, make=partial(theirs, tuned=False)),
    "theirs_tuned": partial(rate, make=partial(theirs, tuned=True)),
    "library": partial(rate, make=library),
    "compiled": on_a_gpu(partial(rate, make=compiled)),
    "graph": on_a_gpu(partial(rate, make=lambda setting: graphed(library(setting)))),
    "loader_memory": partial(fed, cache="memory"),
    "loader_workers": partial(fed, cache="workers"),
    "synchronisations": on_a_gpu(synchronisations),
    "memory_rehearsed": memory_rehearsed,
    "memory_measured": on_a_gpu(memory_measured),
}
