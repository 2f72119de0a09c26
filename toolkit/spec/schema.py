"""Every key of a spec: its type, default, range, unit and source.

This file and `inputs.py` are the whole vocabulary. A field is declared with `key(default, text)`;
the loader walks these dataclasses to check a YAML tree, `docs/SPEC.md` and `show` are made from
them. Nothing here imports torch.

A field whose type is another dataclass (or that | None) is a section. `Literal[...]` is a closed
choice. Bounds are inclusive unless `open_low` is set. Sources: "C.1" ... "C.4" are appendix
sections of InstructGPT (arXiv:2203.02155).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.spec.inputs import (
    Data,
    DataFile,
    Hardware,
    ModelFolder,
    Models,
    ModelSource,
    Split,
    Task,
    Text,
    key,
)

__all__ = [
    "Checkpoint",
    "Collect",
    "Data",
    "DataFile",
    "Evaluate",
    "Export",
    "ExtraReward",
    "Gate",
    "Hardware",
    "Kl",
    "Label",
    "ModelFolder",
    "ModelSource",
    "Models",
    "NoEos",
    "Optimizer",
    "Ppo",
    "Pretrain",
    "Ptx",
    "Reward",
    "Sampling",
    "Schedule",
    "Sft",
    "Spec",
    "Split",
    "StopIf",
    "Task",
    "Text",
    "Value",
    "Warmup",
]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW. The paper prints the betas only (C)."""

    betas: tuple[float, float] = key((0.9, 0.95), "InstructGPT C", low=0.0, high=1.0)
    eps: float = key(1e-8, "Adam epsilon (the RL code line uses 1e-5)", low=0.0, open_low=True)
    weight_decay: float = key(
        0.0, "decoupled, not on biases and norms; not printed by the paper", low=0.0
    )
    clip_norm: float | None = key(
        1.0, "global gradient norm; not printed by the paper", low=0.0, open_low=True
    )


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate over a stage's optimizer steps."""

    name: Literal["cosine", "linear", "constant"] = key("cosine", "shape after the warmup")
    floor: float = key(0.1, "last rate as a share of the peak (C.1: 10 %)", low=0.0, high=1.0)
    warmup: int = key(0, "optimizer steps from near 0 to the peak (C.1: none)", low=0)


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Language-model training of a model from scratch."""

    steps: int = key(1000, "optimizer steps", low=1)
    batch: int = key(32, "sequences per step", low=1)
    length: int = key(64, "tokens per sequence", low=2)
    lr: float = key(1e-3, "peak learning rate", low=0.0, open_low=True)
    schedule: Schedule = key(Schedule, "learning rate schedule")
    optimizer: Optimizer = key(Optimizer, "AdamW settings")


@dataclass(frozen=True, kw_only=True)
class Sft:
    """Supervised fine-tuning on demonstrations (C.1)."""

    epochs: int = key(16, "passes over the demonstrations (C.1: 16)", low=1)
    batch: int = key(32, "demonstrations per step (C.1: 32)", low=1)
    lr: float = key(9.65e-6, "peak learning rate (C.1: 9.65e-6)", low=0.0, open_low=True)
    dropout: float = key(0.2, "residual dropout (C.1: 0.2)", low=0.0, high=0.9)
    loss_on: Literal["response", "all"] = key("response", "tokens that carry the loss")
    schedule: Schedule = key(Schedule, "learning rate schedule (C.1: cosine to 10 %, no warmup)")
    optimizer: Optimizer = key(Optimizer, "AdamW settings")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn."""

    temperature: float = key(1.0, "logits are divided by it", low=0.0, open_low=True)
    top_p: float = key(1.0, "nucleus share; 1: off", low=0.0, high=1.0, open_low=True)
    top_k: int = key(0, "most likely tokens kept; 0: off", low=0)


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Sample K answers for each prompt, to be ranked."""

    prompts: int = key(33207, "prompts used; all there are if fewer (Table 6: 33,207)", low=1)
    k: tuple[int, int] = key(
        (4, 9),
        "answers per prompt, uniform, inclusive; or one number (3.5: 4 to 9)",
        low=2,
        kind="k",
    )
    sources: dict[str, float] = key(
        {"sft": 1.0}, "who answers: base, sft, ppo or a model folder -> weight", kind="weights"
    )
    sampling: Sampling = key(Sampling, "sampling settings")
    batch: int = key(256, "answers generated together", low=1)


@dataclass(frozen=True, kw_only=True)
class Label:
    """Turn collected answers into rankings."""

    by: Literal["oracle", "file", "model"] = key("oracle", "who ranks")
    fn: str | None = key(
        None, "oracle (prompts, responses) -> scores; null: the task's own", kind="function"
    )
    model: ModelFolder | None = key(None, "reward model that ranks, with by: model")
    ties: bool = key(True, "equal scores are a tie; false: the earlier answer wins")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a stage must reach for the run to go on."""

    accuracy: float = key(0.6, "held-out share of comparisons ordered rightly", low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class Reward:
    """Train the reward model on rankings (C.2, 3.5)."""

    init: Literal["sft", "base"] = key("sft", "where the backbone starts")
    epochs: int = key(1, "passes over the rankings (C.2: 1)", low=1)
    batch: int = key(64, "prompts per step; all pairs of a prompt are one element (C.2: 64)", low=1)
    lr: float = key(9e-6, "peak learning rate (C.2: 9e-6)", low=0.0, open_low=True)
    ties: Literal["drop", "half"] = key(
        "drop", "drop tied pairs, or count half each way (3.5: drop)"
    )
    center_on: Literal["demonstrations"] | None = key(
        "demonstrations", "shift scores so that these average 0 (3.5); null: no shift"
    )
    gate: Gate | None = key(None, "stop the run below this; null: no gate")
    schedule: Schedule = key(Schedule, "learning rate schedule (C.2: cosine to 10 %)")
    optimizer: Optimizer = key(Optimizer, "AdamW settings")


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
    controller: Literal["fixed"] = key("fixed", "the coefficient stays as it is")


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
class Ppo:
    """PPO against the reward model, with the pretraining term (C.4)."""

    episodes: int = key(256000, "episodes in all (C.4: 256k)", low=1)
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
class Evaluate:
    """Compare the result with where it started, on held-out prompts."""

    prompts: int = key(512, "held-out prompts used; all there are if fewer", low=1)
    weights: Literal["ema", "last"] = key("ema", "which PPO weights decide; both are reported")
    win_rate: list[Literal["oracle", "reward"]] = key(["oracle", "reward"], "judges")
    temperature: float = key(1.0, "sampling temperature", low=0.0, open_low=True)
    perplexity_tokens: int = key(20000, "held-out pretraining tokens read; 0: none", low=0)
    samples: int = key(16, "prompts whose answers the report shows", low=0)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """How often a running stage saves itself."""

    every: str = key("10m", "time such as 30s, 10m, 1h, or steps such as 50 steps", kind="duration")
    keep: int = key(2, "checkpoints kept per stage", low=1)


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is copied to export/."""

    weights: Literal["ema", "last"] = key("ema", "which PPO weights")
    reward: bool = key(True, "the reward model too")
    value: bool = key(True, "the value model too")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One run."""

    schema: int = key(1, "version of this vocabulary", low=1, high=1)
    name: str = key("run", "name of the run")
    extends: str | None = key(None, "preset this spec builds on")
    seed: int = key(1, "seed of everything random in the run, the task's data excepted", low=0)
    out: str = key("runs/${name}", "folder of the run")
    hardware: Hardware = key(Hardware, "device and precision")
    models: Models = key(Models, "starting models")
    text: Text = key(Text, "tokens")
    data: Data = key(Data, "input")
    pretrain: Pretrain | None = key(None, "stage for models from scratch; null: none")
    sft: Sft | None = key(Sft, "stage 1; null: the base is the SFT model")
    collect: Collect | None = key(
        Collect, "answers to rank; null: rankings come from data.rankings"
    )
    label: Label = key(Label, "who ranks")
    reward: Reward = key(Reward, "stage 2")
    ppo: Ppo | None = key(Ppo, "stage 3; null: stop after the reward model")
    evaluate: Evaluate | None = key(Evaluate, "comparison at the end; null: none")
    checkpoint: Checkpoint = key(Checkpoint, "recovery")
    log: list[Literal["console", "jsonl", "tensorboard"]] = key(
        ["console", "jsonl"], "where metrics go"
    )
    export: Export | None = key(Export, "final folders; null: none")
