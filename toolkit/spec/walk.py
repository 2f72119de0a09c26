"""Walk the dataclasses of the schema over a tree: build the spec and collect ALL problems.

A value that is wrong is reported and stands in as the schema's default, so that the rest can still
be checked; its path goes into `broken`, and rules that read it are skipped.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast, get_args, get_origin

from toolkit.spec.errors import Problem
from toolkit.spec.kinds import READERS, read_bool, read_float, read_int, read_text, show
from toolkit.spec.nearest import did_you_mean, nearest_name
from toolkit.spec.schema import Spec
from toolkit.spec.vocabulary import KeyInfo, all_paths, default_section, keys_of
from toolkit.spec.yaml_tree import Mark, Path_

T = TypeVar("T")

_SCALARS = {int: read_int, float: read_float, bool: read_bool, str: read_text}


class Walker:
    """One walk over one tree."""

    def __init__(self, marks: dict[Path_, Mark], file: str) -> None:
        """Take the mark of each given key, and the file that is blamed where there is none."""
        self.marks = marks
        self.file = file
        self.problems: list[Problem] = []
        self.broken: set[Path_] = set()

    def mark(self, path: Path_) -> Mark:
        """Return where `path`, or the nearest section above it, was given."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.marks:
                return self.marks[path[:length]]
        return Mark(self.file)

    def add(self, path: Path_, message: str) -> None:
        """Report a problem of `path`, and remember the path as broken."""
        self.broken.add(path)
        self.problems.append(self.mark(path).problem(path, message))

    def section(self, cls: type[T], tree: dict[str, Any], path: Path_ = ()) -> T:
        """Build the section `cls` from `tree`, which has a value for every key."""
        known = keys_of(cast(type, cls))
        for name in tree:
            if name not in known:
                self.add((*path, name), unknown_key(name, known))
        values = {
            name: self.value(info, tree.get(name), (*path, name)) for name, info in known.items()
        }
        return cls(**values)

    def value(self, info: KeyInfo, value: Any, path: Path_) -> Any:
        """Return the spec's value of one key."""
        if path in self.broken:
            return self._stand_in(info)
        if info.optional and (value is None or (info.kind == "or_sft" and value == "sft")):
            return None
        if info.section is not None and isinstance(value, dict):
            return self.section(info.section, value, path)
        try:
            return read_value(info, value)
        except ValueError as error:
            self.add(path, str(error))
            return self._stand_in(info)

    def _stand_in(self, info: KeyInfo) -> Any:
        if info.section is not None and not info.optional:
            return default_section(info)
        return info.default


def unknown_key(name: str, known: dict[str, KeyInfo]) -> str:
    """Return what to say of a name that is none of these keys of a section."""
    homes = [".".join(path) for path, info in all_paths(Spec) if path[-1] == name]
    if homes:
        return f"unknown key here; it exists as {', '.join(homes[:4])}"
    return f"unknown key; {did_you_mean(name, known)}"


def read_value(info: KeyInfo, value: Any) -> Any:
    """Read one value of a key that is not a section's mapping.

    Raises:
        ValueError: what was expected, and the fix.
    """
    if value == "???":
        raise ValueError(f"is still to be filled in: {info.text}")
    if info.section is not None:
        raise ValueError(_not_a_section(info, value))
    if value is None:
        raise ValueError("cannot be null; remove the line for the default")
    if info.kind in READERS:
        return READERS[info.kind](value)
    if get_origin(info.type) is list:
        return _read_list(info, value)
    if info.choices:
        return _read_choice(info, value)
    if get_origin(info.type) is tuple:
        return _read_tuple(info, value)
    if info.free:
        return _read_mapping(info, value)
    return _in_range(info, _SCALARS[info.type](value), value)


def _not_a_section(info: KeyInfo, value: Any) -> str:
    if value is None:
        return "cannot be null; remove the line, or write {} for the defaults"
    assert info.section is not None
    names = ", ".join(list(keys_of(info.section))[:4])
    return f"expected a section with keys such as {names}, got {show(value)}"


def _in_range(info: KeyInfo, value: Any, given: Any) -> Any:
    if isinstance(value, (bool, str)):
        return value
    low, high = info.low, info.high
    too_low = low is not None and (value < low or (info.open_low and value == low))
    if too_low or (high is not None and value > high):
        raise ValueError(f"expected {range_text(info)}, got {show(given)}")
    return value


def range_text(info: KeyInfo) -> str:
    """Return the bounds of a number in words, or ""."""
    if info.low is not None and info.low == info.high:
        return f"exactly {info.low:g}"
    low = None if info.low is None else f"{'above' if info.open_low else 'at least'} {info.low:g}"
    high = None if info.high is None else f"at most {info.high:g}"
    return " and ".join(part for part in (low, high) if part)


def _read_choice(info: KeyInfo, value: Any) -> Any:
    if value in info.choices and not isinstance(value, bool):
        return value
    if value is False and "off" in info.choices:
        return "off"  # YAML's own reading of the word
    listed = ", ".join(map(str, info.choices))
    near = nearest_name(value, map(str, info.choices)) if isinstance(value, str) else None
    hint = f'; did you mean "{near}"?' if near else ""
    if value is False and "none" in info.choices:
        hint = "; write none"
    raise ValueError(f"expected one of {listed}, got {show(value)}{hint}")


def _read_list(info: KeyInfo, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list such as [{', '.join(info.default)}], got {show(value)}")
    for item in value:
        if info.choices:
            _read_choice(info, item)
        else:
            read_text(item)
    if len(set(value)) < len(value):
        raise ValueError(f"an entry is there twice in {show(value)}; remove one")
    return list(value)


def _read_tuple(info: KeyInfo, value: Any) -> tuple[Any, ...]:
    types = get_args(info.type)
    if not isinstance(value, list) or len(value) != len(types):
        example = ", ".join(f"{item:g}" for item in info.default)
        raise ValueError(
            f"expected a list of {len(types)} numbers such as [{example}], got {show(value)}"
        )
    return tuple(
        _in_range(info, _SCALARS[kind](item), item) for kind, item in zip(types, value, strict=True)
    )


def _read_mapping(info: KeyInfo, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected `name: value` entries, got {show(value)}")
    if get_args(info.type)[1] is str:
        for name, item in value.items():
            if not isinstance(item, str):
                raise ValueError(f"expected a text for {name}, got {show(item)}")
    return dict(value)
