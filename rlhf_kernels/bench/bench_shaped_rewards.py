"""shaped_rewards over a batch of answers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import Case, Settings, make_again
from rlhf_kernels.bench.providers import on_cpu, race
from rlhf_kernels.reference.shaped_rewards import shaped_rewards as reference

KL_COEF = 0.02
#: The reference goes token by token in Python: a few answers show every error there is.
TRUE_ROWS = 8


def ours(scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Call the op."""
    return rk.shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=KL_COEF)


def plain(scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Write the penalty, then add the score at each answer's last token."""
    rewards = -KL_COEF * (logprobs - ref_logprobs) * mask
    last = mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None])


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield the forward pass at 512 answers of up to 1024 tokens."""
    shape = settings.pick_shape((512, 1024), quick=(64, 256))
    for dtype in settings.pick_dtypes(torch.float32):
        yield make_again(make_case, shape, dtype, settings.device)


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: two log-probs and a mask read, one float32 written per token."""
    mask = inputs.make_lengths_mask(*shape, device=device)
    scores = inputs.make_normal(shape[0], dtype=dtype, device=device)
    logprobs = inputs.make_logprobs(*shape, dtype=dtype, device=device)
    ref = inputs.make_near(logprobs)
    every = (scores, logprobs, ref, mask)

    def truth() -> dict[str, Tensor]:
        few = [tensor[:TRUE_ROWS] for tensor in on_cpu(*every)]
        return {"rewards": reference(*few, kl_coef=KL_COEF)}

    return Case(
        op="shaped_rewards",
        mode="forward",
        shape=shape,
        dtype=dtype,
        N=mask.numel(),
        mask_share=float(mask.float().mean()),
        bytes_read=(2 * dtype.itemsize + 1) * mask.numel(),
        bytes_written=4 * mask.numel(),
        truth=truth,
        providers=race(ours, plain, lambda f: {"rewards": f(*every)}, device),
    )
