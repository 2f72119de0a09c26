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
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

#: Positions that attend times positions attended to, up to which attention is formed from products.
#: 128 x 128 took 24 ms so by torch, 29 ms fused with MKL, 107 ms fused with oneDNN; 512 x 512 took
#: 90, 89 and 67 ms.
PLAIN_ATTENTION = 128 * 128

_WIDTH = 16  # fp32 numbers of the widest vector
_OTHERS = ("softcap", "position_bias", "cache")  # what only torch's way of attending knows


class _ShortCausal(torch.autograd.Function):
    """softmax(scale q k^T) v over the positions up to each; q, k [B, H, L, D], v [B, H, L, E].

    bf16 states are attended in fp32, as torch does where it forms attention from products.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        length = query.shape[2]
        q, k, v = _widened(query), _padded(key), _padded(value)
        later = q.new_full((length, k.shape[1]), float("-inf")).triu_(1)
        shares = torch.baddbmm(later, q, k.transpose(1, 2), alpha=scale).softmax(-1)
        ctx.save_for_backward(q, k, v, shares)
        ctx.scale, ctx.heads, ctx.dtype = scale, query.shape[:2], query.dtype
        attended: Tensor = torch.bmm(shares, v).unflatten(0, ctx.heads)
        return attended.to(query.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, shares = ctx.saved_tensors
        g, length = _widened(grad), q.shape[1]
        upstream = torch.bmm(g, v.transpose(1, 2))
        inner = torch._softmax_backward_data(upstream, shares, -1, shares.dtype).mul_(ctx.scale)
        grads = (
            torch.bmm(inner, k),
            torch.bmm(inner.transpose(1, 2), q)[:, :length],
            torch.bmm(shares.transpose(1, 2), g)[:, :length],
        )
        grad_q, grad_k, grad_v = (x.to(ctx.dtype).unflatten(0, ctx.heads) for x in grads)
        return grad_q, grad_k, grad_v, None


def _widened(states: Tensor) -> Tensor:
    """[B, H, L, D] to [B H, L, D], bf16 to fp32."""
    if states.dtype == torch.bfloat16:
        states = states.to(torch.float32, memory_format=torch.contiguous_format)
    return states.flatten(0, 1)


def _padded(states: Tensor) -> Tensor:
    """[B, H, L, D] to [B H, L', D] as `_widened`, zeros from L on; L' is at least _WIDTH."""
    batch, heads, length, size = states.shape
    if length >= _WIDTH:
        return _widened(states)
    dtype = torch.promote_types(states.dtype, torch.float32)
    room = states.new_zeros(batch, heads, _WIDTH, size, dtype=dtype)
    room[:, :, :length] = states
    return room.flatten(0, 1)


def _is_short_causal(
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
        and query.shape[2] ** 2 <= PLAIN_ATTENTION
        and _have_one_dtype(query, key, value)
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
        if _is_short_causal(module, (query, key, value), attention_mask, settings):
            return _attend_shortly(query, key, value, settings.get("scaling")), None
    elif query.device.type == "cpu" and not torch.is_grad_enabled():
        return _attend_from_one(module, query, key, value, attention_mask, settings), None
    done = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    return done


def _attend_shortly(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast("cpu", enabled=False):
        attended: Tensor = _ShortCausal.apply(query, key, value, factor)  # type: ignore[no-untyped-call]
    return attended.transpose(1, 2).contiguous()


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
