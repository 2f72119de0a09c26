"""explained_variance over a batch. It is torch calls itself, with sums in float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import Case, Settings, make_again
from rlhf_kernels.bench.providers import on_cpu, race
from rlhf_kernels.reference.explained_variance import explained_variance as reference


def plain(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Write it with masked sums in the input's own type."""
    count = mask.sum()
    error = ((values - returns).square() * mask).sum() / count
    mean = (returns * mask).sum() / count
    return 1 - error / (((returns - mean).square() * mask).sum() / count)


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield the forward pass at 512 answers of up to 1024 tokens."""
    shape = settings.pick_shape((512, 1024), quick=(64, 256))
    for dtype in settings.pick_dtypes(torch.float32):
        yield make_again(make_case, shape, dtype, settings.device)


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: two numbers and a mask read per token."""
    mask = inputs.make_lengths_mask(*shape, device=device)
    values = inputs.make_normal(*shape, dtype=dtype, device=device)
    returns = inputs.make_near(values, spread=0.5)
    every = (values, returns, mask)
    return Case(
        op="explained_variance",
        mode="forward",
        shape=shape,
        dtype=dtype,
        N=mask.numel(),
        mask_share=float(mask.float().mean()),
        bytes_read=(2 * dtype.itemsize + 1) * mask.numel(),
        bytes_written=4,
        truth=lambda: {"share": reference(*on_cpu(*every))},
        providers=race(rk.explained_variance, plain, lambda f: {"share": f(*every)}, device),
    )
