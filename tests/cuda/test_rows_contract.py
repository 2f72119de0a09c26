"""Ops on logits on CUDA: masks, targets, temperatures, denominators, refusals, in-place rules."""

import math

import pytest
import torch

import rlhf_kernels as rk
from tests.cuda.device import assert_same_bits, named
from tests.ops.logits import make_logits, make_targets
from tests.ops.policy import CLIP, make_batch, make_terms
from tests.tolerances import assert_near_truth


def objective(inplace=False, **fixed):
    """The policy objective of logits that are not a leaf."""

    def call(logits, *rest, **options):
        return rk.ppo_loss_from_logits(
            logits * 1, *rest, cliprange=CLIP, inplace=inplace, **fixed, **options
        )

    return call


def test_masked_rows_give_zero_and_are_not_read(column):
    logits, targets = make_logits(6, 300), make_targets(6, 300)
    mask = torch.tensor([True, False, True, False, False, True])
    full, full_grad = column.differentiate(
        rk.gather_logprobs, logits, targets, upstream=torch.ones(6)
    )
    kl = column.run(rk.exact_kl, logits, logits.roll(3, 0))
    roll = logits.roll(3, 0)
    logits[~mask] = torch.nan
    roll[~mask] = torch.inf
    targets[~mask] = torch.tensor([-100, 2**40, 300])
    ours, grad = column.differentiate(
        rk.gather_logprobs, logits, targets, mask=mask, upstream=torch.ones(6)
    )
    for mine, whole in zip(ours, full, strict=True):
        assert torch.equal(mine, torch.where(mask, whole, 0.0))
    assert torch.equal(grad, torch.where(mask[:, None], full_grad, 0.0))
    masked = column.run(rk.exact_kl, logits, roll, mask=mask)
    assert torch.equal(masked, torch.where(mask, kl, 0.0))


@pytest.mark.parametrize("inplace", [False, True])
def test_masked_rows_with_nan_do_not_reach_the_objective(inplace, column):
    batch = make_batch(12, 64)
    expected = column.differentiate(objective(inplace), *batch)
    poisoned = tuple(t.clone() for t in batch)
    for tensor, value in zip(poisoned[:4], (math.nan, -100, math.nan, math.inf), strict=True):
        tensor[~batch[4]] = value
    ours = column.differentiate(objective(inplace), *poisoned)
    assert_same_bits(ours[0], expected[0])
    assert torch.equal(ours[1], expected[1])


@pytest.mark.parametrize("inplace", [False, True])
def test_all_rows_masked_gives_zero_and_reads_nothing(inplace, column):
    logits, targets, old, advantages, mask = make_batch(4, 50)
    logits.fill_(torch.nan)
    targets.fill_(-100)
    batch = (logits, targets, old, advantages, torch.zeros_like(mask))
    results, grad = column.differentiate(objective(inplace), *batch)
    assert all((value == 0).all() for value in named(results).values())
    assert (grad == 0).all()


@pytest.mark.parametrize("value", [-100, -1, 64, 2**40])
@pytest.mark.parametrize("index", [torch.int64, torch.int32])
def test_a_target_out_of_range_gives_nan_in_its_row_alone(value, index, column):
    if index == torch.int32 and value > 2**31:
        value = 2**31 - 1
    logits, targets = make_logits(5, 64), make_targets(5, 64).to(index)
    right = column.run(rk.gather_logprobs, logits, targets)
    targets[3] = value
    ours, grad = column.differentiate(rk.gather_logprobs, logits, targets, upstream=torch.ones(5))
    others = [0, 1, 2, 4]
    assert ours.logprobs[3].isnan()
    assert torch.equal(ours.logprobs[others], right.logprobs[others])
    assert grad[3].isnan().all()
    assert grad[others].isfinite().all()
    loss, _ = column.run(rk.cross_entropy, logits, targets)
    assert loss.isnan()


@pytest.mark.parametrize("inplace", [False, True])
def test_a_target_out_of_range_makes_the_objective_nan(inplace, column):
    batch = make_batch(8, 64)
    batch[1][3], batch[4][3] = -100, True
    (loss, _), grad = column.differentiate(objective(inplace), *batch)
    assert loss.isnan()
    assert grad[3].isnan().all()


