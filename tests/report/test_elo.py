"""Elo: ratings worked out by hand, ties, intervals, and models that never met."""

from __future__ import annotations

import math

import pytest

from toolkit.report.elo import rate
from toolkit.spec.errors import ToolkitError

A_WINS, B_WINS, TIE = {"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, {"a": 0.5, "b": 0.5}


def elo(prompts: list[dict[str, float]], anchor: str = "b") -> dict[str, float]:
    return {name: r.elo for name, r in rate(prompts, anchor, prior=0, draws=0).items()}


def test_three_wins_of_four_are_400_log10_of_3() -> None:
    found = elo([A_WINS] * 3 + [B_WINS])
    assert found["b"] == 1000
    assert found["a"] - 1000 == pytest.approx(400 * math.log10(3))  # 190.85


def test_a_tie_is_half_a_win_for_each() -> None:
    assert elo([TIE] * 5)["a"] == pytest.approx(1000)
    # 2 wins and 2 ties of 4: 3 points against 1
    assert elo([A_WINS] * 2 + [TIE] * 2)["a"] - 1000 == pytest.approx(400 * math.log10(3))


def test_differences_add_along_a_chain() -> None:
    """A beats b 3:1 and b beats c 2:1; a and c never meet: log10(3) + log10(2) = log10(6)."""
    chain = [A_WINS] * 3 + [B_WINS] + [{"b": 1, "c": 0}] * 2 + [{"b": 0, "c": 1}]
    assert elo(chain, "c")["a"] - 1000 == pytest.approx(400 * math.log10(6))


def test_three_models_on_the_same_prompts_by_hand() -> None:
    """In a cycle of equal wins all ratings are equal."""
    cycle = [{"a": 2, "b": 1, "c": 0}, {"a": 0, "b": 2, "c": 1}, {"a": 1, "b": 0, "c": 2}]
    assert list(elo(cycle).values()) == pytest.approx([1000] * 3)


def test_the_prior_is_one_tie_for_each_pair_that_met() -> None:
    """4 wins of 4 and one tie: 4.5 points against 0.5."""
    found = rate([A_WINS] * 4, "b", prior=1, draws=0)
    assert found["a"].elo - 1000 == pytest.approx(400 * math.log10(9))


def test_intervals_cover_the_rating_and_shrink_with_prompts() -> None:
    few = rate(([A_WINS] * 3 + [B_WINS] * 2) * 10, "b", seed=1)["a"]
    many = rate(([A_WINS] * 3 + [B_WINS] * 2) * 160, "b", seed=1)["a"]
    assert few.low < few.elo < few.high
    assert (many.high - many.low) == pytest.approx((few.high - few.low) / 4, rel=0.35)
    # half-width by hand: 400/ln10 * 1.96 / sqrt(n p (1-p)) = 69 points at n = 100
    fewer = rate(([A_WINS] * 3 + [B_WINS] * 2) * 20, "b", seed=1, draws=1000)["a"]
    assert (fewer.high - fewer.low) / 2 == pytest.approx(69.5, rel=0.15)


def test_models_that_never_met_are_refused_in_one_sentence() -> None:
    with pytest.raises(ToolkitError, match=r"^Elo: c, d never answered .* share held-out prompts"):
        rate([A_WINS, B_WINS, {"c": 1, "d": 0}, {"c": 0, "d": 1}], "a")


def test_a_model_that_never_loses_has_no_rating_without_a_prior() -> None:
    with pytest.raises(ToolkitError, match="no finite rating fits"):
        rate([A_WINS] * 4, "b", prior=0)


def test_an_anchor_without_answers_is_refused() -> None:
    with pytest.raises(ToolkitError, match="no answers of sft"):
        rate([A_WINS], "sft")


def test_groups_widen_the_interval_and_leave_the_rating() -> None:
    """Each prompt four times over is one observation: half-widths double."""
    prompts = ([A_WINS] * 3 + [B_WINS] * 2) * 20
    alone = rate(prompts, "b", seed=1, draws=1000)["a"]
    four = [row for row in prompts for _ in range(4)]
    groups = [at // 4 for at in range(len(four))]
    grouped = rate(four, "b", seed=1, draws=1000, groups=groups)["a"]
    naive = rate(four, "b", seed=1, draws=1000)["a"]
    assert grouped.elo == pytest.approx(alone.elo, abs=1)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert naive.high - naive.low == pytest.approx((alone.high - alone.low) / 2, rel=0.15)
