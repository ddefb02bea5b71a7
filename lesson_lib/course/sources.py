"""A function of a notebook as a file that works by itself.

standing_alone(f)       its source, after all that it uses of the place where it was written
"""

import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

#: What lessons import at their top, and every kept function may use.
IMPORTS = (
    "import math\n\nimport torch\nimport torch.nn.functional as F\nfrom torch import Tensor, nn\n"
)
PLAIN = (bool, int, float, str, tuple, type(None))


def standing_alone(function: Callable) -> str:
    """Imports, constants and helpers that `function` uses, and then itself.

    Helpers that were written in the same notebook are taken with their source and with what they
    use in turn; what was imported there is imported again. Anything else, and what a closure holds,
    is left out. OSError or TypeError for a function without source.
    """
    pieces = list(_pieces(inspect.unwrap(function), set()))
    imports = [text for kind, text in pieces if kind == "import"]
    others = [text for kind, text in pieces if kind == "other"]
    return "\n\n\n".join([IMPORTS + "".join(sorted(set(imports))), *others]) + "\n"


def made_of(name: str, source: str) -> Any:
    """The function that `source` defines, or the sentence that says why there is none."""
    scope: dict[str, Any] = {}
    try:
        exec(compile(source, f"{name}.py", "exec"), scope)
    except Exception as error:  # whatever a learner's file may raise
        return f"{type(error).__name__}: {error}"
    return scope.get(name, f"the file defines no {name}")


def _pieces(function: Any, seen: set[str]) -> Iterator[tuple[str, str]]:
    """("import" or "other", text) of what it uses, then its own source."""
    source = textwrap.dedent(inspect.getsource(function)).rstrip()
    code, scope = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    for name in sorted(_names(code)) if code else ():
        if name not in scope or name in seen or name == function.__name__:
            continue
        seen.add(name)
        value = scope[name]
        if isinstance(value, ModuleType):
            yield "import", f"import {value.__name__} as {name}\n"
        elif isinstance(value, PLAIN):
            yield "other", f"{name} = {value!r}"
        elif isinstance(value, FunctionType) and value.__globals__ is scope:
            yield from _pieces(value, seen)
        elif hasattr(value, "__module__") and hasattr(value, "__name__"):
            yield "import", f"from {value.__module__} import {value.__name__} as {name}\n"
    yield "other", source


def _names(code: CodeType) -> set[str]:
    """The global names in a function, and in those that are defined inside of it."""
    inner = (_names(part) for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*inner)
