"""ppo_loss against float64, at its corners, its contract and its identity in PyTorch."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.ppo_loss import ppo_loss as reference
from tests.ops.helpers import (
    DTYPES,
    SHAPES,
    assert_stats_near_truth,
    make_tokens,
    poison,
    result_dtype,
    run_with_threads,
)
from tests.tolerances import assert_gradient_near_truth, assert_near_truth

OP = torch.ops.rlhf_kernels.ppo_loss.default


def make_inputs(*shape, dtype=torch.float32, seed=0):
    old, change, advantages, mask = make_tokens(*shape, count=3, dtype=torch.float64, seed=seed)
    old = old - 3
    return (*(t.to(dtype) for t in (old + 0.3 * change, old, advantages)), mask)


def one_token(logratio, advantage, cliprange=0.2, dtype=torch.float32):
    """Return (loss, gradient) of a single token."""
    logprob = torch.tensor([float(logratio)], dtype=dtype, requires_grad=True)
    old, advantage = torch.zeros(1, dtype=dtype), torch.tensor([advantage], dtype=dtype)
    mask = torch.ones(1, dtype=torch.bool)
    loss, _ = rk.ppo_loss(logprob, old, advantage, mask, cliprange=cliprange)
    loss.backward()
    return loss.item(), logprob.grad.item()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_statistics_and_gradient_match_float64(shape, dtype):
    logprobs, old, advantages, mask = make_inputs(*shape, dtype=dtype)
    truth_input = logprobs.double().requires_grad_()
    truth, truth_stats = reference(truth_input, old, advantages, mask, cliprange=0.2)
    truth.backward()
    logprobs.requires_grad_()
    loss, stats = rk.ppo_loss(logprobs, old, advantages, mask, cliprange=0.2)
    loss.backward()
    assert loss.dtype == result_dtype(dtype)
    assert logprobs.grad.dtype == dtype
    assert_near_truth(loss, truth)
    assert_stats_near_truth(stats, truth_stats)
    if logprobs.numel():
        assert_gradient_near_truth(logprobs.grad.flatten(), truth_input.grad.flatten())


def test_hand_computed_three_tokens():
    # ratios 1.5, 0.5, 1; the first is clipped to 1.2, the second's clip to 0.8 is the larger loss
    logprobs = torch.tensor([1.5, 0.5, 1.0]).log().requires_grad_()
    advantages = torch.tensor([2.0, -1.0, 3.0])
    mask = torch.ones(3, dtype=torch.bool)
    loss, stats = rk.ppo_loss(logprobs, torch.zeros(3), advantages, mask, cliprange=0.2)
    loss.backward()
    assert loss.item() == pytest.approx((-2.4 + 0.8 - 3.0) / 3, abs=1e-6)
    assert logprobs.grad.tolist() == pytest.approx([0.0, 0.0, -1.0], abs=1e-6)
    assert stats["clipfrac"].item() == pytest.approx(2 / 3, abs=1e-6)
    assert stats["ratio_max"].item() == pytest.approx(1.5, abs=1e-6)
    assert stats["ratio_var"].item() == pytest.approx(1 / 6, abs=1e-6)


def test_ratio_is_exactly_one_when_old_equals_new():
    logprobs, _, advantages, mask = make_inputs(64, 33)
    loss, stats = rk.ppo_loss(logprobs, logprobs, advantages, mask, cliprange=0.2)
    assert stats["ratio_max"] == 1
    for name in ("ratio_error", "ratio_var", "approxkl", "approxkl_k3", "clipfrac"):
        assert stats[name] == 0, name
    assert_near_truth(loss, -advantages[mask].double().mean())


@pytest.mark.parametrize("edge", [0.8, 1.2])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_ratio_on_the_edge_keeps_its_gradient(edge, advantage):
    # cliprange that puts the edge exactly on the ratio the kernel sees
    ratio = torch.tensor(edge, dtype=torch.float64).log().exp().item()
    _, gradient = one_token(
        torch.tensor(edge, dtype=torch.float64).log(), advantage, abs(1 - ratio), torch.float64
    )
    assert gradient == pytest.approx(-advantage * ratio, abs=1e-12)


@pytest.mark.parametrize(
    ("logratio", "advantage", "loss", "gradient"),
    [
        (1.0, 0.0, 0.0, 0.0),  # no advantage: nothing to learn
        (100.0, 0.0, 0.0, 0.0),  # and no inf * 0 where the ratio is huge
        (100.0, 1.0, -1.2, 0.0),  # clipped from above
        (-100.0, -1.0, 0.8, 0.0),  # clipped from below
        (-100.0, 1.0, 0.0, 0.0),  # ratio 4e-44: unclipped, all but 0
    ],
)
def test_extreme_log_ratios(logratio, advantage, loss, gradient):
    assert one_token(logratio, advantage) == pytest.approx((loss, gradient), abs=1e-6)


def test_negative_advantage_with_a_huge_ratio_stays_finite():
    loss, gradient = one_token(100.0, -1.0)
    assert loss == gradient
    assert 5e34 < loss < 6e34  # exp(80), the limit of the exponent


def test_masked_tokens_are_never_read():
    *tensors, mask = make_inputs(13, 77)
    clean, poisoned = [], []
    for source, results in ((lambda t: t, clean), (lambda t: poison(t, mask), poisoned)):
        logprobs, old, advantages = (source(t).clone() for t in tensors)
        logprobs.requires_grad_()
        loss, stats = rk.ppo_loss(logprobs, old, advantages, mask, cliprange=0.2)
        loss.backward()
        results += [loss, logprobs.grad, *stats.values()]
    assert all(torch.equal(a, b) for a, b in zip(clean, poisoned, strict=True))
    assert (clean[1][~mask] == 0).all()


def test_all_masked_gives_zero_everywhere():
    logprobs, old, advantages, mask = make_inputs(4, 5)
    logprobs.requires_grad_()
    for denominator in (None, 0, 20):
        loss, stats = rk.ppo_loss(
            logprobs,
            old,
            advantages,
            torch.zeros_like(mask),
            cliprange=0.2,
            denominator=denominator,
        )
        (grad,) = torch.autograd.grad(loss, logprobs)
        assert loss == 0
        assert (grad == 0).all()
        assert all(value == 0 for value in stats.values())


def test_nan_in_a_counted_token_shows_in_loss_and_statistics():
    logprobs, old, advantages, _ = make_inputs(9)
    logprobs[4] = torch.nan
    mask = torch.ones(9, dtype=torch.bool)
    loss, stats = rk.ppo_loss(logprobs, old, advantages, mask, cliprange=0.2)
    assert loss.isnan()
    assert stats["ratio_max"].isnan()


def test_micro_batches_add_up_to_the_batch():
    *tensors, mask = make_inputs(12, 50)
    whole = tensors[0].clone().requires_grad_()
    parts = tensors[0].clone().requires_grad_()
    loss, stats = rk.ppo_loss(whole, *tensors[1:], mask, cliprange=0.2)
    loss.backward()
    total = dict.fromkeys(stats, 0.0)
    for rows in (slice(0, 1), slice(1, 8), slice(8, 12)):
        part, part_stats = rk.ppo_loss(
            parts[rows],
            *(t[rows] for t in tensors[1:]),
            mask[rows],
            cliprange=0.2,
            denominator=mask.sum(),
        )
        part.backward()
        for name, value in part_stats.items():
            total[name] += value.item()
    assert torch.equal(parts.grad, whole.grad)
    for name in ("policy_loss", "approxkl", "approxkl_k3", "clipfrac", "ratio_mean"):
        assert total[name] == pytest.approx(stats[name].item(), rel=1e-5), name


def test_result_does_not_depend_on_threads_or_layout():
    *tensors, mask = make_inputs(64, 1024)
    one, two = (
        run_with_threads(n, lambda: rk.ppo_loss(*tensors, mask, cliprange=0.2)) for n in (1, 2)
    )
    strided = rk.ppo_loss(
        *(t.t().contiguous().t() for t in tensors), mask.t().contiguous().t(), cliprange=0.2
    )
    flat = rk.ppo_loss(*(t.flatten() for t in tensors), mask.flatten(), cliprange=0.2)
    for other in (two, strided, flat):
        assert torch.equal(one[0], other[0])
        assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


def test_expanded_and_scaled_upstream_gradients():
    logprobs, old, advantages, mask = make_inputs(40)
    logprobs.requires_grad_()
    loss, _ = rk.ppo_loss(logprobs, old, advantages, mask, cliprange=0.2)
    (plain,) = torch.autograd.grad(loss, logprobs, retain_graph=True)
    upstream = torch.full((1,), 8.0).expand(2)[0]
    (scaled,) = torch.autograd.grad(loss, logprobs, upstream)
    assert torch.equal(scaled, 8 * plain)


def test_mixed_dtypes_are_converted():
    logprobs, old, advantages, mask = make_inputs(100)
    loss, _ = rk.ppo_loss(logprobs, old.bfloat16(), advantages.double(), mask, cliprange=0.2)
    truth, _ = reference(logprobs, old.bfloat16(), advantages, mask, cliprange=0.2)
    assert loss.dtype == torch.float64
    assert_near_truth(loss, truth, floor=1e-12)


def test_errors_name_the_argument():
    logprobs, old, advantages, mask = make_inputs(6)

    def call(logprobs=logprobs, old=old, advantages=advantages, mask=mask, clip=0.2, den=None):
        return rk.ppo_loss(logprobs, old, advantages, mask, cliprange=clip, denominator=den)

    for change, message in [
        ({"logprobs": logprobs.int()}, "'logprobs' must be float32"),
        ({"old": old[:3]}, "'old_logprobs' must have the shape"),
        ({"advantages": advantages[None]}, "'advantages' must have the shape"),
        ({"mask": mask.int()}, "'mask' must be bool"),
        ({"mask": mask[:2]}, "'mask' must have the shape"),
        ({"clip": -0.1}, "'cliprange' must be"),
        ({"clip": float("nan")}, "'cliprange' must be"),
        ({"den": 0}, "'denominator' must be positive"),
        ({"den": -1}, "'denominator' must be"),
        ({"den": torch.ones(2)}, "'denominator' must have shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(**change)


def test_opcheck_and_gradcheck():
    logprobs, old, advantages, mask = make_inputs(3, 5, dtype=torch.float64)
    logprobs.requires_grad_()
    denominator = torch.tensor(7.0, dtype=torch.float64)
    for given in (None, denominator):
        torch.library.opcheck(OP, (logprobs, old, advantages, mask, 0.2, given))
    assert torch.autograd.gradcheck(
        lambda x: rk.ppo_loss(x, old, advantages, mask, cliprange=0.2)[0], (logprobs,)
    )


def test_compiles_without_graph_breaks():
    logprobs, old, advantages, mask = make_inputs(8, 16)

    def step(x):
        loss, stats = rk.ppo_loss(x, old, advantages, mask, cliprange=0.2, denominator=64.0)
        return 2 * loss, stats["approxkl"]

    eager, compiled = (logprobs.clone().requires_grad_() for _ in range(2))
    expected = step(eager)
    actual = torch.compile(step, fullgraph=True, backend="aot_eager")(compiled)
    expected[0].backward()
    actual[0].backward()
    assert torch.equal(actual[1], expected[1])
    assert torch.equal(compiled.grad, eager.grad)
