"""One file per stage. A stage's step() reads as the paper.

Importing this package imports no torch.
"""

from toolkit.stages.context import StageContext, StageResult

__all__ = ["StageContext", "StageResult", "execute"]


def execute(ctx: StageContext) -> StageResult:
    """Run the stage `ctx.kind` to its end, from its newest checkpoint if there is one."""
    from toolkit.training.loop import run_stage

    return run_stage(ctx)
