"""explained_variance: how much of the returns' variance the values predict."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops.masked_mean import masked_mean

registry.declare("explained_variance", "composite")


@torch.no_grad()
def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Compute 1 - mean((values - returns)^2) / var(returns) over the unmasked entries.

    1 is perfect, 0 as good as the returns' mean, negative is worse. The variance is biased; a
    constant error of the values counts against them.

    Args:
        values: any shape; float32, bfloat16, float16 or float64.
        returns: same shape.
        mask: bool, same shape; True counts.

    Returns:
        0-d, float32 (float64 for float64 values), no gradient; NaN where the returns do not vary,
        since the share of nothing is undefined.

    Raises:
        ValueError: `returns` or `mask` does not have the shape of `values`, or `mask` is not bool.

    Source: Ziegler et al. 2019, https://github.com/openai/lm-human-preferences, `var_explained`.
    """
    if returns.shape != values.shape:
        raise ValueError(
            f"explained_variance: argument 'returns' must have the shape of 'values'"
            f" {list(values.shape)}, got {list(returns.shape)}"
        )
    value, target = values.double(), returns.double()
    error = masked_mean((value - target).square(), mask)
    variance = masked_mean((target - masked_mean(target, mask)).square(), mask)
    share = torch.where(variance > 0, 1.0 - error / variance, torch.nan)
    return share.to(registry.result_dtype(values))
