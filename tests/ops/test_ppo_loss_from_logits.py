"""ppo_loss_from_logits and cross_entropy: the loss, its gradient, masks, micro-batches."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.ppo_loss_from_logits import ppo_loss_from_logits as reference
from tests.ops.logits import DTYPES, isa, make_logits, make_targets, poison, with_threads
from tests.tolerances import FLOOR_NATS, assert_gradient_near_truth, assert_near_truth

__all__ = ["isa"]

CLIP = 0.2


def make_batch(n, vocab, dtype=torch.float32):
    """Logits, targets, old log-probs near the new ones, advantages and a mask with holes."""
    generator = torch.Generator().manual_seed(3)
    logits, targets = make_logits(n, vocab, dtype), make_targets(n, vocab)
    logprobs = rk.gather_logprobs(logits, targets).logprobs
    old = logprobs + 0.3 * torch.randn(n, generator=generator).to(logprobs.dtype)
    advantages = torch.randn(n, generator=generator).to(logprobs.dtype)
    return logits, targets, old, advantages, torch.rand(n, generator=generator) > 0.3


def make_terms(name, logits, targets, mask):
    """The options of one variant of the objective."""
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(9))
    ref_logits = logits + (0.2 * noise).to(logits.dtype)
    ref_logprobs = rk.gather_logprobs(ref_logits, targets).logprobs
    ptx_mask = ~mask
    ptx_mask[0] = True
    return {
        "plain": {},
        "entropy": {"entropy_coef": 0.1},
        "k2": {"kl_coef": 0.3, "kl_estimator": "k2", "ref_logprobs": ref_logprobs},
        "k3": {"kl_coef": 0.3, "ref_logprobs": ref_logprobs},
        "exact": {"kl_coef": 0.3, "ref_logits": ref_logits},
        "ptx": {"ptx_mask": ptx_mask, "ptx_coef": 27.8, "ptx_denominator": 5.0},
        "all": {
            "entropy_coef": 0.02,
            "kl_coef": 0.1,
            "ref_logits": ref_logits,
            "ptx_mask": ptx_mask,
            "ptx_coef": 2.0,
            "denominator": 40.0,
        },
    }[name]


def loss_and_grad(function, batch, upstream=1.0, **options):
    leaf = batch[0].detach().clone().requires_grad_()
    loss, stats = function(leaf * 1, *batch[1:], cliprange=CLIP, **options)
    (loss * upstream).backward()
    return loss.detach(), leaf.grad, stats


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


def fp32_gradient(batch, options):
    """Autograd of the same formulas in fp32 torch."""
    logits, targets, old, advantages, mask = batch
    leaf = logits.detach().clone().requires_grad_()

    def mean(values, where, count):
        return torch.where(where, values, 0.0).sum() / (where.sum() if count is None else count)

    logp = (leaf / 0.8).log_softmax(-1)
    taken, h = logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)
    ratio = (taken - old).exp()
    clipped = -advantages * ratio.clamp(1 - CLIP, 1 + CLIP)
    term = torch.maximum(-advantages * ratio, clipped) - options.get("entropy_coef", 0.0) * h
    if "ref_logits" in options:
        logq = (options["ref_logits"] / 0.8).log_softmax(-1)
        term = term + options["kl_coef"] * (logp.exp() * (logp - logq)).sum(-1)
    elif "ref_logprobs" in options:
        d = options["ref_logprobs"] - taken
        k2 = options.get("kl_estimator") == "k2"
        term = term + options["kl_coef"] * (0.5 * d**2 if k2 else d.expm1() - d)
    loss = mean(term, mask, options.get("denominator"))
    if "ptx_mask" in options:
        ptx = mean(-taken, options["ptx_mask"], options.get("ptx_denominator"))
        loss = loss + options["ptx_coef"] * ptx
    (3 * loss).backward()
    return leaf.grad


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


def test_in_place_bumps_the_version_and_refuses_a_second_backward():
    batch = make_batch(4, 30)
    leaf = batch[0].clone().requires_grad_()
    logits = leaf * 1
    squared = logits.square().sum()  # keeps the logits for its own backward
    version = logits._version
    loss, _ = rk.ppo_loss_from_logits(logits, *batch[1:], cliprange=CLIP, inplace=True)
    assert logits._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.backward()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_rows():
    empty = make_batch(0, 50257)
    loss, grad, _ = loss_and_grad(rk.ppo_loss_from_logits, empty, inplace=True)
    assert loss == 0
    assert grad.shape == (0, 50257)


def test_k1_in_the_loss_is_refused_with_the_reason():
    batch = make_batch(3, 8)
    with pytest.raises(ValueError, match="in the loss, k1's expected gradient is zero"):
        rk.ppo_loss_from_logits(
            *batch, cliprange=CLIP, kl_coef=0.1, kl_estimator="k1", ref_logprobs=batch[2]
        )


def test_errors_name_the_argument():
    batch = logits, targets, old, advantages, mask = make_batch(3, 8)
    mask[:] = True
    ref = logits.clone()

    def call(*arguments, **options):
        return lambda: rk.ppo_loss_from_logits(*arguments, **{"cliprange": CLIP, **options})

    for match, broken in {
        "'old_logprobs' must be float32, got bfloat16": call(
            logits, targets, old.bfloat16(), advantages, mask
        ),
        "'advantages' must have shape": call(logits, targets, old, advantages[:2], mask),
        "'mask' must be bool": call(logits, targets, old, advantages, mask.float()),
        "'cliprange' must be finite": call(*batch, cliprange=-0.1),
        "'kl_coef' is not 0, so pass": call(*batch, kl_coef=0.1),
        "'ptx_coef' is not 0, so pass": call(*batch, ptx_coef=1.0),
        "'ref_logits' and 'ref_logprobs' exclude": call(*batch, ref_logprobs=old, ref_logits=ref),
        "'ref_logits' must not share memory": call(*batch, ref_logits=logits, inplace=True),
        "'denominator' must be positive": call(*batch, denominator=0.0),
        "'logits' must not have overlapping": call(
            logits[:1].expand(3, 8), *batch[1:], inplace=True
        ),
    }.items():
        with pytest.raises(ValueError, match=match):
            broken()


def schema_arguments(batch, **changes):
    arguments = {
        "ref_logprobs": None,
        "ref_logits": None,
        "ptx_mask": ~batch[4],
        "temperatures": None,
        "denominator": None,
        "ptx_denominator": None,
        "temperature": 0.9,
        "cliprange": CLIP,
        "entropy_coef": 0.1,
        "kl_coef": 0.0,
        "ptx_coef": 1.0,
        "kl_estimator": "k3",
    }
    return (*batch, *{**arguments, **changes}.values())


def test_opcheck_out_of_place_and_in_place():
    batch = make_batch(4, 9)
    ops = torch.ops.rlhf_kernels
    leaf = batch[0].clone().requires_grad_()
    reference_logits = batch[0] + 0.1
    torch.library.opcheck(
        ops.ppo_loss_from_logits.default,
        schema_arguments((leaf, *batch[1:]), ref_logits=reference_logits, kl_coef=0.1),
    )
    torch.library.opcheck(ops.ppo_loss_from_logits_.default, schema_arguments(batch))


@pytest.mark.parametrize("terms", ["all", "k3"])
def test_gradcheck(terms):
    batch = make_batch(4, 7, torch.float64)
    options = make_terms(terms, batch[0], batch[1], batch[4])
    assert torch.autograd.gradcheck(
        lambda x: rk.ppo_loss_from_logits(
            x, *batch[1:], cliprange=CLIP, temperature=0.9, **options
        )[0],
        (batch[0].requires_grad_(),),
    )


@pytest.mark.parametrize("inplace", [False, True])
def test_compiles_without_graph_breaks(inplace):
    batch = make_batch(6, 40)
    hidden, weight = torch.randn(6, 8), torch.randn(8, 40)

    def loss(h, w):
        return rk.ppo_loss_from_logits(h @ w, *batch[1:], cliprange=CLIP, inplace=inplace)[0] * 2

    grads = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaf = hidden.clone().requires_grad_()
        function(leaf, weight).backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)
