"""Providers that many ops share: the same function eager and compiled, and the truth in pieces."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlhf_kernels.bench.cases import OURS, Provider, Results

Function = Callable[..., Any]

#: Rows of a piece of the float64 truth: what a GPU holds of it at a time.
TRUE_ROWS = 512
#: On a GPU torch.compile may look for the best variant; graphs of its own would hide launches.
COMPILE_MODES = {"cpu": None, "cuda": "max-autotune-no-cudagraphs"}


def race(
    ours: Function, plain: Function, call: Callable[[Function], Results], device: str = "cpu"
) -> list[Provider]:
    """Return ours, the plain torch function, and the same function compiled.

    Args:
        ours: the op, with the signature of `plain`.
        plain: what people write.
        call: calls a function with the inputs of the case and names its results.
        device: where the inputs lie.
    """
    return [
        Provider(name=OURS, run=lambda: call(ours)),
        Provider(name="eager", run=lambda: call(plain)),
        make_compiled("torch.compile", plain, call, device),
    ]


def make_compiled(
    name: str,
    function: Function,
    call: Callable[[Function], Results],
    device: str = "cpu",
    *,
    note: str = "",
    tuned: bool = True,
    wrap: Callable[[Function], Function] | None = None,
) -> Provider:
    """Return a provider of `function` through torch.compile, with max-autotune on a GPU.

    Args:
        name: of the row.
        function: what is compiled.
        call: calls it with the inputs of the case and names its results.
        device: where the inputs lie.
        note: for the row.
        tuned: look for the best variant on a GPU; large matrix products take minutes of that.
        wrap: turns the compiled function into what is called.
    """
    compiled = compile_once(function, COMPILE_MODES[device] if tuned else None)
    used = compiled if wrap is None else wrap(compiled)
    return Provider(name=name, run=lambda: call(used), compiled=True, note=note)


@functools.cache
def compile_once(function: Function, mode: str | None) -> Function:
    """Return the same compiled function for every copy of a case, so that it compiles once."""
    return torch.compile(function, fullgraph=True, dynamic=False, mode=mode)


def differentiate(loss: Tensor, leaf: Tensor, **results: Tensor) -> Results:
    """Return results with the gradient of `loss` with respect to `leaf`, not accumulated."""
    return results | {"loss": loss, "grad": torch.autograd.grad(loss, leaf)[0]}


def on_cpu(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors on the CPU, where references of small cases are computed."""
    return [tensor.detach().cpu() for tensor in tensors]


def add_up_truth(leaf: Tensor, part: Callable[[Tensor, slice], Results]) -> Results:
    """Return float64 sums over all rows of `leaf`, and the gradient of the leading rows.

    Args:
        leaf: [N, V]; float64 copies of all of it would not fit beside it.
        part: returns, for some rows of `leaf` and where they lie, "loss" and other sums that add
            up over the rows.
    """
    totals: Results = {}
    for start in range(0, len(leaf), TRUE_ROWS):
        rows = slice(start, start + TRUE_ROWS)
        piece = leaf.detach()[rows].clone().requires_grad_(start == 0)
        found = part(piece, rows)
        if start == 0:
            totals["grad"] = torch.autograd.grad(found["loss"], piece)[0]
        for name, value in found.items():
            totals[name] = totals.get(name, 0.0) + value.detach()
    return totals
