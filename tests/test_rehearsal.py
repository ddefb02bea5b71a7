"""A GPU rehearsed without one: memory against what the CPU's allocator held, operations by
hand, and the words.
"""

import json
from dataclasses import replace
from functools import partial
from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from lesson_lib import cli
from lesson_lib.cli.rehearsed import fitting
from lesson_lib.config import REPOSITORY
from lesson_lib.training import rehearsal
from lesson_lib.training.recipes import MODELS, NAMED, Recipe, build_model, overridden
from lesson_lib.training.rehearsal import GIB, GPUS, plan, precision_on, step_costs

SMALL = {
    "ssd-tiny": (MODELS["ssd-tiny"], 128),
    "ssd300-vgg16": (replace(MODELS["ssd300-vgg16"], norm="group"), 300),
    "retinanet-tiny": (MODELS["retinanet-tiny"], 128),
    "retinanet-r18": (MODELS["retinanet-r18"], 128),
}


#: (config, pixels, classes); as if the pretrained weights had come, without which VGG16 has a norm.
STEPS = {name: (*case, 3) for name, case in SMALL.items()} | {
    "ssd300-vgg16, no norm": (replace(MODELS["ssd300-vgg16"], norm=None), 300, 3),
    "ssd300-vgg16, batch norm": (replace(MODELS["ssd300-vgg16"], norm="batch"), 300, 3),
    "retinanet-r50, frozen norm": (replace(MODELS["retinanet-r50"], norm="frozen"), 256, 80),
    "retinanet-r18, 200 classes": (MODELS["retinanet-r18"], 128, 200),
}


def built(config, classes, size):
    torch.manual_seed(0)
    return rehearsal._built(replace(config, pretrained=False), classes, size).train()


@pytest.mark.parametrize("name", STEPS)
def test_activations_are_what_the_cpus_allocator_held(name):
    """Net bytes that forward and criterion allocated and the graph still holds, in a real step."""
    config, size, classes = STEPS[name]
    costs = step_costs(config, classes, size)
    model = built(config, classes, size)
    images = torch.rand(2, 3, size, size).to(memory_format=torch.channels_last)
    anchors = model.anchors(size)
    rehearsal._loss(model, model(images), anchors, 2)  # what is made once is made before
    cpu = [ProfilerActivity.CPU]
    with profile(activities=cpu, profile_memory=True, acc_events=True) as measured:
        loss = rehearsal._loss(model, model(images), anchors, 2)
    held = sum(event.self_cpu_memory_usage for event in measured.events()) + images.nbytes
    predicted = costs.fixed + 2 * costs.per_picture
    assert loss.requires_grad
    assert predicted == pytest.approx(held, rel=0.15)


def most_allocated(work):
    """Bytes at the fullest moment of what `work` allocates, of the CPU's allocator's own record."""
    cpu = [ProfilerActivity.CPU]
    with profile(activities=cpu, profile_memory=True, acc_events=True) as measured:
        kept = work()
    events = measured.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    assert kept is not None and changes
    return max(accumulate(size for _, size in changes))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "name",
    ["retinanet-r18, 200 classes", "ssd300-vgg16, no norm", "ssd300-vgg16, batch norm"],
)
def test_the_fullest_moment_is_the_cpus_allocators(name, precision):
    """Of a real step that goes the way of a GPU, beside weights and their gradients: in RetinaNet's
    losses and SSD's backward pass. The pictures are in torch's usual order: for the other one the
    CPU's kernels of the backward pass make copies that a GPU's do not need.
    """
    config, size, classes = STEPS[name]
    memory = step_costs(config, classes, size, precision).memory(2)
    model, images = built(config, classes, size), torch.rand(2, 3, size, size)
    anchors = model.anchors(size)
    ranked = {"mining": "rank"} if "ssd" in name else {}
    model.criterion = partial(model.criterion, dense=True, **ranked)

    def step():
        with torch.autocast("cpu", torch.bfloat16, precision == "bf16"):
            outputs = model(images)
        loss = rehearsal._loss(model, outputs, anchors, 2)
        loss.backward()
        return outputs, loss

    step()  # the gradients are there, as in the second part of a batch
    held = most_allocated(step) + images.nbytes
    assert memory.activations + memory.transient == pytest.approx(held, rel=0.15)


def test_the_living_are_counted_once_and_until_they_die():
    beside = torch.zeros(1000)
    with rehearsal.Alive([beside]) as alive:
        alive.add(beside)
        one = beside + 1
        two = one.view(10, 100)
        assert (alive.now, alive.most) == (4000, 4000)
        del one
        assert alive.now == 4000
        three = two.double()
        del two
        beside.add_(1)
        assert (alive.now, alive.most) == (three.nbytes, 12_000)


