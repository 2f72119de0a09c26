"""Float64 reference of masked whitening; see `rlhf_kernels.ops.whiten`."""

import torch
from torch import Tensor


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Scale the unmasked entries to variance one, biased, with 1e-8 added to the variance."""
    kept = x.double()[mask]
    out = torch.zeros(x.shape, dtype=torch.float64)
    if kept.numel() == 0:
        return out
    mean = kept.mean()
    white = (kept - mean) * torch.rsqrt(kept.var(correction=0) + 1e-8)
    out[mask] = white if shift_mean else white + mean
    return out
