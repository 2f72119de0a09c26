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
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    curve: Sequence[Mapping[str, float]],
) -> list[str]:
    """Sentences for a policy that pleases the reward model and not the oracle.

    Args:
        before: SFT's values on each prompt, under "oracle", "exact" and "reward" where present.
        after: PPO's values on the same prompts.
        curve: PPO's metrics; the oracle's running mean is compared with its own peak.
    """
    if "oracle" not in before or "reward" not in before or not _rose(before, after, "reward"):
        return []
    was, now = (float(np.mean(side["reward"])) for side in (before, after))
    found = []
    for name, what in (("oracle", "the oracle's score"), ("exact", "the share of exact answers")):
        if _rose(after, before, name):
            high, low = (float(np.mean(side[name])) for side in (before, after))
            found.append(f"{what} fell from {high:.3f} to {low:.3f}")
    peak = _fall_from_peak([m["objective/oracle"] for m in curve if "objective/oracle" in m])
    if peak is not None:
        found.append(
            f"during PPO the oracle's score peaked at {peak[0]:.3f} and ended at {peak[1]:.3f}"
        )
    if not found:
        return []
    return [
        f"over-optimisation: the reward model's score rose from {was:.2f} to {now:.2f} while "
        f"{' and '.join(found)}; the policy exploits the reward model; raise ppo.kl.coef, stop "
        "earlier, or collect more comparisons"
    ]


def _rose(
    before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]], name: str
) -> bool:
    """Whether the mean rose by more than two standard errors of the paired difference."""
    difference = np.asarray(after[name]) - np.asarray(before[name])
    error = float(difference.std(ddof=1)) / len(difference) ** 0.5
    return bool(difference.mean() > 2 * error)


def _fall_from_peak(values: Sequence[float]) -> tuple[float, float] | None:
    """Return (peak, end) of the running mean when it ends clearly below its peak.

    Clearly: by more than 0.05, and by more than four standard errors of a window's mean, since a
    peak is the luckiest of many windows.
    """
    window = max(5, len(values) // 8)
    if len(values) < 2 * window:
        return None
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    peak, end = float(smooth.max()), float(smooth[-1])
    error = float(np.diff(values).std()) / (2 * window) ** 0.5
    return (peak, end) if peak - end > max(0.05, 4 * error) else None
