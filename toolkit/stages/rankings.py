"""What learners from rankings share: `dpo` and `kto`. No reward model, no sampling.

    logratio(x, y) = log policy(y | x) - log reference(y | x), summed over the answer's tokens
    implicit reward = beta logratio

The policy starts as the reference, the SFT model. All answers of a prompt are one batch element
and each is forwarded once, and where that pays the prompt too, as in the reward model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import rlhf_kernels as rk
from toolkit.data.batches import Batch, collate, cut_groups, offsets
from toolkit.data.lines import read_records
from toolkit.data.shared import SharedBatch
from toolkit.models.compute import sequences_a_pass
from toolkit.models.heads import Policy
from toolkit.models.save import save_model
from toolkit.spec.errors import StageFailed
from toolkit.spec.schema import Dpo, Kto
from toolkit.stages.context import StageContext, StageResult
from toolkit.stages.elements import by_trainer, split_by_prompt
from toolkit.stages.shared import Record, language_model_state, load_sft, stream_of, text_of
from toolkit.training.device import move, read_rows
from toolkit.training.guard import check_finite, norm_check
from toolkit.training.optim import make_updater
from toolkit.training.random import Order

Stats = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """Whole prompts that one pass takes.

    Args:
        records: the prompts.
        batch: their answers, N in all.
        ranks: [N] int64 on the model's device, 1 is best.
        groups: [prompts + 1] int64, prompt g has the answers groups[g] to groups[g + 1] - 1.
    """

    records: list[Record]
    batch: Batch | SharedBatch
    ranks: Tensor
    groups: Tensor


class FromRankings(ABC):
    """Train the policy on rankings; a subclass says what a part of a batch costs."""

    def __init__(self, ctx: StageContext, config: Dpo | Kto) -> None:
        """Remember the context and the section."""
        self.ctx, self.config, self.stream = ctx, config, stream_of(ctx)
        self.held_out: list[dict[str, float]] = []

    def useful(self, record: Record) -> bool:
        """Whether a prompt teaches anything."""
        return len(set(record["ranks"])) > 1

    @abstractmethod
    def shared(self, i: int, records: list[Record]) -> Any:
        """Return what the parts of a batch share, handed to `loss`; `records`: the useful ones."""

    @abstractmethod
    def loss(self, logratios: Tensor, part: Part, shared: Any) -> tuple[Tensor, Stats]:
        """Return a part's share of the batch's loss, and statistics of `rk.ranking_loss`."""

    def setup(self) -> int:
        """Load rankings, policy and reference; hold out the prompts that `reward` holds out."""
        ctx, config, hardware = self.ctx, self.config, self.ctx.spec.hardware
        self.text = text_of(ctx)
        records = read_records(ctx.inputs["label"] / "rankings.jsonl")
        ours, _ = by_trainer(records)
        self.train, self.valid = split_by_prompt(ours, ctx.spec.data.split.valid, ctx.spec.seed)
        if not any(len(set(r["ranks"])) > 1 for r in self.train):
            raise StageFailed(
                f"{ctx.name}: none of the {len(self.train)} training prompts has two answers of "
                "different rank, so there is nothing to learn; collect more prompts, raise "
                "collect.k, or look at the labels"
            )
        self.policy = Policy(load_sft(ctx, self.text), self.text.vocab, hardware)
        self.reference = Policy(load_sft(ctx, self.text), self.text.vocab, hardware)
        self.reference.model.requires_grad_(False)
        self.policy.allow_rows()
        self.per_epoch = math.ceil(len(self.train) / config.batch)
        total = config.epochs * self.per_epoch
        model = self.policy.model
        self.updater = make_updater(model, config.optimizer, config.lr, config.schedule, total)
        self.order = Order(self.stream, len(self.train))
        return total

    def step(self, i: int) -> dict[str, float]:
        """One optimizer step on `batch` prompts; after an epoch, the held-out accuracy."""
        records = self._taken(i, 0)
        lr = self.updater.lr
        values = self._backward(i, records)
        values["grad_norm"] = self.updater.step(norm_check(self.ctx, i, records=records))
        values |= {"lr": lr, "tokens": float(sum(map(_tokens, records)))}
        if (i + 1) % self.per_epoch == 0 and self.valid:
            self.held_out.append(self._measure(self.valid))
            values |= {f"valid_{name}": value for name, value in self.held_out[-1].items()}
        return values

    def _taken(self, i: int, shift: int) -> list[Record]:
        """Return the records of step i, or those `shift` places later in the epoch's circle."""
        epoch, place = divmod(i, self.per_epoch)
        size, first = len(self.train), place * self.config.batch
        places = range(first, min(first + self.config.batch, size))
        chosen = [self.order.take(epoch * size + (p + shift) % size, 1)[0] for p in places]
        return [self.train[c] for c in chosen]

    def _backward(self, i: int, records: list[Record]) -> dict[str, float]:
        """Accumulate gradients over micro-batches of whole prompts; return the figures."""
        useful = [r for r in records if self.useful(r)]
        shared = self.shared(i, useful)
        parts, seen = self._parts(useful), []
        for part in parts:
            logratios = self._logratios(part.batch)
            loss, stats = self.loss(logratios, part, shared)
            loss.backward()
            moved = -logratios.detach().sum()
            figures = (loss.detach(), moved, *(stats[n] for n in ("pairs", "accuracy", "margin")))
            seen.append([figure.float() for figure in figures])
        for part, row in zip(parts, rows := read_rows(seen), strict=True):
            check_finite(self.ctx, i, "the loss", row[0], records=part.records)
        return _joined(rows, sum(len(r["ranks"]) for r in useful))

    def _logratios(self, batch: Batch | SharedBatch) -> Tensor:
        """Return log policy - log reference of each answer [N], differentiable."""
        with torch.no_grad():
            theirs = self.reference.answer_logprobs(batch)
        return self.policy.answer_logprobs(batch) - theirs

    @torch.no_grad()
    def logratios(self, prompts: list[list[int]], answers: list[list[int]]) -> Tensor:
        """Return log policy - log reference of answers to prompts [N], without gradients."""
        batch = collate(prompts, answers, self.text.pad_id)
        return torch.cat([self._logratios(micro) for _, micro in self.policy.micro(batch)])

    def _parts(self, records: list[Record]) -> list[Part]:
        sizes = [len(r["ranks"]) for r in records]
        width = max((len(r["prompt_ids"]) + max(map(len, r["responses_ids"])) for r in records),
                    default=1)  # fmt: skip
        limit = sequences_a_pass(sum(sizes), width, self.ctx.spec.hardware, self.policy.device)
        return [self._part(records[part]) for part in cut_groups(sizes, limit)]

    def _part(self, records: list[Record]) -> Part:
        prompts, answers = ([r[key] for r in records] for key in ("prompt_ids", "responses_ids"))
        ranks = torch.tensor([rank for r in records for rank in r["ranks"]])
        groups = torch.tensor(offsets([len(r["ranks"]) for r in records]))
        batch, device = self.policy.collate(prompts, answers), self.policy.device
        return Part(records, batch, move(ranks, device), move(groups, device))

    @torch.no_grad()
    def _measure(self, records: list[Record]) -> dict[str, float]:
        """Return accuracy and margin of the implicit rewards over all comparable pairs."""
        rows = []
        for part in self._parts(records):
            stats = self.verdict(self._logratios(part.batch), part)
            rows.append([stats[n].float() for n in ("pairs", "accuracy", "margin")])
        found = _joined([[0.0, 0.0, *row] for row in read_rows(rows)], 1)
        return {name: found[name] for name in ("accuracy", "margin")}

    def verdict(self, logratios: Tensor, part: Part) -> Stats:
        """Return how the implicit rewards order the pairs."""
        rewards = self.config.beta * logratios.detach()
        return rk.ranking_loss(rewards, part.ranks, part.groups)[1]

    def state(self) -> dict[str, Any]:
        """Weights, optimizer, schedule, held-out figures so far; the reference never changes."""
        return {
            **language_model_state(self.policy.model, self.updater),
            "held_out": self.held_out,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.policy.model.load_state_dict(state["model"])
        self.updater.restore(state["updater"])
        self.held_out = list(state["held_out"])

    def finish(self) -> StageResult:
        """Save the policy."""
        save_model(self.policy.model, self.ctx.work / "policy", self.text)
        summary: dict[str, Any] = {
            "optimizer_steps": self.updater.steps,
            "prompts": len(self.train),
            "prompts_without_pairs": sum(not self.useful(r) for r in self.train),
            "held_out": self.held_out,
        }
        return StageResult(summary=summary)


def _tokens(record: Record) -> int:
    return sum(map(len, record["responses_ids"]))


def _joined(rows: list[list[float]], answers: int) -> dict[str, float]:
    """Join parts of (loss, moved, pairs, accuracy, margin): sums, and means over pairs.

    kl: nats per answer, KL(reference || policy) where the answers are the reference's own.
    """
    pairs = max(1.0, sum(row[2] for row in rows))
    return {
        "loss": sum(row[0] for row in rows),
        "kl": sum(row[1] for row in rows) / max(1, answers),
        "accuracy": sum(row[2] * row[3] for row in rows) / pairs,
        "margin": sum(row[2] * row[4] for row in rows) / pairs,
    }
