"""Recipes: all that decides a training beside model and data, those of the papers and ours, by
name.

model, recipe = NAMED["retinanet-r50-coco-1x"]
config, recipe = overridden(MODELS[model], recipe, ["lr=0.02", "norm=group", "criterion.gamma=1.5"])
"""

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, NamedTuple, get_origin

from lesson_lib.anchors import PyramidAnchors, Size
from lesson_lib.data.augment import find_augment
from lesson_lib.data.resizing import WAYS, Resizing
from lesson_lib.detectors import tiny
from lesson_lib.detectors.backbones import build_backbone, has_weights
from lesson_lib.detectors.criterion import retinanet_criterion, ssd_criterion
from lesson_lib.detectors.inference import OPTIONS, retinanet_detections, ssd_detections
from lesson_lib.detectors.retinanet import RETINANET_CONFIGS, RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSD_CONFIGS, Extra, SSDConfig
from lesson_lib.detectors.views import check_views
from lesson_lib.training.settings import require_kind, value_of

CHOICES = {
    "optimizer": ("adamw", "sgd"),
    "schedule": ("one-cycle", "cosine", "step", "constant"),
    "precision": ("fp32", "bf16", "fp16", "auto"),
    "resize": WAYS,
    "cache": ("auto", "memory", "workers"),
}
#: Fields that change how fast a run is, and nothing of what comes out of it.
SPEED = ("cache", "workers")
#: The least value of a number; of others: 0.
LEAST = {"epochs": 1, "batch": 1, "accumulate": 1, "size": 1, "evaluate": 1, "workers": -1}
Config = SSDConfig | RetinaNetConfig


@dataclass(frozen=True)
class Recipe:
    """How to train.

    epochs        times that every picture is seen; steps: if not 0, so many steps instead
    batch         pictures in a step, over all processes together; accumulate: parts in which they
                  go through the network, for a GPU with less memory. Losses and gradients are those
                  of the whole batch, only batch norm sees a part
    size          pixels: pictures are brought to size x size, aspect not kept, unless `resize` is
                  another of `data.resizing.WAYS`; longest: as there
    pretrained    begin with the backbone's ImageNet weights, where it has some
    lr            highest learning rate; schedule, warmup, milestones: see `schedule.learning_rate`
    backbone_lr   the backbone's share of it: what was trained before is to be changed less;
                  head_lr: the share of the heads
    momentum      SGD's; weight_decay: of weights, not of biases and norms
    clip          longest gradient: a longer one is shortened to it; 0: never
    augment       see `data.augment.AUGMENTS`
    stored        side of the pictures that augmentation begins with, in sizes: 1 for those that the
                  network would see, 2 for twice as much detail in a crop; 0: the pictures' own
                  size, all the detail there is. They become square first, unless it is 0; where
                  the aspect is kept it is always 0
    cache         "memory": all pictures are decoded once and kept where the model is; "workers":
                  processes read them each time; "auto": memory, up to 4 GiB
    workers       processes that read; 0: none, the training reads itself; -1: one for each core but
                  one, at most 8
    precision     "bf16": the network in bfloat16 (autocast), anchors, matching and losses in
                  float32 all the same; "auto": where the machine calculates in it; "fp16" for GPUs
                  before Ampere, the loss enlarged so that no gradient vanishes (arXiv:1710.03740)
    ema           decay of a running mean of the weights, which is evaluated and kept, .9998 for
                  long trainings; 0: none
    rare          share of the pictures: those with classes that fewer of them show come up more
                  often, see `data.sampling`; 0: all alike. The other way for rare classes is
                  criterion.class_weights, see `detectors.criterion`
    evaluate      epochs between two evaluations, where there are pictures for it
    patience      evaluations without a better AP after which training stops; 0: it never does
    seed          of the pictures' order and augmentation. On a CPU the same seed and number of
                  threads give the same run. On a GPU the seed gives the same batches, and a run
                  that is only nearly the same: cuDNN may take other algorithms, some of them add in
                  whatever order the numbers come, and so sums are rounded otherwise each time
    criterion     options of model.criterion, {"gamma": 0.0} for one; inference: of
                  model.detections, and so of `predict`
    """

    epochs: int = 10
    steps: int = 0
    batch: int = 8
    accumulate: int = 1
    size: int = 128
    resize: str = "square"
    longest: int = 0
    optimizer: str = "adamw"
    pretrained: bool = False
    lr: float = 2e-3
    backbone_lr: float = 1.0
    head_lr: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-2
    schedule: str = "one-cycle"
    warmup: float = 0.1
    milestones: tuple[float, ...] = ()
    clip: float = 10.0
    augment: str = "mirror"
    stored: float = 1.0
    cache: str = "auto"
    workers: int = -1
    precision: str = "fp32"
    ema: float = 0.0
    rare: float = 0.0
    evaluate: int = 1
    patience: int = 0
    seed: int = 0
    criterion: dict[str, Any] = field(default_factory=dict)
    inference: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            kind: Any = get_origin(f.type) or f.type
            wanted = (int, float) if kind is float else kind
            if isinstance(value, bool) is not (kind is bool) or not isinstance(value, wanted):
                raise ValueError(
                    f"{f.name} is {value!r:.60}; give a value of type {kind.__name__}."
                )
            if f.name in CHOICES and value not in CHOICES[f.name]:
                raise ValueError(f"{f.name} is {value!r}; choose {', '.join(CHOICES[f.name])}.")
            least = LEAST.get(f.name, 0)
            if isinstance(value, (int, float)) and not least <= value < float("inf"):
                raise ValueError(f"{f.name} is {value}; give {least} or more.")
        if self.ema >= 1 or self.rare > 1:
            raise ValueError(f"ema is {self.ema}, rare {self.rare}: give shares below 1.")
        if self.warmup >= 1 or any(not 0 < share < 1 for share in self.milestones):
            raise ValueError("warmup and milestones are shares of all steps: give numbers below 1.")
        if 0 < self.stored < 1:
            raise ValueError(
                f"stored is {self.stored}: give 1 or more, in sizes, or 0 for pictures of full "
                "size."
            )
        find_augment(self.augment)
        _ = self.resizing  # refuses what does not go together

    @property
    def resizing(self) -> Resizing:
        """How pictures become the network's input."""
        return Resizing(self.size, self.resize, self.longest)

    @property
    def stored_side(self) -> int:
        """Pixels of a side of the pictures that augmentation begins with; 0: their own."""
        return 0 if self.resizing.keeps_aspect else round(self.stored * self.size)


