"""A prompt and its answers in one row: who stands where, and who sees whom."""

import pytest

from toolkit.data.shared import collate_shared, shared_width

PROMPTS = [[5, 6], [7, 8, 9]]
ANSWERS = [[[1], [2, 3], []], [[4, 4]]]


def test_answers_stand_behind_their_prompt_at_its_end_each():
    batch = collate_shared(PROMPTS, ANSWERS, 0)
    assert batch.ids.tolist() == [[5, 6, 1, 2, 3], [7, 8, 9, 4, 4]]
    assert batch.positions.tolist() == [[0, 1, 2, 2, 3], [0, 1, 2, 3, 4]]
    assert batch.owner.tolist() == [[0, 0, 1, 2, 2], [0, 0, 0, 1, 1]]
    assert batch.ends.tolist() == [2, 4, 1, 9]  # an empty answer ends with its prompt
    assert shared_width(PROMPTS, ANSWERS) == 5


def test_a_token_is_predicted_by_the_one_before_it_in_its_own_sequence():
    batch = collate_shared(PROMPTS, ANSWERS, 0)
    assert batch.targets.tolist() == [1, 2, 3, 4, 4]
    assert batch.places.tolist() == [1, 1, 3, 7, 8]  # the prompt's end for each answer's first
    assert batch.answer.tolist() == [0, 1, 1, 3, 3]


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        collate_shared([[]], [[[1]]], 0)


def test_a_token_sees_the_prompt_and_its_own_answer_before_it():
    sees = collate_shared([[5, 6]], [[[1], [2, 3]]], 0).sees
    assert sees.shape == (1, 1, 5, 5)
    assert sees[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]


def test_padding_is_seen_by_nothing_real_and_sees_something():
    """A row of a mask without anything would make NaN."""
    batch = collate_shared(PROMPTS, [[[1]], [[4, 4]]], 0)
    assert batch.ids.tolist()[0] == [5, 6, 1, 0, 0]
    assert batch.owner.tolist()[0] == [0, 0, 1, -1, -1]
    sees = batch.sees[0, 0]
    assert not sees[:3, 3:].any()
    assert sees.any(1).all()
    assert batch.positions.max() == 4
