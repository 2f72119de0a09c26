"""ppo_loss_from_logits and cross_entropy: the loss, its gradient, masks, micro-batches."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.ppo_loss_from_logits import ppo_loss_from_logits as reference
from tests.ops.logits import DTYPES, isa, poison, with_threads
from tests.ops.policy import CLIP, fp32_gradient, loss_and_grad, make_batch, make_terms
from tests.tolerances import FLOOR_NATS, assert_gradient_near_truth, assert_near_truth

__all__ = ["isa"]

TERMS = ("plain", "entropy", "k2", "k3", "exact", "ptx", "all")


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_statistics_and_gradient_match_float64(dtype, terms, inplace):
    batch = make_batch(13, 300, dtype)
    options = make_terms(terms, batch[0], batch[1], batch[4])
    # In place, an upstream gradient other than 1 rounds a 16-bit gradient a second time.
    upstream = 3.0 if dtype in (torch.float32, torch.float64) else 1.0
    ours = loss_and_grad(
        rk.ppo_loss_from_logits, batch, upstream, temperature=0.8, inplace=inplace, **options
    )
    exact = tuple(t.double() if t.is_floating_point() else t for t in batch)
    truth = loss_and_grad(reference, exact, upstream, temperature=0.8, **options)
    # A loss of order 100 (27.8 nats times ptx) has roundings of 4e-6.
    scale = max(1.0, truth[0].abs().item())
    assert_near_truth(ours[0] / scale, truth[0] / scale)
    for name, value in truth[2].items():
        assert_near_truth(ours[2][name], value.detach(), floor=10 * FLOOR_NATS)
    if dtype in (torch.float32, torch.float64):
        fp32 = fp32_gradient(batch, options)
        assert_gradient_near_truth(ours[1], truth[1], fp32 if dtype == torch.float32 else None)
    else:
        assert_gradient_near_truth(ours[1], truth[1])


@pytest.mark.parametrize("vocab", [1, 2, 31, 2049, 50257])
def test_every_instruction_set_and_size(isa, vocab):
    batch = make_batch(5, vocab)
    options = make_terms("all", batch[0], batch[1], batch[4])
    loss, grad, _ = loss_and_grad(rk.ppo_loss_from_logits, batch, inplace=True, **options)
    exact = tuple(t.double() if t.is_floating_point() else t for t in batch)
    truth = loss_and_grad(reference, exact, **options)
    assert_near_truth(loss, truth[0], floor=10 * FLOOR_NATS)
    if vocab > 1:  # with one class every gradient is 0
        rows = truth[1].abs().amax(-1) > 0
        # Two roundings of exponents near 2^5 (log p down to -20): 2^5 * 2^-24 = 2e-6.
        scaled = (grad.double() - truth[1])[rows] / truth[1][rows].abs().amax(-1, keepdim=True)
        assert scaled.abs().max() < 4e-6
    assert (grad[~(batch[4] | options["ptx_mask"])] == 0).all()


def test_a_fault_of_one_percent_in_a_coefficient_is_seen():
    batch = make_batch(13, 300)
    options = make_terms("exact", batch[0], batch[1], batch[4])
    exact = tuple(t.double() if t.is_floating_point() else t for t in batch)
    truth = loss_and_grad(reference, exact, 3.0, temperature=0.8, **options)
    fp32 = fp32_gradient(batch, options)
    for fault in ({"kl_coef": 0.303}, {"temperature": 0.808}, {"entropy_coef": 0.01}):
        faulty = {"temperature": 0.8, **options, **fault}
        _, grad, _ = loss_and_grad(rk.ppo_loss_from_logits, batch, 3.0, **faulty)
        with pytest.raises(AssertionError, match="error"):
            assert_gradient_near_truth(grad, truth[1], fp32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ratio_is_exactly_one_when_old_equals_new(isa, dtype):
    logits, targets, _, advantages, mask = make_batch(40, 2049, dtype)
    old = rk.gather_logprobs(logits, targets, temperature=0.7).logprobs
    _, stats = rk.ppo_loss_from_logits(
        logits, targets, old, advantages, mask, cliprange=CLIP, temperature=0.7
    )
    assert stats["ratio_max"] == 1.0
    assert stats["ratio_error"] == 0.0
    assert stats["approxkl"] == 0.0
    assert stats["clipfrac"] == 0.0


def test_in_place_and_out_of_place_agree_bit_for_bit(isa):
    batch = make_batch(9, 700)
    options = make_terms("all", batch[0], batch[1], batch[4])
    ours = [
        loss_and_grad(rk.ppo_loss_from_logits, batch, inplace=inplace, **options)
        for inplace in (False, True)
    ]
    assert torch.equal(ours[0][0], ours[1][0])
    assert torch.equal(ours[0][1], ours[1][1])


@pytest.mark.parametrize("inplace", [False, True])
def test_micro_batches_add_up_to_one_batch(inplace):
    batch = make_batch(24, 500)
    options = make_terms("all", batch[0], batch[1], batch[4])
    counts = {
        "denominator": batch[4].sum().item(),
        "ptx_denominator": options["ptx_mask"].sum(),
    }
    options.update(counts)
    whole = loss_and_grad(rk.ppo_loss_from_logits, batch, inplace=inplace, **options)
    loss, stats, grads = 0.0, {}, []
    for start in range(0, 24, 6):
        rows = slice(start, start + 6)
        part = {
            key: value[rows] if isinstance(value, torch.Tensor) and value.ndim else value
            for key, value in options.items()
        }
        micro = loss_and_grad(
            rk.ppo_loss_from_logits, tuple(t[rows] for t in batch), inplace=inplace, **part
        )
        loss = loss + micro[0]
        grads.append(micro[1])
        for name, value in micro[2].items():
            stats[name] = stats.get(name, 0.0) + value
    assert torch.equal(torch.cat(grads), whole[1])
    assert_near_truth(loss, whole[0])
    for name in ("policy_loss", "approxkl", "clipfrac", "ratio_mean", "entropy", "kl", "ptx_loss"):
        assert_near_truth(stats[name], whole[2][name])


def test_all_rows_masked_gives_zero_and_reads_nothing():
    logits, targets, old, advantages, mask = make_batch(4, 50)
    logits.fill_(torch.nan)
    targets.fill_(-100)
    batch = (logits, targets, old, advantages, torch.zeros_like(mask))
    loss, grad, stats = loss_and_grad(rk.ppo_loss_from_logits, batch, inplace=True)
    assert loss == 0
    assert (grad == 0).all()
    assert all(value == 0 for value in stats.values())


def test_masked_rows_with_nan_do_not_reach_anything():
    batch = make_batch(12, 64)
    expected = loss_and_grad(rk.ppo_loss_from_logits, batch)
    poisoned = tuple(t.clone() for t in batch)
    for tensor, value in zip(poisoned[:4], (torch.nan, -100, torch.nan, torch.inf), strict=True):
        tensor[~batch[4]] = value
    ours = loss_and_grad(rk.ppo_loss_from_logits, poisoned)
    assert torch.equal(ours[0], expected[0])
    assert torch.equal(ours[1], expected[1])
    assert all(torch.equal(ours[2][name], expected[2][name]) for name in expected[2])


def test_clip_boundaries_and_extreme_ratios():
    # One class of two: log p = -log 2 for every row; old is chosen to place the ratio.
    logits, targets = torch.zeros(6, 2), torch.zeros(6, dtype=torch.long)
    logp = rk.gather_logprobs(logits, targets).logprobs
    ratios = torch.tensor([1.0, 1.5, 0.5, 1.5, 0.5, 1.0])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, 0.0])
    mask = torch.ones(6, dtype=torch.bool)
    _, grad, stats = loss_and_grad(
        rk.ppo_loss_from_logits, (logits, targets, logp - ratios.log(), advantages, mask)
    )
    # Clipped away: a gain beyond 1 + eps, a loss below 1 - eps; the other side keeps its gradient.
    assert [bool(g) for g in grad[:, 0] != 0] == [True, False, False, True, True, False]
    assert_near_truth(stats["clipfrac"], torch.tensor(2 / 6, dtype=torch.float64))
    old = logp.clone()
    old[:] = torch.tensor([-100.0, 100.0, 0.0, 0.0, 0.0, -100.0])
    hard = torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0, 0.0])
    loss, grad, stats = loss_and_grad(rk.ppo_loss_from_logits, (logits, targets, old, hard, mask))
    assert loss.isfinite()
    assert grad.isfinite().all()
    assert stats["ratio_max"] > 1e30


def test_layouts_threads_and_batch_do_not_change_a_row(isa):
    batch = make_batch(40, 1500)
    _, grad, _ = loss_and_grad(rk.ppo_loss_from_logits, batch, denominator=10.0)
    single = with_threads(
        1, lambda: loss_and_grad(rk.ppo_loss_from_logits, batch, denominator=10.0)
    )
    assert torch.equal(single[1], grad)
    part = tuple(t[7:9] for t in batch)
    assert torch.equal(loss_and_grad(rk.ppo_loss_from_logits, part, denominator=10.0)[1], grad[7:9])
    wide = poison(batch[0])
    rk.ppo_loss_from_logits(wide, *batch[1:], cliprange=CLIP, denominator=10.0, inplace=True)
    assert torch.equal(wide, grad)
