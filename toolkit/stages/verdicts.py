"""Verdicts over judged answers: win rate with its interval, and signs of over-optimisation.

No torch.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np


def win_rate(
    ours: Sequence[float], theirs: Sequence[float], groups: Sequence[Hashable] = ()
) -> dict[str, Any]:
    """Share of prompts won, ties one half, with the normal 95 % interval of that mean.

    Args:
        ours: scores of the answers, one per prompt.
        theirs: scores of the rival's answers to the same prompts.
        groups: of each prompt; one group is one observation in the interval. Empty: each prompt is
            its own.
    """
    difference = np.asarray(ours) - np.asarray(theirs)
    points = np.where(difference > 0, 1.0, np.where(difference < 0, 0.0, 0.5))
    mean = float(points.mean())
    half = 1.96 * _error_of_mean(points, groups)
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
    groups: Sequence[Hashable] = (),
) -> list[str]:
    """Sentences for a policy that pleases the reward model and not the oracle.

    Args:
        before: SFT's values on each prompt, under "oracle", "exact" and "reward" where present.
        after: PPO's values on the same prompts.
        curve: PPO's metrics; the oracle's running mean is compared with its own peak.
        groups: of each prompt, as in `win_rate`.
    """
    if "oracle" not in before or "reward" not in before:
        return []
    if not _rose(before, after, "reward", groups):
        return []
    was, now = (float(np.mean(side["reward"])) for side in (before, after))
    found = []
    for name, what in (("oracle", "the oracle's score"), ("exact", "the share of exact answers")):
        if _rose(after, before, name, groups):
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
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    name: str,
    groups: Sequence[Hashable],
) -> bool:
    """Whether the mean rose by more than two standard errors of the paired difference."""
    difference = np.asarray(after[name]) - np.asarray(before[name])
    return bool(difference.mean() > 2 * _error_of_mean(difference, groups))


def _error_of_mean(values: np.ndarray, groups: Sequence[Hashable]) -> float:
    """Return the standard error of the mean of values that are independent between groups only.

        error^2 = G / (G - 1) * sum over groups (sum of the group's deviations)^2 / N^2

    That of single values is the usual one. Infinite where one group is all there is.
    """
    deviations = values - values.mean()
    own = groups or range(len(values))
    places = {group: at for at, group in enumerate(dict.fromkeys(own))}
    sums = np.zeros(len(places))
    np.add.at(sums, [places[group] for group in own], deviations)
    if len(sums) < 2:
        return float("inf")
    return math.sqrt((sums @ sums) * len(sums) / (len(sums) - 1)) / len(values)


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
