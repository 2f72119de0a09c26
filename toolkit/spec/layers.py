"""Lay presets, files and command-line overrides over each other, and remember who said what.

A later layer wins key by key. Two things are replaced whole instead, since their parts make sense
only together: a mapping with free keys (`collect.sources`, `fields`; a model's `config` is merged
while the architecture stays), and a model source whose `path` or `architecture` changes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from toolkit.spec.errors import Problem, SpecError
from toolkit.spec.expected import no_value
from toolkit.spec.nearest import did_you_mean
from toolkit.spec.schema import ModelSource, Spec
from toolkit.spec.vocabulary import KeyInfo, default_section, find_key, keys_of, plain
from toolkit.spec.yaml_tree import COMMAND_LINE, Layer, Mark, Path_, parse_scalar, read_layer

PRESETS = Path(__file__).parent / "presets"
_PRESET = "preset "


class Stack:
    """The layers laid so far: one tree, and the mark of the layer that set each key.

    `presets` are the names of the presets among them, the nearest first. `baseless` says that one
    which is extended was not found, so values are missing that it may have.
    """

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {}
        self.marks: dict[Path_, Mark] = {}
        self.problems: list[Problem] = []
        self.unreadable = False
        self.baseless = False
        self.presets: tuple[str, ...] = ()

    def lay(self, layer: Layer, target: Path_ = ()) -> None:
        """Lay one layer over the tree; `target` is the key a command-line override names."""
        self.problems.extend(layer.problems)
        self.unreadable |= layer.unreadable
        self._overlay(self.tree, layer.tree, (), layer, target)

    def _overlay(
        self, below: dict[str, Any], above: dict[str, Any], path: Path_, layer: Layer, target: Path_
    ) -> None:
        for name, value in above.items():
            here = (*path, name)
            info = find_key(Spec, here)
            old = below.get(name)
            if info is not None and info.free and len(here) < len(target) and not old:
                old = below[name] = plain(info.default)
            if isinstance(value, dict) and isinstance(old, dict):
                if _replaces(info, old, value, here, target):
                    self._forget(here)
                    old.clear()
                self._overlay(old, value, here, layer, target)
            else:
                self._forget(here)
                below[name] = copy.deepcopy(value)
                self._remember(here, layer)
            if here in layer.marks:
                self.marks[here] = layer.marks[here]

    def _forget(self, path: Path_) -> None:
        for known in [p for p in self.marks if p[: len(path)] == path]:
            del self.marks[known]

    def _remember(self, path: Path_, layer: Layer) -> None:
        self.marks.update({p: m for p, m in layer.marks.items() if p[: len(path)] == path})

    def fill(self) -> None:
        """Add the schema's default for every key that no layer gave."""
        _fill(self.tree, Spec, Spec())


def _replaces(
    info: KeyInfo | None, old: dict[str, Any], new: dict[str, Any], here: Path_, target: Path_
) -> bool:
    if info is None:
        return False
    if info.section is ModelSource:
        return "path" in new or new.get("architecture", old.get("architecture")) != old.get(
            "architecture"
        )
    return info.free and info.name != "config" and len(here) >= len(target)


def _fill(tree: dict[str, Any], cls: type, defaults: Any) -> None:
    for name, info in keys_of(cls).items():
        default = getattr(defaults, name)
        if name not in tree:
            tree[name] = plain(default)
        elif info.section is not None and isinstance(tree[name], dict):
            section = default if default is not None else default_section(info)
            _fill(tree[name], info.section, section)


def preset_names() -> list[str]:
    """Return the names of the presets in the package."""
    return sorted(
        path.relative_to(PRESETS).with_suffix("").as_posix() for path in PRESETS.rglob("*.yaml")
    )


def preset_tree(name: str) -> dict[str, Any]:
    """Return every value of a preset, with what it extends and the defaults, and no run's own.

    Raises:
        SpecError: there is no preset of that name.
    """
    found = _find_base(name)
    if isinstance(found, str) or name.endswith((".yaml", ".yml")):
        message = f'no preset "{name}"; {did_you_mean(name, preset_names())}'
        raise SpecError([Mark(COMMAND_LINE).problem((), message)])
    stack = stack_file(found[0])
    stack.fill()
    return stack.tree


