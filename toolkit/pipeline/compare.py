"""Two runs side by side, and one stage's account, from what they left on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.pipeline.events import read_events
from toolkit.pipeline.reasons import own_changes
from toolkit.pipeline.store import Done, Store
from toolkit.spec.errors import ToolkitError


@dataclass(frozen=True, kw_only=True)
class StageDifference:
    """How one stage differs between two runs.

    Args:
        name: the stage.
        same: both runs hold the same result.
        causes: one phrase per difference, from the first run to the second.
        figures: summary figure -> its value in either run, where both have it and they differ.
    """

    name: str
    same: bool
    causes: list[str]
    figures: dict[str, tuple[float, float]]


def finished_stages(run: Path) -> dict[str, Done]:
    """Return the finished stages of a run folder, in the order they finished.

    Raises:
        ToolkitError: the folder holds no run.
    """
    store = Store(run)
    if not store.stages.is_dir():
        raise ToolkitError(f"{run}: not a run folder (no stages/); give the `out` of a spec")
    names = (p.name for p in store.stages.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = {name: done for name in names if (done := store.done(name)) is not None}
    return dict(sorted(found.items(), key=lambda item: (item[1].finished, item[0])))


def compare_runs(first: Path, second: Path) -> list[StageDifference]:
    """Compare the finished stages of two runs."""
    one, two = finished_stages(first), finished_stages(second)
    differing = {two[n].key: n for n in two if n in one and one[n].key != two[n].key}
    return [
        _compare(name, one.get(name), two.get(name), differing)
        for name in list(dict.fromkeys([*one, *two]))
    ]


def _compare(
    name: str, one: Done | None, two: Done | None, differing: Mapping[str, str]
) -> StageDifference:
    if one is None or two is None:
        which = "first" if two is None else "second"
        causes = [f"only in the {which} run"]
        return StageDifference(name=name, same=False, causes=causes, figures={})
    causes = own_changes(one.parts, two.parts)
    changed = two.parts["inputs"].items() - one.parts["inputs"].items()
    read = {differing[key] for _, key in changed if key in differing}
    if read:
        verb = "differs" if len(read) == 1 else "differ"
        causes.append(f"{', '.join(sorted(read))} {verb}")
    left, right = dict(_numbers(one.summary)), dict(_numbers(two.summary))
    figures = {n: (left[n], right[n]) for n in left if n in right and left[n] != right[n]}
    return StageDifference(name=name, same=one.key == two.key, causes=causes, figures=figures)


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _numbers(part, f"{path}.{name}" if path else str(name))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, float(value)


def why_it_ran(run: Path, name: str, key: str) -> list[tuple[str, str]]:
    """Return (time, "runs: not run yet") for every attempt that led to a result."""
    path = run / "events.jsonl"
    kinds = {"stage_runs": "runs", "stage_continues": "continues"}
    return [
        (str(event["time"]), f"{kinds[event['event']]}: {event['why']}")
        for event in (read_events(path) if path.exists() else [])
        if event.get("event") in kinds and event.get("stage") == name and event.get("key") == key
    ]
