"""Float64 reference of generalised advantage estimation; see `rlhf_kernels.ops.gae`."""

import torch
from torch import Tensor

from rlhf_kernels.reference.whiten import whiten as whiten_reference


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float,
    lam: float,
    whiten: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute the advantages as the explicit sum over later residuals, row by row."""
    advantages = torch.zeros(mask.shape, dtype=torch.float64)
    returns = torch.zeros(mask.shape, dtype=torch.float64)
    for row in range(mask.shape[0]):
        kept = mask[row].nonzero().flatten()
        value = values[row, kept].double()
        following = torch.cat([value[1:], value.new_zeros(1)])[: len(kept)]
        residual = rewards[row, kept].double() + gamma * following - value
        # The defining double sum, not the recurrence: an independent way to the same numbers.
        distance = torch.arange(len(kept))[None, :] - torch.arange(len(kept))[:, None]
        weight = torch.where(distance >= 0, (gamma * lam) ** distance.clamp(min=0).double(), 0.0)
        advantages[row, kept] = weight @ residual
        returns[row, kept] = weight @ residual + value
    return (whiten_reference(advantages, mask) if whiten else advantages), returns
