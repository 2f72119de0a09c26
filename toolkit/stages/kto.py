"""Stage `kto`: answers are desirable or not, each by itself (Ethayarajh et al. 2024).

    loss = mean of w (1 - sigmoid(beta (d - z0))) over desirable answers, z0 - d over undesirable
    d = log policy(y | x) - log reference(y | x)
    z0 = max(0, mean of d over answers to other prompts)

arXiv:2402.01306. An answer is desirable when it ranks above its prompt's median, undesirable
below, and counts nowhere when equal. z0 is measured for the whole batch, without gradients, on
each prompt with the answers of the prompt that follows it in the epoch's order.
"""

from __future__ import annotations

from statistics import median

import torch
from torch import Tensor

import rlhf_kernels as rk
from toolkit.spec.errors import StageFailed
from toolkit.stages.context import StageContext
from toolkit.stages.rankings import FromRankings, Part, Stats
from toolkit.stages.shared import Record, needed
from toolkit.training.device import move


class KahnemanTversky(FromRankings):
    """Train the policy towards desirable answers and away from undesirable ones."""

    def __init__(self, ctx: StageContext) -> None:
        """Remember the context."""
        self.own = needed(ctx.spec.kto)
        super().__init__(ctx, self.own)

    def setup(self) -> int:
        """As every learner from rankings; somebody else's answers are needed."""
        total = super().setup()
        if len(self.train) < 2:
            raise StageFailed(
                f"{self.ctx.name}: there is one training prompt, and its KL is measured on answers "
                "to another one; collect more prompts"
            )
        return total

    def step(self, i: int) -> dict[str, float]:
        """One optimizer step; `z0` is the batch's KL of mismatched answers, nats, at least 0."""
        values = super().step(i)
        return values | {"z0": self.z0}

    def shared(self, i: int, records: list[Record]) -> tuple[Tensor, int]:
        """Return the mismatched answers' mean log-ratio, and how many answers count."""
        prompts, answers = [], []
        for record, other in zip(self._taken(i, 0), self._taken(i, 1), strict=True):
            prompts += [record["prompt_ids"]] * len(other["responses_ids"])
            answers += other["responses_ids"]
        kl = self.logratios(prompts, answers).double().mean()
        self.z0 = max(0.0, float(kl))
        return kl, sum(sign != 0 for r in records for sign in signs_of(r["ranks"]))

    def loss(
        self, logratios: Tensor, part: Part, shared: tuple[Tensor, int]
    ) -> tuple[Tensor, Stats]:
        """Return the part's share of the KTO loss."""
        kl, count = shared
        signs = torch.tensor([sign for r in part.records for sign in signs_of(r["ranks"])])
        loss, _ = rk.kto_loss(
            logratios,
            move(signs, logratios.device),
            kl,
            beta=self.own.beta,
            desirable=self.own.desirable,
            undesirable=self.own.undesirable,
            denominator=count,
        )
        return loss, self.verdict(logratios, part)


def signs_of(ranks: list[int]) -> list[int]:
    """1 for answers that rank above the median (a smaller number), -1 below, 0 at it."""
    middle = median(ranks)
    return [(rank < middle) - (rank > middle) for rank in ranks]


STAGE = KahnemanTversky
