"""advantages as a PPO step needs them: rewards shaped before, advantages whitened after."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.bench_gae import GAMMA, LAM, loop, make_providers, name, product
from rlhf_kernels.bench.cases import Case, Provider, Results, Settings, make_again
from rlhf_kernels.bench.providers import on_cpu

KL_COEF = 0.02


def shape_rewards(scores: Tensor, logprobs: Tensor, ref: Tensor, mask: Tensor) -> Tensor:
    """Write the penalty, then add the score at each answer's last token."""
    rewards = -KL_COEF * (logprobs - ref) * mask
    return rewards.scatter_add(1, mask.sum(1, keepdim=True) - 1, scores[:, None])


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Write masked mean and variance, then scale."""
    count = mask.sum()
    centred = (x - (x * mask).sum() / count) * mask
    return centred * torch.rsqrt(centred.square().sum() / count + 1e-8)


def chain_loop(
    scores: Tensor, logprobs: Tensor, ref: Tensor, values: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Write shaping, the loop, and whitening."""
    advantages, returns = loop(shape_rewards(scores, logprobs, ref, mask), values, mask)
    return whiten(advantages, mask), returns


def chain_product(
    scores: Tensor, logprobs: Tensor, ref: Tensor, values: Tensor, mask: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Write shaping, the matrix product, and whitening."""
    rewards = shape_rewards(scores, logprobs, ref, mask)
    advantages, returns = product(rewards, values, mask, weights)
    return whiten(advantages, mask), returns


def ours(
    scores: Tensor, logprobs: Tensor, ref: Tensor, values: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Call the op, which has the rewards besides."""
    advantages, returns, _ = rk.advantages(
        scores, logprobs, ref, values, mask, kl_coef=KL_COEF, gamma=GAMMA, lam=LAM, whiten=True
    )
    return advantages, returns


def ours_apart(
    scores: Tensor, logprobs: Tensor, ref: Tensor, values: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Call the two ops that it joins."""
    rewards = rk.shaped_rewards(scores, logprobs, ref, mask, kl_coef=KL_COEF)
    return rk.gae(rewards, values, mask, gamma=GAMMA, lam=LAM, whiten=True)


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield one case of 512 answers of up to 1024 tokens."""
    shape = settings.pick_shape((512, 1024), quick=(64, 256))
    for dtype in settings.pick_dtypes(torch.float32):
        yield make_again(make_case, shape, dtype, settings.device)


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: log-probs of both models, values and a mask read, three results written."""
    mask = inputs.make_lengths_mask(*shape, device=device)
    scores = inputs.make_normal(shape[0], dtype=dtype, device=device)
    logprobs = inputs.make_logprobs(*shape, dtype=dtype, device=device)
    ref = inputs.make_near(logprobs)
    values = inputs.make_normal(*shape, dtype=dtype, seed=8, device=device)
    every = (scores, logprobs, ref, values, mask)

    def truth() -> Results:
        # Whitening needs every answer, for which the reference's matrices would take too long.
        wide = [x.double() if x.is_floating_point() else x for x in on_cpu(*every)]
        return name(chain_loop(*wide))

    return Case(
        op="advantages",
        mode="forward, whitened",
        shape=shape,
        dtype=dtype,
        N=mask.numel(),
        mask_share=float(mask.float().mean()),
        bytes_read=(3 * dtype.itemsize + 1) * mask.numel(),
        bytes_written=12 * mask.numel(),
        truth=truth,
        providers=[
            *make_providers(ours, chain_loop, chain_product, every, device),
            Provider(name="shaped_rewards and gae", run=lambda: name(ours_apart(*every))),
        ],
    )
