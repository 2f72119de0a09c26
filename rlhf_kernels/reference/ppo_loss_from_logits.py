"""ppo_loss_from_logits and cross_entropy in float64."""

import torch
from torch import Tensor

from rlhf_kernels.reference.exact_kl import exact_kl
from rlhf_kernels.reference.gather_logprobs import gather_logprobs
from rlhf_kernels.reference.token_kl import MAX_EXPONENT, token_kl


def _mean(values: Tensor, mask: Tensor, denominator: float | None) -> Tensor:
    count = mask.sum().item() if denominator is None else denominator
    return torch.where(mask, values, 0.0).sum() / max(count, 1e-300)


def ppo_loss_from_logits(
    logits: Tensor,
    targets: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    cliprange: float,
    temperature: float | Tensor = 1.0,
    entropy_coef: float = 0.0,
    kl_coef: float = 0.0,
    kl_estimator: str = "k3",
    ref_logprobs: Tensor | None = None,
    ref_logits: Tensor | None = None,
    ptx_mask: Tensor | None = None,
    ptx_coef: float = 0.0,
    denominator: float | None = None,
    ptx_denominator: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the loss and its statistics term by term."""
    logprobs, entropy, _ = gather_logprobs(logits, targets, temperature=temperature)
    logratio = logprobs - old_logprobs.double()
    ratio = logratio.clamp(max=MAX_EXPONENT).exp()
    a = advantages.double()
    # Inside the range both branches are one number; max() would halve its gradient and add it up.
    surrogate = torch.maximum(-a * ratio, -a * ratio.clamp(1 - cliprange, 1 + cliprange))
    stats = {
        "policy_loss": _mean(surrogate, mask, denominator),
        "approxkl": _mean(0.5 * logratio.square(), mask, denominator),
        "ratio_mean": _mean(ratio, mask, denominator),
        "entropy": _mean(entropy, mask, denominator),
    }
    loss = stats["policy_loss"] - entropy_coef * stats["entropy"]
    if ref_logits is not None:
        stats["kl"] = _mean(
            exact_kl(logits, ref_logits, temperature=temperature), mask, denominator
        )
    elif ref_logprobs is not None:
        estimate = token_kl(logprobs, ref_logprobs, estimator=kl_estimator)
        stats["kl"] = _mean(estimate, mask, denominator)
    if kl_coef:
        loss = loss + kl_coef * stats["kl"]
    if ptx_mask is not None:
        stats["ptx_loss"] = _mean(-logprobs, ptx_mask, ptx_denominator)
        stats["ptx_entropy"] = _mean(entropy, ptx_mask, ptx_denominator)
        loss = loss + ptx_coef * stats["ptx_loss"]
    return loss, stats
