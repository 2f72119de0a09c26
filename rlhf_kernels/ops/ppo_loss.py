"""ppo_loss: the clipped policy loss from log-probs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rlhf_kernels import _registry as registry

registry.declare("ppo_loss", "native")

STATS = (
    "policy_loss",
    "approxkl",
    "approxkl_k3",
    "clipfrac",
    "ratio_mean",
    "ratio_var",
    "ratio_max",
    "ratio_error",
)


def _outputs(logprobs: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return registry.loss_outputs(logprobs, len(STATS))


_forward = registry.define_op(
    "ppo_loss(Tensor logprobs, Tensor old_logprobs, Tensor advantages, Tensor mask,"
    " float cliprange, Tensor? denominator) -> (Tensor, Tensor, Tensor, Tensor)",
    _outputs,
    lambda logprobs, *_: logprobs.numel(),
)
registry.define_gradient("ppo_loss", registry.save_loss_gradient, registry.scale_gradient)


def ppo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    cliprange: float,
    denominator: float | Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the clipped policy loss over the unmasked tokens.

    With ratio = exp(logprobs - old_logprobs) and A the advantages:
    loss = sum max(-A ratio, -A clip(ratio, 1 - cliprange, 1 + cliprange)) / denominator.
    The exponent is limited to 80 nats. The ratio is exactly 1 where both log-probs are equal.

    Args:
        logprobs: [N] or [B, T] nats, of the taken tokens under the policy; float32, bfloat16,
            float16 or float64 (mixed inputs are converted to one result dtype).
        old_logprobs: the same when the tokens were sampled; same shape.
        advantages: same shape.
        mask: bool, same shape; True counts. Masked entries are never read and may hold NaN.
        cliprange: not negative (InstructGPT: 0.2).
        denominator: what the sums are divided by; default: the number of True entries. With the
            minibatch's count the losses of its micro-batches add up. A number, or a 0-d tensor on
            the device of `mask`; one from elsewhere is copied there, which waits and cannot be
            captured in a CUDA graph.

    Returns:
        `(loss, stats)`: a 0-d tensor, float32 (float64 if any input is), differentiable in
        `logprobs`; and 0-d tensors without gradient. `policy_loss`; `approxkl` = mean logratio^2
        / 2; `approxkl_k3` = mean expm1(logratio) - logratio, an estimate of KL(old || policy);
        `clipfrac`, the share of tokens whose gradient is clipped away; `ratio_mean`; `ratio_var`
        around this call's mean; all of these divided by the denominator. `ratio_max` and
        `ratio_error`, the largest |ratio - 1|, are maxima. Without unmasked tokens everything is 0.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, `cliprange` is negative or not finite, or
            `denominator` is not positive though a token counts. The message names the argument. On
            CUDA nothing waits for the denominator: a wrong one makes loss, statistics and gradient
            NaN. float64 is for the CPU.

    Source: Schulman et al. 2017 (arXiv:1707.06347), equation 7; InstructGPT C.4.
    """
    loss, stats, _, _ = _forward(
        *registry.promote(logprobs, old_logprobs, advantages),
        mask.contiguous(),
        cliprange,
        registry.optional_denominator(denominator, mask),
    )
    return loss, dict(zip(STATS, stats.unbind(), strict=True))
