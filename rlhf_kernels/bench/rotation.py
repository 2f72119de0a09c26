"""Which copy of the inputs a provider gets in which round, so that no run finds them in a cache.

Emptying the cache between runs would leave its traffic in flight while the next run is timed.
Instead there are so many copies that a copy has left the cache before its turn comes again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

#: Bytes that pass between two uses of a copy, in sizes of the cache: replacement is not exact.
CACHES_BETWEEN = 4
MAX_COPIES = 256


def count_copies(case_bytes: float, cache_bytes: int) -> int:
    """Return how many copies of inputs of this size outgrow the cache, at most MAX_COPIES."""
    wanted = math.ceil(CACHES_BETWEEN * cache_bytes / max(case_bytes, 1.0))
    return max(1, min(MAX_COPIES, wanted))


def outgrows_cache(copies: int, case_bytes: float, cache_bytes: int) -> bool:
    """Say whether so many copies are enough; tiny inputs stay in the cache whatever is done."""
    return copies * case_bytes >= CACHES_BETWEEN * cache_bytes


def plan_turns(providers: int, copies: int, rounds: int) -> Iterator[list[tuple[int, int]]]:
    """Yield groups of turns (provider, copy), in the order in which they run.

    Each round has every provider once and starts with another one. The copies are taken in a
    circle through all rounds; a group holds each copy at most once, so that all its inputs can be
    restored before its first turn is timed.
    """
    group: list[tuple[int, int]] = []
    turn = 0
    for number in range(rounds):
        for position in range(providers):
            group.append(((position + number) % providers, turn % copies))
            turn += 1
            if len(group) == copies:
                yield group
                group = []
    if group:
        yield group
