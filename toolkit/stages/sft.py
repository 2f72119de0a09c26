"""Stage `sft`: supervised fine-tuning on demonstrations (InstructGPT C.1).

loss = - mean over the batch's response tokens of log p(y_t | x, y_<t), end-of-text included.
"""

from __future__ import annotations

import math
from typing import Any

from toolkit.data.batches import Batch, collate, collate_text
from toolkit.models.heads import Policy
from toolkit.models.load import set_residual_dropout
from toolkit.models.save import save_model
from toolkit.stages.context import StageContext, StageResult
from toolkit.stages.shared import (
    Record,
    backward_cross_entropy,
    language_model_state,
    load_pretrained,
    mean_cross_entropy,
    needed,
    read_records,
    stream_of,
    text_of,
)
from toolkit.training.guard import check_finite, norm_check
from toolkit.training.optim import make_updater
from toolkit.training.random import Order


class Sft:
    """Fine-tune the pretrained model."""

    def __init__(self, ctx: StageContext) -> None:
        """Remember the context."""
        self.ctx, self.config, self.stream = ctx, needed(ctx.spec.sft), stream_of(ctx)

    def setup(self) -> int:
        """Load demonstrations and the model."""
        ctx, config = self.ctx, self.config
        self.text = text_of(ctx)
        self.train = read_records(ctx.inputs["data"] / "demonstrations.train.jsonl")
        self.valid = read_records(ctx.inputs["data"] / "demonstrations.valid.jsonl")
        self.model = load_pretrained(ctx, self.text)
        self.policy = Policy(self.model, self.text.vocab, ctx.spec.hardware)
        places = set_residual_dropout(self.model, config.dropout)
        if config.dropout and not places:
            ctx.event(
                "note",
                message=f"sft.dropout: {type(self.model).__name__} has none to set; none is used",
            )
        self.per_epoch = math.ceil(len(self.train) / config.batch)
        total = config.epochs * self.per_epoch
        self.updater = make_updater(self.model, config.optimizer, config.lr, config.schedule, total)
        self.order = Order(self.stream, len(self.train))
        self.valid_loss: list[float] = []
        return total

    def step(self, i: int) -> dict[str, float]:
        """One optimizer step; after an epoch, the held-out loss."""
        epoch, place = divmod(i, self.per_epoch)
        start = place * self.config.batch
        count = min(self.config.batch, len(self.train) - start)
        rows = self.order.take(epoch * len(self.train) + start, count)
        batch = self._collate([self.train[r] for r in rows])
        if self.config.dropout:
            self.stream.seed_torch("dropout", i)
        if not self.model.training:  # it visits every module, and most steps find them so
            self.model.train()
        lr = self.updater.lr
        loss = backward_cross_entropy(self.policy, batch)
        check_finite(self.ctx, i, "the loss", loss, ids=batch.ids)
        values = {
            "loss": loss,
            "grad_norm": self.updater.step(norm_check(self.ctx, i, ids=batch.ids)),
            "lr": lr,
        }
        values["tokens"] = float(batch.tokens)
        if place == self.per_epoch - 1 and self.valid:
            self.valid_loss.append(self._held_out_loss())
            values["valid_loss"] = self.valid_loss[-1]
        return values

    def _collate(self, records: list[Record]) -> Batch:
        prompts = [r["prompt_ids"] for r in records]
        responses = [r["response_ids"] for r in records]
        if self.config.loss_on == "all":
            joined = [p + r for p, r in zip(prompts, responses, strict=True)]
            return collate_text(joined, self.text.pad_id)
        return collate(prompts, responses, self.text.pad_id)

    def _held_out_loss(self) -> float:
        self.model.eval()
        size = 4 * self.config.batch
        parts = (self.valid[a : a + size] for a in range(0, len(self.valid), size))
        return mean_cross_entropy(self.policy, (self._collate(part) for part in parts))

    def state(self) -> dict[str, Any]:
        """Weights, optimizer, schedule, held-out losses so far."""
        return {
            **language_model_state(self.model, self.updater),
            "valid_loss": self.valid_loss,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.model.load_state_dict(state["model"])
        self.updater.restore(state["updater"])
        self.valid_loss = list(state["valid_loss"])

    def finish(self) -> StageResult:
        """Save the model."""
        set_residual_dropout(self.model, 0.0)
        save_model(self.model.eval(), self.ctx.work / "model", self.text)
        summary = {"steps": self.updater.steps, "demonstrations": len(self.train)}
        return StageResult(summary={**summary, "valid_loss": self.valid_loss})


STAGE = Sft
