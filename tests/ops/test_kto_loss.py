"""kto_loss against float64 and hand-computed numbers: who counts, weights, the constant z0."""

import math

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.kto_loss import kto_loss as reference
from tests.ops.helpers import DTYPES, assert_stats_near_truth, result_dtype
from tests.tolerances import FLOOR_NATS, assert_gradient_near_truth, assert_near_truth


def make_inputs(count, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ratios = (3 * torch.randn(count, generator=generator, dtype=torch.float64)).to(dtype)
    return ratios, torch.randint(-1, 2, (count,), generator=generator)


@pytest.mark.parametrize("count", [0, 1, 7, 129])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kl", [-0.7, 0.4])
def test_loss_statistics_and_gradient_match_float64(count, dtype, kl):
    ratios, signs = make_inputs(count, dtype)
    options = {"beta": 0.3, "desirable": 1.25, "undesirable": 0.75}
    truth_input = ratios.double().requires_grad_()
    truth, truth_stats = reference(truth_input, signs, kl, **options)
    ratios.requires_grad_()
    loss, stats = rk.kto_loss(ratios, signs, kl, **options)
    assert loss.dtype == result_dtype(dtype)
    assert_near_truth(loss, truth, floor=FLOOR_NATS)
    assert_stats_near_truth(stats, truth_stats)
    if signs.any():
        truth.backward()
        loss.backward()
        assert ratios.grad.dtype == dtype
        assert_gradient_near_truth(ratios.grad, truth_input.grad)


def test_hand_computed_answers():
    # z0 = 0, beta = 1: desirable at ln 3: 1 - 3/4; undesirable at ln 3: 1 - 1/4; the third is none
    ratios = torch.tensor([math.log(3), math.log(3), 99.0], requires_grad=True)
    loss, stats = rk.kto_loss(ratios, torch.tensor([1, -1, 0]), -5.0, beta=1.0, undesirable=2.0)
    loss.backward()
    assert loss.item() == pytest.approx((0.25 + 2 * 0.75) / 2)
    # the derivative of a sigmoid at ln 3 is 3/16
    assert ratios.grad.tolist() == pytest.approx([-3 / 32, 2 * 3 / 32, 0.0])
    assert (stats["z0"], stats["desirable"], stats["undesirable"]) == (0, 1, 1)
    assert stats["desirable_reward"].item() == pytest.approx(math.log(3))
    shifted, _ = rk.kto_loss(ratios, torch.tensor([1, -1, 0]), math.log(3), beta=1.0)
    assert shifted.item() == pytest.approx(0.5)


def test_no_gradient_goes_through_the_kl():
    kl = torch.tensor(0.4, requires_grad=True)
    ratios = torch.zeros(2, requires_grad=True)
    loss, stats = rk.kto_loss(ratios, torch.tensor([1, -1]), kl, beta=0.5)
    loss.backward()
    assert kl.grad is None
    assert not stats["z0"].requires_grad


def test_micro_batches_add_up_and_a_nan_that_does_not_count_stays_away():
    ratios, signs = make_inputs(40)
    ratios[signs == 0] = torch.nan
    whole, parts = (ratios.clone().requires_grad_() for _ in range(2))
    loss, _ = rk.kto_loss(whole, signs, 0.2, beta=0.5)
    loss.backward()
    count = int((signs != 0).sum())
    halves = [
        rk.kto_loss(parts[a], signs[a], 0.2, beta=0.5, denominator=count)[0]
        for a in (slice(0, 13), slice(13, 40))
    ]
    sum(halves).backward()
    assert sum(halves).item() == pytest.approx(loss.item(), abs=1e-6)
    assert torch.isfinite(whole.grad).all()
    torch.testing.assert_close(parts.grad, whole.grad)


def test_log_ratios_of_a_thousand_neither_overflow_nor_lose_the_loss():
    ratios = torch.tensor([1e3, -1e3], requires_grad=True)
    loss, _ = rk.kto_loss(ratios, torch.tensor([1, 1]), 0.0, beta=1.0)
    loss.backward()
    assert loss.item() == 0.5
    assert ratios.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"logratios": torch.zeros(2, 2)}, "logratios"),
        ({"signs": torch.ones(3)}, "signs"),
        ({"signs": torch.ones(2, dtype=torch.int64)}, "signs"),
        ({"beta": 0.0}, "beta"),
        ({"undesirable": -1.0}, "undesirable"),
    ],
)
def test_wrong_arguments_are_refused_by_name(change, name):
    given = {"logratios": torch.zeros(3), "signs": torch.ones(3, dtype=torch.int64), "beta": 0.1}
    given |= change
    with pytest.raises(ValueError, match=f"kto_loss: argument '{name}'"):
        rk.kto_loss(given.pop("logratios"), given.pop("signs"), 0.0, **given)
