"""A step that never waits: the same operations for any batch and any number of objects, no copies
from the host but two, and all devices right; tried without a GPU.
"""

import sys
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from pretended_gpu import CUDA, OnGpu, PretendedGpu
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lesson_lib.data import changes
from lesson_lib.data import feed as feed_module
from lesson_lib.data.augment import AUGMENTS, draw_change
from lesson_lib.data.changes import change_pictures
from lesson_lib.data.feed import Feed
from lesson_lib.data.objects import ROOM, Objects
from lesson_lib.data.smears import draw_smear
from lesson_lib.detectors.criterion import Outputs
from lesson_lib.matching import DENSE_WITHOUT_WAITING, match_retinanet, match_ssd
from lesson_lib.training import rehearsal, step
from lesson_lib.training.recipes import MODELS, Recipe, build_model
from lesson_lib.training.step import Positives, one_step
from lesson_lib.training.update import Update

SMEARS = [draw_smear(0, i, size=64) for i in range(4)]
TINY = ("ssd-tiny", "retinanet-tiny")
#: The way of a GPU, on a CPU.
AS_ON_A_GPU = {"ssd-tiny": {"dense": True, "mining": "rank"}, "retinanet-tiny": {"dense": True}}


def made(name, norm="group"):
    torch.manual_seed(0)
    return build_model(replace(MODELS[name], backbone="tiny-8", norm=norm), 3, 64)


def objects(pictures, count):
    """`count` objects in each picture, wherever."""
    drawn = torch.Generator().manual_seed(count)
    corners = torch.rand(pictures, count, 2, generator=drawn) * 40
    boxes = torch.cat((corners, corners + 8 + 16 * torch.rand(corners.shape, generator=drawn)), -1)
    labels = torch.randint(0, 3, (pictures, count), generator=drawn)
    return Objects.of([{"boxes": b, "labels": x} for b, x in zip(boxes, labels)])


# ---- objects, padded ----


def test_objects_are_padded_and_come_back():
    targets = [
        {"boxes": torch.rand(n, 4), "labels": torch.arange(n), "id": f"p{n}"} for n in (2, 0, 3)
    ]
    table = Objects.of(targets)
    assert table.boxes.shape == (3, 3, 4) and table.valid.sum(1).tolist() == [2, 0, 3]
    assert not table.boxes[~table.valid].any() and not table.labels[~table.valid].any()
    assert Objects.of(table) is table and len(table) == 3 and table.ids == ("p2", "p0", "p3")
    for one, other in ((table, targets), (table[1:], targets[1:])):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a["boxes"], b["boxes"]) and torch.equal(a["labels"], b["labels"])
            assert a["id"] == b["id"] and not a["difficult"].any()
    assert Objects.of([{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}]).boxes.shape[1] == 0
    with pytest.raises(ValueError, match=r"picture 0 of the batch \(x\) has 1 boxes and 2 labels"):
        Objects.of([{"boxes": torch.rand(1, 4), "labels": torch.arange(2), "id": "x"}])


def test_objects_travel_as_one_piece():
    marks = torch.tensor([False, True])
    table = Objects.of(
        [
            {"boxes": torch.rand(2, 4), "labels": torch.tensor([79, 2]), "difficult": marks},
            {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        ]
    )
    with PretendedGpu() as gpu, pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        there = table.to(CUDA)
    assert gpu.copies == ["_to_copy"] and gpu.waits == []
    assert there.boxes.inner.shape[1] == ROOM and there.counts == table.counts
    for name in ("boxes", "labels", "difficult", "valid"):
        moved, own = getattr(there, name).inner, getattr(table, name)
        assert moved.dtype == own.dtype and torch.equal(moved[:, :2], own)
        assert not moved[:, 2:].any()
    assert table.to(table.boxes.device) is table and table.pin_memory() is table


# ---- pictures, changed where they are kept ----


@pytest.fixture
def pinned(monkeypatch):
    """The shapes of what was pinned, which asks for a driver."""
    shapes = []
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda tensor: shapes.append(tuple(tensor.shape)) or tensor
    )
    return shapes