#: Five maps at strides 8 to 128, scales .07, .185, .3, .415 and .53: chosen by `data.coverage` on
#: BCCD and aquarium.
_SMALL: dict[str, Any] = dict(norm="batch", extras=(Extra(64, 128),) * 2, s_min=0.07, s_max=0.53)
MODELS: dict[str, Config] = {
    "ssd300-vgg16": SSD_CONFIGS["paper-300"],
    "ssd512-vgg16": SSD_CONFIGS["paper-512"],
    "ssd300-vgg16-coco": SSD_CONFIGS["paper-300-coco"],
    "ssd512-vgg16-coco": SSD_CONFIGS["paper-512-coco"],
    "ssd-tiny": SSDConfig(backbone="tiny-24", **_SMALL),
    "ssd-lite0": SSDConfig(backbone="lite0", pretrained=True, l2norm=True, **_SMALL),
    "ssd-r18": SSDConfig(backbone="resnet18"),
    "retinanet-r50": RETINANET_CONFIGS["paper"],
    "retinanet-r34": RetinaNetConfig(backbone="resnet34"),
    "retinanet-r18": RetinaNetConfig(backbone="resnet18"),
    "retinanet-lite0": RetinaNetConfig(
        backbone="lite0", norm="batch", pretrained=True, channels=128
    ),
    "retinanet-tiny": RetinaNetConfig(
        backbone="tiny",
        norm="batch",
        channels=64,
        anchors=PyramidAnchors(sizes=(16, 32, 64, 128, 256)),
    ),
}


class Named(NamedTuple):
    """A recipe and the model that it is for, unless another is asked for."""

    model: str
    recipe: Recipe


