"""Whoever judges answers: a task's own oracle, or your function."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.spec.errors import Problem, SpecError, StageFailed

if TYPE_CHECKING:
    from toolkit.spec.schema import Spec

_PACKAGE = Path(__file__).resolve().parents[1]

Oracle = Callable[[Sequence[str], Sequence[str], Sequence[bool]], list[float]]
"""(prompts, responses, finished) -> a score for each response; higher is better."""


def load_oracle(spec: Spec) -> Oracle | None:
    """Return the judge of a run: `label.fn` if set, else the task's oracle, else None.

    Raises:
        SpecError: `label.fn` or `data.task` names something that cannot be loaded.
    """
    if spec.label.fn is not None:
        return load_scorer(spec.label.fn, "label.fn")
    if spec.data.task is None:
        return None
    from toolkit.data.tasks import make_task

    task = make_task(spec.data.task)
    return _checked(task.score, f"the task {task.name}")


def load_scorer(reference: str, path: str) -> Oracle:
    """Load a plug-in that scores answers.

    It takes (prompts, responses), and `finished` too if it has a third parameter.

    Args:
        reference: "path/to/file.py:function" or "package.module:function".
        path: spec key that names it, for messages.

    Raises:
        SpecError: it cannot be loaded.
        StageFailed: when called, it raises, or returns something other than one finite number per
            response.
    """
    function = load_function(reference, path)
    name = f"{path} {reference}"
    if _accepts_finished(function):
        return _checked(function, name)

    def call(prompts: Sequence[str], responses: Sequence[str], finished: Sequence[bool]) -> Any:
        del finished
        return function(prompts, responses)

    return _checked(call, name)


def load_function(reference: str, path: str = "fn") -> Callable[..., Any]:
    """Load the function that "path/to/file.py:function" or "package.module:function" names.

    Args:
        reference: file (relative to the current directory) or module, a colon, the function's name.
        path: spec key that names it, for messages.

    Raises:
        SpecError: no such file, module or function, or the code raises while it is imported.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise _error(
            path, f"{reference!r} must be path/to/file.py:function or package.module:function"
        )
    try:
        module = (
            _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        )
    except FileNotFoundError as error:
        raise _error(
            path, f"there is no file {place}; paths are relative to the current directory"
        ) from error
    except Exception as error:
        raise _error(
            path, f"{place} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise _error(path, f"{place} has no function {name!r}; it has {', '.join(known) or 'none'}")
    return function  # type: ignore[no-any-return]


def _load_file(file: Path) -> Any:
    source = file.read_bytes()
    name = f"rlhf_plugin_{file.stem}_{hashlib.blake2b(source, digest_size=6).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    description = importlib.util.spec_from_file_location(name, file)
    if description is None or description.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(description)
    sys.modules[name] = module
    try:
        description.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _accepts_finished(function: Callable[..., Any]) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(parameter.kind in kinds for parameter in parameters) >= 3


def _checked(function: Callable[..., Any], name: str) -> Oracle:
    """Wrap `function`: anything but one finite number per response is an error that names it."""

    def call(
        prompts: Sequence[str], responses: Sequence[str], finished: Sequence[bool]
    ) -> list[float]:
        try:
            found = function(list(prompts), list(responses), list(finished))
        except (Exception, SystemExit) as error:
            raise StageFailed(f"{raised(name, error)}; mend it") from error
        if not isinstance(found, Iterable):
            kind = type(found).__name__
            raise StageFailed(f"{name} returned {kind}; expected a score for each response")
        scores = [_number(value, name) for value in found]
        if len(scores) != len(responses):
            raise StageFailed(
                f"{name} returned {len(scores)} scores for {len(responses)} responses"
            )
        bad = next((at for at, score in enumerate(scores) if not math.isfinite(score)), None)
        if bad is not None:
            raise StageFailed(f"{name} returned {scores[bad]} for the response {responses[bad]!r}")
        return scores

    return call


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        message = f"{name} returned {value!r} as a score; expected a number for each response"
        raise StageFailed(message) from None


def raised(name: str, error: BaseException) -> str:
    """Return what a plug-in raised and where, "NAME raised KeyError: 'x' (judge.py:5)"."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if _PACKAGE not in Path(frame.filename).parents]
    own = [frame for frame in theirs if frame.filename == theirs[0].filename] or frames
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    text = f": {error}" if str(error) else ""
    return f"{name} raised {type(error).__name__}{text}{place}"


def _error(path: str, message: str) -> SpecError:
    return SpecError([Problem("spec", 0, 0, path, message)])
