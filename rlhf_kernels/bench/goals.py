"""The speed that the kernels are meant to reach, held against measured rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, TextIO

from rlhf_kernels.bench.cases import OURS
from rlhf_kernels.bench.rows import Row, format_number, format_range

SHAPE = "512x50257"
LOGPROB = ("gather_logprobs", "forward")
EAGER = ("eager", "eager float32")
PPO = ("ppo_loss_from_logits", "forward+backward")
LINEAR_SHAPE = "4096x50257"
#: Op over a linear head -> the bare products that it is held against.
LINEAR = {
    "linear_cross_entropy": "three matmuls",
    "linear_ppo_loss": "three matmuls",
    "linear_logprobs": "four matmuls",
}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One comparison of ours on one case: with others, with a time, or with itself masked.

    Args:
        kind: "ratio": the others' time divided by ours must be at least `limit`, or, when
            `at_most`, our time divided by theirs at most that. "median_ms" and "graph_ms": that
            column of ours must be at most `limit`. "extra_mib": our peak memory less `returned_mib`
            must be at most that. "masked": our time with half of the rows
            masked divided by that with none must be at most `limit`.
        providers: names of the others; the fastest of them counts.
        dense: only rows in which everything counts; sequences always have padding.
    """

    text: str
    case: tuple[str, str]
    dtype: str
    providers: tuple[str, ...] = ()
    limit: float
    at_most: bool = False
    kind: Literal["ratio", "median_ms", "graph_ms", "masked", "extra_mib"] = "ratio"
    shape: str = SHAPE
    dense: bool = True
    returned_mib: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A goal with what was measured: `met` is None when its case was not part of the run.

    Args:
        measured: the median of the pairwise ratios, with their 10th and 90th percentile; or ms.
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
    """Return the goals of a CPU, at 512 x 50257, float32 and bfloat16."""
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
    return goals + make_linear_goals()


def make_linear_goals() -> list[Goal]:
    """Return the goals of the ops over a linear head, at 4096 x 256 x 50257."""
    goals = []
    for op, products in LINEAR.items():
        for dtype, size in (("float32", 4), ("bfloat16", 2)):
            case = {"case": (op, "forward+backward"), "dtype": dtype, "shape": LINEAR_SHAPE}
            goals += [
                Goal(
                    text=f"{op}, time / {products}",
                    providers=(products,),
                    limit=1.1,
                    at_most=True,
                    **case,
                ),
                Goal(
                    text=f"{op}, memory besides inputs and gradients",
                    limit=64,
                    kind="extra_mib",
                    returned_mib=(4096 + 50257) * 256 * size / 2**20,
                    **case,
                ),
            ]
        goals.append(
            Goal(
                text=f"{op}, plain float32 form's / time",
                providers=("eager float32",),
                limit=3,
                **case,
            )
        )
    return goals


def judge(goal: Goal, rows: Sequence[Row]) -> Verdict:
    """Find the goal's rows and compare; the fastest of the others decides."""
    cases = [
        row
        for row in rows
        if (row.op, row.mode) == goal.case
        and (row.shape, row.dtype) == (goal.shape, goal.dtype)
        and row.ratio is not None
    ]
    dense = [row for row in cases if row.mask_share == 1.0 or not goal.dense]
    ours = next((row for row in dense if row.provider == OURS), None)
    sign = "<=" if goal.at_most or goal.kind != "ratio" else ">="
    unit = " ms" if goal.kind.endswith("_ms") else " MiB" if goal.kind == "extra_mib" else ""
    verdict = Verdict(goal=f"{goal.text}, {goal.dtype}", limit=f"{sign} {goal.limit:g}{unit}")
    if ours is None:
        return verdict
    if goal.kind == "ratio":
        return compare_with_others(goal, verdict, ours, dense)
    if goal.kind == "masked":
        half = next((r for r in cases if r.provider == OURS and r.mask_share == 0.5), None)
        measured = divide(half.median_ms if half else None, ours.median_ms)
        return decide(goal, verdict, measured)
    if goal.kind == "extra_mib":
        peak = ours.peak_memory_mib
        return decide(goal, verdict, None if peak is None else peak - goal.returned_mib)
    if goal.kind == "graph_ms":
        return decide(goal, verdict, ours.graph_ms)
    return decide(goal, verdict, ours.median_ms, ours.p10_ms, ours.p90_ms, ours.best_ms)


def compare_with_others(goal: Goal, verdict: Verdict, ours: Row, rows: Sequence[Row]) -> Verdict:
    """Return the verdict on a ratio to the fastest of the goal's providers."""
    others = [row for row in rows if row.provider in goal.providers]
    if not others:
        return verdict
    other = min(others, key=lambda row: row.ratio or 0.0)
    measured, low, high = other.ratio, other.ratio_p10, other.ratio_p90
    best = divide(other.best_ms, ours.best_ms)
    if goal.at_most:
        measured, low, high, best = (divide(1.0, x) for x in (measured, high, low, best))
    return decide(goal, verdict, measured, low, high, best)


def decide(
    goal: Goal,
    verdict: Verdict,
    measured: float | None,
    low: float | None = None,
    high: float | None = None,
    best: float | None = None,
) -> Verdict:
    """Return the verdict with what was measured; without a measurement it stays open."""
    if measured is None:
        return verdict
    less = goal.at_most or goal.kind != "ratio"
    met = measured <= goal.limit if less else measured >= goal.limit
    return replace(verdict, measured=measured, low=low, high=high, best=best, met=met)


def divide(above: float | None, below: float | None) -> float | None:
    """Return the quotient, or None where a number is missing."""
    return None if above is None or not below else above / below


def judge_all(rows: Sequence[Row], goals: Sequence[Goal] | None = None) -> list[Verdict]:
    """Return one verdict per goal, by default those of a CPU."""
    return [judge(goal, rows) for goal in (make_goals() if goals is None else goals)]


def to_records(verdicts: Sequence[Verdict]) -> list[dict[str, object]]:
    """Return the verdicts for JSON."""
    return [asdict(verdict) for verdict in verdicts]


def print_goals(verdicts: Sequence[Verdict], out: TextIO) -> None:
    """Print the GOALS table."""
    title = "GOALS"
    print(f"\n{title:<70}{'goal':>11}{'median':>8}{'p10-p90':>13}{'of bests':>9}", file=out)
    for verdict in verdicts:
        answer = {True: "met", False: "MISSED", None: "not measured in this run"}[verdict.met]
        cells = (
            f"{verdict.limit:>11}{format_number(verdict.measured):>8}"
            f"{format_range(verdict.low, verdict.high):>13}{format_number(verdict.best):>9}"
        )
        print(f"  {verdict.goal:<68}{cells}  {answer}", file=out)
