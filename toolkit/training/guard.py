"""The first loss that is not a number stops the stage.

With the batch saved and the last good checkpoint kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from toolkit.spec.errors import StageFailed
from toolkit.stages.context import StageContext
from toolkit.training.checkpoint import save_whole


class StopStage(Exception):
    """A stop rule fired: the stage ends here, with what it has, and says why."""


def norm_check(ctx: StageContext, step: int, **batch: Any) -> Callable[[float], None]:
    """Make the check of a gradient norm that an updater calls before it moves the weights."""
    return lambda norm: check_finite(ctx, step, "the gradient norm", norm, **batch)


def check_finite(ctx: StageContext, step: int, name: str, value: float, **batch: Any) -> None:
    """Raise StageFailed when `value` is NaN or infinite.

    `batch` is saved beside the checkpoints.
    """
    if math.isfinite(value):
        return
    path = ctx.work / "failed_batch.pt"
    save_whole({"step": step, "name": name, "batch": batch}, path)
    raise StageFailed(
        f"{ctx.name}: {name} is {value} at step {step + 1}; the batch is in {path}, the last good "
        f"checkpoint "
        f"is kept; lower {ctx.kind}.lr or {ctx.kind}.optimizer.clip_norm and run again"
    )
