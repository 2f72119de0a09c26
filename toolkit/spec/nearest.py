"""Suggestions for a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SPELLINGS = {
    "batch_size": "batch",
    "beta": "coef",
    "clip_range": "cliprange",
    "epsilon": "eps",
    "lambda": "lam",
    "learning_rate": "lr",
    "mini_batch": "minibatch",
    "mini_batch_size": "minibatch",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "ppo_epochs": "inner_epochs",
    "kl_coef": "kl",
    "value_lr": "value",
}
"""Usual names of other tools -> ours; used when ours exists in the section."""


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` most likely stands for, or None."""
    names = list(known)
    spelled = _SPELLINGS.get(name.lower().replace("-", "_"))
    if spelled in names:
        return spelled
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower().replace("-", "_"), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a clause with the nearest known name, or with all of them when none is near."""
    names = sorted(known)
    found = nearest_name(name, names)
    if found is not None:
        return f'did you mean "{found}"?'
    return "known here: " + ", ".join(names)
