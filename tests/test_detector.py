"""The contract of detectors: kept by the library's two and by the learner's own."""

import importlib
import inspect
import json
import math
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from two_processes import TORCHRUN, environment

from lesson_lib.anchors import SSD300_SCALES
from lesson_lib.boxes import xyxy_to_cxcywh
from lesson_lib.data.feed import Feed
from lesson_lib.data.samples import Sample
from lesson_lib.data.smears import draw_smear
from lesson_lib.detectors.criterion import Outputs, retinanet_criterion, ssd_criterion
from lesson_lib.detectors.detector import Detector, batch_loss, own_size, takes_normaliser
from lesson_lib.detectors.export import Exported
from lesson_lib.detectors.inference import OPTIONS, retinanet_detections, ssd_detections
from lesson_lib.detectors.ohem import OHEMRetinaNet
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSD_CONFIGS, SSDConfig
from lesson_lib.training.loop import fit, predict, train
from lesson_lib.training.recipes import MODELS, Recipe, overridden

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {
    "ssd": SSDConfig(num_classes=3, backbone="tiny-8", image_size=64),
    "retinanet": RetinaNetConfig(num_classes=3, backbone="tiny-8", channels=16, image_size=64),
}
RULES = {
    "ssd": (ssd_criterion, ssd_detections),
    "retinanet": (retinanet_criterion, retinanet_detections),
}
SMEARS = [draw_smear(0, i, size=64) for i in range(4)]
kinds = pytest.mark.parametrize("kind", CONFIGS)


def made(kind, seed=0, **changes):
    torch.manual_seed(seed)
    model = {"ssd": SSD, "retinanet": RetinaNet}[kind]
    return model(replace(CONFIGS[kind], **changes))


def targets(samples=SMEARS):
    return [{"boxes": s.boxes, "labels": s.labels, "id": s.id} for s in samples]


def outputs(model, pictures=4, seed=1):
    count, classes = len(model.anchors(64)), 4 if isinstance(model, SSD) else 3
    drawn = torch.Generator().manual_seed(seed)
    return Outputs(*(torch.randn(pictures, count, n, generator=drawn) for n in (classes, 4)))


@pytest.fixture(params=["my_ssd", "my_retinanet"])
def own(request, monkeypatch):
    """A detector as a learner writes it, with nothing of lesson_lib.detectors."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "capstone_solution"))
    monkeypatch.delitem(sys.modules, request.param, raising=False)
    torch.manual_seed(0)
    yield importlib.import_module(request.param).Detector(3, 64)
    sys.modules.pop(request.param, None)


# ---- who is one ----


@kinds
def test_the_librarys_models_are_detectors(kind):
    assert isinstance(made(kind), Detector) and takes_normaliser(made(kind))
    assert not isinstance(nn.Linear(1, 1), Detector)


def test_what_is_no_module_is_refused_with_a_sentence():
    with pytest.raises(TypeError, match=r"object is no nn.Module: derive it from torch.nn.Module"):
        next(train(object(), SMEARS, Recipe(epochs=1, batch=2, size=64)))


def test_the_learners_own_trains_and_predicts(own):
    last = fit(own, SMEARS, Recipe(epochs=2, batch=2, size=64))
    assert last["step"] == last["steps"] == 4 and math.isfinite(last["loss"])
    assert len(predict(own, SMEARS, 64)) == 4
    with pytest.raises(ValueError, match="does not say for which picture size"):
        predict(own, SMEARS)


def test_nothing_is_put_into_a_criterion_that_did_not_ask(own, monkeypatch):
    """On a GPU or a CPU: one process calls it with the three arguments and the recipe's options."""
    seen, original = [], own.criterion

    def criterion(outputs, anchors, targets):
        seen.append(len(targets))
        return original(outputs, anchors, targets)

    monkeypatch.setattr(own, "criterion", criterion)
    fit(own, SMEARS, Recipe(epochs=1, batch=2, size=64))
    assert seen == [2, 2]


# ---- several processes ----


