"""The learner's own functions: kept when a check has passed, and asked for by later lessons and
playgrounds.

    mine("pairwise_iou")                                      the learner's, or this library's where
                                                              there is none
    whose("pairwise_iou")                                     "your pairwise_iou" or "lesson_lib's
                                                              pairwise_iou"

`check` keeps a function that passed, if it works by itself as well, outside of its notebook. It is
tried on its exercise again when it is fetched: one that was broken since is told and left alone.
LESSON_PROGRESS=none keeps and fetches nothing.
"""

import importlib
from collections.abc import Callable

from lesson_lib.course import checks, progress
from lesson_lib.course.sources import made_of

#: Where this library has each function that a learner's may stand for.
LIBRARY = {
    "pairwise_iou": "lesson_lib.boxes",
    "encode": "lesson_lib.coding",
    "decode": "lesson_lib.coding",
    "ssd_scales": "lesson_lib.anchors",
    "default_boxes": "lesson_lib.anchors",
    "boxes_of_map": "lesson_lib.course.anchor_pictures",
    "match_index": "lesson_lib.course.matching_pictures",
    "sigmoid_focal_loss": "lesson_lib.losses",
    "hard_negative_mask": "lesson_lib.mining",
    "implied_ratio": "lesson_lib.course.mining_pictures",
    "nms": "lesson_lib.nms",
    "receptive_field": "lesson_lib.course.fields",
    "l2norm": "lesson_lib.course.pieces",
    "top_down": "lesson_lib.course.pieces",
    "flatten_predictions": "lesson_lib.detectors.heads",
    "address": "lesson_lib.course.pieces",
    "ssd_loss": "lesson_lib.course.pieces",
    "retinanet_loss": "lesson_lib.course.pieces",
    "held": "lesson_lib.course.paired",
    "join_tiles": "lesson_lib.data.tiles",
    "atss_positives": "lesson_lib.course.after_pictures",
    "centreness_of": "lesson_lib.course.after_pictures",
}
_FETCHED: dict[str, tuple[str, Callable]] = {}  # name -> source and the function made of it


def mine(name: str) -> Callable:
    """The learner's `name` if one is kept and works, else this library's.

    KeyError for another name.
    """
    return _learners(name) or library(name)


def whose(name: str) -> str:
    """ "your pairwise_iou" or "lesson_lib's pairwise_iou", to be said beside what it draws."""
    return f"your {name}" if _learners(name) else f"lesson_lib's {name}"


def library(name: str) -> Callable:
    """This library's function of that name."""
    return getattr(importlib.import_module(LIBRARY[name]), name)


def _learners(name: str) -> Callable | None:
    source = progress.kept_function(name)
    if source is None:
        return None
    if name in _FETCHED and _FETCHED[name][0] == source:
        return _FETCHED[name][1]
    function = made_of(name, source)
    if wrong := checks.fault_of(function, source):
        print(f"Your kept {name} was tried again and failed, so the library's is used ({wrong}).")
        return None
    _FETCHED[name] = source, function
    return function
