"""self_attention in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from rlhf_kernels.reference.causal_attention import causal_attention


def self_attention(
    hidden: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    *,
    heads: int,
    scale: float | None = None,
    eps: float = 1e-5,
    held: Sequence[Tensor] = (),
) -> Tensor:
    """See `rlhf_kernels.self_attention`; `held` are keys and values that one position sees too."""
    x = hidden.double()
    normalized = layer_norm(x, x.shape[-1:], norm_weight.double(), norm_bias.double(), eps)
    states = normalized @ in_weight.double() + in_bias.double()
    parts = [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in states.chunk(3, dim=-1)]
    if held:
        parts[1:] = [torch.cat([a.double(), b], 2) for a, b in zip(held, parts[1:], strict=True)]
        parts[0] = parts[0].expand_as(parts[1])
    attended = causal_attention(*parts, scale=scale)[:, -x.shape[1] :].flatten(2)
    return x + attended @ out_weight.double() + out_bias.double()
