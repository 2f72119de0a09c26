"""The coefficient of the KL penalty while PPO runs: fixed, or adaptive (detail 26)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from toolkit.spec.schema import Kl

_MOST = 0.2  # largest relative error that counts (arXiv:1909.08593, 2.2)


class KlControl:
    """Hold the section `ppo.kl`, as `now`; the adaptive controller moves its coefficient.

        coef *= 1 + clip(KL / target - 1, -0.2, 0.2) * episodes / horizon

    Args:
        config: as in the spec; KL and target are nats per response.
    """

    def __init__(self, config: Kl) -> None:
        """Start at the spec's coefficient."""
        self.now = config

    def update(self, kl: float, episodes: int) -> None:
        """Take the mean KL of an iteration of so many episodes into account."""
        target = self.now.target
        if self.now.controller == "fixed" or target is None:
            return
        error = min(max(kl / target - 1.0, -_MOST), _MOST)
        coef = self.now.coef * (1.0 + error * episodes / self.now.horizon)
        self.now = replace(self.now, coef=coef)

    def state(self) -> dict[str, Any]:
        """Return the coefficient."""
        return {"coef": self.now.coef}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.now = replace(self.now, coef=float(state["coef"]))
