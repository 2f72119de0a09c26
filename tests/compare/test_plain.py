"""The plain loop is a fair opponent: its losses are ours, and it runs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf_kernels.reference.gae import gae
from rlhf_kernels.reference.ppo_loss import ppo_loss
from rlhf_kernels.reference.ranking_loss import ranking_loss
from rlhf_kernels.reference.value_loss import value_loss
from specs.compare import plain_ppo, plain_stages
from specs.compare.measure import Measure
from specs.compare.pairs import ordered_pairs, preferences
from specs.compare.rows import SETTINGS
from tests.tolerances import assert_near_truth

PPO = {"cliprange": 0.2, "gamma": 0.9, "lam": 0.8, "whiten": "none"}


@pytest.fixture
def episodes():
    """Log-probs, old ones, advantages, a mask whose rows end at different tokens."""
    draw = torch.Generator().manual_seed(3)
    logprobs, old, advantages = (torch.randn(4, 5, generator=draw) for _ in range(3))
    mask = torch.arange(5) < torch.tensor([[5], [3], [1], [4]])
    return logprobs, old, advantages, mask


def test_the_policy_loss_is_the_reference(episodes):
    truth, _ = ppo_loss(*episodes, cliprange=0.2)
    assert_near_truth(plain_ppo.policy_loss(*episodes, PPO), truth)


def test_the_value_loss_is_the_reference_times_its_weight(episodes):
    config = {"value": {"cliprange": 0.2, "vf_coef": 0.1}}
    truth, _ = value_loss(*episodes, cliprange_value=0.2)
    assert_near_truth(plain_ppo.value_loss(*episodes, config), 0.1 * truth)


@pytest.mark.parametrize("whiten", ["none", "advantages"])
def test_advantages_are_the_reference(episodes, whiten):
    rewards, values, _, mask = episodes
    config = {**PPO, "whiten": whiten}
    advantages, returns = plain_ppo.estimate(rewards * mask, values * mask, mask, config)
    whitened = whiten == "advantages"
    true, expected = gae(rewards, values, mask, gamma=0.9, lam=0.8, whiten=whitened)
    assert_near_truth(returns, expected)
    # The plain loop divides by the usual standard deviation, of n - 1.
    n = int(mask.sum())
    assert_near_truth(advantages * ((n / (n - 1)) ** 0.5 if whitened else 1.0), true, floor=1e-5)


@pytest.mark.parametrize("ties", ["drop", "half"])
def test_the_ranking_loss_is_the_reference(ties):
    ranks = [[2, 1, 1, 3], [1, 1], [2, 1]]
    scores = torch.randn(8, generator=torch.Generator().manual_seed(1))
    flat = torch.tensor([rank for row in ranks for rank in row])
    truth, _ = ranking_loss(scores, flat, torch.tensor([0, 4, 6, 8]), ties=ties)
    mine = plain_stages.ranking_loss(scores, [{"ranks": row} for row in ranks], ties)
    assert_near_truth(mine, truth)


def test_pairs_for_trl_leave_ties_out():
    assert ordered_pairs([2, 1, 2], "drop") == [(1, 0, 1.0), (1, 2, 1.0)]
    record = {"prompt_ids": [5], "responses_ids": [[1], [2], [3]], "ranks": [2, 1, 2]}
    assert preferences([record]) == [
        {"chosen_ids": [5, 2], "rejected_ids": [5, 1]},
        {"chosen_ids": [5, 2], "rejected_ids": [5, 3]},
    ]


def test_prompts_of_different_lengths_give_the_log_probs_of_each_alone(job):
    tokenizer = plain_stages.load_tokenizer(job)
    model = plain_stages.AutoModelForCausalLM.from_pretrained(job["models"]["base"]).eval()
    rollout = plain_ppo.sample(model, [[1, 8], [3, 0, 4, 2, 8]], tokenizer, job)
    together = plain_ppo.logprobs_of(model, rollout, tokenizer.pad_token_id, 1.0)
    for row in range(2):
        real = rollout.attention[row].bool()
        alone = model(rollout.ids[row, real].unsqueeze(0)).logits[0, :-1, : tokenizer.pad_token_id]
        count = int(rollout.mask[row].sum())
        ids = rollout.ids[row, real][-count:]
        expected = torch.log_softmax(alone, -1)[-count:].gather(1, ids.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(together[row, rollout.mask[row]], expected)


def test_in_bf16_the_plain_loop_keeps_fp32_weights_and_log_probs(job):
    tokenizer = plain_stages.load_tokenizer(job)
    job["models"] |= {"sft": job["models"]["base"], "reward": job["models"]["base"]}
    exact, lowered = (plain_ppo.load_models({**job, "precision": p}) for p in ("fp32", "bf16"))
    rollout = plain_ppo.sample(lowered.policy, [[1, 8], [3, 8]], tokenizer, job)
    one, other = (plain_ppo.logprobs_of(m.policy, rollout, 10, 1.0) for m in (exact, lowered))
    assert other.dtype == torch.float32
    assert lowered.policy.dtype == torch.float32
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_in_bf16_the_first_stages_end_near_fp32_with_fp32_weights(job, tmp_path, stage):
    job["models"]["sft"] = job["models"]["base"]
    base = load_file(Path(job["models"]["base"]) / "model.safetensors")
    moved = []
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        mine = {**job, "stage": stage, "out": str(out), "precision": precision}
        getattr(plain_stages, stage)(mine, Measure())
        kept = load_file(out / "model" / "model.safetensors")
        assert {x.dtype for x in kept.values()} == {torch.float32}
        moved.append(torch.cat([(kept[k] - base[k]).flatten() for k in sorted(base) if k in kept]))
    one, other = moved
    assert not torch.equal(one, other)
    assert (one - other).norm() < 0.2 * one.norm()


def test_the_plain_loop_runs_two_steps_of_each_stage_and_names_its_settings(job, tmp_path):
    done = {}
    stages = {"sft": plain_stages.sft, "reward": plain_stages.reward, "ppo": plain_ppo.ppo}
    for stage, run in stages.items():
        measure = Measure()
        mine = {**job, "stage": stage, "out": str(tmp_path / stage)}
        done[stage] = run(mine, measure)
        assert len(measure.steps) == 2
        assert tuple(sorted(done[stage])) == tuple(sorted(SETTINGS[stage]))
        job["models"][stage] = f"{tmp_path}/{stage}/model"
    assert done["ppo"]["optimizer steps"] == 2
    before, after = (
        plain_stages.AutoModelForCausalLM.from_pretrained(job["models"][name]).state_dict()
        for name in ("sft", "ppo")
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)
