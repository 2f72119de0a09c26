"""Float64 reference of the clipped value loss; see `rlhf_kernels.ops.value_loss`."""

import torch
from torch import Tensor


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    cliprange_value: float,
    denominator: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute half the clipped squared error of the values and its statistics in float64."""
    value, old, target = (x.double()[mask] for x in (values, old_values, returns))
    clipped_value = torch.maximum(
        torch.minimum(value, old + cliprange_value), old - cliprange_value
    )
    unclipped = (value - target).square()
    clipped = (clipped_value - target).square()
    count = value.numel()
    divisor = denominator if denominator is not None else max(count, 1)
    # Not torch.maximum, whose gradient at a tie is half of each branch.
    larger = torch.where(clipped > unclipped, clipped, unclipped)
    loss = 0.5 * larger.sum() / divisor
    with torch.no_grad():
        stats = {
            "value_loss": loss.detach(),
            "clipfrac": (clipped > unclipped).double().sum() / divisor,
            "error": unclipped.sum() / divisor,
            "values_mean": value.sum() / divisor,
            "values_var": (value - value.mean()).square().sum() / divisor,
            "returns_mean": target.sum() / divisor,
            "returns_var": (target - target.mean()).square().sum() / divisor,
        }
    return loss, stats
