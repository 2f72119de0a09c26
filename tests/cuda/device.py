"""Where a call runs: on the CPU, on a GPU, or on the CUDA column emulated by the host.

Tensors of a test are made on the CPU and stay there; a Column copies them to where its kernels run,
layout and alignment included, calls, and brings the results back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


def copy_to(tensor: Tensor, device: str) -> Tensor:
    """Copy a tensor with everything around it: gaps between rows, padding, offset of its start."""
    elements = tensor.untyped_storage().nbytes() // tensor.element_size()
    memory = tensor.detach().as_strided((elements,), (1,), 0)
    copied = memory.to(device, copy=True)
    return copied.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


class Column:
    """One implementation of the ops: `kind` is "cpu", "cuda" or "emulated"."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.device = "cuda" if kind == "cuda" else "cpu"

    @contextmanager
    def on(self) -> Iterator[None]:
        """Let calls inside go to this column; emulated, CPU tensors count as CUDA's meanwhile."""
        if self.kind != "emulated":
            yield
            return
        from rlhf_kernels import _C

        _C.emulate(True)
        try:
            yield
        finally:
            _C.emulate(False)

    def place(self, values: Any) -> Any:
        """Copy every tensor in nested tuples, lists and dicts to the device."""
        return tree_map(lambda x: copy_to(x, self.device) if isinstance(x, Tensor) else x, values)

    def fetch(self, values: Any) -> Any:
        """Bring every tensor back to the CPU, without its graph."""
        return tree_map(lambda x: x.detach().cpu() if isinstance(x, Tensor) else x, values)

    def run(self, function: Any, *args: Any, **options: Any) -> Any:
        """Call with arguments on the device; return the results on the CPU."""
        args, options = self.place((args, options))
        with self.on():
            return self.fetch(function(*args, **options))

    def differentiate(
        self, function: Any, leaf: Tensor, *args: Any, upstream: Any = 1.0, **options: Any
    ) -> tuple[Any, Tensor]:
        """Return the results and the gradient in `leaf`, the first argument, on the CPU.

        `upstream` is a number for a 0-d first result, a tensor of its shape, or a tuple of tensors
        for the first results.
        """
        leaf = self.place(leaf).requires_grad_()
        args, options, upstream = self.place((args, options, upstream))
        with self.on():
            results = function(leaf, *args, **options)
            many = upstream if isinstance(upstream, tuple) else (upstream,)
            roots = results[: len(many)] if isinstance(results, tuple) else (results,)
            grads = [
                weight.to(root.dtype).expand_as(root)
                if isinstance(weight, Tensor)
                else torch.full_like(root, weight)
                for root, weight in zip(roots, many, strict=True)
            ]
            torch.autograd.backward(roots, grads)
            return self.fetch((results, leaf.grad))


def named(results: Any) -> dict[str, Tensor]:
    """Return an op's results by name: positions as "0", "1", statistics under their own names."""
    found = {}
    for place, part in enumerate(results if isinstance(results, tuple) else (results,)):
        found.update(part if isinstance(part, dict) else {str(place): part})
    return found


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Assert bitwise equality of nested results, a NaN being equal to a NaN."""
    first, second = named(actual), named(expected)
    assert list(first) == list(second)
    for name, value in first.items():
        assert value.dtype == second[name].dtype, name
        same = (value == second[name]) | (value.isnan() & second[name].isnan())
        assert same.all(), f"{name}: {int((~same).sum())} of {same.numel()} entries differ"