#: SSD section 3 and the authors' release: no warm-up, no clipping, nothing frozen. Departures:
#:
#: fc6, fc7    begin at random, not as a sample of the classifier's rows. torchvision begins them so
#:             too, after 1,000 steps of warm-up, and reports the paper's 25.1 AP on COCO (on
#:             val2017, the paper on test-dev2015): no cost is expected.
#: biases      learn at the rate of the weights; the release doubles it (model_libs.py: lr_mult 2).
#:             Neither lets them decay (decay_mult 0). detectron2 gave the doubling up as "not
#:             useful (at least for recent models)": no cost is expected.
#: scale       of conv4_3's L2 norm does not decay here, as no parameter of one dimension does; in
#:             the release it does, by 5e-4 like the weights: no cost is known.
_SSD = Recipe(
    steps=120_000,
    batch=32,
    size=300,
    pretrained=True,
    optimizer="sgd",
    lr=1e-3,
    weight_decay=5e-4,
    schedule="step",
    milestones=(4 / 6, 5 / 6),
    warmup=0,
    clip=0,
    augment="ssd",
    stored=0,
    evaluate=10,
)
#: FL section 4.1: 34.3 AP on COCO's test-dev at 600 px (table 1e), 34.0 on minival (table 1b).
#: What is not in the paper, or departs from it, and what that is expected to cost:
#:
#: warm-up     504 steps up to the full rate, as in its authors' code Detectron (500), which begins
#:             at a third of it; here near 0: worth 85 full steps of 90,000 less, no cost.
#: frozen      stem and first stage, and all batch norms, as in Detectron and torchvision.
#: clipping    none, as in the paper; the loss is watched for numbers that are not finite.
#: biases      learn at the rate of the weights; Detectron doubles it, and lets them not decay
#:             either (modeling/optimizer.py). detectron2 does not double it and has 37.4 AP: no
#:             cost is seen.
#: longest     1000 px on the longer side, Detectron's default; the paper prints no limit.
#: box loss    bends at .11, Detectron's; the paper says "smooth L1" only. detectron2 has 0 on COCO.
#: best match  an object's best anchor stays positive at any overlap, as in detectron2 and
#:             torchvision; Detectron from .4 on. 37.4 AP (detectron2, 1x, 640 to 800 px) and 36.4
#:             (torchvision, 800 px): no cost is to be seen.
#: filling up  sides are multiples of 32 and of few sizes (`Resizing`); torchvision fills up to the
#:             largest of a batch. What is filled up has ImageNet's mean colour: no cost known.
#: weights     torchvision's first ImageNet ResNet-50, 76.1 % top-1 (not its second, 80.9 %, which
#:             was trained in another way); Detectron's is MSRA's, 75.3 %: no cost.
#: data        train2017, which is trainval35k (115k pictures), evaluated on val2017, its minival.
_RETINANET = Recipe(
    steps=90_000,
    batch=16,
    size=600,
    resize="shorter",
    pretrained=True,
    optimizer="sgd",
    lr=0.01,
    weight_decay=1e-4,
    schedule="step",
    milestones=(6 / 9, 8 / 9),
    warmup=0.0056,
    clip=0,
)
_OURS = Recipe(
    epochs=40,
    batch=16,
    size=256,
    lr=4e-3,
    warmup=0.25,
    augment="flips",
    precision="auto",
    evaluate=10,
    inference={"nms_threshold": 0.5},
)
#: From single runs of seed 0 on BCCD's train -> val, most at 256 px for 36 epochs: batches of 8
#: instead of 16 gave AP .555 for .543, lr 8e-3 instead of 4e-3 .558, views without transposition
#: .532 (at 16); weight decay .1, averaged weights and batches of 4 no more. 288 px for 28 epochs:
#: .551, and .584 with NMS at .55 and the vote. On the 292 pictures of trainval these took 188 s on
#: two cores, so that they became 25, for three minutes. loc_weight 2 gave more at 256 px (.568),
#: and less at 288 (.577 with the vote).
_CELLS = replace(
    _OURS,
    epochs=25,
    size=288,
    batch=8,
    lr=8e-3,
    weight_decay=0.05,
    inference={"nms_threshold": 0.55, "vote": 0.65},
)
#: Hard negatives are often cells that the annotators missed; more negatives make each count for
#: less. BCCD's train -> val, AP (AP50) of seeds 0 and 1: three for a positive, one view .574 and
#: .566 (.905, .903), 8 views .593 and .588 (.904, .907); ten, 8 views .596 and .594 (.910, .908).
#: In bf16, which some processors calculate half as fast again, 36 epochs take as long: .599 and
#: .604 (.912, .911). 22 epochs .586 and .587 (.905, .903), 28 at 256 px .581 and .584 (.895, .893).
#: These with each score its surest view's, and NMS at .5. The mean over the views, NMS at .45 and
#: scores from .002 on, of four such trainings, in the mean: AP .596 for .595, AP50 .909 for .907,
#: best F1 .818 for .817; NMS at .4: .595, .909, .821. Steps of 192 px before those of 288 (17 of 34
#: epochs) took as long and gave less: .565 (.896).
_MORE_NEGATIVES = replace(
    _CELLS,
    criterion={"ratio": 10.0},
    inference={"nms_threshold": 0.45, "vote": 0.65, "views": 8, "score_threshold": 0.002},
)
_SMEARS = replace(_OURS, epochs=28, size=288, weight_decay=0.05)
#: Ten minutes on two cores are too few for strong augmentation: 24 epochs of "mirror" on aquarium's
#: train came to loss 3.9 (val: AP .044, AP50 .127, still rising), 46 of "photos" at twice the rate
#: on trainval to 4.8.
_UPRIGHT = replace(_CELLS, epochs=36, size=320, lr=4e-3, augment="mirror")
_CI = replace(_OURS, epochs=2, size=128, precision="fp32", evaluate=2)
#: The full networks on a small data set; not tried on a GPU yet. AdamW at 1e-4 is what torchvision
#: trains its RetinaNet v2 with (pull request 5756), and what the backbone gets; what begins at
#: random learns ten times as fast.
_GPU = replace(
    _OURS,
    epochs=150,
    size=512,
    pretrained=True,
    lr=1e-3,
    backbone_lr=0.1,
    augment="photos",
    stored=2,
)
NAMED = {
    # SSD section 3.1 and 3.6: 40k + 10k + 10k steps, twice as many with the larger canvas: 77.2 mAP
    # on VOC07 test.
    "ssd300-voc": Named("ssd300-vgg16", _SSD),
    "ssd512-voc": Named("ssd512-vgg16", replace(_SSD, size=512)),  # 79.8
    # Section 3.4: 160k + 40k + 40k, twice as many again, smaller default boxes: 25.1 AP on
    # test-dev2015, SSD512 28.8.
    "ssd300-coco": Named("ssd300-vgg16-coco", replace(_SSD, steps=480_000)),
    "ssd512-coco": Named("ssd512-vgg16-coco", replace(_SSD, steps=480_000, size=512)),
    "retinanet-r50-coco-1x": Named("retinanet-r50", _RETINANET),
    "smears-ci": Named("ssd-tiny", _CI),
    "bccd-ci": Named("ssd-tiny", _CI),
    "any-ci": Named("ssd-tiny", _CI),
    "smears-laptop": Named("ssd-tiny", _SMEARS),
    "bccd-laptop": Named("ssd-tiny", _CELLS),
    "bccd-laptop-ssd-tiny": Named("ssd-tiny", _MORE_NEGATIVES),
    "aquarium-laptop": Named("ssd-tiny", _UPRIGHT),
    "any-laptop": Named("ssd-tiny", _UPRIGHT),
    # On BCCD's val, 12 epochs at 256 px: lr 2e-3 gave AP .476, 5e-3 .517, 8e-3 with all up to
    # stride 4 frozen .498.
    "bccd-laptop-ssd-lite0": Named("ssd-lite0", replace(_CELLS, epochs=9, size=256, lr=5e-3)),
    "any-laptop-ssd-lite0": Named("ssd-lite0", replace(_UPRIGHT, epochs=9, lr=5e-3)),
    # On BCCD's val, 10 epochs at 288 px, batch norm, seed 0: lr 8e-3 gave AP .453 (AP50 .837), 4e-3
    # .484 (.863).
    "bccd-laptop-retinanet-tiny": Named("retinanet-tiny", replace(_CELLS, epochs=12, lr=4e-3)),
    "smears-laptop-retinanet-tiny": Named("retinanet-tiny", replace(_CELLS, epochs=12, lr=4e-3)),
    "smears-gpu": Named("ssd-tiny", replace(_OURS, epochs=100)),
    "bccd-gpu": Named("ssd300-vgg16", _GPU),
    "aquarium-gpu": Named("retinanet-r50", _GPU),
    "any-gpu": Named("retinanet-r50", _GPU),
}


