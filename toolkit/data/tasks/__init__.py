"""Embedded tasks: data with a known oracle, made from a seed, for runs that need no files."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from toolkit.data.tasks.base import EOS, Example, Task

if TYPE_CHECKING:
    from toolkit.spec import schema

__all__ = ["EOS", "Example", "Task", "make_task"]

_PARTS = (
    "name", "template", "tokenizer", "demonstrations", "valid_demonstrations", "prompts",
    "valid_prompts", "pretrain", "score",
)  # fmt: skip


def make_task(settings: schema.Task) -> Task:
    """Make the task that `data.task` names.

    Args:
        settings: `spec.data.task`; `fn` names a function from these settings to a `Task`.

    Raises:
        SpecError: neither or both of name and fn are given, or fn's result lacks a part of `Task`.
    """
    if (settings.fn is None) == (settings.name is None):
        raise _problem(
            "data.task", "needs a name (sort or facts) or a function in fn, and not both"
        )
    if settings.fn is not None:
        return _load_task(settings, settings.fn)
    if settings.name == "sort":
        from toolkit.data.tasks.sort import Sort

        return Sort(settings)
    from toolkit.data.tasks.facts import Facts

    return Facts(settings)


def _load_task(settings: schema.Task, reference: str) -> Task:
    from toolkit.data.oracle import load_function

    made = load_function(reference, "data.task.fn")(settings)
    missing = [part for part in _PARTS if not hasattr(made, part)]
    if missing:
        raise _problem(
            "data.task.fn",
            f"{reference} returned a {type(made).__name__} without {', '.join(missing)}; "
            "it must return an object with every member of toolkit.data.tasks.Task",
        )
    return cast(Task, made)


def _problem(path: str, message: str) -> Exception:
    from toolkit.spec.errors import Problem, SpecError

    return SpecError([Problem("spec", 0, 0, path, message)])
