"""Execute the stages of a spec in order; continue what was interrupted; reuse what is the same.

A result appears whole or not at all (see store.py). Killed at any moment and run again, the run
goes on from the last checkpoint and ends in the same bits.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.pipeline.attempt import Attempt
from toolkit.pipeline.decide import Decision, chosen_nodes, decide
from toolkit.pipeline.digests import Digests
from toolkit.pipeline.events import Display, Events, Silent
from toolkit.pipeline.files import make_folder, write_json_atomic, write_text_atomic
from toolkit.pipeline.gates import check_gate
from toolkit.pipeline.graph import Node
from toolkit.pipeline.guard import only_writer
from toolkit.pipeline.identity import own_digests
from toolkit.pipeline.interrupt import Interrupts
from toolkit.pipeline.lock import write_lock
from toolkit.pipeline.machine import Machine, resolve_machine
from toolkit.pipeline.store import Done, Store
from toolkit.spec.deviations import compare, paper_preset
from toolkit.spec.errors import StageFailed, WaitsForLabels
from toolkit.spec.load import Loaded
from toolkit.spec.resolved import resolved_yaml
from toolkit.spec.schema import Spec


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run did.

    Args:
        folder: the run folder.
        decisions: what happened to each stage, and why.
    """

    folder: Path
    decisions: list[Decision]


def prepare(loaded: Loaded, until: str | None = None) -> tuple[Machine, list[Decision]]:
    """Decide what each stage of a spec will do; writes nothing but the memory of digests.

    Raises:
        SpecError: `until` names no stage of the run.
    """
    machine = resolve_machine(loaded.spec.hardware)
    nodes = chosen_nodes(loaded.spec, until)
    return machine, _decide(loaded.spec, nodes, machine)


def _decide(
    spec: Spec, nodes: list[Node], machine: Machine, *, from_scratch: bool = False
) -> list[Decision]:
    run = Path(spec.out)
    digests = Digests(run / ".digests.json")
    decisions = decide(spec, nodes, run, machine, digests, from_scratch=from_scratch)
    digests.save()
    return decisions


def run(
    loaded: Loaded,
    until: str | None = None,
    *,
    from_scratch: bool = False,
    display: Display | None = None,
) -> Outcome:
    """Run a spec to its end, or to the stage `until`.

    Args:
        loaded: the spec and where its values came from.
        until: last stage to run, by name or kind; None: all.
        from_scratch: run every stage again, whatever is there.
        display: who shows the progress; None: nobody.

    Raises:
        ToolkitError: it names no stage or a device that cannot be used, and no folder is made;
            another process writes this folder; a stage failed, its gate did not hold, or it waits
            for labels.
    """
    folder = Path(loaded.spec.out)
    nodes = chosen_nodes(loaded.spec, until)
    machine = resolve_machine(loaded.spec.hardware)
    make_folder(folder)
    show = display or Silent()
    with only_writer(folder):
        Store(folder).recover()
        decisions = _decide(loaded.spec, nodes, machine, from_scratch=from_scratch)
        _describe(folder, loaded, decisions, machine)
        events = Events(folder / "events.jsonl")
        try:
            runner = _Runner(folder, loaded.spec, machine, events, show)
            runner.run(decisions)
        finally:
            events.close()
    return Outcome(folder=folder, decisions=decisions)


def _describe(folder: Path, loaded: Loaded, decisions: list[Decision], machine: Machine) -> None:
    source = Path(loaded.path)
    if source.is_file():
        write_text_atomic(folder / "spec.yaml", source.read_text(encoding="utf-8"))
    write_text_atomic(folder / "spec.resolved.yaml", resolved_yaml(loaded))
    found = compare(loaded, paper_preset(loaded.presets))
    write_json_atomic(folder / "deviations.json", found.as_record())
    write_lock(folder, loaded.spec, decisions, machine)


class _Runner:
    """Carry out decisions in order."""

    def __init__(
        self, folder: Path, spec: Spec, machine: Machine, events: Events, display: Display
    ) -> None:
        self.folder, self.spec, self.machine = folder, spec, machine
        self.events, self.display = events, display
        self.store = Store(folder)

    def run(self, decisions: list[Decision]) -> None:
        """Bring every stage to its wanted result."""
        self.events.write("run_started", device=self.machine.device_text, why=self.machine.why)
        self.display.say(self.machine.why)
        self.spec = _without_missing_log(self.spec, self.display)
        try:
            for decision in decisions:
                self._stage(decision)
        except BaseException as error:
            self.events.try_write("run_stopped", cause=type(error).__name__, message=str(error))
            raise
        _link_export(self.folder)
        self.events.write("run_finished")

    def _stage(self, decision: Decision) -> None:
        node = decision.node
        self.events.write(
            f"stage_{decision.action}", stage=node.name, key=decision.key, why=decision.why
        )
        if decision.action == "reused":
            self.store.reuse_old(node.name, decision.key)
        elif decision.source is not None:
            self.store.adopt(node.name, decision.key, decision.source)
        if decision.action in ("cached", "reused", "adopted"):
            done = self.store.done(node.name)
            self.display.say(f"{node.name}: {decision.action}, {decision.why}")
        else:
            with Interrupts() as interrupts:
                done = self._execute(decision, interrupts)
        if done is not None:
            check_gate(self.spec, node, done, str(self.store.folder(node.name)))

    def _execute(self, decision: Decision, interrupts: Interrupts) -> Done:
        name = decision.node.name
        self.display.begin(name, f"{decision.action}: {decision.why}")
        attempt = Attempt(decision, self.store, self.events, self.display)
        try:
            self.store.check_inputs(name, decision.node.inputs.values())
            done = attempt.finished(attempt.execute(self.spec, self.machine, interrupts))
            _check_own(self.spec, decision)
            self.store.publish(name, done)
        except BaseException as error:
            seen = attempt.stopped(error)
            self.display.end(name, _ending(error))
            if seen is error:
                raise
            raise seen from error
        self.events.write("stage_done", stage=name, key=done.key, seconds=done.seconds)
        for warning in done.warnings:
            self.events.write("warning", stage=name, message=warning)
            self.display.say(f"{name}: warning: {warning}")
        self.display.end(name, f"done in {done.seconds:.1f} s")
        if interrupts.asked:
            raise KeyboardInterrupt
        return done


def _check_own(spec: Spec, decision: Decision) -> None:
    """Refuse a result whose key names other contents than the stage has read.

    People may rank while a run is on its way; a result of what they added has another key.
    """
    for name, digest in own_digests(Path(spec.out), decision.node, Digests()).items():
        if digest != decision.parts["files"][name]:
            raise StageFailed(
                f"{decision.node.name}: {Path(spec.out, name)} was added to after the run had "
                "looked at it; run the same command again, and it is taken as it is then"
            )


def _ending(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "waits for labels" if isinstance(error, WaitsForLabels) else "failed"


def _without_missing_log(spec: Spec, display: Display) -> Spec:
    """Drop tensorboard from `log` where its package is missing, and say so."""
    if "tensorboard" not in spec.log or importlib.util.find_spec("tensorboard") is not None:
        return spec
    display.say(
        "log: the tensorboard package is not installed, so no tensorboard files are written; "
        "metrics.jsonl has the same figures"
    )
    return replace(spec, log=[name for name in spec.log if name != "tensorboard"])


def _link_export(folder: Path) -> None:
    """Show the exported models as export/ of the run folder."""
    link = folder / "export"
    if (folder / "stages" / "export").is_dir() and not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(Path("stages", "export"), target_is_directory=True)
