"""Elements of a reward model's batch: prompts with all their pairs, or single pairs."""

import json
import math

import pytest

from tests.end_to_end import done, run_tiny
from toolkit.data.lines import read_records
from toolkit.stages.elements import as_elements

RECORD = {
    "prompt": "p", "prompt_ids": [1], "responses_ids": [[2], [3], [4]], "ranks": [1, 2, 2],
    "scores": [3.0, 1.0, 1.0],
}  # fmt: skip


def test_a_prompt_is_one_element():
    assert as_elements([RECORD], "prompt", "drop") == [RECORD]


@pytest.mark.parametrize(("ties", "ranks"), [("drop", [[1, 2], [1, 2]]), ("half", 3)])
def test_single_pairs_of_three_answers(ties, ranks):
    pairs = as_elements([RECORD], "pair", ties)
    if ties == "half":
        assert len(pairs) == ranks
    else:
        assert [pair["ranks"] for pair in pairs] == ranks
        assert [pair["responses_ids"] for pair in pairs] == [[[2], [3]], [[2], [4]]]
    assert all(pair["prompt_ids"] == [1] for pair in pairs)


def test_pairs_are_shuffled_over_the_epoch_and_each_epoch_is_measured(tmp_path):
    run_tiny(tmp_path, "reward.element=pair", "reward.batch=16", until="reward")
    ranked = read_records(tmp_path / "stages/label.1/rankings.jsonl")
    held = {r["prompt"] for r in read_records(tmp_path / "stages/reward.1/rankings.valid.jsonl")}
    pairs = as_elements([r for r in ranked if r["prompt"] not in held], "pair", "drop")
    summary = done(tmp_path, "reward.1")["summary"]
    assert summary["steps"] == 2 * math.ceil(len(pairs) / 16)
    assert [set(epoch) for epoch in summary["by_epoch"]] == [{"accuracy", "pairs", "loss"}] * 2
    lines = (tmp_path / "stages/reward.1/metrics.jsonl").read_text().splitlines()
    measured = [m["valid_accuracy"] for m in map(json.loads, lines) if "valid_accuracy" in m]
    assert measured == [epoch["accuracy"] for epoch in summary["by_epoch"]]
    assert summary["accuracy"] == pytest.approx(measured[-1], abs=1e-9)
