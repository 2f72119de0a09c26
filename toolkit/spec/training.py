"""Sections that every training stage of a spec takes: optimizer and learning rate schedule.

`key(default, text, ...)` declares a field; see `toolkit.spec.schema`, which holds the stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.spec.inputs import key


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
