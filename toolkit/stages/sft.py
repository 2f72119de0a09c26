"""Stage `sft`: supervised fine-tuning on demonstrations (InstructGPT C.1).

loss = - mean over the batch's response tokens of log p(y_t | x, y_<t), end-of-text included.
With `sft.select: reward` each epoch's weights are kept, for the stage `select`.
"""

from __future__ import annotations

from toolkit.stages.context import StageContext
from toolkit.stages.finetune import FineTune, Recipe
from toolkit.stages.shared import needed


class Sft(FineTune):
    """Fine-tune the pretrained model, with dropout on its residual branches."""

    def __init__(self, ctx: StageContext) -> None:
        """Take the section `sft`."""
        super().__init__(ctx)
        sft = needed(ctx.spec.sft)
        self.recipe = Recipe(
            section="sft",
            epochs=sft.epochs,
            batch=sft.batch,
            lr=sft.lr,
            schedule=sft.schedule,
            optimizer=sft.optimizer,
            loss_on=sft.loss_on,
            dropout=sft.dropout,
            keep=sft.select == "reward",
        )


STAGE = Sft
