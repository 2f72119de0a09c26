"""Micro-batches: by sequences or by tokens, every sequence once and in order."""

import dataclasses

import pytest
import torch

from toolkit.data.batches import collate, cut_groups


def make(sequences, prompt=2, response=3):
    return collate([[1] * prompt] * sequences, [[2] * response] * sequences, 0)


@pytest.mark.parametrize(
    ("size", "tokens", "sizes"),
    [
        (None, None, [10]),
        (4, None, [4, 4, 2]),
        (4, 5, [4, 4, 2]),
        (None, 50, [10]),
        (None, 49, [5, 5]),
        (None, 20, [4, 4, 2]),
        (None, 1, [1] * 10),
    ],
)
def test_a_batch_is_cut_by_sequences_or_by_tokens(size, tokens, sizes):
    parts = make(10).micro(size, tokens)
    assert [len(part) for _, part in parts] == sizes
    assert [i for span, _ in parts for i in range(10)[span]] == list(range(10))


def test_a_whole_batch_is_not_copied_and_loses_what_is_padding_alone():
    batch = make(4)
    ((span, whole),) = batch.micro(None)
    assert (span, whole) == (slice(0, 4), batch)
    assert whole is batch
    wide = dataclasses.replace(batch, ids=torch.nn.functional.pad(batch.ids, (0, 2)))
    ((span, cut),) = wide.micro(None)
    assert span == slice(0, 4)
    assert torch.equal(cut.ids, batch.ids)
    assert torch.equal(cut.places, batch.places)


@pytest.mark.parametrize(
    ("limit", "parts"),
    [
        (None, [[4, 4, 2, 9, 1]]),
        (8, [[4, 4], [2], [9], [1]]),
        (10, [[4, 4, 2], [9, 1]]),
        (1, [[4], [4], [2], [9], [1]]),
    ],
)
def test_groups_are_cut_between_each_other_only(limit, parts):
    sizes = [4, 4, 2, 9, 1]
    assert [sizes[part] for part in cut_groups(sizes, limit)] == parts
    assert cut_groups([], limit) == []
