"""How many records a run works on: counted in the finished data stage, or estimated before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.spec.schema import Spec

_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Records after the rules of the data stage; None: not known yet.

    Args:
        demonstrations: training demonstrations.
        prompts: training prompts, for collect and PPO.
        valid_prompts: held-out prompts, for evaluate.
        rankings: ranked prompts of data.rankings, before a share of them is held out.
        exact: False for an estimate.
    """

    demonstrations: int | None = None
    prompts: int | None = None
    valid_prompts: int | None = None
    rankings: int | None = None
    exact: bool = True


def read_counts(data: Path) -> Counts:
    """Count the records in the folder of a finished data stage."""
    return Counts(
        demonstrations=_lines(data / "demonstrations.train.jsonl"),
        prompts=_lines(data / "prompts.train.jsonl"),
        valid_prompts=_lines(data / "prompts.valid.jsonl"),
        rankings=_lines(data / "rankings.jsonl"),
    )


def _lines(path: Path) -> int | None:
    if not path.exists():
        return None
    count = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            count += block.count(b"\n")
    return count


def estimate_counts(spec: Spec, scanned: Mapping[str, Any]) -> Counts:
    """Estimate from a scan of the files, or from what a task is told to make."""
    kept = 1.0 - spec.data.split.valid
    task = spec.data.task
    if task is not None:
        return Counts(
            demonstrations=_share(task.demonstrations, kept),
            prompts=task.prompts,
            valid_prompts=task.valid_prompts,
            exact=False,
        )
    prompts = _records(scanned.get("prompts"))
    return Counts(
        demonstrations=_share(_records(scanned.get("demonstrations")), kept),
        prompts=_share(prompts, kept),
        valid_prompts=_share(prompts, 1.0 - kept),
        rankings=_records(scanned.get("rankings")),
        exact=False,
    )


def _records(found: Any) -> int | None:
    if isinstance(found, Mapping):
        found = found.get("kept", found.get("read"))
    return found if isinstance(found, int) else None


def _share(count: int | None, share: float) -> int | None:
    return None if count is None else round(count * share)