@kinds
def test_shares_with_a_normaliser_add_up_to_the_batch(kind):
    model = made(kind)
    whole, anchors, objects = outputs(model), model.anchors(64), targets()
    expected = model.criterion(whole, anchors, objects)
    parts, counted = (slice(0, 3), slice(3, 4)), []
    for part in parts:  # what each process would report
        share = Outputs(*(x[part] for x in whole))
        model.criterion(share, anchors, objects[part], lambda own: counted.append(own) or own)
    for name, value in expected.items():
        shares = [
            batch_loss(
                model,
                Outputs(*(x[part] for x in whole)),
                anchors,
                objects[part],
                lambda own: sum(counted),
                shares=2,
            )[name]
            for part in parts
        ]
        torch.testing.assert_close(sum(shares), value)


def test_shares_without_a_normaliser_are_averaged(own):
    anchors = own.anchors(64, "cpu")
    with torch.no_grad():
        said = own.eval()(torch.stack([s.image for s in SMEARS]) / 255)
    assert not takes_normaliser(own)
    shares = [
        batch_loss(own, tuple(x[i : i + 1] for x in said), anchors, targets()[i : i + 1], max, 4)
        for i in range(4)
    ]
    alone = [
        own.criterion(tuple(x[i : i + 1] for x in said), anchors, targets()[i : i + 1])
        for i in range(4)
    ]
    for name in ("cls", "box"):
        mean = sum(loss[name] for loss in alone) / 4
        torch.testing.assert_close(sum(share[name] for share in shares), mean)


@kinds
def test_the_others_are_told_before_a_process_stops(kind):
    """NaN in one share: its positives are counted first, or the other processes would wait for
    ever.
    """
    model, counted = made(kind), []
    broken = outputs(model)
    broken.cls_logits[1, 2, 0] = math.nan
    with pytest.raises(ValueError, match="hold NaN"):
        model.criterion(
            broken, model.anchors(64), targets(), lambda own: counted.append(own) or own
        )
    assert len(counted) == 1


def test_ohem_divides_by_what_it_mined():
    torch.manual_seed(0)
    model = OHEMRetinaNet(CONFIGS["retinanet"])
    said, anchors = outputs(model), model.anchors(64)
    alone = model.criterion(said, anchors, targets(), keep=64)
    counted = []
    model.criterion(said, anchors, targets(), lambda own: counted.append(own) or own, keep=64)
    doubled = model.criterion(said, anchors, targets(), lambda own: 2 * own, keep=64)
    assert counted[0] > 0
    for name, value in alone.items():
        torch.testing.assert_close(2 * doubled[name], value)


def test_two_processes_train_the_learners_own(tmp_path):  # long: holds the script that both run
    script = tmp_path / "train_mine.py"
    script.write_text(
        textwrap.dedent(
            """
            import json
            import sys
            from pathlib import Path

            import torch
            import my_ssd
            from lesson_lib.data.smears import draw_smear
            from lesson_lib.training.distributed import processes, rank_and_world
            from lesson_lib.training.loop import fit
            from lesson_lib.training.recipes import Recipe

            with processes() as device:
                torch.manual_seed(0)
                smears = [draw_smear(0, i, size=64) for i in range(4)]
                model = my_ssd.Detector(3, 64).to(device)
                record = fit(model, smears, Recipe(epochs=1, batch=4, size=64))
                rank, world = rank_and_world()
                weights = sum(p.abs().sum().item() for p in model.parameters())
                said = [world, record["loss"], weights]
            # A file each: lines of two processes on one stdout may come torn.
            (Path(sys.argv[1]) / f"said-{rank}.json").write_text(json.dumps(said))
            """
        )
    )
    mine = ROOT / "tests" / "capstone_solution"
    done = subprocess.run(
        [*TORCHRUN, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(PYTHONPATH=str(mine)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"said-{rank}.json").read_text()) for rank in (0, 1))
    assert first[0] == second[0] == 2  # processes
    assert first[1:] == pytest.approx(second[1:], rel=1e-6)  # one loss, one set of weights


# ---- the model owns what training and decoding must agree on ----


