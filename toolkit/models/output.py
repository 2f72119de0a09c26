"""The end of a language model: from its last hidden states to log-probs and losses.

Two ways, chosen by `hardware.fused_head`. `LinearHead` hands hidden states and the head's weight
to rlhf_kernels, and logits [N, V] never exist; its losses add the weight's gradient to the one that
the weight has, before backward is called. `OwnLogits` takes the model's own logits, for comparison
and for heads that are more than a matrix. Both have the same methods.

Dims: N response tokens that count, V softmax width, D hidden, L positions, B sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import rlhf_kernels as rk
from toolkit.models.last_layer import LastLayer, read_trunk, take_rows, wanted_last_layer
from toolkit.models.tables import gradient_of
from toolkit.spec.errors import StageFailed
from toolkit.spec.schema import Hardware

Loss = tuple[Tensor, dict[str, Tensor]]
Tokens = tuple[Tensor, Tensor, Tensor]

#: Configuration names of a factor of the logits, and whether logits are multiplied by it.
_SCALES = {"logit_scale": True, "lm_head_multiplier": True, "logits_scaling": False}
_SOFTCAP = "final_logit_softcapping"


@dataclass(frozen=True)
class LinearHead:
    """A head that is a matrix product, perhaps scaled and soft-capped.

    Args:
        linear: the model's output embedding.
        vocab: V; rows of the weight from V on are outside the softmax.
        scale: factor of the logits.
        softcap: bound of the logits, or None.
        last: computes the last layer's feed-forward for some positions alone; None: for all.
    """

    linear: torch.nn.Linear
    vocab: int
    scale: float = 1.0
    softcap: float | None = None
    last: LastLayer | None = None

    def read(self, model: PreTrainedModel, ids: Tensor, places: Tensor) -> Tensor:
        """Return the hidden states [N, D] at `places` of the flattened [B, L]."""
        return take_rows(read_trunk(model, self.last, ids, places).flatten(0, 1), places)

    @property
    def _weights(self) -> tuple[Tensor, dict[str, Any]]:
        weight: Tensor = self.linear.weight
        bias: Tensor | None = self.linear.bias
        if len(weight) != self.vocab:
            weight, bias = weight[: self.vocab], None if bias is None else bias[: self.vocab]
        return weight, {"bias": bias, "logit_scale": self.scale, "softcap": self.softcap}

    def logprobs(self, rows: Tensor, targets: Tensor, temperature: float) -> rk.LogProbs:
        """Return log-prob, entropy and logsumexp of each row."""
        weight, options = self._weights
        return rk.linear_logprobs(rows, weight, targets, temperature=temperature, **options)

    def _collected(self) -> Tensor | None:
        """Return the rows of the weight's gradient that a loss is to add to; None for none."""
        if not (torch.is_grad_enabled() and self.linear.weight.requires_grad):
            return None
        return gradient_of(self.linear.weight)[: self.vocab]

    def text_loss(self, rows: Tensor, targets: Tensor, denominator: float) -> Tensor:
        """Return the rows' summed cross-entropy over `denominator`, for one backward pass."""
        weight, options = self._weights
        options |= {"denominator": denominator, "weight_grad": self._collected()}
        loss, _ = rk.linear_cross_entropy(rows, weight, targets, **options)
        return loss

    def policy_loss(
        self,
        rows: Tensor,
        targets: Tensor,
        tokens: tuple[Tensor, Tensor, Tensor],
        terms: dict[str, Any],
    ) -> Loss:
        """Return the policy objective of (old_logprobs, advantages, mask), every row counting.

        For one backward pass, as in `text_loss`.
        """
        weight, options = self._weights
        everything: dict[str, Any] = options | terms | {"weight_grad": self._collected()}
        return rk.linear_ppo_loss(rows, weight, targets, *tokens, packed=True, **everything)


@dataclass(frozen=True)
class OwnLogits:
    """The logits as the model itself computes them; `vocab`: V. No layer is cut short."""

    vocab: int
    last: LastLayer | None = None

    def read(self, model: PreTrainedModel, ids: Tensor, places: Tensor) -> Tensor:
        """Return the logits [N, V] at `places` of the flattened [B, L]."""
        logits: Tensor = model(ids, use_cache=False).logits
        return logits.flatten(0, 1)[places][:, : self.vocab]

    def logprobs(self, rows: Tensor, targets: Tensor, temperature: float) -> rk.LogProbs:
        """Return log-prob, entropy and logsumexp of each row."""
        return rk.gather_logprobs(rows, targets, temperature=temperature)

    def text_loss(self, rows: Tensor, targets: Tensor, denominator: float) -> Tensor:
        """Return the rows' summed cross-entropy over `denominator`."""
        loss, _ = rk.cross_entropy(rows, targets, denominator=denominator, inplace=True)
        return loss

    def policy_loss(
        self,
        rows: Tensor,
        targets: Tensor,
        tokens: tuple[Tensor, Tensor, Tensor],
        terms: dict[str, Any],
    ) -> Loss:
        """Return the policy objective of (old_logprobs, advantages, mask), every row counting."""
        return rk.ppo_loss_from_logits(rows, targets, *tokens, inplace=True, **terms)


def find_output(model: PreTrainedModel, vocab: int, hardware: Hardware) -> LinearHead | OwnLogits:
    """Return the model's head as the spec wants it, `hardware.fused_head` or not.

    Raises:
        StageFailed: fused, but the model's logits are not what its output embedding gives.
    """
    if not hardware.fused_head:
        return OwnLogits(vocab)
    linear = model.get_output_embeddings()
    if isinstance(linear, torch.nn.Linear):
        last = wanted_last_layer(model, hardware)
        head = LinearHead(linear, vocab, _scale(model), _setting(model, _SOFTCAP), last)
        if _gives_the_models_logits(head, model):
            return head
    names = ", ".join([*_SCALES, _SOFTCAP])
    raise StageFailed(
        f"no linear head found in {type(model).__name__}: looked for a torch.nn.Linear from "
        f"get_output_embeddings() whose product with base_model's output, with {names} of the "
        "configuration applied, equals the model's logits; set hardware.fused_head: false to use "
        "the model's own logits"
    )


def _setting(model: PreTrainedModel, name: str) -> float | None:
    config = model.config.get_text_config()
    value = getattr(config, name, None)
    return None if value is None else float(value)


def _scale(model: PreTrainedModel) -> float:
    scale = 1.0
    for name, multiplies in _SCALES.items():
        value = _setting(model, name)
        if value is not None:
            scale *= value if multiplies else 1.0 / value
    return scale


@torch.no_grad()
def _gives_the_models_logits(head: LinearHead, model: PreTrainedModel) -> bool:
    """Compare on a few tokens; it finds whatever factor or layer has no known name."""
    was_training = model.training
    model.eval()
    ids = torch.arange(4, device=model.device).unsqueeze(0) % model.config.vocab_size
    ours = head.linear(model.base_model(ids, use_cache=False)[0]) * head.scale
    if head.softcap is not None:
        ours = head.softcap * torch.tanh(ours / head.softcap)
    theirs = model(ids, use_cache=False).logits
    model.train(was_training)
    return torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
