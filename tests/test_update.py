"""Smaller GPUs: batches in parts, fp16, averaged weights; each goes on after a stop to the same
bits.
"""

import copy
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lesson_lib.data.objects import Objects
from lesson_lib.data.smears import draw_smear
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSDConfig
from lesson_lib.training import checkpoints, loop
from lesson_lib.training.loop import Diverged, evaluate, train
from lesson_lib.training.recipes import Recipe
from lesson_lib.training.step import Positives, cut, half_precision, one_step
from lesson_lib.training.update import Averaged, Update

#: One smear without objects among them, and unlike numbers in the others.
SMEARS = [draw_smear(0, i, size=64) for i in range(6)]
SMEARS[1] = replace(
    SMEARS[1],
    **{name: getattr(SMEARS[1], name)[:0] for name in ("boxes", "labels", "difficult", "crowd")},
)
SMALL = Recipe(epochs=2, batch=6, size=64, lr=1e-3, clip=0, optimizer="sgd", augment="none")


def ssd(norm="group"):
    torch.manual_seed(0)
    return SSD(SSDConfig(num_classes=3, backbone="tiny-8", norm=norm, image_size=64))


def retinanet():
    torch.manual_seed(0)
    return RetinaNet(RetinaNetConfig(3, backbone="tiny-8", channels=16, image_size=64))


class Own(torch.nn.Module):
    """A learner's detector, whose criterion knows nothing of shares."""

    def __init__(self):
        super().__init__()
        self.inner = ssd()
        self.forward, self.anchors = self.inner.forward, self.inner.anchors

    def criterion(self, outputs, anchors, targets):
        return self.inner.criterion(outputs, anchors, targets)


def targets():
    return [{"boxes": s.boxes, "labels": s.labels, "id": s.id} for s in SMEARS]


def stepped(model, recipe, truth=None):
    """(losses and length, all gradients in a row) of one step on all smears."""
    update, truth = Update(model, recipe), truth or targets()
    images = torch.stack([s.image for s in SMEARS]) / 255
    values = one_step(model, model, images, truth, model.anchors(64, "cpu"), update, recipe)
    return values, torch.cat([p.grad.flatten() for p in model.parameters()])


# ---- batches in parts ----


@pytest.mark.parametrize("parts", [2, 3, 6, 50])
@pytest.mark.parametrize("make", [ssd, retinanet])
def test_losses_and_gradients_of_parts_are_those_of_the_batch(make, parts):
    whole, slopes = stepped(make(), SMALL)
    values, parted = stepped(make(), replace(SMALL, accumulate=parts))
    torch.testing.assert_close(values, whole, rtol=1e-4, atol=1e-5)
    assert (parted - slopes).norm() < 1e-4 * slopes.norm()


@pytest.mark.parametrize("make", [ssd, retinanet])
def test_a_batch_without_objects_comes_in_parts_too(make):
    empty = [{**t, "boxes": t["boxes"][:0], "labels": t["labels"][:0]} for t in targets()]
    whole, _ = stepped(make(), SMALL, empty)
    values, _ = stepped(make(), replace(SMALL, accumulate=3), empty)
    torch.testing.assert_close(values, whole, rtol=1e-4, atol=1e-5)
    assert bool((values > 0).any()) is (make is retinanet)  # SSD learns nothing there


def test_a_criterion_without_a_normaliser_is_averaged_over_the_parts():
    values, _ = stepped(Own(), replace(SMALL, accumulate=3))
    alone = []
    for part in range(3):
        model, rows = ssd(), slice(2 * part, 2 * part + 2)
        outputs = model(torch.stack([s.image for s in SMEARS[rows]]) / 255)
        alone.append(model.criterion(outputs, model.anchors(64), targets()[rows]))
    for at, name in enumerate(("cls", "box")):
        mean = sum(float(loss[name].detach()) for loss in alone) / 3
        assert float(values[at]) == pytest.approx(mean, rel=1e-4)


def test_positives_of_parts():
    own = [torch.tensor(n) for n in (3, 0, 6)]
    positives = Positives(3)
    assert [int(positives(n)) for n in own] == [9, 9, 9]  # an estimate, the same for all
    assert float(positives.correction()) == 1.0
    positives = Positives(2)
    assert [int(positives(torch.tensor(n))) for n in (0, 4)] == [1, 1]
    assert float(positives.correction()) == 0.25
    assert Positives(2).correction() is None and int(Positives(1)(torch.tensor(0))) == 0


def test_parts_are_as_equal_as_can_be():
    images = torch.arange(7)[:, None]
    assert [len(x) for x, _ in cut(images, [{}] * 7, 3)] == [3, 3, 1]
    assert [len(t) for _, t in cut(images, [{}] * 7, 99)] == [1] * 7
    assert torch.equal(torch.cat([x for x, _ in cut(images, [{}] * 7, 2)]), images)