@pytest.mark.parametrize("inner", [None, (40, 64)])
@pytest.mark.parametrize("name", AUGMENTS)
def test_pictures_are_changed_on_a_gpu_without_copies(name, inner, pinned, monkeypatch):
    """But for the colours' few numbers, which are pinned; also where a picture is filled up."""
    rows, boxes = list(range(4)) * 3, [s.boxes.numpy() for s in SMEARS]
    drawn = [
        draw_change(AUGMENTS[name], boxes[row], (64, 64), seed) for seed, row in enumerate(rows)
    ]
    images = [s.image for s in SMEARS]
    with PretendedGpu() as gpu:
        there = change_pictures(gpu.put(images), rows, drawn, 64, [inner] * 12).inner
    coloured = AUGMENTS[name].colour > 0
    assert (gpu.waits, gpu.copies) == ([], ["_to_copy"] if coloured else [])
    assert pinned == ([(12, 3, 4)] if coloured else [])
    if name in ("ssd", "jitter", "large-jitter"):  # often more than the picture is seen
        assert any(min(c.window[:2]) < 0 or max(c.window[2:]) > 64 for c in drawn)
    monkeypatch.setattr(changes, "resized", partial(changes.resized, by_float=True))
    here = change_pictures(images, rows, drawn, 64, [inner] * 12)
    torch.testing.assert_close(there, here, rtol=0, atol=1e-5)


def test_a_batch_from_memory_crosses_in_two_pieces(pinned, monkeypatch):
    """Beside the pictures, once: numbers of colours and objects. None is made ahead, by a thread
    that would know nothing of the pretended GPU.
    """
    monkeypatch.setattr(feed_module, "one_ahead", lambda make, steps, _: map(make, steps))
    feed = Feed(SMEARS, 64, 2, augment="ssd", device=CUDA, cache=True)
    with PretendedGpu() as gpu:
        batches = feed.batches()
        for number in (1, 2, 3):
            images, objects_there = next(batches)
            assert isinstance(images, OnGpu) and isinstance(objects_there.boxes, OnGpu)
            assert len(gpu.copies) == 1 + 2 * number and gpu.waits == []
    assert [shape[-1] for shape in pinned] == [4, 7] * 3


# ---- on a GPU that every machine has ----


def on_the_gpu(gpu, table):
    columns = ("boxes", "labels", "difficult", "valid")
    return replace(table, **{name: gpu.put(getattr(table, name)) for name in columns})


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("name", TINY)
def test_a_gpu_gives_the_losses_and_detections_of_a_cpu(name, norm):
    """And waits for nothing until detections are asked for."""
    model, anchors = made(name, norm).eval(), made(name).anchors(64)
    images = torch.stack([s.image for s in SMEARS]) / 255
    truth = Objects.of([{"boxes": s.boxes, "labels": s.labels} for s in SMEARS])
    with torch.no_grad():
        outputs = model(images)
        losses = model.criterion(outputs, anchors, truth)
        found = model.detections(outputs, anchors, (64, 64), score_threshold=0.01)
        with PretendedGpu() as gpu:
            outputs = gpu.put(model)(gpu.put(images))
            there = model.criterion(outputs, gpu.put(anchors), on_the_gpu(gpu, truth))
            assert (gpu.waits, gpu.copies) == ([], [])
            seen = model.detections(outputs, gpu.put(anchors), (64, 64), score_threshold=0.01)
    for key, value in losses.items():
        torch.testing.assert_close(there[key].inner, value, rtol=1e-5, atol=1e-6)
    for mine, other in zip(found, seen, strict=True):
        assert len(mine["boxes"]) > 0
        for key, value in mine.items():
            torch.testing.assert_close(other[key].inner, value, rtol=1e-5, atol=1e-4)


def test_the_pretended_gpu_sees_what_a_real_one_would_mind():
    with PretendedGpu() as gpu:
        a = gpu.put(torch.tensor([1.0, 2.0]))
        assert a.device == CUDA and not a.is_cpu and float((a * 2).sum()) == 6
        _ = a[a > 1], torch.tensor([1, 2], device=CUDA), torch.arange(3, device=CUDA)
        assert a.new_tensor((3, 4)).device == CUDA and a.inner.new_tensor([5]).tolist() == [5]
        with pytest.raises(AssertionError, match="on the GPU and on the CPU"):
            a + torch.ones(2)
        assert isinstance(a.to("cpu"), torch.Tensor) and not isinstance(a.to("cpu"), OnGpu)
    assert gpu.waits[:2] == ["_local_scalar_dense", "index"]
    assert gpu.copies == ["_to_copy", "new_tensor"]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_runs_on_fake_cuda_tensors(name):
    """Forward and criterion; devices that do not fit, and waits, raise there."""
    config, size = small(name)
    held = rehearsal._held(config, 3, size, 2, None)
    assert held.bytes > 0 and held.anchors > 100


