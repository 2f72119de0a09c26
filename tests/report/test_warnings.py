"""Warnings appear when, and only when, they are due."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolkit.report.summary import summarize
from toolkit.stages.verdicts import over_optimisation


def kinds(path: Path) -> list[str]:
    """Return the kinds of the warnings in the report of a run."""
    return [warned["kind"] for warned in summarize(path)["warnings"]]


def test_a_good_run_has_no_warning(finished: Any) -> None:
    assert kinds(finished.path) == []


def test_over_optimisation_stands_first_and_once(finished: Any, evaluation: Any) -> None:
    before = {"oracle": [0.604, 0.608], "exact": [0.0, 1.0], "reward": [0.0, 0.1]}
    after = {"oracle": [0.41, 0.41], "exact": [0.0, 1.0], "reward": [2.0, 2.1]}
    said = over_optimisation(before, after, [])
    assert said, "the stage's own rule no longer sees this"
    (finished.stage("evaluate") / "evaluation.json").write_text(
        json.dumps(evaluation | {"warnings": said})
    )
    finished.change_done("evaluate", warnings=said)
    finished.change_done("sft", warnings=["something small"])
    warnings = summarize(finished.path)["warnings"]
    assert [w["kind"] for w in warnings] == ["over_optimisation", "stage"]
    assert warnings[0] == {"kind": "over_optimisation", "stage": "evaluate", "text": said[0]}
    assert "0.606 to 0.410" in said[0]


@pytest.mark.parametrize(("low", "due"), [(0.48, True), (0.5, True), (0.51, False)])
def test_not_better_when_the_interval_reaches_one_half(
    with_evaluation: Any, evaluation: Any, low: float, due: bool
) -> None:
    evaluation["judges"]["oracle"] |= {"win_rate": 0.55, "low": low, "high": 0.62}
    assert ("not_better" in kinds(with_evaluation(evaluation))) is due


def test_not_better_listens_to_the_oracle_before_the_reward_model(
    with_evaluation: Any, evaluation: Any
) -> None:
    evaluation["judges"]["reward"]["low"] = 0.3
    assert kinds(with_evaluation(evaluation)) == []


@pytest.mark.parametrize(("after", "due"), [(3.30, False), (3.40, True)])
def test_forgetting_when_perplexity_rises_by_five_percent(
    with_evaluation: Any, evaluation: Any, after: float, due: bool
) -> None:
    evaluation["models"]["ppo_ema"]["perplexity"] = after
    assert ("perplexity" in kinds(with_evaluation(evaluation))) is due


def test_the_fix_for_forgetting_knows_whether_ptx_is_on(
    with_evaluation: Any, evaluation: Any
) -> None:
    evaluation["models"]["ppo_ema"]["perplexity"] = 9.9
    [warned] = summarize(with_evaluation(evaluation))["warnings"]
    assert "from 3.21 to 9.90" in warned["text"]
    assert warned["text"].endswith("raise ppo.ptx.coef.")


def test_a_model_that_was_never_pretrained_forgets_nothing(
    unpretrained: Any, evaluation: Any
) -> None:
    evaluation["models"]["ppo_ema"]["perplexity"] = 9.9
    unpretrained.finish_all(evaluation)
    assert summarize(unpretrained.path)["evaluation"] == evaluation
    assert kinds(unpretrained.path) == []


@pytest.mark.parametrize(("rate", "due"), [(0.93, False), (0.9, True)])
def test_answers_that_end_less_often(
    with_evaluation: Any, evaluation: Any, rate: float, due: bool
) -> None:
    evaluation["models"]["ppo_ema"]["eos_rate"] = rate
    assert ("end_of_text" in kinds(with_evaluation(evaluation))) is due


@pytest.mark.parametrize(("value", "due"), [(0.59, True), (0.61, False)])
def test_a_reward_model_near_chance(folder: Any, evaluation: Any, value: float, due: bool) -> None:
    folder.finish_all(accuracy={"valid": {"accuracy": value, "pairs": 700}})
    assert ("reward_accuracy" in kinds(folder.path)) is due


@pytest.mark.parametrize(("shift", "due"), [(0.0, False), (-1.0, True)])
def test_a_kl_that_stays_negative(finished: Any, shift: float, due: bool) -> None:
    noise = [0.3 * (-1) ** i + shift for i in range(40)]
    lines = [json.dumps({"step": i + 1, "objective/kl": kl}) for i, kl in enumerate(noise)]
    (finished.stage("ppo") / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert ("negative_kl" in kinds(finished.path)) is due


def test_a_gate_is_told_once_though_the_stage_also_warns(finished: Any) -> None:
    text = "PPO stopped before iteration 9: the KL is 51.0"
    finished.change_done("ppo", gate=text, warnings=[text])
    assert summarize(finished.path)["warnings"] == [
        {"kind": "gate", "stage": "ppo.1", "text": text}
    ]


@pytest.mark.parametrize(("accuracy", "due"), [(0.58, True), (0.62, False)])
def test_a_reward_gate_counts_by_the_spec_of_today(
    finished: Any, accuracy: float, due: bool
) -> None:
    finished.change_done("reward", gate="below the gate", summary={"accuracy": accuracy})
    assert ("gate" in kinds(finished.path)) is due


def test_a_spec_of_another_version_is_said_and_the_rest_shown(finished: Any) -> None:
    path = finished.path / "spec.resolved.yaml"
    path.write_text(path.read_text() + "forgotten_key: 1\n")
    report = summarize(finished.path)
    assert [w["kind"] for w in report["warnings"]] == ["spec"]
    assert "forgotten_key" in report["warnings"][0]["text"]
    assert report["finished"]
