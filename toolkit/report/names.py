"""What the report calls the models of an evaluation, whichever learner made them."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit.report.load import Record
from toolkit.spec.schema import LEARNERS

_FIRST = {
    "base": "base",
    "prompted": "base, prompted",
    "init": "start of the policy",
    "sft": "SFT",
}
_WEIGHTS = {"ema": "EMA", "last": "last"}


def decisive(evaluation: Record) -> str:
    """Return the model that the evaluation's win rates speak of: "ppo_ema", "dpo_last"."""
    models = evaluation.get("models") or {}
    weights = (evaluation.get("weights", "ema"), *_WEIGHTS)
    wanted = [f"{kind}_{own}" for own in weights for kind in LEARNERS]
    return next((name for name in wanted if name in models), wanted[0])


def learner_of(evaluation: Record) -> str:
    """Return the name of what improved the policy: PPO, A2C, DPO or KTO."""
    return str(evaluation.get("learner") or decisive(evaluation).partition("_")[0].upper())


def label_of(model: str, learner: str) -> str:
    """Return a model's name in words: "PPO (EMA)", "DPO, round 1", "SFT"."""
    if model in _FIRST:
        return _FIRST[model]
    for mark, words in (("_", "{} ({})"), (".", "{}, round {}")):
        kind, found, rest = model.partition(mark)
        if found and kind in LEARNERS:
            return words.format(learner, _WEIGHTS.get(rest, rest))
    return model


def in_order(models: Iterable[str]) -> list[str]:
    """Sort models: those before the learner first, then as the evaluation has them."""
    early = list(_FIRST)
    return sorted(models, key=lambda name: early.index(name) if name in early else len(early))


def sampled_learner(record: Record) -> str:
    """Return the key under which a record of samples has the learner's answer."""
    return next((kind for kind in LEARNERS if kind in record), LEARNERS[0])