def test_batch_norm_sees_a_part_and_says_what_it_needs():
    with pytest.raises(ValueError, match="batch=2 or more"):
        list(train(ssd("batch"), SMEARS, replace(SMALL, accumulate=6)))


# ---- fp16 ----


def test_fp16_trains_as_fp32_does_once_its_scale_is_found():
    recipe = replace(SMALL, steps=12, schedule="constant", warmup=0, precision="fp16", clip=5)
    half = list(train(ssd(), SMEARS, recipe))
    full = list(train(ssd(), SMEARS, replace(recipe, precision="fp32")))
    skipped = sum(record["grad_norm"] == 0 for record in half)
    assert 0 <= skipped < 12
    assert half[-1]["loss"] == pytest.approx(full[-1 - skipped]["loss"], rel=0.02)
    assert half_precision("fp16", torch.device("cpu")) is torch.float16


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_that_overflows_changes_nothing_and_halves_the_scale(optimizer):
    model, recipe = ssd(), replace(SMALL, precision="fp16", ema=0.5, optimizer=optimizer)
    update = Update(model, recipe)
    before = copy.deepcopy(model.state_dict())
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.inf)
    update.scaler.scale(torch.ones(()))
    scale = update.scaler.get_scale()
    assert update.step() == 0 and update.scaler.get_scale() == scale / 2
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for state in update.optimizer.state.values():  # nor what the optimizer remembers
        assert all(not value.any() for value in state.values())


def test_fp16_that_overflows_without_end_diverges(monkeypatch):
    model = ssd()
    original = model.criterion

    def criterion(outputs, *rest, **options):  # its slope is infinite however it is scaled
        losses = original(outputs, *rest, **options)
        return losses | {"cls": losses["cls"] + (outputs.cls_logits.sum() * 0).sqrt()}

    monkeypatch.setattr(model, "criterion", criterion)
    with pytest.raises(Diverged, match="gradient are .*(inf|nan)"):
        list(train(model, SMEARS, replace(SMALL, epochs=40, precision="fp16")))


# ---- averaged weights ----


@pytest.mark.parametrize("capturable", [False, True])
def test_averaged_weights_by_hand(capturable):
    model = torch.nn.BatchNorm1d(1)
    averaged, mean = Averaged(model, 0.2, capturable), None
    for number, value in enumerate((5.0, 3.0, 8.0, 1.0, 4.0), start=1):
        model.weight.data.fill_(value)
        model.num_batches_tracked.fill_(number)
        averaged.prepare(number)
        averaged.update(model)
        decay = min(0.2, (number - 1) / (number + 9))
        mean = value if number == 1 else decay * mean + (1 - decay) * value
        assert float(averaged.model.weight) == pytest.approx(mean, rel=1e-6)
        assert int(averaged.model.num_batches_tracked) == number
    assert float(model.weight.detach()) == 4.0
    averaged.give(model)
    assert float(model.weight.detach()) == pytest.approx(mean, rel=1e-6)


def test_the_average_is_evaluated_saved_and_left_in_the_model(tmp_path, monkeypatch):
    judged, file = [], tmp_path / "last.pt"

    def seen(model, *_):
        judged.append(copy.deepcopy(model.state_dict()))
        return {"AP": 0.5}

    monkeypatch.setattr(loop, "evaluate", seen)
    model, recipe = ssd("batch"), replace(SMALL, lr=0.01, ema=0.5)
    list(train(model, SMEARS, recipe, SMEARS[:2], file))
    saved = checkpoints.read(file)
    for name, value in checkpoints.trained_weights(saved).items():
        assert torch.equal(value, model.state_dict()[name]), name
        assert torch.equal(value, judged[-1][name]), name
    moved = [not torch.equal(saved["model"][n], v) for n, v in saved["averaged"].items()]
    assert sum(moved) > len(moved) / 2
    again = ssd("batch")
    assert list(train(again, SMEARS, recipe, SMEARS[:2], file)) == []  # nothing is left to do
    assert torch.equal(again.heads.box[0].weight, model.heads.box[0].weight)
    monkeypatch.undo()
    assert evaluate(again, SMEARS, recipe) == evaluate(model, SMEARS, recipe)


# ---- what a graph would freeze ----


