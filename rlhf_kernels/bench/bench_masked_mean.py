"""masked_mean of a statistic over a batch. It is torch calls itself, with sums in float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import Case, Settings, make_again
from rlhf_kernels.bench.providers import on_cpu, race
from rlhf_kernels.reference.masked_mean import masked_mean as reference


def plain(x: Tensor, mask: Tensor) -> Tensor:
    """Write the mean with sums in the input's own type."""
    return (x * mask).sum() / mask.sum()


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield the forward pass at 512 answers of up to 1024 tokens."""
    shape = settings.pick_shape((512, 1024), quick=(64, 256))
    for dtype in settings.pick_dtypes(torch.float32):
        yield make_again(make_case, shape, dtype, settings.device)


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: one number and a mask read per token."""
    mask = inputs.make_lengths_mask(*shape, device=device)
    x = inputs.make_normal(*shape, dtype=dtype, device=device)
    return Case(
        op="masked_mean",
        mode="forward",
        shape=shape,
        dtype=dtype,
        N=mask.numel(),
        mask_share=float(mask.float().mean()),
        bytes_read=(dtype.itemsize + 1) * mask.numel(),
        bytes_written=4,
        truth=lambda: {"mean": reference(*on_cpu(x, mask))},
        providers=race(rk.masked_mean, plain, lambda f: {"mean": f(x, mask)}, device),
    )