@kinds
def test_variances_are_one_field(kind):
    """Criterion, detections and export take the config's; none of them can be told others."""
    other = (0.3, 0.7)
    model, plain = made(kind, variances=other), made(kind)
    said, anchors, (rule, detect) = outputs(model), model.anchors(64), RULES[kind]
    size = (64, 64)
    counts = {"counts": model.config.anchors.counts(64)} if kind == "retinanet" else {}
    assert (
        model.criterion(said, anchors, targets())["box"]
        == rule(said, anchors, targets(), variances=other)["box"]
        != plain.criterion(said, anchors, targets())["box"]
    )
    found, expected = (
        model.detections(said, anchors, size),
        detect(said, anchors, size, variances=other, **counts),
    )
    assert torch.equal(found[0]["boxes"], expected[0]["boxes"])
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, deltas, boxes, _ = Exported(model.eval(), size)(images)
    best = model.detections(Outputs(logits, deltas), anchors, size, score_threshold=0.0)[0]["boxes"]
    distance = (boxes[0][:, None] - best[:5]).abs().amax(2).amin(0)
    assert len(best) >= 5 and distance.max() < 1e-3
    for method in (model.criterion, model.detections):
        with pytest.raises(TypeError, match="variances"):
            method(said, anchors, targets() if method == model.criterion else size, variances=other)


@pytest.mark.parametrize("setting", ["criterion.variances=(1,1)", "inference.variances=(1,1)"])
def test_no_setting_parts_training_from_decoding(setting):
    for config in (MODELS["ssd-tiny"], MODELS["retinanet-tiny"]):
        with pytest.raises(ValueError, match="sets nothing"):
            overridden(config, Recipe(), [setting])
        assert overridden(config, Recipe(), ["variances=(1.0, 1.0)"])[0].variances == (1, 1)


@kinds
def test_options_of_inference_are_the_configs_unless_others_are_asked_for(kind):
    asked = {"score_threshold": 0.6, "nms_threshold": 0.3, "max_detections": 3, "topk": 5}
    model, told = made(kind), made(kind, **asked)
    said, anchors = outputs(model), model.anchors(64)
    found = told.detections(said, anchors, (64, 64))
    expected = model.detections(said, anchors, (64, 64), **asked)
    assert 0 < len(found[0]["boxes"]) <= 3
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(found, expected))
    assert len(model.detections(said, anchors, (64, 64))[0]["boxes"]) > 3
    defaults = inspect.signature(RULES[kind][1]).parameters
    assert {name: getattr(CONFIGS[kind], name) for name in OPTIONS} == {
        name: defaults[name].default for name in OPTIONS
    }


@kinds
def test_a_score_of_1_leaves_nothing(kind):
    model = made(kind)
    said = outputs(model)
    for threshold in (1, 1.0):
        found = model.detections(said, model.anchors(64), (64, 64), score_threshold=threshold)
        assert [len(p["boxes"]) for p in found] == [0] * 4


@pytest.mark.parametrize(
    "change, words",
    [
        ({"num_classes": 0}, "num_classes is 0"),
        ({"variances": (0.1, 0.0)}, "variances is"),
        ({"variances": (0.1,)}, "variances is"),
        ({"score_threshold": 1.5}, "score_threshold is 1.5"),
        ({"nms_threshold": -0.1}, "nms_threshold is -0.1"),
        ({"vote": math.nan}, "vote is nan"),
        ({"max_detections": 0}, "max_detections is 0"),
        ({"topk": 0}, "topk is 0"),
    ],
)
@kinds
def test_a_config_refuses_nonsense(kind, change, words):
    with pytest.raises(ValueError, match=words):
        replace(CONFIGS[kind], **change)


# ---- anchors ----


@kinds
def test_anchors_are_the_callers_own(kind):
    """Whoever writes into them spoils nobody else's: not those of the next call, nor another
    model's.
    """
    first = made(kind).anchors(64)
    kept = first.clone()
    first /= 64
    assert torch.equal(made(kind).anchors(64), kept) and torch.equal(made(kind).anchors(), kept)
    with torch.inference_mode():
        made(kind).anchors(72)
    assert not made(kind).anchors(72).is_inference()


