"""The schema's dataclasses as data: which keys a section has, their types, bounds and defaults."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from dataclasses import MISSING, dataclass, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin

from toolkit.spec.yaml_tree import Path_


@dataclass(frozen=True)
class KeyInfo:
    """One key of a section.

    Args:
        name: the key.
        type: its type without None.
        optional: whether null is allowed.
        section: the dataclass, when the key is a section.
        default: default value, a dataclass instance for a section.
        text, low, high, open_low, kind: what `schema.key` was given.
    """

    name: str
    type: Any
    optional: bool
    section: type | None
    default: Any
    text: str
    low: float | None
    high: float | None
    open_low: bool
    kind: str | None

    @property
    def free(self) -> bool:
        """Whether the value is a mapping with keys of the user's choice."""
        return get_origin(self.type) is dict

    @property
    def choices(self) -> tuple[Any, ...]:
        """The closed vocabulary of a Literal, or of a list of Literals; else ()."""
        inner = get_args(self.type)[0] if get_origin(self.type) is list else self.type
        return get_args(inner) if get_origin(inner) is Literal else ()


@functools.cache
def keys_of(cls: type) -> dict[str, KeyInfo]:
    """Return the keys of a section, in the order of the schema."""
    hints = typing.get_type_hints(cls)
    return {f.name: _key_info(f, hints[f.name]) for f in dataclasses.fields(cls)}


def _key_info(field: dataclasses.Field[Any], hint: Any) -> KeyInfo:
    optional = False
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        optional = len(members) < len(get_args(hint))
        (hint,) = members
    section = hint if isinstance(hint, type) and is_dataclass(hint) else None
    default = field.default if field.default is not MISSING else _made(field)
    meta = dict(field.metadata)
    return KeyInfo(field.name, hint, optional, section, default, **meta)


def _made(field: dataclasses.Field[Any]) -> Any:
    assert field.default_factory is not MISSING, field.name
    return field.default_factory()


def plain(value: Any) -> Any:
    """Return dataclasses and tuples as dicts and lists, as YAML would hold them."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def default_section(info: KeyInfo) -> Any:
    """Return the section's default values: those of the key, else those of its class."""
    assert info.section is not None
    return info.default if info.default is not None else info.section()


def find_key(cls: type, path: Path_) -> KeyInfo | None:
    """Return the key at `path`, or None outside the schema (or inside a free mapping)."""
    info: KeyInfo | None = None
    section: type | None = cls
    for name in path:
        info = keys_of(section).get(name) if section else None
        if info is None:
            return None
        section = info.section
    return info


def all_paths(cls: type, prefix: Path_ = ()) -> list[tuple[Path_, KeyInfo]]:
    """Return every key below `cls`, sections before their keys."""
    found: list[tuple[Path_, KeyInfo]] = []
    for name, info in keys_of(cls).items():
        found.append(((*prefix, name), info))
        if info.section is not None:
            found.extend(all_paths(info.section, (*prefix, name)))
    return found
