"""metrics.jsonl of a running stage: a line per step, rewound to the checkpoint on resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Metrics:
    """Write one stage's metrics.

    Args:
        path: the JSON Lines file.
        done: steps already done; lines after them are dropped, since they will be written again.
        writer: a tensorboard SummaryWriter, or None.
    """

    def __init__(self, path: Path, done: int, writer: Any = None) -> None:
        """Rewind, then open for appending."""
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= done]
        path.write_text("".join(line + "\n" for line in kept))
        self._file = path.open("a")
        self._writer = writer

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line; `step` counts from 1."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def _lines(path: Path) -> list[str]:
    """Whole lines only: a killed process may have left half of one."""
    if not path.exists():
        return []
    return [line[:-1] for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
