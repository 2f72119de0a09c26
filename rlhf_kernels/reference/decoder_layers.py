"""decoder_layers in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from rlhf_kernels.reference.causal_attention import causal_attention
from rlhf_kernels.reference.feed_forward import feed_forward
from rlhf_kernels.reference.self_attention import self_attention


def decoder_layers(
    hidden: Tensor,
    layers: Sequence[Sequence[Tensor]],
    *,
    heads: int,
    scale: float | None = None,
    eps: float = 1e-5,
    cache: Sequence[tuple[Tensor, Tensor]] = (),
    used: int = 0,
    starts: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """See `rlhf_kernels.decoder_layers`; the cache is read alone, before a start there is NaN."""
    if starts is None:
        starts, parts = torch.zeros(1, dtype=torch.int64), [slice(None)]
    else:
        parts = [slice(b, b + 1) for b in range(len(hidden))]
    numbers = torch.arange(hidden.shape[0] * hidden.shape[1]).view(hidden.shape[:2])
    counted = torch.ones_like(numbers) > 0 if rows is None else torch.isin(numbers, rows)
    found = torch.full_like(hidden, torch.nan, dtype=torch.float64)
    for part, start in zip(parts, starts.tolist(), strict=True):
        new = slice(0 if used else start, None)
        held = [[x[part, :, start:used] for x in pair] for pair in cache] if start < used else []
        x = hidden[part, new].double()
        for place, layer in enumerate(layers):
            if held:
                x = _attend_one(x, *layer[:6], held[place], heads, scale, eps)
            else:
                x = self_attention(x, *layer[:6], heads=heads, scale=scale, eps=eps)
            last = counted[part, new].flatten().nonzero().flatten()
            fed = last if place == len(layers) - 1 else None
            x = feed_forward(x, *layer[6:], eps=eps, rows=fed)
        found[part, new] = x
    return found


def _attend_one(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    held: Sequence[Tensor],
    heads: int,
    scale: float | None,
    eps: float,
) -> Tensor:
    """Compute `self_attention` of one position that sees held keys and values, then its own."""
    normalized = layer_norm(x, x.shape[-1:], norm_weight.double(), norm_bias.double(), eps)
    states = normalized @ in_weight.double() + in_bias.double()
    query, *own = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in states.chunk(3, dim=-1))
    key, value = (torch.cat([old.double(), y], 2) for old, y in zip(held, own, strict=True))
    attended = causal_attention(query.expand_as(key), key, value, scale=scale)[:, -1:].flatten(2)
    return x + attended @ out_weight.double() + out_bias.double()
