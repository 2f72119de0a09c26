"""Turn a YAML file into a checked Spec: layers, interpolation, types, contradictions, files.

`load_spec` raises with ALL problems at once; `examine_spec` hands them back beside what could be
built.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.spec import (
    rules_data,
    rules_labels,
    rules_learners,
    rules_models,
    rules_rounds,
    rules_stages,
)
from toolkit.spec.errors import Problem, SpecError
from toolkit.spec.files import check_files
from toolkit.spec.interpolate import interpolate
from toolkit.spec.layers import stack_file
from toolkit.spec.rules import check_rules
from toolkit.spec.schema import Spec
from toolkit.spec.vocabulary import keys_of
from toolkit.spec.walk import Walker
from toolkit.spec.yaml_tree import COMMAND_LINE, Mark, Path_

RULES = (
    *rules_data.RULES,
    *rules_labels.RULES,
    *rules_models.RULES,
    *rules_stages.RULES,
    *rules_rounds.RULES,
    *rules_learners.RULES,
)


@dataclass(frozen=True)
class Loaded:
    """A spec and where each of its values came from.

    Args:
        spec: the checked spec; `extends` is None in it, since it has been followed.
        origins: dotted path -> "preset tiny", "spec.yaml:12" or "command line"; a path that is
            absent has the schema's default.
        tree: the resolved values as plain dicts, lists and scalars.
        path: the file, as the user named it.
        marks: path -> position of the key, for messages.
        presets: names of the presets the file extends, the nearest first.
    """

    spec: Spec
    origins: dict[str, str]
    tree: dict[str, Any]
    path: str
    marks: dict[Path_, Mark] = field(default_factory=dict)
    presets: tuple[str, ...] = ()

    def origin(self, path: str) -> str:
        """Return where the value at a dotted path came from."""
        return self.origins.get(path, "default")


@dataclass(frozen=True)
class Examined:
    """What could be built of a spec, wrong values standing as defaults, and every problem."""

    loaded: Loaded
    problems: tuple[Problem, ...]


def load_spec(path: str | Path, overrides: Sequence[str] = (), *, files: bool = True) -> Loaded:
    """Load a spec.

    Args:
        path: YAML file.
        overrides: `key=value` texts of the command line, the last one wins.
        files: also check that the files it names exist (False for reading a finished run).

    Raises:
        SpecError: anything is wrong; it holds every problem.
    """
    examined = examine_spec(path, overrides, files=files)
    if examined.problems:
        raise SpecError(examined.problems)
    return examined.loaded


def examine_spec(
    path: str | Path, overrides: Sequence[str] = (), *, files: bool = True
) -> Examined:
    """Load a spec as far as it goes, and return every problem in file order."""
    stack = stack_file(Path(path), overrides)
    origins = {".".join(p): _origin(mark) for p, mark in stack.marks.items()}
    stack.fill()
    walker = Walker(stack.marks, str(path))
    if not stack.unreadable:
        for place, message in interpolate(stack.tree):
            walker.add(place, message)
        stack.fill()
    spec = walker.section(Spec, stack.tree)
    if not stack.unreadable and not stack.baseless:
        check_rules(RULES, spec, walker)
    if files and not stack.unreadable:
        check_files(spec, walker)
    tree = _in_schema_order(stack.tree, Spec)
    loaded = Loaded(spec, origins, tree, str(path), stack.marks, stack.presets)
    problems = [*stack.problems, *(() if stack.unreadable else walker.problems)]
    return Examined(loaded, tuple(_in_order(problems, str(path))))


def _in_schema_order(tree: dict[str, Any], cls: type) -> dict[str, Any]:
    """Return a copy of `tree` with its keys as the schema orders them, unknown ones last."""
    known = keys_of(cls)
    ordered: dict[str, Any] = {}
    for name in [*(n for n in known if n in tree), *(n for n in tree if n not in known)]:
        section = known[name].section if name in known else None
        value = tree[name]
        if section is not None and isinstance(value, dict):
            ordered[name] = _in_schema_order(value, section)
        else:
            ordered[name] = copy.deepcopy(value)
    return ordered


def _origin(mark: Mark) -> str:
    if mark.file == COMMAND_LINE or mark.file.startswith("preset "):
        return mark.file
    return f"{mark.file}:{mark.line}"


def _in_order(problems: Sequence[Problem], file: str) -> list[Problem]:
    """Sort by place: the spec's own file first, the command line last; the same problem once."""

    def place(problem: Problem) -> tuple[Any, ...]:
        rank = 0 if problem.file == file else 2 if problem.file == COMMAND_LINE else 1
        return rank, problem.file, problem.line, problem.col

    return sorted(dict.fromkeys(problems), key=place)
