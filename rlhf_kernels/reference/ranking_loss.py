"""Float64 reference of the K-wise ranking loss; see `rlhf_kernels.ops.ranking_loss`."""

from itertools import combinations, pairwise

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def ranking_loss(
    scores: Tensor,
    ranks: Tensor,
    group_offsets: Tensor,
    *,
    ties: str = "drop",
    denominator: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the mean over prompts of the mean over pairs of -logsigmoid(better - worse)."""
    score = scores.double()
    rank = ranks.tolist()
    offsets = group_offsets.tolist()
    prompt_losses, differences = [], []
    tied = 0
    for start, stop in pairwise(offsets):
        losses = []
        for i, j in combinations(range(start, stop), 2):
            if rank[i] == rank[j]:
                tied += 1
                if ties == "half":
                    gap = score[i] - score[j]
                    losses.append(-0.5 * (logsigmoid(gap) + logsigmoid(-gap)))
                continue
            better, worse = (i, j) if rank[i] < rank[j] else (j, i)
            differences.append(score[better] - score[worse])
            losses.append(-logsigmoid(differences[-1]))
        if losses:
            prompt_losses.append(torch.stack(losses).mean())
    prompts = len(prompt_losses)
    total = torch.stack(prompt_losses).sum() if prompts else score.sum() * 0.0
    loss = total / (denominator if denominator is not None else max(prompts, 1))
    gap = torch.stack(differences).detach() if differences else torch.zeros(1).double()
    right = (gap > 0).double() + 0.5 * (gap == 0).double() if differences else gap
    stats = {
        "accuracy": right.mean(),
        "margin": gap.mean(),
        "pairs": torch.tensor(float(len(differences))),
        "tied": torch.tensor(float(tied)),
        "prompts": torch.tensor(float(prompts)),
        "skipped": torch.tensor(float(len(offsets) - 1 - prompts)),
    }
    return loss, stats
