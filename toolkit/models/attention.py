"""Attention on a CPU, where torch's own is slow: causal sequences, and one position at a time.

transformers finds attention by name; this module puts its own under "sdpa" and hands on to torch's
whatever it does not take: a GPU, padding masks, very long sequences, dropout.

Causal sequences in fp32 or bf16 go to `rlhf_kernels.causal_attention`, which holds no scores. CPU
ms of both passes, one thread, a busy Xeon with AMX, ours against torch's fused:

    64 x 4 heads x 11 x 32      0.87 : 1.36     in bf16  0.94 : 3.58
    32 x 6 heads x 63 x 64      8.6  : 14.1
    8 x 6 heads x 128 x 64      5.8  : 8.4               5.3  : 19.5
    8 x 12 heads x 256 x 64     36   : 65
    4 x 12 heads x 512 x 64     73   : 156               66   : 139
    1 x 12 heads x 1024 x 64    50   : 81                47   : 57
    1 x 8 heads x 2048 x 64     134  : 176               132  : 124
    1 x 4 heads x 2048 x 128    172  : 145
    1 x 4 heads x 4096 x 64     380  : 296

torch's forward pass in bf16, on matrix units, is the faster from 256 positions on.

From one position to the keys before it, batch 32, 6 heads of 64, 96 positions, one core: 0.22 ms
fused with MKL's products in fp32; 4.7 fused with oneDNN's; formed from batched products 0.80 in
fp32 and 0.78 in bf16. So it is fused, with MKL, in fp32, whatever computes the other products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import rlhf_kernels as rk

#: Positions that attend times positions attended to, up to which what is left to torch is formed
#: from products where it is slow fused. 128 x 128 took 24 ms so, 29 ms fused with MKL, 107 ms fused
#: with oneDNN; 512 x 512 took 90, 89 and 67 ms.
PLAIN_ATTENTION = 128 * 128

#: Positions times features up to which ours takes less time than torch's: a head's keys and values
#: then stay in the second-level cache.
_SIZES = {torch.float32: 2048 * 64, torch.bfloat16: 512 * 64}
_OTHERS = ("softcap", "position_bias", "cache")  # what only torch's way of attending knows


def hides_only_later(
    module: torch.nn.Module, mask: Tensor | None, settings: dict[str, Any]
) -> bool:
    """Say whether each position of a module attends to all up to itself, and nothing else is asked.

    Args:
        module: an attention module.
        mask: what it was called with.
        settings: whatever else.
    """
    causal = settings.get("is_causal")
    return (
        mask is None
        and not settings.get("dropout")
        and (getattr(module, "is_causal", True) if causal is None else bool(causal))
        and all(settings.get(name) is None for name in _OTHERS)
    )


def _is_plainly_causal(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    settings: dict[str, Any],
) -> bool:
    return query.shape[2] == key.shape[2] and hides_only_later(module, mask, settings)


def _lowered(states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return states as autocast has torch attend to them: rotated ones come to it in fp32."""
    if not torch.is_autocast_enabled("cpu"):
        return states
    return tuple(x.to(torch.get_autocast_dtype("cpu")) for x in states)


def is_short(positions: int, features: int, dtype: torch.dtype) -> bool:
    """Say whether ours takes less time than torch's with heads of so many features."""
    return positions * features <= _SIZES.get(dtype, 0)


def _is_faster(query: Tensor, key: Tensor, value: Tensor) -> bool:
    same = query.dtype == key.dtype == value.dtype
    return same and is_short(query.shape[2], query.shape[3], query.dtype)


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' "sdpa" does."""
    done: tuple[Tensor, None]
    if query.device.type == "cpu" and query.shape[2] > 1:
        if _is_plainly_causal(module, query, key, attention_mask, settings):
            states = _lowered((query, key, value))
            if _is_faster(*states):
                return rk.causal_attention(*states, scale=settings.get("scaling")), None
    elif query.device.type == "cpu" and not torch.is_grad_enabled():
        return _attend_from_one(module, query, key, value, attention_mask, settings), None
    done = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    return done


def _attend_from_one(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    settings: dict[str, Any],
) -> Tensor:
    """Attend by MKL, in fp32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cpu", enabled=False):
            wide = (x.float() for x in (query, key, value))
            out: Tensor = sdpa_attention_forward(module, *wide, mask, **settings)[0]
    finally:
        torch.set_float32_matmul_precision(before)
    return out.to(query.dtype)


AttentionInterface.register("sdpa", _attend)
