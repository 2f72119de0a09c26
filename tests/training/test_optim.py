"""Rates, clipping and averaging against numbers worked out by hand."""

import pytest
import torch

from toolkit.spec import schema
from toolkit.training.ema import make_ema
from toolkit.training.optim import Updater, make_ppo_updater, make_updater


def one_weight(value=1.0):
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, value)
    return model


def ignore(norm):
    """Accept any gradient norm."""


def rates(updater, steps):
    seen = []
    for _ in range(steps):
        seen.append(updater.lr)
        updater.parameters[0].grad = torch.ones_like(updater.parameters[0])
        updater.step(ignore)
    return seen


def test_cosine_ends_at_a_tenth():
    plan = schema.Schedule(name="cosine", floor=0.1, warmup=0)
    seen = rates(make_updater(one_weight(), schema.Optimizer(), 1.0, plan, 100), 101)
    assert seen[0] == pytest.approx(1.0)
    assert seen[50] == pytest.approx(0.55)
    assert seen[100] == pytest.approx(0.1)


def test_warmup_rises_to_the_peak():
    plan = schema.Schedule(name="linear", floor=0.0, warmup=4)
    seen = rates(make_updater(one_weight(), schema.Optimizer(), 1.0, plan, 8), 8)
    assert seen[0] == pytest.approx(0.25)
    assert seen[4] == pytest.approx(1.0)
    assert seen[6] == pytest.approx(0.5)


def test_ppo_warms_up_from_a_tenth_over_ten_iterations_then_stays():
    updater = make_ppo_updater(one_weight(), schema.Ppo(), 1.0, per_iteration=8, total=4000)
    seen = rates(updater, 200)
    assert seen[0] == pytest.approx(0.1)
    assert seen[40] == pytest.approx(0.55)
    assert seen[80] == pytest.approx(1.0)
    assert seen[199] == pytest.approx(1.0)


def test_clipping_scales_to_the_norm_and_reports_the_norm_before():
    model = one_weight(0.0)
    updater = Updater(model, schema.Optimizer(clip_norm=1.0), 1.0)
    model.weight.grad = torch.full_like(model.weight, 10.0)
    assert updater.step(ignore) == pytest.approx(10.0)
    assert updater.optimizer.state[model.weight]["exp_avg"].item() == pytest.approx(0.1)


def test_weight_decay_leaves_vectors_alone():
    model = torch.nn.Linear(2, 2)
    updater = Updater(model, schema.Optimizer(weight_decay=0.1), 1e-3)
    decays = {len(g["params"][0].shape): g["weight_decay"] for g in updater.optimizer.param_groups}
    assert decays == {2: 0.1, 1: 0.0}


def test_a_restored_updater_goes_on_to_the_same_bits():
    plan = schema.Schedule(name="cosine", floor=0.1, warmup=2)

    def run(model, updater, start, stop):
        for i in range(start, stop):
            model.weight.grad = torch.full_like(model.weight, float(i + 1))
            updater.step(ignore)

    whole, cut = one_weight(), one_weight()
    straight = make_updater(whole, schema.Optimizer(), 0.1, plan, 10)
    run(whole, straight, 0, 10)
    first = make_updater(cut, schema.Optimizer(), 0.1, plan, 10)
    run(cut, first, 0, 5)
    second = make_updater(cut, schema.Optimizer(), 0.1, plan, 10)
    second.restore(first.state())
    run(cut, second, 5, 10)
    assert torch.equal(whole.weight, cut.weight)


def test_the_average_counts_the_start_and_moves_per_step():
    model = one_weight(1.0)
    average = make_ema(model, 0.9)
    torch.nn.init.constant_(model.weight, 2.0)
    average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(1.1)
    average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(1.19)


def test_a_gradient_that_is_not_a_number_never_reaches_the_weights():
    model = one_weight(1.0)
    updater = Updater(model, schema.Optimizer(), 1.0)
    model.weight.grad = torch.full_like(model.weight, float("nan"))

    def refuse(norm):
        assert norm != norm
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        updater.step(refuse)
    assert model.weight.item() == 1.0


@pytest.mark.parametrize(
    ("clip", "norm"),
    [(0.21, 0.2099989950656891), (9.61, 9.60999870300293), (1.0, 0.5), (1.0, 1.0), (1.0, 3.0)],
)
def test_clipping_has_torchs_bits_where_it_is_left_out_too(clip, norm):
    """The factor is 1 less an ulp for the first two, whose norm is below the bound."""
    model = torch.nn.Linear(1, 1, bias=False)
    updater = Updater(model, schema.Optimizer(clip_norm=clip), 1.0)
    model.weight.grad = torch.full((1, 1), norm)
    expected = torch.full((1, 1), norm)
    other = torch.nn.Parameter(torch.zeros(1, 1))
    other.grad = expected
    torch.nn.utils.clip_grads_with_norm_([other], clip, torch.tensor(norm))
    seen = []
    updater.optimizer.register_step_pre_hook(lambda *_: seen.append(model.weight.grad.clone()))
    updater.step(lambda _: None)
    assert torch.equal(seen[0], other.grad)
