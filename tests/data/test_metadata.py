"""Ratings from 1 to 7 and flags of each answer: checked, carried through, summed up."""

from __future__ import annotations

import pytest

from toolkit.data.metadata import summarize_metadata
from toolkit.data.prepare import load_run_text, prepare
from toolkit.spec.errors import DataError

RANKING = {"prompt": "Q", "responses": ["a", "b" * 9, "c"], "ranks": [3, 2, 1]}


def test_metadata_follows_its_answer_to_the_rankings(write, spec_of):
    said = {
        "ratings": [1, 4, 7],
        "metadata": [{"harmful": True}, {"harmful": False}, {"harmful": False, "opinion": True}],
        "source": ["sft", "sft", "ppo"],
    }
    spec = spec_of(rankings=write("r.jsonl", RANKING | said), text={"max_response": 5})
    (row,) = prepare(spec, load_run_text(spec)).records["rankings"]["all"]
    assert row["responses"] == ["a", "c"]
    assert row["metadata"] == [
        {"harmful": True, "quality": 1},
        {"harmful": False, "opinion": True, "quality": 7},
    ]
    assert row["source"] == ["sft", "ppo"]
    assert summarize_metadata([row, {"ranks": [1, 2]}]) == {
        "ppo": {"rated": 1, "quality": 7.0, "flags": {"harmful": 0.0, "opinion": 1.0}},
        "sft": {"rated": 1, "quality": 1.0, "flags": {"harmful": 1.0}},
    }


def test_rankings_without_metadata_stay_as_they_were(write, spec_of):
    spec = spec_of(rankings=write("r.jsonl", RANKING))
    (row,) = prepare(spec, load_run_text(spec)).records["rankings"]["all"]
    assert "metadata" not in row
    assert summarize_metadata([row]) == {}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"ratings": [1, 2]}, "ratings  expected one entry per answer (3), got 2"),
        ({"ratings": 5}, "ratings  expected a list"),
        ({"ratings": [1, 8, 2]}, "ratings.1  expected a whole number from 1 (worst) to 7 (best)"),
        ({"ratings": [1, 0, 2]}, "ratings.1  expected a whole number"),
        ({"ratings": [1, 2.5, 2]}, "ratings.1  expected a whole number"),
        ({"ratings": [1, True, 2]}, "ratings.1  expected a whole number"),
        ({"metadata": [{}, {}]}, "metadata  expected one entry per answer (3), got 2"),
        ({"metadata": [{}, 3, {}]}, "metadata.1  expected {name: value}"),
        ({"metadata": [{}, {"harmful": 1}, {}]}, "metadata.1.harmful  expected true or false"),
        ({"metadata": [{}, {"quality": 9}, {}]}, "metadata.1.quality  expected a whole number"),
        (
            {"ratings": [1, 2, 3], "metadata": [{"quality": 1}, {}, {}]},
            "ratings.0  metadata rates this answer too; give one of the two",
        ),
        ({"source": ["sft", 3, "ppo"]}, "source.1  expected text"),
    ],
)
def test_wrong_metadata_is_refused_by_name(write, spec_of, said, message):
    spec = spec_of(rankings=write("r.jsonl", RANKING | said))
    with pytest.raises(DataError) as caught:
        prepare(spec, load_run_text(spec))
    assert message in str(caught.value)
