"""Float64 reference of the KL-shaped rewards; see `rlhf_kernels.ops.shaped_rewards`."""

import torch
from torch import Tensor

from rlhf_kernels.reference.token_kl import token_kl


def shaped_rewards(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    *,
    kl_coef: float,
    estimator: str = "k1",
) -> Tensor:
    """Compute -kl_coef * kl per token, plus the score on each row's last unmasked token."""
    kl = token_kl(logprobs, ref_logprobs, estimator=estimator)
    rewards = torch.zeros(mask.shape, dtype=torch.float64)
    for row, keep in enumerate(mask.tolist()):
        kept = [column for column, counts in enumerate(keep) if counts]
        for column in kept:
            rewards[row, column] = -kl_coef * kl[row, column]
        if kept:
            rewards[row, kept[-1]] += scores[row].double()
    return rewards
