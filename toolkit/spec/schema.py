"""Every key of a spec: its type, default, range, unit and source.

This file, `inputs.py`, `training.py`, `learners.py` and `labels.py` are the whole vocabulary. A
field is declared with `key(default, text)`; the loader walks these dataclasses to check a YAML
tree, `docs/SPEC.md` and `show` are made from them. Nothing here imports torch.

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
    Dedup,
    Hardware,
    ModelFolder,
    Models,
    ModelSource,
    Split,
    Task,
    Text,
    key,
)
from toolkit.spec.labels import Folds, Label, Labelers
from toolkit.spec.learners import (
    FROM_RANKINGS,
    LEARNERS,
    Dpo,
    ExtraReward,
    Init,
    Kl,
    Kto,
    NoEos,
    Ppo,
    Ptx,
    StopIf,
    Value,
    Warmup,
)
from toolkit.spec.training import Optimizer, Schedule

__all__ = [
    "FROM_RANKINGS",
    "LEARNERS",
    "Checkpoint",
    "Collect",
    "Data",
    "DataFile",
    "Dedup",
    "Dpo",
    "Evaluate",
    "Export",
    "ExtraReward",
    "Folds",
    "Gate",
    "Hardware",
    "Init",
    "Kl",
    "Kto",
    "Label",
    "Labelers",
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
    select: Literal["last", "reward"] = key(
        "last",
        "reward: the epoch whose answers the reward model scores best is the SFT model of all "
        "later stages (C.1); keeps each epoch's weights",
    )
    select_prompts: int = key(512, "held-out prompts that select reads; or all", low=1)
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

    prompts: int = key(33207, "prompts per round; all there are if fewer (Table 6: 33,207)", low=1)
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
class Gate:
    """What a stage must reach for the run to go on."""

    accuracy: float = key(0.6, "held-out share of comparisons ordered rightly", low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class Reward:
    """Train the reward model on rankings (C.2, 3.5)."""

    init: Literal["sft", "base"] = key("sft", "where the backbone starts")
    epochs: int = key(1, "passes over the rankings (C.2: 1)", low=1)
    batch: int = key(64, "prompts per step; all pairs of a prompt are one element (C.2: 64)", low=1)
    element: Literal["prompt", "pair"] = key(
        "prompt",
        "what a batch counts: a prompt with all its pairs (3.5), or shuffled single pairs, which "
        "overfit",
    )
    lr: float = key(9e-6, "peak learning rate (C.2: 9e-6)", low=0.0, open_low=True)
    ties: Literal["drop", "half"] = key(
        "drop", "drop tied pairs, or count half each way (3.5: drop)"
    )
    head_std: float | None = key(
        None,
        "standard deviation of the new head's weights; null: 1 / sqrt(width + 1). A smaller one "
        "leaves less of a random function of the answer in the scores of a short training",
        low=0.0,
        open_low=True,
    )
    center_on: Literal["demonstrations"] | None = key(
        "demonstrations", "shift scores so that these average 0 (3.5); null: no shift"
    )
    gate: Gate | None = key(None, "stop the run below this; null: no gate")
    schedule: Schedule = key(Schedule, "learning rate schedule (C.2: cosine to 10 %)")
    optimizer: Optimizer = key(Optimizer, "AdamW settings")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Compare the result with where it started, on held-out prompts."""

    prompts: int = key(512, "held-out prompts used; all there are if fewer", low=1)
    weights: Literal["ema", "last"] = key(
        "ema", "weights that decide, the last where no average is kept; all are reported"
    )
    win_rate: list[Literal["oracle", "reward"]] = key(["oracle", "reward"], "judges")
    base: bool = key(False, "compare the pretrained model too")
    shots: int = key(
        0,
        "demonstrations in front of each prompt for one more model, `prompted`: the pretrained one "
        "(the paper's few-shot GPT-3); 0: none",
        low=0,
    )
    skills: int = key(
        0, "texts of the task's skills that each model completes greedily; 0: none", low=0
    )
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

    weights: Literal["ema", "last"] = key("ema", "which weights of the learner")
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
    share: str | None = key(
        None,
        "folder of run folders: a stage that one of them has finished, of the same key, is linked "
        "from there instead of run again; null: none",
    )
    hardware: Hardware = key(Hardware, "device and precision")
    models: Models = key(Models, "starting models")
    text: Text = key(Text, "tokens")
    data: Data = key(Data, "input")
    rounds: int = key(1, "times collect, label, reward and the learner run", low=1)
    pretrain: Pretrain | None = key(None, "stage for models from scratch; null: none")
    sft: Sft | None = key(Sft, "stage 1; null: the base is the SFT model")
    collect: Collect | None = key(
        Collect, "answers to rank; null: rankings come from data.rankings"
    )
    label: Label = key(Label, "who ranks")
    reward: Reward = key(Reward, "stage 2")
    folds: Folds | None = key(
        None, "accuracy of the reward model on labelers it never saw; null: not measured"
    )
    ppo: Ppo | None = key(Ppo, "stage 3; null: dpo or kto, or stop after the reward model")
    dpo: Dpo | None = key(None, "stage 3 without a reward model, in place of ppo; null: none")
    kto: Kto | None = key(None, "stage 3 without a reward model, in place of ppo; null: none")
    evaluate: Evaluate | None = key(Evaluate, "comparison at the end; null: none")
    checkpoint: Checkpoint = key(Checkpoint, "recovery")
    log: list[Literal["console", "jsonl", "tensorboard"]] = key(
        ["console", "jsonl"], "where metrics go"
    )
    export: Export | None = key(Export, "final folders; null: none")

    @property
    def learner(self) -> str | None:
        """The section that improves the policy, which is its stage's kind; None without one."""
        return next((kind for kind in LEARNERS if getattr(self, kind) is not None), None)

    @property
    def learner_name(self) -> str:
        """What people call it: PPO, A2C, DPO or KTO; PPO where the spec has none."""
        a2c = self.ppo is not None and self.ppo.algorithm == "a2c"
        return "A2C" if a2c else (self.learner or "ppo").upper()

    @property
    def ranks(self) -> bool:
        """Whether rankings are needed: by the reward model, or by a learner."""
        return self.models.reward_trained is None or self.learner in FROM_RANKINGS

    @property
    def reward_rounds(self) -> tuple[int, ...]:
        """The rounds that train a reward model: every one where it teaches, none where it is given.

        Where only rankings teach, the first where it selects the SFT model, and the last where the
        evaluation asks for its verdict or a gate waits for it.
        """
        if self.models.reward_trained is not None:
            return ()
        if self.learner not in FROM_RANKINGS:
            return tuple(range(1, self.rounds + 1))
        selects = self.sft is not None and self.sft.select == "reward"
        judged = self.evaluate is not None and "reward" in self.evaluate.win_rate
        last = judged or self.reward.gate is not None
        return tuple(sorted({*([1] if selects else []), *([self.rounds] if last else [])}))
