"""Copies of the inputs come round only after the cache has been read through several times."""

from itertools import chain

import pytest

from rlhf_kernels.bench.rotation import (
    CACHES_BETWEEN,
    MAX_COPIES,
    count_copies,
    outgrows_cache,
    plan_turns,
)

CACHE = 50 * 2**20


@pytest.mark.parametrize("size", [1, 2**20, 9e6, CACHE, 8e8])
def test_copies_outgrow_the_cache_or_the_row_says_that_they_do_not(size):
    copies = count_copies(size, CACHE)
    enough = copies * size >= CACHES_BETWEEN * CACHE
    assert enough == outgrows_cache(copies, size, CACHE)
    assert enough or copies == MAX_COPIES


def test_inputs_larger_than_the_cache_need_no_second_copy():
    assert count_copies(CACHES_BETWEEN * CACHE, CACHE) == 1
    assert count_copies(CACHES_BETWEEN * CACHE - 1, CACHE) == 2


@pytest.mark.parametrize(("providers", "copies"), [(1, 1), (3, 1), (3, 2), (3, 7), (4, 4), (5, 64)])
def test_a_copy_is_used_again_only_after_all_others(providers, copies):
    turns = list(chain.from_iterable(plan_turns(providers, copies, rounds=20)))
    assert len(turns) == 20 * providers
    last = {}
    for time, (_, copy) in enumerate(turns):
        assert time - last.get(copy, time - copies) == copies
        last[copy] = time


@pytest.mark.parametrize(("providers", "copies"), [(3, 1), (3, 2), (4, 7)])
def test_every_round_has_every_provider_once_and_starts_with_another(providers, copies):
    turns = [who for who, _ in chain.from_iterable(plan_turns(providers, copies, rounds=6))]
    rounds = [turns[i : i + providers] for i in range(0, len(turns), providers)]
    assert all(sorted(order) == list(range(providers)) for order in rounds)
    assert [order[0] for order in rounds] == [number % providers for number in range(6)]


def test_a_group_holds_each_copy_once_so_that_it_can_be_restored_at_once():
    for group in plan_turns(3, 4, rounds=9):
        copies = [copy for _, copy in group]
        assert len(set(copies)) == len(copies) <= 4
