"""Rankings to pairs, for those who have no op for rankings. Standard library only."""

from __future__ import annotations

from itertools import combinations
from typing import Any


def ordered_pairs(ranks: list[int], ties: str) -> list[tuple[int, int, float]]:
    """Return (better, worse, weight); a tie is dropped, or counts half each way."""
    pairs = []
    for i, j in combinations(range(len(ranks)), 2):
        if ranks[i] != ranks[j]:
            pairs.append((i, j, 1.0) if ranks[i] < ranks[j] else (j, i, 1.0))
        elif ties == "half":
            pairs += [(i, j, 0.5), (j, i, 0.5)]
    return pairs


def preferences(records: list[dict[str, Any]]) -> list[dict[str, list[int]]]:
    """Return every pair whose ranks differ in TRL's columns, as token ids; TRL knows no ties."""
    return [
        {
            "chosen_ids": record["prompt_ids"] + record["responses_ids"][better],
            "rejected_ids": record["prompt_ids"] + record["responses_ids"][worse],
        }
        for record in records
        for better, worse, _ in ordered_pairs(record["ranks"], "drop")
    ]
