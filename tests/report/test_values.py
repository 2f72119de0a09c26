"""report.json says what the run's files say."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toolkit.report import tables
from toolkit.report.load import load_run
from toolkit.report.numbers import duration, interval, memory, percent, plain
from toolkit.report.summary import summarize
from toolkit.report.write import write_report
from toolkit.spec.errors import DataError, ToolkitError


def test_values_equal_the_files(finished: Any) -> None:
    write_report(finished.path)
    report = json.loads((finished.path / "report.json").read_text())

    def read(kind: str, name: str) -> Any:
        return json.loads((finished.stage(kind) / name).read_text())

    assert report["evaluation"] == read("evaluate", "evaluation.json")
    assert report["accuracy"] == read("reward", "accuracy.json")
    assert report["data"] == read("data", "counts.json")
    assert report["lock"] == json.loads((finished.path / "lock.json").read_text())
    assert report["spec"]["ppo"]["kl"]["coef"] == 0.07
    assert report["seed"] == 7
    assert report["finished"]
    assert report["missing"] == []
    lines = [
        json.loads(line)
        for line in (finished.stage("ppo") / "metrics.jsonl").read_text().splitlines()
    ]
    kl = [line["objective/kl"] for line in lines]
    assert report["metrics"]["ppo.1"]["objective/kl"] == {
        "first": kl[0],
        "last": kl[-1],
        "min": min(kl),
        "max": max(kl),
        "count": 60,
    }
    assert report["frontier"] == [
        {
            "step": line["step"],
            "kl": line["objective/kl"],
            "score": line["objective/score"],
            "oracle": line["objective/oracle"],
        }
        for line in lines
    ]
    seconds = {stage["name"]: stage["seconds"] for stage in report["stages"]}
    assert seconds == dict.fromkeys((node.name for node in finished.nodes.values()), 12.5)


def test_a_nan_becomes_null_and_is_not_counted(finished: Any) -> None:
    report = write_report(finished.path)
    assert report["metrics"]["ppo.1"]["ppo/val/var_explained"]["count"] == 59
    finished.change_done("sft", summary={"loss": float("nan")})
    write_report(finished.path)
    report = json.loads((finished.path / "report.json").read_text())
    assert {s["name"]: s["summary"] for s in report["stages"]}["sft"] == {"loss": None}


def test_headline_names_win_rate_interval_judge_and_kl(finished: Any) -> None:
    headline = summarize(finished.path)["headline"]
    assert headline == (
        "PPO beats SFT on 78 % of held-out prompts [74, 82] by the oracle, at a KL of 3.10 nats."
    )


@pytest.mark.parametrize(
    ("low", "high", "start"),
    [
        (0.51, 0.6, "PPO beats SFT"),
        (0.45, 0.55, "PPO and SFT are level"),
        (0.2, 0.4, "PPO is worse"),
    ],
)
def test_headline_follows_the_interval(
    with_evaluation: Any, evaluation: Any, low: float, high: float, start: str
) -> None:
    evaluation["judges"]["oracle"] |= {"win_rate": (low + high) / 2, "low": low, "high": high}
    assert summarize(with_evaluation(evaluation))["headline"].startswith(start)


def test_headline_without_an_oracle_uses_the_reward_model(
    with_evaluation: Any, evaluation: Any
) -> None:
    del evaluation["judges"]["oracle"]
    headline = summarize(with_evaluation(evaluation))["headline"]
    assert "85 % of held-out prompts [82, 88] by the reward model" in headline


def test_comparison_marks_the_deciding_weights(evaluation: Any) -> None:
    header, rows = tables.comparison(evaluation)
    assert header == ("", "SFT", "PPO (EMA) *", "PPO (last)", "change")
    cells = {row[0]: row[1:] for row in rows}
    assert cells["exact answers"] == ("39.8 %", "74.1 %", "75.0 %", "+34.3 points")
    assert cells["oracle score"] == ("0.606", "0.913", "0.920", "+0.307")
    evaluation["weights"] = "last"
    header, rows = tables.comparison(evaluation)
    assert header[3] == "PPO (last) *"
    assert {row[0]: row[-1] for row in rows}["oracle score"] == "+0.314"


def test_comparison_leaves_out_what_was_not_measured(evaluation: Any) -> None:
    for figures in evaluation["models"].values():
        del figures["oracle"], figures["exact"], figures["perplexity"]
    labels = [row[0] for row in tables.comparison(evaluation)[1]]
    assert labels[:3] == ["reward model's score", "KL, nats per answer", "length, tokens"]
    assert labels[3:] == ["ended by end-of-text"]


def test_counts_of_the_data_name_each_rule_that_dropped_something(finished: Any) -> None:
    header, rows = tables.data_counts(summarize(finished.path)["data"])
    assert header == ("", "read", "kept", "train", "valid", "tokens", "dropped")
    dropped = "8 prompt over 6 tokens, 2 duplicate"
    assert rows[0] == ("demonstrations", "4,000", "3,990", "3,600", "390", "", dropped)
    assert [row[-1] for row in rows[1:]] == ["nothing", "nothing"]


def test_oracle_scores_by_kind_of_instruction(evaluation: Any) -> None:
    assert tables.by_kind(evaluation) == ((), [])
    evaluation["by_kind"] = {
        "secret": {"prompts": 64, "sft": {"oracle": 0.5}, "ppo_ema": {"oracle": 0.875}}
    }
    header, rows = tables.by_kind(evaluation)
    assert header == ("kind of instruction", "prompts", "SFT", "PPO (EMA)")
    assert rows == [("secret", "64", "0.500", "0.875")]


def test_an_unreadable_line_is_named_with_file_and_line(finished: Any) -> None:
    path = finished.stage("ppo") / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], "{broken", *lines[4:]]) + "\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl:5"):
        load_run(finished.path)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"no such run folder"):
        summarize(tmp_path / "nothing")
    with pytest.raises(ToolkitError, match=r"no spec\.resolved\.yaml"):
        summarize(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (-0.0001, "-1.00e-04"),
        (0.6064, "0.606"),
        (3.14159, "3.14"),
        (123.456, "123.5"),
        (12345.6, "12,346"),
        (12345, "12,345"),
        (None, "-"),
        (True, "-"),
        (float("nan"), "-"),
    ],
)
def test_numbers_are_short(value: Any, text: str) -> None:
    assert plain(value) == text


def test_units() -> None:
    assert [duration(s) for s in (3.21, 125, 11220, None)] == [
        "3.2 s",
        "2 min 05 s",
        "3 h 07 min",
        "-",
    ]
    assert [memory(m) for m in (7e8, 2.5e9)] == ["700 MB", "2.50 GB"]
    assert [memory(m) for m in (None, math.nan)] == ["-", "-"]
    assert percent(0.781, 1) == "78.1 %"
    assert interval(0.742, 0.82) == "[74, 82]"
    assert interval(None, 0.8) == ""


def test_the_report_loads_no_torch(finished: Any) -> None:
    code = (
        "import sys; from toolkit.report.write import write_report; "
        f"write_report({str(finished.path)!r}); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
