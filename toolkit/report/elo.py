"""Elo ratings of models that answered the same prompts: a Bradley-Terry fit with intervals.

    P(i beats j) = 1 / (1 + 10^((R_j - R_i) / 400))

The ratings maximise the likelihood of all pairwise results, a tie counting half a win for each
side. Intervals are a bootstrap over prompts: a prompt with all its answers is drawn or not, since
answers to one prompt are not independent. Source of the model: Bradley and Terry, 1952.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.spec.errors import ToolkitError

SCALE = 400.0 / float(np.log(10.0))
"""Elo points per unit of the Bradley-Terry log-strength."""

_STEPS = 60
_LONGEST = 2.0  # log-strength per Newton step: keeps the first steps from overshooting
_CLOSE = 1e-9


@dataclass(frozen=True)
class Rating:
    """One model's Elo, its 95 % interval, and on how many prompts it was compared."""

    elo: float
    low: float
    high: float
    prompts: int


def results(prompts: Sequence[Mapping[str, float]], models: Sequence[str]) -> np.ndarray:
    """Return who beat whom on each prompt; float [prompts, models, models].

    Args:
        prompts: model -> its score on this prompt, of the models that answered it.
        models: order of the last two axes; [p, i, j] is 1 where i scored above j, 0.5 for a tie.
    """
    scores = np.array([[row.get(name, np.nan) for name in models] for row in prompts], float)
    scores = scores.reshape(len(prompts), len(models))
    left, right = scores[:, :, None], scores[:, None, :]
    beat = np.where(left > right, 1.0, np.where(left == right, 0.5, 0.0))
    beat[np.isnan(left) | np.isnan(right)] = 0.0
    beat[:, range(len(models)), range(len(models))] = 0.0
    return beat


def rate(
    prompts: Sequence[Mapping[str, float]],
    anchor: str,
    *,
    at: float = 1000.0,
    prior: float = 1.0,
    draws: int = 200,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> dict[str, Rating]:
    """Rate every model that appears in `prompts`.

    Args:
        prompts: model -> score, one mapping per prompt; models need not all answer all prompts.
        anchor: the model whose rating is `at` by definition; its interval has no width.
        at: rating of the anchor.
        prior: ties added to each pair that was compared, so that a model that never won has a
            finite rating; 0: none.
        draws: bootstrap samples; 0: the intervals are the ratings themselves.
        seed: of the bootstrap.
        groups: of each prompt; the bootstrap draws whole groups. None: each prompt is its own.

    Raises:
        ToolkitError: the anchor answered nothing, some models never met (not even through others),
            or with prior=0 a group of models never lost to the rest, so no finite rating fits.
    """
    models = sorted({name for row in prompts for name in row})
    if anchor not in models:
        known = ", ".join(models) or "none"
        raise ToolkitError(f"Elo: no answers of {anchor}, which is to anchor; there are {known}")
    each = results(prompts, models)
    if groups is not None:
        each = sum_groups(each, groups)
    wins = each.sum(0)
    _check_connected((wins + wins.T) > 0, models)
    met = ((wins + wins.T) > 0) * (prior / 2)
    _check_bounded(wins + met > 0, models)
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(len(each), np.full(len(each), 1 / len(each)), size=draws)
    drawn = np.tensordot(counts.astype(float), each, axes=1)
    place = models.index(anchor)
    found = _fit(np.concatenate([wins[None], drawn]) + met) * SCALE
    found = found - found[:, place : place + 1] + at
    low, high = np.quantile(found[1:] if draws else found, [0.025, 0.975], axis=0)
    answered = [sum(name in row for row in prompts) for name in models]
    return {
        name: Rating(float(found[0, i]), float(low[i]), float(high[i]), answered[i])
        for i, name in enumerate(models)
    }


def sum_groups(values: np.ndarray, groups: Sequence[Hashable]) -> np.ndarray:
    """Return the sums of the rows of each group, in the order the groups appear."""
    places = {group: at for at, group in enumerate(dict.fromkeys(groups))}
    summed = np.zeros((len(places), *values.shape[1:]))
    np.add.at(summed, [places[group] for group in groups], values)
    return summed


def _fit(wins: np.ndarray) -> np.ndarray:
    """Return log-strengths [draws, models], of mean 0, by Newton's method on [draws, m, m]."""
    size = wins.shape[-1]
    games, won = wins + wins.transpose(0, 2, 1), wins.sum(2)
    strength = np.zeros(wins.shape[:2])
    for _ in range(_STEPS):
        expected = games / (1.0 + np.exp(strength[:, None, :] - strength[:, :, None]))
        slope = won - expected.sum(2)
        curve = games * (expected / np.maximum(games, 1e-300))
        curve = curve * (1.0 - expected / np.maximum(games, 1e-300))
        hessian = np.einsum("bi,ij->bij", curve.sum(2), np.eye(size)) - curve
        # the all-ones part fixes the mean, which the results do not
        step = np.linalg.solve(hessian + 1.0 / size + 1e-9 * np.eye(size), slope[..., None])[..., 0]
        longest = np.abs(step).max(1, keepdims=True)
        strength = strength + step * np.minimum(1.0, _LONGEST / np.maximum(longest, _CLOSE))
        if float(longest.max()) < _CLOSE:
            break
    centred: np.ndarray = strength - strength.mean(1, keepdims=True)
    return centred


def _reached(edges: np.ndarray, start: int) -> set[int]:
    """Return what can be reached from `start` along edges [i, j]."""
    found, waiting = {start}, [start]
    while waiting:
        for other in np.flatnonzero(edges[waiting.pop()]).tolist():
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found


def _check_connected(met: np.ndarray, models: Sequence[str]) -> None:
    inside = _reached(met, 0)
    if len(inside) < len(models):
        outside = ", ".join(name for at, name in enumerate(models) if at not in inside)
        raise ToolkitError(
            f"Elo: {outside} never answered a prompt that {models[0]} or one compared with it "
            "answered, so no rating connects them; report runs that share held-out prompts "
            "(the same data and seed)"
        )


def _check_bounded(beat: np.ndarray, models: Sequence[str]) -> None:
    """A finite fit needs a chain of wins from every model to every other (Ford, 1957)."""
    for start, name in enumerate(models):
        if len(_reached(beat, start)) < len(models) or len(_reached(beat.T, start)) < len(models):
            raise ToolkitError(
                f"Elo: {name} and those it beats never lose to, or never beat, the other models, "
                "so no finite rating fits; add a prior of one tie"
            )
