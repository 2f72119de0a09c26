"""feed_forward in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from rlhf_kernels.reference.gelu_tanh import gelu_tanh


def feed_forward(
    hidden: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    *,
    eps: float = 1e-5,
    rows: Tensor | None = None,
) -> Tensor:
    """See `rlhf_kernels.feed_forward`."""
    x = hidden.double().reshape(-1, hidden.shape[-1])
    normalized = layer_norm(x, x.shape[-1:], norm_weight.double(), norm_bias.double(), eps)
    inner = gelu_tanh(normalized @ up_weight.double() + up_bias.double())
    added = inner @ down_weight.double() + down_bias.double()
    if rows is not None:
        counted = torch.zeros(len(x), 1, dtype=torch.bool)
        counted[rows] = True
        added = torch.where(counted, added, 0)
    return (x + added).view(hidden.shape)
