"""Which curves the report draws, and what each one means to a reader."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One metric of metrics.jsonl in a panel."""

    metric: str
    label: str
    tone: str = "main"


@dataclass(frozen=True)
class Panel:
    """One small plot.

    Args:
        kind: stage kind whose metrics it reads.
        title: what is drawn, with its unit.
        lines: metrics; what the run does not have is left out.
        caption: how to read it, one sentence.
        level: a horizontal line worth comparing with.
        log: logarithmic y axis.
    """

    kind: str
    title: str
    lines: tuple[Line, ...]
    caption: str = ""
    level: float | None = None
    log: bool = False


TRAINING = (
    Panel(
        "pretrain",
        "Pretraining loss, nats per token",
        (Line("loss", "training"), Line("valid_loss", "held-out", "second")),
    ),
    Panel(
        "sft",
        "SFT loss, nats per token",
        (Line("loss", "training"), Line("valid_loss", "held-out", "second")),
        "Held-out loss may rise while answers still improve (InstructGPT, C.1).",
    ),
    Panel(
        "init",
        "Start of the policy: loss, nats per token",
        (
            Line("demonstrations/loss", "demonstrations"),
            Line("pretrain/loss", "pretraining text", "second"),
            Line("valid_loss", "held-out demonstrations", "third"),
        ),
        "Demonstrations mixed with pretraining text (InstructGPT, C.3).",
    ),
    Panel(
        "reward",
        "Reward model: ranking loss",
        (Line("loss", "training"),),
        "A coin has 0.693.",
        0.693,
    ),
    Panel(
        "reward",
        "Reward model: accuracy in training",
        (Line("accuracy", "training"), Line("valid_accuracy", "held-out", "second")),
        "Share of comparisons ordered rightly; a coin has 0.5.",
        0.5,
    ),
)

PPO_MAIN = (
    Panel(
        "ppo",
        "Score of sampled answers",
        (
            Line("objective/score", "reward model"),
            Line("objective/rewards", "minus the KL penalty", "third"),
            Line("objective/oracle", "oracle", "second"),
        ),
        "What PPO maximises. The oracle, where shown, is not seen by training.",
    ),
    Panel(
        "ppo",
        "KL to the reference, nats per answer",
        (Line("objective/kl", "KL"),),
        "How far the policy has moved from where it started.",
        0.0,
    ),
    Panel(
        "ppo",
        "Entropy of the policy, nats per answer",
        (Line("objective/entropy", "entropy"),),
        "Near 0 the policy always says the same.",
    ),
    Panel("ppo", "Length of answers, tokens", (Line("response/length", "length"),)),
    Panel(
        "ppo",
        "Share of answers with end-of-text",
        (Line("response/eos_rate", "ended"),),
        "An answer without it earns ppo.no_eos.score.",
    ),
    Panel(
        "ppo",
        "Pretraining loss (ptx), nats per token",
        (Line("ptx/loss", "ptx"),),
        "Rising: the policy forgets.",
    ),
)

PPO_MACHINE = (
    Panel(
        "ppo",
        "Policy loss",
        (Line("ppo/policy/policy_loss", "policy"), Line("ppo/policy/loss", "policy")),
    ),
    Panel(
        "ppo",
        "Step size: approximate KL of an update",
        (Line("ppo/policy/approxkl", "approxkl"),),
        "Large values mean the learning rate is too high.",
    ),
    Panel(
        "ppo",
        "Clipped share of tokens",
        (Line("ppo/policy/clipfrac", "policy"), Line("ppo/val/clipfrac", "value", "third")),
    ),
    Panel(
        "ppo",
        "Probability ratio",
        (Line("ppo/policy/ratio_mean", "mean"), Line("ppo/policy/ratio_max", "largest", "third")),
        "New over old probability of the sampled tokens.",
        1.0,
    ),
    Panel("ppo", "Value loss", (Line("ppo/val/loss", "value"),)),
    Panel(
        "ppo",
        "Explained variance of the value model",
        (Line("ppo/val/var_explained", "explained"),),
        "1: perfect. 0 or below: no better than a constant.",
        0.0,
    ),
    Panel(
        "ppo",
        "Gradient norms",
        (
            Line("ppo/grad_norm", "PPO"),
            Line("ptx/grad_norm", "ptx", "second"),
            Line("ppo/val/grad_norm", "value", "third"),
        ),
        "Before clipping, each part as it is added: ptx with its coefficient.",
        log=True,
    ),
    Panel("ppo", "KL coefficient", (Line("objective/kl_coef", "coefficient"),)),
    Panel("ppo", "Learning rate", (Line("lr", "policy"), Line("val/lr", "value", "third"))),
)

FROM_RANKINGS = tuple(
    panel
    for kind in ("dpo", "kto")
    for panel in (
        Panel(kind, "Loss", (Line("loss", "training"),)),
        Panel(
            kind,
            "Accuracy of the implicit rewards",
            (Line("accuracy", "training"), Line("valid_accuracy", "held-out", "second")),
            "Share of comparisons that policy over reference orders rightly; a coin has 0.5.",
            0.5,
        ),
        Panel(
            kind,
            "Margin of the implicit rewards",
            (Line("margin", "training"), Line("valid_margin", "held-out", "second")),
            "Mean difference of better and worse answer, beta times nats.",
            0.0,
        ),
        Panel(
            kind,
            "KL from the reference, nats per answer",
            (Line("kl", "on the ranked answers"), Line("z0", "z0", "third")),
            "How far the policy has moved, where the ranked answers are the reference's own.",
            0.0,
        ),
        Panel(kind, "Gradient norm", (Line("grad_norm", "norm"),), "Before clipping.", log=True),
        Panel(kind, "Learning rate", (Line("lr", "policy"),)),
    )
)
