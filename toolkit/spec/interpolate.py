"""Resolve `${...}` in a tree, and report each one that does not resolve."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from toolkit.spec.yaml_tree import Path_


def interpolate(tree: dict[str, Any]) -> list[tuple[Path_, str]]:
    """Replace every `${...}` in place; return (path, message) of those that failed, now None."""
    failed: list[tuple[Path_, str]] = []
    places = list(_places(tree, ()))
    if not places:
        return failed
    for path in places:
        message = _grammar_problem(_get(tree, path))
        if message is not None:
            failed.append((path, message))
            _set(tree, path, None)
    config = OmegaConf.create(tree)
    broken = {path for path, _ in failed}
    for path in places:
        if path in broken:
            continue
        try:
            value = _get(config, path)
            _set(tree, path, _as_plain(value))
        except OmegaConfBaseException as error:
            failed.append((path, f"{_get(tree, path)} does not resolve: {_cause(error)}"))
            _set(tree, path, None)
    return failed


def _places(node: Any, path: Path_) -> Iterator[Path_]:
    """Yield the paths of the texts and lists that contain an interpolation."""
    if isinstance(node, dict):
        for name, item in node.items():
            yield from _places(item, (*path, name))
    elif isinstance(node, list):
        if any(True for item in node for _ in _places(item, ())):
            yield path
    elif isinstance(node, str) and "${" in node:
        yield path


def _get(tree: Any, path: Path_) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _set(tree: dict[str, Any], path: Path_, value: Any) -> None:
    _get(tree, path[:-1])[path[-1]] = value


def _as_plain(value: Any) -> Any:
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True)
    return value


def _grammar_problem(value: Any) -> str | None:
    try:
        OmegaConf.create({"value": value})
    except OmegaConfBaseException as error:
        return f"{value!r} is not an interpolation: {_first_line(error)}; write ${{key}} or \\${{"
    return None


def _cause(error: Exception) -> str:
    line = _first_line(error)
    unset = re.search(r"Environment variable '(\w+)' not found", line)
    if unset:
        return f"the environment variable {unset[1]} is not set; export {unset[1]}=... first"
    return line


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].strip()
