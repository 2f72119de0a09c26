"""Providers that many ops share: the same function eager and compiled, and packages of others."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlhf_kernels.bench.cases import OURS, Provider, Results

Function = Callable[..., Any]


def race(ours: Function, plain: Function, call: Callable[[Function], Results]) -> list[Provider]:
    """Return ours, the plain torch function, and the same function compiled.

    Args:
        ours: the op, with the signature of `plain`.
        plain: what people write.
        call: calls a function with the inputs of the case and names its results.
    """
    return [
        Provider(name=OURS, run=lambda: call(ours)),
        Provider(name="eager", run=lambda: call(plain)),
        make_compiled("torch.compile", plain, call),
    ]


def make_compiled(
    name: str,
    function: Function,
    call: Callable[[Function], Results],
    *,
    note: str = "",
) -> Provider:
    """Return a provider of `function` through torch.compile."""
    compiled = torch.compile(function, fullgraph=True, dynamic=False)
    return Provider(name=name, run=lambda: call(compiled), compiled=True, note=note)


def differentiate(loss: Tensor, leaf: Tensor, **results: Tensor) -> Results:
    """Return results with the gradient of `loss` with respect to `leaf`, not accumulated."""
    return results | {"loss": loss, "grad": torch.autograd.grad(loss, leaf)[0]}


def make_gpu_only(package: str, what: str) -> Provider:
    """Return the row of a GPU package on a machine that runs this benchmark on its CPU."""
    if importlib.util.find_spec(package) is None:
        why = f"{package} is not installed"
    else:
        why = f"{package} is installed, but its kernels need a CUDA device"
    return Provider(name=f"{package} ({what})", run=None, note=why)
