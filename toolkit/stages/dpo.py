"""Stage `dpo`: the policy learns from rankings directly (Rafailov et al. 2023, arXiv:2305.18290).

    loss = - mean over prompts, mean over a prompt's pairs, log sigmoid(beta (d_w - d_l))
    d = log policy(y | x) - log reference(y | x)

It is the reward model's loss (InstructGPT 3.5) of the implicit rewards beta d, for K answers.
With label smoothing e, a share 1 - e of it and a share e of the same for the reversed order.
"""

from __future__ import annotations

from torch import Tensor

import rlhf_kernels as rk
from toolkit.stages.context import StageContext
from toolkit.stages.rankings import FromRankings, Part, Stats
from toolkit.stages.shared import Record, needed


class DirectPreference(FromRankings):
    """Train the policy to order answers as the rankings do."""

    def __init__(self, ctx: StageContext) -> None:
        """Remember the context."""
        self.own = needed(ctx.spec.dpo)
        super().__init__(ctx, self.own)

    def useful(self, record: Record) -> bool:
        """With ties that count half every prompt teaches."""
        return self.own.ties == "half" or super().useful(record)

    def shared(self, i: int, records: list[Record]) -> int:
        """Return the prompts that the mean is over."""
        return len(records)

    def loss(self, logratios: Tensor, part: Part, shared: int) -> tuple[Tensor, Stats]:
        """Return the ranking loss of the implicit rewards."""
        rewards, smoothing = self.own.beta * logratios, self.own.label_smoothing
        ties = self.own.ties
        loss, stats = rk.ranking_loss(
            rewards, part.ranks, part.groups, ties=ties, denominator=shared
        )
        if smoothing > 0.0:
            reversed_ranks = part.ranks.max() + 1 - part.ranks
            other, _ = rk.ranking_loss(
                rewards, reversed_ranks, part.groups, ties=ties, denominator=shared
            )
            loss = (1.0 - smoothing) * loss + smoothing * other
        return loss, stats


STAGE = DirectPreference
