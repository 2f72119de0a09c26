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
        key = f"{indent}{one_line(name)}:"
        if isinstance(value, dict) and value:
            yield key
            yield from _section(value, here, loaded)
        else:
            text = f"{key} {one_line(value)}"
            yield f"{text:<{_COMMENT_COLUMN}}  # {loaded.origin('.'.join(here))}"


def one_line(value: Any) -> str:
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
