"""Draws are a function of position, never of history."""

import torch

from toolkit.training.random import Order, Stream, key_of


def test_keys_differ_by_every_part_and_are_stable():
    assert key_of(1, "ppo", 1) == 0x160C592C1465750215491F900BA6CD26
    assert key_of(1, "ppo", 1) == key_of(1, "ppo", 1)
    assert (
        len({key_of(1, "ppo", 1), key_of(2, "ppo", 1), key_of(1, "sft", 1), key_of(11, "ppo")}) == 4
    )


def test_the_64_bits_of_a_purpose_are_its_own():
    stream = Stream(7, "ppo", 1)
    assert stream.seed64("answer") == Stream(7, "ppo", 1).seed64("answer") < 2**64
    others = [stream.seed64("other"), Stream(8, "ppo", 1).seed64("answer"), stream.seed64()]
    assert len({stream.seed64("answer"), *others}) == 4


def test_an_order_passes_over_everything_once_and_reshuffles():
    order = Order(Stream(1, "sft", 0), 10)
    first, second = order.take(0, 10), order.take(10, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert Order(Stream(1, "sft", 0), 10).take(7, 6) == [*first[7:], *second[:3]]


def test_torch_draws_follow_the_position():
    stream = Stream(1, "sft", 0)
    stream.seed_torch("dropout", 3)
    first = torch.rand(4)
    torch.rand(100)
    stream.seed_torch("dropout", 3)
    assert torch.equal(first, torch.rand(4))
