"""One execution of one stage: its context, the note of how far it is, and how it ends."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from toolkit.pipeline.decide import Decision
from toolkit.pipeline.events import Display, Events, now
from toolkit.pipeline.failures import explained, write_traceback
from toolkit.pipeline.files import remove_tree
from toolkit.pipeline.interrupt import Interrupts
from toolkit.pipeline.machine import Machine
from toolkit.pipeline.memory import peak_memory, reset_peak
from toolkit.pipeline.store import Done, Partial, Store
from toolkit.spec.errors import WaitsForLabels
from toolkit.spec.schema import Spec
from toolkit.stages.context import StageContext, StageResult

NOTE_EVERY = 1.0
"""Seconds between two notes of how far a stage is; `plan` reads them after a kill."""


class Attempt:
    """From a stage's work folder to the contents of its done.json, or to an error."""

    def __init__(self, decision: Decision, store: Store, events: Events, display: Display) -> None:
        """Make the work folder, or take up the one that was left."""
        self.decision, self.store, self.events, self.display = decision, store, events, display
        name, key = decision.node.name, decision.key
        before = store.partial(name, key) or Partial()
        fresh = decision.action != "continues"
        self.work = store.begin(name, key, fresh=fresh)
        self.note = Partial(
            step=0 if fresh else before.step,
            total=0 if fresh else before.total,
            seconds=0.0 if fresh else before.seconds,
            started=now() if fresh or not before.started else before.started,
        )
        self.earlier = self.note.seconds
        self.clock = time.monotonic()
        self.noted = 0.0
        self.was_reset = reset_peak()

    def execute(self, spec: Spec, machine: Machine, interrupts: Interrupts) -> StageResult:
        """Hand the stage its context and wait for its result."""
        from toolkit import stages

        node = self.decision.node
        self._write_note()
        return stages.execute(
            StageContext(
                spec=spec,
                name=node.name,
                kind=node.kind,
                round=node.round,
                work=self.work,
                inputs={k: self.store.folder(name) for k, name in node.inputs.items()},
                device=machine.device,
                threads=machine.threads,
                progress=self._progress,
                event=self._event,
                hold=lambda: interrupts.hold(self._tell_wait),
                interrupted=lambda: interrupts.asked,
            )
        )

    def _progress(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self.note = replace(self.note, step=step, total=total)
        self.display.step(step, total, metrics)
        if time.monotonic() - self.noted >= NOTE_EVERY:
            self._write_note()

    def _event(self, kind: str, **fields: Any) -> None:
        self.events.write(kind, **{"stage": self.decision.node.name, **fields})
        if message := fields.get("message"):
            self.display.say(str(message))

    def _tell_wait(self) -> None:
        message = (
            f"{self.decision.node.name}: stops after this step with a checkpoint, or when the "
            "stage is done if this was its last; Ctrl-C again: at once"
        )
        self._event("interrupt_waits", message=message)

    def _write_note(self) -> None:
        self.note = replace(self.note, seconds=self._seconds())
        self.store.note(self.decision.node.name, self.decision.key, self.note)
        self.noted = time.monotonic()

    def _seconds(self) -> float:
        return round(self.earlier + time.monotonic() - self.clock, 3)

    def stopped(self, error: BaseException) -> BaseException:
        """Leave the work folder, with a note of where and why; return what the user is to see.

        A stage that waits for labels has done nothing yet and leaves none.
        """
        interrupted = isinstance(error, (KeyboardInterrupt, WaitsForLabels))
        if isinstance(error, Exception) and not interrupted:
            error = self._explain(error)
        if not interrupted:
            self.note = replace(self.note, failed=str(error) or type(error).__name__)
        try:
            if isinstance(error, WaitsForLabels):
                remove_tree(self.work)
            else:
                self._write_note()
        except OSError as second:
            self.display.say(f"how far the stage came could not be noted ({second.strerror})")
        self.events.try_write(
            "stage_interrupted" if interrupted else "stage_failed",
            stage=self.decision.node.name,
            step=self.note.step,
            message=str(error),
        )
        return error

    def _explain(self, error: Exception) -> Exception:
        name, key = self.decision.node.name, self.decision.key
        onwards = "starts it again"
        if self.store.can_continue(name, key):
            onwards = "goes on from its last checkpoint"
        at = f"step {self.note.step} of {self.note.total}" if self.note.step else ""
        return explained(error, name, at, onwards, lambda: write_traceback(error, self.work))

    def finished(self, result: StageResult) -> Done:
        """Return the contents of done.json."""
        peak, covers = peak_memory(was_reset=self.was_reset)
        return Done(
            key=self.decision.key,
            parts=self.decision.parts,
            started=self.note.started,
            finished=now(),
            seconds=self._seconds(),
            peak_memory=peak,
            peak_memory_of=covers,
            device_memory=result.device_memory,
            summary=_finite(dict(result.summary)),
            warnings=list(result.warnings),
            gate=result.gate,
        )


def _finite(value: Any) -> Any:
    """Return `value` with null for every number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(name): _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
