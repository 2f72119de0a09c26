"""What a labeler says of each answer besides its rank (InstructGPT, table 3).

    "ratings":  [6, 2]                                 overall quality of each answer, 1 to 7
    "metadata": [{"quality": 6, "hallucinates": false}, {"quality": 2, "hallucinates": true}]

A ranking has either, both, or neither; `ratings` is stored as `quality`. Any other name is a flag.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from toolkit.data.fields import FieldError
from toolkit.data.rows import describe

QUALITY = "quality"
LOWEST, HIGHEST = 1, 7
_UNNAMED = "all"


def read_metadata(row: Mapping[str, Any], count: int) -> tuple[Mapping[str, int | bool], ...]:
    """Return the metadata of `count` answers; empty where the record has none.

    Raises:
        FieldError: another length, a rating that is no whole number from 1 to 7, a flag that is
            neither true nor false, or two ratings of one answer.
    """
    said: list[dict[str, int | bool]] = [{} for _ in range(count)]
    for at, entry in enumerate(_per_answer(row, "metadata", count)):
        if not isinstance(entry, dict):
            raise FieldError(f"metadata.{at}", f"expected {{name: value}}, got {describe(entry)}")
        said[at] = {
            str(name): _value(f"metadata.{at}.{name}", name, v) for name, v in entry.items()
        }
    for at, rating in enumerate(_per_answer(row, "ratings", count)):
        if QUALITY in said[at]:
            raise FieldError(f"ratings.{at}", "metadata rates this answer too; give one of the two")
        said[at][QUALITY] = _value(f"ratings.{at}", QUALITY, rating)
    return tuple(said) if any(said) else ()


def read_sources(row: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Return the name of the model behind each answer; empty where the record does not say.

    Raises:
        FieldError: another length, or a name that is no text.
    """
    found = []
    for at, name in enumerate(_per_answer(row, "source", count)):
        if not isinstance(name, str):
            raise FieldError(f"source.{at}", f"expected text, got {describe(name)}")
        found.append(name)
    return tuple(found)


def _per_answer(row: Mapping[str, Any], name: str, count: int) -> list[Any]:
    values = row.get(name)
    if values is None:
        return []
    if not isinstance(values, list):
        raise FieldError(name, f"expected a list, got {describe(values)}")
    if len(values) != count:
        raise FieldError(name, f"expected one entry per answer ({count}), got {len(values)}")
    return values


def _value(field: str, name: str, value: Any) -> int | bool:
    if name != QUALITY:
        if not isinstance(value, bool):
            raise FieldError(field, f"expected true or false, got {describe(value)}")
        return value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not LOWEST <= value <= HIGHEST:
        expected = f"expected a whole number from {LOWEST} (worst) to {HIGHEST} (best)"
        raise FieldError(field, f"{expected}, got {describe(value)}")
    return int(value)


def summarize_metadata(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Sum up rankings: source -> answers rated, mean quality, and share of answers with each flag.

    Answers without a source stand under "all". Empty where no record has metadata.
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        said = record.get("metadata") or ()
        sources = record.get("source") or [_UNNAMED] * len(said)
        for source, entry in zip(sources, said, strict=False):
            for name, value in entry.items():
                found[source][name].append(float(value))
    return {source: _summary(values) for source, values in sorted(found.items())}


def _summary(values: Mapping[str, list[float]]) -> dict[str, Any]:
    rated = values.get(QUALITY, [])
    flags = {name: _mean(own) for name, own in sorted(values.items()) if name != QUALITY}
    summary: dict[str, Any] = {"rated": len(rated), "flags": flags}
    return summary | ({QUALITY: _mean(rated)} if rated else {})


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
