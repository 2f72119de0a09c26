"""Sections of a spec that improve the policy: PPO with all it takes (InstructGPT C.4).

`key(default, text, ...)` declares a field; see `toolkit.spec.schema`, which holds the other
stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.spec.inputs import key
from toolkit.spec.training import Optimizer, Schedule

LEARNERS = ("ppo", "dpo", "kto")
"""Sections that improve the policy, each a stage kind; a run has one of them, or none."""

FROM_RANKINGS = ("dpo", "kto")
"""Learners that read the rankings themselves and need no reward model."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """The value function: the reward model's size and start (C.4)."""

    init: Literal["reward", "sft"] = key("reward", "where the value model starts (C.4: the RM)")
    lr: float = key(9e-6, "peak learning rate (C.4: 9e-6)", low=0.0, open_low=True)
    cliprange: float = key(0.2, "value change per update, in reward units", low=0.0, open_low=True)
    vf_coef: float = key(0.1, "weight of the value loss", low=0.0)


@dataclass(frozen=True, kw_only=True)
class Kl:
    """The penalty that holds the policy to the reference."""

    coef: float = key(0.02, "per token, beta of the paper (C.4: 0.02)", low=0.0)
    place: Literal["reward", "loss"] = key(
        "reward", "shape the reward (the paper), or add to the loss"
    )
    estimator: Literal["k1", "k2", "k3"] = key(
        "k1", "k1 = d, k2 = d^2/2, k3 = expm1(-d) + d; loss: not k1"
    )
    controller: Literal["fixed", "adaptive"] = key(
        "fixed",
        "adaptive: after each iteration coef *= 1 + clip(KL / target - 1, +-0.2) * batch / horizon",
    )
    target: float | None = key(
        None, "of the adaptive controller, nats per response", low=0.0, open_low=True
    )
    horizon: int = key(10000, "episodes over which the adaptive controller corrects", low=1)


