"""What the pipeline hands to a stage, and what a stage hands back. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.spec.schema import Spec

Progress = Callable[[int, int, Mapping[str, float]], None]
"""(step, total, metrics): called after every step, 1-based."""

Event = Callable[..., None]
"""event(kind, **fields): one line in events.jsonl, and on the console when it has a `message`."""


def _no_progress(step: int, total: int, metrics: Mapping[str, float]) -> None: ...


def _no_event(kind: str, **fields: Any) -> None: ...


def _nothing_held() -> None: ...


def _never() -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """One stage's whole world: it reads `inputs`, writes below `work`, and touches nothing else.

    Args:
        spec: the resolved spec.
        name: stage name as in the run folder, such as "ppo.1".
        kind: which stage file runs, such as "ppo".
        round: 1-based round of collect, label, reward and the learner; 0 for the others.
        work: folder being written; the runner renames it to stages/<name> when the stage is done.
        inputs: stage kind, or "learner", -> finished folder: {"data": ..., "sft": ...}.
        device: "cpu" or "cuda" (resolved; never "auto").
        threads: CPU threads (resolved).
        progress: called after every step.
        event: writes one line to events.jsonl.
        hold: from this call to the end of the stage, the first Ctrl-C waits.
        interrupted: whether a Ctrl-C waits; after a step the stage then saves and stops, after its
            last step it finishes and the run stops.
    """

    spec: Spec
    name: str
    kind: str
    round: int
    work: Path
    inputs: Mapping[str, Path]
    device: str = "cpu"
    threads: int = 1
    progress: Progress = _no_progress
    event: Event = _no_event
    hold: Callable[[], None] = _nothing_held
    interrupted: Callable[[], bool] = _never


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a finished stage says of itself; goes into done.json.

    Args:
        summary: figures for the report, JSON-able.
        warnings: sentences a user should read.
        gate: why the run must stop here, or None.
        device_memory: peak bytes on the GPU; None on the CPU. The loop adds it.
    """

    summary: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    gate: str | None = None
    device_memory: int | None = None
