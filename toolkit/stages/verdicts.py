"""Verdicts over judged answers: win rate with its interval, and signs of over-optimisation.

No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Share of prompts won, ties one half, with the normal 95 % interval of that mean."""
    difference = np.asarray(ours) - np.asarray(theirs)
    points = np.where(difference > 0, 1.0, np.where(difference < 0, 0.0, 0.5))
    mean = float(points.mean())
    half = 1.96 * float(points.std(ddof=1)) / len(points) ** 0.5 if len(points) > 1 else 0.5
    return {
        "win_rate": mean,
        "low": max(0.0, mean - half),
        "high": min(1.0, mean + half),
        "wins": int((difference > 0).sum()),
        "ties": int((difference == 0).sum()),
        "losses": int((difference < 0).sum()),
    }


def over_optimisation(
    before: Mapping[str, float], after: Mapping[str, float], curve: Sequence[Mapping[str, float]]
) -> list[str]:
    """Sentences for a policy that pleases the reward model and not the oracle.

    Args:
        before: figures of SFT; "oracle", "exact" and "reward" are read where present.
        after: the same figures of PPO.
        curve: PPO's metrics; the oracle's running mean is compared with its own peak.
    """
    if "oracle" not in before or "reward" not in before or after["reward"] <= before["reward"]:
        return []
    rose = f"the reward model's score rose from {before['reward']:.2f} to {after['reward']:.2f}"
    cure = (
        "the policy exploits the reward model; raise ppo.kl.coef, stop earlier, "
        "or collect more comparisons"
    )
    found = []
    for name, what in (("oracle", "the oracle's score"), ("exact", "the share of exact answers")):
        if after[name] < before[name]:
            found.append(f"{what} fell from {before[name]:.3f} to {after[name]:.3f}")
    peak = _fall_from_peak([m["objective/oracle"] for m in curve if "objective/oracle" in m])
    if peak is not None:
        found.append(
            f"during PPO the oracle's score peaked at {peak[0]:.3f} and ended at {peak[1]:.3f}"
        )
    return [f"over-optimisation: {rose} while {' and '.join(found)}; {cure}"] if found else []


def _fall_from_peak(values: Sequence[float], window: int = 5) -> tuple[float, float] | None:
    """(peak, end) of the running mean when it ends more than 0.05 below its peak."""
    if len(values) < 2 * window:
        return None
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    peak, end = float(smooth.max()), float(smooth[-1])
    return (peak, end) if peak - end > 0.05 else None
