"""Details 23 to 30: steps, rates, checks and logs."""

from types import SimpleNamespace

import pytest
import torch

import rlhf_kernels as rk
from tests.details.known import constant_policy
from tests.details.test_rewards_and_values import episode
from tests.models.fused import count_as_amx
from toolkit.data.batches import collate
from toolkit.spec.details import optimizer_steps
from toolkit.spec.errors import StageFailed
from toolkit.spec.schema import Kl, Optimizer, Ppo, Spec, Warmup
from toolkit.stages.kl_control import KlControl
from toolkit.stages.watch import Watch, objective
from toolkit.training.optim import Updater, make_ppo_updater
from toolkit.training.random import Order, Stream

EOS = 9


def one_weight(value=0.0):
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, value)
    return model


def step(updater, gradient):
    parameter = updater.parameters[0]
    parameter.grad = torch.full_like(parameter, gradient)
    updater.step(lambda norm: None)
    return parameter.item()


@pytest.mark.parametrize("micro", [1, 5, None])
def test_23_micro_batches_add_up_inside_a_minibatch(ppo, micro):
    stage = ppo(f"hardware.micro_batch={'null' if micro is None else micro}")
    stage.step(0)
    # 192 episodes / 32 = 6 iterations; 2 inner epochs x 32 / 16 minibatches: 4 steps in each
    assert stage.updater.steps == stage.value_updater.steps == 4
    assert optimizer_steps(stage.ctx.spec) == 24


def test_23_the_paper_takes_four_thousand_steps():
    assert optimizer_steps(Spec(ppo=Ppo())) == 256000 // 512 * 512 // 64 == 4000


def test_23_the_ratio_is_clipped_at_a_fifth(text):
    policy = constant_policy(text, {})  # every token has log-prob - ln 10
    batch = collate([[1, 8]], [[0, 1, EOS]], text.pad_id)
    held = torch.full((3,), 0.1).log()
    old = held - torch.tensor([1.5, 0.5, 1.1]).log()  # so the ratios are 1.5, .5 and 1.1
    advantages = torch.tensor([1.0, 1.0, -2.0])
    loss, stats = policy.backward_policy_loss(batch, old, advantages, cliprange=0.2)
    # each token's larger loss: -1.2 of -1.5 and -1.2, -.5 of -.5 and -.8, and 2.2
    assert loss.item() == pytest.approx((-1.2 - 0.5 + 2.2) / 3, rel=1e-5)
    assert stats["clipfrac"].item() == pytest.approx(1 / 3)
    assert stats["ratio_max"].item() == pytest.approx(1.5, rel=1e-5)


def test_23_ppo_clips_the_ratio_and_the_value_where_the_spec_says(ppo, monkeypatch):
    stage, seen = ppo("ppo.cliprange=0.07", "ppo.value.cliprange=0.3"), []
    policy, value = stage.models.policy, rk.value_loss
    learn = policy.backward_policy_loss

    def watched_policy(*tensors, cliprange, **terms):
        seen.append(cliprange)
        return learn(*tensors, cliprange=cliprange, **terms)

    def watched_value(*tensors, cliprange_value, **terms):
        seen.append(cliprange_value)
        return value(*tensors, cliprange_value=cliprange_value, **terms)

    monkeypatch.setattr(policy, "backward_policy_loss", watched_policy)
    monkeypatch.setattr(rk, "value_loss", watched_value)
    stage.step(0)
    assert set(seen) == {0.07, 0.3}


def test_24_epsilon_is_added_to_the_corrected_root_as_pytorch_does():
    assert Ppo().optimizer == Optimizer(betas=(0.9, 0.95), eps=1e-5)
    updater = Updater(one_weight(), Optimizer(eps=1e-5, clip_norm=None), 1.0)
    # the first step's corrected moments are g and g^2: lr * g / (g + eps) = 1 / 2 at g = eps;
    # TF's placement, sqrt(.05) * g / (sqrt(.05) * g + eps), would move it by .183
    assert step(updater, 1e-5) == pytest.approx(-0.5, rel=1e-4)