def small(name):
    """A named model's config, to begin from scratch, and the least size that it is for."""
    config = MODELS[name]
    norm = config.norm if config.norm == "batch" else "group"
    size = 128 if "vgg16" not in name else 512 if "512" in name else 300
    return replace(config, norm=norm, pretrained=False), size


@pytest.mark.parametrize("name", MODELS)
def test_every_models_losses_and_detections_on_a_gpu_are_a_cpus(name):
    """Of outputs drawn at random, in the shapes that its network gives."""
    config, size = small(name)
    with torch.device("meta"):
        model = build_model(config, 3, size).eval()
        shapes = [x.shape for x in model(torch.rand(1, 3, size, size))]
    torch.manual_seed(0)
    outputs = Outputs(torch.randn(shapes[0]) * 3 - 3, torch.randn(shapes[1]))
    anchors, truth = model.anchors(size, "cpu"), objects(1, 5)
    losses = model.criterion(outputs, anchors, truth, class_weights=(1.0, 2.0, 3.0))
    found = model.detections(outputs, anchors, (size, size))
    with PretendedGpu() as gpu:
        there, far = Outputs(*map(gpu.put, outputs)), gpu.put(anchors)
        seen = model.criterion(there, far, on_the_gpu(gpu, truth), class_weights=(1.0, 2.0, 3.0))
        assert (gpu.waits, gpu.copies) == ([], [])
        far_found = model.detections(there, far, (size, size))
    for key, value in losses.items():
        torch.testing.assert_close(seen[key].inner, value, rtol=1e-5, atol=1e-6)
    assert len(found[0]["boxes"]) > 10
    for key, value in found[0].items():
        torch.testing.assert_close(far_found[0][key].inner, value, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("count, waits", [(DENSE_WITHOUT_WAITING, False), (129, True)])
def test_matching_waits_for_a_gpu_with_very_many_objects_alone(count, waits):
    """And only where the best pairs are looked for; the matches are those of a CPU."""
    anchors = made("ssd-tiny").anchors(64)
    gt = objects(2, count).boxes
    for rule in (match_retinanet, match_ssd, partial(match_ssd, best="overwrite")):
        here = rule(gt, anchors)
        with PretendedGpu() as gpu:
            there = rule(gpu.put(gt), gpu.put(anchors))
        assert gpu.copies == [] and bool(gpu.waits) is (waits and rule is match_ssd)
        for mine, other in zip(here, there):
            assert torch.equal(mine, other.inner)


@pytest.mark.parametrize("broken", ["all", "one anchor"])
@pytest.mark.parametrize("name", TINY)
def test_on_a_gpu_nobody_looks_for_nan_and_the_losses_say_it(name, broken):
    """The CPU's way counts them first, and then computes no loss."""
    model, anchors = made(name), made(name).anchors(64)
    truth = Objects.of([{"boxes": s.boxes, "labels": s.labels} for s in SMEARS])
    with torch.no_grad():
        outputs = model(torch.stack([s.image for s in SMEARS]) / 255)
        if broken == "all":
            outputs.cls_logits[1] = torch.nan
        else:
            outputs.cls_logits[1, 7] = torch.nan
        asked = Recipe(), Positives(1)
        here = step._losses(model, outputs, anchors, truth, *asked)
        with PretendedGpu() as gpu:
            there = Outputs(*map(gpu.put, outputs))
            losses = step._losses(model, there, gpu.put(anchors), on_the_gpu(gpu, truth), *asked)
    assert (gpu.waits, gpu.copies) == ([], [])
    assert here["cls"].isnan() and here["box"].isnan()
    assert losses["cls"].inner.isnan() and losses["box"].inner.isfinite()


# ---- the operations of a whole step ----


class Operations(TorchDispatchMode):
    """How often each operation is called."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.names[op.overloadpacket.__name__] += 1
        return op(*args, **(kwargs or {}))


def operations(name, pictures, count, **changes):
    recipe = replace(Recipe(criterion=AS_ON_A_GPU[name], optimizer="sgd"), **changes)
    model, images = made(name), torch.rand(pictures, 3, 64, 64)
    update, truth, anchors = Update(model, recipe), objects(pictures, count), model.anchors(64)
    one_step(model, model, images, truth, anchors, update, recipe)  # what is made once is made
    with Operations() as counted:
        one_step(model, model, images, truth, anchors, update, recipe)
    return counted.names


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "ema": 0.9, "accumulate": 2}])
@pytest.mark.parametrize("name", TINY)
def test_a_step_is_the_same_operations_for_any_batch_and_any_objects(name, changes):
    """Forward, criterion, backward and update; 1,000 are few for a GPU to start."""
    few = operations(name, 2, 3, **changes)
    assert few == operations(name, 8, 3, **changes) == operations(name, 2, 30, **changes)
    assert 100 < sum(few.values()) < 5000


class NoCopies(TorchDispatchMode):
    """Fails for a tensor of the CPU among those of another device, of a single number too, and for
    one made of numbers.
    """

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        name = op.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, torch.Tensor)]
        devices = {x.device.type for x in tensors}
        assert len(devices) < 2, f"{name} of {devices}"
        made = op(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensors:
                assert {tensor.device.type} == devices, f"{name} copies"
        assert name != "lift_fresh", "a tensor is made of numbers on the host"
        return made


@pytest.mark.parametrize("name", TINY)
def test_nothing_is_copied_from_the_host_with_the_backward_pass(name):
    """On "meta", a device without numbers: whoever looks at one, or brings one, is found."""
    with torch.device("meta"):
        model = made(name)
        images, anchors = torch.rand(2, 3, 64, 64), model.anchors(64, "meta")
        truth = Objects.of(
            [{"boxes": torch.rand(3, 4), "labels": torch.zeros(3, dtype=torch.int64)}] * 2
        )
    with NoCopies():
        losses = model.criterion(model(images), anchors, truth)
        (losses["cls"] + losses["box"]).backward()
    assert all(p.grad is not None for p in model.parameters())


class OnMeta(NoCopies):
    """A whole step on "meta": the fused update and what fp16's scaler does, which have no form
    there, are seen and left out.
    """

    def __init__(self):
        super().__init__()
        self.fused = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        name = op.overloadpacket.__name__
        if not name.startswith(("_fused_", "_amp_")):
            return super().__torch_dispatch__(op, types, args, kwargs)
        tensors = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, torch.Tensor)]
        assert {x.device.type for x in tensors} == {"meta"}, f"{name} brings what is on the host"
        self.fused.append(name)
        return None


@pytest.mark.parametrize(
    "changes",
    [
        dict(optimizer="sgd"),
        dict(optimizer="adamw"),
        dict(optimizer="sgd", clip=0.0),
        dict(optimizer="adamw", ema=0.9, accumulate=2, head_lr=2.0),
        dict(optimizer="sgd", precision="fp16"),
        dict(optimizer="adamw", precision="fp16", ema=0.9, accumulate=2, head_lr=2.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", TINY)
def test_a_whole_step_copies_nothing_from_the_host(name, changes, monkeypatch):
    """Forward, criterion, backward, fp16's scale, clipping, update, averaging: the second step,
    what is made once is made. (The network itself runs in float32: there is no autocast there.)
    """
    monkeypatch.setattr(step, "forward", lambda network, images, _: Outputs(*network(images)))
    rules = sys.modules[torch.optim.Optimizer.__module__]  # torch hides it behind another name
    monkeypatch.setattr(rules, "_get_fused_kernels_supported_devices", lambda: ["cuda", "meta"])
    recipe = Recipe(criterion={"class_weights": (1.0, 2.0, 3.0)}, **changes)
    with torch.device("meta"):
        model, images = made(name), torch.rand(4, 3, 64, 64)
        anchors = model.anchors(64, "meta")
        truth = Objects.of(
            [{"boxes": torch.rand(3, 4), "labels": torch.zeros(3, dtype=torch.int64)}] * 4
        )
    update = Update(model, recipe, capturable=True)
    with OnMeta():
        for number in (1, 2):
            update.prepare(number, 1e-3)
            with OnMeta() as seen:
                values = step.one_step(model, model, images, truth, anchors, update, recipe)
    groups = [group for group in update.optimizer.param_groups if group["params"]]
    updates = [name for name in seen.fused if name.startswith("_fused_")]
    assert values.device.type == "meta" and len(updates) == len(groups)
    scaled = ["_amp_foreach_non_finite_check_and_unscale_", "_amp_update_scale_"]
    expected = scaled if update.scaler.is_enabled() else []
    assert [name for name in seen.fused if name.startswith("_amp_")] == expected
