"""Inputs like the ones of a run. N tokens, V vocabulary, B sequences of T tokens.

Everything is drawn on the CPU and then moved, so that the numbers are the same on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Matrices with more rows repeat them: drawing gigabytes on the CPU would take minutes, and the
#: time of a row does not depend on its numbers.
DISTINCT_ROWS = 512


def make_generator(seed: int = 0) -> torch.Generator:
    """Return a generator of its own, so that inputs do not depend on the order of the ops."""
    return torch.Generator().manual_seed(seed)


def repeat_rows(few: Tensor, rows: int) -> Tensor:
    """Return [rows, ...] that goes round the rows of `few`, in memory of its own."""
    if len(few) == rows:
        return few
    times = -(-rows // len(few))
    return few.repeat(times, *[1] * (few.dim() - 1))[:rows].contiguous()


def make_logits(
    rows: int, vocabulary: int, dtype: torch.dtype, seed: int = 0, device: str = "cpu"
) -> Tensor:
    """Return [N, V] logits like a language model's: sigma 2 to 5 by row, and a peak.

    Noise of 0.1 would make every exponential about 1 and hide both the cost and the error.
    """
    draw = make_generator(seed)
    few = min(rows, DISTINCT_ROWS)
    logits = torch.empty(few, vocabulary, dtype=torch.float32)
    logits.normal_(generator=draw)
    logits *= 2 + 3 * torch.rand(few, 1, generator=draw)
    peaks = torch.randint(vocabulary, (few, 1), generator=draw)
    logits.scatter_(1, peaks, 16 + 8 * torch.rand(few, 1, generator=draw))
    return repeat_rows(logits.to(dtype).to(device), rows)


def make_targets(logits: Tensor, seed: int = 1) -> Tensor:
    """Return [N] token numbers: the likeliest one in three rows of four, any one in the others."""
    draw = make_generator(seed)
    rows, vocabulary = logits.shape
    anything = torch.randint(vocabulary, (rows,), generator=draw).to(logits.device)
    likely = (torch.rand(rows, generator=draw) < 0.75).to(logits.device)
    return torch.where(likely, logits.argmax(dim=1), anything)


def make_logprobs(*shape: int, dtype: torch.dtype, seed: int = 2, device: str = "cpu") -> Tensor:
    """Return log-probs of sampled tokens, in nats: most near 0, a tail down to about -10."""
    draw = make_generator(seed)
    return (torch.rand(*shape, generator=draw) + 1e-4).log_().to(dtype).to(device)


def make_near(values: Tensor, spread: float = 0.1, seed: int = 3) -> Tensor:
    """Return `values` plus noise: what another model, or this one some steps ago, would say."""
    shape = values.shape
    few = shape if values.dim() < 2 else (min(shape[0], DISTINCT_ROWS), *shape[1:])
    noise = torch.randn(few, generator=make_generator(seed)).to(values.device)
    near = torch.empty_like(values)
    for start in range(0, max(len(values), 1), max(len(noise), 1)):
        part = values[start : start + len(noise)]
        near[start : start + len(noise)] = part.float() + spread * noise[: len(part)]
    return near


def make_normal(*shape: int, dtype: torch.dtype, seed: int = 4, device: str = "cpu") -> Tensor:
    """Return standard normal numbers: values, advantages, scores."""
    return torch.randn(*shape, generator=make_generator(seed)).to(dtype).to(device)


def make_lengths_mask(batch: int, tokens: int, seed: int = 5, device: str = "cpu") -> Tensor:
    """Return a bool [B, T] mask of answers of uniform length in T/2 to T."""
    lengths = torch.randint(tokens // 2, tokens + 1, (batch, 1), generator=make_generator(seed))
    return (torch.arange(tokens)[None, :] < lengths).to(device)


def make_rows_mask(rows: int, share: float, seed: int = 6, device: str = "cpu") -> Tensor:
    """Return a bool [N] mask in which `share` of the rows count, spread at random."""
    order = torch.randperm(rows, generator=make_generator(seed))
    return (order < round(share * rows)).to(device)
