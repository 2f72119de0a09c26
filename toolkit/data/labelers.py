"""Simulated labelers: people who share the oracle, differ in taste, and err.

    score(l, x, y) = (1 + taste * a[l, axis of x]) * oracle(x, y)        never less than 0 times
                   + taste * (b[l] * ln(1 + n) + sum over y's n pieces of u[l, piece] / sqrt(n))
                   + noise * e[l, x, y]

a, b, u and e are standard normal draws, each a function of the seed and of what stands in its
brackets, so a labeler judges an answer the same way each time it is shown. `a` is how much a
labeler cares for being helpful, honest or harmless; `b` likes long or short answers; `u` likes or
dislikes single words. What the labelers share is the oracle; what a reward model learns of the
rest is its own labelers' taste.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from toolkit.data.seeds import digest_int, share
from toolkit.spec.schema import Labelers, Spec

Axis = Callable[[Sequence[str]], list[str]]


class Labeler:
    """One simulated person.

    Args:
        settings: `label.labelers` of a spec.
        seed: the run's seed.
        number: which of them, from 0.
    """

    def __init__(self, settings: Labelers, seed: int, number: int) -> None:
        """Draw the person's taste."""
        self.settings, self.number = settings, number
        self.name = f"labeler {number + 1}"
        self.held_out = number >= settings.count - settings.held_out
        self._key = (seed, "labeler", number)
        self._likes_length = normal(*self._key, "length")
        self._weight = lru_cache(None)(self._draw_weight)
        self._likes = lru_cache(None)(self._draw_liking)

    def score(self, prompt: str, axis: str, response: str, oracle: float) -> float:
        """Return the person's score of an answer, from the oracle's."""
        lasting = self._weight(axis) * oracle + self.settings.taste * self._style(response)
        return lasting + self.settings.noise * normal(*self._key, "noise", prompt, response)

    def _draw_weight(self, axis: str) -> float:
        return max(0.0, 1.0 + self.settings.taste * normal(*self._key, "axis", axis))

    def _draw_liking(self, piece: str) -> float:
        return normal(*self._key, "piece", piece)

    def _style(self, response: str) -> float:
        pieces = pieces_of(response)
        liking = sum(map(self._likes, pieces)) / math.sqrt(len(pieces)) if pieces else 0.0
        return self._likes_length * math.log1p(len(pieces)) + liking


def pieces_of(response: str) -> list[str]:
    """Return an answer's words, or the letters of an answer that is a single word."""
    words = response.split()
    return words if len(words) > 1 else list(response.strip())


def normal(*parts: object) -> float:
    """Draw from the standard normal distribution, as a function of `parts` (Box-Muller)."""
    bits = digest_int(*parts)
    radius = math.sqrt(-2.0 * math.log(((bits >> 32) + 0.5) / 2.0**32))
    return radius * math.cos(2.0 * math.pi * (bits % 2**32) / 2.0**32)


def who_ranks(settings: Labelers, *place: object) -> list[int]:
    """Return the labelers of the prompt at `place`: one, or several for a share of the prompts.

    Args:
        settings: `label.labelers` of a spec.
        place: seed, round and index of the prompt.
    """
    order = sorted(range(settings.count), key=lambda n: digest_int(*place, "labeler", n))
    several = share(*place, "overlap") < settings.overlap
    return sorted(order[: settings.raters] if several else order[:1])


def axes_of(spec: Spec) -> Axis:
    """Return what names the axis of prompts: a task's "helpful", "honest", "harmless", else one."""
    if spec.data.task is not None and spec.label.fn is None:
        from toolkit.data.tasks import make_task

        task = make_task(spec.data.task)
        if hasattr(task, "categories") and hasattr(task, "axes"):
            return lambda prompts: [task.axes[kind] for kind in task.categories(prompts)]
    return lambda prompts: ["all"] * len(prompts)