def test_int32_targets_equal_int64_targets(column):
    logits, targets = make_logits(5, 64), make_targets(5, 64)
    runs = [column.run(rk.gather_logprobs, logits, t) for t in (targets, targets.int())]
    assert_same_bits(*runs)


def test_temperature_of_each_row(column):
    logits, targets = make_logits(4, 1000), make_targets(4, 1000)
    heat = torch.tensor([0.3, 1.0, 1.7, 0.5])
    rows = column.run(rk.gather_logprobs, logits, targets, temperature=heat)
    kl = column.run(rk.exact_kl, logits, logits.roll(1, 0), temperature=heat.double())
    for i in range(4):
        part = slice(i, i + 1)
        one = column.run(
            rk.gather_logprobs, logits[part], targets[part], temperature=float(heat[i])
        )
        # fp32 temperatures of a tensor and their float64 values differ by one rounding.
        assert_near_truth(rows.logprobs[part], one.logprobs, floor=4e-6)
        alone = column.run(
            rk.exact_kl, logits[part], logits.roll(1, 0)[part], temperature=heat[part].double()
        )
        assert torch.equal(kl[part], alone)


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-9, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_never_gives_a_number(temperature, column):
    logits, targets = make_logits(2, 8), make_targets(2, 8)
    with pytest.raises(ValueError, match="'temperature' must be at least"):
        column.run(rk.gather_logprobs, logits, targets, temperature=temperature)
    rows = torch.tensor([1.0, temperature])
    ours = column.run(rk.gather_logprobs, logits, targets, temperature=rows)
    assert ours.logprobs[0].isfinite()
    assert ours.logprobs[1].isnan()
    kl = column.run(rk.exact_kl, logits, logits.flip(1), temperature=rows)
    assert kl.isnan().tolist() == [False, True]


@pytest.mark.parametrize("denominator", [0.0, -2.0, math.nan])
def test_a_denominator_that_is_not_positive_never_gives_a_number(denominator, column):
    batch = make_batch(8, 64)
    (loss, _), grad = column.differentiate(
        objective(), *batch, denominator=torch.tensor(denominator)
    )
    assert loss.isnan()
    assert grad[batch[4]].isnan().all()


@pytest.mark.parametrize("inplace", [False, True])
def test_micro_batches_add_up_to_one_batch(inplace, column):
    batch = make_batch(24, 500)
    terms = make_terms("all", batch[0], batch[1], batch[4])
    terms["denominator"] = batch[4].sum().double()
    terms["ptx_denominator"] = terms["ptx_mask"].sum().double()
    whole, grad = column.differentiate(objective(inplace), *batch, **terms)
    losses, grads = [], []
    for start in range(0, 24, 6):
        rows = slice(start, start + 6)
        cut = {
            k: v[rows] if isinstance(v, torch.Tensor) and v.ndim else v for k, v in terms.items()
        }
        part = column.differentiate(objective(inplace), *(t[rows] for t in batch), **cut)
        losses.append(part[0][0].double())
        grads.append(part[1])
    assert torch.equal(torch.cat(grads), grad)
    assert_near_truth(whole[0], sum(losses), floor=4e-6)


def test_clip_bounds_zero_advantage_and_large_ratios(column, cpu):
    # One class of two: log p = -log 2 for every row; old is chosen to place the ratio.
    logits, targets = torch.zeros(6, 2), torch.zeros(6, dtype=torch.long)
    ratio = torch.tensor([1.2, 0.8, 1.0, 50.0, 50.0, 1e30], dtype=torch.float64)
    old = (-math.log(2.0) - ratio.log()).float()
    a = torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0, -1.0])
    batch = (logits, targets, old, a, torch.ones(6, dtype=torch.bool))
    ours, grad = column.differentiate(objective(), *batch)
    host, host_grad = cpu.differentiate(objective(), *batch)
    torch.testing.assert_close(ours[0], host[0], rtol=1e-6, atol=0.0)
    torch.testing.assert_close(grad[2:], host_grad[2:], rtol=1e-5, atol=0.0)
    assert grad.isfinite().all()


