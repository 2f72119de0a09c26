"""What the cases of the ops over a linear head share: inputs, truth in pieces, bare products.

The bare products are the least that any form must compute: the logits, and the gradients of hidden
states and weight from a tensor of their size, on torch's own matrix library, with [N, V] held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import ROUNDS, Case, Provider, Results, Settings, make_again
from rlhf_kernels.bench.providers import TRUE_ROWS, Function, make_compiled

#: Device -> hidden size; a GPU's products are those of a large model.
HIDDEN = {"cpu": 256, "cuda": 4096}
SHAPE = (4096, 50257)
QUICK = (64, 50257)
#: Device -> rows of logits that the chunked baselines hold at a time; on a GPU each chunk reads and
#: writes the weight's gradient.
CHUNK_ROWS = {"cpu": 512, "cuda": 2048}
#: Device -> rounds; a call takes tens of milliseconds on a GPU.
DEVICE_ROUNDS = {"cpu": ROUNDS, "cuda": 12}
#: On a GPU the rows of a larger weight repeat, as drawing a billion numbers would take longer than
#: all the rest, and no product's time depends on them.
DISTINCT_WORDS = 4096
#: Entries that a row of the bare products' logits is a multiple of.
ALIGNED = 128
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


def make_cases(
    make: Callable[[tuple[int, int], torch.dtype, str], Case], settings: Settings
) -> Iterator[Case]:
    """Yield a case for each shape and dtype of the settings."""
    shapes = (settings.pick_shape(SHAPE, quick=QUICK),)
    if settings.device != "cpu":
        shapes = settings.pick_logits_shapes()
    for shape in shapes:
        for dtype in settings.pick_logits_dtypes():
            yield make_again(make, shape, dtype, settings.device)


def make_inputs(shape: tuple[int, int], dtype: torch.dtype, device: str) -> Inputs:
    """Draw hidden states whose logits have a standard deviation of 3 and mostly a peak."""
    rows, vocabulary = shape
    size = HIDDEN[device]
    few = vocabulary if device == "cpu" else min(vocabulary, DISTINCT_WORDS)
    hidden = inputs.make_normal(rows, size, dtype=torch.float32)
    weight = inputs.make_normal(few, size, dtype=torch.float32, seed=7) * 3 / size**0.5
    draw = inputs.make_generator(8)
    targets = torch.randint(vocabulary, (rows,), generator=draw)
    likely = torch.rand(rows, 1, generator=draw) < 0.75
    hidden = torch.where(likely, hidden + PEAK * weight[targets % few], hidden)
    return Inputs(
        hidden=hidden.to(dtype).to(device).requires_grad_(),
        weight=inputs.repeat_rows(weight.to(dtype).to(device), vocabulary).requires_grad_(),
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


def make_products(given: Inputs, count: int = 3) -> Provider:
    """Return the bare products: one for the logits, two for gradients, one for logits again."""

    def run() -> Results:
        with torch.no_grad():
            hidden, weight = given.hidden, given.weight
            logits = write_logits(hidden, weight)
            if count == 4:
                logits = torch.mm(hidden, weight.T, out=logits)
            shown = {"shown": logits[0, :SHOWN].clone()}
            if count == 1:
                return shown
            return shown | {"spare": logits @ weight, "rest": logits.T @ hidden}

    names = {1: "one matmul", 3: "three matmuls", 4: "four matmuls"}
    return Provider(name=names[count], run=run)


def write_logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """Return the logits; on a GPU in rows as long as ours, since an odd length slows cuBLAS."""
    if not hidden.is_cuda:
        return hidden @ weight.T
    space = hidden.new_empty(len(hidden), -(-len(weight) // ALIGNED) * ALIGNED)
    return torch.mm(hidden, weight.T, out=space[:, : len(weight)])


def make_plain(
    function: Function, part: Function, call: Callable[..., Results], given: Inputs, device: str
) -> list[Provider]:
    """Return torch's forms: eager, compiled, in chunks, and in compiled chunks on a GPU.

    Args:
        function: (hidden, weight, *rows) -> the result of all rows.
        part: (hidden, weight, *rows) -> the sum over some rows, or a value for each of them.
        call: calls a function with the inputs, or with others in another dtype.
        given: the inputs.
        device: where they lie.
    """

    def over_chunks(some: Function) -> Function:
        return joined(some) if function is part else mean(chunked(some))

    providers = [Provider(name="eager", run=lambda: call(function))]
    if given.hidden.dtype != torch.float32 and device == "cpu":
        wide = given.to(torch.float32)
        providers.append(Provider(name="eager float32", run=lambda: call(function, wide)))
    providers += [
        make_compiled("torch.compile", function, call, device, tuned=False),
        Provider(name="chunked torch", run=lambda: call(over_chunks(part))),
    ]
    if device != "cpu":
        providers.append(
            make_compiled(
                "chunked torch.compile", part, call, device, tuned=False, wrap=over_chunks
            )
        )
    return providers


def mean(function: Function) -> Function:
    """Return a function whose sum over rows is divided by their number."""
    return lambda hidden, *rest: function(hidden, *rest) / len(hidden)


def joined(function: Function) -> Function:
    """Return `function`, which gives a value for each row, over chunks of rows."""

    def call(hidden: Tensor, weight: Tensor, *rows: Tensor) -> Tensor:
        size = CHUNK_ROWS[hidden.device.type]
        pieces = zip(*(x.split(size) for x in (hidden, *rows)), strict=True)
        return torch.cat([function(some, weight, *rest) for some, *rest in pieces])

    return call


def chunked(function: Function) -> Function:
    """Return `function` over chunks of rows, each computed again in the backward pass.

    `function(hidden, weight, *rows)` returns a sum over rows, or a tuple of them.
    """

    def call(hidden: Tensor, weight: Tensor, *rows: Tensor) -> Tensor:
        total, size = hidden.new_zeros((), dtype=torch.float32), CHUNK_ROWS[hidden.device.type]
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            pieces = [x[part] for x in rows]
            # The same function runs both times: there is nothing to compare.
            total = total + checkpoint(
                function,
                hidden[part],
                weight,
                *pieces,
                use_reentrant=False,
                determinism_check="none",
                preserve_rng_state=False,
            )
        return total

    return call


def returned_bytes(given: Inputs) -> int:
    """Return the size of both gradients."""
    return given.hidden.nbytes + given.weight.nbytes
