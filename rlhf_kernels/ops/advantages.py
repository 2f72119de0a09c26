"""advantages: from scores and log-probs to advantages and returns in one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry

registry.declare("advantages", "native")


def _outputs(scores: Tensor, logprobs: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape = logprobs.shape
    return (
        registry.new_result(logprobs, *shape),
        registry.new_result(logprobs, *shape),
        registry.new_result(logprobs, *shape),
    )


def _workspace_items(scores: Tensor, logprobs: Tensor, *rest: Any) -> int:
    *_, whiten = rest
    return logprobs.numel() if whiten else 0


_forward = registry.define_op(
    "advantages(Tensor scores, Tensor logprobs, Tensor ref_logprobs, Tensor values, Tensor mask,"
    " float kl_coef, str estimator, float gamma, float lam, bool whiten)"
    " -> (Tensor, Tensor, Tensor)",
    _outputs,
    _workspace_items,
)


@torch.no_grad()
def advantages(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    kl_coef: float,
    gamma: float,
    lam: float,
    estimator: str = "k1",
    whiten: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what `shaped_rewards` and then `gae` compute, in one launch on a GPU.

    r_t = -kl_coef * kl_t, plus the row's score at its last unmasked token;
    delta_t = r_t + gamma V_next - V_t;  A_t = delta_t + gamma lam A_next;  returns = A + V.

    Args:
        scores: [B], one per answer; float32, bfloat16, float16 or float64 (mixed inputs are
            converted to one result dtype).
        logprobs: [B, T] nats, of the sampled tokens under the policy that sampled them.
        ref_logprobs: [B, T], the same under the reference.
        values: [B, T], predicted before each token.
        mask: bool [B, T]; True marks response tokens. Masked entries are never read and may hold
            NaN. The score of a row without tokens is not used.
        kl_coef: not negative, reward per nat (InstructGPT: 0.02).
        gamma: discount, 0 to 1 (InstructGPT: 1, no discount).
        lam: the lambda of GAE, 0 to 1 (0.95 in OpenAI's code line; not printed in InstructGPT).
        estimator: "k1", "k2" or "k3"; in a reward k1 gives the unbiased gradient.
        whiten: whiten the advantages over all unmasked entries of the batch, mean included. The
            returns are formed before.

    Returns:
        `(advantages, returns, rewards)`, [B, T], float32 (float64 if any input is), 0 where
        masked; no gradient. On the CPU with the bits of the two calls.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, `kl_coef` is negative or not finite,
            `gamma` or `lam` is outside 0 to 1, or the estimator is unknown. float64 is for the
            CPU.

    Source: InstructGPT section 3.5, equation 2; Schulman et al. 2015 (arXiv:1506.02438),
    equation 16.
    """
    out: tuple[Tensor, Tensor, Tensor] = _forward(
        *registry.promote(scores, logprobs, ref_logprobs, values),
        mask.contiguous(),
        kl_coef,
        estimator,
        gamma,
        lam,
        whiten,
    )
    return out
