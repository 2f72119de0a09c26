"""The three products of a linear head over one chunk of rows, each by the faster library.

n rows, D hidden, V vocabulary. torch multiplies float32 matrices with MKL, which keeps to AVX2 on
CPUs that Intel did not make; oneDNN, which torch contains too, uses their AVX-512: 2.2 times the
speed on a Zen 5 core. In 16 bits torch itself calls oneDNN.

On a GPU a vocabulary that is no multiple of 8, as the 50257 of GPT-2, keeps cuBLAS from its fast
kernels, however far apart the rows lie (docs/GPU.md). Each product is then two: over the largest
multiple, and over the few entries left.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

#: Vocabulary entries per call where a product has to pass through memory of its own.
SLAB = 2048
#: Device -> vocabulary entries that a product takes a multiple of.
MULTIPLE = {"cuda": 8}
#: Entries below which a second launch would cost more than a slow product.
WORTHWHILE = 4096


def multiply_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Write hidden [n, D] times weight [V, D] transposed, plus bias [V], into `out` [n, V]."""
    if _use_onednn(hidden):
        for start in range(0, len(weight), SLAB):
            part = slice(start, start + SLAB)
            part_bias = None if bias is None else bias[part]
            out[:, part].copy_(_onednn(hidden, weight[part], part_bias))
        return
    for part in _parts(weight):
        if bias is None:
            torch.mm(hidden, weight[part].T, out=out[:, part])
        else:
            torch.addmm(bias[part], hidden, weight[part].T, out=out[:, part])


def multiply_hidden(dlogits: Tensor, weight: Tensor) -> Tensor:
    """Return dlogits [n, V] times weight [V, D], the gradient of the hidden states."""
    if not _use_onednn(dlogits):
        most, *few = _parts(weight)
        if not few:
            return torch.mm(dlogits, weight)
        # The few come first: what 16 bits round off them is little beside the whole.
        small = torch.mm(dlogits[:, few[0]], weight[few[0]])
        return small.addmm_(dlogits[:, most], weight[most])
    total = dlogits.new_zeros(len(dlogits), weight.shape[1])
    for start in range(0, len(weight), SLAB):  # a slab: oneDNN copies a left side with gaps
        part = slice(start, start + SLAB)
        total.add_(_onednn(dlogits[:, part], weight[part].T))
    return total


def add_weight_gradient(dlogits: Tensor, hidden: Tensor, total: Tensor, first: bool) -> None:
    """Add dlogits [n, V] transposed times hidden [n, D] to `total` [V, D]; `first` overwrites."""
    if _use_onednn(dlogits) or (total.dtype != dlogits.dtype and not total.is_cuda):
        _add_in_slabs(dlogits, hidden, total, first)
        return
    for part in _parts(total):
        _add_product(dlogits[:, part].T, hidden, total[part], first)


def _add_product(left: Tensor, hidden: Tensor, total: Tensor, first: bool) -> None:
    """Add left [m, n] times hidden [n, D] to `total` [m, D]; `first` overwrites."""
    if total.dtype != left.dtype:
        beta = 0.0 if first else 1.0
        torch.addmm(total, left, hidden, out_dtype=total.dtype, beta=beta, out=total)
    elif first:
        torch.mm(left, hidden, out=total)
    else:
        torch.addmm(total, left, hidden, out=total)


def _parts(weight: Tensor) -> Iterator[slice]:
    """Yield the vocabulary entries of each product; nearly all of them first."""
    count = len(weight)
    multiple = MULTIPLE.get(weight.device.type, 1) if count >= WORTHWHILE else 1
    most = count // multiple * multiple
    yield slice(0, most)
    if most < count:
        yield slice(most, count)


def _add_in_slabs(dlogits: Tensor, hidden: Tensor, total: Tensor, first: bool) -> None:
    """Form the product a slab at a time, while it is in the cache, and add it in total's dtype."""
    transposed = hidden.T
    for start in range(0, len(total), SLAB):
        part = slice(start, start + SLAB)
        left = dlogits[:, part].T
        product = _onednn(left, transposed) if _use_onednn(left) else torch.mm(left, hidden)
        if first:
            total[part].copy_(product)
        else:
            total[part].add_(product)


def _onednn(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return left [n, k] times right [m, k] transposed, plus bias [m]; any strides."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return product


def _use_onednn(tensor: Tensor) -> bool:
    """Say whether a product with this left side goes to oneDNN by name."""
    fits = tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.numel() > 0
    return fits and bool(torch.backends.mkldnn.enabled) and _mkl_keeps_to_avx2()


@functools.cache
def _mkl_keeps_to_avx2() -> bool:
    """Say whether this CPU has AVX-512 that torch's float32 products leave unused."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    cpuinfo = Path("/proc/cpuinfo")
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not cpuinfo.exists():
        return False
    return "GenuineIntel" not in cpuinfo.read_text(encoding="utf-8", errors="replace")
