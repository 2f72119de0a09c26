"""The speed that the CPU kernels are meant to reach, held against measured rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TextIO

from rlhf_kernels.bench.rows import Row, format_number

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
    """A goal with what was measured: `met` is None when its case was not part of the run."""

    goal: str
    limit: str
    measured: float | None
    low: float | None
    high: float | None
    met: bool | None


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
    ratios = [
        (row.ratio, row.ratio_p10, row.ratio_p90)
        for row in rows
        if (row.op, row.mode) == goal.case
        and (row.shape, row.dtype, row.mask_share) == (SHAPE, goal.dtype, 1.0)
        and row.provider in goal.providers
        and row.ratio is not None
        and row.ratio_p10 is not None
        and row.ratio_p90 is not None
    ]
    text = f"{goal.text}, {goal.dtype}"
    limit = f"{'<=' if goal.at_most else '>='} {goal.limit:g}"
    if not ratios:
        return Verdict(goal=text, limit=limit, measured=None, low=None, high=None, met=None)
    measured, low, high = min(ratios)
    if goal.at_most:
        measured, low, high = 1 / measured, 1 / high, 1 / low
    met = measured <= goal.limit if goal.at_most else measured >= goal.limit
    return Verdict(goal=text, limit=limit, measured=measured, low=low, high=high, met=met)


def judge_all(rows: Sequence[Row]) -> list[Verdict]:
    """Return one verdict per goal."""
    return [judge(goal, rows) for goal in make_goals()]


def to_records(verdicts: Sequence[Verdict]) -> list[dict[str, object]]:
    """Return the verdicts for JSON."""
    return [asdict(verdict) for verdict in verdicts]


def print_goals(verdicts: Sequence[Verdict], out: TextIO) -> None:
    """Print the GOALS table."""
    print(f"\nGOALS at {SHAPE} (median of the pairwise ratios, p10-p90)", file=out)
    for verdict in verdicts:
        answer = {True: "met", False: "MISSED", None: "not measured in this run"}[verdict.met]
        spread = ""
        if verdict.measured is not None:
            spread = f"{format_number(verdict.low)}-{format_number(verdict.high)}"
        number = format_number(verdict.measured)
        print(
            f"  {verdict.goal:<68} {verdict.limit:>7} {number:>7} {spread:>13}  {answer}", file=out
        )