@pytest.mark.parametrize(
    "name", ["ssd300-vgg16", "ssd-lite0", "ssd-r18", "retinanet-r50", "retinanet-lite0"]
)
def test_half_precision_without_a_gpu_keeps_what_a_gpus_autocast_keeps(name):
    """To the byte, on tensors of "meta" and on fake ones of "cuda"."""
    config, size = replace(MODELS[name], pretrained=False), 300 if "vgg16" in name else 128
    on_gpu = rehearsal._held(config, 3, size, 2, torch.bfloat16)
    with torch.device("meta"):
        model = rehearsal._built(config, 3, size)
        images, anchors = rehearsal._pictures(2, size), rehearsal._anchors(model, size)
    assert rehearsal.held_for_backward(model, images, anchors, torch.bfloat16) == on_gpu


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_half_precision_halves_what_is_kept_whatever_the_norm(norm):
    """torch's own group norm is in float32 under autocast: with it bf16 kept more than float32."""
    config = replace(MODELS["retinanet-r18"], norm=norm)
    single, half = (step_costs(config, 3, 128, precision) for precision in ("fp32", "bf16"))
    assert half.per_picture < 0.6 * single.per_picture


def test_operations_of_a_convolution_by_hand():
    """Twice forward's for the weights' and the inputs' gradients; the first layer has no
    input's.
    """
    config, size = SMALL["ssd-tiny"]
    costs = step_costs(config, 3, size)
    model = build_model(config, 3, size)
    forward = {}

    def count(module, inputs, output):
        positions = output.shape[-2] * output.shape[-1]
        forward[module] = 2 * module.weight.numel() * positions

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    model.eval()(torch.rand(1, 3, size, size))
    first = next(iter(forward))
    assert costs.flops == 3 * sum(forward.values()) - forward[first]
    assert costs.forward == sum(forward.values())


def test_all_grows_in_a_line_with_the_batch():
    config, size = SMALL["retinanet-tiny"]
    costs = step_costs(config, 3, size)
    eight = rehearsal._held(config, 3, size, 8, None)
    memory, most = costs.memory(8), rehearsal._alive(config, 3, size, 8, None)
    assert memory.activations == pytest.approx(eight.bytes, rel=1e-3)
    # Of a network this small another moment may be the fullest when there are more pictures.
    assert memory.activations + memory.transient == pytest.approx(most, rel=0.02)


def test_numbers_of_the_full_networks_are_the_papers():
    """100,000 anchors and more; 34 million parameters with 80 classes and frozen norm."""
    costs = step_costs(replace(MODELS["retinanet-r50"], norm="group"), 80, 800)
    assert costs.anchors == 120_087
    assert costs.memory(16).parts()["activations"] / GIB == pytest.approx(21.0, rel=0.05)
    config = replace(MODELS["ssd300-vgg16"], norm="group")
    network = build_model(config, 20, 300)
    ssd = step_costs(config, 20, 300)
    assert ssd.anchors == 8732
    assert ssd.parameters == sum(p.numel() for p in network.parameters())


def test_pictures_of_the_papers_size_are_rehearsed_at_the_largest_input():
    recipe = Recipe(size=128, resize="shorter")
    costs = rehearsal.recipe_costs(MODELS["retinanet-tiny"], 3, recipe, "fp32")
    largest, usual = (
        step_costs(MODELS["retinanet-tiny"], 3, size) for size in ((128, 224), (128, 192))
    )
    assert costs == replace(largest, flops=usual.flops, forward=usual.forward)
    assert usual.flops < largest.flops and usual.forward < largest.forward


def test_the_largest_batch_fits_and_one_more_does_not():
    config, size = SMALL["retinanet-r18"]
    costs = step_costs(config, 3, size)
    small = replace(GPUS["t4"], memory=4.0)
    batch = costs.largest_batch(small, "adamw")
    assert costs.memory(batch, "adamw").total <= 4 * GIB < costs.memory(batch + 1, "adamw").total
    assert costs.largest_batch(replace(small, memory=0.5)) == 0


@pytest.mark.parametrize(
    ("batch", "largest", "parts"),
    [(16, 16, 1), (16, 9, 2), (16, 5, 4), (16, 1, 16), (6, 4, 2), (16, 0, 0)],
)
def test_a_batch_is_cut_into_the_fewest_equal_parts_that_fit(batch, largest, parts):
    assert rehearsal._parts(batch, largest) == parts


