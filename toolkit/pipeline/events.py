"""events.jsonl: one line per state change of a run; and what a display must offer."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol


def now() -> str:
    """Return the time as UTC, ISO 8601, milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


class Events:
    """Append-only log of one run; each line is one write, so a kill tears at most the last."""

    def __init__(self, path: Path) -> None:
        """Open `path` for appending, closing a line that a kill cut short."""
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(self._handle).st_size
        if size and os.pread(self._handle, 1, size - 1) != b"\n":
            os.write(self._handle, b"\n")

    def write(self, kind: str, **fields: Any) -> None:
        """Write one line: time, event, and the given fields."""
        line = json.dumps({"time": now(), "event": kind, **fields}, default=str)
        os.write(self._handle, line.encode("utf-8") + b"\n")

    def try_write(self, kind: str, **fields: Any) -> None:
        """Write one line of a run that stops; on a full disk the cause of the stop goes first."""
        with contextlib.suppress(OSError):
            self.write(kind, **fields)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the lines of events.jsonl; lines that a kill tore are left out."""
    found: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


class Display(Protocol):
    """What the runner tells a person while it works."""

    def say(self, text: str) -> None:
        """Show one sentence."""

    def begin(self, name: str, why: str) -> None:
        """Start showing stage `name`."""

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Show that `step` of `total` is done."""

    def end(self, name: str, outcome: str) -> None:
        """Stop showing stage `name`."""


class Silent:
    """A display that shows nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""

    def begin(self, name: str, why: str) -> None:
        """Show nothing."""

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Show nothing."""

    def end(self, name: str, outcome: str) -> None:
        """Show nothing."""
