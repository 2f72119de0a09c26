"""decoder_layers: all layers of a GPT-2, in one kernel where no gradient is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops._layers_gradient import MOST, WEIGHTS, Layers, apart
from rlhf_kernels.ops._sublayer import has_kernel, laid_out, laid_out_in_pairs, straight

_MATRICES = (2, 4, 8, 10)  # places of a layer

registry.declare("decoder_layers", "native-cpu")

_forward = registry.define_op(
    "decoder_layers(Tensor hidden, Tensor[] weights, Tensor(a!)[] keys, Tensor(b!)[] values, "
    "Tensor? rows, Tensor? starts, int used, int heads, float scale, float eps, "
    "bool bf16) -> Tensor",
    lambda hidden, *_: torch.empty_like(hidden),
)
registry.forbid_gradient("decoder_layers")


def lay_out_layers(
    layers: Sequence[Sequence[Tensor]], *, bf16: bool = False
) -> list[tuple[Tensor, ...]]:
    """Return layers as `decoder_layers` reads them fastest: copies of matrices, in panels.

    Args:
        layers: as `decoder_layers` takes them. What is done to them afterwards changes no copy.
        bf16: copies are rounded, for a call that says so too.
    """
    lay = laid_out_in_pairs if bf16 else laid_out
    with torch.no_grad():
        return [tuple(lay(x) if x.ndim == 2 else x for x in layer) for layer in layers]


def decoder_layers(
    hidden: Tensor,
    layers: Sequence[Sequence[Tensor]],
    *,
    heads: int,
    scale: float | None = None,
    eps: float = 1e-5,
    cache: Sequence[tuple[Tensor, Tensor]] = (),
    used: int = 0,
    starts: Tensor | None = None,
    rows: Tensor | None = None,
    bf16: bool = False,
) -> Tensor:
    """Take hidden states through pre-norm layers, `self_attention` then `feed_forward` of each.

    Without a gradient a thread takes some sequences through all layers, so threads meet once a
    call: for small models, whose layers take microseconds, and for steps from token to token. With
    one the halves' kernels follow each other; there is none with a cache, starts, or layers that
    are laid out.

    Dims: B sequences, L positions, D hidden, F inner, both multiples of 16, R room of the cache.

    Args:
        hidden: [B, L, D] float32 or float64, on a CPU.
        layers: of each layer its norm's weight and bias [D], W [D, 3 D] and bias, O [D, D] and
            bias, the second norm's weight and bias, U [D, F] and bias, D [F, D] and bias, in the
            dtype of `hidden`. Matrices are as in `self_attention` and `feed_forward`, and are then
            laid out in every call, or as `lay_out_layers` returns them.
        heads: how many; divides D.
        scale: of the scores; None means 1 / sqrt(D / heads).
        eps: added to the variances.
        cache: of each layer keys and values [B, heads, R, D / heads], into which those of the L
            positions are written, from place `used` on; the positions before are seen. Empty means
            none.
        used: positions that the cache holds; not 0 only where L is 1.
        starts: int64 [B], the first position of each sequence; those before it are seen by no
            other, and what comes of themselves means nothing. None means 0.
        rows: int64 [N], ascending: which rows of the flattened [B L, D] go through the last
            feed-forward; of the others the result is what the last attention gave. None means all.
        bf16: products with weights round both factors to bfloat16 and add in float32; all else
            stays float32. Fast where the processor multiplies bfloat16 (AMX, AVX-512 BF16).

    Returns:
        [B, L, D] in the dtype of `hidden`. A sequence's result depends on no other.

    Raises:
        ValueError: an argument has another shape or dtype than this, or would need a gradient.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), 2.3.
    """
    weights = [weight for layer in layers for weight in straight(tuple(layer))]
    factor = max(1, hidden.shape[-1] // max(1, heads)) ** -0.5 if scale is None else scale
    keys, values = [keys for keys, _ in cache], [values for _, values in cache]
    every = (hidden, *weights, *keys, *values)
    if torch.is_grad_enabled() and any(x.requires_grad for x in every):
        if cache or starts is not None or any(x.ndim == 3 for x in weights):
            raise ValueError(
                "decoder_layers: with a cache, starts, or layers that are laid out it has no "
                "gradient; call it under torch.no_grad()"
            )
        return _differentiable(hidden, weights, rows, heads, factor, eps, bf16)
    places = [None if x is None else x.contiguous() for x in (rows, starts)]
    arguments: tuple[Any, ...] = (*places, used, heads, factor, eps, bf16)
    out: Tensor = _forward(hidden.contiguous(), weights, keys, values, *arguments)
    return out


def _differentiable(
    hidden: Tensor, weights: list[Tensor], rows: Tensor | None, *numbers: Any
) -> Tensor:
    """Compute the same for a gradient; what is refused is refused by name."""
    sound = weights and len(weights) % WEIGHTS == 0 and hidden.ndim == 3
    matrices = [x for at in _MATRICES for x in weights[at::WEIGHTS]]
    chosen = None if rows is None else rows.contiguous()
    dtypes = {x.dtype for x in (hidden, *weights)}
    if (
        not sound
        or any(x.ndim != 2 for x in matrices)
        or len(dtypes) > 1
        or (numbers[-1] and hidden.dtype != torch.float32)
        or not has_kernel(hidden, weights[8])
    ):
        with torch.no_grad():  # which says what is wrong
            _forward(hidden, weights, [], [], chosen, None, 0, *numbers)
    if sum(x.numel() for x in weights) > MOST:
        return apart(hidden, weights, chosen, *numbers)
    out: Tensor = Layers.apply(hidden.contiguous(), chosen, numbers, *weights)  # type: ignore[no-untyped-call]
    return out