@pytest.mark.parametrize("upstream", ["scalar", "expanded", "scaled by V"])
def test_upstream_gradients_of_every_form(upstream, column, cpu):
    logits, targets = make_logits(5, 300), make_targets(5, 300)
    weight = {
        "scalar": torch.tensor(2.5),
        "expanded": torch.tensor([-1.5]).expand(5),
        "scaled by V": 300 * torch.linspace(-1, 1, 5),
    }[upstream]
    grads = [
        column_.differentiate(rk.gather_logprobs, logits, targets, upstream=weight)[1]
        for column_ in (column, cpu)
    ]
    torch.testing.assert_close(*grads, rtol=2e-5, atol=1e-6 * float(weight.abs().max()))
    sums = grads[0].double().sum(-1)
    assert (sums.abs() <= 1e-5 * grads[0].abs().sum(-1)).all()


def test_one_missing_upstream_gradient_counts_as_zero(column):
    logits, targets = make_logits(5, 300), make_targets(5, 300)

    def entropy_first(x, t):
        out = rk.gather_logprobs(x, t)
        return out.entropy, out.logprobs

    only = column.differentiate(entropy_first, logits, targets, upstream=(torch.ones(5),))[1]
    both = column.differentiate(
        entropy_first, logits, targets, upstream=(torch.ones(5), torch.zeros(5))
    )[1]
    assert torch.equal(only, both)


def test_in_place_bumps_the_version_and_refuses_a_second_backward(column):
    batch = column.place(make_batch(4, 30))
    with column.on():
        leaf = batch[0].requires_grad_()
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


def test_no_rows_and_more_rows_than_65535(column):
    empty = column.run(rk.gather_logprobs, torch.zeros(0, 50257), torch.zeros(0).long())
    assert [t.shape for t in empty] == [(0,)] * 3
    (loss, _), grad = column.differentiate(objective(True), *make_batch(0, 50257))
    assert loss == 0
    assert grad.shape == (0, 50257)
    if column.kind == "emulated":
        return
    many = column.run(rk.gather_logprobs, torch.zeros(70_000, 3), torch.zeros(70_000).int())
    assert_near_truth(many.logprobs, torch.full((70_000,), -math.log(3), dtype=torch.float64))


def test_expanded_rows_are_right_and_other_layouts_are_refused(column):
    row, targets = make_logits(1, 100), make_targets(4, 100)
    expanded = column.run(rk.gather_logprobs, row.expand(4, 100), targets)
    assert_same_bits(expanded, column.run(rk.gather_logprobs, row.repeat(4, 1), targets))
    with pytest.raises(ValueError, match="'logits' must have its vocabulary consecutive"):
        column.run(rk.gather_logprobs, make_logits(100, 4).t(), targets)
    batch = make_batch(4, 8)
    with pytest.raises(ValueError, match="'logits' must not have overlapping"):
        column.run(
            lambda x, *rest: rk.ppo_loss_from_logits(x, *rest, cliprange=CLIP, inplace=True),
            *(batch[0][:1].expand(4, 8), *batch[1:]),
        )


def test_errors_name_the_argument(column):
    logits, targets, old, a, mask = batch = make_batch(4, 8)
    run = column.run
    for match, call in {
        "'targets' must have shape": lambda: run(rk.gather_logprobs, logits, targets[:3]),
        "'targets' must be int64": lambda: run(rk.gather_logprobs, logits, targets.float()),
        "'mask' must be bool": lambda: run(rk.gather_logprobs, logits, targets, mask=mask.int()),
        "'logits' is float64 on a CUDA": lambda: run(rk.gather_logprobs, logits.double(), targets),
        "'ref_logits' must be float32, got float16": lambda: run(
            rk.exact_kl, logits, logits.half()
        ),
        "'logits' is float64 on": lambda: run(rk.exact_kl, logits.double(), logits.double()),
        "'old_logprobs' must be float32, got": lambda: run(
            objective(), logits, targets, old.bfloat16(), a, mask
        ),
        "'advantages' must have shape": lambda: run(objective(), logits, targets, old, a[:2], mask),
        "'kl_coef' is not 0, so pass": lambda: run(objective(), *batch, kl_coef=0.1),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()
