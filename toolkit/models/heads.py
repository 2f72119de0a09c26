"""A language model seen as log-probs of response tokens; a scalar model seen as values and scores.

Dims: B sequences, T response tokens, N response tokens that count in a micro-batch (row-major over
[B, T]), V softmax width, D hidden.
Sequences are right-padded and models causal, so real tokens never attend to padding and no
attention mask is needed.
The log-softmax, losses and KL are `rlhf_kernels`'; this file only brings logits [N, V] and values
[B, T] into being.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

import rlhf_kernels as rk
from toolkit.data.batches import Batch
from toolkit.models.compute import precision
from toolkit.models.load import set_residual_dropout
from toolkit.spec.schema import Hardware
from toolkit.training.device import move

_HEAD_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


@dataclass
class Policy:
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

    def __post_init__(self) -> None:
        """Find out whether the head is a plain matrix product of the trunk's output."""
        self.plain_head = _head_is_plain(self.model)
        _allow_checkpointing(self.model, self.hardware)

    @property
    def device(self) -> torch.device:
        """Where the model is, and all it returns."""
        return torch.device(self.model.device)

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits [N, V] of the response tokens that count, and those tokens [N].

        The rest is dropped before the head.
        """
        _set_mode(self.model, self.hardware)
        ids, places = move(batch.inputs, self.device), move(batch.places, self.device)
        with precision(self.hardware, self.device, pairs=ids.shape[1] ** 2):
            if self.plain_head:
                trunk = self.model.base_model(ids, use_cache=False)[0]
                head = self.model.get_output_embeddings()
                bias = None if head.bias is None else head.bias[: self.vocab]
                logits = torch.nn.functional.linear(
                    trunk.flatten(0, 1)[places], head.weight[: self.vocab], bias
                )
            else:
                logits = self.model(ids, use_cache=False).logits.flatten(0, 1)[places]
                logits = logits[:, : self.vocab]
        return logits, move(batch.targets, self.device)

    @torch.no_grad()
    def logprobs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the response's log-probs and entropies, fp32 [B, T], 0 outside the mask."""
        logprobs = torch.zeros(batch.mask.numel(), device=self.device)
        entropy = torch.zeros(batch.mask.numel(), device=self.device)
        for span, micro in batch.micro(self.hardware.micro_batch):
            logits, targets = self.logits(micro)
            out = rk.gather_logprobs(logits, targets, temperature=self.temperature)
            slots = move(batch.slots(span), self.device)
            logprobs[slots] = out.logprobs
            entropy[slots] = out.entropy
        return logprobs.view(batch.mask.shape), entropy.view(batch.mask.shape)


@dataclass
class Scorer:
    """A scalar model: a score for a sequence, a value for each position.

    Args:
        model: a sequence classifier with one label and a bias-free head `score`.
        hardware: precision and micro-batch.
    """

    model: PreTrainedModel
    hardware: Hardware

    def __post_init__(self) -> None:
        """Read the centring constant."""
        self.offset = float(getattr(self.model.config, "score_offset", 0.0))
        _allow_checkpointing(self.model, self.hardware)

    @property
    def device(self) -> torch.device:
        """Where the model is, and all it returns."""
        return torch.device(self.model.device)

    def _head(self, hidden: Tensor) -> Tensor:
        with precision(self.hardware, self.device, pairs=0):
            values: Tensor = self.model.score(hidden)
            return values.squeeze(-1).float() - self.offset

    def _trunk(self, tokens: Tensor) -> Tensor:
        _set_mode(self.model, self.hardware)
        ids = move(tokens, self.device)
        with precision(self.hardware, self.device, pairs=ids.shape[1] ** 2):
            hidden: Tensor = self.model.base_model(ids, use_cache=False)[0]
        return hidden

    def scores_of(self, batch: Batch) -> Tensor:
        """Return scores fp32 [B], read at the last real token (detail 11)."""
        hidden = self._trunk(batch.ids)
        return self._head(hidden.flatten(0, 1)[move(batch.ends, self.device)])

    def values_of(self, batch: Batch) -> Tensor:
        """Return values fp32 [B, T]: at the position that predicts response[:, t]."""
        hidden = self._trunk(batch.inputs)
        source = move(batch.columns, self.device)
        index = source.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        return self._head(hidden.gather(1, index))

    @torch.no_grad()
    def scores(self, batch: Batch) -> Tensor:
        """Return scores [B] without gradients, in micro-batches."""
        parts = [self.scores_of(micro) for _, micro in batch.micro(self.hardware.micro_batch)]
        return torch.cat(parts)

    @torch.no_grad()
    def values(self, batch: Batch) -> Tensor:
        """Return values [B, T] without gradients, 0 where the mask is False."""
        parts = [self.values_of(micro) for _, micro in batch.micro(self.hardware.micro_batch)]
        return torch.cat(parts) * move(batch.mask, self.device)


def _allow_checkpointing(model: PreTrainedModel, hardware: Hardware) -> None:
    """Prepare for recomputed activations, which transformers offers in training mode only."""
    if hardware.gradient_checkpointing:
        set_residual_dropout(model, 0.0)
        # the first name came during transformers 5, the second goes with 6
        newer = getattr(model, "activation_checkpointing_enable", None)
        (newer or model.gradient_checkpointing_enable)()


def _set_mode(model: PreTrainedModel, hardware: Hardware) -> None:
    """Training mode where gradients are wanted and activations recomputed; else as it is."""
    if hardware.gradient_checkpointing:
        model.train(torch.is_grad_enabled())


@torch.no_grad()
def _head_is_plain(model: PreTrainedModel) -> bool:
    """Whether trunk @ head.weight is what the model returns: soft-capped or scaled heads differ.

    The names catch a soft cap, which is invisible on the small logits of an untrained model; the
    comparison catches whatever has no known name.
    """
    if any(getattr(model.config, name, None) not in (None, 1, 1.0) for name in _HEAD_SETTINGS):
        return False
    was_training = model.training
    model.eval()
    ids = torch.arange(4, device=model.device).unsqueeze(0) % model.config.vocab_size
    head = model.get_output_embeddings()
    plain = False
    if isinstance(head, torch.nn.Linear):
        ours = head(model.base_model(ids, use_cache=False)[0])
        plain = torch.allclose(ours, model(ids, use_cache=False).logits, rtol=1e-4, atol=1e-4)
    model.train(was_training)
    return plain
