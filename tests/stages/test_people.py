"""People's rankings find the answers that were sampled."""

from __future__ import annotations

import json

import pytest

from toolkit.spec.errors import DataError
from toolkit.spec.load import examine_spec
from toolkit.stages.people import ranked_in_file

SAMPLE = {
    "prompt": "p",
    "prompt_ids": [7],
    "responses": ["a", "a", " ", ""],
    "responses_ids": [[1], [1], [2], []],
    "finished": [True, False, True, True],
    "source": ["sft", "base", "sft", "base"],
}


def ranked(tmp_path, *rows, samples=(SAMPLE,)):
    file = tmp_path / "ranked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ranked_in_file(str(file), list(samples))


def test_equal_and_empty_answers_keep_what_was_sampled(tmp_path):
    row = {"prompt": "p", "responses": ["", "a", "a", " "], "ranks": [4, 1, 2, 3]}
    (record,), warnings = ranked(tmp_path, row)
    assert record["responses_ids"] == [[], [1], [1], [2]]
    assert record["finished"] == [True, True, False, True]
    assert record["source"] == ["base", "sft", "base", "sft"]
    assert record["ranks"] == [4, 1, 2, 3]
    assert record["prompt_ids"] == [7]
    assert [text for text in warnings if "give" not in text] == []


def test_answers_of_a_prompt_that_was_asked_twice_may_be_ranked_together(tmp_path):
    other = SAMPLE | {"responses": ["b", "c"], "responses_ids": [[3], [4]]}
    row = {"prompt": "p", "responses": ["c", "a"], "ranks": [1, 2]}
    (record,), _ = ranked(tmp_path, row, samples=(SAMPLE, other))
    assert record["responses_ids"] == [[4], [1]]


def test_many_problems_are_shortened_without_a_fix_that_label_file_has_not(tmp_path):
    rows = [{"prompt": "p", "responses": ["x", "a"], "ranks": [1, 2]}] * 30
    for many in (rows, [{"prompt": "p"}] * 30):
        with pytest.raises(DataError) as caught:
            ranked(tmp_path, *many)
        assert caught.value.problems[-1].message == "and 10 more bad records"


def test_folds_take_the_labelers_of_people(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "extends: tiny\ndata: {task: {name: sort}}\ntext: {max_prompt: 6}\n"
        "label: {by: people}\nfolds: {count: 2}\n"
    )
    assert [p for p in examine_spec(str(spec)).problems if p.path == "folds"] == []
