"""GPT-2's layer as two kernels a pass on a CPU: attention, and the feed-forward.

Written out in torch a layer is some fifteen operators a pass. With small models two threads meet
at each of them for microseconds of work, and every one's result goes through memory;
`rlhf_kernels.self_attention` and `rlhf_kernels.feed_forward` take some rows from their norm to
their sum; under autocast with products in bf16, where the processor has matrix units for them.
docs/PERFORMANCE.md has the times. What the kernels do not take goes on as before: a GPU, a cache, a
mask, dropout that acts, parts of other classes or with hooks.
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
#: In bf16 with matrix units they are taken whatever the rows, up to so many numbers: log-probs of a
#: batch are compared with those of its minibatches, and another rounding shows in their ratio (6
#: layers of 384: .005 with new weights, .02 with weights times 4; the limit is .01). Against
#: autocast, feed-forward and attention: 32 rows of 128 .63 and .42; 256 of 256 .86 and .60; 512 of
#: 384 .85 and .74, 128 1.57 and 1.13; 1024 of 768 .83 and .76, 256 .94 and 1.01, 128 1.58 and 1.89;
#: 1024 of 1024 .96 and .82.
_BF16_MOST = 1 << 22
#: Instruction sets with such units. 6 layers of 384, 16 x 127 tokens, no gradient: amx 60 ms,
#: avx512bf16 341, fp32 232.
_BF16_SETS = ("amx",)

_ATTENTION = (
    ("c_attn", Conv1D),
    ("c_proj", Conv1D),
    ("attn_dropout", torch.nn.Dropout),
    ("resid_dropout", torch.nn.Dropout),
)
_FEED_FORWARD = (
    ("c_fc", Conv1D),
    ("c_proj", Conv1D),
    ("act", TanhGelu),
    ("dropout", torch.nn.Dropout),
)


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
        bf16 = in_bf16()
        if past_key_values is None and self._attends(hidden_states, attention_mask, settings, bf16):
            hidden_states = self._attend(hidden_states, bool(bf16))
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
        # an answer's tokens share torch's casts of the weights, and would not share the kernel's
        shared = bf16 and past_key_values is not None
        if not shared and self._feeds(hidden_states, rows, bf16):
            return self._feed(hidden_states, rows, bool(bf16))
        fed: Tensor = hidden_states + self.mlp(self.ln_2(hidden_states))
        return fed

    def attends_plainly(self) -> bool:
        """Say whether the first half is what the kernels compute, whatever it is called with."""
        attn = self._modules["attn"]
        if not (is_untouched(attn, GPT2Attention) and _is_made_of(attn, _ATTENTION)):
            return False
        dropout, residual = attn._modules["attn_dropout"], attn._modules["resid_dropout"]
        return (
            is_untouched(self._modules["ln_1"], torch.nn.LayerNorm)
            and attn.config._attn_implementation == "sdpa"
            and not (attn.training and dropout.p)
            and not (residual.training and residual.p)
        )

    def _attends(
        self, hidden: Tensor, mask: Tensor | None, settings: dict[str, Any], bf16: bool | None
    ) -> bool:
        """Say whether the first half goes to its kernel."""
        attn = self.attn
        return (
            self.attends_plainly()
            and _is_taken(hidden, hidden[..., 0].numel(), self.attention_weights, bf16)
            and hides_only_later(attn, mask, settings)
            and is_short(hidden.shape[1], attn.head_dim, hidden.dtype)
        )

    @property
    def attention_weights(self) -> tuple[Any, ...]:
        """What the first half multiplies and adds, in the kernel's order."""
        parts = self._modules["attn"]._modules
        return _weights(self._modules["ln_1"], parts["c_attn"], parts["c_proj"])

    def _attend(self, hidden: Tensor, bf16: bool) -> Tensor:
        attn = self.attn
        settings = {"heads": attn.num_heads, "scale": attn.scaling, "eps": self.ln_1.eps}
        return rk.self_attention(hidden, *self.attention_weights, **settings, bf16=bf16)

    def feeds_plainly(self) -> bool:
        """Say the same of the second half."""
        mlp = self._modules["mlp"]
        if not (is_untouched(mlp, GPT2MLP) and _is_made_of(mlp, _FEED_FORWARD)):
            return False
        dropout = mlp._modules["dropout"]
        norm = self._modules["ln_2"]
        return is_untouched(norm, torch.nn.LayerNorm) and not (dropout.training and dropout.p)

    def _feeds(self, hidden: Tensor, rows: Tensor | None, bf16: bool | None) -> bool:
        """Say whether the second half goes to its kernel."""
        count = hidden[..., 0] if rows is None else rows
        return self.feeds_plainly() and _is_taken(hidden, count.numel(), self.feed_weights, bf16)

    @property
    def feed_weights(self) -> tuple[Any, ...]:
        """The same of the second half."""
        parts = self._modules["mlp"]._modules
        return _weights(self._modules["ln_2"], parts["c_fc"], parts["c_proj"])

    def _feed(self, hidden: Tensor, rows: Tensor | None, bf16: bool) -> Tensor:
        settings = {"eps": self.ln_2.eps, "rows": rows, "bf16": bf16}
        return rk.feed_forward(hidden, *self.feed_weights, **settings)


