"""YAML text to a plain tree, with the line and column of every key, and every problem of syntax.

`yaml.compose` keeps the positions that `yaml.load` throws away. Scalars are YAML 1.1 with two
changes: `9e-6` is a float, and there are no dates and no base-60 numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from toolkit.spec.errors import Problem
from toolkit.spec.nearest import nearest_name

Path_: TypeAlias = tuple[str, ...]
"""Where a value stands in a tree, such as ("ppo", "kl", "coef")."""

COMMAND_LINE = "command line"

_FLOAT = re.compile(
    r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.[0-9_]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$")
_REPLACED = {"tag:yaml.org,2002:" + name for name in ("float", "int", "timestamp", "merge")}


class _Loader(yaml.SafeLoader):
    """SafeLoader with our scalars."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))


@dataclass(frozen=True)
class Mark:
    """A position in a file: 1-based line and column, 0 where there is none."""

    file: str
    line: int = 0
    col: int = 0

    def problem(self, path: Path_, message: str) -> Problem:
        """Return a problem of `path` at this position."""
        return Problem(self.file, self.line, self.col, ".".join(path), message)


@dataclass
class Layer:
    """One source of values: a preset, a file, or the command line."""

    name: str
    tree: dict[str, Any] = field(default_factory=dict)
    marks: dict[Path_, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unreadable: bool = False


def read_layer(path: Path, name: str) -> Layer:
    """Read a YAML file; what is wrong with it is in the layer's `problems`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return _failed(name, f"no such file; {_where_it_may_be(path)}")
    except IsADirectoryError:
        return _failed(name, "is a folder; expected a YAML file")
    except UnicodeDecodeError as error:
        return _failed(name, f"is not UTF-8 text (byte {error.start}); save it as UTF-8")
    except OSError as error:
        return _failed(name, f"cannot be read: {error.strerror}")
    return parse_layer(text, name)


def _where_it_may_be(path: Path) -> str:
    """Return what a spec that is not there may be called, or where paths start."""
    specs = [file for file in path.parent.glob("*.y*ml") if file.is_file()]
    near = nearest_name(path.name, (file.name for file in specs))
    if near is not None:
        return f'did you mean "{path.with_name(near)}"?'
    return "paths are relative to the current directory"


def _failed(name: str, message: str) -> Layer:
    return Layer(name, problems=[Problem(name, 0, 0, "", message)], unreadable=True)


def parse_layer(text: str, name: str) -> Layer:
    """Parse YAML text whose top is a mapping."""
    layer = Layer(name)
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        layer.problems.append(_syntax_problem(error, name))
        layer.unreadable = True
        return layer
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"not YAML: character #x{error.character:04x} is not allowed; remove it"
        layer.problems.append(Problem(name, line, 0, "", message))
        layer.unreadable = True
        return layer
    if node is None:
        layer.problems.append(
            Problem(name, 1, 1, "", "the file is empty; start from `python -m toolkit new my.yaml`")
        )
    elif not isinstance(node, yaml.MappingNode):
        layer.problems.append(
            Problem(name, node.start_mark.line + 1, 1, "", "expected `key: value` lines at the top")
        )
    else:
        layer.tree = _Builder(layer).mapping(node, ())
        return layer
    layer.unreadable = True
    return layer


def parse_scalar(text: str) -> Any:
    """Return the value of one YAML expression, as on a command line.

    Raises:
        yaml.YAMLError: it is not YAML, or a mapping in it has a key twice.
    """
    layer = parse_layer(f"value: {text}", COMMAND_LINE)
    if layer.problems:
        raise yaml.YAMLError(layer.problems[0].message)
    return layer.tree["value"]


def _syntax_problem(error: yaml.MarkedYAMLError, name: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, col = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    what = error.problem or error.context or "cannot be parsed"
    hint = ""
    if "\\t" in what:
        hint = "; indent with spaces, not tabs"
    elif "mapping values are not allowed" in what:
        hint = "; quote a text that contains `: `, and indent keys of one section alike"
    elif "expected ',' or" in what:
        opened = error.context_mark
        where = f" on line {opened.line + 1}, column {opened.column + 1}" if opened else ""
        hint = f"; close the bracket opened{where}"
    elif "but found '<" in what or "could not find expected ':'" in what:
        hint = "; check the indentation and the `:` after the key"
    return Problem(name, line, col, "", f"not YAML: {what}{hint}")


class _Builder:
    """Turns composed nodes into plain values and remembers where each key stood."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.constructor = _Loader("")
        self.open: list[int] = []

    def mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = self.mark(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.add(mark, path, "a key must be a plain word")
                continue
            name = str(key_node.value)
            here = (*path, name)
            if name == "<<":
                self.add(mark, here, "merge keys are not supported; use `extends:`")
            elif name in tree:
                first = self.layer.marks[here]
                self.add(mark, here, f"key given twice, first on line {first.line}; remove one")
            else:
                self.layer.marks[here] = mark
                tree[name] = self.value(value_node, here)
        return tree

    def value(self, node: yaml.Node, path: Path_) -> Any:
        if id(node) in self.open:
            self.add(self.mark(node), path, "an alias that contains itself; write the value out")
            return None
        self.open.append(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, path) for item in node.value]
            return self.scalar(node, path)
        finally:
            self.open.pop()

    def scalar(self, node: yaml.Node, path: Path_) -> Any:
        try:
            return self.constructor.construct_object(node)
        except (yaml.YAMLError, ValueError):
            message = f"cannot read `{node.value}` as {node.tag.rsplit(':', 1)[-1]}; quote it"
            self.add(self.mark(node), path, message)
            return None

    def mark(self, node: yaml.Node) -> Mark:
        if self.layer.name == COMMAND_LINE:
            return Mark(COMMAND_LINE)
        return Mark(self.layer.name, node.start_mark.line + 1, node.start_mark.column + 1)

    def add(self, mark: Mark, path: Path_, message: str) -> None:
        self.layer.problems.append(mark.problem(path, message))