def test_24_the_second_step_by_hand():
    updater = Updater(one_weight(), Optimizer(eps=1.0, clip_norm=None), 1.0)
    first = -2.0 / (2.0 + 1.0)
    assert step(updater, 2.0) == pytest.approx(first, rel=1e-6)
    # m^ = (.1 * .9 * 2 + .1 * 1) / (1 - .81) = .28 / .19, v^ = (.05 * .95 * 4 + .05) / (1 - .9025)
    second = (0.28 / 0.19) / ((0.24 / 0.0975) ** 0.5 + 1.0)
    assert step(updater, 1.0) == pytest.approx(first - second, rel=1e-6)


def rates(ppo, places, **steps):
    updater = make_ppo_updater(one_weight(), ppo, 8e-6, **steps)
    seen = []
    for _ in range(max(places) + 1):
        seen.append(updater.lr)
        step(updater, 1.0)
    return [seen[place] for place in places]


def test_25_the_rate_rises_from_a_tenth_and_stays_or_is_annealed():
    # 10 iterations x 8 steps of warmup: a tenth, half way, the peak, and the peak for good
    constant = rates(Ppo(), (0, 40, 80, 199), per_iteration=8, total=200)
    assert constant == pytest.approx([8e-7, 4.4e-6, 8e-6, 8e-6], rel=1e-6)
    ppo = Ppo(anneal=True, warmup=Warmup(iterations=0))
    annealed = rates(ppo, (0, 25, 50, 75, 100), per_iteration=1, total=100)
    assert annealed == pytest.approx([8e-6, 6e-6, 4e-6, 2e-6, 0.0], rel=1e-6, abs=1e-12)


def test_26_the_adaptive_coefficient_moves_by_a_bounded_error():
    def after(kl, **changes):
        control = KlControl(Kl(**{"coef": 0.1, "controller": "adaptive", "target": 6.0, **changes}))
        control.update(kl, 512)
        return control.now.coef

    assert after(12.0) == pytest.approx(
        0.1 * (1 + 0.2 * 512 / 10000)
    )  # twice the target: .2 counts
    assert after(5.7) == pytest.approx(0.1 * (1 - 0.05 * 512 / 10000))
    assert after(-3.0) == pytest.approx(0.1 * (1 - 0.2 * 512 / 10000))
    assert after(12.0, horizon=1024) == pytest.approx(0.11)
    assert after(12.0, controller="fixed") == 0.1
    assert Ppo().kl.controller == "fixed"


def test_26_ppo_pays_the_moved_coefficient_in_the_next_iteration(ppo, monkeypatch):
    paid, real = [], rk.shaped_rewards

    def watched(*tensors, kl_coef, **options):
        paid.append(kl_coef)
        return real(*tensors, kl_coef=kl_coef, **options)

    monkeypatch.setattr(rk, "shaped_rewards", watched)
    stage = ppo("ppo.kl.controller=adaptive", "ppo.kl.target=0.5", "ppo.kl.horizon=64")
    logged = [stage.step(i)["objective/kl_coef"] for i in range(2)]
    # the first KL is 0, so the error is -.2: x (1 - .2 * 32 / 64)
    assert logged == paid == pytest.approx([0.3, 0.27])


def test_27_the_three_estimators_by_hand():
    new, ref = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])  # d = .5, -1
    expected = {
        "k1": [0.5, -1.0],
        "k2": [0.125, 0.5],
        "k3": [0.10653066, 0.71828183],  # e^-.5 - 1 + .5, e - 1 - 1
    }
    for name, values in expected.items():
        assert rk.token_kl(new, ref, estimator=name)[0].tolist() == pytest.approx(values, rel=1e-5)
    assert Ppo().kl.estimator == "k1"


