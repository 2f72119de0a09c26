"""GPT-2's layer as two kernels a pass on a CPU: attention, and the feed-forward.

Written out in torch a layer is some fifteen operators a pass. With small models two threads meet
at each of them for microseconds of work, and every one's result goes through memory;
`rlhf_kernels.self_attention` and `rlhf_kernels.feed_forward` take some rows from their norm to
their sum. docs/PERFORMANCE.md has the times. What the kernels do not take goes on as before: a GPU,
bf16, a cache, a mask, dropout that acts, parts of other classes or with hooks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as modules
from transformers import PreTrainedModel
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention, GPT2Block
from transformers.pytorch_utils import Conv1D

import rlhf_kernels as rk
from toolkit.models.activation import TanhGelu
from toolkit.models.attention import hides_only_later, is_short
from toolkit.models.last_layer import LastLayer

#: From how many rows on the kernels are the faster with a weight of at most so many numbers: they
#: bring the weights into their own order first. Both passes, two threads of a Xeon, attention and
#: feed-forward as a share of torch's: 704 rows of 128 .80 and .88; 2048 of 256 .84 and .81, 704 .94
#: and .97; 2048 of 384 .90 and .94, 704 1.05 and .93; 1024 of 768 1.11 and 1.08. Forward alone, 128
#: rows of 128 .64 and .81, of 256 .96 and 1.20, of 384 1.15 and 1.36.
_ROWS = ((1 << 16, 64), (1 << 18, 512), (1 << 20, 1024))


class FusedBlock(GPT2Block):  # type: ignore[misc]
    """A layer that computes by the kernels what they take; weights and names are GPT2Block's."""

    def forward(
        self,
        hidden_states: Tensor,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = False,
        **settings: Any,
    ) -> Tensor:
        """Do as GPT2Block.forward does; hidden states are [B, L, D]."""
        if encoder_hidden_states is not None:
            whole: Tensor = super().forward(
                hidden_states,
                past_key_values,
                attention_mask,
                encoder_hidden_states,
                encoder_attention_mask,
                use_cache,
                **settings,
            )
            return whole
        if past_key_values is None and self._attends(hidden_states, attention_mask, settings):
            hidden_states = self._attend(hidden_states)
        else:
            attended = self.attn(
                self.ln_1(hidden_states),
                past_key_values=past_key_values,
                attention_mask=attention_mask,
                use_cache=use_cache,
                **settings,
            )[0]
            hidden_states = attended + hidden_states
        last = LastLayer.of(self.mlp)
        rows = None if last is None else last.rows
        if self._feeds(hidden_states, rows):
            return self._feed(hidden_states, rows)
        fed: Tensor = hidden_states + self.mlp(self.ln_2(hidden_states))
        return fed

    def _attends(self, hidden: Tensor, mask: Tensor | None, settings: dict[str, Any]) -> bool:
        """Say whether the first half goes to its kernel."""
        attn = self.attn
        return (
            _are(attn, GPT2Attention)
            and _are((attn.c_attn, attn.c_proj), Conv1D)
            and _are((attn.attn_dropout, attn.resid_dropout), torch.nn.Dropout)
            and _are(self.ln_1, torch.nn.LayerNorm)
            and _is_taken(hidden, hidden[..., 0].numel(), self.ln_1, attn.c_attn)
            and attn.config._attn_implementation == "sdpa"
            and hides_only_later(attn, mask, settings)
            and is_short(hidden.shape[1], attn.head_dim, hidden.dtype)
            and not (attn.training and attn.attn_dropout.p)
            and not (attn.resid_dropout.training and attn.resid_dropout.p)
        )

    def _attend(self, hidden: Tensor) -> Tensor:
        norm, attn = self.ln_1, self.attn
        return rk.self_attention(
            hidden,
            norm.weight,
            norm.bias,
            attn.c_attn.weight,
            attn.c_attn.bias,
            attn.c_proj.weight,
            attn.c_proj.bias,
            heads=attn.num_heads,
            scale=attn.scaling,
            eps=norm.eps,
        )

    def _feeds(self, hidden: Tensor, rows: Tensor | None) -> bool:
        """Say whether the second half goes to its kernel."""
        mlp, count = self.mlp, hidden[..., 0] if rows is None else rows
        return (
            _are(mlp, GPT2MLP)
            and _are((mlp.c_fc, mlp.c_proj), Conv1D)
            and _are(mlp.act, TanhGelu)
            and _are(mlp.dropout, torch.nn.Dropout)
            and _are(self.ln_2, torch.nn.LayerNorm)
            and _is_taken(hidden, count.numel(), self.ln_2, mlp.c_fc)
            and not (mlp.dropout.training and mlp.dropout.p)
        )

    def _feed(self, hidden: Tensor, rows: Tensor | None) -> Tensor:
        norm, mlp = self.ln_2, self.mlp
        return rk.feed_forward(
            hidden,
            norm.weight,
            norm.bias,
            mlp.c_fc.weight,
            mlp.c_fc.bias,
            mlp.c_proj.weight,
            mlp.c_proj.bias,
            eps=norm.eps,
            rows=rows,
        )


def fuse_layers(model: PreTrainedModel) -> None:
    """Have every GPT-2 layer compute by kernels; weights, names and config stay as they are."""
    if rk.current_isa() == "baseline":
        return
    for module in model.modules():
        if type(module) is GPT2Block:
            module.__class__ = FusedBlock


def _is_taken(hidden: Tensor, rows: int, norm: torch.nn.LayerNorm, conv: Conv1D) -> bool:
    """Say whether the kernels take these tensors, and are the faster with so many rows."""
    weight, size = conv.weight, conv.weight.numel()
    return (
        hidden.device.type == weight.device.type == "cpu"
        and hidden.dtype == weight.dtype == torch.float32
        and norm.bias is not None
        and not torch.is_autocast_enabled("cpu")
        and any(size <= most and rows >= least for most, least in _ROWS)
    )


def _are(parts: torch.nn.Module | tuple[torch.nn.Module, ...], kind: type) -> bool:
    """Say whether these are of that very class, and nothing comes between a call and its forward.

    The rows of the last layer are known here, and may be hooked.
    """
    return not modules._has_any_global_hook() and all(
        type(part) is kind
        and "forward" not in vars(part)
        and all(isinstance(getattr(hook, "__self__", None), LastLayer) for hook in _hooks(part))
        for part in (parts if isinstance(parts, tuple) else (parts,))
    )


def _hooks(part: torch.nn.Module) -> list[Any]:
    kinds = (
        part._forward_hooks,
        part._forward_pre_hooks,
        part._backward_hooks,
        part._backward_pre_hooks,
    )
    return [hook for hooks in kinds if hooks for hook in hooks.values()]
