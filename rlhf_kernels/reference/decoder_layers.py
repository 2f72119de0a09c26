"""decoder_layers in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
            own = held[place] if held else ()
            x = self_attention(x, *layer[:6], heads=heads, scale=scale, eps=eps, held=own)
            last = counted[part, new].flatten().nonzero().flatten()
            fed = last if place == len(layers) - 1 else None
            x = feed_forward(x, *layer[6:], eps=eps, rows=fed)
        found[part, new] = x
    return found