def test_hours_are_pictures_by_operations_by_the_share_of_peak():
    costs = replace(step_costs(*SMALL["ssd-tiny"][:1], 3, 128), flops=10**12, precision="fp16")
    made = plan(costs, Recipe(batch=4), GPUS["v100"], steps=900)
    assert made.pictures == 3600
    assert made.rate == pytest.approx((12.5, 56.25))  # 10 and 45 % of 125 TFLOP/s
    assert made.hours == pytest.approx((3600 / 56.25 / 3600, 3600 / 12.5 / 3600))


def test_a_batch_in_parts_fits_where_the_whole_does_not():
    costs, recipe = step_costs(*SMALL["retinanet-r18"][:1], 3, 128), Recipe(batch=64)
    gpu = replace(GPUS["t4"], memory=costs.memory(16, recipe.optimizer).total / GIB)
    whole = plan(costs, recipe, gpu, 1)
    assert (whole.fits, whole.accumulate) == (False, 4)
    assert "--set accumulate=4" in fitting(whole, recipe)
    parts = plan(costs, replace(recipe, accumulate=4), gpu, 1)
    assert parts.fits and parts.pictures == whole.pictures


def test_a_gpu_without_bf16_is_told_and_auto_does_not_take_it():
    costs = replace(step_costs(MODELS["ssd-tiny"], 3, 128), precision="bf16")
    with pytest.raises(ValueError, match="T4 does not calculate in bf16"):
        plan(costs, Recipe(), GPUS["t4"], 1)
    assert [precision_on("auto", GPUS[name]) for name in ("t4", "v100", "a100")] == [
        "fp32",
        "fp32",
        "bf16",
    ]
    with pytest.raises(ValueError, match="fp32, bf16 or fp16"):
        step_costs(MODELS["ssd-tiny"], 3, 128, "int8")


def test_half_precision_is_rehearsed_in_half_precision():
    """Under autocast convolutions take copies of the weights in 16 bits, which the backward
    pass needs.
    """
    full, half = (step_costs(MODELS["retinanet-r18"], 3, 128, p) for p in ("fp32", "fp16"))
    copies = half.fixed - full.fixed
    assert full.parameters < copies <= 2 * full.parameters + 4096
    assert not torch.is_autocast_enabled("cuda")


def test_nothing_fake_is_left_behind():
    step_costs(MODELS["ssd-tiny"], 3, 96)
    anchors = build_model(MODELS["ssd-tiny"], 3, 96).anchors(96)
    assert type(anchors) is torch.Tensor and anchors.device.type == "cpu"


@pytest.mark.parametrize("recipe", ["ssd300-voc", "retinanet-r50-coco-1x"])
def test_a_papers_network_is_rehearsed_as_if_its_weights_had_come(recipe):
    """Without norm layers, or with frozen ones, it would refuse to train from scratch."""
    config, changed = overridden(MODELS[NAMED[recipe].model], NAMED[recipe].recipe, [])
    assert config.pretrained and config.norm in (None, "frozen")
    costs = rehearsal.step_costs(config, 20, 320 if changed.size == 600 else 300)
    assert costs.flops > 0 and costs.per_picture > 0


def test_the_high_shares_are_those_of_the_published_runs():
    """Pictures a second times the operations of a step with as many classes, over the peak."""
    named = NAMED["retinanet-r50-coco-1x"]
    config, _ = overridden(MODELS[named.model], named.recipe, [])
    rules = rehearsal.PUBLISHED_CLASSES, rehearsal.PUBLISHED_SIDE, "fp16"
    operations = step_costs(config, *rules).flops
    for name, rate in rehearsal.PUBLISHED_RATES.items():
        gpu = GPUS[name]
        share = rate * operations / (1e12 * gpu.tflops["fp16"])
        assert gpu.shares["half"][1] == pytest.approx(share, abs=0.015)


def test_lesson_11_shows_the_memory_that_its_command_prints(capsys):
    """The recipe freezes stem and first stage: with them trained it would be 21.1 GiB."""
    command = [
        "rehearse",
        "--data",
        "coco2017",
        "--recipe",
        "retinanet-r50-coco-1x",
        "--gpu",
        "a100",
    ]
    assert cli.main([*command, "--json"]) == 0
    total = json.loads(capsys.readouterr().out)["plan"]["memory"]["total"] / GIB
    lesson = (REPOSITORY / "notebooks" / "11_train_retinanet_on_a_gpu.ipynb").read_text("utf-8")
    assert f"From {total:.1f} to " in lesson
