"""Sections of a spec about who ranks answers, and how far their judgement carries.

`key(default, text, ...)` declares a field; see `toolkit.spec.schema`, which holds the other
stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.spec.inputs import ModelFolder, key


@dataclass(frozen=True, kw_only=True)
class Labelers:
    """Simulated people who share the oracle and differ in taste; each prompt goes to one of them.

    One of them scores an answer, in the oracle's units, as oracle + taste * bias + noise * draw.
    """

    count: int = key(5, "labelers", low=1)
    held_out: int = key(
        0, "the last of them, whose rankings train no reward model but judge it (paper, 4.1)", low=0
    )
    overlap: float = key(
        0.1, "share of prompts ranked by several, to compute agreement from", low=0.0, high=1.0
    )
    raters: int | None = key(None, "labelers who rank such a prompt; null: all of them", low=2)
    taste: float = key(
        0.25, "size of a labeler's lasting bias: length, words, weight of each axis", low=0.0
    )
    noise: float = key(0.35, "standard deviation of a single judgement's error", low=0.0)


@dataclass(frozen=True, kw_only=True)
class Label:
    """Turn collected answers into rankings."""

    by: Literal["oracle", "people", "file", "model"] = key(
        "oracle",
        "who ranks; people: the collected answers, on the page of `python -m toolkit label` or in "
        "label.file; file: data.rankings, with collect: null",
    )
    file: str | None = key(
        None,
        "rankings of the collected answers, with by: people; null: those of the run folder, which "
        "`python -m toolkit label` makes while the run waits",
        kind="path",
    )
    overlap: float = key(
        0.1,
        "share of prompts that `python -m toolkit label` gives to everybody, to compute agreement "
        "from; each other one goes to one labeler",
        low=0.0,
        high=1.0,
    )
    quorum: float = key(
        0.98,
        "share of prompts that must be ranked before a run goes on, with by: people and file: null",
        low=0.0,
        high=1.0,
    )
    fn: str | None = key(
        None, "oracle (prompts, responses) -> scores; null: the task's own", kind="function"
    )
    model: ModelFolder | None = key(None, "reward model that ranks, with by: model")
    ties: bool = key(
        True,
        "equal scores are a tie; false: the earlier answer wins, and on the page of "
        "`python -m toolkit label` no two answers share a rank",
    )
    labelers: Labelers | None = key(
        None, "simulated labelers, with by: oracle; null: the oracle itself ranks"
    )


def own_rankings(stage: str) -> str:
    """Return where people's rankings for the stage `stage` lie, from the run folder."""
    return f"ranked/{stage}.jsonl"


@dataclass(frozen=True, kw_only=True)
class Folds:
    """Reward models that each never saw a group of labelers, judged by that group (paper, 4.1)."""

    count: int = key(
        5, "groups of labelers, each the cost of one more reward training (4.1: 5)", low=2
    )
