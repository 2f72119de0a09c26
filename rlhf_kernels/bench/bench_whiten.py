"""Masked whitening of a batch of advantages."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import Case, Settings, make_again
from rlhf_kernels.bench.providers import on_cpu, race
from rlhf_kernels.reference.whiten import whiten as reference


def plain(x: Tensor, mask: Tensor) -> Tensor:
    """Write masked mean and variance, then scale."""
    count = mask.sum()
    mean = (x * mask).sum() / count
    centred = (x - mean) * mask
    return centred * torch.rsqrt(centred.square().sum() / count + 1e-8)


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield the forward pass at 512 answers of up to 1024 tokens."""
    shape = settings.pick_shape((512, 1024), quick=(64, 256))
    for dtype in settings.pick_dtypes(torch.float32):
        yield make_again(make_case, shape, dtype, settings.device)


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case; the mean must be known first, so every number is read twice."""
    mask = inputs.make_lengths_mask(*shape, device=device)
    x = inputs.make_normal(*shape, dtype=dtype, device=device) + 0.5
    return Case(
        op="whiten",
        mode="forward",
        shape=shape,
        dtype=dtype,
        N=mask.numel(),
        mask_share=float(mask.float().mean()),
        bytes_read=2 * (dtype.itemsize + 1) * mask.numel(),
        bytes_written=4 * mask.numel(),
        truth=lambda: {"white": reference(*on_cpu(x, mask))},
        providers=race(rk.whiten, plain, lambda f: {"white": f(x, mask)}, device),
    )
