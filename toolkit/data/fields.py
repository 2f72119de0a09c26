r"""The `fields:` mapping: our names for a file's columns.

    prompt: instruction                                a column
    response: instances.0.output                       dotted, with list indices
    prompt: "{instruction}\n\n{instances.0.input}"     a text made of columns

White space at the end of a text made of columns is stripped, so an empty last column leaves no gap.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from toolkit.spec.errors import DataError, Problem

_HOLE = re.compile(r"\{([^{}]+)\}")


class FieldError(ValueError):
    """A field is missing or of the wrong type; `field` names it.

    `fix` says what a file's settings in the spec can do about it; "" for nothing.
    """

    def __init__(self, field: str, message: str, fix: str = "") -> None:
        """Say what is wrong with `field`."""
        super().__init__(message)
        self.field, self.fix = field, fix


def check_names(file: str, mapping: Mapping[str, str], known: tuple[str, ...], kind: str) -> None:
    """Refuse a mapping that sets a field nobody reads.

    Raises:
        DataError: a name in `mapping` is not in `known`.
    """
    problems = [
        Problem(
            file,
            0,
            0,
            f"fields.{name}",
            f"unknown field{suggest(name, known)}; {kind} have {', '.join(known)}",
        )
        for name in mapping
        if name not in known
    ]
    if problems:
        raise DataError(problems)


def map_fields(row: dict[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """Return `row` with the mapped names added.

    Raises:
        FieldError: a mapped path leads nowhere.
    """
    return row | {name: _resolve(row, name, path) for name, path in mapping.items()}


def _resolve(row: dict[str, Any], name: str, path: str) -> Any:
    if "{" not in path:
        return _walk(row, name, path)

    def fill(match: re.Match[str]) -> str:
        value = _walk(row, name, match.group(1))
        return "" if value is None else str(value)

    return _HOLE.sub(fill, path).rstrip()


def _walk(row: dict[str, Any], name: str, path: str) -> Any:
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            has = (
                f"; the record has {', '.join(map(str, row))}" if value is row else f" at {part!r}"
            )
            raise FieldError(name, f"fields maps it to {path!r}, which leads nowhere{has}")
    return value


def suggest(name: str, known: tuple[str, ...] | list[str]) -> str:
    """Return '; did you mean "x"?' for the nearest known name, or nothing."""
    near = get_close_matches(name, known, 1, 0.6)
    return f'; did you mean "{near[0]}"?' if near else ""
