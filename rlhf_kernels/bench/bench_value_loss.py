"""value_loss over the tokens of a minibatch, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import Case, Settings, make_again
from rlhf_kernels.bench.providers import Function, differentiate, on_cpu, race
from rlhf_kernels.reference.value_loss import value_loss as reference

CLIPRANGE = 0.2


def ours(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Call the op."""
    loss, stats = rk.value_loss(values, old_values, returns, mask, cliprange_value=CLIPRANGE)
    return loss, stats["clipfrac"]


def plain(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Write the clipped loss and the share of clipped tokens."""
    near = torch.clamp(values, old_values - CLIPRANGE, old_values + CLIPRANGE)
    unclipped = (values - returns).square()
    clipped = (near - returns).square()
    count = mask.sum()
    loss = 0.5 * (torch.max(unclipped, clipped) * mask).sum() / count
    clipfrac = ((clipped > unclipped).float() * mask).sum() / count
    return loss, clipfrac


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield forward and backward at 64 answers of up to 1024 tokens."""
    shape = settings.pick_shape((64, 1024), quick=(16, 256))
    for dtype in settings.pick_dtypes(torch.float32):
        yield make_again(make_case, shape, dtype, settings.device)


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: three numbers and a mask read, one gradient written per token."""
    mask = inputs.make_lengths_mask(*shape, device=device)
    old = inputs.make_normal(*shape, dtype=dtype, device=device)
    leaf = inputs.make_near(old, spread=0.3).requires_grad_()
    returns = inputs.make_near(old, spread=1.0, seed=7)

    def call(function: Function) -> dict[str, Tensor]:
        loss, clipfrac = function(leaf, old, returns, mask)
        return differentiate(loss, leaf, clipfrac=clipfrac)

    def truth() -> dict[str, Tensor]:
        start, *others = on_cpu(leaf, old, returns, mask)
        start.requires_grad_()
        loss, stats = reference(start, *others, cliprange_value=CLIPRANGE)
        return differentiate(loss, start, clipfrac=stats["clipfrac"])

    return Case(
        op="value_loss",
        mode="forward+backward",
        shape=shape,
        dtype=dtype,
        N=mask.numel(),
        mask_share=float(mask.float().mean()),
        bytes_read=(3 * dtype.itemsize + 1) * mask.numel(),
        bytes_written=dtype.itemsize * mask.numel(),
        truth=truth,
        providers=race(ours, plain, call, device),
    )
