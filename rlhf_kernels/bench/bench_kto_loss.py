"""kto_loss of a batch of answers, forward and backward. It is torch calls, with a float64 sum."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import Case, Results, Settings, make_again
from rlhf_kernels.bench.providers import differentiate, race
from rlhf_kernels.reference.kto_loss import kto_loss as reference

_BETA, _KL = 0.1, 0.3


def plain(logratios: Tensor, signs: Tensor) -> Tensor:
    """Write the loss with sums in the input's own type, every answer counting."""
    return torch.sigmoid(-signs * _BETA * (logratios - _KL)).mean()


def ours(logratios: Tensor, signs: Tensor) -> Tensor:
    """Return the loss alone."""
    return rk.kto_loss(logratios, signs, _KL, beta=_BETA)[0]


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield forward and backward at 64 prompts of 8 answers."""
    shape = settings.pick_shape((64, 8), quick=(16, 8))
    for dtype in settings.pick_dtypes(torch.float32):
        yield make_again(make_case, shape, dtype, settings.device)


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: log-ratio and sign read, gradient written per answer."""
    count = shape[0] * shape[1]
    leaf = inputs.make_normal(count, dtype=dtype, device=device).requires_grad_()
    signs = (1 - 2 * (torch.arange(count) % 2)).to(device)

    def truth() -> Results:
        start = leaf.detach().cpu().requires_grad_()
        return differentiate(reference(start, signs.cpu(), _KL, beta=_BETA)[0], start)

    return Case(
        op="kto_loss",
        mode="forward+backward",
        shape=shape,
        dtype=dtype,
        N=count,
        bytes_read=(dtype.itemsize + 8) * count,
        bytes_written=dtype.itemsize * count,
        truth=truth,
        providers=race(ours, plain, lambda f: differentiate(f(leaf, signs), leaf), device),
    )
