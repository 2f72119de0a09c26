"""What a key takes, in words and as an example: for docs/SPEC.md, and where a value is missing."""

from __future__ import annotations

import shlex
from typing import Any, get_args, get_origin

import yaml

from toolkit.spec.schema import Spec
from toolkit.spec.vocabulary import KeyInfo, find_key, keys_of, plain
from toolkit.spec.walk import range_text, unknown_key
from toolkit.spec.yaml_tree import Path_

_WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}
_KINDS = {
    "duration": "time or steps",
    "function": "function",
    "path": "path",
    "weights": "name: weight",
    "k": "number or [fewest, most]",
}
_EXAMPLES = {"path": "path/to/it", "function": "path/to/file.py:function"}


def type_text(info: KeyInfo) -> str:
    """Return what the value of a key that is no section is, such as "number, above 0, or null"."""
    bounds = range_text(info)
    if info.kind in _KINDS:
        text = _KINDS[info.kind]
        bounds = ""
    elif info.choices:
        text = ", ".join(f"`{choice}`" for choice in info.choices)
        text = f"list of {text}" if get_origin(info.type) is list else text
    elif get_origin(info.type) is tuple:
        text = f"list of {len(get_args(info.type))} numbers"
    elif info.free:
        text = "name: value"
    elif get_origin(info.type) is list:
        text = "list of texts"
    else:
        text = _WORDS[info.type]
    null = ", or null" if info.optional else ""
    return text + (f", {bounds}" if bounds else "") + null


def inline(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(plain(value), default_flow_style=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def no_value(path: Path_) -> str:
    """Return what to write where a key of the command line has no value."""
    name, info = ".".join(path), find_key(Spec, path)
    if info is None:
        return _no_such(path)
    if info.section is None:
        return f"no value; expected: {type_text(info)}, such as {_assignment(path, info)}"
    inner, key = _first_key(path, info.section)
    off = f"; or write {name}=null to switch it off" if info.optional else ""
    fix = f"give one of its keys a value, such as {_assignment(inner, key)}{off}"
    return f"no value; it is a section: {fix}"


def _no_such(path: Path_) -> str:
    """Return what to say of a key that the schema lacks: it is mistyped, or one of its own."""
    *before, last = path
    home = find_key(Spec, tuple(before))
    section = home.section if home is not None else None if before else Spec
    if section is not None:
        return unknown_key(last, keys_of(section))
    return f"no value; write {'.'.join(path)}=VALUE"


def _first_key(path: Path_, section: type) -> tuple[Path_, KeyInfo]:
    """Return the first key of a section that is none itself, and its path."""
    name, info = next(iter(keys_of(section).items()))
    here = (*path, name)
    return (here, info) if info.section is None else _first_key(here, info.section)


def _assignment(path: Path_, info: KeyInfo) -> str:
    """Return a key with a value, as a shell takes it."""
    text = f"{'.'.join(path)}={_example(info)}"
    return shlex.quote(text) if set(text) & set(" $'") else text


def _example(info: KeyInfo) -> str:
    """Return the default, or a value like it where it is empty, null or names another key."""
    if info.default not in (None, "", {}):
        return inline(info.default).replace("${name}", "mine")
    if info.kind in _EXAMPLES:
        return _EXAMPLES[info.kind]
    if info.choices:
        return str(info.choices[0])
    if info.free:
        return "{name: value}"
    return "null" if info.type is str else f"{max(1, info.low or 0):g}"
