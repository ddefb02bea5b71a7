"""To begin with the weights of another detector, whatever its classes: `train --init`.

source = read_source("ssd-tiny-bccd")             or the folder of a run, or a file of weights
print(take_weights(model, source, classes))       "From ssd-tiny-bccd 96 of 106 tensors ..."
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lesson_lib import weights
from lesson_lib.detectors.retinanet import RetinaNet
from lesson_lib.detectors.ssd import SSD
from lesson_lib.detectors.torchvision_weights import our_name
from lesson_lib.training import runs
from lesson_lib.training.recipes import Config, Recipe, overridden

CLASSES, BOXES = "heads.cls.", "heads.box."  # the last layers: what they say depends on the classes
#: What must be the same for a layer of offsets to mean the same, as far as a config has it.
OFFSETS = ("anchors", "s_min", "s_max", "variances")
FOR_BATCH = ("batch", "frozen")  # norms that mean the same to weights


@dataclass(frozen=True, eq=False)
class Source:
    """Weights to begin with; model, config and classes are None where the file does not tell."""

    name: str
    weights: Mapping[str, Tensor]
    model: str | None = None
    config: Config | None = None
    classes: tuple[str, ...] | None = None


def read_source(name: str) -> Source:
    """A detector that comes with the package, the folder of a run, one of its checkpoints, or a
    file of torchvision's weights. ValueError with one sentence where it is none of them.
    """
    path = Path(name)
    if path.suffix == ".pt" and (path.parent / runs.ABOUT).is_file():
        model, _, about = runs.load(path.parent, checkpoint=path.stem)
    elif path.is_file():
        return Source(name, _torchvisions(path))
    else:
        model, _, about = runs.load(name)
    config, classes = model.config, tuple(about["classes"])
    return Source(name, model.state_dict(), about["model"], config, classes)


def _torchvisions(file: Path) -> Mapping[str, Tensor]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes make torch's reader stumble over
        raise ValueError(
            f"{file} holds no weights that can be read: give a run, one of "
            f"{', '.join(weights.names())}, or a file of torchvision's weights."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{file} is no state dict of torchvision's: it holds more than tensors.")
    return state


def beginning(config: Config, recipe: Recipe, settings: Sequence[str]) -> tuple[Config, Recipe]:
    """`overridden`, for a model that begins with other weights than ImageNet's: its norm stays that
    of `config`, with which they were trained, and the backbone keeps its share of the rate.
    """
    asked = {setting.partition("=")[0] for setting in settings}
    share, norm = recipe.backbone_lr, config.norm
    config, recipe = overridden(config, recipe, settings)
    if "norm" not in asked:
        config = replace(config, norm=norm)
    if "backbone_lr" not in asked:
        recipe = replace(recipe, backbone_lr=share)
    return replace(config, pretrained=False), replace(recipe, pretrained=False)


def take_weights(model: SSD | RetinaNet, source: Source, classes: Sequence[str]) -> str:
    """Puts all of the source's weights that fit into the model, and says in one sentence which.

    The layers that name classes are taken where the classes are the same, in this order; those of
    offsets where the anchors are. ValueError with one sentence where the backbone does not fit.
    """
    _check_norms(model, source)
    theirs = {our_name(model, name): value for name, value in source.weights.items()}
    ours, left = model.state_dict(), _not_meant(model, source, classes)
    taken = {
        name: value
        for name, value in theirs.items()
        if name in ours and value.shape == ours[name].shape and not name.startswith(left)
    }
    if not any(name.startswith("backbone.") for name in taken):
        raise ValueError(
            f"{source.name} fits no part of this model's backbone: give --model as it is there"
            + (f", {source.model}." if source.model else ".")
        )
    model.load_state_dict({**ours, **taken})
    anew = [name for name in ours if name not in taken and "num_batches" not in name]
    made = f"made anew: {', '.join(_places(anew))}" if anew else "nothing is made anew"
    total = len(taken) + len(anew)
    return f"From {source.name} {len(taken)} of {total} tensors are taken; {made}."


def _not_meant(model: SSD | RetinaNet, source: Source, classes: Sequence[str]) -> tuple[str, ...]:
    """The beginnings of names whose weights fit, perhaps, and mean something else."""
    same = [getattr(source.config, n, 0) == getattr(model.config, n, 0) for n in OFFSETS]
    left = () if source.config is not None and all(same) else (BOXES,)
    return left if source.classes == tuple(classes) else (*left, CLASSES)


def _check_norms(model: SSD | RetinaNet, source: Source) -> None:
    theirs = source.config.norm if source.config is not None else "batch"
    ours = model.config.norm
    if source.config is None and model.config.backbone == "vgg16":
        theirs = None
    if ours != theirs and not (ours in FOR_BATCH and theirs in FOR_BATCH):
        raise ValueError(
            f"{source.name} was trained with norm={theirs}, which means nothing to norm={ours}: "
            f"add --set norm={theirs}."
        )


def _places(names: Sequence[str]) -> list[str]:
    """["heads.cls", "fpn.p6", ...]: the first two parts of the names, each once."""
    return list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
