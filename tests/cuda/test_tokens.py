"""Token ops on CUDA: values, gradients, masks, extremes, ragged groups, errors."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.gae import gae as gae_reference
from tests.cuda.cases import TOKENS, gae_inputs, ranking_inputs
from tests.cuda.device import assert_same_bits, named
from tests.cuda.rules import DTYPES, assert_results_near_truth, check_repeats, check_values
from tests.ops.helpers import make_tokens, poison

#: One, odd, a warp and a block with their neighbours, several blocks of partial sums.
SIZES = (1, 7, 33, 256, 1023, 1025, 4100)
MASKED = ("ppo_loss", "value_loss", "shaped_rewards_k1", "gae", "gae_whiten", "whiten")
MASKED += ("advantages_k1", "advantages_whiten")
#: A full cluster, more with an odd end, and more than one cluster takes; rows on many blocks.
MANY = (65536, 70001, 140000)
GROUPS = ("ppo_loss", "value_loss", "gae", "gae_whiten", "advantages_whiten")
LOSSES = {"ppo_loss": {"cliprange": 0.2}, "value_loss": {"cliprange_value": 0.2}}


def find(name):
    (case,) = (case for case in TOKENS if case.name == name)
    return case


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", TOKENS, ids=str)
def test_values_and_gradients_match_float64_and_the_cpu(case, dtype, size, column):
    check_values(case, column, size, dtype)


@pytest.mark.parametrize("size", MANY)
@pytest.mark.parametrize("name", GROUPS)
def test_values_and_gradients_of_many_tokens_match_float64_and_the_cpu(name, size, column):
    check_values(find(name), column, size, torch.float32)


@pytest.mark.parametrize("name", GROUPS)
def test_repeated_runs_of_many_tokens_give_the_same_bits(name, column):
    check_repeats(find(name), column, 70001)


@pytest.mark.parametrize("case", TOKENS, ids=str)
def test_repeated_runs_give_the_same_bits(case, column):
    check_repeats(case, column, 3001)


@pytest.mark.parametrize("name", MASKED)
def test_what_stands_under_the_mask_is_not_used(name, column):
    case = find(name)
    *tensors, mask = case.inputs(2000, torch.float32)
    mask[..., -1] = False
    rows = [t if t.shape == mask.shape else None for t in tensors]
    poisoned = [t if row is None else poison(t, mask) for t, row in zip(tensors, rows, strict=True)]
    expected = column.run(case.op, *tensors, mask, **case.options)
    assert_same_bits(column.run(case.op, *poisoned, mask, **case.options), expected)
    for value in named(expected).values():
        assert value.isfinite().all()
        assert value.shape != mask.shape or (value[~mask] == 0).all()


@pytest.mark.parametrize("name", MASKED)
def test_an_empty_mask_gives_zero(name, column):
    case = find(name)
    *tensors, mask = case.inputs(600, torch.float32)
    results = column.run(case.op, *tensors, torch.zeros_like(mask), **case.options)
    assert all((value == 0).all() for value in named(results).values())


@pytest.mark.parametrize("name", LOSSES)
def test_masked_tokens_get_gradient_zero(name, column):
    case = find(name)
    *tensors, mask = case.inputs(1500, torch.float32)
    poisoned = [poison(tensor, mask) for tensor in tensors]
    _, grad = column.differentiate(case.op, *poisoned, mask, upstream=2.0, **case.options)
    assert grad.isfinite().all()
    assert (grad[~mask] == 0).all()
    assert (grad[mask] != 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_denominator_on_the_device_adds_micro_batches_up(name, column):
    case = find(name)
    inputs = case.inputs(2048, torch.float32)
    count = inputs[-1].sum().double()
    options = {**case.options, "denominator": count}
    whole, grad = column.differentiate(case.op, *inputs, upstream=1.0, **options)
    parts = [
        column.differentiate(case.op, *(t[part] for t in inputs), upstream=1.0, **options)
        for part in (slice(0, 700), slice(700, 2048))
    ]
    assert torch.equal(torch.cat([part[1] for part in parts]), grad)
    total = sum(part[0][0].double() for part in parts)
    assert_results_near_truth(whole[0], total)


@pytest.mark.parametrize("denominator", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", LOSSES)
def test_a_denominator_that_is_not_positive_never_gives_a_number(name, denominator, column):
    case = find(name)
    loss, _ = column.run(
        case.op,
        *case.inputs(100, torch.float32),
        denominator=torch.tensor(denominator),
        **case.options,
    )
    assert loss.isnan()


def test_ratio_is_one_when_old_equals_new_and_clipping_is_seen_at_its_bounds(column):
    x, _, a, mask = find("ppo_loss").inputs(512, torch.float32)
    _, stats = column.run(rk.ppo_loss, x, x, a, mask, cliprange=0.2)
    assert stats["ratio_max"] == 1.0
    assert stats["ratio_error"] == 0.0
    assert stats["clipfrac"] == 0.0
    assert stats["approxkl"] == 0.0


@pytest.mark.parametrize("difference", [-100.0, 100.0])
def test_extreme_ratios_follow_the_policy_of_the_cpu(difference, column, cpu):
    x = torch.full((64,), difference)
    tokens = (x, torch.zeros(64), torch.linspace(-1, 1, 64), torch.ones(64, dtype=torch.bool))
    ours, grad = column.differentiate(rk.ppo_loss, *tokens, cliprange=0.2)
    host, host_grad = cpu.differentiate(rk.ppo_loss, *tokens, cliprange=0.2)
    assert ours[0].isfinite()
    assert grad.isfinite().all()
    # exp(80) nats differ in their last bits; relative to the result that is fp32 rounding.
    assert (ours[0] / host[0] - 1).abs() < 1e-5 or torch.equal(ours[0], host[0])
    torch.testing.assert_close(grad, host_grad, rtol=1e-5, atol=0.0)
    kl = column.run(rk.token_kl, x, torch.zeros(64), estimator="k3")
    assert kl.isfinite().all()


def test_k2_and_k3_are_zero_for_equal_inputs_and_never_negative(column):
    x, noise, _ = make_tokens(3000, count=2)
    for estimator in ("k2", "k3"):
        assert (column.run(rk.token_kl, x, x, estimator=estimator) == 0).all()
        near = column.run(rk.token_kl, x, x + 1e-4 * noise, estimator=estimator)
        assert (near >= 0).all()


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 255, 257, 1000])
def test_gae_over_rows_of_any_length_with_holes(length, column):
    rewards, values, mask = make_tokens(5, length, count=2, seed=length)
    mask[1] = False
    mask[2] = True
    ours = column.run(rk.gae, rewards, values, mask, gamma=0.97, lam=0.9)
    assert_results_near_truth(ours, gae_reference(rewards, values, mask, gamma=0.97, lam=0.9))


def test_a_row_of_gae_does_not_depend_on_its_batch(column):
    rewards, values, mask = gae_inputs(4000, torch.float32)
    options = {"gamma": 1.0, "lam": 0.95}
    full = column.run(rk.gae, rewards, values, mask, **options)
    for row in (0, 3, rewards.shape[0] - 1):
        alone = column.run(
            rk.gae, rewards[row : row + 1], values[row : row + 1], mask[row : row + 1], **options
        )
        assert_same_bits(alone, tuple(t[row : row + 1] for t in full))


def test_token_results_do_not_depend_on_the_batch(column):
    x, y, _ = make_tokens(3000, count=2)
    full = column.run(rk.token_kl, x, y, estimator="k3")
    for part in (slice(0, 1), slice(2, 9), slice(2993, 3000)):
        assert torch.equal(column.run(rk.token_kl, x[part], y[part], estimator="k3"), full[part])


def test_ranking_with_differences_of_ten_thousand(column):
    scores = torch.tensor([1e4, 0.0, -1e4, 0.0])
    ranks, offsets = torch.tensor([1, 2, 1, 2]), torch.tensor([0, 2, 4])
    (loss, _), grad = column.differentiate(rk.ranking_loss, scores, ranks, offsets)
    assert loss == 5000.0
    assert torch.equal(grad, torch.tensor([0.0, 0.0, -0.5, 0.5]))


@pytest.mark.parametrize("sizes", [[1], [0, 0], [1, 3, 0, 2], [9] * 300, [64, 2]])
def test_ranking_of_ragged_groups(sizes, column, cpu):
    total = sum(sizes)
    scores, _ = make_tokens(total, count=1, seed=3)
    ranks = torch.randint(1, 4, (total,), generator=torch.Generator().manual_seed(1))
    offsets = torch.tensor([0, *torch.tensor(sizes).cumsum(0).tolist()], dtype=torch.int32)
    ours, grad = column.differentiate(rk.ranking_loss, scores, ranks.int(), offsets)
    host, host_grad = cpu.differentiate(rk.ranking_loss, scores, ranks, offsets)
    assert_results_near_truth(ours, ({k: v.double() for k, v in named(host).items()},))
    torch.testing.assert_close(grad, host_grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("offsets", [[0, 5, 3, 12], [0, 4, 99], [0, -2, 12], [1, 4, 12]])
def test_offsets_that_do_not_rise_are_never_followed(offsets, column):
    scores, ranks, _ = ranking_inputs(12, torch.float32)
    loss, _ = column.run(rk.ranking_loss, scores[:12], ranks[:12], torch.tensor(offsets))
    assert loss.isnan()


def test_errors_name_the_argument(column):
    x, y, a, mask = find("ppo_loss").inputs(16, torch.float32)
    for match, call in {
        "'ref_logprobs' must have the shape": lambda: column.run(rk.token_kl, x, y[:3]),
        "'ref_logprobs' must have the dtype": lambda: column.run(rk.token_kl, x, y.half()),
        "is float64 on a CUDA device": lambda: column.run(rk.token_kl, x.double(), y.double()),
        "'mask' must be bool": lambda: column.run(
            rk.ppo_loss, x, y, a, mask.float(), cliprange=0.2
        ),
        "'cliprange' must": lambda: column.run(rk.ppo_loss, x, y, a, mask, cliprange=-1.0),
        "'ties' must": lambda: column.run(
            rk.ranking_loss, x, torch.ones(16).long(), torch.tensor([0, 16]), ties="none"
        ),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.parametrize("name", ["token_kl_k1", "ppo_loss", "value_loss", "gae", "whiten"])
def test_float64_is_refused_by_name(name, column):
    case = find(name)
    with pytest.raises(ValueError, match="float64 on a CUDA device"):
        column.run(case.op, *case.inputs(16, torch.float64), **case.options)
