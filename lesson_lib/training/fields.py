"""Configs and recipes as plain fields, and back: what run.json, checkpoints and shipped weights
hold.

A config becomes {"kind": "SSDConfig", field: value, ...}, as JSON can hold it. It is read by the
names of its fields: one that did not exist yet takes its default, one that has another name today
is found by RENAMED, one of a later version of this package is refused. So whoever adds a field
gives it the default that means what was before.
"""

import ast
import inspect
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from lesson_lib.anchors import DefaultBoxes, PyramidAnchors
from lesson_lib.detectors.inference import retinanet_detections, ssd_detections
from lesson_lib.detectors.retinanet import RetinaNetConfig
from lesson_lib.detectors.ssd import Extra, SSDConfig
from lesson_lib.training.recipes import SPEED, Config, Recipe

KINDS = {
    kind.__name__: kind
    for kind in (SSDConfig, RetinaNetConfig, DefaultBoxes, PyramidAnchors, Extra)
}
#: What fields and options were called before, by the name of what they belong to.
RENAMED: dict[str, dict[str, str]] = {
    "SSDConfig": {"boxes": "anchors"},
    "RetinaNetConfig": {"spec": "anchors", "keep": "max_detections"},
    "DefaultBoxes": {"steps": "strides"},
    "Recipe": {"drops": "milestones"},
    "inference": {
        "score": "score_threshold",
        "nms": "nms_threshold",
        "keep": "max_detections",
    },
}


def config_fields(config: Config) -> dict[str, Any]:
    """A config, and the anchors in it, as JSON holds them:
    dicts with "kind", lists, numbers, text.
    """
    return _plain(config)


def recipe_fields(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON holds it."""
    return _plain(asdict(recipe))


def read_config(saved: dict[str, Any] | str, file: Path) -> Config:
    """What `config_fields` made, of this version or an earlier one; the earliest wrote
    `repr(config)`.

    ValueError with one sentence that names `file` where it holds fields that this version does not
    know.
    """
    try:
        config = _built(_parsed(saved) if isinstance(saved, str) else saved, file)
    except (TypeError, SyntaxError, AttributeError) as error:
        raise ValueError(f"{file} holds no config that can be read: {error}.") from error
    if not isinstance(config, SSDConfig | RetinaNetConfig):
        raise ValueError(f"{file} holds no config that can be read, but {saved!r}.")
    return config


def read_recipe(saved: dict[str, Any], file: Path) -> Recipe:
    """What `recipe_fields` made, of this version or an earlier one.

    ValueError as for `read_config`.
    """
    named = _known_names("Recipe", saved, {f.name for f in fields(Recipe)}, file)
    named = {name: _tuples(value) for name, value in named.items()}
    if "inference" in named:
        named["inference"] = _known_names("inference", named["inference"], _options(), file)
    return Recipe(**named)


def differences(then: Any, now: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(name, value then, value now) of each field in which two dataclasses differ, dotted where
    nested; what makes a run faster or slower, and nothing else, makes no difference.
    """
    found = []
    for name in (f.name for f in fields(now) if f.name not in SPEED):
        old, new = getattr(then, name), getattr(now, name)
        if is_dataclass(new) and type(old) is type(new):
            found += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append((f"{prefix}{name}", old, new))
    return found


def _plain(value: Any) -> Any:
    if type(value).__name__ in KINDS:
        names = getattr(value, "_fields", None) or [field.name for field in fields(value)]
        inner = {name: _plain(getattr(value, name)) for name in names}
        return {"kind": type(value).__name__} | inner
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value


def _built(value: Any, file: Path) -> Any:
    """The inverse of `_plain`; lists become tuples, as all configs hold them."""
    if isinstance(value, list | tuple):
        return tuple(_built(part, file) for part in value)
    if not isinstance(value, dict):
        return value
    kind = KINDS.get(value.get("kind", ""))
    if kind is None:
        raise ValueError(f"{file} {_LATER.format(value.get('kind'))}")
    known = set(kind._fields if issubclass(kind, tuple) else (f.name for f in fields(kind)))
    named = {name: part for name, part in value.items() if name != "kind"}
    named = _known_names(kind.__name__, named, known, file)
    return kind(**{name: _built(part, file) for name, part in named.items()})


_LATER = (
    "was written by another version of lesson_lib, this one does not know {}: take the version "
    "that made it, or train anew."
)


def _known_names(kind: str, saved: dict[str, Any], known: set[str], file: Path) -> dict[str, Any]:
    """`saved` under the names of today. ValueError for one that is none of `known`."""
    renamed = RENAMED.get(kind, {})
    today = {
        name if name in known else renamed.get(name, name): value for name, value in saved.items()
    }
    strange = sorted(today.keys() - known)
    if strange:
        raise ValueError(f"{file} {_LATER.format(' and '.join(f'{kind}.{n}' for n in strange))}")
    return today


def _options() -> set[str]:
    """The options of both models' inference."""
    return {
        parameter.name
        for rule in (ssd_detections, retinanet_detections)
        for parameter in inspect.signature(rule).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(part) for part in value)
    if isinstance(value, dict):
        return {name: _tuples(part) for name, part in value.items()}
    return value


def _parsed(text: str) -> Any:
    """`repr(config)` as fields, without running it: only names, literals, tuples and calls by
    keyword.
    """

    def read(node: ast.expr) -> Any:
        if isinstance(node, ast.Call):
            values = {keyword.arg: read(keyword.value) for keyword in node.keywords}
            return {"kind": ast.unparse(node.func)} | values
        if isinstance(node, ast.Tuple | ast.List):
            return [read(part) for part in node.elts]
        return ast.literal_eval(node)

    return read(ast.parse(text, mode="eval").body)