def test_27_ten_negative_means_in_a_row_are_reported():
    events = []
    ctx = SimpleNamespace(name="ppo.1", event=lambda kind, **f: events.append(f["message"]))
    watch = Watch(ctx, None)

    def see(kl):
        watch.before_update(0, SimpleNamespace(kl=torch.tensor([[kl, 0.0], [kl, 0.0]])))

    for kl in [-0.1] * 9 + [0.1] + [-0.1] * 9:
        see(kl)
    assert events == []
    see(-0.1)
    assert len(events) == 1
    assert "negative for 10 iterations" in events[0]


def test_28_prompts_come_once_each_and_then_in_another_order():
    order = Order(Stream(1, "ppo", 1), 5)
    passes = [order.take(5 * n, 5) for n in range(4)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes)
    assert len({tuple(one) for one in passes}) > 1
    # a batch of 4 that meets the end of a pass goes on in the next one
    assert order.take(4, 4) == [passes[0][4], *passes[1][:3]]


def audit(error, kl, precision="fp32"):
    ctx = SimpleNamespace(
        device="cpu", spec=SimpleNamespace(hardware=SimpleNamespace(precision=precision))
    )
    watch = Watch(ctx, None)
    stats = {"ppo/policy/ratio_error": error}
    watch.first_minibatch(SimpleNamespace(kl=torch.tensor([[0.0, kl]])), stats, same=True)
    return watch.audit


@pytest.mark.parametrize(("error", "kl"), [(1.1e-5, 0.0), (0.0, -1.1e-5), (float("nan"), 0.0)])
def test_29_a_first_minibatch_that_does_not_reproduce_is_refused(error, kl):
    with pytest.raises(StageFailed, match="log-probs are not reproducible"):
        audit(error, kl)
    assert audit(0.9e-5, -0.9e-5)["max_ratio_error"] == 0.9e-5
    assert audit(0.9e-2, 0.9e-2, "bf16")["max_abs_kl"] == pytest.approx(0.9e-2)


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("bf16", 1e-2)])
def test_29_ratio_is_one_and_kl_zero_on_the_first_minibatch(ppo, precision, limit, monkeypatch):
    """In bf16 by the layers' kernels, as with matrix units."""
    count_as_amx(monkeypatch)
    stage = ppo(f"hardware.precision={precision}")
    stage.step(0)
    assert stage.watch.audit.keys() == {"max_ratio_error", "max_abs_kl"}
    assert max(stage.watch.audit.values()) <= limit
    assert stage.watch.keeps
    assert stage.watch.warnings == ()


def test_29_bf16_is_for_products_while_log_probs_and_advantages_are_fp32(ppo):
    experience = ppo("hardware.precision=bf16")._sample(0)
    for name in ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns"):
        assert getattr(experience, name).dtype == torch.float32, name


LOGGED = """
objective/kl objective/kl_coef objective/entropy objective/score objective/rewards
response/eos_rate response/length
ppo/policy/ratio_mean ppo/policy/ratio_var ppo/policy/ratio_max ppo/policy/clipfrac
ppo/policy/approxkl ppo/val/clipfrac ppo/val/var_explained
ppo/grad_norm ptx/grad_norm ppo/total_grad_norm ppo/val/grad_norm
"""


def test_30_every_figure_is_logged(ppo):
    found = ppo().step(0)
    assert [name for name in LOGGED.split() if name not in found] == []


def test_30_the_figures_of_two_episodes_by_hand():
    found = objective(episode(), 0.1, None)
    # KL .5 - 1 + 0 and 2 + .5 nats; rewards 2.05 and -1.25; 3 and 2 tokens, one answer ended
    assert found["objective/kl"] == pytest.approx((-0.5 + 2.5) / 2)
    assert found["objective/kl_coef"] == 0.1
    assert found["objective/score"] == pytest.approx((2.0 + 7.0) / 2)
    assert found["objective/rewards"] == pytest.approx((2.05 - 1.25) / 2, abs=1e-6)
    assert found["response/length"] == 2.5
    assert found["response/eos_rate"] == 0.5
