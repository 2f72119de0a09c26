"""Float64 reference of the clipped policy loss; see `rlhf_kernels.ops.ppo_loss` for the formula."""

import torch
from torch import Tensor

from rlhf_kernels.reference.token_kl import MAX_EXPONENT, token_kl


def ppo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    cliprange: float,
    denominator: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the clipped policy loss and its statistics over the unmasked tokens in float64."""
    logratio = (logprobs.double() - old_logprobs.double())[mask]
    advantage = advantages.double()[mask]
    ratio = logratio.clamp(max=MAX_EXPONENT).exp()
    unclipped = -advantage * ratio
    clipped = -advantage * ratio.clamp(1 - cliprange, 1 + cliprange)
    count = ratio.numel()
    divisor = denominator if denominator is not None else max(count, 1)
    # Not torch.maximum, whose gradient at a tie is half of each branch.
    larger = torch.where(clipped > unclipped, clipped, unclipped)
    loss = larger.sum() / divisor
    with torch.no_grad():
        zero = torch.zeros((), dtype=torch.float64)
        stats = {
            "policy_loss": loss.detach(),
            "approxkl": 0.5 * logratio.square().sum() / divisor,
            "approxkl_k3": token_kl(old_logprobs, logprobs, estimator="k3")[mask].sum() / divisor,
            "clipfrac": (clipped > unclipped).double().sum() / divisor,
            "ratio_mean": ratio.sum() / divisor,
            "ratio_var": (ratio - ratio.mean()).square().sum() / divisor,
            "ratio_max": ratio.max() if count else zero,
            "ratio_error": (ratio - 1).abs().max() if count else zero,
        }
    return loss, stats
