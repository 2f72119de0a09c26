"""Details 7 to 9: sampling."""

import math
from hashlib import blake2b

import pytest
import torch

from tests.details.known import LN4, LN12, constant_policy
from toolkit.data.batches import collate
from toolkit.rollout import _Drawn, sample_answers
from toolkit.spec.schema import Sampling
from toolkit.training.random import Order, Stream

EOS = 9
TWICE = {0: 2 * math.log(3)}  # at T = 2: p(0) = 3 / (3 + 9); at T = 1 it would be 9 / (9 + 9)


def answers_of(policy, text, rows, temperature, most=4):
    return sample_answers(
        policy,
        text,
        [[1, 8]] * len(rows),
        sampling=Sampling(temperature=temperature),
        draws=(Stream(1, "ppo", 1), "answer", rows),
        max_response=most,
    )


def test_07_the_temperature_divides_the_logits_of_every_log_prob(text):
    policy = constant_policy(text, TWICE, temperature=2.0)
    batch = collate([[1, 8]], [[0, 3]], text.pad_id)
    logprobs, entropy = policy.logprobs(batch)
    assert logprobs.tolist() == [pytest.approx([-LN4, -LN12], rel=1e-6)]
    assert entropy[0, 0].item() == pytest.approx(LN4 / 4 + 9 / 12 * LN12, rel=1e-6)
    # with the log-probs worked out by hand as the old ones the ratio is 1: loss = - mean advantage
    old, advantages = torch.tensor([-LN4, -LN12]), torch.tensor([1.0, 2.0])
    loss, stats = policy.backward_policy_loss(batch, old, advantages, cliprange=0.2)
    assert loss.item() == pytest.approx(-1.5, rel=1e-5)
    assert stats["ratio_mean"].item() == pytest.approx(1.0, rel=1e-5)


def test_07_sampling_keeps_the_log_probs_of_the_same_temperature(text):
    out = answers_of(constant_policy(text, TWICE), text, range(64), 2.0)
    held = [
        (token, value)
        for ids, row in zip(out.ids, out.logprobs.tolist(), strict=True)
        for token, value in zip(ids, row, strict=False)
    ]
    for token, value in held:
        assert value == pytest.approx(-LN4 if token == 0 else -LN12, rel=1e-6)
    assert 0.15 < sum(token == 0 for token, _ in held) / len(held) < 0.35


def test_07_policy_and_reference_have_the_temperature_of_the_rollout(ppo):
    stage = ppo("ppo.temperature=0.7")
    assert stage.models.policy.temperature == stage.models.reference.temperature == 0.7
    experience = stage._sample(0)
    assert experience.kl.abs().max() <= 1e-5


def test_08_an_answer_stops_at_end_of_text_and_the_rest_is_padding(text):
    drawn = _Drawn.empty(2, 4, text.pad_id, torch.device("cpu"))
    drawn.tokens.copy_(torch.tensor([[3, 1], [EOS, 2], [5, 3], [EOS, 4]]))
    drawn.logprobs.fill_(-1.0)
    drawn.entropy.fill_(2.0)
    out = drawn.answers(EOS)
    assert out.ids == [[3, EOS], [1, 2, 3, 4]]
    assert out.finished == [True, False]
    assert out.logprobs.tolist() == [[-1, -1, 0, 0], [-1, -1, -1, -1]]
    assert out.entropy.tolist() == [[2, 2, 0, 0], [2, 2, 2, 2]]
    batch = collate([[1, 8]] * 2, out.ids, text.pad_id)
    assert batch.response.tolist() == [[3, EOS, 10, 10], [1, 2, 3, 4]]
    assert text.decode_response([0, 1, EOS, 3, 10]) == ("ab", True)


def test_09_draws_are_keyed_by_sequence_and_the_order_by_the_seed_alone(text):
    digest = blake2b(b"1\x1fppo\x1f1\x1fanswer", digest_size=16).digest()
    by_hand = int.from_bytes(digest, "little") % 2**64
    assert Stream(1, "ppo", 1).seed64("answer") == by_hand
    policy = constant_policy(text, {})
    whole = answers_of(policy, text, range(8), 1.0).ids
    halves = [answers_of(policy, text, rows, 1.0).ids for rows in (range(4), range(4, 8))]
    assert halves[0] + halves[1] == whole
    assert halves[0] != halves[1]
    one, two = (Order(Stream(1, "ppo", 1), 50) for _ in range(2))
    assert one.take(0, 50) == two.take(0, 50)
    assert one.take(0, 50) != Order(Stream(2, "ppo", 1), 50).take(0, 50)
