"""What PPO watches while it runs.

Whether log-probs reproduce, the KL, and the statistics it logs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

import rlhf_kernels as rk
from toolkit.data.batches import Batch
from toolkit.models.heads import Policy
from toolkit.rollout import Answers
from toolkit.spec.errors import StageFailed
from toolkit.stages.context import StageContext
from toolkit.stages.experience import Experience
from toolkit.training.device import move
from toolkit.training.guard import StopStage

Oracle = Callable[[list[str], list[str], list[bool]], list[float]]

# Recomputed log-probs of the same weights (detail 29). On a GPU the order in which a matrix product
# sums depends on the batch's shape, and a minibatch has another shape than the batch it is from.
_AUDIT = {
    "cpu": {"fp32": 1e-5, "bf16": 1e-2},
    "cuda": {"fp32": 1e-3, "bf16": 1e-1},
}
# The same between sampling, token by token with a cache, and a pass over the whole answer: products
# of other shapes, so rounding differs on a CPU too. A temperature, a position or a mask that
# differs is off by 1e-2 and more.
_KEPT = {
    "cpu": {"fp32": 1e-4, "bf16": 1e-2},
    "cuda": {"fp32": 1e-3, "bf16": 1e-1},
}
_EXTREMES = ("ratio_max", "ratio_error")
_SUSTAINED = 10  # iterations in a row with a negative mean KL before it is reported (detail 27)


class Watch:
    """Checks on a running PPO.

    Args:
        ctx: the stage's context.
        kl_above: mean KL to the reference at which PPO stops, nats per response; None: never.
    """

    def __init__(self, ctx: StageContext, kl_above: float | None) -> None:
        """Start with nothing seen."""
        self.ctx, self.kl_above = ctx, kl_above
        self.audit: dict[str, float] = {}
        self.kls: list[float] = []
        self.kept_error: float | None = None

    def behaviour(self, policy: Policy, batch: Batch, answers: Answers) -> tuple[Tensor, Tensor]:
        """Return the sampling policy's log-probs and entropies [B, T].

        The first batch's are computed again; if those that sampling kept agree, later batches take
        the kept ones, else every batch's are computed again.
        """
        if self.keeps:
            return answers.logprobs, answers.entropy
        again = policy.logprobs(batch)
        if self.kept_error is None:
            self.kept_error = float((again[0] - answers.logprobs).abs().max())
            if not self.keeps:
                self.ctx.event("warning", stage=self.ctx.name, message=self.warnings[0])
        return again

    @property
    def _kept_limit(self) -> float:
        return _KEPT[self.ctx.device][self.ctx.spec.hardware.precision]

    @property
    def keeps(self) -> bool:
        """Whether the log-probs kept from sampling are the policy's; unknown until compared."""
        return self.kept_error is not None and self.kept_error <= self._kept_limit

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should read."""
        if self.kept_error is None or self.keeps:
            return ()
        return (
            f"log-probs kept from sampling differ from recomputed ones by {self.kept_error:.3g}, "
            f"above {self._kept_limit:g}, so every iteration computes them again, which takes a "
            "pass of the policy",
        )

    def first_minibatch(
        self, experience: Experience, stats: dict[str, float], *, same: bool
    ) -> None:
        """Refuse log-probs that do not reproduce (detail 29).

        `same`: the policy still is the reference, which it is not where it goes on from an earlier
        round.
        """
        limit = _AUDIT[self.ctx.device][self.ctx.spec.hardware.precision]
        self.audit = {"max_ratio_error": stats["ppo/policy/ratio_error"]}
        if same:
            self.audit["max_abs_kl"] = float(experience.kl.abs().max())
        for name, value in self.audit.items():
            if not value <= limit:
                raise StageFailed(
                    f"ppo: on the first minibatch {name} is {value:.3g}, above {limit:g}, though "
                    "both passes are of the same weights: log-probs are not reproducible "
                    "(dropout left on, or a temperature or padding that differs between passes)"
                )

    def before_update(self, i: int, experience: Experience) -> None:
        """Stop on a KL above the limit; report a sustained negative one."""
        kl = float(experience.kl.sum(1).mean())
        self.kls = [*self.kls, kl][-_SUSTAINED:]
        if self.kl_above is not None and kl > self.kl_above:
            raise StopStage(
                f"PPO stopped before iteration {i + 1}: the KL to the reference is {kl:.1f} nats "
                f"per response, above ppo.stop_if.kl_above = {self.kl_above:g}; raise ppo.kl.coef, "
                "lower ppo.lr, or raise the limit"
            )
        if len(self.kls) == _SUSTAINED and max(self.kls) < 0:
            self.ctx.event(
                "warning",
                stage=self.ctx.name,
                message=f"the mean KL was negative for {_SUSTAINED} iterations in a row: "
                "sampling and log-probs disagree",
            )

    def summary(self) -> dict[str, Any]:
        """Return the audits, and whether log-probs kept from sampling were used."""
        return {"audit": self.audit, "kept_error": self.kept_error, "kept": self.keeps}

    def state(self) -> dict[str, Any]:
        """Return what was seen."""
        return {"audit": self.audit, "kls": self.kls, "kept_error": self.kept_error}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.audit, self.kls = dict(state["audit"]), list(state["kls"])
        self.kept_error = state["kept_error"]


def objective(experience: Experience, kl_coef: float, oracle: Oracle | None) -> dict[str, float]:
    """Describe a batch of episodes in OpenAI's names; kl and entropy in nats per response."""
    batch = experience.batch
    values = {
        "objective/kl": float(experience.kl.sum(1).mean()),
        "objective/kl_coef": kl_coef,
        "objective/entropy": float(experience.entropy.sum(1).mean()),
        "objective/score": float(experience.scores.mean()),
        "objective/rewards": float(experience.rewards.sum(1).mean()),
        "ppo/val/var_explained": float(
            rk.explained_variance(
                experience.values,
                experience.returns,
                move(batch.mask, experience.values.device),
            )
        ),
        "response/length": batch.tokens / len(batch),
        "response/eos_rate": sum(experience.finished) / len(batch),
    }
    if oracle is not None:
        judged = oracle(experience.prompts, experience.responses, experience.finished)
        values["objective/oracle"] = sum(judged) / len(judged)
    return values


def add_statistics(sums: dict[str, float], stats: dict[str, float], prefix: str) -> None:
    """Add a micro-batch's statistics: shares of a minibatch's mean add, extremes are taken.

    The ratio's variance is around each micro-batch's own mean, so its sum leaves out the spread
    between those means.
    """
    for name, number in stats.items():
        if name in _EXTREMES:
            sums[prefix + name] = max(sums.get(prefix + name, number), number)
        else:
            sums[prefix + name] += number


def join(minibatches: list[dict[str, float]]) -> dict[str, float]:
    """Join the statistics of an iteration's minibatches: means, and the extremes of extremes."""
    joined = {}
    for name in minibatches[0]:
        values = [stats[name] for stats in minibatches]
        extreme = name.rpartition("/")[2] in _EXTREMES
        joined[name] = max(values) if extreme else sum(values) / len(values)
    return joined
