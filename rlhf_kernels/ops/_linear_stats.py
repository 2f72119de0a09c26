"""Joining the policy objective of chunks of rows into that of one call."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_kernels.ops._linear import Chunks
from rlhf_kernels.ops.ppo_loss_from_logits import STATS

_RATIO_MEAN, _RATIO_VAR = STATS.index("ratio_mean"), STATS.index("ratio_var")
_MAXIMA = [STATS.index("ratio_max"), STATS.index("ratio_error")]


def merge_chunks(
    losses: list[Tensor],
    stats: list[Tensor],
    chunks: Chunks,
    mask: Tensor,
    denominator: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Join the chunks' results into those of one call, in float64.

    Means have one denominator and add up. The squared deviations of the ratios, each around its
    own chunk's mean, add up with count * (chunk's mean - mean)^2 (Chan et al. 1979).
    """
    if denominator is None or len(losses) == 1:  # one chunk needs no common denominator
        return losses[0], stats[0]
    table = torch.stack(stats).double()
    counts = torch.stack([mask[part].sum() for part in chunks]).double()
    means = table[:, _RATIO_MEAN] * denominator / counts.clamp(min=1.0)
    mean = (counts * means).sum() / counts.sum().clamp(min=1.0)
    between = (counts * (means - mean).square()).sum()
    merged = table.sum(0)
    merged[_RATIO_VAR] += torch.where(counts.sum() > 0, between / denominator, 0.0)
    for place in _MAXIMA:  # one by one: a list of indices would be copied to a GPU, which waits
        merged[place] = table[:, place].amax(0)
    return torch.stack(losses).double().sum(), merged


def name_stats(values: Tensor, has_reference: bool, has_ptx: bool) -> dict[str, Tensor]:
    """Return the statistics by name, without those that these inputs have not."""
    stats = dict(zip(STATS, values.unbind(), strict=True))
    if not has_reference:
        del stats["kl"]
    if not has_ptx:
        del stats["ptx_loss"], stats["ptx_entropy"]
    return stats
