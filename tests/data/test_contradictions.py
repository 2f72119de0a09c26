"""Rankings that contradict themselves are told to the user, with their lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.__main__ import main
from toolkit.data.contradictions import contradictions
from toolkit.data.prepare import load_run_text, prepare
from toolkit.data.records import Record
from toolkit.stages.kto import signs_of


def ranking(line: int, answers: str, ranks: tuple[int, ...], who: str | None = "anna", prompt="p"):
    return Record(line, prompt, tuple(answers), ranks, labeler=who)


def test_what_agrees_with_itself_is_not_mentioned():
    rankings = [
        ranking(1, "abc", (1, 2, 3)),
        ranking(2, "abc", (1, 2, 3)),
        ranking(3, "ab", (1, 1)),
        ranking(4, "ab", (2, 1), who="bert"),
        ranking(5, "ab", (2, 1), prompt="another"),
        ranking(6, "aa", (1, 1)),
    ]
    assert contradictions("r.jsonl", rankings) == []


def test_a_pair_ranked_both_ways_by_one_labeler_is_told_with_both_lines():
    rankings = [
        ranking(1, "ab", (1, 2), who="bert"),
        ranking(3, "abc", (1, 2, 3)),
        ranking(9, "cba", (1, 2, 3)),
        ranking(11, "abc", (1, 2, 3)),
    ]
    (text,) = contradictions("r.jsonl", rankings)
    assert text == (
        "r.jsonl: 3 pairs of answers are ranked both ways by the same labeler, the first on lines "
        "3 and 9 by anna; they teach nothing; ask which way is meant, and remove the other record"
    )


def test_unnamed_records_that_disagree_may_be_two_people():
    rankings = [ranking(1, "ab", (1, 2), who=None), ranking(2, "ab", (2, 1), who=None)]
    (text,) = contradictions("r.jsonl", rankings)
    assert text.startswith("r.jsonl: 1 pair of answers is ranked both ways by records that name no")
    assert "on lines 1 and 2; if they are of different people, name them in labeler" in text


def test_equal_answers_of_different_ranks_are_told():
    (text,) = contradictions("r.jsonl", [ranking(4, "aba", (1, 2, 3)), ranking(5, "aa", (2, 1))])
    assert text.startswith("r.jsonl: 2 records give one answer two ranks, the first on line 4;")


def test_check_warns_and_the_run_keeps_the_rankings(write, spec_of, tmp_path, monkeypatch, capsys):
    rows = [
        {"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2], "labeler": "anna"},
        {"prompt": "a", "chosen": "c", "rejected": "b", "labeler": "anna"},
    ]
    spec = spec_of(rankings=write("r.jsonl", *rows))
    made = prepare(spec, load_run_text(spec))
    assert len(made.records["rankings"]["all"]) == 2
    assert sum("ranked both ways by the same labeler" in text for text in made.warnings) == 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("spec.yaml").write_text(
        "extends: tiny\nmodels: {base: {architecture: gpt2}}\n"
        f"text: {{tokenizer: {spec.text.tokenizer}, max_prompt: 9, max_response: 9}}\n"
        "sft: null\ncollect: null\nppo: null\nevaluate: null\nlabel: {by: file}\n"
        "reward: {center_on: null}\ndata: {rankings: {path: r.jsonl}}\n",
        encoding="utf-8",
    )
    assert main(["check", "spec.yaml"]) == 0
    assert "warning: r.jsonl: 1 pair of answers is ranked both ways" in capsys.readouterr().err


@pytest.mark.parametrize(("gaps", "plain"), [((2, 5, 9), (1, 2, 3)), ((7, 3, 3, 9), (2, 1, 1, 3))])
def test_ranks_with_gaps_teach_what_ranks_without_teach(gaps, plain):
    import torch

    import rlhf_kernels as rk

    scores = torch.tensor([0.3, -0.2, 0.9, 0.1][: len(gaps)])
    groups = torch.tensor([0, len(gaps)])
    losses = [
        float(rk.ranking_loss(scores, torch.tensor(ranks), groups, ties="half")[0])
        for ranks in (gaps, plain)
    ]
    assert losses[0] == losses[1]
    assert signs_of(list(gaps)) == signs_of(list(plain))
