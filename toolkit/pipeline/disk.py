"""How much room the models of a run take on disk, known before it runs; weights are saved in fp32.

    finished   a stage's models, such as PPO's policy, average and value
    running    a stage's checkpoints: weights and two moments of what it trains, `checkpoint.keep`
               of them and the one being written

Known where models come from folders; a model from scratch has no size before it is made.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.pipeline.decide import Decision
from toolkit.pipeline.sizes import size_text
from toolkit.spec.model_folder import parameters
from toolkit.spec.schema import Spec

_FP32 = 4
_TRAINED = 3  # weights and two moments


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Room on disk, bytes.

    Args:
        models: what the stages that run leave.
        kept_epochs: share of it that `sft.select: reward` keeps, the last epoch apart.
        checkpoints: the most that one running stage's checkpoints take.
        free: on the disk of the run folder.
    """

    models: int
    kept_epochs: int
    checkpoints: int
    free: int


def room(spec: Spec, decisions: Sequence[Decision]) -> Disk | None:
    """Return the room that a run needs; None where its models are made from scratch."""
    base = spec.models.base.path
    policy = parameters(Path(base)) if base else None
    if policy is None:
        return None
    reward = _reward_size(spec) or policy
    waiting = [d.node.kind for d in decisions if d.action in ("runs", "continues")]
    left = [_models(spec, kind) for kind in waiting]
    held = [_checkpoint(spec, kind) for kind in waiting]
    size = _FP32 * policy, _FP32 * reward
    selects = spec.sft is not None and spec.sft.select == "reward" and "sft" in waiting
    return Disk(
        models=sum(p * size[0] + r * size[1] for p, r in left),
        kept_epochs=(spec.sft.epochs - 1) * size[0] if spec.sft and selects else 0,
        checkpoints=max((p * size[0] + r * size[1] for p, r in held), default=0)
        * (spec.checkpoint.keep + 1),
        free=shutil.disk_usage(_there(Path(spec.out))).free,
    )


def _reward_size(spec: Spec) -> int | None:
    source = spec.models.reward_trained or spec.models.reward
    return parameters(Path(source.path)) if source is not None and source.path else None


def _models(spec: Spec, kind: str) -> tuple[int, int]:
    """Return how many models of the policy's and of the reward model's size a stage leaves."""
    if kind == "sft" and spec.sft is not None:
        return (spec.sft.epochs if spec.sft.select == "reward" else 1), 0
    if kind == "ppo" and spec.ppo is not None:
        return 1 + (spec.ppo.ema is not None), 1
    if kind == "export" and spec.export is not None:
        reward = bool(spec.reward_rounds or spec.models.reward_trained)
        value = spec.ppo is not None and spec.export.value
        return 1, (spec.export.reward and reward) + value
    return int(kind in ("init", "select", "dpo", "kto")), int(kind == "reward")


def _checkpoint(spec: Spec, kind: str) -> tuple[int, int]:
    """Return the same of one checkpoint, in models' weights."""
    if kind == "ppo" and spec.ppo is not None:
        return _TRAINED + (spec.ppo.ema is not None), _TRAINED
    trains = kind in ("sft", "init", "dpo", "kto")
    return _TRAINED * trains, _TRAINED * (kind in ("reward", "folds"))


def _there(folder: Path) -> Path:
    """Return the nearest folder that exists: a run folder is made when the run starts."""
    return next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())


def disk_notes(disk: Disk | None) -> list[str]:
    """Return the sentences of `plan` on the disk."""
    if disk is None or not disk.models:
        return []
    kept = f" ({size_text(disk.kept_epochs)} of it SFT's epochs)" if disk.kept_epochs else ""
    text = (
        f"disk: about {size_text(disk.models)} of models stay{kept}, checkpoints take up to "
        f"{size_text(disk.checkpoints)} while a stage runs; {size_text(disk.free)} are free"
    )
    if disk.models + disk.checkpoints <= disk.free:
        return [text]
    fixes = ["make room", "lower checkpoint.keep", "name another disk with out"]
    fixes += ["set sft.select: last"] if disk.kept_epochs else []
    return [f"{text}, which may not suffice: {', '.join(fixes[:-1])} or {fixes[-1]}"]
