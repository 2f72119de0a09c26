"""The speed that the CPU kernels are meant to reach, held against measured rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TextIO

from rlhf_kernels.bench.cases import OURS
from rlhf_kernels.bench.rows import Row, format_number, format_range

SHAPE = "512x50257"
LOGPROB = ("gather_logprobs", "forward")
EAGER = ("eager", "eager float32")
PPO = ("ppo_loss_from_logits", "forward+backward")


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One comparison of ours with others on one case.

    Args:
        providers: names of the others; the fastest of them counts.
        limit: the others' time divided by ours must be at least this, or, when `at_most`,
            our time divided by theirs at most this.
    """

    text: str
    case: tuple[str, str]
    dtype: str
    providers: tuple[str, ...]
    limit: float
    at_most: bool = False


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A goal with what was measured: `met` is None when its case was not part of the run.

    Args:
        measured: the median of the pairwise ratios, with their 10th and 90th percentile.
        best: the ratio of the two shortest times; only for reading, it decides nothing.
    """

    goal: str
    limit: str
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    best: float | None = None
    met: bool | None = None


def make_goals() -> list[Goal]:
    """Return the goals at 512 x 50257, float32 and bfloat16."""
    goals = []
    for dtype in ("float32", "bfloat16"):
        plain = "log-prob + entropy, time / torch.compile's plain log-prob"
        eager = "log-prob + entropy, eager's / time"
        goals += [
            Goal(
                text=plain,
                case=LOGPROB,
                dtype=dtype,
                providers=("torch.compile plain",),
                limit=0.6,
                at_most=True,
            ),
            Goal(text=eager, case=LOGPROB, dtype=dtype, providers=EAGER, limit=20),
        ]
    for dtype in ("float32", "bfloat16"):
        compiled = "PPO from logits, torch.compile's / time"
        eager = "PPO from logits, eager's / time"
        goals += [
            Goal(text=compiled, case=PPO, dtype=dtype, providers=("torch.compile",), limit=8),
            Goal(text=eager, case=PPO, dtype=dtype, providers=EAGER, limit=16),
        ]
    return goals


def judge(goal: Goal, rows: Sequence[Row]) -> Verdict:
    """Find the goal's rows and compare; the fastest of the others decides."""
    here = [
        row
        for row in rows
        if (row.op, row.mode) == goal.case
        and (row.shape, row.dtype, row.mask_share) == (SHAPE, goal.dtype, 1.0)
        and row.ratio is not None
    ]
    ours = next((row for row in here if row.provider == OURS), None)
    others = [row for row in here if row.provider in goal.providers]
    text = f"{goal.text}, {goal.dtype}"
    limit = f"{'<=' if goal.at_most else '>='} {goal.limit:g}"
    if not ours or not others:
        return Verdict(goal=text, limit=limit)
    other = min(others, key=lambda row: row.ratio or 0.0)
    measured, low, high = other.ratio, other.ratio_p10, other.ratio_p90
    best = divide(other.best_ms, ours.best_ms)
    if goal.at_most:
        measured, low, high, best = (divide(1.0, x) for x in (measured, high, low, best))
    met = None
    if measured is not None:
        met = measured <= goal.limit if goal.at_most else measured >= goal.limit
    return Verdict(
        goal=text, limit=limit, measured=measured, low=low, high=high, best=best, met=met
    )


def divide(above: float | None, below: float | None) -> float | None:
    """Return the quotient, or None where a number is missing."""
    return None if above is None or not below else above / below


def judge_all(rows: Sequence[Row]) -> list[Verdict]:
    """Return one verdict per goal."""
    return [judge(goal, rows) for goal in make_goals()]


def to_records(verdicts: Sequence[Verdict]) -> list[dict[str, object]]:
    """Return the verdicts for JSON."""
    return [asdict(verdict) for verdict in verdicts]


def print_goals(verdicts: Sequence[Verdict], out: TextIO) -> None:
    """Print the GOALS table."""
    title = f"GOALS at {SHAPE}"
    print(f"\n{title:<70}{'goal':>7}{'median':>8}{'p10-p90':>13}{'of bests':>9}", file=out)
    for verdict in verdicts:
        answer = {True: "met", False: "MISSED", None: "not measured in this run"}[verdict.met]
        cells = (
            f"{verdict.limit:>7}{format_number(verdict.measured):>8}"
            f"{format_range(verdict.low, verdict.high):>13}{format_number(verdict.best):>9}"
        )
        print(f"  {verdict.goal:<68}{cells}  {answer}", file=out)