def find_recipe(data: str, budget: str, model: str | None = None) -> str:
    """The name of our recipe for a data set at a budget, for this model if it has one of its own;
    "any-..." where the data set has none. model: None for the one that the data set's recipe has.
    """
    shared = next(name for name in (f"{data}-{budget}", f"any-{budget}") if name in NAMED)
    model = model or NAMED[shared].model
    own = (f"{where}-{budget}-{model}" for where in (data, "any"))
    return next((name for name in own if name in NAMED), shared)


#: Fields of a config that follow from the data, or are no plain value.
NOT_SET = {"num_classes", "image_size", "anchors", "extras"}
#: What may be set of RetinaNet's anchors, for objects that the paper's fit badly; the names of
#: PyramidAnchors.
ANCHORS = {"sizes", "scales", "aspect_ratios"}


def overridden(config: Config, recipe: Recipe, settings: Sequence[str]) -> tuple[Config, Recipe]:
    """Config and recipe after "field=value", ..., fields of either; "criterion.gamma=0" sets one
    option.

    Values are written as in Python, words need no quotes. ValueError with the nearest name for an
    unknown one. Default boxes made for one size bring the recipe to it, unless the size is set.
    A recipe that says `pretrained` makes the config begin with the backbone's weights, with the
    norm that goes with them, unless the settings say otherwise; without weights the norm is one
    that learns. So what comes out can be trained, or was asked for.
    """
    mine = {f.name for f in fields(recipe)} - {"criterion", "inference", "pretrained"}
    theirs = {f.name for f in fields(config)} - NOT_SET
    known = sorted(mine | theirs | _options(config))
    changes: dict[str, Any] = (
        {"size": config.image_size} if isinstance(config, SSDConfig) and config.anchors else {}
    )
    for setting in settings:
        name, equals, text = setting.partition("=")
        if name not in known or not equals:
            near = get_close_matches(name, known, 1, 0.4)
            raise ValueError(
                f"{setting!r} sets nothing"
                + (f"; did you mean {near[0]}=...?" if near else ";")
                + f" There are {', '.join(known)}."
            )
        changes[name] = (
            text if name in mine and isinstance(getattr(recipe, name), str) else value_of(text)
        )
        if name in theirs:
            require_kind(name, changes[name], type(config), name)
        elif name not in mine:
            kind, _, option = name.partition(".")
            require_kind(name, changes[name], _rules(config)[kind], option)
    nested = {
        kind: getattr(recipe, kind)
        | {
            name.split(".")[1]: value
            for name, value in changes.items()
            if name.startswith(f"{kind}.")
        }
        for kind in ("criterion", "inference")
    }
    config = replace(config, **{name: value for name, value in changes.items() if name in theirs})
    config = _laid_out(config, changes)
    _check_inference(config, nested["inference"])
    recipe = replace(
        recipe, **{name: value for name, value in changes.items() if name in mine}, **nested
    )
    return _able_to_start(config, recipe, set(changes))


