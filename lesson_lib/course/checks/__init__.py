"""Exercises that check themselves: `check("01.decode", my_decode)` prints one line and never
raises.

    ○ not attempted yet       the stub is still a stub
    ○ right so far            what was answered agrees, some has no answer yet
    ✓ ...                     every case agrees
    ✗ case, expected, got     the first case that does not; `hint("01.decode")` then gives the next
                              of three hints

The cases of lesson NN stand in lesson_lib/course/checks/lessonNN.py, in a dict EXERCISES: name ->
Exercise.
"""

import copy
import importlib
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lesson_lib.course import progress
from lesson_lib.course.sources import made_of

TODO, DONE, WRONG = "○", "✓", "✗"


@dataclass(frozen=True)
class Case:
    """One call: `args` for the learner's function, what it must return, and a name that says what
    is tried.
    """

    why: str
    args: tuple
    expected: Any


@dataclass(frozen=True)
class Exercise:
    """What is right for one exercise.

    cases      tried in this order, the plainest first; for an answer that is a value, one case
               without args
    praise     the sentence after ✓: what has now been shown
    tolerance  absolute and relative, for numbers and tensors
    fresh      draws one more case at each attempt, so that no answer can be written for the fixed
               ones alone
    refused    functions of this library and of torchvision that would be the answer, by name: a
               call is told
    hints      three steps, from "where to look" to "what to do", none of which is the line itself
    serves     the name under which a function that passed is kept and drives later lessons, see
               `course.mine`
    gate       a second exercise and what makes its answer of this one: without passing it too,
               nothing is kept
    learns     (case, watched): the gradient of what the answer returns, by each argument of the
               case whose name is watched, is compared with a finite difference, for what will
               train something; watched: name -> position among the args
    """

    cases: Sequence[Case]
    praise: str
    tolerance: float = 1e-4
    fresh: Callable[[random.Random], Case] | None = None
    refused: Sequence[str] = ()
    hints: Sequence[str] = ()
    serves: str = ""
    gate: tuple[str, Callable[[Any], Any]] | None = None
    learns: tuple[Case, dict[str, int]] | None = None


@runtime_checkable
class Judge(Protocol):
    """A right answer that says itself what is wrong with another one."""

    def fault(self, got: Any) -> str:
        """What speaks against `got`; "" when it is right."""
        ...


class Untold(str):
    """A right word (a diagnosis, a choice) that no message shows to who gave another one."""

    def __repr__(self) -> str:
        return "something else: look again"


class Choice(str):
    """The right word of several, a diagnosis or a decision; a wrong one is told why it cannot be.

    reasons  wrong word -> one sentence that refutes it by what the learner has before them, and
             does not name the right word; with the right word, these are all there are
    """

    reasons: dict[str, str]

    def __new__(cls, right: str, reasons: dict[str, str]) -> "Choice":
        choice = super().__new__(cls, right)
        choice.reasons = reasons
        return choice

    def fault(self, got: Any) -> str:
        """What speaks against `got`; "" when it is right."""
        if got == self:
            return ""
        if isinstance(got, str) and got in self.reasons:
            return f'"{got}" is not it: {self.reasons[got]}'
        words = ", ".join(f'"{word}"' for word in sorted({str(self), *self.reasons}))
        return f"{_short(got)} is none of the words; they are {words}"


class UntoldNumber(float):
    """A right number of which the same holds.

    reasons  wrong number -> one sentence that refutes it, as those of `Choice`
    """

    reasons: dict[float, str]

    def __new__(cls, right: float, reasons: dict[float, str]) -> "UntoldNumber":
        number = super().__new__(cls, right)
        number.reasons = reasons
        return number

    def fault(self, got: Any) -> str:
        """What speaks against `got`, if there is a sentence for it."""
        reason = self.reasons.get(got, "") if isinstance(got, int | float) else ""
        return f"{got} is not it: {reason}" if reason else ""

    def __repr__(self) -> str:
        return "something else: look again"

    def __format__(self, spec: str) -> str:
        return repr(self)


class Told(str):
    """What a wrapper of a learner's function returns in its place: the verdict itself, whatever the
    case.
    """


#: How many hints were given in this kernel, by exercise.
_GIVEN: dict[str, int] = {}


def check(name: str, answer: Any) -> None:
    """Try a learner's function (or value) on every case of exercise `name`; print the verdict in
    one line.

    What passes counts as solved (`course.progress`). A function that later lessons use is tried
    once more, as a file that works by itself, and kept (`course.mine`). Where that fails on a case
    that the function itself fails on too, only this verdict is printed.
    """
    line, exercise = verdict(name, answer), find(name)
    if not line.startswith(DONE) or not isinstance(exercise, Exercise) or _is_solution(answer):
        print(line)
        return
    serves = exercise.serves if exercise.serves and _may_serve(exercise, answer) else ""
    source = progress.source_of(serves, name, answer) if serves else None
    seed = random.Random().getrandbits(32)
    fault = fault_of(made_of(serves, source), source, seed) if source else ""
    if fault and not (again := verdict(name, answer, seed)).startswith(DONE):
        print(again)  # its first draw was a lucky one
        return
    print(line)
    progress.record_exercise(name)
    if fault:
        print(
            f"  Later lessons go on with the library's {serves}, since yours does not work by "
            f"itself ({fault}). Write it as one def with all that it uses inside, and check it "
            "again."
        )
    elif source:
        progress.keep_function(serves, source)


