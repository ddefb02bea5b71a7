"""Everything that wants a GPU, in one restartable script:

    LESSON_DATASETS=DIR python -m benchmarks.gpu_run --out results/gpu [--minutes 9] [--seeds 0]
    [--small]

trains SSD300-VGG16 and RetinaNet-R50-FPN from scratch (--norm group) on BCCD and aquarium,
evaluates them on the test split, and measures training steps in images/s against torchvision. Run
it again until it says "all done": each part stops within --minutes at a checkpoint and goes on from
it; finished parts stand in OUT/*.json and are not done again. --small is the same at toy size, on
smears, for a machine without a GPU.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.run import CLASSES, _models, scene
from lesson_lib.config import describe_machine
from lesson_lib.data.catalog import open_dataset
from lesson_lib.detectors.ssd import SSD
from lesson_lib.evaluation import coco_evaluate
from lesson_lib.files import write_whole
from lesson_lib.training.loop import predict, train
from lesson_lib.training.recipes import MODELS, NAMED, Recipe, build_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = {"ssd300-vgg16": 300, "retinanet-r50": 512}


def trainings(small: bool, seeds: list[int]) -> list[tuple[str, str, str, int]]:
    """(name, model, data, seed) of every training."""
    models, sets = (
        (("ssd-tiny", "retinanet-tiny"), ("smears",))
        if small
        else (tuple(SIZES), ("bccd", "aquarium"))
    )
    return [
        (f"{model}-{data}-{seed}", model, data, seed)
        for seed in seeds
        for data in sets
        for model in models
    ]


def _recipe(model: str, data: str, seed: int, small: bool) -> Recipe:
    """The recipe of any GPU from random weights; `small`: two epochs of small pictures."""
    recipe = replace(
        NAMED["any-gpu"].recipe,
        size=96 if small else SIZES[model],
        seed=seed,
        augment="photos" if data == "aquarium" else "smears",
        evaluate=10**6,
        pretrained=False,
        backbone_lr=1.0,
    )
    return replace(recipe, epochs=2, batch=4) if small else recipe


def train_part(
    name: str, model: str, data: str, seed: int, out: Path, small: bool, deadline: float
) -> bool:
    """Goes on with one training until it is done (True, its figures are written) or the time is up
    (False).
    """
    options = dict(count=16, size=96) if small else {}
    pictures = open_dataset(data, "train" if data == "smears" else "trainval", **options)
    recipe = _recipe(model, data, seed, small)
    torch.manual_seed(seed)
    network = build_model(
        replace(MODELS[model], norm="group"), len(pictures.classes), recipe.size
    ).to(DEVICE)
    start, checkpoint, last = time.perf_counter(), out / f"{name}.pt", None
    for last in train(
        network, pictures, recipe, checkpoint=checkpoint, save_every=2 if small else 200
    ):
        if time.monotonic() > deadline and last["step"] < last["steps"]:
            print(
                f"{name}: step {last['step']} of {last['steps']}; run it again to go on", flush=True
            )
            return False
    test = open_dataset(data, "test", **options)
    found = predict(network, test, recipe.resizing)
    figures = coco_evaluate(found, [sample.target() for sample in test], len(pictures.classes))
    _write(
        out / f"{name}.json",
        {
            "model": model,
            "norm": "group",
            "data": data,
            "seed": seed,
            "recipe": vars(recipe),
            "loss": last and last["loss"],
            "seconds_of_last_part": round(time.perf_counter() - start, 1),
            "test": {name: value for name, value in figures.items() if isinstance(value, float)},
        },
    )
    return True


def speed(kind: str, side: int, batch: int, rounds: int) -> dict[str, Any]:
    """Images/s of a training step from pictures on the device, theirs and ours, in bfloat16 and
    channels_last.

    Theirs as it is; ours eager, compiled, and as one CUDA graph, each where it works: else the
    error's first line.
    """
    theirs, ours = (
        model.to(DEVICE).to(memory_format=torch.channels_last) for model in _models(kind, side)
    )
    images = torch.rand(batch, 3, side, side, device=DEVICE).to(memory_format=torch.channels_last)
    truth = [{k: v.to(DEVICE) for k, v in target.items()} for target in scene(batch, side)]
    shifted = [t | {"labels": t["labels"] - int(isinstance(ours, SSD))} for t in truth]
    anchors = ours.anchors(side, DEVICE)
    autocast = partial(torch.autocast, DEVICE.type, torch.bfloat16)

    def their_loss() -> Tensor:
        with autocast():
            return sum(theirs(list(images), truth).values())

    def our_loss(network: Callable[[Tensor], Any]) -> Tensor:
        with autocast():
            outputs = network(images)
        return sum(ours.criterion(outputs, anchors, shifted).values())

    ways = {
        "theirs": lambda: stepper(theirs, their_loss),
        "eager": lambda: stepper(ours, partial(our_loss, ours)),
    }
    if DEVICE.type == "cuda":
        ways["compiled"] = lambda: stepper(ours, partial(our_loss, torch.compile(ours)))
        ways["graph"] = lambda: graphed(stepper(ours, partial(our_loss, ours)))
    found: dict[str, Any] = {"kind": kind, "side": side, "batch": batch, "classes": CLASSES}
    for name, make in ways.items():
        try:
            found[name] = float(f"{batch * rounds / seconds(make(), rounds):.3g}")
        except Exception as error:  # a way that does not work here is a finding, not a failure
            found[name] = (
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
    return found


def stepper(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """One training step as a function."""
    cuda = DEVICE.type == "cuda"
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9, fused=cuda or None)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return step


def graphed(step: Callable[[], None]) -> Callable[[], None]:
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


def seconds(step: Callable[[], None], rounds: int) -> float:
    """Of `rounds` steps, after three to warm up."""
    wait = torch.cuda.synchronize if DEVICE.type == "cuda" else lambda: None
    for _ in range(3 if DEVICE.type == "cuda" else 1):
        step()
    wait()
    start = time.perf_counter()
    for _ in range(rounds):
        step()
    wait()
    return time.perf_counter() - start


def _write(file: Path, content: dict[str, Any]) -> None:
    """All of it or nothing, with the machine and the date."""
    about = {"machine": describe_machine(), "date": time.strftime("%Y-%m-%d")}
    write_whole(file, json.dumps(about | content, indent=1).encode())
    print(f"{file.name}: {json.dumps(content.get('test', content), default=str)[:300]}", flush=True)


def main(arguments: list[str] | None = None) -> bool:
    """Does what is left, as far as the time goes; True when nothing is left."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_run", description=__doc__.partition("\n")[0]
    )
    p.add_argument("--out", type=Path, default=Path("results/gpu"))
    p.add_argument("--minutes", type=float, default=9.0, help="stop in time for a limit of ten")
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--small", action="store_true")
    args = p.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * args.minutes
    if DEVICE.type != "cuda" and not args.small:
        p.error("there is no CUDA here; --small tries the script at toy size.")
    sizes = (
        [("ssd", 300, 1), ("retina", 64, 1)]
        if args.small
        else [("ssd", 300, 64), ("retina", 800, 32)]
    )
    for kind, side, batch in sizes:
        file = args.out / f"speed-{kind}.json"
        if not file.exists() and time.monotonic() < deadline:
            _write(file, speed(kind, side, batch, 1 if args.small else 20))
    for name, model, data, seed in trainings(args.small, args.seeds):
        if (args.out / f"{name}.json").exists():
            continue
        if time.monotonic() > deadline or not train_part(
            name, model, data, seed, args.out, args.small, deadline
        ):
            return False
    print("all done", flush=True)
    return True


if __name__ == "__main__":
    raise SystemExit(not main())
