"""Supervised fine-tuning on demonstrations, the one trainer of the stages `sft` and `init`.

    loss = (n_d * L_d + n_t * L_t) / (n_d + n_t)

n_d demonstrations and n_t pieces of pretraining text make a batch. L_d = - mean over the
demonstrations' response tokens of log p(y_t | x, y_<t), end-of-text included; L_t = - mean over the
pieces' tokens of log p(x_t | x_<t). So the share of examples is the share of the loss, however
long the pieces are. Without pretraining text the loss is L_d.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from toolkit.data.batches import Batch, collate, collate_text, windows
from toolkit.data.lines import read_records
from toolkit.data.mixture import Mixture
from toolkit.models.heads import Policy
from toolkit.models.load import set_residual_dropout
from toolkit.models.save import save_model
from toolkit.spec.schema import Optimizer, Schedule
from toolkit.stages.context import StageContext, StageResult
from toolkit.stages.shared import (
    Record,
    backward_cross_entropy,
    language_model_state,
    load_pretrained,
    mean_cross_entropy,
    needed_text,
    stream_of,
    text_of,
)
from toolkit.training.checkpoint import sync_tree
from toolkit.training.guard import check_finite, norm_check
from toolkit.training.optim import make_updater
from toolkit.training.random import Order


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What tells the two stages apart.

    Args:
        section: spec path of the settings, for messages.
        epochs, batch, lr, schedule, optimizer, loss_on: as in the spec.
        dropout: on residual branches.
        mix: share of a batch's examples that are pretraining text.
        length: tokens of such a piece.
        keep: whether each epoch's weights are kept.
    """

    section: str
    epochs: int
    batch: int
    lr: float
    schedule: Schedule
    optimizer: Optimizer
    loss_on: str = "response"
    dropout: float = 0.0
    mix: float = 0.0
    length: int = 0
    keep: bool = False


class FineTune:
    """Fine-tune the pretrained model on demonstrations."""

    recipe: Recipe

    def __init__(self, ctx: StageContext) -> None:
        """Remember the context."""
        self.ctx, self.stream = ctx, stream_of(ctx)

    def setup(self) -> int:
        """Load demonstrations, pretraining text and the model."""
        ctx, recipe = self.ctx, self.recipe
        self.text = text_of(ctx)
        self.train = read_records(ctx.inputs["data"] / "demonstrations.train.jsonl")
        self.valid = read_records(ctx.inputs["data"] / "demonstrations.valid.jsonl")
        self.model = load_pretrained(ctx, self.text)
        self.policy = Policy(self.model, self.text.vocab, ctx.spec.hardware)
        places = set_residual_dropout(self.model, recipe.dropout)
        if recipe.dropout and not places:
            name = type(self.model).__name__
            ctx.event(
                "note", message=f"{recipe.section}.dropout: {name} has none to set; none is used"
            )
        if recipe.mix:
            self.tokens = needed_text(ctx, recipe.length, f"{recipe.section}.length")
        self.mixture = Mixture(recipe.batch, recipe.mix)
        self.per_epoch = self.mixture.steps(len(self.train))
        total = recipe.epochs * self.per_epoch
        self.updater = make_updater(self.model, recipe.optimizer, recipe.lr, recipe.schedule, total)
        self.order = Order(self.stream, len(self.train))
        self.valid_loss: list[float] = []
        return total

    def step(self, i: int) -> dict[str, float]:
        """One optimizer step; after an epoch, the held-out loss."""
        epoch, place = divmod(i, self.per_epoch)
        parts = self._parts(i, epoch, place)
        if self.recipe.dropout:
            self.stream.seed_torch("dropout", i)
        if not self.model.training:  # it visits every module, and most steps find them so
            self.model.train()
        lr, examples = self.updater.lr, sum(len(batch) for batch in parts.values())
        losses = {}
        for name, batch in parts.items():
            weight = len(batch) / examples
            losses[name] = backward_cross_entropy(self.policy, batch, weight=weight)
            check_finite(self.ctx, i, f"the loss of {name}", losses[name], ids=batch.ids)
        ids = next(iter(parts.values())).ids
        values = {
            "loss": sum(len(batch) / examples * losses[name] for name, batch in parts.items()),
            "grad_norm": self.updater.step(norm_check(self.ctx, i, ids=ids)),
            "lr": lr,
            "tokens": float(sum(batch.tokens for batch in parts.values())),
        }
        if self.recipe.mix:
            values |= {f"{name}/loss": loss for name, loss in losses.items()}
            values |= {f"{name}/examples": float(len(batch)) for name, batch in parts.items()}
        if place == self.per_epoch - 1:
            values |= self._end_epoch(epoch + 1)
        return values

    def _parts(self, i: int, epoch: int, place: int) -> dict[str, Batch]:
        """Demonstrations and pieces of pretraining text of one step, those that it has."""
        parts = {}
        first, end = (self.mixture.demonstrations_before(p) for p in (place, place + 1))
        count = min(end, len(self.train)) - first
        if count:
            rows = self.order.take(epoch * len(self.train) + first, count)
            parts["demonstrations"] = self._collate([self.train[r] for r in rows])
        if pieces := self.mixture.texts(place):
            length = self.recipe.length
            draws = self.stream.numpy("window", i)
            places = draws.integers(0, len(self.tokens) - length, size=pieces)
            parts["pretrain"] = windows(self.tokens, places.tolist(), length)
        return parts

    def _collate(self, records: list[Record]) -> Batch:
        prompts = [r["prompt_ids"] for r in records]
        responses = [r["response_ids"] for r in records]
        if self.recipe.loss_on == "all":
            joined = [p + r for p, r in zip(prompts, responses, strict=True)]
            return collate_text(joined, self.text.pad_id)
        return collate(prompts, responses, self.text.pad_id)

    def _end_epoch(self, epoch: int) -> dict[str, float]:
        """Keep the weights where they are asked for; measure the held-out loss."""
        if self.recipe.keep and epoch < self.recipe.epochs:
            folder = self.ctx.work / "epochs" / str(epoch)
            save_model(self.model, folder, self.text)
            sync_tree(folder)  # a checkpoint after this step takes it for there
        if not self.valid:
            return {}
        self.valid_loss.append(self._held_out_loss())
        return {"valid_loss": self.valid_loss[-1]}

    def _held_out_loss(self) -> float:
        self.model.eval()
        size = 4 * self.recipe.batch
        parts = (self.valid[a : a + size] for a in range(0, len(self.valid), size))
        return mean_cross_entropy(self.policy, (self._collate(part) for part in parts))

    def state(self) -> dict[str, Any]:
        """Weights, optimizer, schedule, held-out losses so far; kept epochs lie beside them."""
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
        """Save the model, and name the epochs that were kept."""
        set_residual_dropout(self.model, 0.0)
        save_model(self.model.eval(), self.ctx.work / "model", self.text)
        if self.recipe.keep:
            (self.ctx.work / "epochs.json").write_text(json.dumps(self._epochs(), indent=1))
        summary = {"steps": self.updater.steps, "demonstrations": len(self.train)}
        return StageResult(summary={**summary, "valid_loss": self.valid_loss})

    def _epochs(self) -> list[Record]:
        last = self.recipe.epochs
        losses: list[float] | list[None] = self.valid_loss or [None] * last
        return [
            {"epoch": n, "folder": "model" if n == last else f"epochs/{n}", "valid_loss": loss}
            for n, loss in enumerate(losses, start=1)
        ]
