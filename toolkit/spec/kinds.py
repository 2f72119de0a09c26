"""The formats behind `key(kind=...)`: durations, K, mixing weights, functions, paths.

Each `read_` takes a value of a tree, returns the value of the spec, and raises ValueError with what
was expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(s|m|h|steps?)$")
_FUNCTION = re.compile(r"^(?P<where>.+):(?P<name>[A-Za-z_]\w*)$")
_MODULE = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Every:
    """How often something happens: exactly one of `seconds` and `steps` is set."""

    seconds: float | None = None
    steps: int | None = None


def parse_every(text: str) -> Every:
    """Parse a duration key such as `30s`, `10m`, `1h` or `50 steps`.

    Raises:
        ValueError: another form, or not above zero.
    """
    found = _DURATION.match(text.strip())
    expected = f'expected a time such as 30s, 10m, 1h, or steps such as 50 steps, got "{text}"'
    if found is None:
        raise ValueError(expected)
    number, unit = float(found[1]), found[2]
    if number <= 0 or (unit.startswith("step") and number != int(number)):
        raise ValueError(expected)
    if unit.startswith("step"):
        return Every(steps=int(number))
    return Every(seconds=number * _SECONDS[unit])


def show(value: Any) -> str:
    """Return a value as a message shows it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(show(item) for item in value) + "]"
    return str(value)


def read_int(value: Any) -> int:
    """Read a whole number; 1e6 counts as one."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a whole number, got {show(value)}{_quotes(value)}")
    return value


def read_float(value: Any) -> float:
    """Read a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"expected a number, got {show(value)}{_quotes(value)}")
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {show(value)}")
    return float(value)


def _quotes(value: Any) -> str:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return ""
        return "; remove the quotes"
    return ""


def read_bool(value: Any) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {show(value)}")
    return value


def read_text(value: Any) -> str:
    """Read a text."""
    if not isinstance(value, str):
        hint = "" if isinstance(value, (list, dict)) else "; put it in quotes"
        raise ValueError(f"expected a text, got {show(value)}{hint}")
    return value


def read_duration(value: Any) -> str:
    """Read a duration; it stays the text the user wrote."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(
            f"expected a time with its unit, got {value}; write {value}s or {value} steps"
        )
    text = read_text(value)
    parse_every(text)
    return text


def split_function(text: str) -> tuple[str, str]:
    """Return (file or module, name) of a function reference.

    Raises:
        ValueError: neither `path/to/file.py:function` nor `package.module:function`.
    """
    found = _FUNCTION.match(text)
    if found is None or not (found["where"].endswith(".py") or _MODULE.match(found["where"])):
        raise ValueError(
            f"expected path/to/file.py:function or package.module:function, got {show(text)}"
        )
    return found["where"], found["name"]


def read_function(value: Any) -> str:
    """Read a function reference; whether it exists is checked with the files."""
    text = read_text(value)
    if not text:
        raise ValueError("is required; name path/to/file.py:function")
    split_function(text)
    return text


def read_path(value: Any) -> str:
    """Read a path; whether it exists is checked with the files."""
    text = read_text(value)
    if not text:
        raise ValueError("is required; name a file or folder")
    return text


def read_k(value: Any) -> tuple[int, int]:
    """Read answers per prompt: one number, or [fewest, most]."""
    pair = value if isinstance(value, (list, tuple)) else [value, value]
    expected = f"expected one number such as 4, or [fewest, most] such as [4, 9], got {show(value)}"
    if len(pair) != 2:
        raise ValueError(expected)
    try:
        low, high = (read_int(item) for item in pair)
    except ValueError:
        raise ValueError(expected) from None
    if low < 2:
        raise ValueError(f"needs at least 2 answers to rank, got {show(value)}")
    if low > high:
        raise ValueError(f"the fewest comes first; write [{high}, {low}]")
    return low, high


def read_weights(value: Any) -> dict[str, float]:
    """Read a mapping of names to weights of at least 0, with a positive sum."""
    if not isinstance(value, dict):
        raise ValueError(f"expected names and weights such as {{sft: 1.0}}, got {show(value)}")
    weights: dict[str, float] = {}
    for name, weight in value.items():
        try:
            weights[name] = read_float(weight)
        except ValueError as error:
            raise ValueError(f"weight of {name}: {error}") from None
        if weights[name] < 0:
            raise ValueError(f"weight of {name}: expected at least 0, got {show(weight)}")
    if sum(weights.values()) <= 0:
        raise ValueError("the weights add up to 0; give at least one above 0")
    return weights


READERS: dict[str, Callable[[Any], Any]] = {
    "duration": read_duration,
    "function": read_function,
    "path": read_path,
    "k": read_k,
    "weights": read_weights,
}
