"""The ladder: whole detectors climb it, each broken one falls where its bug is, and nothing is
raised.
"""

import types

import pytest
import torch
from torch import nn

from lesson_lib.course.bugs import SmallRetinaNet, SmallSSD
from lesson_lib.course.checks import ladder as module
from lesson_lib.course.checks.ladder import RUNGS, ladder
from lesson_lib.detectors.criterion import Outputs
from lesson_lib.detectors.heads import flatten_predictions
from lesson_lib.detectors.ssd import SSD, SSDConfig


class Ssd(SSD):
    def __init__(self, num_classes, image_size):
        super().__init__(
            SSDConfig(num_classes=num_classes, backbone="tiny-8", image_size=image_size)
        )


def broken(base=Ssd, **methods):
    """A detector with other methods; each is given the detector, the method as it was, and the
    arguments.
    """

    def wrap(name, change):
        return lambda self, *args: change(self, getattr(super(kind, self), name), *args)

    kind = type("Broken", (base,), {name: wrap(name, change) for name, change in methods.items()})
    return kind


def rows_moved(self, forward, images):
    cls, box = forward(images)
    return cls, box.roll(300, dims=1)


def cut(answers, values, scrambled):
    """Rows of each map's answers; those of the maps in `scrambled` are cut as they lie."""
    return torch.cat(
        [
            answer.reshape(len(answer), -1, values)
            if level in scrambled
            else flatten_predictions(answer, values)
            for level, answer in enumerate(answers)
        ],
        dim=1,
    )


def scrambled_ssd(cls=(), box=()):
    """An SSD without the permute on some maps of one head or the other."""

    def forward(self, forward, images):
        maps, heads = self.features(images), self.heads
        logits = [conv(x) for conv, x in zip(heads.cls, maps)]
        deltas = [conv(x) for conv, x in zip(heads.box, maps)]
        return Outputs(cut(logits, heads.outputs, cls), cut(deltas, 4, box))

    return broken(SmallSSD, forward=forward)


def scrambled_retinanet(cls=(), box=()):
    def forward(self, forward, images):
        maps, heads = self.features(images), self.heads
        logits = [heads.cls(heads.cls_tower(x)) for x in maps]
        deltas = [heads.box(heads.box_tower(x)) for x in maps]
        return Outputs(cut(logits, heads.num_classes, cls), cut(deltas, 4, box))

    return broken(SmallRetinaNet, forward=forward)


def deaf(self, forward, images):
    return Outputs(*(x.detach() + 0 * x if self.training else x for x in forward(images)))


def as_if_all(self, criterion, outputs, anchors, targets):
    return {
        name: value / len(anchors) for name, value in criterion(outputs, anchors, targets).items()
    }


def nothing_by_nothing(self, criterion, outputs, anchors, targets):
    positives = sum(len(t["boxes"]) for t in targets)
    return {
        name: value * positives / (positives or float("nan"))
        for name, value in criterion(outputs, anchors, targets).items()
    }


def infinite_slope(self, criterion, outputs, anchors, targets):
    losses = criterion(outputs, anchors, targets)
    return losses | {"box": losses["box"] + 0 * (outputs[1] * 0).sum().abs().sqrt()}


def label_shifted(self, detections, outputs, anchors, size):
    return [d | {"labels": (d["labels"] + 1) % 3} for d in detections(outputs, anchors, size)]


FALLS = [
    (
        broken(forward=lambda s, f, x: (f(x)[0][..., 1:], f(x)[1])),
        "ssd",
        "✗ 1 shapes: cls_logits: expected shape",
    ),
    (
        broken(forward=lambda s, f, x: (f(x)[0], f(x)[1].transpose(1, 2))),
        "ssd",
        "✗ 1 shapes: box_deltas",
    ),
    (broken(forward=rows_moved), "ssd", "must stand in the anchors' order"),
    (
        broken(anchors=lambda s, f, *a: f(*a)[:, [1, 0, 3, 2]]),
        "ssd",
        "must stand in the anchors' order",
    ),
    (broken(anchors=lambda s, f, *a: f(*a)[1:]), "ssd", "✗ 1 shapes: cls_logits"),
    (
        broken(anchors=lambda s, f, *a: f(*a) / 128),
        "ssd",
        "✗ 1 shapes: anchors: expected x1, y1, x2, y2 in pixels",
    ),
    (
        broken(criterion=lambda s, f, *a: {"cls": f(*a)["cls"]}),
        "ssd",
        "✗ 2 known batch: criterion: expected a dict",
    ),
    (
        broken(forward=lambda s, f, x: torch.nn.functional.cross_entropy(x, "label")),
        "ssd",
        " of <lambda>: ",
    ),
    (type("NoPrior", (SmallRetinaNet,), {"prior": 0.5}), "retinanet", "lacks the prior"),
    (broken(criterion=as_if_all), "ssd", "✗ 2 known batch: two smears and an empty picture, 'cls'"),
    (
        broken(SmallRetinaNet, criterion=as_if_all),
        "retinanet",
        "✗ 2 known batch: two smears and an empty picture, 'cls'",
    ),
    (broken(criterion=nothing_by_nothing), "ssd", "✗ 2 known batch: no object at all"),
    (broken(criterion=infinite_slope), "ssd", "gradient is not finite"),
    (broken(forward=deaf), "ssd", "✗ 3 overfit one picture: loss"),
    (broken(detections=label_shifted), "ssd", "✗ 3 overfit one picture: AP50 0"),
    (
        broken(forward=lambda s, f, x: f(x) + 1 / 0),
        "ssd",
        "✗ 1 shapes: stopped with ZeroDivisionError in line",
    ),
    (broken(forward=lambda s, f, x: None), "ssd", "○ 1 shapes: not attempted yet"),
    (broken(criterion=lambda s, f, *a: ...), "ssd", "○ 2 known batch: not attempted yet"),
    (lambda num_classes, image_size: None, "ssd", "○ 1 shapes: not attempted yet"),
    (types.ModuleType("my_ssd"), "ssd", "○ 1 shapes: not attempted yet"),
    (None, "ssd", "○ 1 shapes: not attempted yet"),
    (Ssd, "yolo", "✗ choose kind from ssd, retinanet"),
]


