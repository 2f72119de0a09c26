"""decoder_layers for a gradient: the halves of all layers in two calls, one for each pass.

The kernels are those of `self_attention` and `feed_forward`. One after the other through autograd
each would take its own way through PyTorch, which with small layers is as long as its work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops import feed_forward as second
from rlhf_kernels.ops import self_attention as first

WEIGHTS = 12  # of a layer, six of each half
_KEPT = 5  # of a layer: states, attended, hidden states in between, inner, hidden states after it

#: Numbers in the weights up to which both passes are one call each. Above, the calls matter little,
#: and autograd frees what is kept of a layer as soon as its gradient is there.
MOST = 1 << 20


def _chain(
    attend: Callable[..., Any],
    feed: Callable[..., Any],
    hidden: Tensor,
    weights: Sequence[Tensor],
    rows: Tensor | None,
    *numbers: Any,
) -> list[Tensor]:
    """Return what is kept of every layer; the last is the result."""
    kept: list[Tensor] = []
    x = hidden
    for place in range(0, len(weights), WEIGHTS):
        own = weights[place : place + WEIGHTS]
        chosen = rows if place + WEIGHTS == len(weights) else None
        middle, states, attended = attend(x, *own[:6], *numbers)
        out, inner = feed(middle.view(-1, x.shape[-1]), chosen, *own[6:], *numbers[-2:])
        x = out.view(hidden.shape)
        kept += [states, attended, middle, inner, x]
    return kept


def _run(*arguments: Any) -> list[Tensor]:
    return _chain(registry.body("self_attention"), registry.body("feed_forward"), *arguments)


def _outputs(*arguments: Any) -> list[Tensor]:
    return _chain(first._outputs, second._outputs, *arguments)


def _chain_backward(
    attend: Callable[..., Any],
    feed: Callable[..., Any],
    grad_out: Tensor,
    hidden: Tensor,
    weights: Sequence[Tensor],
    kept: Sequence[Tensor],
    rows: Tensor | None,
    *numbers: Any,
) -> list[Tensor]:
    """Return the gradients of the hidden states and of every weight."""
    grads: list[Tensor] = []
    grad, width = grad_out, hidden.shape[-1]
    for layer in reversed(range(len(weights) // WEIGHTS)):
        own = weights[layer * WEIGHTS : (layer + 1) * WEIGHTS]
        states, attended, middle, inner, _ = kept[layer * _KEPT : (layer + 1) * _KEPT]
        x = kept[layer * _KEPT - 1] if layer else hidden
        chosen = rows if (layer + 1) * WEIGHTS == len(weights) else None
        flat = grad.view(-1, width)
        grad, *fed = feed(flat, inner, middle.view(-1, width), chosen, *own[6:], *numbers[-2:])
        grad, *seen = attend(grad.view(hidden.shape), states, attended, x, *own[:6], *numbers)
        grads = [*seen, *fed, *grads]
    return [grad, *grads]


def _run_backward(*arguments: Any) -> list[Tensor]:
    attend, feed = (registry.body(f"{n}_backward") for n in ("self_attention", "feed_forward"))
    return _chain_backward(attend, feed, *arguments)


def _backward_outputs(*arguments: Any) -> list[Tensor]:
    return _chain_backward(first._backward_outputs, second._backward_outputs, *arguments)


_NUMBERS = "Tensor? rows, int heads, float scale, float eps, bool bf16) -> Tensor[]"
_forward = registry.define_composite(
    f"decoder_layers_kept(Tensor hidden, Tensor[] weights, {_NUMBERS}", _run, _outputs
)
_backward = registry.define_composite(
    "decoder_layers_backward(Tensor grad_out, Tensor hidden, Tensor[] weights, Tensor[] kept, "
    + _NUMBERS,
    _run_backward,
    _backward_outputs,
)
for _name in ("decoder_layers_kept", "decoder_layers_backward"):
    registry.forbid_gradient(_name)


class Layers(torch.autograd.Function):
    """All layers as one node of the graph: `Layers.apply(hidden, rows, numbers, *weights)`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, rows: Tensor | None, numbers: tuple[Any, ...], *weights: Tensor
    ) -> Tensor:
        """Compute the result, and keep what the gradient needs."""
        kept = _forward(hidden, list(weights), rows, *numbers)
        ctx.numbers, ctx.count = numbers, len(weights)
        ctx.save_for_backward(hidden, rows, *weights, *kept[:-1])
        out: Tensor = kept[-1]
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients."""
        hidden, rows, *others = ctx.saved_tensors
        weights, kept = others[: ctx.count], others[ctx.count :]
        # the result itself is not needed; its place is
        arguments = (hidden, weights, [*kept, hidden], rows, *ctx.numbers)
        grad, *grads = _backward(grad_out.contiguous(), *arguments)
        return (grad, None, None, *grads)


def apart(hidden: Tensor, weights: Sequence[Tensor], rows: Tensor | None, *numbers: Any) -> Tensor:
    """Compute the halves one after the other, each with its own gradient."""
    heads, scale, eps, bf16 = numbers
    shared = {"eps": eps, "bf16": bf16}
    x = hidden
    for place in range(0, len(weights), WEIGHTS):
        own = weights[place : place + WEIGHTS]
        chosen = rows if place + WEIGHTS == len(weights) else None
        x = first.self_attention(x, *own[:6], heads=heads, scale=scale, **shared)
        x = second.feed_forward(x, *own[6:], rows=chosen, **shared)
    return x
