"""exact_kl of two sets of logits, forward, and forward and backward."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import Case, Results, Settings, make_again
from rlhf_kernels.bench.providers import (
    TRUE_ROWS,
    Function,
    add_up_truth,
    differentiate,
    race,
)
from rlhf_kernels.reference.exact_kl import exact_kl as reference


def plain(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """Write sum p (log p - log q) with both log-probs held."""
    logp = functional.log_softmax(logits.float(), dim=-1)
    logq = functional.log_softmax(ref_logits.float(), dim=-1)
    return (logp.exp() * (logp - logq)).sum(-1)


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield the forward pass for every dtype, and with the backward pass for the first."""
    dtypes, device = settings.pick_logits_dtypes(), settings.device
    for shape in settings.pick_logits_shapes():
        for dtype in dtypes:
            yield make_again(make_forward_case, shape, dtype, device)
        yield make_again(make_backward_case, shape, dtypes[0], device)


def make_pair(shape: tuple[int, int], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Return the logits of a policy and of a reference near it."""
    ref_logits = inputs.make_logits(*shape, dtype, device=device)
    return inputs.make_near(ref_logits, spread=0.1), ref_logits


def make_forward_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: both logits read once, one number a row written."""
    pair = make_pair(shape, dtype, device)
    return Case(
        op="exact_kl",
        mode="forward",
        shape=shape,
        dtype=dtype,
        N=shape[0],
        V=shape[1],
        bytes_read=2 * dtype.itemsize * shape[0] * shape[1],
        bytes_written=4 * shape[0],
        truth=lambda: {"kl": reference(*(x[:TRUE_ROWS] for x in pair))},
        providers=race(rk.exact_kl, plain, lambda f: {"kl": f(*pair)}, device),
    )


def make_backward_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: both logits read twice, a gradient of its own tensor written."""
    logits, ref_logits = make_pair(shape, dtype, device)
    leaf = logits.requires_grad_()

    def call(function: Function) -> Results:
        return differentiate(function(leaf, ref_logits).sum(), leaf)

    def part(logits: Tensor, rows: slice) -> Results:
        return {"loss": reference(logits, ref_logits[rows]).sum()}

    return Case(
        op="exact_kl",
        mode="forward+backward",
        shape=shape,
        dtype=dtype,
        N=shape[0],
        V=shape[1],
        bytes_read=4 * dtype.itemsize * leaf.numel(),
        bytes_written=dtype.itemsize * leaf.numel(),
        truth=lambda: add_up_truth(leaf, part),
        providers=race(rk.exact_kl, plain, call, device),
    )
