"""Sampling: keyed by sequence, the right distribution, stops at end-of-text."""

import pytest
import torch

from tests.tiny import tiny_model, tiny_text
from toolkit.models.heads import Policy
from toolkit.rollout import draw, sample_answers
from toolkit.spec.schema import Hardware, Sampling
from toolkit.training.random import Stream


@pytest.fixture(scope="module")
def text():
    return tiny_text()


@pytest.fixture(scope="module")
def policy(text):
    return Policy(tiny_model(text, initializer_range=0.4), text.vocab, Hardware())


def answer(policy, text, prompts, rows, sampling=None, most=6):
    return sample_answers(
        policy,
        text,
        prompts,
        sampling=sampling or Sampling(),
        draws=(Stream(1, "ppo", 1), "answer", rows),
        max_response=most,
    )


def test_an_answer_does_not_depend_on_the_batch_it_sits_in(policy, text):
    prompts = [[i % 8, (3 * i) % 8, 8] for i in range(12)]
    together = answer(policy, text, prompts, range(12))
    alone = [answer(policy, text, [prompts[i]], [i]).ids[0] for i in range(12)]
    assert together.ids == alone
    assert len({tuple(ids) for ids in together.ids}) > 1


def test_left_padding_changes_nothing(policy, text):
    short, long = [2, 8], [1, 2, 3, 4, 5, 8]
    together = answer(policy, text, [short, long], [0, 1])
    assert together.ids[0] == answer(policy, text, [short], [0]).ids[0]


def test_an_answer_ends_with_end_of_text_or_is_unfinished(policy, text):
    out = answer(policy, text, [[i % 8, 8] for i in range(64)], range(64), most=4)
    for ids, finished in zip(out.ids, out.finished, strict=True):
        assert (ids[-1] == text.eos_id) == finished
        assert text.eos_id not in ids[:-1]
        assert finished or len(ids) == 4
    assert any(out.finished)
    assert not all(out.finished)


def test_padding_is_never_drawn(policy, text):
    out = answer(policy, text, [[i % 8, 8] for i in range(64)], range(64), most=8)
    assert all(index < text.vocab for ids in out.ids for index in ids)


def test_draws_follow_the_softmax_at_its_temperature():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    uniforms = Stream(3, "t").uniforms("u", [0], 20000)[0]
    tokens = draw(logits.expand(20000, -1), uniforms, Sampling(temperature=0.7))
    counts = torch.bincount(tokens, minlength=4).double()
    expected = 20000 * (logits[0].double() / 0.7).softmax(-1)
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 16.3  # 99.9 % of chi-square with 3 degrees of freedom


def test_the_ends_of_the_unit_interval_draw_possible_tokens():
    logits = torch.tensor([[float("-inf"), 0.0, 1.0, float("-inf")]] * 2)
    ends = torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64)
    assert draw(logits, ends, Sampling()).tolist() == [1, 2]


def test_truncation_keeps_the_likely_tokens_only():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).expand(1000, -1)
    uniforms = Stream(3, "t").uniforms("u", [0], 1000)[0]
    assert draw(logits, uniforms, Sampling(top_k=2)).max() == 1
    assert draw(logits, uniforms, Sampling(top_p=0.5)).max() == 0
    assert draw(logits, uniforms, Sampling(top_p=0.7)).max() == 1