def source_of(mark: Mark) -> Path | None:
    """Return the file that a mark is in, or None on the command line."""
    if mark.file.startswith(_PRESET):
        return PRESETS / f"{mark.file.removeprefix(_PRESET)}.yaml"
    return None if mark.file == COMMAND_LINE else Path(mark.file)


def stack_file(path: Path, overrides: Sequence[str] = ()) -> Stack:
    """Lay what `path` extends, then `path`, then the overrides."""
    stack = Stack()
    top = read_layer(path, str(path))
    given = [_read_override(text) for text in overrides]
    for target, layer in given:
        if target == ("extends",) and "extends" in layer.tree:
            top.tree["extends"] = layer.tree["extends"]
            top.marks["extends",] = layer.marks["extends",]
    layers = _chain(top, [path.resolve()], stack.problems)
    stack.baseless = bool(stack.problems)
    names = [layer.name.removeprefix(_PRESET) for layer in layers if layer.name.startswith(_PRESET)]
    stack.presets = tuple(names[::-1])
    for layer in layers:
        stack.lay(layer)
    for target, layer in given:
        if target != ("extends",):
            stack.lay(layer, target)
        else:
            stack.problems.extend(layer.problems)
    return stack


def _chain(top: Layer, seen: list[Path], problems: list[Problem]) -> list[Layer]:
    """Return the layers from the farthest base to `top`, with `extends` taken out of them."""
    layers = [top]
    layer = top
    while (base := layer.tree.pop("extends", None)) is not None:
        mark = layer.marks.pop(("extends",), Mark(layer.name))
        found = _find_base(base)
        if isinstance(found, str):
            problems.append(mark.problem(("extends",), found))
            break
        path, name = found
        if path.resolve() in seen:
            message = f"{base} extends itself in a circle; remove one `extends`"
            problems.append(mark.problem(("extends",), message))
            break
        seen.append(path.resolve())
        layer = read_layer(path, name)
        layers.append(layer)
    return layers[::-1]


def _find_base(base: Any) -> tuple[Path, str] | str:
    """Return (file, name for messages) of what `extends` names, or what is wrong with it."""
    if not isinstance(base, str):
        return f"expected a preset's name or a YAML file, got {base!r}"
    if base.endswith((".yaml", ".yml")):
        path = Path(base)
        if path.is_file():
            return path, base
        return f'no file "{base}"; the path is relative to the current directory'
    path = PRESETS / f"{base}.yaml"
    if path.is_file():
        return path, f"{_PRESET}{base}"
    return f'no preset "{base}"; {did_you_mean(base, preset_names())} (a file ends in .yaml)'


def _read_override(text: str) -> tuple[Path_, Layer]:
    """Read one `key=value` of the command line."""
    name, equals, value = text.partition("=")
    target = tuple(part.strip() for part in name.strip().split("."))
    layer = Layer(COMMAND_LINE)
    mark = Mark(COMMAND_LINE)
    if not equals or not all(target):
        message = f'expected key=value such as ppo.kl.coef=0.05, got "{text}"'
        layer.problems.append(mark.problem((), message))
    elif not value.strip():
        layer.problems.append(mark.problem(target, no_value(target)))
    else:
        _parse_override(layer, mark, target, value)
    return target, layer


def _parse_override(layer: Layer, mark: Mark, target: Path_, text: str) -> None:
    try:
        value = parse_scalar(text)
    except yaml.YAMLError as error:
        message = f"`{text}` is {_lower_first(str(error))}; quote it"
        layer.problems.append(mark.problem(target, message))
        return
    for path in _paths_below(target, value):
        layer.marks[path] = mark
    for length in range(1, len(target)):
        layer.marks[target[:length]] = mark
    for part in reversed(target):
        value = {part: value}
    layer.tree = value


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _paths_below(path: Path_, value: Any) -> list[Path_]:
    paths = [path]
    if isinstance(value, dict):
        for name, item in value.items():
            paths.extend(_paths_below((*path, name), item))
    return paths
