"""The loop, the schedules and the optimizers, against closed forms, torch's own and wrong turns."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from lesson_lib.data.samples import Sample
from lesson_lib.data.smears import draw_smear
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSDConfig
from lesson_lib.training import checkpoints, loop
from lesson_lib.training.loop import Diverged, _plan, evaluate, in_bfloat16, predict, train
from lesson_lib.training.recipes import Recipe
from lesson_lib.training.schedule import learning_rate, make_optimizer
from lesson_lib.training.step import half_note

SMEARS = [draw_smear(0, i, size=64) for i in range(6)]
SMALL = Recipe(epochs=2, batch=3, size=64, lr=1e-3)


def ssd(norm="group", seed=0):
    torch.manual_seed(seed)
    return SSD(SSDConfig(num_classes=3, backbone="tiny-8", norm=norm, image_size=64))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def rates(recipe, steps):
    return [learning_rate(step, steps, recipe) for step in range(steps)]


def torchs(make, steps, lr=0.1):
    """The rates that a scheduler of torch gives to `steps` steps."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr)
    scheduler, found = make(optimizer), [optimizer.param_groups[0]["lr"]]
    for _ in range(steps - 1):
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(
    "recipe, steps, make",
    [
        (
            Recipe(lr=0.1, schedule="one-cycle", warmup=0.25),
            80,
            lambda o: torch.optim.lr_scheduler.OneCycleLR(
                o, 0.1, 80, pct_start=0.25, cycle_momentum=False
            ),
        ),
        (
            Recipe(lr=0.1, schedule="cosine", warmup=0),
            20,
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20),
        ),
        (
            Recipe(lr=0.1, schedule="step", milestones=(2 / 3, 8 / 9), warmup=0),
            90,
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [60, 80]),
        ),
        (
            Recipe(lr=0.1, schedule="constant", warmup=0),
            5,
            lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0),
        ),
        (
            Recipe(lr=0.1, schedule="constant", warmup=0.9),
            10,
            lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, 1, 9),
        ),
    ],
)
def test_schedules_equal_torchs(recipe, steps, make):
    assert rates(recipe, steps) == pytest.approx(torchs(make, steps), rel=1e-9)


