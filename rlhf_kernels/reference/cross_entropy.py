"""cross_entropy in float64."""

import torch
from torch import Tensor

from rlhf_kernels.reference.gather_logprobs import gather_logprobs


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    mask: Tensor | None = None,
    denominator: float | None = None,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """Compute sum_mask -logprob / denominator."""
    logprobs = gather_logprobs(logits, targets, temperature=temperature)[0]
    counted = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask
    total = torch.where(counted, -logprobs, 0.0).sum()
    return total / (counted.sum() if denominator is None else denominator)
