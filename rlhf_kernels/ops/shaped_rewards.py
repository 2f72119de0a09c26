"""shaped_rewards: the per-token reward of PPO, score and KL penalty in one."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry

registry.declare("shaped_rewards", "native")


def _outputs(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    kl_coef: float,
    estimator: str,
) -> Tensor:
    return registry.new_result(logprobs, *logprobs.shape)


_forward = registry.define_op(
    "shaped_rewards(Tensor scores, Tensor logprobs, Tensor ref_logprobs, Tensor mask,"
    " float kl_coef, str estimator) -> Tensor",
    _outputs,
)


@torch.no_grad()
def shaped_rewards(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    *,
    kl_coef: float,
    estimator: str = "k1",
) -> Tensor:
    """Compute the reward of each response token.

    r_t = -kl_coef * kl_t, plus the row's score at its last unmasked token (end-of-text when the
    answer has one). kl_t estimates KL(policy || reference); k1 is logprob - ref_logprob.

    Args:
        scores: [B], one per answer; float32, bfloat16, float16 or float64 (mixed inputs are
            converted to one result dtype).
        logprobs: [B, T] nats, of the sampled tokens under the policy that sampled them.
        ref_logprobs: [B, T], the same under the reference.
        mask: bool [B, T]; True marks response tokens. Masked entries are never read and may hold
            NaN. The score of a row without tokens is not used.
        kl_coef: not negative, reward per nat (InstructGPT: 0.02).
        estimator: "k1", "k2" or "k3"; in a reward k1 gives the unbiased gradient.

    Returns:
        [B, T], float32 (float64 if any input is), 0 where masked; no gradient.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, `kl_coef` is negative or not finite, or
            the estimator is unknown. float64 is for the CPU.

    Source: InstructGPT section 3.5, equation 2.
    """
    out: Tensor = _forward(
        *registry.promote(scores, logprobs, ref_logprobs), mask.contiguous(), kl_coef, estimator
    )
    return out
