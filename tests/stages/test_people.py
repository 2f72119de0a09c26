"""People's rankings find the answers that were sampled."""

from __future__ import annotations

import json

import pytest

from toolkit.spec.errors import DataError, StageFailed, WaitsForLabels
from toolkit.spec.load import examine_spec
from toolkit.stages.people import ranked_in_file, ranked_in_run

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


def ranked_in_folder(tmp_path, *lines, samples=(SAMPLE,), quorum=0.98):
    file = tmp_path / "ranked" / "label.1.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(line + "\n" for line in lines))
    return ranked_in_run("label.1", str(tmp_path), list(samples), quorum)


def ranking(*answers, **more):
    ranks = list(range(1, 1 + len(answers)))
    return json.dumps({"prompt": "p", "responses": answers, "ranks": ranks, **more})


def test_rankings_of_the_run_folder_keep_what_was_sampled_and_the_last_word(tmp_path):
    first, last = ranking("a", "", labeler="ann"), ranking("", "a", labeler="ann", ratings=[6, 2])
    (record,), warnings = ranked_in_folder(tmp_path, first, last)
    assert record["responses_ids"] == [[], [1]]
    assert (record["ranks"], record["labeler"]) == ([1, 2], "ann")
    assert record["metadata"] == [{"quality": 6}, {"quality": 2}]
    assert warnings == []


def test_rankings_of_answers_that_are_gone_are_left_out_with_a_warning(tmp_path):
    (record,), (warning,) = ranked_in_folder(tmp_path, ranking("a", "old"), ranking("a", " "))
    assert record["responses"] == ["a", " "]
    assert warning.endswith("rankings of answers that were collected earlier are left out (1)")


def test_prompts_that_nobody_ranked_are_left_out_above_the_quorum(tmp_path):
    others = [SAMPLE | {"prompt": f"other {n}"} for n in range(3)]
    _, (warning,) = ranked_in_folder(
        tmp_path, ranking("a", ""), samples=(SAMPLE, *others), quorum=0.25
    )
    assert warning.endswith("ranks 1 of 4 prompts; 3 are left out")
    with pytest.raises(WaitsForLabels, match=r"1 of 4 prompts are ranked; .* until 2 are"):
        ranked_in_folder(tmp_path, ranking("a", ""), samples=(SAMPLE, *others), quorum=0.26)


def test_a_line_that_somebody_broke_is_a_problem_with_its_place(tmp_path):
    with pytest.raises(DataError) as caught:
        ranked_in_folder(tmp_path, ranking("a", ""), '{"prompt": "p"}')
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(tmp_path / "ranked/label.1.jsonl"), 2)


def test_answers_that_are_all_the_same_cannot_be_ranked(tmp_path):
    same = SAMPLE | {"responses": ["a", "a"]}
    with pytest.raises(StageFailed, match="no prompt has two different answers"):
        ranked_in_folder(tmp_path, samples=(same,))
