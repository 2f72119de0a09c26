"""Where a run waits for people: which round's answers are to be ranked, and how many are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.data.collected import Progress, progress_of, read_own
from toolkit.data.lines import read_records
from toolkit.pipeline.decide import Decision
from toolkit.pipeline.digests import Digests
from toolkit.pipeline.files import read_json
from toolkit.pipeline.graph import Node, build_graph
from toolkit.pipeline.identity import own_digests
from toolkit.pipeline.run_folder import read_spec
from toolkit.pipeline.store import Done, Store
from toolkit.spec.errors import ToolkitError
from toolkit.spec.labels import own_rankings
from toolkit.spec.schema import Spec


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A label stage that waits.

    Args:
        run: the run folder.
        spec: its resolved spec.
        stage: name of the stage, such as "label.1".
        round: its round.
        samples: what was collected.
        key: of the result that they are.
        file: where people's rankings go; it need not be there yet.
    """

    run: Path
    spec: Spec
    stage: str
    round: int
    samples: list[dict[str, Any]]
    key: str
    file: Path

    def is_outdated(self) -> bool:
        """Tell whether a run has collected other answers since."""
        collected = Store(self.run).done(f"collect.{self.round}")
        return collected is not None and collected.key != self.key

    def is_taken(self) -> bool:
        """Tell whether a run has gone on from the rankings since."""
        return _ranks(Store(self.run).done(self.stage), self.key)


def _ranks(done: Done | None, key: str) -> bool:
    """Tell whether a label stage is done, with the collected answers of this key."""
    return done is not None and done.parts["inputs"].get("collect") == key


def find_waiting(run: Path) -> Waiting:
    """Return the label stage of a run that waits for people.

    Raises:
        ToolkitError: there is none; it says why, and what to do.
    """
    spec = read_spec(run).loaded.spec
    if spec.label.by != "people" or not spec.ranks:
        why = f"label.by is {spec.label.by}" if spec.ranks else "models.reward_trained is given"
        raise ToolkitError(
            f"{run}: {why}, so nothing waits for people; `label: {{by: people}}` in the spec of a "
            "run that collects answers asks for them"
        )
    if spec.label.file is not None:
        raise ToolkitError(
            f"{run}: its rankings are those of label.file, {spec.label.file}; remove label.file "
            "from the spec and run, to rank on a page"
        )
    store, keys = Store(run), (read_json(run / "lock.json") or {}).get("keys") or {}
    nodes = {node.name: node for node in build_graph(spec)}
    added: Path | None = None
    labels = [node for node in nodes.values() if node.kind == "label"]
    for node in labels:
        if added is not None:
            raise ToolkitError(
                f"{added}: has changed since the run read it, so what {node.name} ranks may be "
                "collected anew; type the same `run` command first"
            )
        collected = _collected(store, node, nodes[node.inputs["collect"]], keys)
        done = store.done(node.name)
        if done is None or not _ranks(done, collected.key):
            return _waiting(store, run, spec, node, collected)
        added = _added_to(run, node, done)
    raise ToolkitError(f"{run}: {_after(run, labels[-1], added, nodes.values(), keys)}")


def _after(
    run: Path, last: Node, added: Path | None, nodes: Iterable[Node], keys: Mapping[str, str]
) -> str:
    """Return what comes when every round is ranked.

    Args:
        run: the run folder.
        last: the label stage of the last round.
        added: its file, where it has changed since the run read it.
        nodes: all stages, in order.
        keys: stage -> key that the last run wanted, up to the stage it was to end with.
    """
    store, again = Store(run), "type the same `run` command again"
    if added is not None:
        return f"{added} has changed since {last.name} read it; {again}, which ranks anew"
    done = f"nothing waits to be ranked any more: {last.name} is done"
    ahead = next((node.name for node in nodes if not _is_current(store, node, keys)), None)
    if ahead is not None:
        return f"{done}; {again}, which goes on with {ahead}"
    return (
        f"{done}, and so is the run; `python -m toolkit report {run}` shows how it came out; to "
        f"add or correct a ranking, append it to {run / own_rankings(last.name)} and {again}"
    )


def _added_to(run: Path, node: Node, done: Done) -> Path | None:
    """Return the run's own file that has changed since a stage read it, or None."""
    now = own_digests(run, node, Digests())
    changed = (run / name for name in now if now[name] != done.parts["files"].get(name))
    return next(changed, None)


def _collected(store: Store, node: Node, collect: Node, keys: Mapping[str, str]) -> Done:
    """Return the answers that a label stage is to rank.

    Raises:
        ToolkitError: there are none, or they are of an earlier spec.
    """
    collected = store.done(collect.name)
    if collected is None or not _is_current(store, collect, keys):
        state = "has not finished" if collected is None else "is of an earlier spec"
        raise ToolkitError(
            f"{node.name}: nothing to rank yet, {collect.name} {state}; type the `run` command, "
            "which collects the answers and then waits"
        )
    return collected


def _is_current(store: Store, node: Node, keys: Mapping[str, str]) -> bool:
    """Tell whether a stage's result is there, is what the last run wanted, and is of what is there.

    Args:
        store: of the run.
        node: the stage.
        keys: stage -> key that the last run wanted, up to the stage it was to end with.
    """
    done = store.done(node.name)
    if done is None:
        return False
    read = {kind: store.done(name) for kind, name in node.inputs.items()}
    there = all(d is not None and done.parts["inputs"].get(k) == d.key for k, d in read.items())
    return there and done.key == keys.get(node.name, done.key)


def _waiting(store: Store, run: Path, spec: Spec, node: Node, collected: Done) -> Waiting:
    name = node.inputs["collect"]
    store.check_inputs("label", [name])
    return Waiting(
        run=run,
        spec=spec,
        stage=node.name,
        round=node.round,
        samples=_samples(store, name),
        key=collected.key,
        file=run / own_rankings(node.name),
    )


def _samples(store: Store, name: str) -> list[dict[str, Any]]:
    return read_records(store.folder(name) / "samples.jsonl")


def waiting_text(spec: Spec, decision: Decision) -> str:
    """Return what a plan says of a label stage that people's rankings of the run folder feed.

    Args:
        spec: the resolved spec.
        decision: of any stage; "" for every other kind.

    Raises:
        ToolkitError: the collected answers are damaged.
    """
    node = decision.node
    if not node.own or decision.action != "runs":
        return ""
    store, collect = Store(Path(spec.out)), node.inputs["collect"]
    collected = store.done(collect)
    if collected is None or collected.key != decision.parts["inputs"]["collect"]:
        return ", then waits for people"
    store.check_inputs("label", [collect])
    progress = ranked_so_far(Path(spec.out, own_rankings(node.name)), _samples(store, collect))
    return f", {'' if progress.suffices(spec.label.quorum) else 'waits: '}{progress}"


def ranked_so_far(file: Path, samples: list[dict[str, Any]]) -> Progress:
    """Count the prompts that a run's own file of rankings ranks."""
    return progress_of(read_own(file, samples).read.records, samples)
