"""The gradients of a linear head, added up chunk by chunk."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops import _matmul
from rlhf_kernels.ops._linear import Chunks, Head


class Gradients:
    """The gradients of hidden states, weight and bias, added up in float32 chunk by chunk.

    A 16-bit result is allocated when its float32 sum is complete, so that logits and both never
    lie in memory together. A tensor nobody wants is not computed and comes back empty, as does the
    weight's where the caller gives a tensor to add it to.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        wants: list[bool],
        chunks: Chunks,
        head: Head,
        weight_grad: Tensor | None = None,
    ) -> None:
        self._inputs = (hidden, weight, bias)
        self._chunks = chunks
        self._head = head
        self._wants_hidden = wants[0]
        self.hidden = new_hidden(hidden, chunks) if wants[0] and not chunks.whole else None
        one = chunks.single and is_one_product(weight, head)
        self._given = weight_grad
        self.weight = weight_grad
        if wants[1]:
            self.weight = new_sum(weight, weight.dtype if one else None)
        self.bias = new_sum(bias, None) if bias is not None and wants[2] else None
        self.wanted = any(wants) or weight_grad is not None

    def add(self, dlogits: Tensor, rows: Tensor, part: slice) -> None:
        """Add one chunk: dlogits [n, V] and the hidden states [n, D] that they come from."""
        first = part.start == 0
        if self.weight is not None:
            overwrite = first and self._given is None
            _matmul.add_weight_gradient(dlogits, rows, self.weight, overwrite)
        if self.bias is not None:
            summed = dlogits.sum(0, dtype=self.bias.dtype)
            self.bias.copy_(summed) if first else self.bias.add_(summed)
        if self._wants_hidden:
            self._add_hidden(_matmul.multiply_hidden(dlogits, self._head.weight), part)

    def _add_hidden(self, product: Tensor, part: slice) -> None:
        if self.hidden is None:
            self.hidden = product
        else:
            self._chunks.write(self.hidden, part, product)

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three gradients in their inputs' dtypes."""
        hidden, weight, bias = self._inputs
        results = []
        own = self.weight if self._given is None else None
        for summed, like in ((self.hidden, hidden), (own, weight), (self.bias, bias)):
            result = (
                hidden.new_empty(0) if summed is None or like is None else summed.to(like.dtype)
            )
            results.append(result)
        return results[0], results[1], results[2]


def new_hidden(hidden: Tensor, chunks: Chunks) -> Tensor:
    """Allocate the gradient that chunks are written to; rows that take no part have 0."""
    make = torch.empty_like if chunks.index is None else torch.zeros_like
    return make(hidden, memory_format=torch.contiguous_format)


def is_one_product(weight: Tensor, head: Head) -> bool:
    """Say whether the weight's gradient can be one product in its own dtype, without a sum."""
    return weight.dtype == head.weight.dtype


def spared_bytes(
    weight: Tensor, head: Head, wants: list[bool], weight_grad: Tensor | None = None
) -> int:
    """Return the bytes a vocabulary entry of the float32 sum that a single chunk does without."""
    wide = registry.result_dtype(weight)
    if not wants[1] or weight_grad is not None or not is_one_product(weight, head):
        return 0
    return 0 if weight.dtype == wide else weight.shape[1] * wide.itemsize


def new_sum(like: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Allocate a sum of the shape of `like`, by default in its result dtype."""
    dtype = dtype or registry.result_dtype(like)
    return torch.empty(like.shape, dtype=dtype, device=like.device)


def gradient_outputs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, wants: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate gradients as `Gradients.finish` returns them, for the fake kernels."""
    inputs = (hidden, weight, bias)
    results = [
        torch.empty(like.shape, dtype=like.dtype, device=like.device)
        if want and like is not None
        else hidden.new_empty(0)
        for want, like in zip(wants, inputs, strict=True)
    ]
    return results[0], results[1], results[2]
