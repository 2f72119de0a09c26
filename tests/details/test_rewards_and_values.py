"""Details 16 to 22: what an episode earns, and what it was worth."""

import statistics
from types import SimpleNamespace

import pytest
import torch

import rlhf_kernels as rk
from tests.tiny import tiny_model
from toolkit.data.batches import collate
from toolkit.models.heads import Policy
from toolkit.models.load import load_policy, load_scalar, make_scalar
from toolkit.models.save import save_model
from toolkit.spec.schema import Hardware, Kl, NoEos, Ppo, Value
from toolkit.stages.experience import Models, make_experience, shape
from toolkit.stages.ppo import PPO
from toolkit.training.ema import make_ema
from toolkit.training.random import Stream

PAD, EOS = 10, 9
# Two episodes: three tokens that end with end-of-text; two tokens that do not, and one of padding.
BATCH = collate([[1, 8], [2, 8]], [[0, 1, EOS], [3, 4]], PAD)
LOGPROBS = torch.tensor([[-1.0, -2.0, -0.5], [-1.0, -1.0, 0.0]])
REFERENCE = torch.tensor([[-1.5, -1.0, -0.5], [-3.0, -1.5, 0.0]])
VALUES = torch.tensor([[0.5, 1.0, -1.0], [0.2, 0.4, 100.0]])  # 100 stands on padding
SCORES = torch.tensor([2.0, 7.0])  # 7 is replaced by -1: that answer did not end


def episode(**changes):
    """make_experience on the numbers above."""
    ppo = Ppo(**{"kl": Kl(coef=0.1), "lam": 0.5, "whiten": "none", **changes})
    models = Models(
        policy=SimpleNamespace(),
        reference=SimpleNamespace(logprobs=lambda batch: (REFERENCE, None)),
        value=SimpleNamespace(values_of=lambda batch: VALUES.clone()),
        reward=SimpleNamespace(scores=lambda batch: SCORES),
    )
    texts = (["p", "p"], ["r", "r"], [True, False])
    behaviour = (LOGPROBS, torch.ones(2, 3))
    return make_experience(ppo, models, BATCH, behaviour, texts, None, once=True)


def near(rows):
    return [pytest.approx(row, abs=1e-6) for row in rows]


