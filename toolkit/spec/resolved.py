"""Write a loaded spec out in full: every value, and where it came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from toolkit.spec.load import Loaded

_COMMENT_COLUMN = 44


def resolved_yaml(loaded: Loaded) -> str:
    """Return the resolved spec as YAML, each value with its origin as a comment.

    Loading that text gives an equal spec: interpolations are replaced, and `extends` is null.
    """
    lines = [f"# resolved from {loaded.path}; each comment names where the value came from"]
    lines.extend(_section(loaded.tree, (), loaded))
    return "\n".join(lines) + "\n"


def _section(tree: dict[str, Any], path: tuple[str, ...], loaded: Loaded) -> Iterator[str]:
    indent = "  " * len(path)
    for name, value in tree.items():
        here = (*path, name)
        key = f"{indent}{_scalar(name)}:"
        if isinstance(value, dict) and value:
            yield key
            yield from _section(value, here, loaded)
        else:
            text = f"{key} {_scalar(value)}"
            yield f"{text:<{_COMMENT_COLUMN}}  # {loaded.origin('.'.join(here))}"


def _scalar(value: Any) -> str:
    """Return a value in YAML's one-line form; `${` is escaped, since it is no interpolation now."""
    style = '"' if isinstance(value, str) and "\n" in value else None
    text = yaml.safe_dump(
        _escaped(value), default_flow_style=True, width=float("inf"), default_style=style
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("${", "\\${")
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value


def deviations(loaded: Loaded) -> list[tuple[str, str, str, str]]:
    """Return (path, value it extends, own value, origin) of each value the spec itself changes."""
    below, above = dict(_leaves(loaded.base, ())), dict(_leaves(loaded.tree, ()))
    paths = [*above, *(path for path in below if path not in above)]
    return [
        (path, _one_line(below, path), _one_line(above, path), loaded.origin(path))
        for path in paths
        if below.get(path) != above.get(path) and path in loaded.origins
    ]


def _one_line(leaves: dict[str, Any], path: str) -> str:
    return _scalar(leaves[path]) if path in leaves else "-"


def _leaves(tree: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, name))
        else:
            yield ".".join((*path, name)), value
