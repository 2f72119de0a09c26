"""Attention on a CPU, where torch's own is slow: short sequences, and one position at a time.

transformers finds attention by name; this module puts its own under "sdpa" and hands on to torch's
whatever it does not take: a GPU, padding masks, mixed dtypes, long sequences, dropout.

Short causal sequences in fp32 or bf16. torch's fused CPU attention makes many tiny products; formed
from batched products it pays for a softmax over rows shorter than a vector: 2816 rows of 11 entries
take 360 us on one core with AVX-512, of 16 entries 36 us. So keys and values are padded to 16, and
the backward pass is written out, which leaves no mask, no check for empty rows and no scaling of
their own. CPU ms, both passes, one core, against torch's formed from products:

    64 x 4 heads x 11 x 32     0.64 : 1.24
    32 x 4 heads x 64 x 64     4.0  : 5.8
    8 x 6 heads x 128 x 64     4.8  : 6.3

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

#: Positions up to which ours takes less time than torch's.
_LENGTHS = {torch.float32: 2048, torch.bfloat16: 512}
_OTHERS = ("softcap", "position_bias", "cache")  # what only torch's way of attending knows


def _is_ours(
    module: torch.nn.Module,
    states: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    settings: dict[str, Any],
) -> bool:
    query, key, value = states
    causal = settings.get("is_causal")
    return (
        mask is None
        and query.shape[2] == key.shape[2]
        and _have_one_dtype(query, key, value)
        and query.shape[2] <= _LENGTHS[query.dtype]
        and not settings.get("dropout")
        and (getattr(module, "is_causal", True) if causal is None else causal)
        and all(settings.get(name) is None for name in _OTHERS)
    )


def _have_one_dtype(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether all are fp32, or all bf16, and autocast would leave them so."""
    lowered = torch.is_autocast_enabled("cpu")
    dtypes = {query.dtype, key.dtype, value.dtype}
    return dtypes == {torch.bfloat16} or (dtypes == {torch.float32} and not lowered)


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
        if _is_ours(module, (query, key, value), attention_mask, settings):
            scale = settings.get("scaling")
            return rk.causal_attention(query, key, value, scale=scale), None
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
