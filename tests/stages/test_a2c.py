"""A2C: the policy gradient without a ratio clip, from the same kernels as PPO."""

import pytest
import torch

import rlhf_kernels as rk
from tests.end_to_end import done, run_tiny
from toolkit.spec.schema import Ppo
from toolkit.stages.experience import clip_of

A2C = Ppo(algorithm="a2c")


def tokens(seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(5, 7, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(), draw(), draw(), torch.rand(5, 7, generator=generator) < 0.7


def test_the_gradient_is_that_of_advantages_times_log_probs():
    values, advantages, _, mask = tokens()
    logprobs = (-values.abs()).requires_grad_()
    loss, stats = rk.ppo_loss(
        logprobs, logprobs.detach(), advantages, mask, cliprange=clip_of(A2C, 0.2)
    )
    loss.backward()
    plain = logprobs.detach().clone().requires_grad_()
    (-(advantages * plain)[mask].sum() / mask.sum()).backward()
    assert (logprobs.grad - plain.grad).abs().max() < 1e-15
    assert stats["clipfrac"] == 0


def test_no_advantage_and_no_ratio_is_clipped_away():
    # ratio e, advantage 1: PPO's gradient is clipped to 0, A2C's is -A ratio
    logprobs = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    old, one, mask = torch.tensor([-1.0]).double(), torch.ones(1).double(), torch.tensor([True])
    found = []
    for section in (A2C, Ppo()):
        loss, _ = rk.ppo_loss(logprobs, old, one, mask, cliprange=clip_of(section, 0.2))
        found += torch.autograd.grad(loss, logprobs)
    assert [g.item() for g in found] == pytest.approx([-2.718281828, 0.0])


def test_the_value_loss_is_half_the_squared_error():
    new, old, returns, mask = tokens(1)
    values = (100 * new).requires_grad_()
    loss, stats = rk.value_loss(
        values, old, returns, mask, cliprange_value=clip_of(A2C, 0.2), denominator=None
    )
    loss.backward()
    error = (values.detach() - returns) * mask
    assert loss.item() == pytest.approx(0.5 * error.square().sum().item() / int(mask.sum()))
    assert (values.grad - error / mask.sum()).abs().max() < 1e-12
    assert stats["clipfrac"] == 0


def test_a_whole_run_takes_one_step_per_batch(tmp_path):
    out = tmp_path / "run"
    run_tiny(out, "ppo.algorithm=a2c", "ppo.inner_epochs=1", "ppo.minibatch=32", "export=null")
    summary = done(out, "ppo.1")["summary"]
    assert summary["optimizer_steps"] == summary["value_optimizer_steps"] == 192 // 32
    assert set(done(out, "evaluate")["summary"]["models"]) == {"sft", "ppo_ema", "ppo_last"}
