"""causal_attention: each position attends to itself and those before it, one kernel a pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rlhf_kernels import _registry as registry

registry.declare("causal_attention", "native-cpu")


def _by_position(heads: Tensor, features: Tensor) -> Tensor:
    """Allocate [B, L, H, E] for [B, H, L, *] and [..., E]; the kernel refuses other shapes."""
    batch, head, length = (heads.shape[i : i + 1] for i in range(3))
    return heads.new_empty(batch + length + head + features.shape[-1:])


def _outputs(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return _by_position(query, value)


def _backward_outputs(grad_out: Tensor, *states: Any) -> tuple[Tensor, ...]:
    """Allocate gradients [B, H, L, *] that lie in memory as [B, L, H, *], as models make states."""
    return tuple(_by_position(x, x).transpose(1, 2) for x in states[:3])


_forward = registry.define_op(
    "causal_attention(Tensor query, Tensor key, Tensor value, float scale) -> Tensor", _outputs
)
_backward = registry.define_op(
    "causal_attention_backward(Tensor grad_out, Tensor query, Tensor key, Tensor value, "
    "float scale) -> (Tensor, Tensor, Tensor)",
    _backward_outputs,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *states, ctx.scale = inputs
    ctx.save_for_backward(*states)


def _gradient(ctx: Any, grad_out: Tensor) -> tuple[Tensor, ...]:
    grads: tuple[Tensor, ...] = _backward(grad_out.contiguous(), *ctx.saved_tensors, ctx.scale)
    return grads


registry.define_gradient("causal_attention", _setup, _gradient)
registry.forbid_gradient("causal_attention_backward")


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None
) -> Tensor:
    """Compute softmax(scale q k^T) v over the positions up to each, of every head.

    Dims: B sequences, L positions, H query heads, G heads of keys and values (H a multiple of G,
    H / G query heads in a row share one), D and E features.

    Args:
        query: [B, H, L, D] float32, bfloat16, float16 or float64.
        key: [B, G, L, D] in the same dtype.
        value: [B, G, L, E] in the same dtype.
        scale: of the scores; None means 1 / sqrt(D).

    Returns:
        [B, L, H, E] in the dtype of `query`, contiguous; computed in float32 (float64 for float64).
        Nothing of size L^2 is kept for the gradient, which computes the shares again. Whatever
        later positions hold, NaN and infinities included, leaves a position's result and the
        gradient of its query as they are. On a GPU this is torch's `scaled_dot_product_attention`.

    Raises:
        ValueError: an argument has another shape or dtype than this.

    Source: Vaswani et al., arXiv:1706.03762, 3.2.1.
    """
    factor = max(1, query.shape[-1:].numel()) ** -0.5 if scale is None else scale
    if query.device.type != "cpu":
        shared = query.shape[1] != key.shape[1]
        attended = scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=factor, enable_gqa=shared
        )
        return attended.transpose(1, 2).contiguous()
    result: Tensor = _forward(*(_dense(x) for x in (query, key, value)), factor)
    return result


def _dense(states: Tensor) -> Tensor:
    """Lay features side by side; heads and positions may lie as they like."""
    return states if states.stride()[-1:] == (1,) else states.contiguous()
