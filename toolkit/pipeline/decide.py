"""What will happen to each stage, and why: `plan` prints it, the runner does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.pipeline import reasons
from toolkit.pipeline.digests import Digests
from toolkit.pipeline.graph import Node, build_graph, select
from toolkit.pipeline.identity import compute_key, compute_parts
from toolkit.pipeline.machine import Machine
from toolkit.pipeline.store import Store, find_shared
from toolkit.spec.errors import Problem, SpecError
from toolkit.spec.schema import Spec

Action = Literal["cached", "reused", "adopted", "continues", "runs"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One stage's fate.

    Args:
        node: the stage.
        key: identity of the wanted result.
        parts: what the key is made of.
        action: "cached": the result is there; "reused": an older one comes back from .old;
            "adopted": another run below `share` has it; "continues": an interrupted one goes on;
            "runs": it starts from nothing.
        why: one phrase.
        source: folder of the stage that is adopted, else None.
    """

    node: Node
    key: str
    parts: dict[str, Any]
    action: Action
    why: str
    source: Path | None = None


def decide(
    spec: Spec,
    nodes: Sequence[Node],
    run: Path,
    machine: Machine,
    digests: Digests,
    *,
    from_scratch: bool = False,
) -> list[Decision]:
    """Return the fate of every node, in order; writes nothing.

    Args:
        spec: the resolved spec.
        nodes: stages, each after its inputs.
        run: the run folder, which need not exist.
        machine: resolved hardware.
        digests: where file digests come from.
        from_scratch: run every stage, whatever is there.
    """
    store = Store(run)
    keys: dict[str, str] = {}
    actions: dict[str, str] = {}
    found: list[Decision] = []
    action: Action
    for node in nodes:
        inputs = {kind: keys[name] for kind, name in node.inputs.items()}
        parts = compute_parts(spec, node, inputs, machine, digests)
        key = compute_key(parts)
        keys[node.name] = key
        if from_scratch:
            action, why = "runs", "from scratch, as asked"
        else:
            action, why = _fate(store, node, key, parts, actions)
        source = None
        if spec.share is not None and action in ("runs", "continues") and not from_scratch:
            source = find_shared(Path(spec.share), run, node.name, key)
        if source is not None:
            action, why = "adopted", f"linked from {source} ({key[:6]})"
        actions[node.name] = action
        found.append(
            Decision(node=node, key=key, parts=parts, action=action, why=why, source=source)
        )
    return found


def _fate(
    store: Store, node: Node, key: str, parts: dict[str, Any], actions: dict[str, str]
) -> tuple[Action, str]:
    done = store.done(node.name)
    if done is not None and done.key == key:
        return "cached", f"same inputs ({key[:6]})"
    if store.unpublished(node.name, key) is not None:
        return "cached", f"finished ({key[:6]}), to be moved into place"
    if store.old(node.name, key) is not None:
        return "reused", f"from stages/.old ({key[:6]})"
    partial = store.partial(node.name, key)
    if partial is not None:
        at = f"at step {partial.step} of {partial.total}" if partial.total else "at its start"
        cut = f"failed {at}" if partial.failed else f"interrupted {at}"
        if store.can_continue(node.name, key):
            return "continues", f"{cut}: from its last checkpoint"
        return "runs", f"{cut}, before its first checkpoint"
    if done is None:
        return "runs", "not run yet"
    phrases = reasons.changes(done.parts, parts, actions, dict(node.inputs))
    return "runs", reasons.sentence(phrases)


def chosen_nodes(spec: Spec, until: str | None) -> list[Node]:
    """Return the stages up to `until`.

    Raises:
        SpecError: `until` names no stage of the run.
    """
    try:
        return select(build_graph(spec), until)
    except ValueError as error:
        raise SpecError([Problem("command line", 0, 0, "--until", str(error))]) from error
