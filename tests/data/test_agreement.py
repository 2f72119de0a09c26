"""Agreement between labelers, against cases worked by hand."""

from __future__ import annotations

import math

import pytest

from toolkit.data.agreement import agreement_of, labelers_of


def ranking(labeler, ranks, prompt="p", responses="abc", **more):
    who = {} if labeler is None else {"labeler": labeler}
    return {"prompt": prompt, "responses": list(responses), "ranks": ranks, **who, **more}


def test_two_labelers_agree_on_the_pairs_they_order_alike():
    # pairs ab, ac, bc: ann < < <, bob > < <
    found = agreement_of([ranking("ann", [1, 2, 3]), ranking("bob", [2, 1, 3])])
    assert found == {"all": {"agreement": pytest.approx(2 / 3), "pairs": 3, "prompts": 1}}


def test_a_tie_of_one_counts_half_and_a_tie_of_both_not_at_all():
    # ab: tie, tie; ac: <, tie; bc: <, <
    found = agreement_of([ranking("ann", [1, 1, 2]), ranking("bob", [1, 1, 1])])
    assert (found["all"]["agreement"], found["all"]["pairs"]) == (0.5, 2)
    found = agreement_of([ranking("ann", [1, 1, 2]), ranking("bob", [2, 2, 3])])
    assert (found["all"]["agreement"], found["all"]["pairs"]) == (1.0, 2)


def test_answers_are_known_by_their_text_in_whatever_order_they_stood():
    one = ranking("ann", [1, 2, 3])
    same = ranking("bob", [3, 1, 2], responses="cab")
    assert agreement_of([one, same])["all"] == {"agreement": 1.0, "pairs": 3, "prompts": 1}


def test_equal_texts_are_no_pair_and_the_first_judgement_counts():
    one = ranking("ann", [1, 2, 3], responses="aab")
    two = ranking("bob", [1, 2, 3], responses="aab")
    again = ranking("bob", [2, 1], responses="ab")
    assert agreement_of([one, two, again])["all"] == {"agreement": 1.0, "pairs": 1, "prompts": 1}


def test_labelers_are_compared_on_the_same_prompt_only():
    assert agreement_of([ranking("ann", [1, 2, 3]), ranking("bob", [1, 2, 3], prompt="q")]) == {}
    assert agreement_of([ranking(None, [1, 2, 3]), ranking(None, [1, 2, 3])]) == {}


def test_groups_part_those_who_train_from_those_who_are_held_out():
    rows = [
        ranking("ann", [1, 2], responses="ab"),
        ranking("bob", [1, 2], responses="ab"),
        ranking("cid", [2, 1], responses="ab", labeler_held_out=True),
        ranking("dan", [2, 1], responses="ab", labeler_held_out=True),
    ]
    found = agreement_of(rows)
    shares = {group: value["agreement"] for group, value in found.items()}
    assert shares == {"all": pytest.approx(2 / 6), "training": 1.0, "held_out": 1.0, "between": 0.0}
    assert [value["pairs"] for value in found.values()] == [6, 1, 1, 4]


def test_the_error_takes_a_prompt_as_one_draw():
    rows = []
    for at, alike in enumerate([1, 1, 1, 0]):
        rows.append(ranking("ann", [1, 2, 3], prompt=str(at)))
        rows.append(ranking("bob", [1, 2, 3] if alike else [3, 2, 1], prompt=str(at)))
    found = agreement_of(rows)["all"]
    # four draws of mean 3/4: variance of the mean (3/16) / 3, whatever the pairs of a prompt
    assert found["agreement"] == 0.75
    assert found["error"] == pytest.approx(1.959964 * math.sqrt(3 / 16 / 3))
    assert labelers_of(rows) == {"ann": 4, "bob": 4}
