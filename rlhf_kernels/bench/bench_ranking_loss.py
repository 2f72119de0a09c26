"""ranking_loss over a batch of prompts with 4 to 9 answers each, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import OURS, Case, Provider, Results, Settings, make_again
from rlhf_kernels.bench.providers import differentiate, make_compiled
from rlhf_kernels.reference.ranking_loss import ranking_loss as reference


def plain(scores: Tensor, better: Tensor, worse: Tensor, weights: Tensor) -> Tensor:
    """Write the loss over pairs that somebody has listed already, each with its weight."""
    return -(functional.logsigmoid(scores[better] - scores[worse]) * weights).sum()


def loop(scores: Tensor, ranks: Tensor, offsets: list[int]) -> Tensor:
    """Write the loss prompt by prompt: all pairs of one prompt as a matrix of differences."""
    total = scores.new_zeros(())
    prompts = 0
    for start, stop in pairwise(offsets):
        score, rank = scores[start:stop], ranks[start:stop]
        pairs = rank[:, None] < rank[None, :]
        if pairs.any():
            gaps = score[:, None] - score[None, :]
            total = total - functional.logsigmoid(gaps[pairs]).mean()
            prompts += 1
    return total / max(prompts, 1)


def list_pairs(ranks: Tensor, offsets: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return better and worse answer of every pair and its weight: 1 / pairs / prompts."""
    better, worse, weights = [], [], []
    for start, stop in pairwise(offsets):
        rank = ranks[start:stop]
        first, second = (rank[:, None] < rank[None, :]).nonzero(as_tuple=True)
        better.append(first + start)
        worse.append(second + start)
        weights.append(torch.full((len(first),), 1 / max(len(first), 1)))
    prompts = sum(len(weight) > 0 for weight in weights)
    return torch.cat(better), torch.cat(worse), torch.cat(weights) / prompts


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield forward and backward at 64 prompts of up to 9 answers."""
    shape = settings.pick_shape((64, 9), quick=(16, 9))
    for dtype in settings.pick_dtypes(torch.float32):
        yield make_again(make_case, shape, dtype, settings.device)


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: score and rank read, gradient written per answer."""
    prompts, most = shape
    draw = inputs.make_generator(9)
    sizes = torch.randint(min(4, most), most + 1, (prompts,), generator=draw)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    offsets = starts.tolist()
    drawn = torch.randint(1, 7, (offsets[-1],), generator=draw)
    ranks, group_offsets = drawn.to(device), starts.to(device)
    leaf = inputs.make_normal(offsets[-1], dtype=dtype, device=device).requires_grad_()
    pairs = [tensor.to(device) for tensor in list_pairs(drawn, offsets)]

    def truth() -> Results:
        start = leaf.detach().cpu().requires_grad_()
        return differentiate(reference(start, drawn, starts)[0], start)

    return Case(
        op="ranking_loss",
        mode="forward+backward",
        shape=shape,
        dtype=dtype,
        N=len(ranks),
        bytes_read=(dtype.itemsize + 8) * len(ranks) + 8 * len(offsets),
        bytes_written=dtype.itemsize * len(ranks),
        truth=truth,
        providers=[
            Provider(
                name=OURS,
                run=lambda: differentiate(rk.ranking_loss(leaf, ranks, group_offsets)[0], leaf),
            ),
            Provider(
                name="eager loop", run=lambda: differentiate(loop(leaf, ranks, offsets), leaf)
            ),
            Provider(
                name="eager pairs",
                run=lambda: differentiate(plain(leaf, *pairs), leaf),
                note="listing the pairs is not timed",
            ),
            make_compiled(
                "torch.compile pairs",
                plain,
                lambda f: differentiate(f(leaf, *pairs), leaf),
                device,
                note="listing the pairs is not timed",
            ),
        ],
    )
