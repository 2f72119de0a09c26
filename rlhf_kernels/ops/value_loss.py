"""value_loss: half the clipped squared error of the value function."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rlhf_kernels import _registry as registry

registry.declare("value_loss", "native")

STATS = (
    "value_loss",
    "clipfrac",
    "error",
    "values_mean",
    "values_var",
    "returns_mean",
    "returns_var",
)


def _outputs(values: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return registry.loss_outputs(values, len(STATS))


_forward = registry.define_op(
    "value_loss(Tensor values, Tensor old_values, Tensor returns, Tensor mask,"
    " float cliprange_value, Tensor? denominator) -> (Tensor, Tensor, Tensor, Tensor)",
    _outputs,
    lambda values, *_: values.numel(),
)
registry.define_gradient("value_loss", registry.save_loss_gradient, registry.scale_gradient)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    cliprange_value: float,
    denominator: float | Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the clipped value loss over the unmasked tokens; the 0.5 is in, vf_coef is not.

    With clipped = clip(values, old_values - c, old_values + c):
    loss = 0.5 sum max((values - returns)^2, (clipped - returns)^2) / denominator.

    Args:
        values: [N] or [B, T], of the value model now; float32, bfloat16, float16 or float64 (mixed
            inputs are converted to one result dtype).
        old_values: the same when the tokens were sampled; same shape.
        returns: what the values should be; same shape.
        mask: bool, same shape; True counts. Masked entries are never read and may hold NaN.
        cliprange_value: c, not negative, in units of the reward.
        denominator: what the sums are divided by; default: the number of True entries. A number,
            or a 0-d tensor on the device of `mask`; one from elsewhere is copied there, which waits
            and cannot be captured in a CUDA graph.

    Returns:
        `(loss, stats)`: a 0-d tensor, float32 (float64 if any input is), differentiable in
        `values`; and 0-d tensors without gradient, each divided by the denominator: `value_loss`;
        `clipfrac`, the share of tokens whose gradient is clipped away; `error`, the mean squared
        error without clipping; `values_mean`, `values_var`, `returns_mean`, `returns_var`, biased
        variances around this call's means. Without unmasked tokens everything is 0.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, `cliprange_value` is negative or not
            finite, or `denominator` is not positive though a token counts. On CUDA nothing waits
            for the denominator: a wrong one makes loss, statistics and gradient NaN. float64 is for
            the CPU.

    Source: Stiennon et al. 2020 (arXiv:2009.01325); InstructGPT C.4.
    """
    loss, stats, _, _ = _forward(
        *registry.promote(values, old_values, returns),
        mask.contiguous(),
        cliprange_value,
        registry.optional_denominator(denominator, mask),
    )
    return loss, dict(zip(STATS, stats.unbind(), strict=True))
