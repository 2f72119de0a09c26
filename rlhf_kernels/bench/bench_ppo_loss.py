"""ppo_loss over the tokens of a minibatch, forward and backward, statistics included."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import Case, Settings, make_again
from rlhf_kernels.bench.providers import Function, differentiate, on_cpu, race
from rlhf_kernels.reference.ppo_loss import ppo_loss as reference

CLIPRANGE = 0.2


def ours(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Call the op."""
    loss, stats = rk.ppo_loss(logprobs, old_logprobs, advantages, mask, cliprange=CLIPRANGE)
    return loss, stats["approxkl"], stats["clipfrac"]


def plain(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Write the loss and the two statistics that everybody logs."""
    logratio = logprobs - old_logprobs
    ratio = logratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - CLIPRANGE, 1 + CLIPRANGE)
    count = mask.sum()
    loss = (torch.max(unclipped, clipped) * mask).sum() / count
    approxkl = 0.5 * (logratio.detach().square() * mask).sum() / count
    clipfrac = ((clipped > unclipped).float() * mask).sum() / count
    return loss, approxkl, clipfrac


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield forward and backward at 64 answers of up to 1024 tokens."""
    shape = settings.pick_shape((64, 1024), quick=(16, 256))
    for dtype in settings.pick_dtypes(torch.float32):
        yield make_again(make_case, shape, dtype, settings.device)


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: three numbers and a mask read, one gradient written per token."""
    mask = inputs.make_lengths_mask(*shape, device=device)
    old = inputs.make_logprobs(*shape, dtype=dtype, device=device)
    leaf = inputs.make_near(old).requires_grad_()
    advantages = inputs.make_normal(*shape, dtype=dtype, device=device)

    def call(function: Function) -> dict[str, Tensor]:
        loss, approxkl, clipfrac = function(leaf, old, advantages, mask)
        return differentiate(loss, leaf, approxkl=approxkl, clipfrac=clipfrac)

    def truth() -> dict[str, Tensor]:
        start, *others = on_cpu(leaf, old, advantages, mask)
        start.requires_grad_()
        loss, stats = reference(start, *others, cliprange=CLIPRANGE)
        picked = {name: stats[name] for name in ("approxkl", "clipfrac")}
        return differentiate(loss, start, **picked)

    return Case(
        op="ppo_loss",
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
