"""Drive one stage: set up, continue where a killed run stopped, step, save, finish."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any, Protocol

import torch

from toolkit.models.compute import prepare_products
from toolkit.stages.context import StageContext, StageResult
from toolkit.training.checkpoint import Checkpoints
from toolkit.training.device import peak_device_memory, prepare_device, set_up_memory
from toolkit.training.guard import StopStage
from toolkit.training.metrics import Metrics


class Stage(Protocol):
    """What a stage file provides as STAGE."""

    def __init__(self, ctx: StageContext) -> None: ...

    def setup(self) -> int:
        """Load inputs and models; return the number of steps."""

    def step(self, i: int) -> dict[str, float]:
        """Do step i (0-based) and return its metrics."""

    def state(self) -> dict[str, Any]:
        """Everything needed to continue: tensors and plain values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""

    def finish(self) -> StageResult:
        """Write the results below ctx.work."""


def run_stage(ctx: StageContext) -> StageResult:
    """Run `ctx.kind` to its end; the same bits whether or not it was killed on the way.

    The checkpoints stay: the pipeline removes them once the result counts as finished.
    """
    configure(ctx)
    stage: Stage = importlib.import_module(f"toolkit.stages.{ctx.kind}").STAGE(ctx)
    ctx.work.mkdir(parents=True, exist_ok=True)
    total = stage.setup()
    saves = Checkpoints(
        ctx.work / "checkpoint", ctx.spec.checkpoint.every, ctx.spec.checkpoint.keep
    )
    done = 0
    if (held := saves.newest()) is not None:
        done, state = held
        stage.restore(state)
        ctx.event(
            "resumed", stage=ctx.name, step=done, message=f"{ctx.name} continues at step {done}"
        )
    ctx.hold()  # before, there is nothing to lose
    gate = _steps(ctx, stage, saves, done, total)
    result = replace(stage.finish(), device_memory=peak_device_memory(ctx.device))
    if gate is not None:
        return replace(result, warnings=(*result.warnings, gate), gate=gate)
    return result


def _steps(
    ctx: StageContext, stage: Stage, saves: Checkpoints, done: int, total: int
) -> str | None:
    metrics = Metrics(ctx.work / "metrics.jsonl", done, _tensorboard(ctx))
    try:
        for i in range(done, total):
            values = stage.step(i)
            metrics.write(i + 1, values)
            ctx.progress(i + 1, total, values)
            if i + 1 < total and (saves.due(i + 1) or ctx.interrupted()):
                saves.save(i + 1, stage.state())
                if ctx.interrupted():
                    raise KeyboardInterrupt
    except StopStage as stop:
        return str(stop)
    finally:
        metrics.close()
    return None


def _tensorboard(ctx: StageContext) -> Any:
    if "tensorboard" not in ctx.spec.log:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(ctx.work / "tensorboard"))


def configure(ctx: StageContext) -> None:
    """Fix threads, device and determinism for this process."""
    torch.set_num_threads(ctx.threads)
    prepare_device(ctx.device, deterministic=ctx.spec.hardware.deterministic)
    prepare_products(ctx.device)
    set_up_memory()
    # use_deterministic_algorithms sets the same switch, after a second of importing the compiler.
    torch.set_deterministic_debug_mode("error" if ctx.spec.hardware.deterministic else "default")
    # That mode would fill every new tensor with NaN, most of them just before they are written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(ctx.spec.seed)
