"""token_kl: per-token estimates of KL(policy || reference)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry

registry.declare("token_kl", "native")


def _outputs(logprobs: Tensor, ref_logprobs: Tensor, estimator: str) -> Tensor:
    return registry.new_result(logprobs, *logprobs.shape)


def _backward_outputs(
    grad_out: Tensor, logprobs: Tensor, ref_logprobs: Tensor, estimator: str
) -> Tensor:
    return torch.empty_like(logprobs, memory_format=torch.contiguous_format)


_forward = registry.define_op(
    "token_kl(Tensor logprobs, Tensor ref_logprobs, str estimator) -> Tensor", _outputs
)
_backward = registry.define_op(
    "token_kl_backward(Tensor grad_out, Tensor logprobs, Tensor ref_logprobs, str estimator)"
    " -> Tensor",
    _backward_outputs,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logprobs, ref_logprobs, ctx.estimator = inputs
    ctx.save_for_backward(logprobs, ref_logprobs)


def _gradient(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    logprobs, ref_logprobs = ctx.saved_tensors
    grad = _backward(grad_out.contiguous(), logprobs, ref_logprobs, ctx.estimator)
    return grad, (-grad if ctx.needs_input_grad[1] else None)


registry.define_gradient("token_kl", _setup, _gradient)
registry.forbid_gradient("token_kl_backward")


def token_kl(logprobs: Tensor, ref_logprobs: Tensor, *, estimator: str = "k1") -> Tensor:
    """Estimate KL(policy || reference) at each token from the sampled token alone.

    With d = logprobs - ref_logprobs:  k1 = d,  k2 = d^2 / 2,  k3 = expm1(-d) + d.
    The exponent is limited to 80 nats, so that one token cannot make a batch infinite.

    Args:
        logprobs: [...] nats, of the token under the policy; float32, bfloat16, float16, float64.
        ref_logprobs: the same under the reference; same shape and dtype.
        estimator: "k1", "k2" or "k3". In a reward use k1, whose gradient there is unbiased.

    Returns:
        [...] nats, float32 (float64 for float64 inputs). Differentiable in both inputs.

    Raises:
        ValueError: shapes, dtypes or devices differ, or the estimator is unknown.

    Source: http://joschu.net/blog/kl-approx.html; InstructGPT section 3.5 (k1, in the reward).
    """
    result: Tensor = _forward(logprobs.contiguous(), ref_logprobs.contiguous(), estimator)
    return result
