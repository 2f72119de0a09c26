"""Float64 reference of masked_mean."""

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor, *, denominator: float | None = None) -> Tensor:
    """Compute the mean of the kept entries, or their sum over `denominator`."""
    kept = x.double()[mask]
    if kept.numel() == 0:
        return torch.zeros((), dtype=torch.float64)
    return kept.mean() if denominator is None else kept.sum() / denominator
