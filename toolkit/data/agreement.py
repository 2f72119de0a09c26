"""How often two labelers order the same pair of answers alike (InstructGPT, 3.4).

    agreement = mean over pairs of answers and couples of labelers of (1 + s * t) / 2

with s and t in {-1, 0, 1} the two labelers' orders, so a tie of one counts half; what both call a
tie is left out, since neither orders it. Serves simulated and human rankings that carry `labeler`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

Pair = tuple[str, str]
Orders = dict[Pair, dict[str, int]]

_SIGMAS = 1.959964  # of a 95 % interval


def agreement_of(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Compute the agreement of each group of labelers on the pairs that several of them ranked.

    Args:
        records: rankings with prompt, responses, ranks and labeler; those of labelers who train no
            reward model have `labeler_held_out`. Records without a labeler are passed over.

    Returns:
        group -> agreement, error (half of a 95 % interval over prompts; absent with one prompt),
        pairs, prompts. Groups: all; and, where some are held out, training, held_out, and between
        (one of each). A group that shares no pair is absent.
    """
    sums: dict[str, list[tuple[float, int]]] = defaultdict(list)
    by_prompt: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    aside: set[str] = set()
    for record in records:
        if record.get("labeler") is not None:
            by_prompt[record["prompt"]].append(record)
            if record.get("labeler_held_out"):
                aside.add(record["labeler"])
    for own in by_prompt.values():
        for group, found in _compare(_orders(own), aside).items():
            sums[group].append(found)
    return {g: _ratio(sums[g]) for g in ("all", "training", "held_out", "between") if g in sums}


def labelers_of(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Count the rankings of each labeler, in the order of their names."""
    counts = Counter(str(r["labeler"]) for r in records if r.get("labeler") is not None)
    return dict(sorted(counts.items()))


def _orders(records: Iterable[Mapping[str, Any]]) -> Orders:
    """Return pair of answers -> labeler -> order: 1 when the first is better, -1, or 0 for a tie.

    A labeler who saw a pair twice counts with the first judgement.
    """
    orders: Orders = defaultdict(dict)
    for record in records:
        for one, two in combinations(zip(record["responses"], record["ranks"], strict=True), 2):
            (first, mine), (second, other) = sorted((one, two))
            if first != second:
                order = (other > mine) - (other < mine)
                orders[first, second].setdefault(str(record["labeler"]), order)
    return orders


def _compare(orders: Orders, aside: set[str]) -> dict[str, tuple[float, int]]:
    """Return group -> (sum of agreements, comparisons) over one prompt's pairs."""
    found: dict[str, tuple[float, int]] = {}
    for who in orders.values():
        for (one, s), (two, t) in combinations(sorted(who.items()), 2):
            if s == t == 0:
                continue
            held = (one in aside) + (two in aside)
            groups = ["all", ("training", "between", "held_out")[held]] if aside else ["all"]
            for group in groups:
                alike, count = found.get(group, (0.0, 0))
                found[group] = (alike + (1 + s * t) / 2, count + 1)
    return found


def _ratio(prompts: list[tuple[float, int]]) -> dict[str, float]:
    """Return the share over all prompts; its error counts a prompt's pairs as one draw."""
    pairs = sum(count for _, count in prompts)
    mean = sum(alike for alike, _ in prompts) / pairs
    found = {"agreement": mean, "pairs": pairs, "prompts": len(prompts)}
    if len(prompts) > 1:
        spread = sum((alike - mean * count) ** 2 for alike, count in prompts)
        deviation = math.sqrt(spread * len(prompts) / (len(prompts) - 1)) / pairs
        found["error"] = _SIGMAS * deviation
    return found
