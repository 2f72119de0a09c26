"""All layers of a GPT-2 in one go on a CPU.

Where no gradient is wanted, in references, scores and held-out losses, a thread takes its sequences
through all layers of a small model (`rlhf_kernels.decoder_layers`); in sampling those of every
model, since its weights are laid out once for many tokens. For a gradient the halves of the layers
follow each other with nothing in between. What is taken neither way goes on as before, layer by
layer (layers.py).

Dims: B sequences, L positions, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.gpt2.modeling_gpt2 import GPT2Model

import rlhf_kernels as rk
from toolkit.models.layers import has_matrix_units
from toolkit.models.whole_pass import Copies, Pass, layer_weights, plan_pass


class _AsGPT2(type):
    """transformers keeps by a class's text which outputs its models can record."""

    def __str__(cls) -> str:
        return str(GPT2Model)


class FusedTrunk(GPT2Model, metaclass=_AsGPT2):  # type: ignore[misc]
    """A trunk that reads by the kernels what they take; weights and names are GPT2Model's."""

    copies: Copies | None = None  # of the weights, see `lay_out`

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        **settings: Any,
    ) -> Any:
        """Do as GPT2Model.forward does."""
        given = {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "use_cache": use_cache,
            **settings,
        }
        others = (token_type_ids, inputs_embeds, encoder_hidden_states, encoder_attention_mask)
        plan = None
        if input_ids is not None and all(x is None for x in others):
            plan = plan_pass(self, self.copies, input_ids, past_key_values, given)
        if input_ids is None or plan is None:
            names = ("token_type_ids", "inputs_embeds", "encoder_hidden_states")
            given |= zip((*names, "encoder_attention_mask"), others, strict=True)
            return super().forward(input_ids, past_key_values, **given)
        hidden = self.drop(self.wte(input_ids) + self.wpe(plan.positions))
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.ln_f(_read(self, hidden, plan)), past_key_values=past_key_values
        )


def fuse_trunk(model: PreTrainedModel) -> None:
    """Have a GPT-2 read by the kernel; weights, names and config stay as they are."""
    if rk.current_isa() == "baseline":
        return
    for module in model.modules():
        if type(module) is GPT2Model:
            module.__class__ = FusedTrunk


@contextmanager
def lay_out(model: PreTrainedModel, *, bf16: bool = False) -> Iterator[None]:
    """Hold copies of a model's weights as the kernel reads them; the weights must not change.

    Args:
        model: any; nothing is held of what is no GPT-2.
        bf16: rounded, as autocast rounds them. The kernel then computes under autocast alone.
    """
    trunks = [module for module in model.modules() if isinstance(module, FusedTrunk)]
    before = [trunk.copies for trunk in trunks]
    try:
        for trunk in trunks:
            weights = layer_weights(trunk, 1)
            if weights is not None:
                trunk.copies = _copy(weights, bf16)
        yield
    finally:
        for trunk, copies in zip(trunks, before, strict=True):
            trunk.copies = copies


def _copy(weights: list[tuple[Tensor, ...]], bf16: bool) -> Copies:
    """Copy weights; without matrix units fp32 is the faster, so there only weights are rounded."""
    pairs = bf16 and has_matrix_units()
    if bf16 and not pairs:
        weights = [
            tuple(x.detach().bfloat16().float() if x.ndim == 2 else x for x in layer)
            for layer in weights
        ]
    return Copies(rk.lay_out_layers(weights, bf16=pairs), autocast=bf16, bf16=pairs)


def _read(trunk: FusedTrunk, hidden: Tensor, plan: Pass) -> Tensor:
    """Take hidden states [B, L, D] through all layers."""
    attn, eps = trunk.h[0].attn, trunk.h[0].ln_1.eps
    heads, scale = attn.num_heads, attn.scaling
    out = rk.decoder_layers(
        hidden,
        plan.weights,
        heads=heads,
        scale=scale,
        eps=eps,
        cache=[layer.take(hidden, heads) for layer in plan.held],
        used=plan.used,
        starts=plan.starts,
        rows=plan.rows,
        bf16=plan.bf16,
    )
    for layer in plan.held:
        layer.advance(hidden.shape[1])
    return out
