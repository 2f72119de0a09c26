"""Gates: what a stage must reach for the run to go on, and how to go on when it did not."""

from __future__ import annotations

from toolkit.pipeline.graph import Node
from toolkit.pipeline.store import Done
from toolkit.spec.errors import GateFailed
from toolkit.spec.schema import Spec


def gate_text(spec: Spec, node: Node, done: Done) -> str | None:
    """Return why a finished stage stops the run, or None.

    The reward gate judges the stored accuracy by the spec of today, so that moving or removing the
    gate trains nothing again; any other stop is as the stage said.
    """
    if node.kind != "reward":
        return done.gate
    gate = spec.reward.gate
    if gate is None:
        return None
    accuracy = done.summary.get("accuracy")
    if accuracy is None:
        return f"no held-out pair exists, and reward.gate.accuracy asks for {gate.accuracy:g}"
    if accuracy >= gate.accuracy:
        return None
    return f"held-out accuracy {accuracy:.3f} is below reward.gate.accuracy {gate.accuracy:g}"


def check_gate(spec: Spec, node: Node, done: Done, folder: str) -> None:
    """Raise GateFailed, with the ways to go on, when the stage stops the run."""
    text = gate_text(spec, node, done)
    if text is None:
        return
    ways = "change the spec and run again"
    if node.kind == "reward":
        ways = (
            "give it more or better rankings, or lower the gate (reward.gate=null removes it), and "
            "run again: the reward model is kept and not trained again"
        )
    raise GateFailed(f"{node.name}: {text}; the result is in {folder}; to go on, {ways}")
