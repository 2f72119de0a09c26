"""self_attention: the first half of a GPT-2 layer, from its norm to its sum, one kernel a pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops._sublayer import (
    check_matrices,
    has_kernel,
    keep_for_gradient,
    refuse_bf16,
    straight,
)
from rlhf_kernels.ops.causal_attention import causal_attention

registry.declare("self_attention", "native-cpu")


def _outputs(hidden: Tensor, *weights: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate the result, queries, keys and values side by side, and what they gave."""
    batch, length, width = (hidden.shape[i : i + 1] for i in range(3))
    states = hidden.new_empty(batch + length + weights[2].shape[-1:])
    return torch.empty_like(hidden), states, hidden.new_empty(batch + length + width)


def _backward_outputs(
    grad_out: Tensor, states: Tensor, attended: Tensor, hidden: Tensor, *weights: Any
) -> tuple[Tensor, ...]:
    return (torch.empty_like(hidden), *(torch.empty_like(x) for x in weights[:6]))


_forward = registry.define_op(
    "self_attention(Tensor hidden, Tensor norm_weight, Tensor norm_bias, Tensor in_weight, "
    "Tensor in_bias, Tensor out_weight, Tensor out_bias, int heads, float scale, float eps, "
    "bool bf16) -> (Tensor, Tensor, Tensor)",
    _outputs,
)
_backward = registry.define_op(
    "self_attention_backward(Tensor grad_out, Tensor states, Tensor attended, Tensor hidden, "
    "Tensor norm_weight, Tensor norm_bias, Tensor in_weight, Tensor in_bias, Tensor out_weight, "
    "Tensor out_bias, int heads, float scale, float eps, bool bf16) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward_outputs,
)


def _gradient(ctx: Any, grad_out: Tensor, *_: Any) -> tuple[Tensor, ...]:
    *inputs, states, attended = ctx.saved_tensors
    grads: tuple[Tensor, ...] = _backward(
        grad_out.contiguous(), states, attended, *inputs, *ctx.numbers
    )
    return grads


registry.define_gradient("self_attention", keep_for_gradient, _gradient)
registry.forbid_gradient("self_attention_backward")


def self_attention(
    hidden: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    *,
    heads: int,
    scale: float | None = None,
    eps: float = 1e-5,
    bf16: bool = False,
) -> Tensor:
    """Compute x + attention(norm(x) W + w) O + o, the first half of a pre-norm layer.

    Each position attends to itself and those before it. Dims: B sequences, L positions, D hidden, a
    multiple of 16 where the kernel computes.

    Args:
        hidden: [B, L, D] float32 or float64; 16-bit floats, and what is on a GPU, go to torch's
            own operators.
        norm_weight: [D], of the layer norm, in the dtype of `hidden` as all others.
        norm_bias: [D].
        in_weight: [D, 3 D], the columns of queries, keys and values in this order, each head by
            head; contiguous or the transpose of a contiguous matrix (`linear.weight.T`).
        in_bias: [3 D].
        out_weight: [D, D], likewise.
        out_bias: [D].
        heads: how many; divides D.
        scale: of the scores; None means 1 / sqrt(D / heads).
        eps: added to the variance.
        bf16: as in `feed_forward`. Attention itself is in float32.

    Returns:
        [B, L, D] in the dtype of `hidden`. Kept for the gradient are the inputs, the queries, keys
        and values, and what attention gave; nothing of size L^2. A sequence's result depends on no
        other.

    Raises:
        ValueError: an argument has another shape or dtype than this. Where torch computes the error
            is torch's.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), 2.3;
        Vaswani et al., arXiv:1706.03762, 3.2.
    """
    weights = (norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias)
    check_matrices("self_attention", in_weight=in_weight, out_weight=out_weight)
    factor = max(1, hidden.shape[-1] // max(1, heads)) ** -0.5 if scale is None else scale
    if not has_kernel(hidden, in_weight):
        refuse_bf16("self_attention", bf16)
        return _by_torch(hidden, *weights, heads, factor, eps)
    out: Tensor = _forward(hidden.contiguous(), *straight(weights), heads, factor, eps, bf16)[0]
    return out


def _by_torch(
    hidden: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    heads: int,
    scale: float,
    eps: float,
) -> Tensor:
    normalized = layer_norm(hidden, hidden.shape[-1:], norm_weight, norm_bias, eps)
    states = linear(normalized, in_weight.T, in_bias).unflatten(-1, (3, heads, -1))
    query, key, value = states.permute(2, 0, 3, 1, 4)
    attended = causal_attention(query, key, value, scale=scale).flatten(2)
    return hidden + linear(attended, out_weight.T, out_bias)
