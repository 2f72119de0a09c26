"""How many records a run works on, from the scan of its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Records after the rules of the data stage; None: the run has none.

    Args:
        demonstrations: training demonstrations.
        prompts: training prompts, for collect and PPO.
        valid_prompts: held-out prompts, for evaluate.
        rankings: ranked prompts of data.rankings, before a share of them is held out.
    """

    demonstrations: int | None = None
    prompts: int | None = None
    valid_prompts: int | None = None
    rankings: int | None = None


def counts_of(scanned: Mapping[str, Mapping[str, int]]) -> Counts:
    """Pick the figures that decide how much work a stage has out of a scan's counts."""

    def find(kind: str, side: str) -> int | None:
        return scanned[kind].get(side) if kind in scanned else None

    return Counts(
        demonstrations=find("demonstrations", "train"),
        prompts=find("prompts", "train"),
        valid_prompts=find("prompts", "valid"),
        rankings=find("rankings", "kept"),
    )