def _check_inference(config: Config, options: dict[str, Any]) -> None:
    """ValueError for an option that no config may hold, or for views that there are not."""
    replace(config, **{name: options[name] for name in OPTIONS if name in options})
    check_views(options.get("views", 1))


def _laid_out(config: Config, changes: dict[str, Any]) -> Config:
    """The config with what the changes say of RetinaNet's anchors: "anchors.sizes", ..."""
    if not isinstance(config, RetinaNetConfig):
        return config
    named = {name: f"anchors.{name}" for name in ANCHORS}
    laid = {name: changes[full] for name, full in named.items() if full in changes}
    return replace(config, anchors=replace(config.anchors, **laid))


#: The nearest to those of the papers, which a paper's recipe begins with; torchvision's newest
#: ResNet-50 was trained longer and in another way, and goes with AdamW (its pull request 5756).
FIRST_WEIGHTS = {"resnet50": "IMAGENET1K_V1"}


def _able_to_start(config: Config, recipe: Recipe, asked: set[str]) -> tuple[Config, Recipe]:
    """Weights and norm that go together, where the names in `asked` leave it open."""
    name = config.backbone
    if recipe.pretrained and "pretrained" not in asked and name not in tiny.SIZES:
        stays = "norm" in asked or name == "lite0"
        norm = config.norm if stays else None if name == "vgg16" else "frozen"
        resnet = name.startswith("resnet") and "freeze" not in asked
        freeze = ("conv1", "layer1") if resnet else config.freeze
        if has_weights(name, norm):
            weights = FIRST_WEIGHTS.get(name, True) if recipe.optimizer == "sgd" else True
            return replace(config, pretrained=weights, norm=norm, freeze=freeze), recipe
    if config.pretrained:
        return config, replace(recipe, pretrained=True)
    return from_scratch(config, recipe, asked)


