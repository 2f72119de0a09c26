"""Stage `pretrain`: language-model training of a model from scratch on the pretraining text.

    loss = - mean over tokens of log p(x_t | x_<t)

on windows of `length` tokens at random places of the stream.
"""

from __future__ import annotations

import math
from typing import Any

from toolkit.data.batches import windows
from toolkit.models.heads import Policy
from toolkit.models.load import load_base
from toolkit.models.save import save_model
from toolkit.stages.context import StageContext, StageResult
from toolkit.stages.shared import (
    backward_cross_entropy,
    language_model_state,
    mean_cross_entropy,
    needed,
    needed_text,
    pretrain_stream,
    stream_of,
    text_of,
)
from toolkit.training.guard import check_finite, norm_check
from toolkit.training.optim import make_updater
from toolkit.training.random import Stream


class Pretrain:
    """Train the base model."""

    def __init__(self, ctx: StageContext) -> None:
        """Remember the context."""
        self.ctx, self.config, self.stream = ctx, needed(ctx.spec.pretrain), stream_of(ctx)

    def setup(self) -> int:
        """Make the model; check that the text is long enough."""
        ctx, config = self.ctx, self.config
        self.text = text_of(ctx)
        start = Stream(ctx.spec.seed, "base")
        self.model = load_base(ctx.spec.models.base, self.text, start, ctx.device)
        self.policy = Policy(self.model, self.text.vocab, ctx.spec.hardware)
        self.updater = make_updater(
            self.model, config.optimizer, config.lr, config.schedule, config.steps
        )
        self.tokens = needed_text(ctx, config.length, "pretrain.length")
        return config.steps

    def step(self, i: int) -> dict[str, float]:
        """One optimizer step on `batch` windows."""
        config = self.config
        places = self.stream.numpy("window", i).integers(
            0, len(self.tokens) - config.length, size=config.batch
        )
        batch = windows(self.tokens, places.tolist(), config.length)
        lr = self.updater.lr
        loss = backward_cross_entropy(self.policy, batch)
        check_finite(self.ctx, i, "the loss", loss, ids=batch.ids)
        values = {
            "loss": loss,
            "grad_norm": self.updater.step(norm_check(self.ctx, i, ids=batch.ids)),
            "lr": lr,
        }
        return values | {"tokens": float(batch.tokens)}

    def state(self) -> dict[str, Any]:
        """Weights, optimizer, schedule."""
        return language_model_state(self.model, self.updater)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.model.load_state_dict(state["model"])
        self.updater.restore(state["updater"])

    def finish(self) -> StageResult:
        """Save the model; report its held-out perplexity."""
        save_model(self.model, self.ctx.work / "model", self.text)
        summary: dict[str, Any] = {"steps": self.updater.steps}
        held_out = pretrain_stream(self.ctx, "valid")
        if held_out is not None and len(held_out) > self.config.length + 1:
            starts = range(0, len(held_out) - self.config.length - 1, self.config.length)
            batches = (windows(held_out, [s], self.config.length) for s in list(starts)[:200])
            summary["valid_loss"] = mean_cross_entropy(self.policy, batches)
            summary["perplexity"] = math.exp(summary["valid_loss"])
        return StageResult(summary=summary)


STAGE = Pretrain
