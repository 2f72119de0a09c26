"""JSON Lines as our own stages write and read them; what users give is read by formats.py."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read JSON Lines that a stage of ours wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")
