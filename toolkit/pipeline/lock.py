"""lock.json: what a run was made from, for whoever wants to make it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.pipeline.decide import Decision
from toolkit.pipeline.files import write_json_atomic
from toolkit.pipeline.machine import Machine, describe, package_versions
from toolkit.spec.schema import Spec


def make_lock(spec: Spec, decisions: Sequence[Decision], machine: Machine) -> dict[str, Any]:
    """Return input digests, stage keys, package versions, seed and machine."""
    inputs: dict[str, str] = {}
    for decision in decisions:
        inputs.update(decision.parts["files"])
    return {
        "seed": spec.seed,
        "inputs": dict(sorted(inputs.items())),
        "keys": {decision.node.name: decision.key for decision in decisions},
        "packages": package_versions(),
        "machine": describe(machine),
    }


def write_lock(run: Path, spec: Spec, decisions: Sequence[Decision], machine: Machine) -> None:
    """Write lock.json into the run folder."""
    write_json_atomic(run / "lock.json", make_lock(spec, decisions, machine))
