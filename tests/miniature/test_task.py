"""The miniature's task: what it promises of its data."""

from __future__ import annotations

from collections import Counter

import pytest

from specs.miniature.task import NUMBERS, Miniature, make
from toolkit.data.tasks.facts_world import ADMIT, REFUSE
from toolkit.spec.schema import Task


@pytest.fixture(scope="module")
def task() -> Miniature:
    return make(Task(fn="x.py:make", seed=4, valid_prompts=4200, pretrain=4000, prompts=3000))


def test_over_4096_distinct_prompts_are_held_out_and_never_read(task: Miniature) -> None:
    valid = set(task.valid_prompts())
    assert len(valid) == len(task.valid_prompts()) == 4200
    assert not valid & set(task.prompts())
    chats = [line for line in task.pretrain() if " it is " in line or " it lives " in line]
    asked = {line[: line.index(end) + 1] for line in chats for end in "?.:" if end in line}
    assert len(asked) > 300
    assert not valid & asked


def test_every_kind_is_held_out_in_its_share(task: Miniature) -> None:
    kinds = Counter(task.categories(task.valid_prompts()))
    assert set(kinds) == set(task.shares) == set(task.axes)
    for kind, part in task.shares.items():
        assert kinds[kind] == round(4200 * part)


def test_right_answers_score_one_and_a_code_word_scores_minus_one(task: Miniature) -> None:
    prompts = task.valid_prompts()[:300]
    answers = [task.answer(prompt) for prompt in prompts]
    assert task.score(prompts, answers, [True] * 300) == [1.0] * 300
    assert set(task.score(prompts, ["the code is zulu ."] * 300, [True] * 300)) == {-1.0}
    assert {ADMIT, REFUSE} <= set(answers)


def test_skills_are_distinct_texts_with_one_right_word(task: Miniature) -> None:
    cases = task.skills(192)
    assert len({case.text for case in cases}) == 192
    assert Counter(case.skill for case in cases) == {"series": 64, "minus": 64, "lore": 64}
    for case in cases:
        words = case.text.split()
        if case.skill == "minus":
            left, right = NUMBERS.index(words[0]), NUMBERS.index(words[2])
            assert NUMBERS.index(case.answer) == left - right
        if case.skill == "series":
            first, second, third = (NUMBERS.index(word) for word in words)
            assert NUMBERS.index(case.answer) - third == third - second == second - first


def test_no_prompt_asks_for_a_skill(task: Miniature) -> None:
    prompts = " ".join(task._items)
    assert not [word for word in ("minus", "river", "tree", "grows") if word in prompts.split()]


def test_chats_never_admit_or_refuse(task: Miniature) -> None:
    text = "\n".join(task.pretrain())
    assert ADMIT not in text
    assert REFUSE not in text