class Numbers(TorchDispatchMode):
    """Each operation with all of its arguments that are no tensors: what a graph replays."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        plain = [x for x in tree_leaves((args, kwargs or {})) if not isinstance(x, torch.Tensor)]
        if op.namespace != "profiler":
            self.seen.append(f"{op} {plain}")
        return op(*args, **(kwargs or {}))


CHANGES = [
    dict(optimizer="sgd", head_lr=2.0),
    dict(optimizer="adamw", ema=0.9, accumulate=2),
    dict(optimizer="adamw", precision="fp16", ema=0.9),
]


def replayable(recipe, capturable):
    """Whether a step at another rate, with another decay, is the same but for tensors' contents."""
    model = ssd()
    update, images = Update(model, recipe, capturable), torch.rand(4, 3, 64, 64)
    truth, seen = Objects.of(targets()[2:]), []
    for number, rate in ((1, 1e-3), (2, 2e-3), (3, 5e-4)):
        update.prepare(number, rate)
        with Numbers() as numbers:
            one_step(model, model, images, truth, model.anchors(64), update, recipe)
        seen.append(numbers.seen)
    assert len(seen[2]) > 100
    return seen[1] == seen[2]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_capturable_step_holds_no_number_of_its_own(changes):
    recipe = replace(SMALL, criterion={"dense": True, "mining": "rank"}, **changes)
    assert replayable(recipe, True) and not replayable(recipe, False)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_capturable_step_is_the_other_up_to_rounding(changes):
    """Measured by how far the weights went: AdamW makes steps of a tiny gradient's rounding."""
    recipe, found = replace(SMALL, **changes), []
    for capturable in (False, True):
        model = ssd()
        update, anchors = Update(model, recipe, capturable), model.anchors(64)
        images = torch.stack([s.image for s in SMEARS]) / 255
        for number, rate in ((1, 1e-4), (2, 2e-4), (3, 5e-5)):
            update.prepare(number, rate)
            one_step(model, model, images, targets(), anchors, update, recipe)
        held = update.averaged.model if update.averaged else model
        found.append(torch.cat([p.detach().flatten() for p in held.parameters()]))
    way = found[0] - torch.cat([p.detach().flatten() for p in ssd().parameters()])
    assert way.norm() > 0 and (found[1] - found[0]).norm() < 1e-2 * way.norm()


def test_rates_are_written_into_the_same_tensors():
    """Whatever kind of run the optimizer's state is of: one on a CPU keeps plain numbers."""
    recipe = replace(SMALL, optimizer="adamw", head_lr=2.0, ema=0.9)
    plain, graph = Update(ssd(), recipe), Update(ssd(), recipe, capturable=True)
    places = [id(group["lr"]) for group in graph.optimizer.param_groups]
    graph.prepare(5, 0.25)
    assert [id(group["lr"]) for group in graph.optimizer.param_groups] == places
    rates = [0.25, 0.25, 0.5, 0.5]
    assert [float(group["lr"]) for group in graph.optimizer.param_groups] == rates
    for update, state in ((plain, graph), (graph, plain)):
        update.optimizer.load_state_dict(state.optimizer.state_dict())
        update.prepare(6, 0.25)
        kinds = {type(group["lr"]) for group in update.optimizer.param_groups}
        assert kinds == {torch.Tensor if update.capturable else float}
        assert [float(group["lr"]) for group in update.optimizer.param_groups] == rates
        asked = {group["capturable"] for group in update.optimizer.param_groups}
        assert asked == {update.capturable}


# ---- each goes on ----

WAYS = {
    "parts": dict(accumulate=3),
    "fp16": dict(precision="fp16"),
    "averaged": dict(ema=0.9),
    "rare": dict(rare=0.9),
    "rates": dict(head_lr=2.0, backbone_lr=0.5),
    "all": dict(accumulate=2, precision="fp16", ema=0.9, rare=0.9, resize="shorter"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_run_goes_on_to_the_same_bits(way, tmp_path):
    recipe = replace(SMALL, batch=3, epochs=3, optimizer="adamw", augment="mirror", **WAYS[way])
    whole, stopped, again = ssd(), ssd(), ssd()
    list(train(whole, SMEARS, recipe, None, tmp_path / "whole.pt"))
    for record in train(stopped, SMEARS, recipe, None, tmp_path / "x.pt", save_every=1):
        if record["step"] == 4:
            break
    for parameter in again.parameters():
        parameter.data.zero_()  # all comes from the file
    rest = list(train(again, SMEARS, recipe, None, tmp_path / "x.pt", save_every=1))
    assert [record["step"] for record in rest] == [5, 6]
    for (name, value), other in zip(whole.state_dict().items(), again.state_dict().values()):
        assert torch.equal(value, other), name
    one, two = (checkpoints.read(tmp_path / name) for name in ("whole.pt", "x.pt"))
    assert one.get("scaler") == two.get("scaler")
    for name, value in one["model"].items():
        assert torch.equal(value, two["model"][name]), name


@pytest.mark.parametrize(
    "change, words",
    [({"accumulate": 0}, "1 or more"), ({"ema": 1.0}, "ema is 1.0"), ({"rare": 1.5}, "rare 1.5")],
)
def test_nonsense_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(Recipe(), **change)