@kinds
def test_the_specification_counts_what_the_model_makes(kind):
    model = made(kind)
    for size in (64, (64, 96), 160):
        spec = model.anchor_spec(size)
        assert spec.total(size) == sum(spec.counts(size)) == len(model.anchors(size))
        assert len(spec.grids_for(size)) == len(spec.per_position)
        assert torch.equal(spec.make(size), model.anchors(size))


def test_default_boxes_are_for_one_size():
    with pytest.raises(ValueError, match="laid out for pictures of 300, not 512"):
        SSD300_SCALES["caffe-voc"].counts(512)


@pytest.mark.parametrize("name", ["caffe-300", "torchvision-300"])
@pytest.mark.parametrize("size", [512, 304, (300, 512)])
def test_strides_in_pixels_are_for_one_size(name, size):
    """At 512 px the release's 300 would put the centres of the coarsest map outside the picture."""
    with torch.device("meta"):
        model = SSD(SSD_CONFIGS[name])
    assert len(model.anchors()) == len(model.anchors((300, 300))) == 8732
    with pytest.raises(ValueError, match="strides in pixels for pictures of 300.*strides=None"):
        model.anchors(size)
    even = replace(SSD_CONFIGS[name], anchors=replace(SSD_CONFIGS[name].anchors, strides=None))
    with torch.device("meta"):
        model = SSD(even)
    centres = xyxy_to_cxcywh(model.anchors(size))[:, :2]
    height, width = (size, size) if isinstance(size, int) else size
    assert (centres > 0).all() and (centres < torch.tensor([width, height])).all()


def test_a_picture_too_small_for_the_network_is_told():
    with torch.device("meta"):
        model = SSD(SSD_CONFIGS["paper-300"])
    with pytest.raises(ValueError, match=r"Pictures of \(224, 224\) are too small"):
        model.anchors(224)


def test_default_boxes_of_another_network_are_refused():
    with pytest.raises(ValueError, match=r"laid out for 6 maps.*change anchors or extras"):
        SSD(replace(CONFIGS["ssd"], anchors=SSD300_SCALES["caffe-voc"], image_size=300))


# ---- prediction ----


@kinds
def test_a_model_knows_its_size(kind):
    model = made(kind)
    assert own_size(model) == 64
    a, b = predict(model, SMEARS), predict(model, SMEARS, 64)
    assert all(torch.equal(x["boxes"], y["boxes"]) for x, y in zip(a, b, strict=True))
    with pytest.raises(ValueError, match="made for pictures of 64 x 96"):
        predict(made(kind, image_size=(64, 96)), SMEARS)


@kinds
def test_predict_of_a_batch_is_that_of_the_loop(kind):
    model = made(kind).train()
    images = torch.stack([s.image for s in SMEARS]) / 255
    found = model.predict(images, score_threshold=0.02)
    assert model.training
    for a, b in zip(found, predict(model, SMEARS, score_threshold=0.02), strict=True):
        torch.testing.assert_close(a["boxes"], b["boxes"])
        assert torch.equal(a["labels"], b["labels"])


def test_fit_gives_the_last_record(tmp_path):
    recipe, file = Recipe(epochs=2, batch=2, size=64), tmp_path / "last.pt"
    records = list(train(made("ssd"), SMEARS, recipe, val=SMEARS))
    assert fit(made("ssd"), SMEARS, recipe, SMEARS, file) == records[-1] and "AP" in records[-1]
    with pytest.raises(ValueError, match="Nothing was trained"):
        fit(made("ssd"), SMEARS, recipe, SMEARS, file)


@pytest.mark.parametrize("cache", [True, False])
def test_labels_are_looked_at_where_the_batch_is_made(cache):
    """On the CPU, with the picture's name: on a GPU a wrong label would stop the device."""
    wrong = [replace(s, labels=s.labels + 3) for s in SMEARS]
    feed = Feed(wrong, 64, 2, cache=cache, workers=0, num_classes=3)
    with pytest.raises(ValueError, match=r"Picture smear-0-\S+ has the label \d; .* labels 0 to 2"):
        next(iter(feed.epoch(0)))
    empty = Sample(SMEARS[0].image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert len(list(Feed([empty] * 2, 64, 1, cache=cache, workers=0, num_classes=3).epoch(0))) == 2
