"""A spec that needs no data and stages that need no torch."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from toolkit.spec.load import Loaded, load_spec
from toolkit.stages.context import StageContext, StageResult

SPEC = """\
extends: tiny
name: fake
out: {out}
hardware: {{device: cpu, threads: 2}}
data: {{task: {{name: sort}}}}
text: {{max_prompt: 6, max_response: 8}}
reward: {{gate: {{accuracy: 0.5}}}}
"""

STAGES = ["data", "sft", "collect.1", "label.1", "reward.1", "ppo.1", "evaluate", "export"]
STEPS = 6


def load(folder: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Load the fake spec, with its run folder in `folder`."""
    path = folder / "spec.yaml"
    if not path.exists():
        path.write_text(SPEC.format(out=folder / "runs"), encoding="utf-8")
    return load_spec(path, overrides)


class Stages:
    """Stand-in for toolkit.stages.execute: STEPS steps that hash their inputs; a checkpoint each.

    Attributes:
        ran: (stage, step it began at), in order.
        at: (stage, step) -> what to do after that step, such as raise or kill.
        answers: stage -> result, where the default does not do.
    """

    def __init__(self) -> None:
        self.ran: list[tuple[str, int]] = []
        self.at: dict[tuple[str, int], object] = {}
        self.answers: dict[str, StageResult] = {}

    def __call__(self, ctx: StageContext) -> StageResult:
        saved = ctx.work / "checkpoint" / "step.pt"
        state = json.loads(saved.read_text()) if saved.exists() else {"step": 0, "value": 1}
        self.ran.append((ctx.name, state["step"]))
        for step in range(state["step"] + 1, STEPS + 1):
            state = {"step": step, "value": (state["value"] * 31 + ctx.spec.seed + step) % 9973}
            saved.parent.mkdir(exist_ok=True)
            beside = saved.with_suffix(".tmp")
            beside.write_text(json.dumps(state))
            beside.replace(saved)
            ctx.progress(step, STEPS, {"loss": 1.0 / step})
            happen = self.at.get((ctx.name, step))
            if callable(happen):
                happen()
        read = {k: json.loads((p / "out.json").read_text()) for k, p in ctx.inputs.items()}
        (ctx.work / "out.json").write_text(json.dumps({"value": state["value"], "read": read}))
        default = StageResult(summary={"accuracy": 0.8} if ctx.kind == "reward" else {})
        return self.answers.get(ctx.name, default)

    def names(self) -> list[str]:
        """Return the stages that ran since the last call."""
        found = [name for name, _ in self.ran]
        self.ran.clear()
        return found


def kill() -> None:
    """Die as with `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