@dataclass(frozen=True, kw_only=True)
class Ptx:
    """The pretraining term of PPO-ptx (C.4)."""

    coef: float = key(27.8, "weight, gamma of the paper (C.4: 27.8)", low=0.0)
    ratio: float = key(8.0, "pretraining examples per episode (C.4: 8)", low=0.0, open_low=True)
    length: int = key(2048, "tokens per pretraining example", low=2)


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """Learning rate at the start of PPO."""

    iterations: int = key(10, "PPO iterations (C.4: 10)", low=0)
    start: float = key(0.1, "share of the peak at the first (C.4: a tenth)", low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class NoEos:
    """What an answer without end-of-text earns."""

    score: float = key(-1.0, "replaces the reward model's score, in reward units")


@dataclass(frozen=True, kw_only=True)
class ExtraReward:
    """Your own term, added to the reward model's score."""

    fn: str = key("", "(prompts, responses) -> scores, path/to/file.py:function", kind="function")
    weight: float = key(1.0, "weight of the term")


@dataclass(frozen=True, kw_only=True)
class StopIf:
    """Conditions that end PPO early, with the cause named."""

    kl_above: float | None = key(
        50.0, "mean KL to the reference, nats per response", low=0.0, open_low=True
    )


@dataclass(frozen=True, kw_only=True)
class Init:
    """The separate start of the policy, also the KL reference (C.3)."""

    sft_epochs: int = key(2, "passes over the demonstrations (C.3: 2)", low=1)
    pretrain_mix: float = key(
        0.1,
        "share of a batch's examples that are pretraining text, and of its loss (C.3: 10 %)",
        low=0.0,
        high=0.9,
    )
    length: int = key(2048, "tokens per pretraining example", low=2)
    batch: int = key(32, "demonstrations and pretraining examples per step (C.3: 32)", low=1)
    lr: float = key(5e-6, "peak learning rate (C.3, 1.3B: 5e-6)", low=0.0, open_low=True)
    schedule: Schedule = key(Schedule, "learning rate schedule (C.3: cosine to 10 %)")
    optimizer: Optimizer = key(Optimizer, "AdamW settings")


@dataclass(frozen=True, kw_only=True)
class Ppo:
    """PPO against the reward model, with the pretraining term (C.4)."""

    algorithm: Literal["ppo", "a2c"] = key(
        "ppo", "ppo: clipped; a2c: policy gradient and value loss unclipped, one step per batch"
    )
    init: Init | None = key(
        None, "where the policy starts, and the KL reference; sft or null: SFT", kind="or_sft"
    )
    restart: Literal["init", "previous"] = key(
        "init", "start of later rounds: the first start, or the previous round's last policy"
    )
    episodes: int = key(256000, "episodes per round (C.4: 256k)", low=1)
    batch: int = key(512, "episodes per iteration (C.4: 512)", low=1)
    minibatch: int = key(64, "episodes per optimizer step (C.4: 64)", low=1)
    inner_epochs: int = key(1, "passes over a batch (C.4: 1)", low=1)
    lr: float = key(
        8.0e-6,
        "peak learning rate (ours; C.4 prints a scan of 2.55e-6 to 2.55e-5)",
        low=0.0,
        open_low=True,
    )
    anneal: bool = key(False, "linearly to 0 over the run (2019 line); false: constant (C.4)")
    value: Value = key(Value, "value function")
    cliprange: float = key(0.2, "ratio clip (C.4: 0.2)", low=0.0, open_low=True)
    gamma: float = key(1.0, "discount (C.4: none)", low=0.0, high=1.0)
    lam: float = key(0.95, "GAE lambda; not printed by the paper", low=0.0, high=1.0)
    whiten: Literal["none", "advantages", "rewards", "both"] = key(
        "advantages", "masked whitening over a whole batch"
    )
    temperature: float = key(
        1.0, "of the rollout, and of every log-prob (C.4: 1)", low=0.0, open_low=True
    )
    entropy_coef: float = key(0.0, "entropy bonus in the loss", low=0.0)
    kl: Kl = key(Kl, "penalty to the reference")
    ptx: Ptx | None = key(None, "pretraining term; null: off")
    warmup: Warmup = key(Warmup, "learning rate at the start")
    ema: float | None = key(
        0.992, "decay per optimizer step (C.4: 0.992); null: off", low=0.0, high=1.0
    )
    no_eos: NoEos | None = key(
        NoEos, "rule for answers without end-of-text; null: the RM's score stands"
    )
    extra_reward: ExtraReward | None = key(None, "your own reward term")
    stop_if: StopIf = key(StopIf, "conditions that stop PPO")
    optimizer: Optimizer = key(lambda: Optimizer(eps=1e-5), "AdamW settings")


@dataclass(frozen=True, kw_only=True)
class Dpo:
    """Direct preference optimisation: the policy learns from the rankings, without a reward model.

    Rafailov et al. 2023 (arXiv:2305.18290); all pairs of a prompt are one element, as in 3.5.
    """

    beta: float = key(
        0.1, "per nat; higher holds the policy nearer to the reference", low=0.0, open_low=True
    )
    epochs: int = key(1, "passes over the rankings", low=1)
    batch: int = key(32, "prompts per step; all pairs of a prompt are one element", low=1)
    lr: float = key(5e-7, "peak learning rate", low=0.0, open_low=True)
    label_smoothing: float = key(
        0.0, "chance that a comparison is the wrong way round", low=0.0, high=0.5
    )
    ties: Literal["drop", "half"] = key("drop", "drop tied pairs, or count half each way")
    reference: Literal["sft"] = key("sft", "what the policy is held to, and where it starts")
    schedule: Schedule = key(Schedule, "learning rate schedule")
    optimizer: Optimizer = key(Optimizer, "AdamW settings")


@dataclass(frozen=True, kw_only=True)
class Kto:
    """Kahneman-Tversky optimisation: each answer is desirable or not, without a reward model.

    Ethayarajh et al. 2024 (arXiv:2402.01306). An answer is desirable when it ranks above its
    prompt's median, undesirable below, and counts nowhere when equal.
    """

    beta: float = key(
        0.1, "per nat; higher holds the policy nearer to the reference", low=0.0, open_low=True
    )
    desirable: float = key(1.0, "weight of desirable answers", low=0.0)
    undesirable: float = key(1.0, "weight of undesirable answers", low=0.0)
    epochs: int = key(1, "passes over the rankings", low=1)
    batch: int = key(32, "prompts per step, with all their answers", low=1)
    lr: float = key(5e-7, "peak learning rate", low=0.0, open_low=True)
    reference: Literal["sft"] = key("sft", "what the policy is held to, and where it starts")
    schedule: Schedule = key(Schedule, "learning rate schedule")
    optimizer: Optimizer = key(Optimizer, "AdamW settings")