def from_scratch(
    config: Config, recipe: Recipe, asked: Collection[str] = ()
) -> tuple[Config, Recipe]:
    """The same without pretrained weights: nothing is frozen, the norm learns, one rate for all.

    VGG16 takes batch norm: with it the whole SSD300 came to AP50 .89 on BCCD from scratch, in
    batches of four (results/detectors.json; no run of it with group norm is recorded). ResNets take
    group norm, which small batches do not disturb (arXiv:1803.08494); the whole RetinaNet came to
    .78 with it (the same file).

    asked: names of fields that somebody has set, and that stay.
    """
    changes: dict[str, Any] = {"pretrained": False}
    if config.norm in (None, "frozen") and "norm" not in asked:
        changes["norm"] = "batch" if config.backbone == "vgg16" else "group"
    if "freeze" not in asked:
        changes["freeze"] = ()
    share = recipe.backbone_lr if "backbone_lr" in asked else 1.0
    return replace(config, **changes), replace(recipe, pretrained=False, backbone_lr=share)


def with_weights(
    config: Config, recipe: Recipe, settings: Sequence[str]
) -> tuple[Config, Recipe, str]:
    """Config and recipe, and "", where the backbone's weights can be had or are not wanted.

    Else what trains from scratch, and a sentence that says so and what it costs; ValueError where
    the settings ask for pretrained weights.
    """
    asked = {setting.partition("=")[0] for setting in settings}
    if not config.pretrained:
        return config, recipe, ""
    try:
        build_backbone(config.backbone, config.norm, config.pretrained, config.nodes)
    except (RuntimeError, ModuleNotFoundError) as error:
        if "pretrained" in asked:
            raise ValueError(str(error)) from error
        config, recipe = from_scratch(config, recipe, asked)
        return config, recipe, _SCRATCH.format(config.backbone, error.__cause__ or error)
    return config, recipe, ""


_SCRATCH = (
    "The ImageNet weights of {} are not to be had ({}): the backbone starts from scratch, which "
    "costs AP: on COCO unless it trains two to three times as long, on VOC's fewer pictures even "
    "then (arXiv:1811.08883); to have them, begin anew with a network and another --out."
)


def _options(config: Config) -> set[str]:
    """ "criterion.gamma", ...: the options of this kind of detector that a recipe may set."""
    options = {
        f"{kind}.{p.name}"
        for kind, rule in _rules(config).items()
        for p in inspect.signature(rule).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    options -= {"criterion.normaliser", "criterion.variances", "criterion.levels"}
    options -= {"inference.variances", "inference.counts", "inference.sizes"}
    pyramid = isinstance(config, RetinaNetConfig)
    return options | {f"anchors.{name}" for name in ANCHORS if pyramid}


def _rules(config: Config) -> dict[str, Callable]:
    """What of this kind of detector has options that a recipe may set."""
    if isinstance(config, SSDConfig):
        return {"criterion": ssd_criterion, "inference": ssd_detections}
    return {
        "criterion": retinanet_criterion,
        "inference": retinanet_detections,
        "anchors": PyramidAnchors,
    }


def build_model(config: Config, num_classes: int, size: Size) -> SSD | RetinaNet:
    """The detector for `num_classes` classes; default boxes that fit no size yet are laid out for
    `size`.
    """
    try:
        if isinstance(config, RetinaNetConfig):
            return RetinaNet(replace(config, num_classes=num_classes, image_size=size))
        return SSD(
            replace(
                config,
                num_classes=num_classes,
                image_size=config.image_size if config.anchors else size,
            )
        )
    except RuntimeError as error:  # pretrained weights that cannot be had
        raise ValueError(str(error)) from error
