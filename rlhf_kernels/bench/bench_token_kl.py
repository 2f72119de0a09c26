"""token_kl over the tokens of a PPO batch: k3, the estimator that costs an exponential."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import Case, Settings, make_again
from rlhf_kernels.bench.providers import race
from rlhf_kernels.reference.token_kl import token_kl as reference


def ours(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Call the op."""
    return rk.token_kl(logprobs, ref_logprobs, estimator="k3")


def plain(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Write k3 as it usually is."""
    d = ref_logprobs - logprobs
    return d.exp() - 1 - d


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield the forward pass."""
    shape = settings.pick_shape((512, 1024), quick=(64, 256))
    for dtype in settings.pick_dtypes(torch.float32, torch.bfloat16):
        yield make_again(make_case, shape, dtype, settings.device)


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: two log-probs read, one float32 written per token."""
    logprobs = inputs.make_logprobs(*shape, dtype=dtype, device=device)
    ref = inputs.make_near(logprobs)
    count = logprobs.numel()
    return Case(
        op="token_kl",
        mode="forward",
        shape=shape,
        dtype=dtype,
        N=count,
        bytes_read=2 * count * dtype.itemsize,
        bytes_written=4 * count,
        truth=lambda: {"kl": reference(logprobs, ref, estimator="k3")},
        providers=race(ours, plain, lambda f: {"kl": f(logprobs, ref)}, device),
    )