def fault_of(function: Any, source: str, seed: int | None = None) -> str:
    """What is wrong with a function of the file `source`, as `sources.made_of` gives it; "" when it
    passes the exercise named in the file's first line, with the fresh case that `seed` draws.
    """
    if isinstance(function, str):
        return function
    exercise = source.partition("as it passed ")[2].partition(". Lessons")[0]
    line = verdict(exercise, function, seed)
    return "" if line.startswith(DONE) else line


def _may_serve(exercise: Exercise, answer: Any) -> bool:
    """Whether later lessons may run on this answer, which passed its own cases."""
    if not callable(answer) or exercise.gate is None:
        return callable(answer)
    other, made_of = exercise.gate
    return verdict(other, made_of(answer)).startswith(DONE)


def hint(name: str) -> None:
    """Print the next of the hints of exercise `name`; after the last one it is given again."""
    exercise = find(name)
    if isinstance(exercise, str) or not exercise.hints:
        print(
            exercise
            if isinstance(exercise, str)
            else f"{name} has no hints: look at the picture above it."
        )
        return
    step = min(_GIVEN.get(name, 0), len(exercise.hints) - 1)
    _GIVEN[name] = step + 1
    print(f"Hint {step + 1} of {len(exercise.hints)}: {exercise.hints[step]}")


def _is_solution(answer: Any) -> bool:
    return getattr(answer, "__name__", "").endswith("_solution")


def verdict(name: str, answer: Any, seed: int | None = None) -> str:
    """The line that `check` prints; `seed` draws the fresh case, None another one each time."""
    exercise = find(name)
    if isinstance(exercise, str):
        return exercise
    more = [exercise.fresh(random.Random(seed))] if exercise.fresh else []
    cases = (*exercise.cases, *more)
    to_go = []
    for case in cases:
        with _watched(exercise.refused) as borrowed:
            got = _call(answer, case)
        if borrowed:
            return (
                f"{WRONG} {name}: your function calls {borrowed[0]}, which is the answer itself. "
                "Write it out; from the next lesson on you may call it."
            )
        if _untouched(got):
            to_go.append(case.why)
            continue
        if isinstance(got, Told):
            return f"{WRONG} {name}: {got}"
        fault = (
            got if isinstance(got, _Fault) else difference(got, case.expected, exercise.tolerance)
        )
        if fault:
            return f"{WRONG} {name}, {case.why}: {fault}"
    if len(to_go) == len(cases):
        return f"{TODO} not attempted yet: {name}"
    if to_go:
        return (
            f"{TODO} {name}: right so far, without an answer for {len(to_go)} of {len(cases)}: "
            f"{', '.join(to_go)}"
        )
    if exercise.learns and (fault := _gradient_fault(answer, *exercise.learns)):
        return f"{WRONG} {name}, {fault}"
    return f"{DONE} {name}: {exercise.praise}"


def _gradient_fault(answer: Callable, case: Case, watched: dict[str, int]) -> str:
    """What is wrong with the gradient by the watched arguments, in words; "" when nothing is.

    Along one direction, fixed for each argument, against a central difference; the case must lie
    away from kinks and ties.
    """
    step = 1e-2
    for argument, place in watched.items():
        args = list(copy.deepcopy(case.args))
        at = args[place].clone().requires_grad_()
        direction = torch.randn(at.shape, generator=torch.Generator().manual_seed(0))
        args[place] = at
        total = _total(answer(*args))
        if not isinstance(total, Tensor) or not total.requires_grad:
            return (
                f"{case.why}: the numbers are right, but no gradient reaches {argument}, so "
                "nothing could be learned (.item(), .detach(), torch.tensor(...) cut it off)"
            )
        (gradient,) = torch.autograd.grad(total, at)
        if not gradient.isfinite().all():
            return (
                f"{case.why}: the numbers are right, but the gradient by {argument} is not finite"
            )
        ends = []
        for sign in (1, -1):
            args[place] = case.args[place] + sign * step * direction
            ends.append(float(_total(answer(*args))))
        expected, got = (ends[0] - ends[1]) / (2 * step), float((gradient * direction).sum())
        if abs(got - expected) > 0.02 * max(0.1, abs(expected)):
            return (
                f"{case.why}: the numbers are right, but the gradient by {argument} is not theirs: "
                "a part of the formula is cut off from it (.detach(), no_grad)"
            )
    return ""


def _total(got: Any) -> Any:
    """The numbers in what a function returned, weighted so that no error cancels, and added up."""
    parts = got if isinstance(got, tuple | list) else (got,)
    return sum(_weighted(part) if isinstance(part, Tensor) else part for part in parts)


def _weighted(part: Tensor) -> Tensor:
    return (part.flatten() * torch.arange(part.numel()).cos()).sum()


