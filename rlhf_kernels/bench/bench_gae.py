"""gae over a batch of answers, against the usual loop and against a matrix product."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import OURS, Case, Provider, Results, Settings, make_again
from rlhf_kernels.bench.providers import make_compiled, on_cpu
from rlhf_kernels.reference.gae import gae as reference

GAMMA, LAM = 1.0, 0.95
#: The reference builds a T x T matrix per answer.
TRUE_ROWS = 8


def loop(rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Write the recurrence as a loop over the tokens, as PPO code does."""
    carry = torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(carry)
    backwards = []
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + GAMMA * following - values[:, t]
        carry = (delta + GAMMA * LAM * carry) * mask[:, t]
        following = values[:, t] * mask[:, t]
        backwards.append(carry)
    advantages = torch.stack(backwards[::-1], dim=1)
    return advantages, (advantages + values) * mask


def product(
    rewards: Tensor, values: Tensor, mask: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Write the recurrence as residuals times a triangular matrix of (gamma lam)^(k - t)."""
    kept = values * mask
    following = torch.nn.functional.pad(kept[:, 1:], (0, 1))
    residual = (rewards + GAMMA * following - kept) * mask
    advantages = (residual @ weights) * mask
    return advantages, (advantages + values) * mask


def make_weights(tokens: int, dtype: torch.dtype, device: str) -> Tensor:
    """Return [T, T] with (gamma lam)^(k - t) at row k, column t, 0 above the diagonal."""
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)[None, :]
    powers = (GAMMA * LAM) ** distance.clamp(min=0).double()
    return torch.where(distance >= 0, powers, 0.0).to(dtype).to(device)


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield one case of 512 answers of up to 1024 tokens."""
    shape = settings.pick_shape((512, 1024), quick=(64, 256))
    for dtype in settings.pick_dtypes(torch.float32):
        yield make_again(make_case, shape, dtype, settings.device)


def name(pair: tuple[Tensor, Tensor]) -> Results:
    """Name the results."""
    return dict(zip(("advantages", "returns"), pair, strict=True))


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: rewards, values and a mask read, two float32 written per token."""
    mask = inputs.make_lengths_mask(*shape, device=device)
    rewards = inputs.make_normal(*shape, dtype=dtype, device=device)
    values = inputs.make_normal(*shape, dtype=dtype, seed=8, device=device)
    every = (rewards, values, mask)

    def truth() -> Results:
        few = [tensor[:TRUE_ROWS] for tensor in on_cpu(*every)]
        return name(reference(*few, gamma=GAMMA, lam=LAM))

    return Case(
        op="gae",
        mode="forward",
        shape=shape,
        dtype=dtype,
        N=mask.numel(),
        mask_share=float(mask.float().mean()),
        bytes_read=(2 * dtype.itemsize + 1) * mask.numel(),
        bytes_written=8 * mask.numel(),
        truth=truth,
        providers=make_providers(
            lambda *args: rk.gae(*args, gamma=GAMMA, lam=LAM), loop, product, every, device
        ),
    )


def make_providers(
    ours: Callable[..., tuple[Tensor, Tensor]],
    eager: Callable[..., tuple[Tensor, Tensor]],
    matrix: Callable[..., tuple[Tensor, Tensor]],
    every: tuple[Tensor, ...],
    device: str,
) -> list[Provider]:
    """Return ours, the loop, the matrix product, and the latter compiled."""
    mask = every[-1]
    weights = make_weights(mask.shape[1], every[0].dtype, device)
    return [
        Provider(name=OURS, run=lambda: name(ours(*every))),
        Provider(name="eager loop", run=lambda: name(eager(*every))),
        Provider(name="eager matrix", run=lambda: name(matrix(*every, weights))),
        Provider(
            name="torch.compile loop",
            run=None,
            note="unrolls one graph node per token: compiling takes minutes",
        ),
        make_compiled("torch.compile matrix", matrix, lambda f: name(f(*every, weights)), device),
    ]
