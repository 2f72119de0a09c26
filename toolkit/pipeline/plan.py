"""What a run would do, why, and how much work it is: the answer of `plan`. Runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from toolkit.pipeline.counts import Counts, counts_of
from toolkit.pipeline.decide import Decision
from toolkit.pipeline.disk import Disk, disk_notes, room
from toolkit.pipeline.machine import Machine
from toolkit.pipeline.people import waiting_text
from toolkit.pipeline.runner import prepare
from toolkit.pipeline.work import collect_prompts, optimizer_steps, work_text
from toolkit.spec.errors import DataError
from toolkit.spec.load import Loaded
from toolkit.spec.schema import Spec


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage of a plan.

    Args:
        decision: what happens to it, and why.
        work: in words.
        steps: optimizer steps; None where there are none, or they cannot be known yet.
    """

    decision: Decision
    work: str
    steps: int | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do.

    Args:
        folder: the run folder.
        machine: resolved hardware.
        stages: in order.
        counts: records of each data file, by rule, as the scan found them.
        disk: the room its models take; None where they are made from scratch.
        notes: sentences a user should read.
    """

    folder: Path
    machine: Machine
    stages: list[PlannedStage]
    counts: dict[str, dict[str, int]]
    disk: Disk | None = None
    notes: list[str] = field(default_factory=list)


def make_plan(loaded: Loaded, until: str | None = None) -> Plan:
    """Plan a run.

    Raises:
        SpecError: `until` names no stage.
        DataError: the data has problems; it holds all of them.
    """
    from toolkit.data.scan import scan

    spec = loaded.spec
    scanned = scan(spec)
    if scanned.problems:
        raise DataError(scanned.problems)
    machine, decisions = prepare(loaded, until)
    folder = Path(spec.out)
    counts = counts_of(scanned.counts)
    stages = [
        PlannedStage(
            decision=decision,
            work=work_text(spec, decision.node, counts) + waiting_text(spec, decision),
            steps=optimizer_steps(spec, decision.node, counts),
        )
        for decision in decisions
    ]
    disk = room(spec, decisions)
    notes = [*_drop_notes(scanned.counts), *_round_notes(spec, counts), *disk_notes(disk)]
    return Plan(
        folder=folder,
        machine=machine,
        stages=stages,
        counts=scanned.counts,
        disk=disk,
        notes=[*notes, *scanned.warnings],
    )


def _drop_notes(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Say how many records each rule dropped."""
    notes = []
    for name, numbers in counts.items():
        dropped = [f"{n} {rule}" for rule, n in numbers.items() if rule not in _NOT_DROPS and n]
        if dropped:
            notes.append(f"{name}: {numbers['read']} read; dropped: {', '.join(dropped)}")
    return notes


_NOT_DROPS = ("read", "kept", "train", "valid", "characters")
"""Names in a scan's counts that are no rule; every other one counts dropped records."""


def _round_notes(spec: Spec, counts: Counts) -> list[str]:
    """Say who answers in the first round, and what later rounds have that is new."""
    if spec.collect is None or not spec.ranks:
        return []
    notes, sources = [], spec.collect.sources
    usable = usable_sources(sources, ppo_exists=False)
    if set(usable) != set(sources):
        shares = ", ".join(f"{name} {share:.2f}" for name, share in usable.items())
        notes.append(f"collect.1: there is no PPO policy yet, so the sources are {shares}")
    later = range(2, spec.rounds + 1)
    if later and not sources.get("ppo"):
        notes.append(
            "collect.sources has no ppo, so later rounds rank answers of the same models as the "
            "first; give ppo a weight to rank the policy's own"
        )
    if later and counts.prompts is not None:
        each = collect_prompts(spec, counts.prompts)
        again = {r: min(each, max(0, r * each - counts.prompts)) for r in later}
        notes += [
            f"collect.{r}: {n} of its {each} prompts were answered in an earlier round, since "
            f"there are {counts.prompts}"
            for r, n in again.items()
            if n
        ]
    if spec.rounds == 1 and spec.ppo is not None and spec.ppo.restart == "previous":
        notes.append("ppo.restart: previous says nothing in the only round; see rounds")
    return notes


def usable_sources(sources: Mapping[str, float], *, ppo_exists: bool) -> dict[str, float]:
    """Return source -> share, without a PPO policy that does not exist yet; shares add up to 1."""
    there = {name: w for name, w in sources.items() if name != "ppo" or ppo_exists}
    total = sum(there.values())
    return {name: weight / total for name, weight in there.items()}
