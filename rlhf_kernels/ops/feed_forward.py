"""feed_forward: the second half of a GPT-2 layer, from its norm to its sum, one kernel a pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops._sublayer import (
    check_matrices,
    has_kernel,
    keep_for_gradient,
    panels,
    refuse_bf16,
    straight,
)

registry.declare("feed_forward", "native-cpu")


def _outputs(hidden: Tensor, rows: Tensor | None, *weights: Any) -> tuple[Tensor, Tensor]:
    """Allocate the result and the activation's input, in panels."""
    count = hidden if rows is None else rows
    out = torch.empty_like(hidden) if rows is None else hidden.clone()
    return out, panels(hidden, count.shape[0], weights[2].shape[1])


def _backward_outputs(
    grad_out: Tensor, inner: Tensor, hidden: Tensor, rows: Tensor | None, *weights: Any
) -> tuple[Tensor, ...]:
    grad_hidden = torch.empty_like(hidden) if rows is None else grad_out.clone()
    return (grad_hidden, *(torch.empty_like(x) for x in weights[:6]))


_forward = registry.define_op(
    "feed_forward(Tensor hidden, Tensor? rows, Tensor norm_weight, Tensor norm_bias, "
    "Tensor up_weight, Tensor up_bias, Tensor down_weight, Tensor down_bias, float eps, "
    "bool bf16) "
    "-> (Tensor, Tensor)",
    _outputs,
)
_backward = registry.define_op(
    "feed_forward_backward(Tensor grad_out, Tensor inner, Tensor hidden, Tensor? rows, "
    "Tensor norm_weight, Tensor norm_bias, Tensor up_weight, Tensor up_bias, Tensor down_weight, "
    "Tensor down_bias, float eps, bool bf16) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward_outputs,
)


def _gradient(ctx: Any, grad_out: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    hidden, rows, *others = ctx.saved_tensors
    *weights, inner = others
    grad_hidden, *grads = _backward(
        grad_out.contiguous(), inner, hidden, rows, *weights, *ctx.numbers
    )
    return (grad_hidden, None, *grads)


registry.define_gradient("feed_forward", keep_for_gradient, _gradient)
registry.forbid_gradient("feed_forward_backward")


def feed_forward(
    hidden: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    *,
    eps: float = 1e-5,
    rows: Tensor | None = None,
    bf16: bool = False,
) -> Tensor:
    """Compute x + gelu(norm(x) U + u) D + d, the second half of a pre-norm layer, of each row.

    Dims: D hidden, F inner; both multiples of 16 where the kernel computes. gelu is its tanh form.

    Args:
        hidden: [..., D] float32 or float64; 16-bit floats, and what is on a GPU, go to torch's own
            operators.
        norm_weight: [D], of the layer norm, in the dtype of `hidden` as all others.
        norm_bias: [D].
        up_weight: [D, F], contiguous or the transpose of a contiguous matrix (`linear.weight.T`).
        up_bias: [F].
        down_weight: [F, D], likewise.
        down_bias: [D].
        eps: added to the variance.
        rows: int64 [N], each once: which rows of the flattened [M, D] go through; the others are
            left as they are. None means all.
        bf16: products, those of the gradient too, round both factors to bfloat16 and add in
            float32; all else stays float32. Fast where the processor multiplies bfloat16 (AMX,
            AVX-512 BF16).

    Returns:
        [..., D] in the dtype of `hidden`. Kept for the gradient are the inputs and the activation's
        input alone. A row's result depends on no other row.

    Raises:
        ValueError: an argument has another shape or dtype than this, or `rows` names one that is
            not there or one twice. Where torch computes the error is torch's.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), 2.3.
    """
    weights = (norm_weight, norm_bias, up_weight, up_bias, down_weight, down_bias)
    check_matrices("feed_forward", up_weight=up_weight, down_weight=down_weight)
    if rows is not None and rows.ndim != 1:
        raise ValueError(f"feed_forward: argument 'rows' must be [N], got {list(rows.shape)}")
    if not has_kernel(hidden, up_weight):
        refuse_bf16("feed_forward", bf16)
        return _by_torch(hidden, rows, *weights, eps)
    flat = hidden.reshape(-1, hidden.shape[-1]).contiguous()
    chosen = None if rows is None else rows.contiguous()
    out: Tensor = _forward(flat, chosen, *straight(weights), eps, bf16)[0]
    return out.view(hidden.shape)


def _by_torch(
    hidden: Tensor,
    rows: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    eps: float,
) -> Tensor:
    flat = hidden.reshape(-1, hidden.shape[-1])
    x = flat if rows is None else flat.index_select(0, rows)
    normalized = layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
    inner = gelu(torch.addmm(up_bias, normalized, up_weight), approximate="tanh")
    added = torch.addmm(down_bias, inner, down_weight)
    out = flat + added if rows is None else flat.index_add(0, rows, added)
    return out.view(hidden.shape)