@contextmanager
def _watched(refused: Sequence[str]) -> Iterator[list[str]]:
    """Collects calls of functions with these names that are defined in this library or in
    torchvision.
    """
    found: list[str] = []
    if not refused:
        yield found
        return

    def see(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name in refused:
            parts = Path(frame.f_code.co_filename).parts
            owner = next((o for o in ("lesson_lib", "torchvision") if o in parts), None)
            if owner:
                found.append(f"{owner}'s {frame.f_code.co_name}")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        yield found
    finally:
        sys.setprofile(before)


def find(name: str) -> Exercise | str:
    """The exercise called "NN.name", or a sentence that says which there are."""
    lesson = name.partition(".")[0]
    try:
        exercises = importlib.import_module(f"lesson_lib.course.checks.lesson{lesson}").EXERCISES
    except ModuleNotFoundError:
        return f"{WRONG} There is no lesson {lesson!r} with exercises; a name looks like 01.decode."
    if name not in exercises:
        return f"{WRONG} There is no exercise {name!r}; this lesson has {', '.join(exercises)}."
    return exercises[name]


class _Fault(str):
    """A sentence about what went wrong while the learner's function ran."""


def _call(answer: Any, case: Case) -> Any:
    if not callable(answer):
        return answer
    args = copy.deepcopy(case.args)
    try:
        got = answer(*args)
    except NotImplementedError:
        return None
    except Exception as error:  # whatever a learner's code may raise
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).parent != Path(__file__).parent
        ]
        where = f" in line {frames[-1].lineno} of {frames[-1].name}" if frames else ""
        return _Fault(f"it stopped with {type(error).__name__}{where}: {error}")
    if difference(args, case.args, 0):
        return _Fault(
            "the result may be right, but the function changed its own input: work on a copy "
            "(no `x += ...`, no assignment to `x[...]`)"
        )
    return got


def _untouched(got: Any) -> bool:
    return got is None or got is ... or got is NotImplemented


def difference(got: Any, expected: Any, tolerance: float) -> str:
    """What is wrong with `got`, in words; "" when it agrees. Type and shape come before numbers."""
    if isinstance(expected, Tensor):
        return _tensor_difference(got, expected, tolerance)
    if isinstance(expected, Judge) and (
        (fault := expected.fault(got)) or not isinstance(expected, UntoldNumber)
    ):
        return fault
    if isinstance(expected, dict):
        if not isinstance(got, dict) or set(got) != set(expected):
            return f"expected a dict with {', '.join(map(repr, expected))}, got {_short(got)}"
        faults = ((key, difference(got[key], expected[key], tolerance)) for key in expected)
        return next((f"{key!r}: {fault}" for key, fault in faults if fault), "")
    if isinstance(expected, tuple | list):
        if not isinstance(got, tuple | list | torch.Size) or len(got) != len(expected):
            return f"expected {len(expected)} values, got {_short(got)}"
        faults = (difference(mine, theirs, tolerance) for mine, theirs in zip(got, expected))
        return next(
            (
                f"value {n} of {len(got)}: {fault}"
                for n, fault in enumerate(faults, start=1)
                if fault
            ),
            "",
        )
    if isinstance(expected, bool | str) or not isinstance(expected, int | float):
        # In full: what is expected may be a sentence of advice, and its end is what helps.
        return "" if got == expected else f"expected {expected!r}, got {_short(got)}"
    try:
        value = float(got)
    except (TypeError, ValueError, RuntimeError):
        return f"expected the number {_short(expected)}, got {_short(got)}"
    return (
        ""
        if abs(value - expected) <= tolerance * max(1, abs(expected))
        else f"expected {_short(expected)}, got {_short(value)}"
    )


def _tensor_difference(got: Any, expected: Tensor, tolerance: float) -> str:
    if not isinstance(got, Tensor):
        return f"expected a tensor of shape {tuple(expected.shape)}, got {_short(got)}"
    if got.shape != expected.shape:
        return f"expected shape {tuple(expected.shape)}, got {tuple(got.shape)}"
    if expected.dtype == torch.bool and got.dtype != torch.bool:
        return (
            "expected True or False in each place (dtype bool), got dtype "
            f"{str(got.dtype).removeprefix('torch.')}"
        )
    if expected.dtype == torch.int64 and got.dtype != torch.int64:
        return (
            "expected whole numbers (dtype int64, as an index must be), got dtype "
            f"{str(got.dtype).removeprefix('torch.')}"
        )
    wrong = ~torch.isclose(
        got.detach().double(), expected.double(), rtol=tolerance, atol=tolerance, equal_nan=True
    )
    if not wrong.any():
        return ""
    if not got.dim():
        return f"expected {_short(expected.item())}, got {_short(got.item())}"
    place = tuple(wrong.nonzero()[0].tolist())
    return (
        f"{int(wrong.sum())} of {wrong.numel()} values differ; at {list(place)} expected "
        f"{_short(expected[place].item())}, got {_short(got[place].item())}"
    )


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    text = (
        f"a tensor of shape {tuple(value.shape)}"
        if isinstance(value, Tensor) and value.numel() > 4
        else repr(value)
    )
    return text if len(text) <= 80 else text[:77] + "..."