def test_16_no_model_of_ppo_drops_anything(text, tmp_path):
    model = tiny_model(text, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    save_model(model, tmp_path / "lm", text)
    ids = torch.tensor([[1, 2, 3, 8]])
    expected = model(ids).logits
    policy = load_policy(tmp_path / "lm", text)
    assert torch.equal(policy(ids).logits, expected)
    scalar = make_scalar(tmp_path / "lm", text, Stream(1, "head"))
    save_model(scalar, tmp_path / "rm", text)
    for loaded in (scalar, load_scalar(tmp_path / "rm", text)):
        assert torch.equal(loaded.base_model(ids)[0], loaded.base_model(ids)[0])
    Policy(policy, text.vocab, Hardware(gradient_checkpointing=True))
    assert torch.equal(policy.train()(ids).logits, expected)


def test_16_ppo_leaves_its_four_models_in_evaluation_mode(ppo):
    stage = ppo()
    stage.step(0)
    for name in ("policy", "reference", "value", "reward"):
        assert not getattr(stage.models, name).model.training, name


def test_17_the_value_function_starts_as_the_reward_model_and_goes_its_own_way(ppo):
    stage = ppo()
    models = stage.models
    value, reward = models.value.model.state_dict(), models.reward.model.state_dict()
    assert value.keys() == reward.keys()
    assert all(torch.equal(value[name], reward[name]) for name in value)
    assert models.value.offset == models.reward.offset
    before = {name: weight.clone() for name, weight in reward.items()}
    held = {p.data_ptr() for p in models.value.model.parameters()}
    for other in (models.policy, models.reference, models.reward):
        assert held.isdisjoint(p.data_ptr() for p in other.model.parameters())
    stage.step(0)
    assert all(torch.equal(before[name], reward[name]) for name in before)
    assert not torch.equal(models.value.model.score.weight, models.reward.model.score.weight)


def test_18_each_token_pays_the_kl_and_the_score_comes_with_the_last_token():
    # d = logprob - reference: .5, -1, 0; and 2, .5. The score stands on end-of-text, not behind it.
    rewards = episode(no_eos=None).rewards
    assert rewards.tolist() == near([[-0.05, 0.1, 2.0], [-0.2, -0.05 + 7.0, 0.0]])


def test_18_a_penalty_in_the_loss_leaves_the_score_alone():
    rewards = episode(kl=Kl(coef=0.1, place="loss", estimator="k3"), no_eos=None).rewards
    assert rewards.tolist() == near([[0, 0, 2.0], [0, 7.0, 0]])


def test_19_an_answer_without_end_of_text_earns_the_fixed_score():
    assert Ppo().no_eos == NoEos(score=-1.0)
    rewards = episode().rewards
    assert rewards.tolist() == near([[-0.05, 0.1, 2.0], [-0.2, -0.05 - 1.0, 0.0]])
    assert episode(no_eos=NoEos(score=-3.0)).rewards[1, 1].item() == pytest.approx(-3.05)


def test_20_whitening_is_masked_and_biased_and_keeps_the_mean_of_rewards():
    mask = torch.tensor([[True, False], [True, False]])
    values = torch.tensor([[1.0, 500.0], [3.0, -500.0]])  # mean 2, biased variance 1, unbiased 2
    assert rk.whiten(values, mask).tolist() == near([[-1, 0], [1, 0]])
    assert rk.whiten(values, mask, shift_mean=False).tolist() == near([[1, 0], [3, 0]])
    plain = [0.25, -0.4, 3.0, -0.725, -1.45]  # the advantages of detail 21, five tokens
    mean, spread = statistics.fmean(plain), statistics.pstdev(plain)
    white = episode(whiten="advantages").advantages
    by_hand = [(value - mean) / spread for value in plain]
    assert white[BATCH.mask].tolist() == pytest.approx(by_hand, abs=1e-5)
    assert white[1, 2] == 0
    earned = [-0.05, 0.1, 2.0, -0.2, -1.05]
    mean, spread = statistics.fmean(earned), statistics.pstdev(earned)
    ppo = Ppo(kl=Kl(coef=0.1), whiten="rewards")
    rewards = shape(ppo, torch.tensor([2.0, -1.0]), LOGPROBS, REFERENCE, BATCH.mask)
    by_hand = [(value - mean) / spread + mean for value in earned]
    assert rewards[BATCH.mask].tolist() == pytest.approx(by_hand, abs=1e-5)


def test_20_the_average_holds_sixty_percent_of_its_start_after_64_steps():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    average = make_ema(model, 0.992)
    torch.nn.init.zeros_(model.weight)
    for _ in range(64):
        average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(0.598063, abs=1e-5)  # 0.992 ** 64


def test_20_the_average_moves_once_per_optimizer_step(ppo):
    stage = ppo()
    stage.step(0)
    # it started at 1, so that the first step averages instead of copying
    assert int(stage.ema.n_averaged) - 1 == stage.updater.steps == 4


def test_21_advantages_stop_at_the_last_token_whatever_stands_behind_it():
    # lam .5, gamma 1. First: deltas .45, -1.9, 3 (2 + 0 - -1); second: 0, -1.45 (-1.05 + 0 - .4)
    found = episode()
    assert found.advantages.tolist() == near([[0.25, -0.4, 3.0], [-0.725, -1.45, 0.0]])
    assert found.returns.tolist()[0] == pytest.approx([0.75, 0.6, 2.0], abs=1e-6)
    assert found.returns.tolist()[1][:2] == pytest.approx([-0.525, -1.05], abs=1e-6)
    assert found.values[1, 2] == 0
    assert (Ppo().gamma, Ppo().lam) == (1.0, 0.95)


def test_21_the_discount_reaches_back_one_token_at_a_time():
    # gamma .5, lam 1: A_2 = 3, A_1 = .1 - .5 - 1 + .5 * 3, A_0 = -.05 + .5 - .5 + .5 * .1
    found = episode(gamma=0.5, lam=1.0).advantages[0]
    assert found.tolist() == pytest.approx([0.0, 0.1, 3.0], abs=1e-6)


def test_22_the_value_may_move_by_cliprange_and_the_larger_loss_counts():
    values = torch.nn.Parameter(torch.tensor([[0.5, -0.5]]))
    batch = collate([[1, 8]], [[0, EOS]], PAD)
    value = SimpleNamespace(
        micro=lambda b: [(slice(None), b)], values_of=lambda b: values, device=torch.device("cpu")
    )
    stepped = []
    stage = SimpleNamespace(
        ctx=None,
        config=Ppo(value=Value(cliprange=0.2, vf_coef=0.1)),
        models=SimpleNamespace(value=value),
        value_updater=SimpleNamespace(step=lambda check: stepped.append(1) or 0.0),
    )
    experience = SimpleNamespace(
        batch=batch, values=torch.zeros(1, 2), returns=torch.ones(1, 2), live_values=None
    )
    stats = PPO._value_step(stage, 0, experience, torch.tensor([0]))
    # clipped to .2: max(.5^2, .8^2) = .64, no gradient; clipped to -.2: max(1.5^2, 1.2^2) = 2.25
    assert stats["ppo/val/loss"] == pytest.approx(0.5 * (0.64 + 2.25) / 2)
    assert stats["ppo/val/clipfrac"] == pytest.approx(0.5)
    assert values.grad.tolist() == near([[0.0, 0.1 * -1.5 / 2]])
    assert stepped == [1]