def fuse_layers(model: PreTrainedModel) -> None:
    """Have every GPT-2 layer compute by kernels; weights, names and config stay as they are."""
    if rk.current_isa() == "baseline":
        return
    for module in model.modules():
        if type(module) is GPT2Block:
            module.__class__ = FusedBlock


def _is_taken(hidden: Tensor, rows: int, weights: tuple[Any, ...], bf16: bool | None) -> bool:
    """Say whether the kernels take these tensors, and are the faster with so many rows."""
    weight = weights[2]
    return (
        bf16 is not None
        and hidden.device.type == weight.device.type == "cpu"
        and hidden.dtype == torch.float32
        and all(x is not None and x.dtype == torch.float32 for x in weights)
        and not (bf16 and (hidden.shape[-1] % 16 or weight.shape[-1] % 16))
        and are_many(rows, weight.numel(), bf16=bf16)
    )


def in_bf16() -> bool | None:
    """Say whether the kernels are to multiply in bf16; None where torch is to compute."""
    if not torch.is_autocast_enabled("cpu"):
        return False
    if torch.compiler.is_compiling():
        return None  # which cannot look at the processor
    asked = torch.get_autocast_dtype("cpu") == torch.bfloat16
    return True if asked and has_matrix_units() else None


def has_matrix_units() -> bool:
    """Say whether the processor has units that multiply matrices in bf16."""
    return rk.current_isa() in _BF16_SETS


def are_many(rows: int, numbers: int, *, bf16: bool) -> bool:
    """Say whether a half's kernel is the faster with so many rows and numbers in its weight."""
    if bf16:
        return numbers <= _BF16_MOST
    return any(numbers <= most and rows >= least for most, least in _ROWS)


def _weights(*parts: Any) -> tuple[Any, ...]:
    """Return tensors, None for a bias that is not there."""
    return tuple(part._parameters.get(name) for part in parts for name in ("weight", "bias"))


def is_untouched(part: Any, kind: type[torch.nn.Module]) -> bool:
    """Say whether a part is of that very class, and nothing comes between a call and its forward.

    The rows of the last layer are known here, and may be hooked. It is asked for every part at
    every call, so it is short, and the parts come from `_modules`, past torch's slow lookup.
    """
    if type(part) is not kind or "forward" in vars(part):
        return False
    hooks: tuple[dict[int, Any] | None, ...] = (
        part._forward_hooks,
        part._forward_pre_hooks,
        part._backward_hooks,
        part._backward_pre_hooks,
    )
    return not any(hooks) or all(
        isinstance(getattr(hook, "__self__", None), LastLayer)
        for kept in hooks
        for hook in (kept or {}).values()
    )


def _is_made_of(module: Any, kinds: tuple[tuple[str, type], ...]) -> bool:
    if modules._has_any_global_hook():
        return False
    parts = module._modules
    return all(is_untouched(parts.get(name), kind) for name, kind in kinds)
