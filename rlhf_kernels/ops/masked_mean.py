"""masked_mean: the mean of the entries that count."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry

registry.declare("masked_mean", "composite")


def masked_mean(x: Tensor, mask: Tensor, *, denominator: float | Tensor | None = None) -> Tensor:
    """Compute sum(x where mask) / denominator, as a 0-d tensor.

    Args:
        x: any shape; float32, bfloat16, float16 or float64.
        mask: bool, same shape; True counts. Masked entries may hold NaN.
        denominator: default: the number of True entries.

    Returns:
        0-d, float32 (float64 for float64), differentiable in `x`; 0 without unmasked entries.

    Raises:
        ValueError: `mask` is not bool or not of the shape of `x`.
    """
    if mask.dtype != torch.bool or mask.shape != x.shape:
        raise ValueError(
            f"masked_mean: argument 'mask' must be bool of the shape of 'x' {list(x.shape)},"
            f" got {mask.dtype} {list(mask.shape)}"
        )
    # fp64 sums, rounded once: the result does not depend on how torch cuts the sum into threads
    # beyond that rounding.
    total = torch.where(mask, x, 0.0).sum(dtype=torch.float64)
    divisor = registry.make_denominator(denominator, mask)
    safe = torch.where(divisor > 0, divisor, 1.0)
    return (total / safe).to(registry.result_dtype(x))