def test_schedules_by_hand():
    one = Recipe(lr=1.0, schedule="one-cycle", warmup=0.5)
    assert rates(one, 10)[0] == pytest.approx(1 / 25)
    assert rates(one, 10)[4] == pytest.approx(1)
    assert rates(one, 10)[2] == pytest.approx((1 + 1 / 25) / 2)  # half way up a cosine
    assert rates(one, 10)[9] == pytest.approx(1 / 250_000)
    cosine = Recipe(lr=1.0, schedule="cosine", warmup=0.2)
    assert rates(cosine, 10)[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rates(cosine, 10)[6] == pytest.approx(0.5)
    for recipe in (one, cosine, Recipe(lr=1.0, schedule="step", milestones=(0.5,))):
        for steps in (1, 2, 3):  # short runs have rates, too
            assert all(0 < rate <= 1 for rate in rates(recipe, steps))


@pytest.mark.parametrize("name, kind", [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimizers(name, kind):
    model = ssd()
    model.backbone.body.stem.requires_grad_(False)
    optimizer = make_optimizer(model, Recipe(optimizer=name, momentum=0.8, weight_decay=0.03))
    assert (
        type(optimizer) is kind
        and optimizer.defaults["fused"]
        and optimizer.defaults.get("momentum", 0.8) == 0.8
    )
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decay == {
        id(p): 0.03 if p.ndim > 1 else 0.0 for p in model.parameters() if p.requires_grad
    }


def test_records():
    records = list(train(ssd(), SMEARS, replace(SMALL, evaluate=2), val=SMEARS[:2]))
    assert [(r["step"], r["epoch"], r["steps"]) for r in records] == [
        (1, 1, 4),
        (2, 1, 4),
        (3, 2, 4),
        (4, 2, 4),
    ]
    assert all(r["loss"] == r["cls"] + r["box"] and r["grad_norm"] > 0 for r in records)
    assert [r["lr"] for r in records] == rates(SMALL, 4)
    assert ["AP" in r for r in records] == [False, False, False, True]
    assert all(isinstance(value, (int, float)) for r in records for value in r.values())


def test_steps_go_before_epochs_and_records_can_be_means():
    each = list(train(ssd(), SMEARS, replace(SMALL, steps=5)))
    pairs = list(train(ssd(), SMEARS, replace(SMALL, steps=5), every=2))
    assert [r["step"] for r in each] == [1, 2, 3, 4, 5] and [r["step"] for r in pairs] == [2, 4, 5]
    assert pairs[0]["loss"] == pytest.approx((each[0]["loss"] + each[1]["loss"]) / 2)


@pytest.mark.parametrize(
    "model", [ssd("batch"), RetinaNet(RetinaNetConfig(3, backbone="tiny-8", channels=32))]
)
def test_a_batch_can_be_learned_by_heart(model):
    recipe = Recipe(steps=30, batch=2, size=64, lr=4e-3, augment="none", warmup=0.2)
    losses = [r["loss"] for r in train(model, SMEARS[:2], recipe)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(
        m.num_batches_tracked == 30 for m in model.modules() if isinstance(m, nn.BatchNorm2d)
    )


def test_the_seed_decides_everything():
    runs = []
    for seed in (0, 0, 1):
        runs.append(ssd())
        list(train(runs[-1], SMEARS, replace(SMALL, augment="ssd", seed=seed)))
        torch.rand(1)  # what others draw in between must not matter
    assert torch.equal(weights(runs[0]), weights(runs[1])) and not torch.equal(
        weights(runs[0]), weights(runs[2])
    )


def test_gradients_are_clipped():
    model = ssd()
    record = next(train(model, SMEARS, replace(SMALL, clip=0.01)))
    left = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    assert record["grad_norm"] > 0.1 and left == pytest.approx(0.01, rel=1e-3)
    model = ssd()
    record = next(train(model, SMEARS, replace(SMALL, clip=0)))
    left = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    assert left == pytest.approx(record["grad_norm"], rel=1e-4)


def test_bfloat16_is_for_the_network_alone(monkeypatch):
    model, seen = ssd(), []
    original = model.criterion

    def criterion(outputs, anchors, targets, **options):
        losses = original(outputs, anchors, targets, **options)
        seen.append(
            (outputs.cls_logits.dtype, anchors.dtype, losses["cls"].dtype, losses["box"].dtype)
        )
        return losses

    monkeypatch.setattr(model, "criterion", criterion)
    list(train(model, SMEARS, replace(SMALL, steps=1, precision="bf16")))
    assert seen == [(torch.bfloat16, torch.float32, torch.float32, torch.float32)]
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_options_reach_the_criterion():
    both = [
        next(train(ssd(), SMEARS, replace(SMALL, criterion=options)))
        for options in ({}, {"loc_weight": 2.0})
    ]
    assert both[1]["box"] == pytest.approx(2 * both[0]["box"]) and both[1]["cls"] == both[0]["cls"]


def test_divergence_names_pictures_and_cause(tmp_path):
    model, file = ssd(), tmp_path / "last.pt"
    with pytest.raises(
        Diverged,
        match=r"in step [234]: .*smear-0-train-0000\d, .*learning rate, 1e\+20, is too high",
    ):
        list(
            train(
                model,
                SMEARS,
                replace(SMALL, lr=1e20, schedule="constant", warmup=0),
                None,
                file,
                save_every=1,
            )
        )
    assert all(v.isfinite().all() for v in torch.load(file, weights_only=True)["model"].values())
    model = ssd()
    nn.init.constant_(model.heads.box[0].bias, math.nan)
    with pytest.raises(Diverged, match="in step 1: .*weights that it began with"):
        list(train(model, SMEARS, SMALL))


def test_a_gradient_that_is_not_finite_stops_before_it_is_saved(monkeypatch, tmp_path):
    model = ssd()
    original = model.criterion

    def criterion(outputs, *rest, **options):  # the slope of sqrt at 0 is infinite, its value is 0
        losses = original(outputs, *rest, **options)
        return losses | {"cls": losses["cls"] + (outputs.cls_logits.sum() * 0).sqrt()}

    records = train(model, SMEARS, SMALL, checkpoint=tmp_path / "last.pt", save_every=1)
    next(records)
    monkeypatch.setattr(model, "criterion", criterion)
    with pytest.raises(Diverged, match="in step 2: .*the loss is finite, its gradient is not"):
        next(records)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 1


def test_a_wrong_label_is_told_as_such():
    wrong = [replace(s, labels=s.labels + 3) for s in SMEARS]
    with pytest.raises(ValueError, match="labels 0 to 2"):
        list(train(ssd(), wrong, SMALL))


def test_predictions_are_in_the_pictures_own_pixels(monkeypatch):
    wide = Sample(
        torch.zeros(3, 32, 128, dtype=torch.uint8),
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
    )
    model, asked = ssd().train(), {}

    def detections(outputs, anchors, size, **options):
        asked.update(options, size=size, training=model.training)
        return [
            {
                "boxes": torch.tensor([[16.0, 16, 32, 64]]),
                "scores": torch.ones(1),
                "labels": torch.ones(1).long(),
            }
            for _ in range(len(outputs.cls_logits))
        ]

    monkeypatch.setattr(model, "detections", detections)
    found = predict(model, [wide] * 3, size=64, batch=2, score_threshold=0.3)
    assert len(found) == 3 and found[2]["boxes"].tolist() == [[32, 8, 64, 32]]
    assert asked == {"score_threshold": 0.3, "size": (64, 64), "training": False} and model.training
    assert predict(model, [], size=64) == []


def test_evaluate_asks_with_the_recipes_options():
    model = ssd("batch")
    list(train(model, SMEARS, replace(SMALL, epochs=6, lr=4e-3)))
    assert evaluate(model, SMEARS, SMALL)["AP50"] > 0
    assert evaluate(model, SMEARS, replace(SMALL, inference={"score_threshold": 1.0}))["AP50"] == 0


@pytest.mark.parametrize(
    "change, words",
    [
        ({"lr": -1}, "lr is -1"),
        ({"lr": "fast"}, "of type float"),
        ({"epochs": 1.5}, "of type int"),
        ({"batch": 0}, "1 or more"),
        ({"schedule": "linear"}, "choose one-cycle, cosine"),
        ({"warmup": 1}, "shares"),
        ({"milestones": (0.5, 2)}, "shares"),
        ({"augment": "flip"}, "choose none, mirror"),
        ({"epochs": True}, "of type int"),
        ({"optimizer": "adam"}, "choose adamw, sgd"),
        ({"lr": math.nan}, "lr is nan"),
        ({"precision": 16}, "of type str"),
        ({"cache": "disk"}, "choose auto, memory, workers"),
        ({"workers": -2}, "give -1 or more"),
        ({"stored": -1}, "give 0 or more"),
        ({"stored": 0.5}, "give 1 or more, in sizes, or 0"),
    ],
)
def test_nonsense_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(Recipe(), **change)


# ---- val while training: the best checkpoint, early stopping ----


def judged(monkeypatch, *aps):
    """evaluate gives these APs, one after another."""
    left = iter(aps)
    monkeypatch.setattr(loop, "evaluate", lambda *_: {"AP": next(left), "threshold": 0.3})


def step_of(file):
    return torch.load(file, weights_only=True)["step"]


def test_val_is_evaluated_beside_the_loss():
    records = list(train(ssd(), SMEARS, SMALL, val=SMEARS[:2]))
    assert ["val_loss" in r for r in records] == [False, True, False, True]
    assert all(r["val_loss"] == r["val_cls"] + r["val_box"] for r in records[1::2])


def test_the_best_checkpoint_is_that_of_highest_ap(monkeypatch, tmp_path):
    judged(monkeypatch, 0.1, 0.3, 0.3, 0.2)
    recipe = replace(SMALL, epochs=4)
    records = list(train(ssd(), SMEARS, recipe, SMEARS[:2], tmp_path / "last.pt"))
    assert [r["AP"] for r in records if "AP" in r] == [0.1, 0.3, 0.3, 0.2]
    assert (step_of(tmp_path / "best.pt"), step_of(tmp_path / "last.pt")) == (4, 8)
    list(train(ssd(), SMEARS, SMALL, None, tmp_path / "other" / "last.pt"))
    assert not (tmp_path / "other" / "best.pt").exists()


def test_training_stops_when_patience_ends(monkeypatch, tmp_path):
    judged(monkeypatch, 0.1, 0.3, 0.2, 0.3, 0.9)  # the last one is never asked for
    recipe, file = replace(SMALL, epochs=5, patience=2), tmp_path / "last.pt"
    records = list(train(ssd(), SMEARS, recipe, SMEARS[:2], file))
    assert [r["step"] for r in records] == list(range(1, 9)) and step_of(file) == 8
    assert list(train(ssd(), SMEARS, recipe, SMEARS[:2], file)) == []  # nor does it go on


def test_patience_goes_on_where_a_stopped_run_left_it(monkeypatch, tmp_path):
    aps = 0.2, 0.3, 0.2, 0.3
    recipe, file = replace(SMALL, epochs=5, patience=2), tmp_path / "last.pt"
    judged(monkeypatch, *aps)
    for record in train(ssd(), SMEARS, recipe, SMEARS[:2], file):
        if record["step"] == 6:
            break
    judged(monkeypatch, aps[3])
    rest = list(train(ssd(), SMEARS, recipe, SMEARS[:2], file))
    assert [r["step"] for r in rest] == [7, 8]
    assert step_of(tmp_path / "best.pt") == 4


def test_a_crash_in_an_evaluation_costs_no_step(monkeypatch, tmp_path):
    def broken(*_):
        raise ValueError("The picture val3.jpg cannot be read.")

    monkeypatch.setattr(loop, "evaluate", broken)
    with pytest.raises(ValueError, match="val3"):
        list(train(ssd(), SMEARS, SMALL, SMEARS[:2], tmp_path / "last.pt"))
    assert step_of(tmp_path / "last.pt") == 2


def test_it_is_saved_every_so_many_steps(tmp_path):
    steps = []
    for record in train(
        ssd(), SMEARS, replace(SMALL, epochs=3), None, tmp_path / "x", save_every=4
    ):
        steps.append((record["step"], step_of(tmp_path / "x") if record["step"] >= 4 else 0))
    assert steps == [(1, 0), (2, 0), (3, 0), (4, 4), (5, 4), (6, 6)]


def due(plan):
    """The steps that are recorded, evaluated and saved."""
    steps = range(1, plan.steps + 1)
    return [[s for s in steps if ask(s)] for ask in (plan.reports, plan.judges, plan.saves)]


@pytest.mark.parametrize(
    "epochs, epoch, evaluate, save_every, judged, kept, expected",
    [
        # 4 steps an epoch, 20 in a record, as on a GPU
        (12, 4, 1, 0, False, False, [[20, 40, 48], [], []]),
        (12, 4, 1, 0, False, True, [[20, 40, 48], [], [20, 40, 48]]),
        (12, 4, 3, 0, True, False, [[12, 20, 24, 36, 40, 48], [12, 24, 36, 48], []]),
        (12, 4, 8, 0, True, True, [[20, 32, 40, 48], [32, 48], [20, 32, 40, 48]]),
        (
            12,
            4,
            8,
            7,
            False,
            True,
            [[7, 14, 20, 21, 28, 35, 40, 42, 48], [], [*range(7, 43, 7), 48]],
        ),
        # 18, whose first end after 20 steps is the second
        (3, 18, 9, 0, False, True, [[20, 36, 40, 54], [], [36, 54]]),
        # more than 20: every epoch is saved
        (2, 30, 1, 0, True, True, [[20, 30, 40, 60], [30, 60], [30, 60]]),
    ],
)
def test_a_gpu_is_waited_for_at_an_epochs_end_only_where_something_is_done(
    epochs, epoch, evaluate, save_every, judged, kept, expected
):
    recipe = Recipe(epochs=epochs, evaluate=evaluate)
    assert due(_plan(recipe, epoch, save_every, 20, judged, kept)) == expected


@pytest.mark.parametrize("judged", [True, False])
def test_on_a_cpu_every_step_is_recorded_and_every_epoch_saved(judged):
    recorded, _, saved = due(_plan(Recipe(epochs=3, evaluate=2), 4, 0, 1, judged, True))
    assert recorded == [*range(1, 13)] and saved == [4, 8, 12]


def test_records_of_several_steps_pass_over_the_ends_of_epochs(tmp_path):
    """Six epochs of two steps, five in a record: the third epoch is the first with five."""
    recipe, file = replace(SMALL, epochs=6), tmp_path / "last.pt"
    each = [r["loss"] for r in train(ssd(), SMEARS, recipe)]
    for kept in (None, file):
        records, saved = [], []
        for record in train(ssd(), SMEARS, recipe, None, kept, every=5):
            records.append(record)
            saved.append(step_of(file) if file.exists() else 0)
        assert [r["step"] for r in records] == ([5, 6, 10, 12] if kept else [5, 10, 12])
        start = 0
        for record in records:
            means = each[start : record["step"]]
            assert record["loss"] == pytest.approx(sum(means) / len(means), rel=1e-5)
            start = record["step"]
    assert saved == [0, 6, 6, 12]


def test_bfloat16_by_itself_is_for_machines_that_calculate_in_it(monkeypatch):
    asked = []

    def supported(including_emulation=True):
        asked.append(including_emulation)
        return including_emulation  # a T4: only emulated

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert not in_bfloat16("auto", cuda) and asked == [False]
    assert in_bfloat16("bf16", cuda) and not in_bfloat16("fp32", cuda)
    for amx in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda amx=amx: {"amx_bf16": amx})
        assert in_bfloat16("auto", cpu) is amx
        assert in_bfloat16("bf16", cpu) and not in_bfloat16("fp32", cpu)


@pytest.mark.parametrize(
    "precision, device, capability, told",
    [
        ("auto", "cuda", (7, 5), True),
        ("auto", "cuda", (7, 0), True),
        ("auto", "cuda", (6, 1), False),  # no fast fp16
        ("auto", "cuda", (8, 0), False),  # bfloat16
        ("auto", "cpu", (7, 5), False),
        ("fp32", "cuda", (7, 5), False),
        ("fp16", "cuda", (7, 5), False),
    ],
)
def test_a_gpu_before_ampere_is_told_of_its_fp16(precision, device, capability, told, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: capability >= (8, 0))
    note = half_note(precision, torch.device(device))
    assert ("fp32 here" in note and "--set precision=fp16" in note) if told else note == ""


def test_batch_norm_of_one_number_is_told():
    with pytest.raises(ValueError, match="batch=2 or more .*norm=group"):
        list(train(ssd("batch"), SMEARS[:1], replace(SMALL, batch=1)))
    assert len(list(train(ssd("group"), SMEARS[:1], replace(SMALL, batch=1)))) == 2


def test_a_training_that_is_stopped_saves_and_goes_on_to_the_same_bits(tmp_path):
    """At a step that is neither an epoch's end nor one of those at which it saves."""
    recipe, whole, again = replace(SMALL, epochs=3), ssd(), ssd()
    asked = []

    def stop():
        asked.append(1)
        return len(asked) == 3

    list(train(whole, SMEARS, recipe))
    stopped = list(train(ssd(), SMEARS, recipe, None, tmp_path / "x.pt", 2, stop=stop))
    assert [record["step"] for record in stopped] == [1, 2, 3]
    assert checkpoints.read(tmp_path / "x.pt")["step"] == 3
    rest = list(train(again, SMEARS, recipe, None, tmp_path / "x.pt", 2, stop=lambda: False))
    assert [record["step"] for record in rest] == [4, 5, 6]
    assert torch.equal(weights(whole), weights(again))


def test_a_training_is_not_stopped_after_its_last_step(tmp_path):
    """And without a file to go on from it may be stopped all the same."""
    assert len(list(train(ssd(), SMEARS, replace(SMALL, steps=1), stop=lambda: True))) == 1
    assert len(list(train(ssd(), SMEARS, SMALL, stop=lambda: True))) == 1
