"""Stage `init`: where the policy starts, and what its KL is measured to (InstructGPT C.3).

The pretrained model, fine-tuned for two epochs on the demonstrations mixed with pretraining text,
without dropout. The SFT model, trained for longer, is not read.
"""

from __future__ import annotations

from toolkit.stages.context import StageContext
from toolkit.stages.finetune import FineTune, Recipe
from toolkit.stages.shared import needed


class Init(FineTune):
    """Fine-tune the pretrained model on the mixture."""

    def __init__(self, ctx: StageContext) -> None:
        """Take the section `ppo.init`."""
        super().__init__(ctx)
        init = needed(needed(ctx.spec.ppo).init)
        self.recipe = Recipe(
            section="ppo.init",
            epochs=init.sft_epochs,
            batch=init.batch,
            lr=init.lr,
            schedule=init.schedule,
            optimizer=init.optimizer,
            loss_on=ctx.spec.sft.loss_on if ctx.spec.sft is not None else "response",
            mix=init.pretrain_mix,
            length=init.length,
        )


STAGE = Init
