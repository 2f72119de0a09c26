"""A language model seen as log-probs of response tokens; a scalar model seen as values and scores.

Dims: B sequences, T response tokens, N response tokens that count in a micro-batch (row-major over
[B, T]), V softmax width, D hidden.
Sequences are right-padded and models causal, so real tokens never attend to padding and no
attention mask is needed, but for rows of a prompt with several answers (shared_prompt.py).
The log-softmax, losses and KL are `rlhf_kernels`'; this file and output.py only bring their
arguments into being.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from toolkit.data.batches import Batch, TokenLists, collate
from toolkit.data.shared import SharedBatch
from toolkit.models.compute import (
    attend_as_before,
    micro_batches,
    precision,
    token_precision,
)
from toolkit.models.last_layer import LastLayer, read_trunk, wanted_last_layer
from toolkit.models.load import set_residual_dropout
from toolkit.models.output import LinearHead, find_output
from toolkit.models.shared_prompt import read_shared, shared_rows, widest_row
from toolkit.models.tables import add_looked_up_rows
from toolkit.spec.schema import Hardware
from toolkit.training.device import move


class _Reader:
    """What a policy and a scalar model share: where they are, and what a pass of theirs takes."""

    model: PreTrainedModel
    hardware: Hardware
    widest: float = 0  # tokens of a row that prompts and answers may share; `allow_rows`

    @property
    def device(self) -> torch.device:
        """Where the model is, and all it returns."""
        return torch.device(self.model.device)

    def micro(self, batch: Batch) -> list[tuple[slice, Batch]]:
        """Cut a batch into what one pass takes."""
        return micro_batches(batch, self.hardware, self.device)

    def allow_rows(self) -> None:
        """Have `collate` put a prompt once, if the model can read it so: decided by its weights.

        So a stage asks at its start, before it goes on from a checkpoint.
        """
        self.widest = widest_row(self.model) if self.hardware.fused_head else 0

    def collate(self, prompts: TokenLists, answers: Sequence[TokenLists]) -> Batch | SharedBatch:
        """Join prompts and all answers to each: in one row where that pays, or each with its own.

        Args:
            prompts: token ids of R prompts.
            answers: of each its answers.
        """
        rows = shared_rows(self.model, self.widest, prompts, answers)
        if rows is not None:
            return rows
        each = [prompt for prompt, own in zip(prompts, answers, strict=True) for _ in own]
        flat = [ids for own in answers for ids in own]
        return collate(each, flat, self.model.config.pad_token_id)

    def _read_rows(self, batch: SharedBatch, places: Tensor, last: LastLayer | None) -> Tensor:
        """Return the hidden states [N, D] at `places` of the flattened rows."""
        _set_mode(self.model, self.hardware)
        with precision(self.hardware, self.device, pairs=batch.ids.shape[1] ** 2):
            return read_shared(self.model, last, batch, places)


@dataclass
class Policy(_Reader):
    """A causal language model with its softmax over the first `vocab` ids.

    Args:
        model: the language model.
        vocab: V; ids from V on (padding) are outside the softmax.
        hardware: precision and micro-batch.
        temperature: divides the logits in every log-prob.
    """

    model: PreTrainedModel
    vocab: int
    hardware: Hardware
    temperature: float = 1.0
    steps: Any = field(default=None, init=False, repr=False, compare=False)  # of graphs.py

    def __post_init__(self) -> None:
        """Find the head; its weight's and the embedding's gradients add up in one place."""
        self.output = find_output(self.model, self.vocab, self.hardware)
        if isinstance(self.output, LinearHead):
            add_looked_up_rows(self.model)
        _allow_checkpointing(self.model, self.hardware)

    @cached_property
    def takes(self) -> frozenset[str]:
        """Names of the arguments that the model's forward knows."""
        return frozenset(inspect.signature(self.model.forward).parameters)

    def _rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what the head takes for the tokens that count [N, ...], and those tokens [N].

        The rest is dropped before the head.
        """
        _set_mode(self.model, self.hardware)
        ids, places = move(batch.inputs, self.device), move(batch.places, self.device)
        rows = self.output.read(self.model, ids, places)
        return rows, move(batch.targets, self.device)

    def _computing(self, batch: Batch) -> AbstractContextManager[None]:
        return precision(self.hardware, self.device, pairs=batch.ids.shape[1] ** 2)

    def backward_text_loss(self, batch: Batch, denominator: float) -> Tensor:
        """Accumulate the gradients of the response's summed cross-entropy over `denominator`.

        Return that loss.
        """
        with self._computing(batch):
            loss = self.output.text_loss(*self._rows(batch), denominator)
        loss.backward()
        return loss.detach()

    def backward_policy_loss(
        self, batch: Batch, old_logprobs: Tensor, advantages: Tensor, **terms: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Accumulate the gradients of the policy objective of the tokens that count.

        Return the objective and its statistics.

        Args:
            batch: a micro-batch with N tokens that count.
            old_logprobs: [N], when they were sampled.
            advantages: [N].
            terms: as in `rlhf_kernels.ppo_loss_from_logits`.
        """
        with self._computing(batch):
            terms = {"temperature": self.temperature, **terms}
            loss, stats = self._policy_loss(batch, old_logprobs, advantages, terms)
        loss.backward()
        return loss.detach(), stats

    def _policy_loss(
        self, batch: Batch, old_logprobs: Tensor, advantages: Tensor, terms: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward alone, so that the rows are gone before the backward pass."""
        rows, targets = self._rows(batch)
        tokens = (old_logprobs, advantages, torch.ones_like(targets, dtype=torch.bool))
        return self.output.policy_loss(rows, targets, tokens, terms)

    def answer_logprobs(self, batch: Batch | SharedBatch) -> Tensor:
        """Return the log-prob of each whole response, nats, fp32 [B], differentiable."""
        if isinstance(batch, SharedBatch):
            return self._logprobs_in_rows(batch)
        with self._computing(batch):
            out = self.output.logprobs(*self._rows(batch), self.temperature)
        each = torch.zeros(batch.mask.numel(), device=self.device)
        slots = move(batch.slots(slice(None)), self.device)
        return each.index_copy(0, slots, out.logprobs).view(batch.mask.shape).sum(1)

    def _logprobs_in_rows(self, batch: SharedBatch) -> Tensor:
        rows = self._read_rows(batch, batch.places, self.output.last)
        with token_precision(self.hardware, self.device):
            out = self.output.logprobs(rows, move(batch.targets, self.device), self.temperature)
        total = torch.zeros(len(batch.ends), device=self.device)
        return total.index_add(0, move(batch.answer, self.device), out.logprobs)

    @torch.no_grad()
    def logprobs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the response's log-probs and entropies, fp32 [B, T], 0 outside the mask."""
        logprobs = torch.zeros(batch.mask.numel(), device=self.device)
        entropy = torch.zeros(batch.mask.numel(), device=self.device)
        for span, micro in self.micro(batch):
            with self._computing(micro):
                out = self.output.logprobs(*self._rows(micro), self.temperature)
            slots = move(batch.slots(span), self.device)
            logprobs[slots] = out.logprobs
            entropy[slots] = out.entropy
        return logprobs.view(batch.mask.shape), entropy.view(batch.mask.shape)


@dataclass
class Scorer(_Reader):
    """A scalar model: a score for a sequence, a value for each position.

    Args:
        model: a sequence classifier with one label and a bias-free head `score`.
        hardware: precision and micro-batch.
    """

    model: PreTrainedModel
    hardware: Hardware

    def __post_init__(self) -> None:
        """Read the centring constant; the embedding's gradients add up in one place."""
        self.offset = float(getattr(self.model.config, "score_offset", 0.0))
        self.last = wanted_last_layer(self.model, self.hardware)
        add_looked_up_rows(self.model)
        _allow_checkpointing(self.model, self.hardware)

    def _head(self, hidden: Tensor) -> Tensor:
        with precision(self.hardware, self.device, pairs=0):
            values: Tensor = self.model.score(hidden)
            return values.squeeze(-1).float() - self.offset

    def _trunk(self, tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states [B, L, D], right at `places` of [B, L], and those places."""
        _set_mode(self.model, self.hardware)
        ids, places = move(tokens, self.device), move(places, self.device)
        with precision(self.hardware, self.device, pairs=ids.shape[1] ** 2):
            return read_trunk(self.model, self.last, ids, places), places

    def scores_of(self, batch: Batch | SharedBatch) -> Tensor:
        """Return scores fp32 [B], read at the last real token (detail 11)."""
        if isinstance(batch, SharedBatch):
            return self._head(self._read_rows(batch, batch.ends, self.last))
        hidden, ends = self._trunk(batch.ids, batch.ends)
        return self._head(hidden.flatten(0, 1)[ends])

    def values_of(self, batch: Batch) -> Tensor:
        """Return values fp32 [B, T]: at the position that predicts response[:, t].

        Where the mask is False they mean nothing.
        """
        hidden, _ = self._trunk(batch.inputs, batch.places)
        source = move(batch.columns, self.device)
        index = source.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        return self._head(hidden.gather(1, index))

    @torch.no_grad()
    def scores(self, batch: Batch) -> Tensor:
        """Return scores [B] without gradients, in micro-batches."""
        parts = [self.scores_of(micro) for _, micro in self.micro(batch)]
        return torch.cat(parts)

    @torch.no_grad()
    def values(self, batch: Batch) -> Tensor:
        """Return values [B, T] without gradients, 0 where the mask is False."""
        parts = [self.values_of(micro) for _, micro in self.micro(batch)]
        return torch.cat(parts) * move(batch.mask, self.device)


def _allow_checkpointing(model: PreTrainedModel, hardware: Hardware) -> None:
    """Prepare for recomputed activations, which transformers offers in training mode only."""
    if hardware.gradient_checkpointing:
        set_residual_dropout(model, 0.0)
        # the first name came during transformers 5, the second goes with 6
        newer = getattr(model, "activation_checkpointing_enable", None)
        settings = {"use_reentrant": False, "context_fn": attend_as_before}
        (newer or model.gradient_checkpointing_enable)(settings)


def _set_mode(model: PreTrainedModel, hardware: Hardware) -> None:
    """Training mode where gradients are wanted and activations recomputed; else as it is."""
    if hardware.gradient_checkpointing:
        model.train(torch.is_grad_enabled())
