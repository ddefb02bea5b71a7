"""What somebody writes as a setting: text to a value, and whether the value is of the kind that is
asked for.
"""

import ast
import math
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def value_of(text: str) -> Any:
    """Text as a Python value: numbers, True, None, tuples; a word is a word without quotes too."""
    words = {"true": True, "false": False, "none": None, "nan": math.nan, "inf": math.inf}
    try:
        value = words[text.lower()] if text.lower() in words else ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return tuple(value) if isinstance(value, list) else value


def require_kind(name: str, value: Any, owner: type | Callable, field: str) -> None:
    """ValueError with one sentence unless `value` is what `field` of a dataclass, or the argument
    of a function, is annotated with.
    """
    hint = get_type_hints(owner)[field]
    if not _fits(value, hint):
        raise ValueError(f"{name} is {value!r:.60}; give {_told(hint)}.")


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts and type(value) in map(type, parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if parts[-1:] == (...,):
            return all(_fits(one, parts[0]) for one in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _told(hint: Any) -> str:
    """A kind in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_told, parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is tuple:
        inside = [_told(parts[0])] * 2 + ["..."] if ... in parts else map(_told, parts)
        return f"({', '.join(inside)})"
    words = {
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        str: "a word",
        types.NoneType: "None",
    }
    return words.get(hint, getattr(hint, "__name__", str(hint)))
