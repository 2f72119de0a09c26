"""Inputs like the ones of a run. N tokens, V vocabulary, B sequences of T tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def make_generator(seed: int = 0) -> torch.Generator:
    """Return a generator of its own, so that inputs do not depend on the order of the ops."""
    return torch.Generator().manual_seed(seed)


def make_logits(rows: int, vocabulary: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Return [N, V] logits like a language model's: sigma 2 to 5 by row, and a peak.

    Noise of 0.1 would make every exponential about 1 and hide both the cost and the error.
    """
    draw = make_generator(seed)
    logits = torch.empty(rows, vocabulary, dtype=torch.float32)
    logits.normal_(generator=draw)
    logits *= 2 + 3 * torch.rand(rows, 1, generator=draw)
    peaks = torch.randint(vocabulary, (rows, 1), generator=draw)
    logits.scatter_(1, peaks, 16 + 8 * torch.rand(rows, 1, generator=draw))
    return logits.to(dtype)


def make_targets(logits: Tensor, seed: int = 1) -> Tensor:
    """Return [N] token numbers: the likeliest one in three rows of four, any one in the others."""
    draw = make_generator(seed)
    rows, vocabulary = logits.shape
    anything = torch.randint(vocabulary, (rows,), generator=draw)
    likely = torch.rand(rows, generator=draw) < 0.75
    return torch.where(likely, logits.argmax(dim=1), anything)


def make_logprobs(*shape: int, dtype: torch.dtype, seed: int = 2) -> Tensor:
    """Return log-probs of sampled tokens, in nats: most near 0, a tail down to about -10."""
    draw = make_generator(seed)
    return (torch.rand(*shape, generator=draw) + 1e-4).log_().to(dtype)


def make_near(values: Tensor, spread: float = 0.1, seed: int = 3) -> Tensor:
    """Return `values` plus noise: what another model, or this one some steps ago, would say."""
    noise = torch.randn(values.shape, generator=make_generator(seed))
    return (values.float() + spread * noise).to(values.dtype)


def make_normal(*shape: int, dtype: torch.dtype, seed: int = 4) -> Tensor:
    """Return standard normal numbers: values, advantages, scores."""
    return torch.randn(*shape, generator=make_generator(seed)).to(dtype)


def make_lengths_mask(batch: int, tokens: int, seed: int = 5) -> Tensor:
    """Return a bool [B, T] mask of answers of uniform length in T/2 to T."""
    lengths = torch.randint(tokens // 2, tokens + 1, (batch, 1), generator=make_generator(seed))
    return torch.arange(tokens)[None, :] < lengths


def make_rows_mask(rows: int, share: float, seed: int = 6) -> Tensor:
    """Return a bool [N] mask in which `share` of the rows count, spread at random."""
    order = torch.randperm(rows, generator=make_generator(seed))
    return order < round(share * rows)
