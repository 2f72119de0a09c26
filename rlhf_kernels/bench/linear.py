"""What the cases of the ops over a linear head share: inputs, truth in pieces, bare products.

The bare products are the least that any form must compute: the logits, and the gradients of hidden
states and weight from a tensor of their size, on torch's own matrix library, with [N, V] held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import Provider, Results
from rlhf_kernels.bench.providers import TRUE_ROWS, Function

HIDDEN = 256
SHAPE = (4096, 50257)
QUICK = (64, 50257)
#: Rows of logits that the chunked baseline holds at a time.
CHUNK_ROWS = 512
#: How far a likely target's weight is added to its hidden state.
PEAK = 1.0
#: Logits that the bare products show, as a proof that they are products.
SHOWN = 8

#: From (hidden, weight, *row tensors) to the results; "loss" is differentiated.
Forward = Callable[..., Results]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Leaves [N, D] and [V, D], and targets [N] of which three in four are likely."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor

    def to(self, dtype: torch.dtype) -> Inputs:
        """Return the same numbers as leaves of another dtype."""
        hidden, weight = (x.detach().to(dtype) for x in (self.hidden, self.weight))
        return Inputs(
            hidden=hidden.requires_grad_(), weight=weight.requires_grad_(), targets=self.targets
        )


def make_inputs(shape: tuple[int, int], dtype: torch.dtype, device: str) -> Inputs:
    """Draw hidden states whose logits have a standard deviation of 3 and mostly a peak."""
    rows, vocabulary = shape
    hidden = inputs.make_normal(rows, HIDDEN, dtype=torch.float32)
    weight = inputs.make_normal(vocabulary, HIDDEN, dtype=torch.float32, seed=7) * 3 / HIDDEN**0.5
    draw = inputs.make_generator(8)
    targets = torch.randint(vocabulary, (rows,), generator=draw)
    likely = torch.rand(rows, 1, generator=draw) < 0.75
    hidden = torch.where(likely, hidden + PEAK * weight[targets], hidden)
    return Inputs(
        hidden=hidden.to(dtype).to(device).requires_grad_(),
        weight=weight.to(dtype).to(device).requires_grad_(),
        targets=targets.to(device),
    )


def differentiate(results: Results, given: Inputs) -> Results:
    """Return the results with both gradients of the loss."""
    grads = torch.autograd.grad(results["loss"], (given.hidden, given.weight))
    detached = {name: value.detach() for name, value in results.items()}
    return detached | {"grad_hidden": grads[0], "grad_weight": grads[1]}


def make_truth(given: Inputs, part: Callable[[Tensor, Tensor, slice], Results]) -> Results:
    """Add up the float64 results of pieces of rows; `part` gets hidden, weight and where they lie.

    The gradient of the hidden states is that of the leading piece.
    """
    weight = given.weight.detach().double().requires_grad_()
    totals: Results = {}
    total = torch.zeros_like(weight)
    for start in range(0, len(given.hidden), TRUE_ROWS):
        rows = slice(start, start + TRUE_ROWS)
        hidden = given.hidden.detach()[rows].double().requires_grad_()
        found = part(hidden, weight, rows)
        grad_hidden, grad_weight = torch.autograd.grad(found["loss"], (hidden, weight))
        total += grad_weight
        for name, value in found.items():
            totals[name] = totals.get(name, 0.0) + value.detach()
        if start == 0:
            totals["grad_hidden"] = grad_hidden
            totals["shown"] = (hidden[0] @ weight[:SHOWN].T).detach()
    return totals | {"grad_weight": total}


def make_products(given: Inputs, recomputed: bool = False) -> Provider:
    """Return the bare products: three, or four where the backward pass forms the logits again."""

    def run() -> Results:
        with torch.no_grad():
            hidden, weight = given.hidden, given.weight
            logits = hidden @ weight.T
            if recomputed:
                logits = torch.mm(hidden, weight.T, out=logits)
            shown = logits[0, :SHOWN].clone()
            return {"shown": shown, "spare": logits @ weight, "rest": logits.T @ hidden}

    return Provider(name="four matmuls" if recomputed else "three matmuls", run=run)


def chunked(function: Function) -> Function:
    """Return `function` over chunks of rows, each computed again in the backward pass.

    `function(hidden, weight, *rows)` returns a sum over rows, or a tuple of them.
    """

    def call(hidden: Tensor, weight: Tensor, *rows: Tensor) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            pieces = [x[part] for x in rows]
            # The same function runs both times: there is nothing to compare.
            total = total + checkpoint(
                function,
                hidden[part],
                weight,
                *pieces,
                use_reentrant=False,
                determinism_check="none",
            )
        return total

    return call


def returned_bytes(given: Inputs) -> int:
    """Return the size of both gradients."""
    return given.hidden.nbytes + given.weight.nbytes