@pytest.mark.parametrize(("detector", "kind", "words"), FALLS)
def test_a_broken_detector_falls_where_its_bug_is(detector, kind, words, capsys):
    ladder(detector, kind, until="overfit one picture")
    last = capsys.readouterr().out.splitlines()[-1]
    assert words in last, last


@pytest.mark.parametrize(
    ("make", "kind"), [(scrambled_ssd, "ssd"), (scrambled_retinanet, "retinanet")]
)
@pytest.mark.parametrize(
    ("maps", "row_of"),
    [
        ({"cls": range(6)}, "cls_logits"),
        ({"box": range(6)}, "box_deltas"),
        ({"cls": range(1, 6), "box": range(1, 6)}, "cls_logits"),
        ({"cls": [1]}, "cls_logits"),
        ({"box": [1]}, "box_deltas"),
    ],
)
def test_a_permute_forgotten_in_one_head_or_on_the_second_map_is_seen(
    make, kind, maps, row_of, capsys
):
    ladder(make(**maps), kind, until="shapes")
    said = capsys.readouterr().out
    assert said.startswith("✗ 1 shapes: row ") and f" of {row_of} has its anchor" in said, said


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [scrambled_ssd, scrambled_retinanet, Ssd])
def test_rows_in_their_order_are_passed_with_any_weights(make, seed):
    torch.manual_seed(seed)
    model = (make if make is Ssd else make())(3, 128)
    module.shapes(model, "retinanet" if make is scrambled_retinanet else "ssd")


def test_an_output_that_does_not_see_the_picture_falls(capsys):
    ladder(broken(forward=lambda s, f, x: Outputs(f(x)[0] * 0, f(x)[1])), "ssd", until="shapes")
    assert "✗ 1 shapes: a row does not depend on the picture" in capsys.readouterr().out


@pytest.mark.parametrize(("detector", "kind"), [(Ssd, "ssd"), (SmallRetinaNet, "retinanet")])
def test_the_librarys_detectors_climb_three_rungs(detector, kind, capsys):
    ladder(detector, kind, until="overfit one picture")
    said = capsys.readouterr().out.splitlines()
    assert [line[0] for line in said] == ["✓"] * 3 and [
        name in line for name, line in zip(RUNGS, said)
    ] == [True] * 3


def test_a_module_and_a_model_climb_too_and_stay_as_they_are(capsys):
    ladder(types.SimpleNamespace(), "ssd")
    file = types.ModuleType("my_ssd")
    file.Detector = Ssd
    model, state = Ssd(3, 128), torch.random.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    capsys.readouterr()
    for subject in (file, model):
        ladder(subject, "ssd", until="overfit one picture")
    assert capsys.readouterr().out.count("✓") == 6
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("losses", "perfect", "words"),
    [
        ([10.0] * 20 + [1.0] * 20, True, ["✓ 4", "✓ 5 metric gate: AP50 1.00"]),
        ([10.0] * 40, True, ["✗ 4 short training: loss 10.00 to 10.00"]),
        ([10.0] * 20 + [float("nan")] * 20, True, ["✗ 4"]),
        ([10.0] * 20 + [1.0] * 20, False, ["✓ 4", "✗ 5 metric gate: AP50 0.00"]),
    ],
)
def test_short_training_and_gate(losses, perfect, words, capsys, monkeypatch):
    """What training and prediction would give is put in their place."""

    def predict(model, pictures, size):
        shown = (
            [s.target() for s in pictures]
            if perfect or len(pictures) == 1
            else [{**s.target(), "boxes": s.boxes + 500} for s in pictures]
        )
        return [
            {"boxes": t["boxes"], "labels": t["labels"], "scores": torch.ones(len(t["labels"]))}
            for t in shown
        ]

    monkeypatch.setattr(module, "predict", predict)
    monkeypatch.setattr(
        module,
        "train",
        lambda model, pictures, recipe: (
            {"loss": loss} for loss in (losses if len(pictures) > 1 else [10.0] * 20 + [0.1] * 20)
        ),
    )
    ladder(Ssd, "ssd")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 + len(words) and all(
        line.startswith(word) for line, word in zip(said[3:], words)
    ), said


def test_a_detector_of_its_own_making_climbs(capsys):
    """Not one of the library's classes: plain tensors out, nothing inherited."""

    class Plain(nn.Module):
        def __init__(self, num_classes, image_size):
            super().__init__()
            self.ssd = Ssd(num_classes, image_size)

        def forward(self, images):
            return tuple(self.ssd(images))

        def __getattr__(self, name):
            return (
                getattr(super().__getattr__("ssd"), name)
                if name in ("anchors", "criterion", "detections")
                else super().__getattr__(name)
            )

    ladder(Plain, "ssd", until="known batch")
    assert capsys.readouterr().out.count("✓") == 2


def test_without_stopping_every_rung_is_tried_for_itself():
    scrambled = broken(forward=rows_moved)
    rungs = ("shapes", "known batch")
    assert [step.mark for step in module.climb(scrambled, "ssd", rungs)] == ["✗"]
    assert [step.mark for step in module.climb(scrambled, "ssd", rungs, stop=False)] == ["✗", "✓"]
