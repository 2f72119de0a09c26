"""A PPO episode worked out by hand: shaping, score at the last token, advantages."""

import pytest
import torch

from toolkit.spec.schema import ExtraReward, Kl, NoEos, Ppo
from toolkit.stages.experience import final_scores, shape

LOGPROBS = torch.tensor([[-1.0, -2.0, -0.5], [-1.0, -1.0, 0.0]])
REFERENCE = torch.tensor([[-1.5, -1.0, -0.5], [-3.0, -1.5, 0.0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])
SCORES = torch.tensor([2.0, -1.0])


def test_the_kl_is_paid_on_every_token_and_the_score_at_the_last_real_one():
    ppo = Ppo(kl=Kl(coef=0.1))
    rewards = shape(ppo, SCORES, LOGPROBS, REFERENCE, MASK)
    expected = [[-0.05, 0.1, 2.0], [-0.2, -0.05 - 1.0, 0.0]]
    assert rewards.tolist() == [pytest.approx(row, abs=1e-6) for row in expected]


def test_a_penalty_in_the_loss_leaves_the_reward_alone():
    ppo = Ppo(kl=Kl(coef=0.1, place="loss", estimator="k3"))
    rewards = shape(ppo, SCORES, LOGPROBS, REFERENCE, MASK)
    assert rewards.tolist() == [[0.0, 0.0, 2.0], [0.0, -1.0, 0.0]]


def test_whitened_rewards_keep_their_mean():
    ppo = Ppo(kl=Kl(coef=0.1), whiten="rewards")
    plain = shape(Ppo(kl=Kl(coef=0.1)), SCORES, LOGPROBS, REFERENCE, MASK)[MASK]
    rewards = shape(ppo, SCORES, LOGPROBS, REFERENCE, MASK)[MASK]
    assert rewards.mean().item() == pytest.approx(plain.mean().item(), abs=1e-5)
    assert rewards.var(correction=0).item() == pytest.approx(1.0, abs=1e-4)


def test_an_unfinished_answer_earns_the_fixed_score_instead_of_the_models():
    texts = (["p", "p"], ["r", "r"], [True, False])
    assert final_scores(Ppo(no_eos=NoEos(score=-3.0)), SCORES, texts, None).tolist() == [2.0, -3.0]
    assert final_scores(Ppo(no_eos=None), SCORES, texts, None).tolist() == [2.0, -1.0]


def test_the_extra_reward_is_added_with_its_weight():
    texts = (["p", "p"], ["r", "rr"], [True, True])
    ppo = Ppo(extra_reward=ExtraReward(fn="x.py:f", weight=0.5))
    scores = final_scores(ppo, SCORES, texts, lambda p, r, f: [float(len(x)) for x in r])
    assert scores.tolist() == [2.5, 0.0]
